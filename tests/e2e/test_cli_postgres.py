from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from unstale import Cache
from unstale.cli.app import app

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server."""
    with PostgresServer(fsync=True) as server:
        yield server


def unstale(*arguments: str, code: int = 0) -> str:
    """Run the command."""
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def test_the_commands_work_upon_postgres(server: PostgresServer) -> None:
    """A cache is looked at, explained and invalidated from outside, as upon every engine."""
    with Cache(server.url, name="shop", node_name="till 3") as cache:
        cache.get_or_load("product:1", lambda: 7, ttl="1h", tags=["catalog"])
        until(lambda: cache.stats()["proven_s"] < 1)
        until(lambda: cache.get_or_load("product:1", lambda: 7, ttl="1h", tags=["catalog"]) == 7)
        link = (server.url, "--name", "shop")
        assert "7" in unstale("get", server.url, "product:1", "--name", "shop")
        assert "till 3" in unstale("nodes", *link)
        unstale("invalidate", server.url, "catalog", "--name", "shop", "--reason", "a test")
        assert "a test" in unstale("tail", *link, "--no-follow")
        assert "catalog" in unstale("explain", server.url, "product:1", "--name", "shop", code=1)
        assert "No problems" in unstale("doctor", *link)
        server.sql("ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")
        until(lambda: server.sql("SHOW full_page_writes") == [("off",)])
        findings = msgspec.json.decode(unstale("doctor", *link, "--json", code=1))
        problems = [(one["subject"], one["text"]) for one in findings if one["level"] == "problem"]
        assert problems == [("durable", "full_page_writes off")]
        server.sql("ALTER SYSTEM RESET full_page_writes", "SELECT pg_reload_conf()")
        until(lambda: server.sql("SHOW full_page_writes") == [("on",)])
    assert "till 3" not in unstale("nodes", *link)


def test_looking_makes_nothing(server: PostgresServer) -> None:
    """A look at a cache that nobody has used leaves no table, and no cache, behind."""
    url = f"{server.url}?schema=never"
    assert "holds no such cache" in unstale("doctor", url, "--name", "shop")
    assert server.sql("SELECT to_regnamespace('never') IS NULL") == [(True,)]
    with Cache(server.url, name="one") as cache:
        cache.set("k", 1)
    assert "holds no such cache" in unstale("doctor", server.url, "--name", "other")
    assert server.sql("SELECT count(*) FROM unstale.cache WHERE name = 'other'") == [(0,)]
