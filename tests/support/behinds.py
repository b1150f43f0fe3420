"""Write-behinds for tests: a sink that notes what it is given, and a queue of each kind."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.waiting import until
from unstale import Cache
from unstale.behind import Write, WriteBehind


class Sink:
    """A sink that keeps what is newer, as the guide says, notes every batch, and fails where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Write]] = []
        self.rows: dict[str, Write] = {}
        self.fail: Callable[[list[Write]], BaseException | None] = lambda _writes: None
        self.fail_after: Callable[[list[Write]], BaseException | None] = lambda _writes: None
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()

    def __call__(self, writes: list[Write]) -> None:
        """Take a batch."""
        self.waiting.set()
        assert self.open.wait(60)
        self.batches.append(writes)
        if (error := self.fail(writes)) is not None:
            raise error
        for write in writes:
            if write.key not in self.rows or self.rows[write.key].version < write.version:
                self.rows[write.key] = write
        if (error := self.fail_after(writes)) is not None:
            raise error

    def values(self) -> dict[str, Any]:
        """Give what it holds."""
        return {key: write.value for key, write in self.rows.items()}

    def given(self, key: str) -> list[Write]:
        """Give all that it was given of a key."""
        return [write for batch in self.batches for write in batch if write.key == key]


def own_cache() -> Cache:
    """Give a cache that no other test knows; those of one name in one process are one."""
    return Cache("memory://", name=secrets.token_hex(4), on_trouble=lambda _what, _error: None)


@contextmanager
def behind(url: str, sink: Any, cache: Cache | None = None, **how: Any) -> Iterator[WriteBehind]:
    """Give a write-behind whose pauses are short; at the end it is not drained."""
    with own_cache() as own:
        settings: dict[str, Any] = {"type": int, "linger": "5ms", "pause": "1ms", "pause_max": "10ms"}
        made = WriteBehind(cache or own, sink, url, **(settings | how))
        try:
            yield made
        finally:
            if isinstance(sink, Sink):
                sink.open.set()
            made.close(drain=False)


def drained(made: WriteBehind) -> None:
    """Wait until nothing is queued."""
    until(lambda: made.drain("1s") == 0)
