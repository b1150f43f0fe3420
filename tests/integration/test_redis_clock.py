"""What steps of a Redis server's wall clock do, one interleaving at a time; entries and marks expire by that clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.redis_servers import RedisServer
from tests.support.redis_shop import TAG
from tests.support.waiting import until
from tests.support.wall_clock import WallClock
from unstale import Cache
from unstale.clock import boottime
from unstale.core.ops import Item
from unstale.core.tail import READ_BACK
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.ports import Ports
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_url import parse_url

pytestmark = pytest.mark.real

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
TTL = "10m"
KEY = "product:1"
MAX_TTLS = [pytest.param(61 * MINUTE_S, id="shorter than max_ttl"), pytest.param(10 * MINUTE_S, id="longer")]
steps = pytest.mark.parametrize("max_ttl_s", MAX_TTLS)
both = pytest.mark.parametrize("engines", [1, 2])


class Shop:
    """A server whose wall clock can be stepped, a node, and one that joins far behind what the first one publishes.

    The log is the server's too, or, with two engines, another one, whose marks the node writes into the server.
    """

    def __init__(self, clock: WallClock, server: RedisServer, max_ttl_s: float, *, two: bool) -> None:
        self.truth = 1
        self.step = clock.set
        self.server = server
        self.max_ttl_s = max_ttl_s
        self.log = MemoryServer(boottime, "g", max_ttl_s=max_ttl_s) if two else None
        self.here = self.node()

    def node(self) -> Cache:
        if self.log is None:
            return Cache(self.server.url, name="shop", max_ttl=self.max_ttl_s)
        store = RedisEngine(parse_url(self.server.url), name="shop", max_ttl_s=self.max_ttl_s, own=False)
        return Cache(ports=Ports(store, MemoryEngine(self.log)), name="shop", max_ttl=self.max_ttl_s)

    def read(self, cache: Cache) -> int:
        value: int = cache.get_or_load(KEY, lambda: self.truth, type=int, ttl=TTL)
        return value

    def change(self) -> None:
        """Commit and invalidate, and so much else that who joins does not read back so far."""
        self.truth += 1
        self.here.invalidate(KEY)
        for number in range(READ_BACK):
            self.here.invalidate(f"other:{number}")
        self.marked()

    def marked(self) -> None:
        """Wait until the store has the marks of all that was published."""
        ports = self.here.ports
        until(lambda: ports.store.read_marks((KEY,)).upto == ports.log.read_head().head)

    def sweep(self) -> None:
        """Let the server notice that the mark has expired, as it does by itself now and then."""
        self.server.call("EXISTS", f"{TAG}:{'m' if self.log is None else 'f'}:{KEY}")

    def seen(self) -> None:
        """Wait until the server has heard of the node again: by a poll of its log, or else by marks for it."""
        field = f"n{self.here.node.id}"
        if self.log is None:
            last = self.server.call("HGET", f"{TAG}:members", field)
            until(lambda: self.server.call("HGET", f"{TAG}:members", field) != last)
        else:
            upto = self.server.call("HGET", f"{TAG}:covered", "upto")
            self.here.invalidate("other")
            until(lambda: self.server.call("HGET", f"{TAG}:covered", "upto") != upto)

    def joins_fresh(self) -> bool:
        """Whether a node that joins now reads the truth."""
        with self.node() as there:
            return self.read(there) == self.truth

    def held_back(self) -> Callable[[], None]:
        """Read, and hold the fill back on its way to the store: what delivers it."""
        fills: list[tuple[Item, ...]] = []
        store = self.here.ports.store.store
        engine: Any = self.here.ports.store
        engine.store = fills.append
        self.read(self.here)
        del engine.store
        (fill,) = fills
        return lambda: store(fill)


@pytest.fixture
def shop(max_ttl_s: float, engines: int) -> Iterator[Shop]:
    """Give a shop."""
    with WallClock() as clock, RedisServer(environment=clock.environment, enable_debug_command="yes") as server:
        server.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)  # it sweeps what the tests want it to, and leaves the rest
        shop = Shop(clock, server, max_ttl_s, two=engines == 2)
        yield shop
        shop.here.close()


@steps
@both
def test_h22_a_clock_goes_back_between_an_entry_and_its_mark(shop: Shop) -> None:
    """An entry whose life a step backwards has prolonged does not outlive the mark that ends it.

    1. The clock is an hour ahead, an entry is stored: it expires at T + 1 h + `ttl`.
    2. The clock is set right, the entry is ended: its mark expires at T + 2 x `max_ttl`.
    3. At T + 21 min a node joins, finds the entry, and asks for the mark.
    """
    shop.step(HOUR_S)
    shop.read(shop.here)
    shop.step(0)
    shop.change()
    shop.step(21 * MINUTE_S)
    assert shop.joins_fresh()


@steps
@both
def test_h22_h35_a_clock_goes_forwards_between_a_mark_and_a_late_fill(shop: Shop) -> None:
    """A fill that arrives after a step forwards does not outlive the mark that ends it.

    1. A node has loaded; its fill is on its way.
    2. The entry is ended: its mark expires at T + 2 x `max_ttl`.
    3. The clock goes forwards to T + 1 h, and the fill arrives: it lives until T + 1 h + `ttl`.
    4. A node joins, finds the entry, and asks for the mark.
    """
    deliver = shop.held_back()
    shop.change()
    shop.step(HOUR_S)
    deliver()
    assert shop.joins_fresh()


@steps
@both
def test_h22_a_clock_goes_forwards_and_back(shop: Shop) -> None:
    """An entry that comes back to life with a step backwards finds its mark.

    1. An entry is stored, and ended: it expires at T + `ttl`, its mark at T + 2 x `max_ttl`.
    2. The clock goes forwards to T + 1 h. The server sweeps some of what has expired: the mark, but not the entry.
       A node asks the server for whatever it may be.
    3. The clock goes back to T: the entry has not expired. A node joins, finds it, and asks for the mark.
    """
    shop.read(shop.here)
    shop.change()
    shop.step(HOUR_S)
    shop.sweep()
    shop.seen()
    shop.step(0)
    assert shop.joins_fresh()
