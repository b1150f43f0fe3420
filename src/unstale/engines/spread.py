"""Entries spread over several stores, without a cluster; marks and locks stay with the log.

Rendezvous hashing (Thaler, Ravishankar: "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998): a key
lies in the store that scores highest with it, so when the list changes only the keys of a store that went, or those
that a new one wins, move: one in n. What lies at the old place is not looked for there any more, and what is found is
judged by its stamp as ever: nothing is trusted for where it lies.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeVar, cast

from unstale.core.marks import Mark
from unstale.core.ops import Fetched, Item, MarksReply
from unstale.engines.ports import Guarantees, LogPort, Ports, StorePort
from unstale.errors import EngineError, UsageError

T = TypeVar("T")
EXAMPLE: Final = 'write store=["redis://a", "redis://b"], pins={"price:*": "redis://a"}'


class SpreadStore:
    """Several stores as one.

    Args:
        marks: The engine of the log, which also keeps the marks.
        stores: The stores of the entries, by URL.
        pins: Patterns of keys, and the store on which all such keys lie: a key, or its begin and `*`.
    """

    def __init__(self, marks: StorePort, stores: Mapping[str, StorePort], pins: Mapping[str, str]) -> None:
        self.marks = marks
        self._stores = dict(stores)
        self._seeds = [(blake2b(url.encode(), digest_size=16).digest(), store) for url, store in stores.items()]
        self._pins = {pattern: stores[url] for pattern, url in pins.items()}
        own = frozenset({"fetch", "store", "delete"})
        of = marks.guarantees
        self.guarantees: Guarantees = dataclasses.replace(of, quick=of.quick - own, native=of.native | own)

    def place(self, stored_key: str) -> StorePort:
        """Give the store of a key."""
        if self._pins:
            key = stored_key.partition("|")[2]
            for pattern, store in self._pins.items():
                if key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern:
                    return store
        data = stored_key.encode()
        return max(self._seeds, key=lambda one: blake2b(data, digest_size=8, key=one[0]).digest())[1]

    def _shared_out(self, things: Sequence[T], key: Callable[[T], str]) -> list[tuple[StorePort, list[int]]]:
        """Give the stores, and which of the things belong to each."""
        shares: dict[int, tuple[StorePort, list[int]]] = {}
        for number, thing in enumerate(things):
            store = self.place(key(thing))
            shares.setdefault(id(store), (store, []))[1].append(number)
        return list(shares.values())

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | EngineError | None, ...]:
        """See `StorePort.fetch`."""
        shares = self._shared_out(keys, str)
        return _joined(shares, [_tried(store.fetch, tuple(keys[n] for n in numbers)) for store, numbers in shares])

    def store(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        shares = self._shared_out(items, lambda item: item.key)
        _all_done([_tried(store.store, tuple(items[n] for n in numbers)) for store, numbers in shares])

    def delete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        shares = self._shared_out(keys, str)
        _all_done([_tried(store.delete, tuple(keys[n] for n in numbers)) for store, numbers in shares])

    async def afetch(self, keys: tuple[str, ...]) -> tuple[Fetched | EngineError | None, ...]:
        """See `StorePort.fetch`."""
        shares = self._shared_out(keys, str)
        return _joined(
            shares, [await _call(store, "fetch", tuple(keys[n] for n in numbers)) for store, numbers in shares]
        )

    async def astore(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        shares = self._shared_out(items, lambda item: item.key)
        _all_done([await _call(store, "store", tuple(items[n] for n in numbers)) for store, numbers in shares])

    async def adelete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        shares = self._shared_out(keys, str)
        _all_done([await _call(store, "delete", tuple(keys[n] for n in numbers)) for store, numbers in shares])

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return self.marks.read_marks(scopes)

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        self.marks.extend_marks(generation, start, upto, marks)

    def lock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`."""
        return self.marks.lock(key, ttl_s)

    def unlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        self.marks.unlock(key, token)

    def __getattr__(self, name: str) -> Any:
        """Give the twins of these, to be awaited: they are those of the log's engine."""
        if name in {"aread_marks", "aextend_marks", "alock", "aunlock"}:
            return getattr(self.marks, name)
        raise AttributeError(name)

    def tell_troubles_to(self, on_trouble: Callable[[str, BaseException], None]) -> None:
        """Say who is told of what the stores notice."""
        for store in self._stores.values():
            Ports(store, cast("LogPort", store)).tell_troubles_to(on_trouble)

    def reborn(self) -> None:
        """Let the stores start anew in a forked child."""
        for store in self._stores.values():
            Ports(store, cast("LogPort", store)).reborn()

    def close(self) -> None:
        """Close the stores; the log's engine is closed by the cache."""
        for store in self._stores.values():
            if store is not self.marks:
                store.close()


def _tried(call: Callable[[Any], Any], things: Any) -> Any:
    """Call one store: what it answers, or its error, which is none of the others'."""
    try:
        return call(things)
    except EngineError as error:
        return error


async def _call(store: StorePort, method: str, things: Any) -> Any:
    """Call one store, as an event loop may: what it answers, or its error, which is none of the others'."""
    try:
        if method in store.guarantees.native:
            return await getattr(store, f"a{method}")(things)
        return await asyncio.to_thread(getattr(store, method), things)
    except EngineError as error:
        return error


def _all_done(answers: Sequence[object]) -> None:
    """Raise the first error, now that every store has been told."""
    for answer in answers:
        if isinstance(answer, EngineError):
            raise answer


def _joined(
    shares: Sequence[tuple[StorePort, list[int]]], answers: Sequence[Any]
) -> tuple[Fetched | EngineError | None, ...]:
    """Give what was found in the order asked for, with the errors of stores in place of what they hold.

    Raises:
        EngineError: There is nothing but errors.
    """
    if all(isinstance(answer, EngineError) for answer in answers):
        _all_done(answers)
    found: dict[int, Fetched | EngineError | None] = {}
    for (_store, numbers), answer in zip(shares, answers, strict=True):
        found.update(zip(numbers, [answer] * len(numbers) if isinstance(answer, EngineError) else answer, strict=True))
    return tuple(found[number] for number in range(len(found)))


def check_pins(pins: Mapping[str, str], urls: Sequence[str]) -> None:
    """Refuse pins to nowhere.

    Raises:
        UsageError: A pin names a store that is not on the list, or no pattern.
    """
    for pattern, url in pins.items():
        if url not in urls:
            raise UsageError(f"{pattern!r} is pinned to {url!r}, which is none of the stores", hint=EXAMPLE)
        if not pattern or "*" in pattern[:-1]:
            raise UsageError(f"{pattern!r} is no key, nor the begin of keys and a *", hint=EXAMPLE)
