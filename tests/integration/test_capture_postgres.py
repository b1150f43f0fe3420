from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.support.captures import Told, capturing
from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told
from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from unstale import Cache
from unstale.core.record import EVERYTHING
from unstale.sources.capture import Capture
from unstale.sources.capture_config import Asked, Config
from unstale.sources.outbox import Outbox

pytestmark = pytest.mark.real

TABLES = (
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
    "GRANT USAGE ON SCHEMA public TO public",
    "CREATE TABLE product (id integer PRIMARY KEY, tenant text, price integer)",
    "CREATE TABLE offer (id integer PRIMARY KEY, p integer REFERENCES product ON UPDATE CASCADE ON DELETE CASCADE)",
    "INSERT INTO product VALUES (17, 'acme', 1), (18, 'other', 2)",
    "INSERT INTO offer VALUES (1, 17)",
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(server: PostgresServer) -> str:
    """Give the URL of a database with products, offers of them, and an empty outbox."""
    server.sql(*TABLES)
    with Outbox(server.url) as outbox:
        outbox.create()
    return server.url


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


def test_h31_whatever_writes_is_told(cache: Cache, server: PostgresServer, database: str) -> None:
    """Raw statements, COPY, upserts, MERGE, cascades and loaders that turn triggers off: each tells its rows."""
    capturing(database, "product", "offer")
    told = Told(cache, database)
    server.sql("UPDATE product SET price = 5 WHERE id = 17")
    assert told.scopes() == {"product:17", "table:product"}
    server.sql("UPDATE product SET price = 5 WHERE id = 99", "DELETE FROM product WHERE false")
    assert told.records() == [], "what changes no row tells nothing"
    server.sql("INSERT INTO product VALUES (17, 'acme', 6), (19, 'new', 1) ON CONFLICT (id) DO UPDATE SET price = 6")
    assert told.scopes() == {"product:17", "product:19", "table:product"}
    server.sql(
        "MERGE INTO product p USING (VALUES (18), (20)) v (id) ON p.id = v.id WHEN MATCHED THEN DELETE "
        "WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'merged', 1)"
    )
    assert told.scopes() == {"product:18", "product:20", "table:product"}
    with server.client() as client, client.cursor().copy("COPY product FROM STDIN") as copy:
        copy.write_row((21, "copied", 1))
    assert told.scopes() == {"product:21", "table:product"}
    server.sql("DELETE FROM product WHERE id = 17")
    assert told.scopes() == {"product:17", "offer:1", "table:product", "table:offer"}, "and what goes with the row"
    server.sql("SET session_replication_role = replica; UPDATE product SET price = 7 WHERE id = 19")
    assert told.scopes() == {"product:19", "table:product"}


def test_h31_a_changed_key_ends_the_old_and_the_new(cache: Cache, server: PostgresServer, database: str) -> None:
    """A row that moves from one scope to another ends both, as does one that gets another primary key."""
    capturing(database, product=["product:{id}", "tenant:{tenant}"])
    told = Told(cache, database)
    server.sql("UPDATE product SET tenant = 'other' WHERE id = 17")
    assert told.scopes() == {"product:17", "tenant:acme", "tenant:other", "table:product"}
    server.sql("UPDATE product SET id = 70, tenant = NULL WHERE id = 17")
    assert told.scopes() == {"product:17", "product:70", "tenant:other", "tenant:None", "table:product"}


def test_h31_one_statement_is_one_record_of_bounded_size(cache: Cache, server: PostgresServer, database: str) -> None:
    """Up to the limit rows are named; beyond it all rows end at once, but what has few values is still named."""
    capturing(database, product=["product:{id}", "tenant:{tenant}"])
    told = Told(cache, database)
    server.sql("TRUNCATE product CASCADE")
    told.records()
    server.sql("INSERT INTO product SELECT n, 't' || n % 3 FROM generate_series(1, 500) n")
    (record,) = told.records()
    assert set(record.scopes) == {"table:product", "tenant:t0", "tenant:t1", "tenant:t2"} | {
        f"product:{n}" for n in range(1, 501)
    }
    server.sql("UPDATE product SET price = 1")
    assert {f"product:{n}" for n in range(1, 501)} < told.scopes(), "before and after, a row counts once"
    server.sql("INSERT INTO product SELECT n, 't' || n % 3 FROM generate_series(501, 5000) n")
    server.sql("UPDATE product SET price = 2")
    for record in told.records():
        assert set(record.scopes) == {"product", "tenant", "table:product", "tenant:t0", "tenant:t1", "tenant:t2"}


def test_h31_truncate_ends_all_rows(cache: Cache, server: PostgresServer, database: str) -> None:
    """TRUNCATE names no row: all of the table end, and of the tables that it cascades to."""
    capturing(database, "product", "offer")
    told = Told(cache, database)
    server.sql("TRUNCATE product CASCADE")
    assert told.scopes() == {"product", "table:product", "offer", "table:offer"}


def test_h31_what_unknown_rows_end_can_be_chosen(cache: Cache, server: PostgresServer, database: str) -> None:
    """The file says what ends where rows are not known, and from how many rows on; no scopes at all end all rows."""
    asked = {"product": Asked(bulk=1, unknown=(EVERYTHING,)), "offer": Asked(scopes=())}
    with Capture(database) as capture:
        capture.install(capture.plan((), Config(tables=asked), [cache.name]))
    told = Told(cache, database)
    server.sql("UPDATE product SET price = 5 WHERE id = 17")
    assert told.scopes() == {"product:17", "table:product"}
    server.sql("UPDATE product SET price = 5")
    assert told.scopes() == {EVERYTHING, "table:product"}
    server.sql("UPDATE offer SET p = 18")
    assert told.scopes() == {"offer", "table:offer"}


def test_h18_a_record_is_there_when_the_change_can_be_seen(cache: Cache, server: PostgresServer, database: str) -> None:
    """Nothing is told before the commit or after a rollback; who reads upon a record sees the change."""
    capturing(database, "product")
    told = Told(cache, database)
    with psycopg.connect(database) as db, psycopg.connect(database, autocommit=True) as reader:
        db.execute("UPDATE product SET price = 5 WHERE id = 17")
        assert told.records() == []
        db.rollback()
        assert told.records() == []
        db.execute("UPDATE product SET price = 6 WHERE id = 17")
        with db.transaction(force_rollback=True):
            db.execute("UPDATE product SET price = 7 WHERE id = 18")
        with relaying(cache, database):
            until(lambda: proven(cache))
            for price in range(20):
                db.commit()
                db.execute("UPDATE product SET price = %s WHERE id = 17", (100 + price,))
                until(lambda price=price: scopes_told(cache).count("product:17") == price + 1)  # type: ignore[misc]
                seen = reader.execute("SELECT price FROM product WHERE id = 17").fetchone()
                assert seen == (99 + price if price else 6,)
    assert "product:18" not in scopes_told(cache)


def test_h21_a_late_commit_is_told(cache: Cache, server: PostgresServer, database: str) -> None:
    """A transaction whose trigger drew its number first, and that commits last, is told."""
    capturing(database, "product")
    with psycopg.connect(database) as slow, relaying(cache, database) as relay:
        slow.execute("UPDATE product SET price = 5 WHERE id = 17")
        server.sql("UPDATE product SET price = 5 WHERE id = 18")
        until(lambda: "product:18" in scopes_told(cache))
        seen = relay.pulses
        until(lambda: relay.pulses > seen + 2)
        assert "product:17" not in scopes_told(cache)
        slow.commit()
        until(lambda: "product:17" in scopes_told(cache))


def test_h02_what_changed_while_no_relay_ran_is_told(cache: Cache, server: PostgresServer, database: str) -> None:
    """A change that was committed while every process but the database's was down is told when one comes back."""
    capturing(database, "product")
    server.sql("UPDATE product SET price = 5 WHERE id = 17")
    server.restart()
    with relaying(cache, database):
        until(lambda: "product:17" in scopes_told(cache))


def test_h31_a_cached_function_reads_what_psql_wrote(cache: Cache, server: PostgresServer, database: str) -> None:
    """A function that is cached by the row's key never serves the old row for longer than the bound."""
    capturing(database, "product")

    @cache.cached("product:{product_id}", ttl="1h")
    def price(product_id: int) -> int:
        found = server.sql(f"SELECT price FROM product WHERE id = {product_id}")
        return int(found[0][0])

    with relaying(cache, database):
        until(lambda: proven(cache))
        assert price(17) == 1
        server.sql("UPDATE product SET price = 5 WHERE id = 17")
        until(lambda: price(17) == 5, 5.0)


def test_writers_need_no_right_to_the_outbox(cache: Cache, server: PostgresServer, database: str) -> None:
    """A role that may write the table and nothing else is told like any other, and can put nothing in the way."""
    capturing(database, "product")
    told = Told(cache, database)
    server.sql("CREATE ROLE clerk LOGIN", "GRANT ALL ON product TO clerk", "CREATE SCHEMA own AUTHORIZATION clerk")
    with closing(server.client(user="clerk")) as clerk:
        clerk.execute("CREATE TEMP TABLE unstale_outbox (id text, cache text, data bytea)")
        clerk.execute("CREATE TEMP TABLE new_rows (id int)")
        clerk.execute("CREATE FUNCTION own.replace(text, text, text) RETURNS text LANGUAGE sql AS $$SELECT 'mine'$$")
        clerk.execute("SET search_path = own, pg_catalog, public")
        clerk.execute("UPDATE product SET price = 5 WHERE id = 17")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            clerk.execute("SELECT * FROM public.unstale_outbox")
    (record,) = told.records()
    assert (set(record.scopes), record.who, record.why) == ({"product:17", "table:product"}, "clerk", "UPDATE product")
    assert record.at > 0
    assert record.id != "mine", "its own functions are not run with the rights of who has installed"
    server.sql("DROP OWNED BY clerk", "DROP ROLE clerk")


def test_notify_can_be_left_out(cache: Cache, server: PostgresServer, database: str) -> None:
    """Without waking the relay a transaction can be prepared, and the next pulse tells it."""
    with PostgresServer(max_prepared_transactions=2) as other:
        other.sql(*TABLES)
        with Outbox(other.url) as outbox:
            outbox.create()
        for notify, allowed in ((True, False), (False, True)):
            with Capture(other.url) as capture:
                capture.install(capture.plan(["product"], Config(notify=notify), [cache.name]))
            with psycopg.connect(other.url) as db:
                db.execute("UPDATE product SET price = 5 WHERE id = 17")
                if not allowed:
                    with pytest.raises(psycopg.errors.FeatureNotSupported):
                        db.execute("PREPARE TRANSACTION 'one'")
                    continue
                db.execute("PREPARE TRANSACTION 'one'")
            other.sql("COMMIT PREPARED 'one'")
        assert "product:17" in Told(cache, other.url).scopes()
