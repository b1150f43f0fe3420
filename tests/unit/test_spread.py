from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from unstale import Cache
from unstale.core.ops import Fetched, Item
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.spread import SpreadStore
from unstale.errors import UnavailableError, UsageError

KEYS = tuple(f"shape|price:{number}" for number in range(3000))


def engine() -> MemoryEngine:
    """Give an engine of its own."""
    return MemoryEngine(MemoryServer(lambda: 0.0, "g"))


def spread(*names: str, pins: dict[str, str] | None = None) -> SpreadStore:
    """Give a store spread over engines of these names."""
    return SpreadStore(engine(), {name: engine() for name in names}, pins or {})


def places(store: SpreadStore) -> dict[str, str]:
    """Give the store of each key, by its name."""
    names = {id(one): name for name, one in store._stores.items()}
    return {key: names[id(store.place(key))] for key in KEYS}


def test_keys_are_spread_evenly() -> None:
    """Each of four stores has about a quarter of the keys."""
    counts = Counter(places(spread("a", "b", "c", "d")).values())
    assert all(650 < counts[name] < 850 for name in "abcd")


def test_few_keys_move_when_the_list_changes() -> None:
    """A store that goes gives its keys to the others, and one that comes takes some from each: no other moves."""
    three, four = places(spread("a", "b", "c")), places(spread("c", "a", "d", "b"))
    moved = [key for key in KEYS if three[key] != four[key]]
    assert all(four[key] == "d" for key in moved)
    assert 600 < len(moved) < 900


def test_pinned_keys_lie_where_they_are_pinned() -> None:
    """A key, or all that begin so; the first pattern that fits counts."""
    store = spread("a", "b", pins={"price:17": "a", "price:*": "b"})
    found = places(store)
    assert found.pop("shape|price:17") == "a"
    assert set(found.values()) == {"b"}


def test_it_is_one_store() -> None:
    """What is put is found, in the order asked for, and deleted, in both colours."""
    store = spread("a", "b", "c")
    store.store(tuple(Item(key, key.encode(), 60.0) for key in KEYS))
    found = store.fetch(("missing", *KEYS))
    assert [isinstance(one, Fetched) and one.data for one in found] == [False, *(key.encode() for key in KEYS)]
    sizes = [len(one.server.entries) for one in store._stores.values() if isinstance(one, MemoryEngine)]
    assert all(sizes)
    assert sum(sizes) == len(KEYS)

    async def again() -> None:
        assert await store.afetch(KEYS[:5]) == store.fetch(KEYS[:5])
        await store.adelete(KEYS[:2])
        await store.astore((Item(KEYS[0], b"new", 60.0),))
        assert [isinstance(one, Fetched) and one.data for one in await store.afetch(KEYS[:2])] == [b"new", False]

    asyncio.run(again())
    store.delete(KEYS)
    assert store.fetch(KEYS) == (None,) * len(KEYS)
    store.close()


def test_a_cache_spreads_its_entries(tmp_path: Path) -> None:
    """Entries lie in several stores, marks with the log: what was ended is not served, wherever it lies."""
    urls = [f"sqlite:///{tmp_path}/{name}.cache" for name in ("one", "two")]
    log = f"sqlite:///{tmp_path}/log.cache"
    with Cache(log, store=urls) as one, Cache(log, store=urls[::-1]) as two:
        assert one.ports.one_engine
        for number in range(20):
            one.set(f"price:{number}", number)
        assert [two.get(f"price:{number}") for number in range(20)] == list(range(20))
        two.invalidate("price", wait=True)
        assert [one.get(f"price:{number}") for number in range(20)] == [None] * 20
        assert [two.get(f"price:{number}") for number in range(20)] == [None] * 20

        async def later() -> Any:
            return await two.aget_or_load("price:1", lambda: 7)

        assert asyncio.run(later()) == 7
    with Cache(log, store=urls[:1]) as fewer:
        assert fewer.get("price:1") in {7, None}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"store": "memory://a"}, "a list of URLs"),
        ({"store": ["memory://a"], "pins": {"price:*": "memory://b"}}, "none of the stores"),
        ({"store": ["memory://a"], "pins": {"a*b": "memory://a"}}, "no key"),
        ({"pins": {"price:*": "memory://b"}}, "none of the stores"),
    ],
)
def test_what_cannot_be_spread_is_refused(arguments: dict[str, Any], problem: str) -> None:
    """With what to write instead, when the cache is made."""
    with pytest.raises(UsageError, match=problem):
        Cache("memory://", **arguments)


def out(*_what: Any) -> Any:
    """Answer nothing, as a store that is out."""
    raise UnavailableError("out")


def test_h26_a_store_that_is_out_takes_no_other_with_it() -> None:
    """What lies on other stores is found, put and deleted; the error of the one stands in place of what it holds."""
    lost = engine()
    for method in ("fetch", "store", "delete"):
        setattr(lost, method, out)
    store = SpreadStore(engine(), {"a": engine(), "b": lost, "c": engine()}, {"gone:*": "b"})
    items = tuple(Item(key, key.encode(), 60.0) for key in KEYS)
    mine = [store.place(key) is lost for key in KEYS]

    def check(found: tuple[object, ...], what: object) -> None:
        assert [isinstance(one, UnavailableError) for one in found] == mine
        assert [what if one is None else isinstance(one, Fetched) for one in found] == [
            not bad and what for bad in mine
        ]

    with pytest.raises(UnavailableError):
        store.store(items)
    check(store.fetch(KEYS), what=True)
    check(asyncio.run(store.afetch(KEYS)), what=True)
    with pytest.raises(UnavailableError):
        store.fetch(("shape|gone:1", "shape|gone:2"))
    with pytest.raises(UnavailableError):
        asyncio.run(store.afetch(("shape|gone:1",)))
    with pytest.raises(UnavailableError):
        store.delete(KEYS)
    check(store.fetch(KEYS), what=None)
    with pytest.raises(UnavailableError):
        asyncio.run(store.astore(items))
    check(store.fetch(KEYS), what=True)
    with pytest.raises(UnavailableError):
        asyncio.run(store.adelete(KEYS))
    check(store.fetch(KEYS), what=None)
    assert store.fetch(()) == ()
