"""The conformance of a cache: what befalls a load under way, and who may have its result."""

from __future__ import annotations

from typing import Any

from unstale.errors import ReentrantLoadError
from unstale.loading import observe, tag
from unstale.testing.conformance.cache_keys import NOTHING
from unstale.testing.conformance.colours import raised, settled
from unstale.testing.conformance.scene import CacheSuite, Scene, scenario


class KilledError(BaseException):
    """What no loader should catch."""


class FlightTests(CacheSuite):
    """Loads under way."""

    @scenario
    async def test_failures_are_raised_as_they_are(self, scene: Scene) -> None:
        """A failure that no policy names reaches the caller as it is, and is not remembered."""
        shop, source = scene.shop(), scene.source(k=1)
        source.errors["k"] = LookupError("x", 1)
        for _ in range(2):
            assert await raised(LookupError, shop.get_or_load("k:1", source.of("k"))) is source.errors["k"]
        del source.errors["k"]
        assert await shop.get_or_load("k:1", source.of("k")) == 1

    @scenario
    async def test_h24_who_waits_for_a_load_that_dies_takes_over(self, scene: Scene) -> None:
        """A loader that is killed or cancelled strands nobody: one of those who wait loads in its place."""
        shop, source = scene.shop(), scene.source(k="x")

        async def load() -> Any:
            first = not source.loads
            row = await source.read("k")
            if first:
                source.opened = False
                raise KilledError
            return row

        source.opened = False
        leader = scene.start(shop.get_or_load("k:1", scene.function(load)))
        await scene.until(lambda: source.loads)
        others = [scene.start(shop.get_or_load("k:1", scene.function(load))) for _ in range(3)]
        await scene.until(lambda: shop.waiters == 3)
        source.opened = True
        await raised(KilledError, leader())
        await scene.until(lambda: len(source.loads) == 2 and shop.waiters == 2)
        source.opened = True
        assert [await finish() for finish in others] == ["x"] * 3
        assert source.loads == ["k"] * 2

    @scenario
    async def test_h24_a_load_that_needs_itself_is_refused(self, scene: Scene) -> None:
        """A loader that asks for its own key gets an error, not a deadlock, however long the way round is."""
        shop = scene.shop()

        @shop.cached("a:{x}")
        async def one(x: int) -> int:
            found: int = await settled(two(x))
            return found

        @shop.cached("b:{x}")
        async def two(x: int) -> int:
            found: int = await settled(one(x))
            return found

        async def call() -> None:
            await settled(one(1))

        assert (await raised(ReentrantLoadError, call())).fields["key"] == "a:1"

    @scenario
    async def test_h25_readers_share_a_load(self, scene: Scene) -> None:
        """While a key is loaded, others who want it wait for that load, be it a value or a failure."""
        shop, source = scene.shop(), scene.source(k="x", bad=None)
        source.errors["bad"] = ZeroDivisionError()
        for key, failing in (("k", False), ("bad", True)):
            source.loads.clear()
            source.opened = False
            with observe() as reads:
                readers = [scene.start(shop.get_or_load("k:" + key, source.of(key))) for _ in range(5)]
                await scene.until(lambda: shop.waiters == 4)
            source.opened = True
            for finish in readers:
                if failing:
                    await raised(ZeroDivisionError, finish())
                else:
                    assert await finish() == "x"
            assert source.loads == [key]
            if not failing:
                assert sorted(read.source for read in reads) == ["flight"] * 4 + ["load"]

    @scenario
    async def test_h05_who_comes_after_an_invalidation_loads_anew(self, scene: Scene) -> None:
        """A load that began before an invalidation is no use to who comes after it, and its result is not kept."""
        here, there = scene.pair()
        source = scene.source(k="old")
        source.opened = False
        early = scene.start(here.get_or_load("k:1", source.of("k")))
        await scene.until(lambda: source.loads)
        source.rows["k"] = "new"
        await here.invalidate("k:1")
        late = scene.start(here.get_or_load("k:1", source.of("k")))
        await scene.until(lambda: len(source.loads) == 2)
        source.opened = True
        assert (await early(), await late()) == ("old", "new")
        assert await here.get("k:1") == await there.get("k:1") == "new"

    @scenario
    async def test_h06_a_scope_learnt_at_the_end_counts_from_the_begin(self, scene: Scene) -> None:
        """A record that names a scope before the loader does ends its result nevertheless."""
        here, there = scene.pair()

        async def load() -> str:
            await there.invalidate("t")
            await here.get("other:1", after=await there.ticket())
            tag("t")
            return "old"

        loader = scene.function(load)
        assert await here.get_or_load("k:1", loader) == "old"
        for shop in (here, there):
            assert await shop.get("k:1", NOTHING) is NOTHING

    @scenario
    async def test_h25_one_load_a_cluster(self, scene: Scene) -> None:
        """With `coalesce="cluster"` nodes that miss one key at once load it once."""
        here, there = scene.pair()
        source = scene.source(k="x")
        source.opened = False
        how = {"coalesce": "cluster"}
        first = scene.start(here.get_or_load("k:1", source.of("k"), **how))
        await scene.until(lambda: source.loads)
        second = scene.start(there.get_or_load("k:1", source.of("k"), **how))
        await scene.until(lambda: there.cache.stats().get("fetches", 0) > 1)
        source.opened = True
        assert (await first(), await second()) == ("x", "x")
        assert source.loads == ["k"]

    @scenario
    async def test_without_coalescing_each_reader_loads(self, scene: Scene) -> None:
        """With `coalesce="off"` readers do not wait for one another."""
        shop, source = scene.shop(), scene.source(k="x")
        source.opened = False
        readers = [scene.start(shop.get_or_load("k:1", source.of("k"), coalesce="off")) for _ in range(3)]
        await scene.until(lambda: len(source.loads) == 3)
        source.opened = True
        assert [await finish() for finish in readers] == ["x"] * 3
