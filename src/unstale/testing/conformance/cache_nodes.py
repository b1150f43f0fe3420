"""The conformance of a cache: what is invalidated on one node, as another node sees it."""

from __future__ import annotations

from typing import Any

from unstale.core.ops import Member
from unstale.core.record import Stamp
from unstale.errors import (
    FullError,
    NotPublishedError,
    PolicyError,
    ScopeError,
    TicketError,
    UnavailableError,
    UnprovenError,
)
from unstale.loading import observe, version
from unstale.testing.conformance.cache_keys import NOTHING, ended
from unstale.testing.conformance.colours import raised
from unstale.testing.conformance.scene import CacheSuite, Scene, Shop, scenario

BOUND = "250ms"


async def fill(scene: Scene, *shops: Shop) -> None:
    """Let nodes hold `shop:eu:17` with a tag, and two neighbours of it."""
    source = scene.source(a="a", b="b", c="c")
    for shop in shops:
        await shop.get_or_load("shop:eu:17", source.of("a"), tags=["catalog"])
        await shop.get_or_load("shop:us:17", source.of("b"), tags=["catalogue"])
        await shop.get_or_load("shops:1", source.of("c"))


async def left(shop: Shop, **how: Any) -> str:
    """Say what a node still serves of that."""
    found = [await shop.get(key, "-", **how) for key in ("shop:eu:17", "shop:us:17", "shops:1")]
    return "".join(found)


class InvalidationTests(CacheSuite):
    """What an invalidation ends."""

    @scenario
    async def test_every_kind_of_scope_ends_what_depends_on_it(self, scene: Scene) -> None:
        """A key, a tag, a namespace of any depth, or `*`: each ends its entries on every node, and no others."""
        here, there = scene.pair()
        for scopes, remains in (
            (("shop:eu:17",), "-bc"), (("catalog",), "-bc"), (("shop:eu",), "-bc"), (("shop",), "--c"), (("*",), "---"),
            (("catalog", "shops:1"), "-b-"), (("shop:eu:1", "shop:eu:17:", "sho", "17", "catalo"), "abc"),
        ):  # fmt: skip
            await fill(scene, here, there)
            receipt = await here.invalidate(*scopes, reason="a test")
            assert receipt.scopes == scopes
            assert (await left(here), await left(there, after=receipt)) == (remains, remains), scopes

    @scenario
    async def test_an_invalidation_needs_a_scope(self, scene: Scene) -> None:
        """Without a scope, nothing is invalidated, and the error says how to invalidate everything."""
        error = await raised(ScopeError, scene.shop().invalidate())
        assert '"*"' in error.hint

    @scenario
    async def test_a_soft_invalidation_serves_stale_while_it_is_refreshed(self, scene: Scene) -> None:
        """Within its grace the entry is served once more, flagged stale, while one refresh runs on each node."""
        here, there = scene.pair()
        source = scene.source(k="old")
        for shop in (here, there):
            assert await shop.get_or_load("k:1", source.of("k"), grace="1h") == "old"
        source.rows["k"] = "new"
        source.opened = False
        receipt = await here.invalidate("k", soft=True)
        for shop in (here, there):
            assert await shop.get("k:1", NOTHING, after=receipt) is NOTHING
            with observe() as reads:
                for _ in range(3):
                    assert await shop.get_or_load("k:1", source.of("k"), grace="1h") == "old"
            assert [read.stale for read in reads] == [True] * 3
        await scene.until(lambda: len(source.loads) == 3)
        source.opened = True
        await scene.until(lambda: not (here.cache.node.refreshing or there.cache.node.refreshing))
        for shop in (here, there):
            with observe() as reads:
                assert await shop.get_or_load("k:1", source.of("k"), grace="1h") == "new"
            assert not reads[0].stale
        assert source.loads == ["k"] * 3

    @scenario
    async def test_a_soft_invalidation_without_grace_ends(self, scene: Scene) -> None:
        """An entry without grace is not served after a soft invalidation."""
        here, there = scene.pair()
        await fill(scene, here, there)
        receipt = await here.invalidate("catalog", soft=True)
        source = scene.source(a="new")
        for shop in (here, there):
            assert await shop.get_or_load("shop:eu:17", source.of("a"), after=receipt) == "new"

    @scenario
    async def test_h34_soft_after_hard_does_not_revive(self, scene: Scene) -> None:
        """What was ended hard is not served stale, whatever soft invalidation comes later."""
        here, there = scene.pair()
        source = scene.source(k="old")
        for shop in (here, there):
            await shop.get_or_load("k:1", source.of("k"), grace="1h")
        source.rows["k"] = "new"
        await here.invalidate("k:1")
        receipt = await here.invalidate("k:1", soft=True)
        for shop in (there, here):
            assert await shop.get_or_load("k:1", source.of("k"), grace="1h", after=receipt) == "new"

    @scenario
    async def test_h07_versions_order_what_positions_cannot(self, scene: Scene) -> None:
        """A record of a version ends older entries of the key, whatever their stamps, and no newer ones."""
        here, there = scene.pair()

        async def load() -> str:
            version(7)
            return "v7"

        loader = scene.function(load)
        for number, remains in ((6, True), (7, True), (None, False), (8, False)):
            for shop in (here, there):
                assert await shop.get_or_load("k:1", loader) == "v7"
            receipt = await here.invalidate("k:1", version=number)
            for shop in (here, there):
                assert await ended(shop, "k:1", receipt) is not remains
        await here.invalidate("k:1", version=9)
        assert await here.get_or_load("k:1", loader) == "v7"
        assert await here.get("k:1", NOTHING) is NOTHING, "it is older than what is known to be committed"

    @scenario
    async def test_an_invalidation_that_fails_is_reported(self, scene: Scene) -> None:
        """An invalidation that the log refuses raises; repeating it later is all that is needed."""
        shop, engine = scene.failing()
        await shop.set("k:1", 1)
        engine.broken["append"] = FullError
        error = await raised(NotPublishedError, shop.invalidate("k:1", "t"))
        assert error.fields["scopes"] == "k:1, t"
        engine.broken.clear()
        assert await ended(shop, "k:1", await shop.invalidate("k:1", "t"))

    @scenario
    async def test_h08_a_waiting_invalidation_returns_when_no_node_serves_it(self, scene: Scene) -> None:
        """When it has returned, a plain bounded read of any node does not serve what was ended."""
        here, there = scene.pair(max_staleness=BOUND)
        for number in range(3):
            await here.set("k:1", number)
            assert await there.get("k:1", after=await here.ticket()) == number
            receipt = await here.invalidate("k:1", wait=True)
            assert receipt.complete
            assert receipt.took_s >= 0
            assert await there.get("k:1", NOTHING) is NOTHING
            assert await here.get("k:1", NOTHING) is NOTHING
        both = {shop.cache.node.id for shop in (here, there)}
        for _ in range(100):  # a node that is slow to answer is not waited for longer than its lease
            told = set((await here.invalidate("k:1", wait=True)).nodes)
            assert told <= both
            if told == both:
                return
        raise AssertionError("no receipt ever named both nodes")

    @scenario
    async def test_h36_a_node_that_cannot_answer_is_waited_for(self, scene: Scene) -> None:
        """A member that has applied nothing may hold a lease: the receipt comes when that has lapsed for sure."""
        shop = scene.shop(max_staleness=BOUND)
        await shop.set("k:1", 1)
        log, node = shop.cache.ports.log, shop.cache.node
        member = Member("stopped", node.generation or "", 0, 0.7)
        await scene.until(lambda: log.poll(member, 0, 0, 0.0))
        receipt = await shop.invalidate("k:1", wait=True)
        assert receipt.complete
        assert "stopped" not in receipt.nodes
        assert receipt.took_s >= 0.7


class ConsistencyTests(CacheSuite):
    """Reads that ask for more, or for less, than the bound."""

    @scenario
    async def test_a_ticket_shows_what_it_stands_for(self, scene: Scene) -> None:
        """A read with a receipt, a ticket or its text sees what was invalidated before it was given."""
        here, there = scene.pair()
        for number in range(9):
            await here.set("k:1", number)
            assert await there.get("k:1", after=await here.ticket()) == number
            receipt = await here.invalidate("k:1")
            after = (receipt, receipt.stamp, str(await here.ticket()))[number % 3]
            assert await there.get("k:1", NOTHING, after=after) is NOTHING

    @scenario
    async def test_h37_a_ticket_of_another_generation_loads(self, scene: Scene) -> None:
        """Neither memory nor store can answer a ticket that this log never gave: a read loads, a look has nothing."""
        shop, source = scene.shop(), scene.source(k="loaded")
        await shop.set("k:1", "cached")
        ticket = await shop.ticket()
        for after in ("elsewhere.1", Stamp(ticket.generation, ticket.position + 1)):
            assert await shop.get("k:1", NOTHING, after=after, ticket_wait=0) is NOTHING
            assert await shop.get_or_load("k:1", source.of("k"), after=after, ticket_wait=0) == "loaded"
            found = await shop.get_or_load_many(["k"], source.many(), after=after, ticket_wait=0)
            assert found == {"k": "loaded"}
        assert source.loads == ["k"] * 4

    @scenario
    async def test_a_text_that_is_no_ticket_is_refused(self, scene: Scene) -> None:
        """What is no ticket raises, and tells how to get one."""
        shop = scene.shop()
        for text in ("", "1", "g.", "g.-1", "g.1x", "g." + "9" * 30, ".1"):
            assert (await raised(TicketError, shop.get("k:1", after=text))).hint

    @scenario
    async def test_a_strong_read_sees_what_was_published_before_it(self, scene: Scene) -> None:
        """Without waiting and without a ticket, a strong read on another node is never older than the last write."""
        here, there = scene.pair()
        for number in range(20):
            await here.set("k:1", number)
            assert await there.get("k:1", consistency="strong") == number
        await here.invalidate("k:1")
        assert await there.get("k:1", NOTHING, consistency="strong") is NOTHING

    @scenario
    async def test_a_strong_read_loads_when_the_log_is_out(self, scene: Scene) -> None:
        """If the head cannot be asked for, what is cached proves nothing."""
        shop, engine = scene.failing()
        source = scene.source(k="loaded")
        await shop.set("k:1", "cached")
        engine.broken["read_head"] = UnavailableError
        assert await shop.get("k:1", NOTHING, consistency="strong", ticket_wait=0) is NOTHING
        assert await shop.get_or_load("k:1", source.of("k"), consistency="strong", ticket_wait=0) == "loaded"
        assert shop.cache.stats()["trouble:head"] == 2

    @scenario
    async def test_h08_a_lapsed_lease_serves_nothing_unproven(self, scene: Scene) -> None:
        """Cut off from the log, a node asks the store's marks; without them it loads, refuses, or says it is stale."""
        shop, engine = scene.failing_timed()
        source = scene.source(k="loaded")
        how = {"revalidate": False, "grace": "1h"}
        await shop.get_or_load("k:1", scene.source(k="cached").of("k"), **how)
        engine.broken["poll"] = UnavailableError
        await scene.advance(1.0, heard=False)
        with observe() as reads:
            assert await shop.get("k:1", consistency="eventual") == "cached"
            assert await shop.get("k:1") == "cached"
        assert [read.why for read in reads] == ["resident", "revalidated"]
        await raised(UnprovenError, shop.get_or_load("k:1", source.of("k"), unproven="refuse", **how))
        assert source.loads == []
        with observe() as reads:
            found = await shop.get_or_load("k:1", source.of("k"), unproven="stale", **how)
        assert (found, reads[0].stale, reads[0].proven_s) == ("cached", True, None)
        await scene.until(lambda: source.loads and not shop.cache.node.refreshing)
        engine.broken["read_marks"] = UnavailableError
        assert await shop.get_or_load("k:1", source.of("k"), **how) == "loaded"
        assert source.loads == ["k", "k"]

    @scenario
    async def test_an_unknown_consistency_is_refused(self, scene: Scene) -> None:
        """A consistency that is none is an error that names those that there are."""
        error = await raised(PolicyError, scene.shop().get("k:1", consistency="weak"))
        assert "bounded" in error.hint
