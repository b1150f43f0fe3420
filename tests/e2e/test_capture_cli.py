from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.captures import config_file
from tests.support.outboxes import NAME, behind_an_outbox, scopes_told
from tests.support.postgres_servers import PostgresServer
from unstale.cli.app import app
from unstale.sources.outbox import Outbox

pytestmark = pytest.mark.real

CONFIG = """
caches = ["shop"]

[tables.product]
scopes = ["product:{id}", "tenant:{tenant}"]
bulk = 100
"""


def unstale(*arguments: str, code: int = 0) -> str:
    """Run the command."""
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(server: PostgresServer) -> str:
    """Give the URL of a database with a product and an empty outbox."""
    server.sql(
        "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "CREATE TABLE heap (a integer)",
        "CREATE TABLE product (id integer PRIMARY KEY, tenant text)", "INSERT INTO product VALUES (17, 'acme')",
    )  # fmt: skip
    with Outbox(server.url) as outbox:
        outbox.create()
    return server.url


def test_h31_from_install_to_remove(database: str, server: PostgresServer, tmp_path: Path) -> None:
    """A file says what is captured; what psql writes then reaches the log; what is wrong is named with its cure."""
    config = config_file(tmp_path, CONFIG)
    assert "Nothing is captured" in unstale("capture", "check", database)
    told = unstale("capture", "install", database, "--config", config)
    assert "Captured: product, for shop" in told
    assert "a row ends product:{id}, tenant:{tenant}, table:product" in told
    assert "unknown rows end product, tenant, table:product" in told
    assert "Was captured" in unstale("capture", "install", database, "--config", config)
    assert "Captured, and well: product" in unstale("capture", "check", database, "--config", config)
    url = f"sqlite:///{tmp_path}/shop.cache"
    with behind_an_outbox(url) as cache:
        server.sql("UPDATE product SET tenant = 'other'")
        assert "Published 1 record," in unstale("relay", url, "--database", database, "--name", NAME, "--once")
        assert {"product:17", "tenant:acme", "tenant:other", "table:product"} <= set(scopes_told(cache))
        server.sql("ALTER TABLE product DISABLE TRIGGER unstale_capture_delete")
        server.sql("DELETE FROM product")
        found = unstale("capture", "check", database, code=1)
        assert "unseen" in found
        assert "mend: ALTER TABLE product ENABLE ALWAYS TRIGGER unstale_capture_delete" in found
        told = unstale("relay", url, "--database", database, "--name", NAME, "--once", code=1)
        assert "changes may go unseen" in told
    read = msgspec.json.decode(unstale("capture", "check", database, "--json", code=1))
    assert (read["tables"], [one["unseen"] for one in read["findings"]]) == (["product"], [True])
    unstale("capture", "install", database, "--config", config)
    assert "Captured, and well" in unstale("capture", "check", database)
    assert "No longer captured: product." in unstale("capture", "remove", database)
    assert "Nothing was captured" in unstale("capture", "remove", database)
    functions = "SELECT count(*) FROM pg_proc WHERE starts_with(proname, 'unstale')"
    assert server.sql("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(0,)] == server.sql(functions)


def test_the_check_compares_with_the_file(database: str, server: PostgresServer, tmp_path: Path) -> None:
    """What the file says otherwise, or what it says and nobody has installed, exits with 1 and says how to mend it."""
    unstale("capture", "install", database, "--tables", "product", "--name", NAME)
    told = unstale("capture", "check", database, "--config", config_file(tmp_path, CONFIG), code=1)
    assert "it is not captured as the file says: scopes" in told
    assert f"mend: unstale capture install {database} --tables product --config FILE" in told
    more = CONFIG + '\n[tables.heap]\nscopes = ["heap"]\n'
    told = unstale("capture", "check", database, "--config", config_file(tmp_path, more), code=1)
    assert "heap: it is not captured" in told


def test_mistakes_are_told_with_what_to_write(database: str, tmp_path: Path) -> None:
    """A table without a key, one that is not there, no table at all, and a file that cannot be read are refused."""
    assert "add one, or say what its changes end" in unstale("capture", "install", database, "--tables", "heap", code=2)
    assert "no table nowhere" in unstale("capture", "install", database, "--tables", "nowhere", code=2)
    assert "no table is named" in unstale("capture", "install", database, code=2)
    wrong = config_file(tmp_path, "tables = 5")
    assert "cannot be read" in unstale("capture", "install", database, "--config", wrong, code=2)
    assert "is not captured" in unstale("capture", "remove", database, "--tables", "product", code=2)
    assert "no outbox elsewhere" in unstale(
        "capture", "install", database, "--tables", "product", "--table", "elsewhere", code=2
    )


def test_what_is_printed_can_be_run(database: str, server: PostgresServer, tmp_path: Path) -> None:
    """With --print nothing is done; run by somebody who may, the statements do the same."""
    said = unstale("capture", "install", database, "--tables", "product", "--name", NAME, "--print")
    assert "Nothing is captured" in unstale("capture", "check", database)
    server.sql(said)
    assert "Captured, and well: product" in unstale("capture", "check", database)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.executescript(
            "CREATE TABLE product (id INTEGER PRIMARY KEY); " + unstale("outbox", "ddl", "--dialect", "sqlite")
        )
        db.executescript(
            unstale("capture", "install", f"sqlite:///{tmp_path}/shop.db", "--tables", "product", "--print")
        )
    assert "Captured, and well: product" in unstale("capture", "check", f"sqlite:///{tmp_path}/shop.db")
