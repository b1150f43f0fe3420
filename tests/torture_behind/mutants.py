"""The defences of the write-behind, and how each is taken out of a process: then the checker has to complain."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from unstale.behind.flusher import Flusher
from unstale.behind.queue_redis import RedisQueue
from unstale.behind.queue_sqlite import SqliteQueue
from unstale.behind.writes import Items, Row, Write
from unstale.errors import EngineError

LATE_S = 0.1


class Mutant(NamedTuple):
    """A defence.

    Attributes:
        without: What is done without it.
        take_out: Takes it out of this process.
    """

    without: str
    take_out: Callable[[], None]


def _acknowledge_early() -> None:
    for kind in (SqliteQueue, RedisQueue):
        _put_late(kind)


def _put_late(kind: type[SqliteQueue | RedisQueue]) -> None:
    put = kind.put

    def late(self: SqliteQueue | RedisQueue, groups: Sequence[Items], call: int) -> list[list[int] | None]:
        kept = [list(items) for items in groups]

        def really() -> None:
            with contextlib.suppress(EngineError):
                put(self, kept, call)  # type: ignore[arg-type]

        threading.Timer(LATE_S, really).start()
        return [[time.time_ns() // 1000] * len(items) for items in groups]

    kind.put = late  # type: ignore[method-assign]


def _remove_first() -> None:
    hand_over = Flusher._hand_over

    def removed(self: Flusher, writes: list[Write]) -> None:
        held = dict(getattr(self._queue, "_held", {}))
        self._queue.done(self._token, [Row(write.key, b"", write.version) for write in writes])
        if isinstance(self._queue, RedisQueue):
            self._queue._held.update(held)  # it removes them once more
        hand_over(self, writes)

    Flusher._hand_over = removed  # type: ignore[method-assign]


MUTANTS: Final = {
    "durability": Mutant("a put is acknowledged before it is durable", _acknowledge_early),
    "order": Mutant("the flusher removes writes before the sink has them", _remove_first),
    "version": Mutant("the sink takes what is not newer", lambda: None),  # the role leaves it out
}
