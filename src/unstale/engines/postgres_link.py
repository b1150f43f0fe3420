"""Connections for blocking code: one for each call under way, kept for the next; and those that listen.

No connection is carried across a fork: it is forgotten in the child, where closing it would end the parent's (H23).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, TypeVar

from unstale.engines.postgres_errors import STALE, ServerError
from unstale.engines.postgres_home import Home
from unstale.engines.postgres_store import Ask, Steps
from unstale.engines.postgres_wire import BREAKS, Row, Statement, Wire
from unstale.errors import BusyError, EngineError

T = TypeVar("T")
IDLE_MAX: Final = 4  # connections that are kept for later
CONNECTIONS_MAX: Final = 16  # of one engine's threads: a server has a hundred for all, by default
MS: Final = 1000


class Ear:
    """A connection that hears of appends, and one thread's way to wait for them.

    Attributes:
        wire: The connection; None until it is needed, and after it broke.
    """

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.woken = False
        self._here, self._there = socket.socketpair()
        self._here.settimeout(0.0)
        self._there.settimeout(0.0)

    def wake(self) -> None:
        """End the wait that is under way, or the next one, from another thread."""
        self.woken = True
        with contextlib.suppress(OSError):  # there is a wake in it already, or it was closed
            self._there.send(b"w")

    def wait(self, seconds: float) -> None:
        """Wait for an append, a wake, or so long. What was heard while the log was read ends it at once.

        1. the log is read, without record 5 2. 5 is appended, and notified 3. we wait: the notification is on its way
        to this very connection, which has listened since before the log was read.
        """
        wire, until = self.wire, time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._here, select.POLLIN)
        try:
            while not self.woken and wire is not None and not wire.hears():
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return
                poll.register(wire.socket, select.POLLIN)
                poll.poll(left_s * MS)
                poll.unregister(wire.socket)
        except BREAKS:  # whoever asks the server next finds out by a new connection
            self.drop()

    def forget(self) -> None:
        """Forget what was heard: the log is read anew now."""
        if self.wire is not None:
            self.wire.forget_notices()

    def drop(self) -> None:
        """Close the connection."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()

    def disown(self) -> None:
        """Let go of it in a forked child: the connection is the parent's, and must not be closed here."""
        self.wire = None
        self.close()

    def close(self) -> None:
        """Close all."""
        self.drop()
        self._here.close()
        self._there.close()


class Link:
    """Makes the calls of one engine in threads.

    Args:
        home: The server.
        channel: On which appends are notified.
    """

    def __init__(self, home: Home, channel: str) -> None:
        self._home = home
        self._listen = Statement("listen", f"LISTEN {channel}")
        self._ears: deque[Ear] = deque()
        self._hearing: dict[str, Ear] = {}
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child: the connections are its parent's."""
        self._pid = os.getpid()
        self._idle: deque[Wire] = deque()
        for ear in (*self._ears, *self._hearing.values()):
            ear.disown()
        self._ears, self._hearing = deque(), {}
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self.closed = False

    def run(self, steps: Steps[T], ear: Ear | None = None) -> T:
        """Make the calls of a method; with an ear, on its connection, and also to a server that is known to be out.

        Raises:
            EngineError: One of them failed.
        """
        if os.getpid() != self._pid:
            self._home.reborn()
            self.reborn()
        moves = self._home.follow(steps, through=ear is not None)
        try:
            ask = next(moves)
            while True:
                try:
                    rows = self._ask(ask) if ear is None else self._ask_by(ear, ask)
                except (ServerError, EngineError) as error:
                    ask = moves.throw(error)
                else:
                    ask = moves.send(rows)
        except StopIteration as done:
            answer: T = done.value
            return answer

    def _ask(self, ask: Ask) -> list[Row]:
        """Ask the server. A connection that was kept may have died meanwhile: then once more, by a new one.

        That is harmless: nothing that is asked does anything else when it is done twice.
        """
        if not self._free.acquire(timeout=self._home.url.timeout_s):
            msg = f"all {CONNECTIONS_MAX} connections to {self._home.url.place} are in use"
            raise BusyError(msg, hint="the server is slow, or too many threads use one cache at once")
        try:
            while True:
                wire: Wire | None = None
                kept = False
                try:
                    with contextlib.suppress(IndexError):
                        wire = self._idle.pop()
                    wire = wire or self._home.connected()
                    kept = wire.used
                    rows = wire.ask(ask.statement, ask.params)
                except ServerError as error:
                    if wire is None or not self._again(wire, error):
                        raise
                except BREAKS as error:
                    if wire is not None and isinstance(error, TimeoutError):
                        wire.abandon()
                    self._drop(wire)
                    if not kept or isinstance(error, TimeoutError) or self.closed:
                        raise self._home.lost(error) from error
                except BaseException:  # interrupted: its answer may still come
                    if wire is not None:
                        wire.abandon()
                    raise
                else:
                    self._give_back(wire)
                    return rows
        finally:
            self._free.release()

    def _again(self, wire: Wire, error: ServerError) -> bool:
        """Deal with a connection whose server answered with an error: say whether to ask again, by another one."""
        kept = wire.used
        if error.broken or error.code in STALE:
            self._drop(wire)
            return kept and not self.closed
        self._give_back(wire)
        return False

    def _ask_by(self, ear: Ear, ask: Ask) -> list[Row]:
        while True:
            kept = ear.wire is not None
            try:
                if ear.wire is None:
                    ear.wire = self._home.connected()
                    ear.wire.ask(self._listen, ())
                return ear.wire.ask(ask.statement, ask.params)
            except ServerError as error:
                if error.broken or error.code in STALE:
                    ear.drop()
                    if kept:
                        continue
                raise
            except BREAKS as error:
                ear.drop()
                if not kept or isinstance(error, TimeoutError) or self.closed:
                    raise self._home.lost(error) from error
            except BaseException:
                ear.drop()
                raise

    @contextlib.contextmanager
    def hearing(self, node: str) -> Iterator[Ear]:
        """Give an ear for the poll of a node."""
        pid = os.getpid()
        if pid != self._pid:
            self._home.reborn()
            self.reborn()
        ear = self._ears.pop() if self._ears else Ear()
        self._hearing[node] = ear
        try:
            yield ear
        finally:
            if self._hearing.get(node) is ear:
                del self._hearing[node]
            if os.getpid() == pid:
                if self.closed or ear.woken or len(self._ears) >= IDLE_MAX:
                    ear.close()
                else:
                    self._ears.append(ear)

    def end_poll(self, node: str) -> None:
        """End the poll of a node that is under way."""
        ear = self._hearing.get(node)
        if ear is not None:
            ear.wake()

    def _give_back(self, wire: Wire) -> None:
        if self.closed or len(self._idle) >= IDLE_MAX:
            wire.close()
        else:
            self._idle.append(wire)

    def _drop(self, wire: Wire | None = None) -> None:
        """Close all idle connections: if one has died, so have the others."""
        if wire is not None:
            wire.close()
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def close(self) -> None:
        """Close all connections. Idempotent; a poll that is under way ends, and closes its own."""
        self.closed = True
        self._drop()
        while self._ears:
            with contextlib.suppress(IndexError):
                self._ears.pop().close()
        for ear in list(self._hearing.values()):
            ear.wake()
