"""The example application, as its README starts it: driven over HTTP, its workers killed, checked by the database."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from tests.shop.checker import Checker
from tests.shop.http import ask
from tests.shop.load import Choice, Client
from tests.shop.running import RunningShop
from tests.support.postgres_servers import PostgresServer
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until as until_so

pytestmark = pytest.mark.real

BOUND_S = 2.0  # the shop's own
CLIENTS = 8
WRITES = 0.15
KILLS = 4  # of three workers: whoever leads the relays is among them
READS = 150  # before each kill, and after the last one
PRODUCTS = 400
DEADLINE_S = 240.0
PAUSE_S = 0.02
PRODUCT = "/api/acme/products/4"


@pytest.fixture(params=["SQLite", "PostgreSQL and Redis"])
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Give the URLs of a database and a cache; for SQLite empty ones: that is the default."""
    if request.param == "SQLite":
        yield "", ""
        return
    with PostgresServer() as postgres, RedisServer() as redis:
        yield postgres.url.replace("postgresql://", "postgresql+psycopg://"), redis.url


class Drive:
    """A load on a shop, in the course of which its workers are killed, one after the other.

    Args:
        shop: The shop.
        kills: How many workers are killed.
        seconds: How long it goes on after that: what nobody was told of would be beyond the bound by then.
    """

    def __init__(self, shop: RunningShop, *, kills: int = KILLS, seconds: float = 2 * BOUND_S) -> None:
        self.killed: list[int] = []
        self._kills = kills
        self._seconds = seconds
        with Checker(shop.database) as checker:
            self._clients = [Client(shop.port, Choice(checker.tenants, seed), WRITES) for seed in range(CLIENTS)]
            asyncio.run(asyncio.wait_for(self._run(), DEADLINE_S))
            self.told = checker.judge((client.served for client in self._clients), BOUND_S)
        self.counts = sum((client.counts for client in self._clients), Counter[str]())

    @property
    def workers(self) -> Counter[int]:
        """Who has answered, and how often."""
        return sum((client.workers for client in self._clients), Counter[int]())

    async def _run(self) -> None:
        over = asyncio.Event()
        loading = [asyncio.ensure_future(client.run(over)) for client in self._clients]
        for _ in range(self._kills):
            await self._read_some()
            before = self.workers
            self.killed.append(min(pid for pid in before if pid not in self.killed))  # each in its turn
            os.kill(self.killed[-1], signal.SIGKILL)
            await until(functools.partial(self._others, before))  # another one is there
        began = time.monotonic()
        await self._read_some()
        await until(lambda: time.monotonic() > began + self._seconds)
        over.set()
        await asyncio.gather(*loading)

    def _others(self, known: Collection[int]) -> bool:
        return not self.workers.keys() <= set(known)

    async def _read_some(self) -> None:
        upto = self.workers.total() + READS
        await until(lambda: self.workers.total() > upto)


def known(shop: RunningShop) -> bool:
    """Say whether each worker has its lease: nobody has to load the product."""
    pages = [ask(shop.port, "GET", "/acme/product/4").body for _ in range(20)]
    return not any(b"tag load" in page for page in pages)


def shown(shop: RunningShop) -> int:
    """Give the price that is shown."""
    price: int = json.loads(ask(shop.port, "GET", PRODUCT).body)["product"]["price"]
    return price


def stale_s(shop: RunningShop, price: int) -> float:
    """Give how long another price is shown, in seconds, up to twice the bound."""
    began = time.monotonic()
    late = began + 2 * BOUND_S
    until_so(lambda: shown(shop) == price or time.monotonic() > late)
    return time.monotonic() - began


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, while the clients go on."""
    pause = asyncio.Event()
    while not condition():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pause.wait(), PAUSE_S)


def test_nothing_is_stale_while_workers_are_killed(servers: tuple[str, str], tmp_path: Path) -> None:
    """Under load, with workers killed, each response shows what was in the database within the bound."""
    database, cache = servers
    with RunningShop(tmp_path, database=database, cache=cache, products=PRODUCTS) as shop:
        drive = Drive(shop)
        shop.interrupt()  # and everything ends, or that fails
    assert drive.told.verdict.beyond == {}
    assert drive.told.invented == set()
    assert drive.told.unwritten == 0
    assert drive.told.verdict.reads > KILLS * READS / 2
    assert drive.told.commits > PRODUCTS + 20  # those of the seed, and then some
    assert set(drive.counts) <= {"200", "404", "writes", "broken"}, shop.said()


def test_checker_sees_what_is_stale(tmp_path: Path) -> None:
    """With the tracking taken out, the same load on the same application is found to be stale beyond the bound."""
    with RunningShop(tmp_path, sabotage="untracked", products=PRODUCTS) as shop:
        drive = Drive(shop, kills=0, seconds=6 * BOUND_S)
    assert drive.told.verdict.beyond != {}
    assert drive.told.verdict.oldest_s > BOUND_S
    assert drive.told.invented == set()


@pytest.mark.parametrize("ticketless", [False, True])
def test_visitors_see_their_own_changes(ticketless: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """Who has changed something sees it at once, of workers that are late too; not so without the cookie."""
    sabotage = "late ticketless" if ticketless else "late"
    with RunningShop(tmp_path, sabotage=sabotage, products=PRODUCTS) as shop:
        drive = Drive(shop, kills=0, seconds=3 * BOUND_S)
    assert drive.told.verdict.beyond == {}
    assert bool(drive.told.unwritten) == ticketless


def test_h02_a_worker_dies_between_its_commit_and_its_publishing(tmp_path: Path) -> None:
    """What it has committed, and told nobody of, the outbox tells."""
    with RunningShop(tmp_path, sabotage="mortal", products=PRODUCTS) as shop, Checker(shop.database) as checker:
        until_so(lambda: known(shop))
        with pytest.raises(ConnectionError):
            ask(shop.port, "POST", f"{PRODUCT}/price", body=b'{"price": 1}')
        assert checker.rows(checker.connect(), "SELECT price FROM product WHERE id = 4") == [(1,)]
        assert stale_s(shop, 1) <= BOUND_S


def test_h02_nobody_tells_of_a_commit(tmp_path: Path) -> None:
    """The control: without the outbox too, what no worker tells of is served beyond the bound."""
    with RunningShop(tmp_path, sabotage="mute outboxless", products=PRODUCTS) as shop:
        for price in range(1, 10):  # where a worker's lease has just lapsed, it loads, and all see the new price
            until_so(lambda: known(shop))
            assert ask(shop.port, "POST", f"{PRODUCT}/price", body=b'{"price": %d}' % price).status == 200
            if stale_s(shop, price) > BOUND_S:
                return
    pytest.fail("no price was served beyond the bound")


def test_pages(tmp_path: Path) -> None:
    """The pages are there, and tell who answered and from where each read came."""
    with RunningShop(tmp_path, products=60) as shop:
        home = ask(shop.port, "GET", "/")
        assert (home.status, home.headers["location"]) == (307, "/acme")
        for path in ("/acme", "/acme/product/4", "/acme/search?q=copper", "/acme/cart"):
            page = ask(shop.port, "GET", path)
            assert page.status == 200
            assert "worker <b>" in page.body.decode()
            assert "nothing on this page is older than" in page.body.decode()
        assert ask(shop.port, "GET", "/acme/product/5").status == 404, "it is another tenant's"
        for asked, status in (
            ("nobody/products", 404),
            ("acme/products?page=0", 422),
            (f"acme/products?category={'x' * 2000}", 422),
            (f"acme/products/{2**40}", 422),
            (f"acme/search?q={'x' * 2000}", 200),
        ):
            assert ask(shop.port, "GET", f"/api/{asked}").status == status
        assert ask(shop.port, "POST", "/acme/product/4/price", body=b"price=x").status == 422
        assert ask(shop.port, "POST", "/acme/product/4/price", body=b"price=12.34").status == 303
