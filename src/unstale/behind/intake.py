"""Puts of many threads and tasks, which share one commit: a thread makes durable what came while it did the last.

1. A put hands its writes to the thread, and waits. 2. The thread commits all that has come by then, in the order in
which it came. 3. It tells the nodes that the keys have changed, and only then acknowledges: a reader that sees the
acknowledgement and loads anew finds the write in the queue, and no node goes on serving what was there before.

H2  the process dies between the commit and the telling: nothing was acknowledged, the write is in the queue, and the
    nodes are told when it has been flushed.

A call of unknown outcome is repeated as the same call, before anything else is put: so nothing is queued twice, and
nothing of one process overtakes it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from unstale.behind.writes import Items, Queue, Queued
from unstale.core.record import Stamp
from unstale.errors import BusyError, ClosedError, QueueFullError, UnavailableError

ITEMS_MAX: Final = 5000  # of one commit; a single larger put has one of its own
ROOM_PAUSE_S: Final = 0.01
RETRY_S: Final = 0.05
Tell = Callable[[Sequence[str]], Stamp | None]


class Request:
    """One put on its way.

    Args:
        items: Keys and encoded values.
        until: When it gives up, by the monotonic clock.
    """

    __slots__ = ("future", "items", "until")

    def __init__(self, items: Items, until: float) -> None:
        self.items = items
        self.until = until
        self.future: Future[list[Queued]] = Future()


class Intake:
    """Takes puts, and makes them durable in groups.

    Args:
        queue: The queue.
        tell: Tells the nodes that keys have changed.
    """

    def __init__(self, queue: Queue, tell: Tell) -> None:
        self._queue = queue
        self._tell = tell
        self._reborn()

    def _reborn(self) -> None:
        """Start anew in a forked child: the thread is the parent's, and what it was given too (H23)."""
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._requests: deque[Request] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._call = 0

    def submit(self, items: Items, timeout_s: float) -> Future[list[Queued]]:
        """Hand writes over: the future of their acknowledgement.

        Raises:
            ClosedError: It was closed.
        """
        if self._pid != os.getpid():
            self._reborn()
        request = Request(items, time.monotonic() + timeout_s)
        request.future.set_running_or_notify_cancel()  # who gives up waiting takes back nothing of a group of others
        with self._changed:
            if self._closed:
                raise ClosedError("the write-behind is closed", hint="put before it is closed")
            self._requests.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="unstale: write-behind intake", daemon=True)
                self._thread.start()
            self._changed.notify()
        return request.future

    def close(self, timeout_s: float) -> None:
        """Take no more, and wait until what came is acknowledged or refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _work(self) -> None:
        crowded: list[Request] = []
        while True:
            with self._changed:
                if not self._requests:
                    if self._closed and not crowded:
                        return
                    self._changed.wait(ROOM_PAUSE_S if crowded else None)
                group = self._group(crowded)
            if group:
                crowded = self._put(group)

    def _group(self, crowded: list[Request]) -> list[Request]:
        """Give what goes into one commit: those that wait for room come first."""
        group, size = crowded, sum(len(request.items) for request in crowded)
        while self._requests and (not group or size + len(self._requests[0].items) <= ITEMS_MAX):
            request = self._requests.popleft()
            group.append(request)
            size += len(request.items)
        return group

    def _put(self, group: list[Request]) -> list[Request]:
        """Put a group: those for which there was no room, and which still have time."""
        self._call += 1
        try:
            answers = self._until_known(group)
        except Exception as error:  # noqa: BLE001 - it is the callers' to deal with
            for request in group:
                request.future.set_exception(error)
            return []
        fits = [(request, versions) for request, versions in zip(group, answers, strict=True) if versions is not None]
        self._acknowledge(fits)
        now = time.monotonic()
        crowded = [request for request, versions in zip(group, answers, strict=True) if versions is None]
        for request in crowded:
            if request.until <= now:
                msg = f"{self._queue.place} is full: nothing of this put was queued"
                hint = "does the sink keep up? see `unstale behind status`; raise max_queued or timeout, or put less"
                request.future.set_exception(QueueFullError(msg, hint=hint))
        return [request for request in crowded if request.until > now]

    def _until_known(self, group: list[Request]) -> list[list[int] | None]:
        until = max(request.until for request in group)
        groups = [request.items for request in group]
        while True:
            try:
                return self._queue.put(groups, self._call)
            except (UnavailableError, BusyError) as error:
                if time.monotonic() > until:
                    raise error.with_traceback(None) from None
            time.sleep(RETRY_S)

    def _acknowledge(self, fits: list[tuple[Request, list[int]]]) -> None:
        keys = list(dict.fromkeys(key for request, _versions in fits for key, _data in request.items))
        ticket: Stamp | None = None
        failure: Exception | None = None
        try:
            if keys:
                ticket = self._tell(keys)
        except Exception as error:  # noqa: BLE001 - it is the callers' to deal with, and this thread goes on
            failure = error
        for request, versions in fits:
            if failure is not None:
                request.future.set_exception(failure)
                continue
            found = zip(request.items, versions, strict=True)
            id_of = self._queue.id_of
            request.future.set_result([Queued(key, version, id_of(version), ticket) for (key, _), version in found])
