"""The conformance of a cache: reading, loading and ending what lies under keys given by hand."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any, NamedTuple

import msgspec

from unstale.core.write import Receipt
from unstale.errors import ScopeError, UsageError, ValueTypeError
from unstale.loading import observe
from unstale.testing.conformance.colours import raised
from unstale.testing.conformance.scene import CacheSuite, Scene, Shop, scenario

NOTHING = object()


@dataclasses.dataclass
class Product:
    """A value."""

    name: str
    price: float
    tags: list[str]


class Point(NamedTuple):
    """A value."""

    x: int
    y: int


class Row(msgspec.Struct):
    """A value."""

    id: int
    at: dt.datetime
    inner: Product | None = None


AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
VALUES: tuple[tuple[Any, Any], ...] = (
    (int, 0), (int, -(2**63)), (int, 2**64 - 1), (bool, True), (float, 1.0), (float, 0.1), (str, ""),
    (str, "k\u00e4se \u8336 \U0001f375\n"), (bytes, bytes(range(256))), (Any, None), (Any, [1, "1", True, 1.0, None]),
    (dict[str, list[int]], {"a": [1], "": []}), (tuple[int, str], (1, "x")), (set[str], {"a", "b"}), (dt.datetime, AT),
    (Product, Product("kettle", 39.5, ["a"])), (Point, Point(1, 2)), (Row, Row(1, AT, Product("x", 1.5, []))),
    (list[Row], [Row(1, AT)] * 3), (str | None, None), (str | None, "x"), (bytes, b"x" * 300_000),
)  # fmt: skip
KEYS = (
    "k", "k:1", "k:01", "K:1", "k:k\u00e4se", "k:ka\u0308se", "k:\u8336", "k:\U0001f375", "k: ", "k:a b", "k::",
    "k:a:b", "k:/..", "k:%", "k:_", "k:'", 'k:"', "k:\\", "k:{x}", "k:" + "x" * 1000, "\u8336", "k|1", "k:None",
)  # fmt: skip
UNFIT = ("", "a*", "a\n", "a\x00", "a\ud800", "x" * 1025, 7, None, b"k")


async def ended(shop: Shop, key: str, receipt: Receipt) -> bool:
    """Say whether a node that has applied an invalidation serves nothing under a key."""
    return await shop.get(key, NOTHING, after=receipt) is NOTHING


class KeyTests(CacheSuite):
    """Keys by hand."""

    @scenario
    async def test_nothing_is_there_at_first(self, scene: Scene) -> None:
        """A key under which nothing was cached gives the default, and never loads."""
        shop = scene.shop()
        assert await shop.get("product:1") is None
        assert await shop.get("product:1", NOTHING) is NOTHING

    @scenario
    async def test_values_come_back_equal_from_both_tiers(self, scene: Scene) -> None:
        """A value of any type comes back equal and of its class, from this node's memory and from the store."""
        here, there = scene.pair()
        for number, (kind, value) in enumerate(VALUES):
            key = f"value:{number}"
            await here.set(key, value, type=kind)
            for shop in (here, there, there):
                with observe() as reads:
                    found = await shop.get(key, NOTHING, type=kind)
                assert (type(found), found) == (type(value), value)
                assert reads[0].source in {"l1", "store"}

    @scenario
    async def test_h29_keys_are_compared_exactly(self, scene: Scene) -> None:
        """Keys that look alike, in whatever script, are keys of their own, on every node."""
        here, there = scene.pair()
        for number, key in enumerate(KEYS):
            await here.set(key, number)
        for shop in (here, there):
            found = [await shop.get(key) for key in KEYS]
            assert found == list(range(len(KEYS)))
        receipt = await here.invalidate("k:k\u00e4se")
        assert await ended(there, "k:k\u00e4se", receipt)
        assert await there.get("k:ka\u0308se", after=receipt) == KEYS.index("k:ka\u0308se")

    @scenario
    async def test_h29_unfit_keys_and_scopes_are_refused(self, scene: Scene) -> None:
        """What cannot be a key or a scope is an error that says what to write, and nothing is done."""
        shop = scene.shop()
        for unfit in UNFIT:
            for attempt in (
                shop.get(unfit),
                shop.set(unfit, 1),
                shop.delete(unfit),
                shop.invalidate("fit", unfit),
                shop.get_or_load("fit", scene.source().of("x"), tags=[unfit]),
            ):
                error = await raised(ScopeError, attempt)
                assert error.hint, unfit

    @scenario
    async def test_h29_two_types_under_one_key_do_not_mix(self, scene: Scene) -> None:
        """A read of another type than was written misses; an invalidation of the key ends both."""
        here, there = scene.pair()
        await here.get_or_load("k:1", scene.source(k=1).of("k"), type=int)
        await here.get_or_load("k:1", scene.source(k="one").of("k"), type=str)
        for shop in (there, here):
            assert await shop.get("k:1", type=int) == 1
            assert await shop.get("k:1", type=str) == "one"
            assert await shop.get("k:1", type=float) is None
        receipt = await here.invalidate("k:1")
        for kind in (int, str):
            assert await there.get("k:1", NOTHING, type=kind, after=receipt) is NOTHING
            assert await here.get("k:1", NOTHING, type=kind) is NOTHING

    @scenario
    async def test_a_value_that_would_change_is_refused(self, scene: Scene) -> None:
        """A value that the store would give back as something else is refused when it is cached."""
        shop = scene.shop()
        for value in ((1, 2), {1, 2}, object(), "\ud800"):
            error = await raised(ValueTypeError, shop.get_or_load("k:1", scene.source(k=value).of("k")))
            assert error.hint, value
        assert await shop.get("k:1", NOTHING) is NOTHING

    @scenario
    async def test_set_replaces_on_every_node(self, scene: Scene) -> None:
        """What is set replaces what other nodes hold in memory."""
        here, there = scene.pair()
        await here.set("k:1", "old")
        assert await there.get("k:1") == "old"
        await here.set("k:1", "new")
        assert await here.get("k:1") == "new"
        assert await there.get("k:1", after=await here.ticket()) == "new"

    @scenario
    async def test_delete_ends_on_every_node(self, scene: Scene) -> None:
        """What is deleted is gone from both tiers of every node; deleting nothing is no error."""
        here, there = scene.pair()
        await here.set("k:1", 1)
        assert await there.get("k:1") == 1
        receipt = await here.delete("k:1")
        assert receipt.scopes == ("k:1",)
        assert await ended(there, "k:1", receipt)
        assert await here.get("k:1", NOTHING) is NOTHING
        assert not (await here.explain("k:1")).stored
        await here.delete("k:1")

    @scenario
    async def test_a_miss_loads_once(self, scene: Scene) -> None:
        """What is missing is loaded once, then served from memory; other nodes have it from the store."""
        here, there = scene.pair()
        source = scene.source(kettle={"price": 39})
        with observe() as reads:
            for shop in (here, here, there, there):
                assert await shop.get_or_load("product:kettle", source.of("kettle")) == {"price": 39}
        assert [read.source for read in reads] == ["load", "l1", "store", "l1"]
        assert source.loads == ["kettle"]

    @scenario
    async def test_many_keys_are_loaded_by_one_call(self, scene: Scene) -> None:
        """One call of the loader gets all that is missing, each key once; what it leaves out is left out."""
        here, there = scene.pair()
        asked: list[list[str]] = []

        async def load(keys: list[str]) -> dict[str, str]:
            asked.append(list(keys))
            return {key: key.upper() for key in keys if key != "k:gone"}

        loader = scene.function(load)
        await here.set("k:b", "set")
        keys = ["k:c", "k:b", "k:a", "k:gone", "k:a"]
        found = await here.get_or_load_many(keys, loader)
        assert list(found.items()) == [("k:c", "K:C"), ("k:b", "set"), ("k:a", "K:A")]
        assert await here.get_or_load_many(keys[:3], loader) == found
        assert await there.get_or_load_many(iter(keys[:3]), loader) == found
        assert await there.get("k:a") == "K:A"
        assert await here.get_or_load_many([], loader) == {}
        assert asked == [["k:c", "k:a", "k:gone"]]

    @scenario
    async def test_many_keys_fail_together(self, scene: Scene) -> None:
        """When the loader of many keys raises, the caller gets that, and nothing is kept."""
        shop, source = scene.shop(), scene.source(a=1, b=2)
        source.errors["b"] = ZeroDivisionError("b")
        error = await raised(ZeroDivisionError, shop.get_or_load_many(["a", "b"], source.many()))
        assert error is source.errors.pop("b")
        assert await shop.get("a", NOTHING) is NOTHING
        assert await shop.get_or_load_many(["a", "b"], source.many()) == {"a": 1, "b": 2}

    @scenario
    async def test_a_loader_of_the_wrong_colour_is_refused(self, scene: Scene) -> None:
        """A blocking read refuses a coroutine function; an awaited one takes a plain function as well."""
        shop = scene.shop()

        async def load() -> int:
            return 1

        if shop.colour.prefix:
            assert await shop.get_or_load("k:1", load) == 1
        else:
            error = await raised(UsageError, shop.get_or_load("k:1", load))
            assert "aget_or_load" in error.hint
        assert await shop.get_or_load("k:2", lambda: 2) == 2
