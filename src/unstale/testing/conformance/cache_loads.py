"""The conformance of a cache: what a load may say of its value, and what it inherits."""

from __future__ import annotations

from typing import Any

from unstale.errors import OutsideLoadError, ScopeError, ValueTypeError
from unstale.loading import observe, skip, tag, ttl, version
from unstale.testing.conformance.cache_keys import NOTHING, ended
from unstale.testing.conformance.colours import raised, settled
from unstale.testing.conformance.scene import CacheSuite, Scene, scenario


class LoadTests(CacheSuite):
    """Loads."""

    @scenario
    async def test_a_load_can_name_scopes(self, scene: Scene) -> None:
        """`tag` lets the value depend on what was learnt while loading, on every node."""
        here, there = scene.pair()

        async def load() -> str:
            tag("tenant:acme", "tenant:k\u00e4se")
            tag("author:7")
            return "x"

        loader = scene.function(load)
        for scope in ("tenant:acme", "tenant:k\u00e4se", "author:7"):
            for shop in (here, there):
                assert await shop.get_or_load("k:1", loader) == "x"
            receipt = await here.invalidate(scope)
            assert await ended(here, "k:1", receipt)
            assert await ended(there, "k:1", receipt)

    @scenario
    async def test_scopes_of_many_end_all_of_them(self, scene: Scene) -> None:
        """A scope named while many keys are loaded at once ends all of them: whose it is, nobody said."""
        shop = scene.shop()

        async def load(keys: list[str]) -> dict[str, int]:
            tag("t")
            version(3)
            return dict.fromkeys(keys, 1)

        await shop.get_or_load_many(["a:1", "b:1"], scene.function(load), tags=["u"])
        receipt = await shop.invalidate("t")
        assert await ended(shop, "a:1", receipt)
        assert await ended(shop, "b:1", receipt)

    @scenario
    async def test_a_load_can_skip_the_cache(self, scene: Scene) -> None:
        """After `skip` the value is given to its reader and kept by nobody, loaded or written."""
        here, there = scene.pair()

        async def load() -> str:
            skip()
            return "x"

        loader = scene.function(load)
        assert await here.get_or_load("k:1", loader) == "x"
        assert await here.write("k:2", loader) == "x"
        for shop in (here, there):
            assert await shop.get("k:1", NOTHING) is NOTHING
            assert await shop.get("k:2", NOTHING, after=await here.ticket()) is NOTHING

    @scenario
    async def test_a_load_can_shorten_its_life(self, scene: Scene) -> None:
        """`ttl` takes the place of the policy's."""
        here, there = scene.timed_pair()

        async def load() -> str:
            ttl("10s")
            return "x"

        await here.get_or_load("k:1", scene.function(load), ttl="1h", jitter=0)
        await scene.advance(9.9)
        assert await there.get("k:1") == await here.get("k:1") == "x"
        await scene.advance(0.2)
        for shop in (here, there):
            assert await shop.get("k:1", NOTHING) is NOTHING

    @scenario
    async def test_outside_of_a_load_there_is_nothing_to_say(self, scene: Scene) -> None:
        """`tag`, `ttl`, `version` and `skip` outside of a load, or with nonsense, are errors."""

        async def speak(what: Any, *args: object) -> None:
            what(*args)

        for what, args in ((tag, ("t",)), (ttl, ("1s",)), (skip, ()), (version, (1,))):
            assert (await raised(OutsideLoadError, speak(what, *args))).hint
        shop = scene.shop()
        for what, wrong, kind in (
            (tag, "a*", ScopeError),
            (version, "7", ValueTypeError),
            (version, True, ValueTypeError),
        ):

            async def load(what: Any = what, wrong: object = wrong) -> None:
                what(wrong)

            await raised(kind, shop.get_or_load("k:1", scene.function(load)))

    @scenario
    async def test_scopes_are_inherited_from_misses_and_from_hits(self, scene: Scene) -> None:
        """What a load reads through the cache it depends on, wherever that came from: load, L1, store, by hand."""
        here, there = scene.pair()
        source = scene.source(row="r")

        @here.cached("row:{x}", tags=["rows"])
        async def row(x: int) -> str:
            tag(f"tenant:{x}")
            found: str = await source.read("row")
            return found

        async def load() -> list[str]:
            return [await settled(row(1)), await settled(row(2)), await here.get_or_load("hand:1", source.of("row"))]

        loader = scene.function(load)
        for before in ("nothing", "resident", "stored"):
            for scope in ("row:1", "tenant:2", "rows", "row", "hand:1", "hand", "k:1"):
                if before == "resident":
                    await settled(row(1))
                    await here.get("hand:1")
                if before == "stored":
                    with here.cache.node.lock:
                        here.cache.node.table.clear()
                assert await here.get_or_load("k:1", loader) == ["r", "r", "r"]
                assert await there.get("k:1") == ["r", "r", "r"]
                receipt = await there.invalidate(scope)
                assert await ended(there, "k:1", receipt), (before, scope)
                assert await ended(here, "k:1", receipt), (before, scope)
                if before == "nothing":
                    receipt = await there.invalidate("row", "hand")
                    assert await ended(here, "k:1", receipt)

    @scenario
    async def test_a_part_bounds_the_life_of_the_whole(self, scene: Scene) -> None:
        """What is made of an entry does not outlive it."""
        shop = scene.timed()
        source = scene.source(part="p")

        async def load() -> str:
            part: str = await shop.get_or_load("part:1", source.of("part"), ttl="1m", jitter=0)
            return part

        await shop.get_or_load("part:1", source.of("part"), ttl="1m", jitter=0)
        await scene.advance(50)
        await shop.get_or_load("whole:1", scene.function(load), ttl="1h")
        await scene.advance(9)
        assert await shop.get("whole:1") == "p"
        await scene.advance(1.1)
        assert await shop.get("whole:1", NOTHING) is NOTHING

    @scenario
    async def test_observers_see_every_read(self, scene: Scene) -> None:
        """Each read inside the block is recorded: its key, source, stamp, proof, scopes and remaining life."""
        here, there = scene.pair()

        @here.cached("inner:{x}")
        async def inner(x: int) -> int:
            return x

        @here.cached("outer:{x}", tags=["t"], ttl="1h")
        async def outer(x: int) -> int:
            found: int = await settled(inner(x))
            return found

        with observe() as all_of_them:
            await here.get("none:1")
            with observe() as reads:
                await settled(outer(1))
                await settled(outer(1))
                await there.get("outer:1", type=int)
        await settled(outer(1))
        assert [read.key for read in reads] == ["inner:1", "outer:1", "outer:1", "outer:1"]
        assert [read.source for read in reads] == ["load", "load", "l1", "store"]
        assert [(read.key, read.source) for read in all_of_them[:1]] == [("none:1", "none")]
        assert all_of_them[1:] == reads
        for read in reads[1:]:
            assert set(read.scopes) == {"outer:1", "outer", "t", "inner:1", "inner"}
            assert (read.stamp, read.stale) == (reads[0].stamp, False)
            assert read.proven_s is not None
            assert 0 <= read.proven_s <= here.cache.node.max_staleness_s
            assert read.remaining_s is not None
            assert 0 < read.remaining_s <= 300, "its part lives for five minutes"
