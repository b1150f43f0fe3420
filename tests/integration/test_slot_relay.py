from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told, told
from tests.support.postgres_servers import PostgresServer
from tests.support.slots import CONFIG, SLOT, TABLES, drained, forget_slot, make_slot, reading
from tests.support.waiting import until
from unstale import Cache
from unstale.core.record import EVERYTHING
from unstale.sources.relay import Relay
from unstale.sources.slot import SlotFeed
from unstale.sources.slot_admin import slot_of

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer(wal_level="logical", max_slot_wal_keep_size="1MB", min_wal_size="32MB") as server:
        yield server


@pytest.fixture
def server(own_server: PostgresServer) -> PostgresServer:
    """Give it with a shop whose tables are captured."""
    forget_slot(own_server)
    own_server.sql(*TABLES)
    make_slot(own_server)
    return own_server


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


def feeds(server: PostgresServer, cache: Cache) -> SlotFeed:
    """Open the slot for the relay of a cache."""
    return SlotFeed(server.url, cache.name, CONFIG, trouble=cache.node.trouble)


def test_h31_a_write_by_anyone_ends_what_depends_on_its_row(cache: Cache, server: PostgresServer) -> None:
    """Whoever writes with whatever client: entries of that row and queries of the table end, and no others."""
    loads: list[str] = []

    def load(key: str) -> int:
        loads.append(key)
        where = f"id = {key.rpartition(':')[2]}" if ":" in key else "true"
        return int(server.sql(f"SELECT sum(price) FROM product WHERE {where}")[0][0])

    def read(key: str, *tags: str) -> int:
        return int(cache.get_or_load(key, lambda: load(key), ttl="1h", tags=tags))

    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
        assert [read("product:17"), read("product:3"), read("total", "table:product")] == [1, 1, 20]
        server.sql("UPDATE product SET price = 5 WHERE id = 17")
        until(lambda: "product:17" in scopes_told(cache))
        until(lambda: read("product:17") == 5)
        until(lambda: read("total", "table:product") == 24)
        assert read("product:3") == 1
        assert loads.count("product:3") == 1
        server.sql("TRUNCATE product")
        server.sql("INSERT INTO product VALUES (3, 'acme', 7)")
        until(lambda: read("product:3") == 7)


def test_h02_a_relay_that_dies_between_publishing_and_settling(cache: Cache, server: PostgresServer) -> None:
    """What was published and not settled is published again by the next one, under the same ids: it is there once."""
    Relay(cache, lambda: feeds(server, cache)).once()
    server.sql("UPDATE product SET price = 2 WHERE id = 17")
    relay = Relay(cache, lambda: feeds(server, cache))
    with ExitStack() as stack:
        feed = relay._source()
        stack.callback(feed.close)

        def dies(_ids: object, _dead: object) -> None:
            raise KeyboardInterrupt

        feed.settle = dies  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            relay.once()
    assert scopes_told(cache).count("product:17") == 1
    assert Relay(cache, lambda: feeds(server, cache)).once() == 1, "it was settled: this shows nothing"
    assert scopes_told(cache).count("product:17") == 1


def lose(server: PostgresServer) -> None:
    """Let the server write so much that it no longer keeps what the slot would need."""
    server.sql("CREATE TABLE IF NOT EXISTS other (x integer)")
    for _ in range(8):
        server.sql("INSERT INTO other VALUES (1)", "SELECT pg_switch_wal()")
    server.sql("CHECKPOINT")
    assert server.sql("SELECT wal_status FROM pg_replication_slots") == [("lost",)]


def remake(server: PostgresServer) -> None:
    """Drop the slot, and make one of the same name."""
    server.sql(
        f"SELECT pg_drop_replication_slot('{SLOT}')",
        f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
    )


def drop(server: PostgresServer) -> None:
    """Drop the slot."""
    server.sql(f"SELECT pg_drop_replication_slot('{SLOT}')")


@pytest.mark.parametrize("accident", [lose, remake, drop])
def test_h20_a_slot_that_missed_commits(cache: Cache, server: PostgresServer, accident: object) -> None:
    """A slot that was lost, dropped or made anew missed commits: all is ended once, before the next pulse, and told."""
    assert callable(accident)
    said: list[str] = []
    cache.node.on_trouble = lambda what, error: said.append(f"{what}: {error}")
    relay = Relay(cache, lambda: feeds(server, cache))
    relay.once()
    ended = scopes_told(cache).count(EVERYTHING)
    server.sql("UPDATE product SET price = 2 WHERE id = 17")
    accident(server)
    before = cache.ports.log.read_head().head
    relay.once()
    logged = [one.scopes for one in told(cache)]
    assert logged.count((EVERYTHING,)) == ended + 1
    assert cache.ports.log.read_head().head == before + 2, "one record that ends all, then the pulse"
    assert [one for one in said if f"capture: the slot {SLOT}" in one], said
    server.sql("UPDATE product SET price = 3 WHERE id = 17")
    relay.once()
    relay.once()
    assert scopes_told(cache)[-3:] == ["product:17", "tenant:acme", "table:product"]
    assert scopes_told(cache).count(EVERYTHING) == ended + 1


def test_h20_a_slot_made_anew_while_it_is_read(server: PostgresServer) -> None:
    """Between a reading and its pulse the slot is made anew: no pulse; nothing that the new one told hides it."""
    with reading(server) as feed:
        drained(feed)
        feed._note_end()
        remake(server)
        server.sql("UPDATE product SET price = 3 WHERE id = 17")
        told, _complete = feed._peek(100)
        assert len(told) == 1
        feed._upto = told[0].end_lsn
        for call in (feed._advance, feed.timeline):
            with pytest.raises(Exception, match="not the one that was read"):
                call()
        life = server.sql("SELECT life FROM unstale_capture")
        drained(feed)
        assert server.sql("SELECT life FROM unstale_capture") != life


def test_two_caches_on_one_slot(server: PostgresServer) -> None:
    """What another cache's relay has read is never told again: whoever reads notices, and all ends, loudly."""
    said: list[str] = []
    with reading(server, trouble=lambda what, error: said.append(str(error))) as one, reading(server) as other:
        drained(one)
        before = one.timeline()
        server.sql("UPDATE product SET price = 2 WHERE id = 17")
        assert len(drained(other)) == 1
        assert drained(one) == []
        assert one.timeline() != before
    assert "moved on by others" in said[0]
    assert len({slot_of(name) for name in ("shop", "Shop", "shop-a", "shop_a", "shop a", "s" * 40, "s" * 41)}) == 7


def test_h19_a_stuck_slot_proves_nothing(cache: Cache, server: PostgresServer) -> None:
    """While the slot cannot be read the lease lapses, though log and database are well; afterwards it goes on."""
    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
        server.sql(f"ALTER PUBLICATION {SLOT} DROP TABLE product")
        until(lambda: not proven(cache))
        assert any(name.startswith("trouble:relay") for name in cache.node.counts)
        server.sql(f"ALTER PUBLICATION {SLOT} ADD TABLE product")
        until(lambda: proven(cache))


def test_h19_a_database_that_is_down_proves_nothing(cache: Cache, server: PostgresServer) -> None:
    """The lease lapses while the database is down; what is committed afterwards is told, and nothing was lost."""
    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
        ended = scopes_told(cache).count(EVERYTHING)
        server.sql("UPDATE product SET price = 2 WHERE id = 4")
        server.kill()
        until(lambda: not proven(cache))
        server.start()
        server.sql("UPDATE product SET price = 2 WHERE id = 5")
        until(lambda: proven(cache))
        until(lambda: {"product:4", "product:5"} <= set(scopes_told(cache)))
        assert scopes_told(cache).count(EVERYTHING) == ended, "a restart loses nothing"


def test_h20_a_promoted_standby_is_another_timeline(server: PostgresServer) -> None:
    """On a promoted standby there is no slot: another one is made, and the timeline is another one."""
    with reading(server) as feed:
        drained(feed)
        before = feed.timeline()
    with PostgresServer(of=server, wal_level="logical") as standby:
        with pytest.raises(Exception, match="recovery"), reading(standby) as feed:
            drained(feed)
        standby.promote()
        with reading(standby) as feed:
            assert drained(feed) == []
            after = feed.timeline()
            standby.sql("UPDATE product SET price = 2 WHERE id = 17")
            assert drained(feed) == [("product:17", "tenant:acme", "table:product")]
    assert after != before
    assert after.split("/")[1] != before.split("/")[1]
