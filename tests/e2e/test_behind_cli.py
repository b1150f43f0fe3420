from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.redis_servers import RedisServer
from unstale.behind import open_queue
from unstale.behind.writes import Queue
from unstale.cli.app import app

pytestmark = pytest.mark.real


def unstale(*arguments: str, code: int = 0) -> str:
    """Run the command."""
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def put_aside(queue: Queue, *keys: str) -> None:
    """Queue writes, and put them aside."""
    queue.put([[(key, b"\x01") for key in keys]], 1)
    token = queue.lead()
    queue.bury(token, [(row, "ValueError: bad") for row in queue.take(token, 10, ())])
    queue.resign(token)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_was_put_aside_is_listed_replayed_and_discarded(kind: str, tmp_path: Path) -> None:
    """The status tells how many; what was put aside is listed, queued again, and forgotten."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        url = f"sqlite:///{tmp_path}/a.queue" if kind == "sqlite" else f"{server.url}?queue=a"
        assert "0 wait, 0 were put aside." in unstale("behind", "status", url)
        with closing(open_queue(url)) as queue:
            put_aside(queue, "a:1", "a:2", "a:3")
        assert msgspec.json.decode(unstale("behind", "status", url, "--json", code=1)) == {"queued": 0, "dead": 3}
        assert "a:2" in unstale("behind", "list", url)
        assert "ValueError: bad" in unstale("behind", "list", url)
        (one, *_others) = msgspec.json.decode(unstale("behind", "list", url, "--json"))
        assert (one["key"], one["data"]) == ("a:1", "01")
        assert "1 of them wait again" in unstale("behind", "replay", url, "a:1")
        assert "1 of them are gone" in unstale("behind", "discard", url, "a:2")
        for wrong in ((), ("no such",), ("a:3", "--all")):
            unstale("behind", "discard", url, *wrong, code=2)
        assert "1 of them are gone" in unstale("behind", "discard", url, "--all")
        assert "1 wait, 0 were put aside." in unstale("behind", "status", url)
        assert "Nothing was put aside" in unstale("behind", "list", url)


def test_mistakes_are_told_with_what_to_write(tmp_path: Path) -> None:
    """A URL that names no queue, and a file that is none, are refused."""
    assert "sqlite:///orders.queue" in unstale("behind", "status", "memory://", code=2)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE t (x)")
    assert "path of its own" in unstale("behind", "list", f"sqlite:///{tmp_path}/shop.db", code=1)
