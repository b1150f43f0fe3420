"""The conformance of a cache: what policies promise."""

from __future__ import annotations

from typing import Any

from unstale.core.origin import Origin
from unstale.errors import CachedLoadError, LoadTimeoutError, OriginBusyError, PolicyError
from unstale.loading import observe
from unstale.testing.conformance.cache_keys import NOTHING
from unstale.testing.conformance.colours import raised
from unstale.testing.conformance.scene import CacheSuite, Scene, Shop, scenario


class MissingError(LookupError):
    """There is no such thing."""


class RefusedError(Exception):
    """A reply of an HTTP service."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status_code = status


class ForbiddenError(PermissionError, MissingError):
    """An authorization error that claims to be something else as well."""


async def idle(scene: Scene, shop: Shop) -> None:
    """Wait until no refresh runs."""
    await scene.until(lambda: not shop.cache.node.refreshing)


class PolicyTests(CacheSuite):
    """Policies, in time that is moved by hand."""

    @scenario
    async def test_a_life_ends(self, scene: Scene) -> None:
        """At the end of its life an entry is served by no node, from no tier; not a moment later, and not earlier."""
        here, there = scene.timed_pair()
        source = scene.source(k="x")
        for jitter in (0, 0.5):
            await here.get_or_load("k:1", source.of("k"), ttl="10s", jitter=jitter)
            await scene.advance(9.9 * (1 - jitter) / 2)
            assert await here.get("k:1") == "x"
            await scene.advance(9.9 * (1 - jitter) / 2)
            assert await there.get("k:1") == await here.get("k:1") == "x"
            await scene.advance(0.2 + 10 * jitter)
            for shop in (here, there, scene.timed_other()):
                assert await shop.get("k:1", NOTHING) is NOTHING

    @scenario
    async def test_none_is_a_value_with_a_life_of_its_own(self, scene: Scene) -> None:
        """`None` is cached like any value, for `none_ttl`."""
        here, there = scene.timed_pair()
        source = scene.source()
        how = {"ttl": "1h", "none_ttl": "10s", "jitter": 0}
        for shop in (here, here, there):
            assert await shop.get_or_load("k:1", source.of("k"), **how) is None
            assert await shop.get("k:1", NOTHING) is None
        assert source.loads == ["k"]
        await scene.advance(10.1)
        assert await here.get("k:1", NOTHING) is NOTHING

    @scenario
    async def test_failures_are_remembered_by_class(self, scene: Scene) -> None:
        """A failure that the policy names is raised again, as its class, by every node, until its life ends."""
        here, there = scene.timed_pair()
        source = scene.source()
        how: dict[str, Any] = {
            "not_found": (LookupError,), "not_found_ttl": "10s", "errors": {ConnectionError: "20s"}, "jitter": 0,
        }  # fmt: skip
        for error, life_s in ((MissingError("product", 17), 10), (ConnectionResetError(104, "reset"), 20)):
            source.errors["k"] = error
            source.loads.clear()
            for shop in (here, here, there, there):
                again = await raised(type(error), shop.get_or_load("k:1", source.of("k"), **how))
                assert (type(again), again.args) == (type(error), error.args)
            await raised(type(error), here.get("k:1", **how))
            assert source.loads == ["k"]
            await scene.advance(life_s - 0.1)
            await raised(type(error), there.get_or_load("k:1", source.of("k"), **how))
            await scene.advance(0.2)
            assert source.loads == ["k"]
            for shop in (here, there):
                assert await shop.get("k:1", NOTHING, **how) is NOTHING
        await raised(ConnectionError, here.get_or_load("k:1", source.of("k"), **how))
        await here.invalidate("k:1")
        source.errors.clear()
        assert await here.get_or_load("k:1", source.of("k"), **how) is None, "an invalidation ends a failure as well"

    @scenario
    async def test_h29_a_failure_of_an_unknown_class_runs_no_code(self, scene: Scene) -> None:
        """A node whose policy does not name the class raises `CachedLoadError`, which tells the name and arguments."""
        here, there = scene.pair()
        source = scene.source()
        source.errors["k"] = MissingError("product", 17)
        await raised(MissingError, here.get_or_load("k:1", source.of("k"), not_found=(LookupError,)))
        error = await raised(CachedLoadError, there.get("k:1"))
        assert error.fields["kind"] == f"{__name__}.MissingError"
        assert "product, 17" in error.message

    @scenario
    async def test_authorization_errors_are_never_remembered(self, scene: Scene) -> None:
        """A refusal is for one caller: the next is refused or admitted anew, whatever the policy says."""
        shop, source = scene.shop(), scene.source()
        how: dict[str, Any] = {"not_found": (Exception,), "errors": {OSError: "1h", RefusedError: "1h"}}
        for error, loads in (
            (PermissionError("no"), 2), (ForbiddenError("no"), 2), (RefusedError(401), 2), (RefusedError(403), 2),
            (RefusedError(404), 1),
        ):  # fmt: skip
            await shop.invalidate("*")
            source.errors["k"] = error
            source.loads.clear()
            for _ in range(2):
                await raised(type(error), shop.get_or_load("k:1", source.of("k"), **how))
            assert len(source.loads) == loads, error

    @scenario
    async def test_within_its_grace_the_old_is_served_while_the_new_is_loaded(self, scene: Scene) -> None:
        """After its life: at once, flagged stale, with one refresh behind; after its grace it is loaded."""
        here, there = scene.timed_pair()
        source = scene.source(k="old")
        how = {"ttl": "10s", "grace": "100s", "jitter": 0}
        await here.get_or_load("k:1", source.of("k"), **how)
        await scene.advance(11)
        source.rows["k"] = "new"
        source.opened = False
        with observe() as reads:
            for shop in (here, there, here, there):
                assert await shop.get_or_load("k:1", source.of("k"), **how) == "old"
                assert await shop.get("k:1", NOTHING) is NOTHING
        assert [read.stale for read in reads if read.source != "none"] == [True] * 4
        source.opened = True
        for shop in (here, there):
            await idle(scene, shop)
            assert await shop.get_or_load("k:1", source.of("k"), **how) == "new"
        assert len(source.loads) == 3
        source.rows["k"] = "newest"
        await scene.advance(111)
        for shop in (here, there):
            assert await shop.get_or_load("k:1", source.of("k"), **how) == "newest"

    @scenario
    async def test_the_old_is_served_when_the_load_fails(self, scene: Scene) -> None:
        """`stale_if_error` keeps an entry for when its load fails, and for nothing else."""
        here, there = scene.timed_pair()
        source = scene.source(k="old")
        how = {"ttl": "10s", "stale_if_error": "100s", "jitter": 0}
        await here.get_or_load("k:1", source.of("k"), **how)
        await scene.advance(11)
        source.errors["k"] = ConnectionError("down")
        for shop in (here, there):
            with observe() as reads:
                assert await shop.get_or_load("k:1", source.of("k"), **how) == "old"
            assert (reads[0].stale, reads[0].why) == (True, "stale: the load failed")
            assert shop.cache.stats()["trouble:load"] == 1
        await scene.advance(100)
        for shop in (here, there):
            await raised(ConnectionError, shop.get_or_load("k:1", source.of("k"), **how))
        source.errors.clear()
        source.rows["k"] = "new"
        assert await here.get_or_load("k:1", source.of("k"), **how) == "new"

    @scenario
    async def test_what_was_ended_hard_is_not_served_on_failure(self, scene: Scene) -> None:
        """A hard invalidation leaves nothing to fall back on."""
        here, there = scene.pair()
        source = scene.source(k="old")
        how = {"grace": "1h", "stale_if_error": "1h"}
        for shop in (here, there):
            await shop.get_or_load("k:1", source.of("k"), **how)
        receipt = await here.invalidate("k:1")
        source.errors["k"] = ConnectionError("down")
        for shop in (here, there):
            await raised(ConnectionError, shop.get_or_load("k:1", source.of("k"), after=receipt, **how))

    @scenario
    async def test_a_slow_load_gives_way_to_the_old(self, scene: Scene) -> None:
        """After the soft timeout the old value is served, and the load goes on; after the hard one it is an error."""
        shop = scene.timed()
        source = scene.source(k="old")
        how = {"ttl": "10s", "stale_if_error": "1h", "jitter": 0}
        await shop.get_or_load("k:1", source.of("k"), **how)
        how["soft_timeout"] = "5ms"
        await scene.advance(11)
        source.rows["k"] = "new"
        source.opened = False
        with observe() as reads:
            assert await shop.get_or_load("k:1", source.of("k"), **how) == "old"
        assert (reads[0].stale, reads[0].why) == (True, "stale: the load is slow")
        source.opened = True
        await scene.until(lambda: not shop.cache.node.flights)
        assert await shop.get_or_load("k:1", source.of("k"), **how) == "new"
        assert source.loads == ["k", "k"]
        await shop.invalidate("k:1")
        source.opened = False
        error = await raised(LoadTimeoutError, shop.get_or_load("k:1", source.of("k"), hard_timeout="10ms"))
        assert isinstance(error, TimeoutError)
        assert error.hint
        source.opened = True
        assert await shop.get_or_load("k:1", source.of("k"), hard_timeout="1h") == "new"

    @scenario
    async def test_an_entry_is_refreshed_before_its_end(self, scene: Scene) -> None:
        """With `early`, a hit starts a refresh in the background once the moment drawn for it has come, once."""
        shop = scene.timed()
        source = scene.source(k="old")
        how = {"ttl": "1h", "early": 1e9, "jitter": 0}

        async def load() -> Any:
            scene.clock.advance(1)
            return await source.read("k")

        loader = scene.function(load)
        await shop.get_or_load("k:1", loader, **how)
        await scene.advance(0)
        source.rows["k"] = "new"
        source.opened = False
        with observe() as reads:
            for _ in range(3):
                assert await shop.get_or_load("k:1", loader, **how) == "old"
        assert {read.stale for read in reads} == {False}
        await scene.until(lambda: len(source.loads) == 2)
        source.opened = True
        await idle(scene, shop)
        assert await shop.get("k:1") == "new"

    @scenario
    async def test_h25_the_origin_is_not_asked_more_often_at_a_time(self, scene: Scene) -> None:
        """Loads wait for their turn, over all that share an origin; who waits too long gets an error."""
        shop, source = scene.shop(), scene.source(a=1, b=2, c=3, d=4)
        origin = Origin(2, name="database")
        source.opened = False
        readers = [scene.start(shop.get_or_load(key, source.of(key), origin=origin)) for key in "abcd"]
        await scene.until(lambda: origin.waiting == 2)
        source.opened = True
        assert sorted([await finish() for finish in readers]) == [1, 2, 3, 4]
        assert source.most == 2
        narrow = Origin(1, wait="5ms", name="database")
        source.opened = False
        first = scene.start(shop.get_or_load("e", source.of("a"), origin=narrow))
        await scene.until(lambda: len(source.loads) == 5)
        error = await raised(OriginBusyError, shop.get_or_load("f", source.of("b"), origin=narrow))
        assert "database" in error.message
        source.opened = True
        assert await first() == 1

    @scenario
    async def test_impossible_policies_are_refused(self, scene: Scene) -> None:
        """What cannot work is refused where it is written, with what to write instead."""
        shop = scene.shop(max_ttl="1d")

        async def one(x: int) -> int:
            return x

        for wrong in (
            {"ttl": "2d"}, {"ttl": "20h", "grace": "20h"}, {"ttl": 0}, {"soft_timeout": "1s"}, {"unproven": "stale"},
            {"colour": "red"}, {"jitter": 0.9}, {"coalesce": "all"}, {"origin": 20},
        ):  # fmt: skip

            async def decorate(wrong: Any = wrong) -> None:
                shop.cached("k:{x}", **wrong)(one)

            async def read(wrong: Any = wrong) -> None:
                await shop.get_or_load("k:1", lambda: 1, **wrong)

            assert (await raised(PolicyError, decorate())).hint, wrong
            assert (await raised(PolicyError, read())).hint, wrong
