from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.binlogs import TABLES as BINLOG_TABLES
from tests.support.binlogs import logging_server
from tests.support.outboxes import NAME, behind_an_outbox, scopes_told
from tests.support.postgres_servers import PostgresServer
from tests.support.slots import TABLES
from unstale.cli.app import app

pytestmark = pytest.mark.real

CONFIG = '[tables.product]\nscopes = ["product:{id}"]\n'


def unstale(*arguments: str, code: int = 0) -> str:
    """Run the command."""
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server with a shop."""
    with PostgresServer(wal_level="logical") as server:
        server.sql(*TABLES)
        yield server


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Give a file that says what is captured."""
    file = tmp_path / "capture.toml"
    file.write_text(CONFIG)
    return str(file)


def test_a_slot_from_its_making_to_its_end(server: PostgresServer, config: str, tmp_path: Path) -> None:
    """A slot is made, relayed, looked at and removed; each mistake is told with its cure."""
    url, database, name = f"sqlite:///{tmp_path}/shop.cache", server.url, ("--name", NAME)
    relay = ("relay", url, "--database", database, *name, "--source", "slot", "--once", "--config")
    assert "There is no slot" in unstale("capture", "slot", "status", database, *name, code=1)
    assert "capture slot create" in unstale(*relay, config, code=1)
    assert "unstale_shop: it tells of product" in unstale(
        "capture", "slot", "create", database, *name, "--config", config
    )
    assert "already" in unstale("capture", "slot", "create", database, *name, "--config", config, code=1)
    unstale(*relay, config)
    server.sql("UPDATE product SET price = 2 WHERE id = 17")
    assert "Published 1 record," in unstale(*relay, config)
    with behind_an_outbox(url) as cache:
        assert {"product:17", "table:product"} <= set(scopes_told(cache))
    status = msgspec.json.decode(unstale("capture", "slot", "status", database, *name, "--json"))
    assert (status["sound"], status["tables"]) == (True, ["public.product"])
    assert "it tells of public.product" in unstale("capture", "slot", "status", database, *name)
    server.sql("SELECT pg_drop_replication_slot('unstale_shop')",
               "SELECT pg_create_logical_replication_slot('unstale_shop', 'pgoutput')")  # fmt: skip
    assert "made anew" in unstale("capture", "slot", "status", database, *name, code=1)
    assert "is gone" in unstale("capture", "slot", "drop", database, *name)
    assert "There was no slot" in unstale("capture", "slot", "drop", database, *name)


def test_mistakes_are_told_with_what_to_write(server: PostgresServer, config: str, tmp_path: Path) -> None:
    """A file that is not there, a name that is none, another database and another level of the log are refused."""
    url = f"sqlite:///{tmp_path}/shop.cache"
    assert "cannot be read" in unstale("relay", url, "--database", server.url, "--source", "slot", code=2)
    wrong = unstale("capture", "slot", "create", server.url, "--config", config, "--slot", "A-b", code=2)
    assert "small letters" in wrong
    (tmp_path / "shop.db").touch()
    assert "no replication slots" in unstale("capture", "slot", "drop", f"sqlite:///{tmp_path}/shop.db", code=2)
    with PostgresServer() as plain:
        plain.sql(*TABLES)
        assert "wal_level = logical" in unstale("capture", "slot", "create", plain.url, "--config", config, code=1)


def test_a_binary_log_is_relayed(config: str, tmp_path: Path) -> None:
    """The relay reads the binary log of a MariaDB."""
    url = f"sqlite:///{tmp_path}/shop.cache"
    with logging_server() as server:
        server.sql(*BINLOG_TABLES)
        relay = ("relay", url, "--database", server.url, "--name", NAME, "--source", "binlog", "--config", config)
        unstale(*relay, "--once")
        server.sql("UPDATE shop.product SET price = 2 WHERE id = 17")
        assert "Published 1 record," in unstale(*relay, "--once")
        with behind_an_outbox(url) as cache:
            assert "product:17" in scopes_told(cache)
