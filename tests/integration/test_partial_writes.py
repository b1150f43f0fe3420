"""Writes that fail half-way, step by step, on real engines: not cached, not published, published twice."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.write_roles import Shop, make_truth
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale.clock import boottime
from unstale.errors import FullError, NotPublishedError

pytestmark = pytest.mark.real

LOG = "{unstale:writes}:log"
ROLE = Path(__file__).with_name("write_roles.py")
Shops = Callable[..., Shop]


@pytest.fixture
def truth(tmp_path: Path) -> str:
    """Make the truth."""
    path = str(tmp_path / "truth.db")
    make_truth(path)
    return path


@pytest.fixture
def shops(truth: str) -> Iterator[Shops]:
    """Open nodes, and close them in the end."""
    with contextlib.ExitStack() as stack:

        def one(url: str, **how: Any) -> Shop:
            shop = Shop(url, truth, **how)
            stack.callback(shop.db.close)
            stack.callback(shop.cache.close)
            shop.read(1)
            until(lambda: proven(shop))
            shop.read(1)
            return shop

        yield one


def proven(shop: Shop) -> bool:
    """Say whether a node holds a lease."""
    node = shop.cache.node
    return node.lease.proves(boottime(), node.bound_s)


# Committed, not cached ----------------------------------------------------------------------------------------------


def test_committed_and_published_and_not_stored(shops: Shops) -> None:
    """The store is killed after the commit: the write succeeds and is reported, and other nodes load what it wrote."""
    with RedisServer() as log, RedisServer() as store:
        here, there = (shops(log.url, store=(store.url,)) for _ in range(2))
        assert there.read(1) == 1
        here.committed = store.kill  # type: ignore[method-assign]  # what befalls it
        assert here.write(1)["value"] == 2
        assert here.troubles["store"] == here.cache.stats()["trouble:store"] == 1
        loads = there.loads
        until(lambda: there.read(1) == 2)
        assert there.loads > loads
        assert (here.read(1), here.truth(1)) == (2, 2)


# Committed, not published -------------------------------------------------------------------------------------------


def test_h02_committed_and_refused_by_the_log(shops: Shops) -> None:
    """The log has no room for the record: the error has the value, the writer's node serves nothing old, others do.

    They do until their ttl is over, or until the invalidation is repeated, as the error says: here it is.
    """
    with RedisServer() as server, server.client() as client:
        here, there = shops(server.url), shops(server.url)
        here.committed = lambda: client.config_set("maxmemory", 1)  # type: ignore[method-assign]  # what befalls it
        with pytest.raises(NotPublishedError) as refused:
            here.save(1)
        assert refused.value.fields["value"] == here.truth(1) == 2
        assert isinstance(refused.value.__cause__, FullError)
        assert "repeat the invalidation" in refused.value.hint
        over = boottime() + 3 * 0.5
        while boottime() < over:
            assert here.read(1) == 2
        assert proven(here), "not because its lease has lapsed"
        assert there.read(1) == 1
        client.config_set("maxmemory", 0)
        here.product.invalidate(1)
        until(lambda: there.read(1) == 2)
        loads = here.loads
        assert here.read(1) == here.read(1) == 2
        assert here.loads <= loads + 1


def test_h02_the_ttl_is_the_backstop_of_what_was_not_published(shops: Shops) -> None:
    """Who does not repeat the invalidation leaves other nodes with the old value until its ttl is over, not longer."""
    with RedisServer() as server, server.client() as client:
        here, there = shops(server.url, ttl="3s"), shops(server.url, ttl="3s")
        there.product.refresh(1)
        here.committed = lambda: client.config_set("maxmemory", 1)  # type: ignore[method-assign]  # what befalls it
        assert here.write(1) == {"unpublished": 2}
        client.config_set("maxmemory", 0)
        assert there.read(1) == 1
        until(lambda: there.read(1) == 2, 10)


def test_h02_committed_and_the_log_is_dead(shops: Shops) -> None:
    """The server is killed between commit and record: within the bound, no node serves what was before the write."""
    with RedisServer() as server:
        here, there = shops(server.url), shops(server.url)
        here.committed = server.kill  # type: ignore[method-assign]  # what befalls it
        assert here.write(1) == {"unpublished": 2}
        assert here.read(1) == 2
        assert there.read(1) == 2, "the append was tried for longer than a lease lasts"
        server.start()
        until(lambda: proven(here) and proven(there))
        assert (here.read(1), there.read(1)) == (2, 2)


def test_h02_committed_and_the_file_is_locked(shops: Shops, tmp_path: Path) -> None:
    """On SQLite: another process holds the file's lock for too long; the writer's node serves nothing old."""
    path = tmp_path / "cache.db"
    here, there = shops(f"sqlite:///{path}"), shops(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with contextlib.closing(other):
        here.committed = lambda: _lock(other)  # type: ignore[method-assign]  # what befalls it
        assert here.write(1) == {"unpublished": 2}
        assert here.read(1) == here.read(1) == 2
        other.execute("ROLLBACK")
        here.product.invalidate(1)
        until(lambda: there.read(1) == 2)
        assert here.read(1) == 2


def _lock(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


# Published twice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [False, True])
def test_h07_a_record_whose_reply_was_lost_is_published_once(shops: Shops, truth: str, *, refused: bool) -> None:
    """A process writes, and the log's reply is lost: it repeats the record, and it is there once.

    `refused`: new connections are refused for a moment as well, so that the write itself repeats it, not the engine.
    """
    with RedisServer() as server, Proxy(server.port) as proxy:
        there = shops(server.url)
        writer = Process(ROLE, f"redis://127.0.0.1:{proxy.port}/0", truth)
        try:
            assert writer.ask("read", 1) == 1
            assert writer.ask("write", 2) == {"value": 2, "troubles": {}}  # from here on it knows the server's scripts
            before = server.call("XLEN", LOG)
            proxy.cut("to_client")
            writer.tell(("write", 1))
            until(lambda: server.call("XLEN", LOG) == before + 1)  # the record is there, and nobody knows
            if refused:
                proxy.refuse()
                proxy.close_all()
                until(lambda: there.db.execute("SELECT 1 FROM trouble WHERE what = 'append'").fetchall())
            proxy.heal()
            told = writer.hear()
            assert (told["value"], "append" in told["troubles"]) == (2, refused)
            assert server.call("XLEN", LOG) == before + 1
            until(lambda: there.read(1) == 2)
            assert there.write(1)["value"] == 3
            until(lambda: writer.ask("read", 1) == 3)
            assert server.call("XLEN", LOG) == before + 2
        finally:
            writer.end()
