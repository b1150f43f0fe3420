from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.outboxes import NAME, behind_an_outbox, proven, scopes_told
from tests.support.processes import DEADLINE_S, PATHS
from tests.support.waiting import until
from unstale.cli.app import app

pytestmark = pytest.mark.real


def unstale(*arguments: str, code: int = 0) -> str:
    """Run the command."""
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Give the URL of a database whose outbox was made by what the command prints."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.executescript(unstale("outbox", "ddl", "--dialect", "sqlite"))
        db.executescript(unstale("outbox", "ddl", "--dialect", "sqlite"))
    return f"sqlite:///{tmp_path}/shop.db"


def write(database: str, *rows: tuple[str, bytes]) -> None:
    """Write rows by hand."""
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as db:
        db.executemany("INSERT INTO unstale_outbox (id, cache, data) VALUES (?, 'shop', ?)", rows)
        db.commit()


def test_ddl_names_every_dialect_and_table() -> None:
    """The statements are for the dialect and the table that were asked for; another dialect or name is refused."""
    for dialect, word in (("postgresql", "bytea"), ("mysql", "InnoDB"), ("sqlite", "AUTOINCREMENT")):
        assert word in unstale("outbox", "ddl", "--dialect", dialect)
    assert "CREATE TABLE IF NOT EXISTS app.told_dead (" in unstale(
        "outbox", "ddl", "--dialect", "postgresql", "--table", "app.told"
    )
    assert "no plain name" in unstale("outbox", "ddl", "--dialect", "sqlite", "--table", "x; drop", code=2)
    unstale("outbox", "ddl", "--dialect", "oracle", code=2)


def test_what_waits_and_what_was_put_aside(database: str, tmp_path: Path) -> None:
    """The status tells both; what was put aside is listed, replayed, and discarded."""
    url = f"sqlite:///{tmp_path}/shop.cache"
    assert "Nothing waits" in unstale("outbox", "status", database)
    write(database, ("bad", b"\xc1"), ("worse", b""))
    assert "2" in unstale("outbox", "status", database)
    link = (url, "--database", database, "--name", NAME)
    assert "Published 2 records" in unstale("relay", *link, "--once")
    (one,) = msgspec.json.decode(unstale("outbox", "status", database, "--json", code=1))
    assert (one["rows"], one["dead"]) == (0, 2)
    assert "put aside" in unstale("outbox", "status", database, code=1)
    listed = unstale("outbox", "dead", database)
    assert "bad" in listed
    assert "no record that this version can read" in listed
    assert [one["data"] for one in msgspec.json.decode(unstale("outbox", "dead", database, "--json"))] == ["c1", ""]
    assert "reads 1 of them" in unstale("outbox", "replay", database, "bad")
    assert "Published 1 record," in unstale("relay", *link, "--once")
    for wrong in ((), ("no such",), ("bad", "--all")):
        unstale("outbox", "discard", database, *wrong, code=2)
    assert "2 of them are gone" in unstale("outbox", "discard", database, "--all")
    assert "Nothing was put aside" in unstale("outbox", "dead", database)


def test_mistakes_are_told_with_what_to_write(database: str, tmp_path: Path) -> None:
    """A database that is none, one without an outbox, and an interval that is too long are refused."""
    url = f"sqlite:///{tmp_path}/shop.cache"
    assert "names no database" in unstale("outbox", "status", "redis://localhost", code=2)
    with closing(sqlite3.connect(tmp_path / "empty.db")) as db:
        db.execute("CREATE TABLE t (x)")
    assert "unstale outbox ddl" in unstale("outbox", "status", f"sqlite:///{tmp_path}/empty.db", code=1)
    assert "unproven within" in unstale("relay", url, "--database", database, "--interval", "1s", code=2)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_relay_runs_until_it_is_told_to_end(database: str, tmp_path: Path, end: signal.Signals) -> None:
    """As a process of its own the relay proves leases and publishes; SIGTERM and Ctrl-C end it."""
    url = f"sqlite:///{tmp_path}/shop.cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "unstale.cli", "relay", url, "--database", database, "--name", NAME, "--max-staleness",
         "1s"],
        env={**os.environ, "PYTHONPATH": PATHS}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            with behind_an_outbox(url) as cache, closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as db:
                until(lambda: proven(cache))
                cache.in_transaction(db).invalidate("product:17")
                db.commit()
                until(lambda: "product:17" in scopes_told(cache))
            process.send_signal(end)
            _out, said = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert "It leads." in said
    assert process.returncode == (0 if end == signal.SIGTERM else 130)
