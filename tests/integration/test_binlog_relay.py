from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.binlogs import CONFIG, TABLES, logging_server
from tests.support.mariadb_servers import MariaDBServer
from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told
from tests.support.waiting import until
from unstale import Cache
from unstale.core.record import EVERYTHING
from unstale.sources.binlog import BinlogFeed

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[MariaDBServer]:
    """Give a server with a shop."""
    with logging_server() as server:
        server.sql(*TABLES)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


def feeds(server: MariaDBServer, cache: Cache) -> BinlogFeed:
    """Open the log for the relay of a cache."""
    return BinlogFeed(server.url, cache.name, CONFIG, trouble=cache.node.trouble)


def purged(server: MariaDBServer) -> bool:
    """Remove all of the log but its newest file; the server leaves what somebody still reads."""
    server.sql(f"PURGE BINARY LOGS TO '{server.sql('SHOW BINARY LOGS')[-1][0]}'")
    return len(server.sql("SHOW BINARY LOGS")) == 1


def test_h31_a_write_by_anyone_ends_what_depends_on_its_row(cache: Cache, server: MariaDBServer) -> None:
    """Whoever writes with whatever client: entries of that row end, and no others."""
    loads: list[int] = []

    def read(number: int) -> int:
        def load() -> int:
            loads.append(number)
            return int(server.sql(f"SELECT price FROM shop.product WHERE id = {number}")[0][0])

        return int(cache.get_or_load(f"product:{number}", load, ttl="1h"))

    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
        assert [read(17), read(3)] == [1, 1]
        server.sql("UPDATE shop.product SET price = 5 WHERE id = 17")
        until(lambda: read(17) == 5)
        assert read(3) == 1
        assert loads.count(3) == 1


def test_h19_a_database_that_is_down_proves_nothing(cache: Cache, server: MariaDBServer) -> None:
    """The lease lapses while the database is down; a restart rotates the log, and loses nothing."""
    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
        ended = scopes_told(cache).count(EVERYTHING)
        server.kill()
        until(lambda: not proven(cache))
        server.start()
        server.sql("UPDATE shop.product SET price = 2 WHERE id = 5")
        until(lambda: proven(cache))
        until(lambda: "product:5" in scopes_told(cache))
        assert scopes_told(cache).count(EVERYTHING) == ended


def test_h19_h20_a_log_that_was_purged_ends_everything_once(cache: Cache, server: MariaDBServer) -> None:
    """A log that no longer reaches back: nothing is proven until everything was ended, once; then it goes on."""
    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
    ended = scopes_told(cache).count(EVERYTHING)
    server.sql("UPDATE shop.product SET price = 2 WHERE id = 5", "FLUSH BINARY LOGS")
    until(lambda: purged(server))
    until(lambda: not proven(cache))
    with relaying(cache, lambda: feeds(server, cache)):
        until(lambda: proven(cache))
        assert scopes_told(cache).count(EVERYTHING) == ended + 1
        assert any(name == "trouble:capture" for name in cache.node.counts)
        server.sql("UPDATE shop.product SET price = 2 WHERE id = 6")
        until(lambda: "product:6" in scopes_told(cache))
        assert scopes_told(cache).count(EVERYTHING) == ended + 1
