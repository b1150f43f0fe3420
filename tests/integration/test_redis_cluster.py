from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.ports import HOST
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_servers import RedisServer
from tests.support.redis_shop import ENTRY, TAG
from tests.support.waiting import until
from unstale import Cache
from unstale.clock import boottime
from unstale.core.ops import Fetched, Item
from unstale.core.record import Stamp
from unstale.engines import redis_places
from unstale.engines.ports import Ports
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_url import parse_url
from unstale.errors import EngineError, UnavailableError

pytestmark = pytest.mark.real
NUMBERS: Final = range(120)
COLOURS: Final = ("blocking", "asynchronous")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Give three primaries that go on where one of them is out, as they do where each has a replica."""
    with RedisCluster(cluster_require_full_coverage=False) as cluster:
        yield cluster


@pytest.fixture
def frozen(cluster: RedisCluster) -> Iterator[RedisServer]:
    """Give a primary that does not hold the log, to be stopped; it goes on in the end."""
    for node in cluster.nodes:
        node.call("FLUSHALL")
    log = cluster.owner_of(f"{TAG}:log")
    node = next(node for node in cluster.nodes if node is not log)
    yield node
    node.go_on()
    until(lambda: all(b"cluster_state:ok" in other.call("CLUSTER", "INFO").split() for other in cluster.nodes))


def url_of(cluster: RedisCluster, last: RedisServer) -> str:
    """Give the URL of a cluster that names all of its nodes, that one last."""
    nodes = sorted(cluster.nodes, key=lambda node: node is last)
    return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in nodes)


class Node:
    """A node of the shop: it counts its loads, and what it asks of each server in the thread of the test."""

    def __init__(self, url: str, colour: str, max_staleness: str = "5s") -> None:
        self.engine = RedisEngine(parse_url(f"{url}?timeout=200ms"), name="shop")
        self.cache = Cache(ports=Ports(self.engine, self.engine), max_staleness=max_staleness)
        self.colour = colour
        self.loads: set[int] = set()
        self.asked: Counter[int] = Counter()
        for link in (self.engine._link, self.engine._loops):
            self._count(link)

        @self.cache.cached("product:{number}", ttl="1h", shared=True)
        def product(number: int) -> int:
            self.loads.add(number)
            return number

        @self.cache.cached("product:{number}", ttl="1h", shared=True)
        async def product_later(number: int) -> int:
            self.loads.add(number)
            return number

        self._product, self._product_later = product, product_later

    def _count(self, link: Any) -> None:
        ask = link._ask

        def counted(what: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                self.asked[what.address[1]] += 1
            return ask(what)

        link._ask = counted

    def read(self, numbers: range | set[int]) -> None:
        """Read products, one after the other."""
        if self.colour == "blocking":
            assert [self._product(number) for number in numbers] == list(numbers)
        else:
            asyncio.run(self._read_later(numbers))

    async def _read_later(self, numbers: range | set[int]) -> None:
        assert [await self._product_later(number) for number in numbers] == list(numbers)

    def read_many(self, numbers: range) -> None:
        """Read products by one call."""

        def load(keys: list[str]) -> dict[str, int]:
            found = {key: int(key.partition(":")[2]) for key in keys}
            self.loads.update(found.values())
            return found

        async def load_later(keys: list[str]) -> dict[str, int]:
            return load(keys)

        keys = [f"product:{number}" for number in numbers]
        if self.colour == "blocking":
            found = self.cache.get_or_load_many(keys, load, type=int, ttl="1h")
        else:
            found = asyncio.run(self.cache.aget_or_load_many(keys, load_later, type=int, ttl="1h"))
        assert found == dict(zip(keys, numbers, strict=True))

    @property
    def proven(self) -> bool:
        """It holds a lease."""
        return self.cache.node.lease.proves(boottime(), self.cache.node.bound_s)


def on(server: RedisServer) -> set[int]:
    """Give the products whose entries lie on a server."""
    return {int(key.rpartition(b":")[2]) for key in server.call("KEYS", f"{ENTRY}*")}


def key_on(cluster: RedisCluster, server: RedisServer) -> str:
    """Give a key whose entry would lie on a server."""
    return next(f"k{number}" for number in range(1000) if cluster.owner_of(f"{ENTRY}k{number}") is server)


def try_to_fetch(engine: RedisEngine, colour: str, *keys: str) -> tuple[Fetched | EngineError | None, ...] | None:
    """Fetch; None if that fails."""
    try:
        return asyncio.run(engine.afetch(keys)) if colour == "asynchronous" else engine.fetch(keys)
    except UnavailableError:
        return None


@pytest.mark.parametrize("colour", COLOURS)
def test_h26_a_frozen_primary_is_asked_no_more(cluster: RedisCluster, frozen: RedisServer, colour: str) -> None:
    """Only what lies on a frozen primary is loaded, after two calls without asking; the rest is found in the store."""
    nodes = [Node(url_of(cluster, frozen), colour) for _ in range(4)]
    writer, here, there, later = nodes
    try:
        writer.read(NUMBERS)
        lost = on(frozen)
        assert 20 < len(lost) < 60
        key = key_on(cluster, frozen)
        frozen.stop()
        here.read(NUMBERS)
        assert here.loads == lost
        assert here.asked[frozen.port] == 2, "the first failures opened its breaker, whatever the others answered"
        assert here.engine.breakers.refused >= 2 * len(lost) - 2
        assert {address[1] for address in here.engine.breakers.open if isinstance(address, tuple)} == {frozen.port}
        assert here.proven, "the log lies elsewhere"
        there.read_many(NUMBERS)
        assert there.loads == lost
        frozen.go_on()
        until(lambda: try_to_fetch(here.engine, colour, key) == (None,))
        assert not here.engine.breakers.open
        later.read(NUMBERS)
        assert later.loads == set()
        assert {node.cache.stats()["discontinuities"] for node in nodes} == {1}
    finally:
        for node in nodes:
            node.cache.close()


@pytest.mark.parametrize("colour", COLOURS)
def test_h08_h26_the_log_s_primary_is_frozen(cluster: RedisCluster, frozen: RedisServer, colour: str) -> None:
    """What needs a frozen log's primary, be it the proof of a lease or a ticket, does not ask it again and again."""
    log = next(node for node in cluster.nodes if node.port == cluster.owner_of(f"{TAG}:log").port)
    node = Node(url_of(cluster, frozen), colour, max_staleness="500ms")
    try:
        node.read(NUMBERS)
        ticket = node.cache.ticket()
        assert ticket is not None
        ahead = Stamp(ticket.generation, ticket.position + 1)
        log.stop()
        until(lambda: not node.proven)
        node.read(NUMBERS)
        first = node.asked[log.port]
        for number in NUMBERS[:20]:
            node.cache.get_or_load(f"other:{number}", lambda: 1, after=ahead, ticket_wait="1ms")
        node.read(NUMBERS)
        assert node.asked[log.port] == first
        log.go_on()
        until(lambda: node.proven)
    finally:
        log.go_on()
        node.cache.close()


def test_a_key_that_moved_away_from_a_frozen_primary(
    cluster: RedisCluster, frozen: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that is out of date is asked for anew, of those that answer, and the new owner is asked at once."""
    target = next(node for node in cluster.nodes if node is not frozen)
    node = Node(url_of(cluster, frozen), "blocking")
    key = key_on(cluster, frozen)
    slot = cluster.slot_of(f"{ENTRY}{key}")
    try:
        node.engine.store((Item(key, b"x", 60.0),))
        cluster.migrate_slot(slot, frozen, target)
        frozen.stop()
        asked: list[int] = []
        connection_to = redis_places.connection_to

        def counted(url: Any, address: Any) -> Any:
            asked.append(address[1])
            return connection_to(url, address)

        monkeypatch.setattr(redis_places, "connection_to", counted)
        before = node.asked[target.port]
        with pytest.raises(UnavailableError):
            node.engine.fetch((key,))
        until(lambda: node.engine._places.find(f"{ENTRY}{key}".encode()) == (HOST, target.port))
        (found,) = node.engine.fetch((key,))
        assert isinstance(found, Fetched)
        assert (node.asked[frozen.port], node.asked[target.port] - before) == (2, 1)
        assert frozen.port not in asked
    finally:
        frozen.go_on()
        node.cache.close()
    until(lambda: frozen.role() == "master")
    cluster.migrate_slot(slot, target, frozen)
