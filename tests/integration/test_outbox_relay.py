from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.outboxes import NAME, behind_an_outbox, proven, relaying, scopes_told, told
from tests.support.postgres_servers import PostgresServer
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale import Cache
from unstale.errors import NotPublishedError
from unstale.sources.outbox import Outbox
from unstale.sources.relay import TRIES, Relay

pytestmark = pytest.mark.real

REFUSING = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  IF length(NEW.data) > 600 THEN RAISE EXCEPTION 'too large for this server'; END IF;
  RETURN NEW;
END $f$"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(server: PostgresServer) -> str:
    """Give the URL of a database with an empty outbox."""
    with Outbox(server.url) as outbox:
        server.sql("; ".join(outbox.database.dialect.drop(outbox.table)))
        outbox.create()
    return server.url


def test_a_log_that_is_away_loses_nothing(database: str, server: PostgresServer) -> None:
    """While the log is down the outbox keeps what is committed; when it is back, empty, all of it arrives."""
    with (
        RedisServer() as log,
        behind_an_outbox(log.url) as cache,
        relaying(cache, database) as relay,
        psycopg.connect(database) as db,
    ):
        until(lambda: proven(cache))
        log.kill()
        for number in range(30):
            with cache.transaction(db) as tx:  # it neither fails nor waits
                tx.invalidate(f"s:{number}")
        assert server.sql("SELECT count(*) FROM unstale_outbox") == [(30,)]
        assert cache.stats()["trouble:publish"] == 30
        until(lambda: not proven(cache))
        log.start()
        until(lambda: proven(cache))
        until(lambda: server.sql("SELECT count(*) FROM unstale_outbox") == [(0,)])
        assert sorted(set(scopes_told(cache)) - {"*"}) == sorted(f"s:{number}" for number in range(30))
        assert relay.published >= 30
        assert server.sql("SELECT count(*) FROM unstale_outbox_dead") == [(0,)]


def test_a_record_that_the_log_refuses_blocks_nobody(database: str, server: PostgresServer) -> None:
    """After some tries a record that the log refuses for itself is put aside, and everything ends in its place."""
    with behind_an_outbox(server.url, name="refusing") as cache, psycopg.connect(database) as db:
        until(lambda: cache.node.generation)
        server.sql(REFUSING, "CREATE TRIGGER no BEFORE INSERT ON unstale.log FOR EACH ROW EXECUTE FUNCTION refuse()")
        cache.in_transaction(db).invalidate("before")
        cache.in_transaction(db).invalidate(*(f"many:{number}" for number in range(200)))
        cache.in_transaction(db).invalidate("after")
        db.commit()
        one = Relay(cache, database)
        for _ in range(TRIES):
            with pytest.raises(NotPublishedError):
                one.once()
        assert server.sql("SELECT count(*) FROM unstale_outbox") == [(3,)]
        with relaying(cache, database) as relay:
            until(lambda: relay.pulses)
        assert [scope for scope in scopes_told(cache) if scope != "*"] == ["before", "after"]
        assert any(record.why.startswith("the log refused") for record in told(cache))
        ((reason, name),) = server.sql("SELECT reason, cache FROM unstale_outbox_dead")
        assert "too large for this server" in reason
        assert name == "refusing"
        assert cache.stats()["trouble:relaying all records"] > 0
        server.sql("DROP TRIGGER no ON unstale.log", "DROP FUNCTION refuse")
        with Outbox(database) as outbox:
            outbox.replay([dead.id for dead in outbox.dead()])
        one.once()
        assert "many:199" in scopes_told(cache)


def test_two_relays_at_once_are_harmless(database: str, server: PostgresServer) -> None:
    """Relays that all lead, each for itself, publish each record once, and delete nothing that is not published."""
    with RedisServer() as log, behind_an_outbox(log.url) as cache, behind_an_outbox(log.url) as other:
        until(lambda: cache.node.generation and other.node.generation)
        relays = [Relay(cache, database, batch=3), Relay(other, database, batch=5)]
        with psycopg.connect(database) as db:
            for turn in range(20):
                for number in range(7):
                    cache.in_transaction(db).invalidate(f"s:{turn}:{number}")
                db.commit()
                for relay in relays:
                    relay._lead = lambda: True  # type: ignore[method-assign]
                    relay.start()
            until(lambda: server.sql("SELECT count(*) FROM unstale_outbox") == [(0,)])
        for relay in relays:
            relay.stop()
        scopes = [scope for scope in scopes_told(cache) if scope != "*"]
        assert len(scopes) == len(set(scopes)) == 140


def test_caches_of_one_database_have_relays_of_their_own(database: str, server: PostgresServer) -> None:
    """A relay reads the records of its own cache, and leaves those of others alone."""
    with RedisServer() as log, behind_an_outbox(log.url) as shop, behind_an_outbox(log.url, name="other") as other:
        with psycopg.connect(database) as db:
            shop.in_transaction(db).invalidate("one")
            other.in_transaction(db).invalidate("two")
        assert Relay(other, database).once() == 1
        assert server.sql("SELECT cache FROM unstale_outbox") == [(NAME,)]
        assert "two" in scopes_told(other)
        assert "one" not in scopes_told(other)


def test_h20_a_relay_that_starts_again_ends_nothing(database: str) -> None:
    """A relay that is restarted knows the timeline from the log: only the first one of all is a cold start."""
    with RedisServer() as log:
        for _ in range(3):
            with behind_an_outbox(log.url) as cache:
                relay = Relay(cache, database)
                relay.once()
                relay.once()
        with Cache(log.url, name=NAME) as cache:
            assert scopes_told(cache) == ["*"]


def test_a_relay_ends_with_its_cache(database: str) -> None:
    """When the cache is closed its relay ends by itself, and lets go of the lock."""
    with RedisServer() as log:
        with behind_an_outbox(log.url) as cache:
            relay = Relay(cache, database)
            relay.start()
            until(lambda: relay.pulses)
        until(lambda: not relay.leads)
        relay.stop()
        with behind_an_outbox(log.url) as cache:
            other = Relay(cache, database)
            before = other.interval_s

            @cache.cached("key:{number}", max_staleness="250ms")
            def load(number: int) -> int:
                return number

            assert load(1) == 1
            assert other.interval_s < before, "it pulses for the smallest bound"


def test_the_rights_that_the_guide_names_are_enough(database: str, server: PostgresServer) -> None:
    """Who writes needs to insert; the relay needs to read, insert and delete: in the three tables, and nothing else."""
    server.sql("CREATE ROLE writer LOGIN", "CREATE ROLE relay LOGIN", "GRANT INSERT ON unstale_outbox TO writer")
    for table in ("unstale_outbox", "unstale_outbox_dead", "unstale_outbox_life"):
        server.sql(f"GRANT SELECT, INSERT, DELETE ON {table} TO relay")
    writer, reader = (database.replace("app@", f"{name}@") for name in ("writer", "relay"))
    with RedisServer() as log, behind_an_outbox(log.url) as cache, psycopg.connect(writer) as db:
        cache.in_transaction(db).invalidate("one")
        db.commit()
        server.sql("INSERT INTO unstale_outbox (id, cache, data) VALUES ('bad', 'shop', '')")
        assert Relay(cache, reader).once() == 2
        assert "one" in scopes_told(cache)
        assert server.sql("SELECT id FROM unstale_outbox_dead") == [("bad",)]
    server.sql("DROP OWNED BY writer, relay", "DROP ROLE writer, relay")


def test_h20_a_relay_remembers_the_timeline_that_it_has_told(database: str) -> None:
    """The second pulse does not end everything once more, though the tail has not brought the first one back yet."""
    with RedisServer() as log, behind_an_outbox(log.url) as cache:
        until(lambda: cache.node.generation)
        assert cache.runtime.tail is not None
        cache.runtime.tail.stop()
        assert cache.runtime.tail.join(10.0)
        for _ in range(3):
            Relay(cache, database).once()
        assert scopes_told(cache) == ["*"]
