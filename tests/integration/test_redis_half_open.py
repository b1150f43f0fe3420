from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.ports import HOST
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer
from tests.support.redis_shop import Engines, Shops, open_engines, open_shops
from tests.support.waiting import until
from unstale.errors import UnavailableError

pytestmark = pytest.mark.real


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Give a proxy in front of a server of our own."""
    with RedisServer() as server, Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Make engines, and close them."""
    with open_engines() as engines:
        yield engines


@pytest.fixture
def shops() -> Iterator[Shops]:
    """Make shops, and close their caches."""
    with open_shops() as shops:
        yield shops


def url_of(proxy: Proxy) -> str:
    """Give the URL of the server behind a proxy."""
    return f"redis://{HOST}:{proxy.port}?timeout=200ms"


@pytest.mark.parametrize("colour", ["blocking", "asynchronous"])
def test_h08_a_kept_connection_that_has_died_silently(proxy: Proxy, engines: Engines, colour: str) -> None:
    """A connection whose other end went without a word costs one caller one timeout; the next have a new one."""
    engine = engines(url_of(proxy))

    async def fetch() -> object:
        return engine.fetch(("a",)) if colour == "blocking" else await engine.afetch(("a",))

    async def play() -> None:
        assert await fetch() == (None,)
        proxy.cut()
        with pytest.raises(UnavailableError):
            await fetch()
        assert proxy.connections == 1, "it was not tried a second time"
        proxy.heal()
        assert await fetch() == (None,)
        assert proxy.connections == 2

    asyncio.run(play())
    assert engine.breakers.refused == 0


@pytest.mark.parametrize("how", [{}, {"unproven": "stale", "store_out": "stale", "grace": "1h"}])
def test_h08_readers_are_not_told_of_a_connection_that_has_died(
    proxy: Proxy, shops: Shops, how: dict[str, str]
) -> None:
    """A reader whose policy loads, or serves what is stale, sees no error, and all is well when the network is."""
    shop = shops(url_of(proxy), **how)
    shop.well()
    proxy.cut()
    assert [shop.product(number) for number in range(20, 30)] == [shop.truth] * 10
    until(lambda: not shop.proven)
    shop.reads_fresh()
    proxy.heal()
    shop.well()
