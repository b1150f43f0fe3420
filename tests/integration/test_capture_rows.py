from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.captures import Told, capturing
from tests.support.mariadb_servers import MariaDBServer
from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told
from tests.support.waiting import until
from unstale import Cache
from unstale.core.record import EVERYTHING
from unstale.errors import UsageError
from unstale.sources.capture import Capture, CaptureError
from unstale.sources.capture_config import Asked, Config
from unstale.sources.outbox import Outbox
from unstale.sources.relay import Relay

pytestmark = pytest.mark.real

SCOPES = ["product:{id}", "tenant:{tenant}"]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDBServer]:
    """Give a server that tests share."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def maria(mariadb: MariaDBServer) -> MariaDBServer:
    """Give a server with a product and an empty outbox."""
    mariadb.sql(
        "DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop CHARACTER SET utf8mb4", "USE shop",
        "CREATE TABLE product (id integer PRIMARY KEY, tenant varchar(20) COLLATE utf8mb4_bin, sku integer UNIQUE)",
        "INSERT INTO product VALUES (17, 'acme', 1), (18, 'other', 2)",
    )  # fmt: skip
    with Outbox(mariadb.url) as outbox:
        outbox.create()
    return mariadb


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a file with products and an empty outbox."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "CREATE TABLE product (id INTEGER PRIMARY KEY, tenant TEXT, sku INTEGER UNIQUE);"
            "CREATE TABLE offer (id INTEGER PRIMARY KEY, product INTEGER REFERENCES product ON DELETE CASCADE);"
            "INSERT INTO product VALUES (17, 'acme', 1), (18, 'other', 2); INSERT INTO offer VALUES (1, 17);"
        )
    with Outbox(f"sqlite:///{path}") as outbox:
        outbox.create()
    return path


def test_h31_mariadb_tells_each_row(cache: Cache, maria: MariaDBServer) -> None:
    """Raw statements, upserts and REPLACE tell the rows before and after; a rollback tells nothing (H18)."""
    capturing(maria.url, product=SCOPES)
    told = Told(cache, maria.url)
    with closing(maria.client(autocommit=True)) as db, db.cursor() as cursor:
        cursor.execute("UPDATE product SET tenant = 'new' WHERE id = 17")
        assert told.scopes() == {"product:17", "tenant:acme", "tenant:new", "table:product"}
        cursor.execute("REPLACE INTO product VALUES (19, 'third', 2)")
        assert told.scopes() == {"product:18", "tenant:other", "product:19", "tenant:third", "table:product"}
        cursor.execute("INSERT INTO product VALUES (17, 'x', 9) ON DUPLICATE KEY UPDATE tenant = 'dup'")
        assert told.scopes() == {"product:17", "tenant:new", "tenant:dup", "table:product"}
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM product WHERE id = 17")
        assert told.records() == []
        cursor.execute("ROLLBACK")
        assert told.records() == []
        cursor.execute("DELETE FROM product")
        records = told.records()
        assert {scope for one in records for scope in one.scopes} >= {"product:17", "product:19"}
        assert {one.who.partition("@")[0] for one in records} == {"app"}


def test_h31_mariadb_truncate_is_seen_by_the_number_of_the_table(cache: Cache, maria: MariaDBServer) -> None:
    """TRUNCATE fires no trigger there: the check says so, unless the user may see that the table is another one."""
    assert [one.name for one in capturing(maria.url, "product")] == ["product"]
    assert capturing(maria.url, "product") == []
    with Capture(maria.url) as capture:
        (finding,) = capture.check()
        assert "TRUNCATE goes unseen" in finding.text
        assert "GRANT PROCESS" in finding.mend
        maria.sql("GRANT PROCESS ON *.* TO 'app'@'127.0.0.1'")
    try:
        with Capture(maria.url) as capture:
            assert capture.check() == []
        relay = Relay(cache, maria.url)
        relay.once()
        for _round in range(2):
            ended = scopes_told(cache).count(EVERYTHING)
            maria.sql("TRUNCATE shop.product")
            relay.once()
            assert scopes_told(cache).count(EVERYTHING) == ended + 1
            relay.once()
            assert scopes_told(cache).count(EVERYTHING) == ended + 1
    finally:
        maria.sql("REVOKE PROCESS ON *.* FROM 'app'@'127.0.0.1'")


def test_h31_mariadb_triggers_that_are_gone_prove_nothing(cache: Cache, maria: MariaDBServer) -> None:
    """A trigger that was dropped is found, nothing is proven, and installing mends it."""
    capturing(maria.url, "product")
    with relaying(cache, maria.url):
        until(lambda: proven(cache))
        ((trigger,),) = maria.sql(
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_name LIKE 'unstale%update'"
        )
        maria.sql(f"DROP TRIGGER shop.{trigger}")
        until(lambda: not proven(cache))
        with Capture(maria.url) as capture:
            assert any("is missing" in one.text and one.unseen for one in capture.check())
        capturing(maria.url, "product")
        until(lambda: proven(cache))
    with Capture(maria.url) as capture:
        assert capture.remove() == ["product"]
    assert maria.sql("SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = 'shop'") == [(0,)]


def test_h31_what_mariadb_cannot_tell_is_refused(maria: MariaDBServer) -> None:
    """Each refusal says what to do: cascades that fire no trigger, an engine without transactions, collations."""
    maria.sql(
        "USE shop", "CREATE TABLE memo (id integer PRIMARY KEY) ENGINE = MyISAM", "CREATE VIEW seen AS SELECT 1",
        "CREATE TABLE offer (id integer PRIMARY KEY, p integer, FOREIGN KEY (p) REFERENCES product (id) "
        "ON DELETE CASCADE)",
        "CREATE TABLE folded (name varchar(9) COLLATE utf8mb4_general_ci PRIMARY KEY)",
        "CREATE TABLE heap (a integer)",
    )  # fmt: skip
    refused = {
        "memo": ("MyISAM", "InnoDB"), "seen": ("no table", "tables that it reads"),
        "offer": ("foreign key", "RESTRICT"),
        "folded": ("different texts for equal", "scopes = []"), "heap": ("no primary key", "add one"),
        "nowhere": ("no table", "as the database has it"),
    }  # fmt: skip
    with Capture(maria.url) as capture:
        for table, (text, hint) in refused.items():
            with pytest.raises(UsageError, match=text) as error:
                capture.plan([table], Config(), ["shop"])
            assert hint in error.value.hint


def test_h31_sqlite_tells_each_row(cache: Cache, path: Path) -> None:
    """Raw statements, cascades, and what REPLACE removes without a word, are told; a rollback tells nothing (H18)."""
    url = f"sqlite:///{path}"
    capturing(url, "offer", product=SCOPES)
    told = Told(cache, url)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = on")
        db.execute("UPDATE product SET tenant = 'new' WHERE id = 17")
        assert told.scopes() == {"product:17", "tenant:acme", "tenant:new", "table:product"}
        db.execute("REPLACE INTO product VALUES (19, 'third', 2)")
        assert told.scopes() == {"product:18", "tenant:other", "product:19", "tenant:third", "table:product"}
        db.execute("UPDATE OR REPLACE product SET sku = 2 WHERE id = 17")
        assert {"product:17", "product:19", "tenant:third"} <= told.scopes()
        db.execute("REPLACE INTO product VALUES (17, 'other', 5)")
        assert {"product:17", "tenant:new", "tenant:other"} <= told.scopes()
        db.execute("BEGIN")
        db.execute("DELETE FROM product")
        db.execute("ROLLBACK")
        assert told.records() == []
        db.execute("INSERT INTO offer VALUES (2, 17)")
        told.records()
        db.execute("DELETE FROM product")
        assert {"product:17", "offer:2", "table:offer"} <= told.scopes()
        db.execute("INSERT INTO product VALUES (1, x'00', 7)")
        assert {"product", "tenant", "table:product"} <= told.scopes(), "no text in a column of texts: which row?"


def test_h31_sqlite_triggers_that_were_dropped_are_noticed(cache: Cache, path: Path) -> None:
    """A trigger that is gone proves nothing; one that was gone for a moment ends everything."""
    url = f"sqlite:///{path}"
    capturing(url, "product")
    relay = Relay(cache, url)
    relay.once()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        ((name, sql),) = db.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'unstale%___update' "
                                    "AND name NOT LIKE '%replace%'").fetchall()  # fmt: skip
        ended = scopes_told(cache).count(EVERYTHING)
        for statement in ("BEGIN", f"DROP TRIGGER {name}", "UPDATE product SET tenant = 'x'", sql, "COMMIT"):
            db.execute(statement)
        relay.once()
        assert scopes_told(cache).count(EVERYTHING) == ended + 1
        db.execute(f"DROP TRIGGER {name}")
        with pytest.raises(CaptureError, match="is missing"):
            Relay(cache, url).once()
        db.execute(sql.replace("UPDATE ON", "UPDATE OF tenant ON"))
        with pytest.raises(CaptureError, match="not the one"):
            Relay(cache, url).once()
        assert [one.name for one in capturing(url, "product")] == ["product"]
        Relay(cache, url).once()
        db.execute("DROP TABLE product")
        with pytest.raises(CaptureError, match="is gone"):
            Relay(cache, url).once()
    with Capture(url) as capture:
        assert capture.remove() == ["product"]
        assert capture.check() == []


def test_h31_what_sqlite_cannot_tell_is_refused(path: Path) -> None:
    """Each refusal says what to do: a view, a key that ignores case, a unique index over an expression."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "CREATE VIEW seen AS SELECT 1; CREATE TABLE folded (name TEXT PRIMARY KEY COLLATE NOCASE);"
            "CREATE TABLE lower (id INTEGER PRIMARY KEY, n TEXT); CREATE UNIQUE INDEX low ON lower (upper(n));"
            "CREATE TABLE heap (a REAL);"
        )
    refused = {
        "seen": "no table of rows", "folded": "different texts for equal", "lower": "over an expression",
        "heap": "no primary key", "nowhere": "no table",
    }  # fmt: skip
    with Capture(f"sqlite:///{path}") as capture:
        for table, text in refused.items():
            with pytest.raises(UsageError, match=text):
                capture.plan([table], Config(), ["shop"])
        with pytest.raises(UsageError, match="no one text"):
            capture.plan(["heap"], Config(tables={"heap": Asked(scopes=("heap:{a}",))}), ["shop"])
    with Capture(f"sqlite:///{path}", table="elsewhere") as capture, pytest.raises(UsageError, match="no outbox"):
        capture.plan(["product"], Config(), ["shop"])
