"""Appends that wait a moment for others, so that a burst of them is one request.

Whoever comes first waits; what comes meanwhile goes with it. Records that say the same, hard or soft and of the same
scopes, become one: all of their changes are committed before it is appended, which is all that an invalidation needs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from unstale.core.ops import Appended
from unstale.core.record import Record
from unstale.errors import UnavailableError

Key: TypeAlias = tuple[tuple[str, ...], bool] | str


def said(record: Record) -> Key:
    """Give what a record says, if others may say the same for it; else its id."""
    plain = record.version is None and record.covers is None and not record.ack
    return (record.scopes, record.soft) if plain else record.id


class Burst:
    """Records that are appended together."""

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self.appended: dict[Key, int] = {}
        self.answer: Appended | None = None
        self.error: BaseException | None = None
        self.over = threading.Event()

    def add(self, records: tuple[Record, ...]) -> list[Key]:
        """Take records in: under what each will be found."""
        keys = [said(record) for record in records]
        for key, record in zip(keys, records, strict=True):
            self.records.setdefault(key, record)
        return keys

    def pick(self, keys: list[Key]) -> Appended:
        """Give the answer for some of them, or raise what appending raised."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None, "it is over"
        places = {key: number for number, key in enumerate(self.records)}
        return Appended(self.answer.identity, tuple(self.answer.records[places[key]] for key in keys))


class Linger:
    """Gathers appends of threads.

    Args:
        seconds: How long the first of a burst waits.
        append: Appends records at once.
    """

    def __init__(self, seconds: float, append: Callable[[tuple[Record, ...]], Appended]) -> None:
        self._seconds = seconds
        self._append = append
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child."""
        self._lock = threading.Lock()
        self._burst: Burst | None = None

    def append(self, records: tuple[Record, ...]) -> Appended:
        """Append records, together with what others append within a moment."""
        with self._lock:
            burst, first = self._burst, self._burst is None
            if burst is None:
                burst = self._burst = Burst()
            keys = burst.add(records)
        if not first:
            burst.over.wait()
            return burst.pick(keys)
        try:
            try:
                time.sleep(self._seconds)
            finally:
                with self._lock:
                    self._burst = None
            burst.answer = self._append(tuple(burst.records.values()))
        except Exception as error:
            burst.error = error
            raise
        except BaseException:  # Ctrl-C here is not Ctrl-C there: what waits repeats it
            burst.error = UnavailableError("what was to be appended together was interrupted", hint="it is repeated")
            raise
        finally:
            burst.over.set()
        return burst.pick(keys)


class LoopLinger:
    """Gathers appends of one event loop.

    Args:
        seconds: How long the first of a burst waits.
        append: Appends records at once.
    """

    def __init__(self, seconds: float, append: Callable[[tuple[Record, ...]], Awaitable[Appended]]) -> None:
        self._seconds = seconds
        self._append = append
        self._burst: Burst | None = None
        self._task: asyncio.Task[None] | None = None

    async def append(self, records: tuple[Record, ...]) -> Appended:
        """Append records, together with what others append within a moment."""
        burst = self._burst
        if burst is None or self._task is None:
            burst = self._burst = Burst()
            self._task = asyncio.get_running_loop().create_task(self._send(burst))
        task, keys = self._task, burst.add(records)
        await asyncio.shield(task)  # whoever is cancelled has appended all the same
        return burst.pick(keys)

    async def _send(self, burst: Burst) -> None:
        await asyncio.sleep(self._seconds)
        self._burst = None
        try:
            burst.answer = await self._append(tuple(burst.records.values()))
        except Exception as error:  # noqa: BLE001 - each of them raises it
            burst.error = error
