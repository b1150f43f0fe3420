from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.captures import Told, capturing
from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told
from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from unstale import Cache
from unstale.core.record import EVERYTHING
from unstale.errors import SourceError, UsageError
from unstale.sources.capture import Capture, CaptureError
from unstale.sources.capture_config import Asked, Config
from unstale.sources.outbox import Outbox
from unstale.sources.relay import Relay

pytestmark = pytest.mark.real

PRODUCT = "CREATE TABLE product (id integer PRIMARY KEY, tenant text, price integer)"
ANOTHER = (
    "DROP TRIGGER unstale_capture_update ON product; CREATE TRIGGER unstale_capture_update AFTER UPDATE OF price "
    "ON product FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
)
EMPTIED = (
    "DO $$ BEGIN EXECUTE 'CREATE OR REPLACE FUNCTION ' || (SELECT oid::regproc FROM pg_proc WHERE starts_with("
    "proname, 'unstale_capture')) || '() RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END'''; END $$"
)
WAYS = {
    "disabled": ("ALTER TABLE product DISABLE TRIGGER unstale_capture_update", "is disabled"),
    "off for loaders": ("ALTER TABLE product ENABLE TRIGGER unstale_capture_update", "does not fire ALWAYS"),
    "missing": ("DROP TRIGGER unstale_capture_update ON product", "is missing"),
    "another": (ANOTHER, "is not the one"),
    "emptied": (EMPTIED, "its function is not the one"),
    "renamed away": ("ALTER TABLE product RENAME TO article", "the table is gone"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(server: PostgresServer) -> str:
    """Give the URL of a database with a product and an empty outbox."""
    server.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", PRODUCT, "INSERT INTO product VALUES (17, 'a', 1)")
    with Outbox(server.url) as outbox:
        outbox.create()
    return server.url


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


@pytest.mark.parametrize("way", WAYS)
def test_h31_a_trigger_that_is_not_there_is_found(
    cache: Cache, server: PostgresServer, database: str, way: str
) -> None:
    """Whatever was done to a trigger, the check names it and its cure, and no pulse is written; the cure mends it."""
    capturing(database, "product")
    Relay(cache, database).once()
    statement, text = WAYS[way]
    server.sql(statement)
    with Capture(database) as capture:
        (finding,) = capture.check()
    assert text in finding.text
    assert finding.unseen
    relay = Relay(cache, database)
    with pytest.raises(CaptureError, match="changes may go unseen"):
        relay.once()
    assert relay.pulses == 0
    if way == "renamed away":
        with Capture(database) as capture:
            assert capture.remove(["product"]) == ["product"]
    elif finding.mend.startswith("ALTER"):
        server.sql(finding.mend)
    else:
        assert finding.mend == "unstale capture install DATABASE --tables product"
        assert [one.name for one in capturing(database, "product")] == ["product"]
    with Capture(database) as capture:
        assert capture.check() == []
    Relay(cache, database).once()


def test_h31_while_a_trigger_is_off_nothing_is_proven(cache: Cache, server: PostgresServer, database: str) -> None:
    """The lease lapses and what is told is published all the same; when it is on again everything ends, once."""
    with Capture(database) as capture:  # nothing but the pulse that is due makes the relay read
        capture.install(capture.plan(["product"], Config(notify=False), [cache.name]))
    with relaying(cache, database) as relay:
        until(lambda: proven(cache))
        server.sql("ALTER TABLE product DISABLE TRIGGER unstale_capture_update")
        until(lambda: not proven(cache))
        before = relay.pulses
        server.sql("INSERT INTO product VALUES (18, 'b', 1)")
        until(lambda: "product:18" in scopes_told(cache))
        assert relay.pulses == before
        ended = scopes_told(cache).count(EVERYTHING)
        server.sql("ALTER TABLE product ENABLE ALWAYS TRIGGER unstale_capture_update")
        until(lambda: proven(cache))
        assert scopes_told(cache).count(EVERYTHING) == ended + 1


def test_h31_a_trigger_that_was_off_for_a_moment_is_noticed(
    cache: Cache, server: PostgresServer, database: str
) -> None:
    """Disabled and enabled again in one transaction, between two looks: the row that went unseen is served no more."""
    capturing(database, "product")

    @cache.cached("product:{product_id}", ttl="1h")
    def price(product_id: int) -> int:
        return int(server.sql(f"SELECT price FROM product WHERE id = {product_id}")[0][0])

    with relaying(cache, database):
        until(lambda: proven(cache))
        assert price(17) == 1
        server.sql(
            "BEGIN; ALTER TABLE product DISABLE TRIGGER unstale_capture_update; UPDATE product SET price = 5;"
            "ALTER TABLE product ENABLE ALWAYS TRIGGER unstale_capture_update; COMMIT"
        )
        until(lambda: price(17) == 5, 5.0)
    assert "product:17" not in scopes_told(cache), "no trigger has told it"


def test_h31_a_rewritten_column_ends_everything(cache: Cache, server: PostgresServer, database: str) -> None:
    """ALTER TABLE changes all rows and fires no trigger; it shows in the columns. What changes none ends nothing."""
    capturing(database, "product")
    relay = Relay(cache, database)
    relay.once()
    ended = scopes_told(cache).count(EVERYTHING)
    server.sql(
        "VACUUM FULL product", "ANALYZE product", "CREATE INDEX ON product (price)", "GRANT ALL ON product TO app"
    )
    relay.once()
    assert scopes_told(cache).count(EVERYTHING) == ended
    server.sql("ALTER TABLE product ALTER price TYPE bigint USING price * 2")
    relay.once()
    assert scopes_told(cache).count(EVERYTHING) == ended + 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("ALTER TABLE product DROP COLUMN tenant", "it names the column|the column 'tenant'"),
        ("ALTER TABLE product RENAME COLUMN tenant TO owner", "the column 'tenant'"),
        ("ALTER TABLE product ALTER tenant TYPE integer USING 5", "another type: tenant"),
        (
            "ALTER TABLE product DROP CONSTRAINT product_pkey; ALTER TABLE product ADD PRIMARY KEY (price)",
            "primary key",
        ),
    ],
)
def test_h31_after_a_schema_change_writes_go_on(
    cache: Cache, server: PostgresServer, database: str, change: str, text: str
) -> None:
    """A template that names what is gone: writes do not fail, all rows end with each, and the check says what to do."""
    capturing(database, product=["product:{id}", "tenant:{tenant}"])
    told = Told(cache, database)
    server.sql(change)
    server.sql("UPDATE product SET price = 5 WHERE id = 17")
    unknown = {"product", "tenant", "table:product"}
    assert told.scopes() >= ({"product:17"} if "primary key" in text else unknown)
    with Capture(database) as capture:
        config = Config(tables={"product": Asked(scopes=("product:{id}", "tenant:{tenant}"))})
        (finding,) = capture.check(None if "primary key" in text else config)
    assert finding.mend
    assert not finding.unseen
    if "|" not in text:
        assert text in finding.text
    assert [one.name for one in capturing(database, product=["product:{id}"])] == ["product"]
    server.sql("UPDATE product SET price = 6 WHERE id = 17")
    assert told.scopes() == {"product:17", "table:product"}


def test_h31_partitions_are_captured(cache: Cache, server: PostgresServer, database: str) -> None:
    """Rows of partitions are told under the table's name, also of one that is new or written by its own name."""
    server.sql(
        "CREATE TABLE stock (id integer PRIMARY KEY, n integer) PARTITION BY RANGE (id)",
        "CREATE TABLE stock1 PARTITION OF stock FOR VALUES FROM (0) TO (100)",
    )
    capturing(database, "stock")
    told = Told(cache, database)
    server.sql("CREATE TABLE stock2 PARTITION OF stock FOR VALUES FROM (100) TO (2000)")
    server.sql("INSERT INTO stock VALUES (1, 1)", "INSERT INTO stock2 VALUES (100, 1)")
    assert told.scopes() == {"stock:1", "stock:100", "table:stock"}
    server.sql("UPDATE stock SET id = 101 WHERE id = 1")
    assert told.scopes() == {"stock:1", "stock:101", "table:stock"}
    server.sql("INSERT INTO stock SELECT n, 1 FROM generate_series(200, 1900) n")
    records = told.records()
    assert len(records) == 501, "what one transaction tells is bounded"
    assert set(records[-1].scopes) == {"stock", "table:stock"}
    server.sql("SET session_replication_role = replica; UPDATE stock2 SET n = 2 WHERE id = 101")
    assert told.scopes() == {"stock:101", "table:stock"}
    for statement in (
        "TRUNCATE stock2", "ALTER TABLE stock DETACH PARTITION stock2",
        "ALTER TABLE stock ATTACH PARTITION stock2 FOR VALUES FROM (100) TO (2000)", "DROP TABLE stock2",
    ):  # fmt: skip
        ended = scopes_told(cache).count(EVERYTHING)
        server.sql(statement)
        told.records()
        assert scopes_told(cache).count(EVERYTHING) == ended + 1, statement
    with Capture(database) as capture:
        assert capture.check() == []
        server.sql("ALTER TABLE stock1 DISABLE TRIGGER unstale_capture_delete")
        (finding,) = capture.check()
        assert "stock1 is disabled" in finding.text


def test_h31_what_cannot_be_captured_is_refused(server: PostgresServer, database: str) -> None:
    """Each refusal says what to do: a table without a key, a view, a column whose value has no one text, and so on."""
    server.sql(
        'CREATE TABLE heap (a integer, at timestamptz, name text COLLATE "C")',
        "CREATE VIEW seen AS SELECT * FROM product",
        "CREATE UNLOGGED TABLE lost (id integer PRIMARY KEY)",
        "CREATE TABLE parent (id integer PRIMARY KEY)",
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "CREATE TABLE stock (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE stock1 PARTITION OF stock FOR VALUES FROM (0) TO (100)",
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE folded (name text COLLATE blind PRIMARY KEY)",
    )
    refused: dict[str, tuple[str, str, tuple[str, ...] | None]] = {
        "heap": ("no primary key", "say what its changes end", None),
        "seen": ("no table of this database", "the tables that it reads", None),
        "lost": ("a crash empties it", "SET LOGGED", None),
        "parent": ("inherited", "PARTITION BY", None),
        "child": ("inherits", "PARTITION BY", None),
        "stock1": ("is a partition", "whose partition", None),
        "folded": ("different texts for equal", "scopes = []", None),
        "nowhere": ("no table nowhere", "as the database has it", None),
        "product": ("'size', which the table does not have", "name others", ("product:{size}",)),
    }
    with Capture(database) as capture:
        for table, (text, hint, scopes) in refused.items():
            with pytest.raises(UsageError, match=text) as error:
                capture.plan([table], Config(tables={table: Asked(scopes=scopes)}), ["shop"])
            assert hint in error.value.hint
        for templates, text in (
            (("heap:{at}",), "no one text"), (("heap:{a}{name}",), "between"), (("a",) * 11, "has 11 scopes"),
            (("*",), "cannot stand in the template"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=text):
                capture.plan(["heap"], Config(tables={"heap": Asked(scopes=templates)}), ["shop"])
        with pytest.raises(UsageError, match="no table is named"):
            capture.plan([], Config(), ["shop"])
        with pytest.raises(UsageError, match="no cache is named"):
            capture.plan(["product"], Config(), [])
        with pytest.raises(UsageError, match="out of range"):
            capture.plan(["product"], Config(bulk=0), ["shop"])
        with pytest.raises(UsageError, match="is not captured"):
            capture.remove(["product"])
        assert capture.remove() == []


def test_installing_waits_for_nobody_for_long(server: PostgresServer, database: str) -> None:
    """A table that a long transaction holds is not captured, and nothing is half done; again changes nothing."""
    with server.client() as client:
        client.execute("BEGIN; UPDATE product SET price = 2")
        with pytest.raises(SourceError, match="lock timeout"):
            capturing(database, "product")
        client.execute("ROLLBACK")
    with Capture(database) as capture:
        assert capture.captured() == []
    assert [one.name for one in capturing(database, "product")] == ["product"]
    assert capturing(database, "product") == []
