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
from unstale.errors import UsageError

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

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        found: list[Fetched | None] = [None] * len(keys)
        for store, numbers in self._shared_out(keys, str):
            for number, one in zip(numbers, store.fetch(tuple(keys[n] for n in numbers)), strict=True):
                found[number] = one
        return tuple(found)

    def store(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        for store, numbers in self._shared_out(items, lambda item: item.key):
            store.store(tuple(items[n] for n in numbers))

    def delete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        for store, numbers in self._shared_out(keys, str):
            store.delete(tuple(keys[n] for n in numbers))

    async def afetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        found: list[Fetched | None] = [None] * len(keys)
        for store, numbers in self._shared_out(keys, str):
            answer = await _call(store, "fetch", tuple(keys[n] for n in numbers))
            for number, one in zip(numbers, answer, strict=True):
                found[number] = one
        return tuple(found)

    async def astore(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        for store, numbers in self._shared_out(items, lambda item: item.key):
            await _call(store, "store", tuple(items[n] for n in numbers))

    async def adelete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        for store, numbers in self._shared_out(keys, str):
            await _call(store, "delete", tuple(keys[n] for n in numbers))

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


async def _call(store: StorePort, method: str, *args: Any) -> Any:
    """Call one store, as an event loop may."""
    if method in store.guarantees.native:
        return await getattr(store, f"a{method}")(*args)
    return await asyncio.to_thread(getattr(store, method), *args)


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
