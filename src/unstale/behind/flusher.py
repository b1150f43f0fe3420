"""The flusher: one thread of all processes that share a queue hands its writes to the sink, and removes what it took.

A round is take, sink, tell, remove, in this order:

1. The rows stay in the queue while the sink has them: killed at any moment, the next flusher hands them over again.
2. The sink commits. A reader that still finds the row in the queue sees the same value as in the database.
3. The nodes are told (H1: after the commit is visible). A view that was loaded from the database while the write was
   queued shows the old row; no record but this one ends it. So does a load whose transaction began before the commit.
4. The rows are removed. Killed between 3 and 4, 1 applies. Were they removed first, and the flusher killed before it
   told, nobody would ever tell (H2): so while the log of the cache is away, nothing leaves the queue.

A reader asks the queue first and the database then. Removed in between, it finds the value in the database. The other
way round, it would read the old row, then find the queue empty, and nothing would ever end what it has cached.

What fails. A batch that fails is halved until one write stands alone. One that fails alone rests, a little longer each
time, and the others go on without it. It is put aside after `tries` failures, if the sink took another write since the
first of them. A sink that takes nothing is out, and an outage fills no dead letters.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from unstale.behind.intake import Tell
from unstale.behind.writes import DeposedError, Queue, Row, Write
from unstale.core.codec import Codec
from unstale.errors import UsageError, WriteRefusedError

Sink = Callable[[list[Write]], Awaitable[None] | None]
LOOK_S: Final = 0.2  # how often one that does not lead tries to
ERROR_CHARS_MAX: Final = 500


class Settings(msgspec.Struct, frozen=True):
    """How a flusher works.

    Attributes:
        batch: Writes handed over at once, at most.
        linger_s: How long it waits for more when the last batch was not full, in seconds.
        tries: A write that failed alone so often is put aside.
        pause_s: The first pause after a failure, in seconds; each further one is twice as long.
        pause_max_s: The longest.
        loop: Where a sink that has to be awaited runs; None: in a loop of the flusher's own.
    """

    batch: int
    linger_s: float
    tries: int
    pause_s: float
    pause_max_s: float
    loop: asyncio.AbstractEventLoop | None


class Resting(msgspec.Struct):
    """A write that failed alone: which, until when it rests, and how many writes the sink had taken by its first."""

    version: int
    until: float
    taken_before: int


class Flusher:
    """Flushes one queue while it leads.

    Args:
        queue: The queue.
        sink: Takes a batch.
        codec: Decodes values.
        tell: Tells the nodes that keys have changed.
        settings: How it works.
        on_trouble: Is told what fails.
    """

    def __init__(  # noqa: PLR0917 - what a thread is made of
        self,
        queue: Queue,
        sink: Sink,
        codec: Codec,
        tell: Tell,
        settings: Settings,
        on_trouble: Callable[[str, BaseException], None],
    ) -> None:
        self._queue, self._sink, self._codec, self._tell = queue, sink, codec, tell
        self._settings, self._on_trouble = settings, on_trouble
        self._stop, self.hurry = threading.Event(), threading.Event()
        self._token = 0
        self._size = settings.batch
        self._resting: dict[str, Resting] = {}
        self._untold: set[str] = set()  # keys whose write was put aside, and nobody knows yet
        self._failures = 0  # one after the other, without anything taken between
        self.taken = 0
        self._runner: asyncio.Runner | None = None
        self._thread = threading.Thread(target=self._work, name="unstale: write-behind flusher", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop after the batch in hand: did it end in time?"""
        self._stop.set()
        self.hurry.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._queue.lease_s is not None:
            threading.Thread(target=self._renew, name="unstale: write-behind lease", daemon=True).start()
        try:
            while not self._stop.is_set():
                self._turn()
        finally:  # however it ends, another one may lead
            token, self._token = self._token, 0
            if token:
                self._queue.resign(token)
            if self._runner is not None:
                self._runner.close()

    def _turn(self) -> None:
        try:
            if self._token or self._lead():
                self._round()
            else:
                self._stop.wait(LOOK_S)
        except DeposedError:
            self._token = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, what is queued is still queued
            self._on_trouble("flush", error)
            self._rest()

    def _renew(self) -> None:
        """Renew the lead while the sink takes its time; a process that is stopped renews nothing."""
        assert self._queue.lease_s is not None
        while not self._stop.wait(self._queue.lease_s / 3):
            try:
                if self._token and not self._queue.renew(self._token):
                    self._token = 0
            except Exception as error:  # noqa: BLE001 - the lead lapses, which the queue sees to
                self._on_trouble("lead", error)

    def _lead(self) -> bool:
        """Take the lead, and tell of the dead: the last leader may have died between putting aside and telling."""
        self._token = self._queue.lead()
        if self._token:
            self._size, self._resting = self._settings.batch, {}
            self._untold.update(one.key for one in self._queue.dead())
        return bool(self._token)

    def _round(self) -> None:
        if self._untold:
            self._tell(list(self._untold))
            self._untold.clear()
        now = time.monotonic()
        rows = self._queue.take(self._token, self._size, {key for key, one in self._resting.items() if one.until > now})
        if rows:
            self._flush(rows)
        if len(rows) < self._size:
            self.hurry.wait(self._settings.linger_s)
            if not self._stop.is_set():
                self.hurry.clear()

    def _flush(self, rows: list[Row]) -> None:
        writes, rows = self._read(rows)
        if not writes:
            return
        try:
            self._hand_over(writes)
        except WriteRefusedError as error:
            refused = set(error.fields["keys"])  # type: ignore[call-overload]  # its constructor made it a tuple
            self._bury([(row, error.message) for row in rows if row.key in refused])
            if not refused & {row.key for row in rows}:
                self._failed(rows, error)
        except BaseException as error:  # noqa: BLE001 - a sink may raise anything, also that its task was cancelled
            self._failed(rows, error)
        else:
            self.taken += len(rows)
            self._failures = 0
            self._size = min(self._size * 2, self._settings.batch)
            self._finish(rows)

    def _read(self, rows: list[Row]) -> tuple[list[Write], list[Row]]:
        """Decode rows; what cannot be decoded is put aside, for no sink could be given it."""
        writes, read, unread = [], [], []
        for row in rows:
            try:
                value = self._codec.decode(row.data)
            except ValueError as error:
                unread.append((row, f"it cannot be decoded: {error}"))
            else:
                writes.append(Write(row.key, value, row.version, self._queue.id_of(row.version)))
                read.append(row)
        if unread:
            self._bury(unread)
        return writes, read

    def _hand_over(self, writes: list[Write]) -> None:
        awaitable = self._sink(writes)
        if not inspect.isawaitable(awaitable):
            return
        if self._settings.loop is not None:
            asyncio.run_coroutine_threadsafe(awaited(awaitable), self._settings.loop).result()
            return
        if self._runner is None:
            self._runner = asyncio.Runner()
        self._runner.run(awaited(awaitable))

    def _finish(self, rows: Sequence[Row]) -> None:
        """Tell, then remove. The sink has them: as long as this process lives, it is not given them again."""
        told = False
        while True:
            try:
                if not told:
                    self._tell([row.key for row in rows])
                    told = True
                self._queue.done(self._token, rows)
            except DeposedError:
                raise
            except Exception as error:  # noqa: BLE001 - the log or the queue is away
                self._on_trouble("flushed", error)
                if self._rest():
                    return
            else:
                for row in rows:
                    self._resting.pop(row.key, None)
                return

    def _failed(self, rows: list[Row], error: BaseException) -> None:
        self._on_trouble("sink", error)
        if len(rows) > 1:
            self._size = len(rows) // 2
            self._stop.wait(self._settings.pause_s * random.random())
            return
        (row,) = rows
        tries = self._queue.failed(self._token, row)
        before = self._resting.get(row.key)
        if before is None or before.version != row.version:
            before = self._resting[row.key] = Resting(row.version, 0.0, self.taken)
        if tries >= self._settings.tries and self.taken > before.taken_before:
            self._bury([(msgspec.structs.replace(row, tries=tries), describe(error))])
        else:
            before.until = time.monotonic() + self._pause(tries)
            self._rest()

    def _bury(self, rows: list[tuple[Row, str]]) -> None:
        """Put writes aside; the next round tells: readers have seen their values, and no longer find them."""
        if rows:
            self._untold.update(row.key for row, _error in rows)  # before: the answer may be lost
            self._queue.bury(self._token, rows)
            for row, _error in rows:
                self._resting.pop(row.key, None)

    def _rest(self) -> bool:
        """Pause, longer after each failure in a row: is it time to stop?"""
        self._failures += 1
        return self._stop.wait(self._pause(self._failures))

    def _pause(self, failures: int) -> float:
        """Give a pause that doubles with every failure, between half of it and all of it by chance."""
        longest = min(self._settings.pause_s * 2.0 ** min(failures - 1, 30), self._settings.pause_max_s)
        return longest * (0.5 + random.random() / 2)


async def awaited(awaitable: Awaitable[Any]) -> None:
    """Wait for what a sink returned."""
    await awaitable


def describe(error: BaseException) -> str:
    """Say what a sink raised, for those who look at what was put aside."""
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]


def check_sink(sink: object) -> Sink:
    """Refuse what cannot be a sink.

    Raises:
        UsageError: It cannot be called.
    """
    if not callable(sink):
        msg = f"the sink is {type(sink).__qualname__}, not a function"
        raise UsageError(msg, hint="pass a function that takes a list of writes: def save(writes): ...")
    return sink
