"""The conformance of a cache: writing through it."""

from __future__ import annotations

from unstale.errors import FullError, NotPublishedError
from unstale.loading import observe, version
from unstale.testing.conformance.cache_keys import NOTHING, ended
from unstale.testing.conformance.colours import raised
from unstale.testing.conformance.scene import CacheSuite, Scene, scenario


class WriteTests(CacheSuite):
    """Write-through."""

    @scenario
    async def test_write_through_caches_what_was_written(self, scene: Scene) -> None:
        """A write gives back what the writer returned, ends the old value everywhere, and no node has to load."""
        here, there = scene.pair()
        await here.set("k:1", "old")
        assert await there.get("k:1") == "old"
        assert await here.write("k:1", scene.source(k="new").of("k"), tags=["t"]) == "new"
        ticket = await here.ticket()
        with observe() as reads:
            assert await here.get("k:1") == "new"
            assert await there.get("k:1", after=ticket) == "new"
        assert [read.source for read in reads] == ["l1", "store"]
        assert await ended(there, "k:1", await here.invalidate("t"))

    @scenario
    async def test_h02_a_writer_that_raises_ends_the_entry_all_the_same(self, scene: Scene) -> None:
        """Nobody knows whether a commit that raised was made: the old value is not served any more."""
        here, there = scene.pair()
        await here.set("k:1", "old")
        assert await there.get("k:1") == "old"
        source = scene.source()
        source.errors["k"] = ConnectionResetError("committed?")
        error = await raised(ConnectionResetError, here.write("k:1", source.of("k")))
        assert error is source.errors["k"]
        assert await here.get("k:1", NOTHING) is NOTHING
        assert await there.get("k:1", NOTHING, after=await here.ticket()) is NOTHING

    @scenario
    async def test_h02_a_write_that_cannot_be_announced_is_reported(self, scene: Scene) -> None:
        """When the log fails, the error names the scopes and carries what the writer returned; nothing old is served.

        Nothing is kept under that key before another record has come: the failed one may be in the log.
        """
        shop, engine = scene.failing()
        await shop.set("k:1", "old")
        engine.broken["append"] = FullError
        error = await raised(NotPublishedError, shop.write("k:1", scene.source(k="new").of("k")))
        assert (error.fields["value"], error.fields["scopes"]) == ("new", "k:1")
        assert isinstance(error.__cause__, FullError)
        assert error.hint
        assert await shop.get("k:1", NOTHING) is NOTHING
        engine.broken.clear()
        await shop.invalidate("another")
        await shop.write("k:1", scene.source(k="newer").of("k"))
        assert await shop.get("k:1") == "newer"

    @scenario
    async def test_a_write_whose_store_fails_is_no_failure(self, scene: Scene) -> None:
        """The store failing neither fails nor hides a committed write: other nodes load what was written."""
        shop, engine = scene.failing()
        engine.broken["store"] = FullError
        assert await shop.write("k:1", scene.source(k="new").of("k")) == "new"
        assert shop.cache.stats()["trouble:store"] == 1
        other = scene.other()
        assert await other.get_or_load("k:1", scene.source(k="new").of("k"), after=await shop.ticket()) == "new"

    @scenario
    async def test_h16_a_write_that_another_came_between_is_not_cached(self, scene: Scene) -> None:
        """Two writes at once: nobody knows which commit came last, so neither value is served as the newest."""
        here, there = scene.pair()

        async def writer() -> str:
            await there.invalidate("k:1")
            return "which of the two is newer?"

        await here.write("k:1", scene.function(writer))
        assert await here.get("k:1", NOTHING) is NOTHING
        assert await there.get("k:1", NOTHING, after=await here.ticket()) is NOTHING

    @scenario
    async def test_h16_versions_decide_between_two_writes(self, scene: Scene) -> None:
        """With versions of the source the newer value stays, whichever of two writes is announced last."""
        here, there = scene.pair()

        async def newer() -> str:
            version(8)
            return "v8"

        async def older() -> str:
            version(7)
            await there.write("k:1", scene.function(newer))
            return "v7"

        assert await here.write("k:1", scene.function(older)) == "v7"
        ticket = await here.ticket()
        assert await there.get("k:1", after=ticket) == "v8"
        assert await here.get("k:1") == "v8"
