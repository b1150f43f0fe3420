from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.outbox_roles import open_connection
from tests.support.mariadb_servers import MariaDBServer
from tests.support.outboxes import behind_an_outbox, relaying, scopes_told
from tests.support.postgres_servers import PostgresServer
from tests.support.processes import DEADLINE_S, Process
from tests.support.waiting import until
from unstale.sources.outbox import Outbox

pytestmark = pytest.mark.real

ROLES = Path(__file__).with_name("outbox_roles.py")
KINDS = ("sqlite", "postgresql", "mysql")

Start = Callable[..., Process]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], str]]:
    """Give what starts a server of a kind, once, and gives its URL."""
    started: dict[str, Any] = {}

    def one(kind: str) -> str:
        if kind not in started:
            started[kind] = PostgresServer() if kind == "postgresql" else MariaDBServer()
        return str(started[kind].url)

    yield one
    for server in started.values():
        server.end()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, servers: Callable[[str], str], tmp_path: Path) -> str:
    """Give a database with one product and an empty outbox."""
    kind = request.param
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/shop.db"
        with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
            db.execute("PRAGMA journal_mode = wal")
    else:
        url = servers(kind)
    with Outbox(url) as outbox:
        for statement in (*outbox.database.dialect.drop(outbox.table), "DROP TABLE IF EXISTS product"):
            outbox.database.rows(statement)
        outbox.create()
        outbox.database.rows("CREATE TABLE product (id integer PRIMARY KEY, price integer)")
        outbox.database.rows("INSERT INTO product VALUES (17, 1)")
    return url


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give where the cache is."""
    return f"sqlite:///{tmp_path}/shop.cache"


@pytest.fixture
def start(url: str, database: str) -> Iterator[Start]:
    """Start processes; none outlives its test."""
    started: list[Process] = []

    def one(role: str, *args: object) -> Process:
        started.append(Process(ROLES, role, url, database, *args))
        assert started[-1].hear() == "ready"
        return started[-1]

    yield one
    for process in started:
        process.end()


def price(database: str) -> int:
    """Give what is committed."""
    with Outbox(database) as outbox:
        ((found,),) = outbox.database.rows("SELECT price FROM product WHERE id = 17")
        return int(found)


def rows(database: str) -> int:
    """Count what waits for the relay."""
    with Outbox(database) as outbox:
        return sum(one.rows for one in outbox.status())


def arrived(url: str, database: str) -> list[str]:
    """Relay until nothing waits: what the log was told, but for everything."""
    with behind_an_outbox(url) as cache, relaying(cache, database) as relay:
        until(lambda: relay.pulses)
        until(lambda: rows(database) == 0)
        until(lambda: cache.node.timeline)
        return [scope for scope in scopes_told(cache) if scope != "*"]


@pytest.mark.parametrize("step", ["changed", "written", "committed", "publishing", "published"])
def test_h01_h02_a_committer_that_is_killed(start: Start, url: str, database: str, step: str) -> None:
    """Killed before the commit, neither change nor record ever was; killed after it, the record arrives, once."""
    committer = start("commit", step)
    committer.tell("go")
    assert committer.popen.wait(DEADLINE_S) == -9
    committed = step in {"committed", "publishing", "published"}
    assert price(database) == (2 if committed else 1)
    assert arrived(url, database) == (["product:17"] if committed else [])


@pytest.mark.parametrize("step", ["head read", "read", "publishing", "published", "settling", "settled"])
def test_h02_a_relay_that_is_killed(start: Start, url: str, database: str, step: str) -> None:
    """Killed between any two of its steps, what it had read arrives by the next relay, and once."""
    relay = start("relay", step)
    with behind_an_outbox(url) as cache, closing(open_connection(database)) as connection:
        cache.in_transaction(connection).invalidate("product:17")
        connection.commit()
    relay.tell("go")
    assert relay.popen.wait(DEADLINE_S) == -9
    assert rows(database) == (0 if step == "settled" else 1)
    assert arrived(url, database) == ["product:17"]


def test_h23_a_relay_goes_on_in_a_forked_child(start: Start, database: str) -> None:
    """A thread that relays is started anew in a child, with a connection of its own, and takes over from the parent."""
    parent = start("fork")
    parent.tell("go")
    heard = {str(parent.hear()), str(parent.hear())}
    assert "the child relays" in heard
    parent.tell("end")
    assert parent.popen.wait(DEADLINE_S) == 0


def test_another_relay_takes_over(start: Start, url: str, database: str) -> None:
    """Of several relays one leads; when it is killed, and when it is stopped for a while, another one does its work."""
    leader = start("lead")
    leader.tell("go")
    assert leader.hear() == "leads"
    with behind_an_outbox(url) as cache, relaying(cache, database) as relay, closing(open_connection(database)) as db:
        until(lambda: cache.node.timeline)
        assert (relay.leads, relay.pulses) == (False, 0)
        leader.stop()
        until(lambda: relay.leads and relay.pulses)
        cache.in_transaction(db).invalidate("one")
        db.commit()
        until(lambda: "one" in scopes_told(cache))
        leader.go_on()  # it does not know that it is not the leader any more: no harm
        cache.in_transaction(db).invalidate("two")
        db.commit()
        until(lambda: "two" in scopes_told(cache))
        leader.end()
        until(lambda: relay.leads)
        cache.in_transaction(db).invalidate("three")
        db.commit()
        until(lambda: "three" in scopes_told(cache))
        assert [scope for scope in scopes_told(cache) if scope != "*"] == ["one", "two", "three"]
