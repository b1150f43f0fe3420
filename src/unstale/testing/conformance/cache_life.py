"""The conformance of a cache: its end, what it tells of itself, and how it is switched off."""

from __future__ import annotations

from unstale.errors import ClosedError
from unstale.loading import observe, tag
from unstale.testing.conformance.cache_keys import NOTHING
from unstale.testing.conformance.colours import raised, settled
from unstale.testing.conformance.scene import CacheSuite, Scene, scenario
from unstale.testing.disabled import disabled


class LifeTests(CacheSuite):
    """Caches as objects."""

    @scenario
    async def test_a_closed_cache_refuses(self, scene: Scene) -> None:
        """After its close, which may be repeated, a cache serves nothing; others go on."""
        here, there = scene.pair()
        await here.set("k:1", 1)
        await here.close()
        await here.close()
        for attempt in (here.get("k:1"), here.invalidate("k:1"), here.set("k:1", 2)):
            await raised(ClosedError, attempt)
        assert await there.get("k:1") == 1

    @scenario
    async def test_a_cache_is_a_context_manager(self, scene: Scene) -> None:
        """Leaving its block closes a cache."""
        shop = scene.shop()
        if shop.colour.prefix:
            async with shop.cache as cache:
                await cache.aset("k:1", 1)
        else:
            with shop.cache as cache:
                cache.set("k:1", 1)
        await raised(ClosedError, shop.get("k:1"))

    @scenario
    async def test_a_key_can_be_explained(self, scene: Scene) -> None:
        """It is told what is stored, its scopes and their marks, and why it may or may not be served."""
        shop = scene.shop()
        known = await shop.explain("k:1")
        assert (known.stored, known.servable) == (False, False)
        await shop.get_or_load("k:1", scene.source(k=1).of("k"), tags=["t"], ttl="1m")
        known = await shop.explain("k:1")
        assert (known.stored, known.resident, known.servable) == (True, True, True)
        assert set(known.marks) == {"k:1", "k", "t", "*"}
        assert 0 < known.remaining_s <= 60
        receipt = await shop.invalidate("t")
        known = await shop.explain("k:1")
        assert (known.resident, known.servable, known.marks["t"][0]) == (False, False, receipt.stamp.position)
        assert "t" in known.why

    @scenario
    async def test_a_disabled_cache_loads_and_tells_nobody(self, scene: Scene) -> None:
        """While it is disabled every read loads, from no tier, and nothing that is written or ended is told."""
        here, there = scene.pair()
        source = scene.source(k="old")

        @here.cached("k:{x}")
        async def one(x: int) -> str:
            tag(f"t:{x}")
            row: str = await source.read("k")
            return row

        assert await settled(one(1)) == await settled(one(1)) == "old"
        source.rows["k"] = "new"
        with disabled(here.cache), observe() as reads:
            for _ in range(2):
                assert await settled(one(1)) == await settled(one.refresh(1)) == "new"
                assert await here.get_or_load("k:1", source.of("k"), type=str) == "new"
                assert await here.get_or_load_many(["k"], source.many()) == {"k": "new"}
                assert await here.write("k:1", source.of("k"), type=str) == "new"
                assert await here.get("k:1", NOTHING, type=str) is NOTHING
                assert await settled(one.peek(1)) is None
            await here.set("k:1", "newest", type=str)
            receipt = await here.invalidate("k:1", wait=True)
            await here.delete("k:1")
            await settled(one.invalidate(1))
            assert not (await here.explain("k:1", type=str)).servable
            assert await here.ticket() is None
        assert source.loads == ["k"] * 11
        assert {read.source for read in reads} == {"load", "none"}
        assert receipt.stamp.generation == "disabled"
        assert await there.get("k:1", type=str) == "old"
        assert await settled(one(1)) in {"old", "new"}
