"""Sessions where many machines share a server: tickets are its positions, and outlive neither it nor its log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import unstale
from tests.support.lagging import Shop, shops
from tests.support.postgres_servers import PostgresServer
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=[RedisServer, PostgresServer])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer | PostgresServer]:
    """Give a server."""
    with request.param() as server:
        yield server


@pytest.fixture
def shop(server: RedisServer | PostgresServer) -> Iterator[Shop]:
    """Give two nodes, of which one is late."""
    with shops(server.url) as shop:
        shop.write(1)  # whatever the last test has left ends
        with unstale.session():
            shop.writer.invalidate("price:17", "slow-price:17")
            assert shop.read(17) == 1
        yield shop


def test_h05_a_session_reads_its_own_write(shop: Shop) -> None:
    """Its token makes a node that is late look at the log, and then it may serve what it keeps; without it, not so."""
    with unstale.session() as session:
        shop.write(2)
    assert shop.read(17) == 1
    with unstale.session(session.token):
        assert shop.read(17) == 2
        loads = shop.loads
        assert shop.read(17) == 2
        assert shop.loads == loads


async def test_h05_an_awaited_session_reads_its_own_write(shop: Shop) -> None:
    """The same for coroutines, whose engine is another one."""
    assert await shop.aread(17) == 1
    with unstale.session() as session:
        shop.price = 2
        await shop.writer.ainvalidate("slow-price:17")
    assert await shop.aread(17) == 1
    with unstale.session(session.token):
        assert await shop.aread(17) == 2


def test_h10_a_ticket_of_a_log_that_is_gone() -> None:
    """Positions of a log that was wiped say nothing: the session takes over the new one, and shows nothing older."""
    with RedisServer() as server, shops(server.url) as shop:
        assert shop.read(17) == 1
        with unstale.session() as session:
            shop.write(2)
        server.call("FLUSHALL")
        with unstale.session(session.token) as later:
            assert shop.read(17) == 2
        assert later.token != session.token
