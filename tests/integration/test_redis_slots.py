from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_servers import RedisServer
from tests.support.redis_shop import ENTRY, TAG
from tests.support.staleness import Commit, Seen, judge
from tests.support.waiting import until
from unstale import Cache
from unstale.clock import boottime
from unstale.errors import UnavailableError

pytestmark = pytest.mark.real
BOUND_S: Final = 1.0
ITEMS: Final = 12
ROUNDS: Final = 5  # that each reader makes while a slot is half way, and after each move


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Give three primaries."""
    with RedisCluster() as cluster:
        yield cluster


class Reader:
    """A node that reads all items again and again, in a thread or in an event loop, until it is told to stop."""

    def __init__(self, url: str, truth: list[int], colour: str) -> None:
        self.troubles: list[BaseException] = []
        self.cache = Cache(
            url, name="shop", max_staleness=BOUND_S, on_trouble=lambda _what, error: self.troubles.append(error)
        )
        self.truth = truth
        self.over = threading.Event()
        self.rounds = self.reads = self.stale = self.loads = 0
        self.last: dict[tuple[int, int], float] = {}
        self.errors: Counter[str] = Counter()

        @self.cache.cached("product:{number}", ttl="1h", shared=True)
        def product(number: int) -> int:
            self.loads += 1
            return truth[number]

        @self.cache.cached("product:{number}", ttl="1h", shared=True)
        async def product_later(number: int) -> int:
            self.loads += 1
            return truth[number]

        self.product, self.product_later = product, product_later
        spin = self._spin if colour == "blocking" else lambda: asyncio.run(self._spin_later())
        self.thread = threading.Thread(target=spin, daemon=True)
        self.thread.start()

    def _spin(self) -> None:
        while not self.over.is_set():
            for number in range(ITEMS + 1):
                current, began = self.truth[number], boottime()
                try:
                    self._note(number, current, began, self.product(number))
                except Exception as error:  # noqa: BLE001 - counted: no read may fail
                    self.errors[repr(error)] += 1
            self.rounds += 1
            self.over.wait(0.001)

    async def _spin_later(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.over.is_set():
            for number in range(ITEMS + 1):
                current, began = self.truth[number], boottime()
                try:
                    self._note(number, current, began, await self.product_later(number))
                except Exception as error:  # noqa: BLE001 - as above
                    self.errors[repr(error)] += 1
            self.rounds += 1
            pause = loop.create_future()
            loop.call_later(0.001, pause.set_result, None)
            await pause

    def _note(self, number: int, current: int, began: float, value: int) -> None:
        self.reads += 1
        if value < current:
            self.stale += 1
            self.last[number, value] = began

    @property
    def seen(self) -> Seen:
        """What it has seen."""
        return Seen(self.reads, self.stale, self.last, self.errors, 0.0)


class Shop:
    """Nodes of both colours that read, and two threads that commit and invalidate, each on a node of its own."""

    def __init__(self, url: str) -> None:
        self.truth = [1] * (ITEMS + 1)  # the last one is changed by the test itself
        self.commits: list[Commit] = []
        self.failed: list[BaseException] = []
        self.readers = [Reader(url, self.truth, colour) for colour in ("blocking", "blocking", "asynchronous")]
        self.writing = threading.Event()
        self.writing.set()
        self.writers = [
            threading.Thread(target=self._write, args=(reader.cache, start), daemon=True)
            for start, reader in enumerate(self.readers[:2])
        ]
        for writer in self.writers:
            writer.start()

    def _write(self, cache: Cache, start: int) -> None:
        pause = threading.Event()
        while self.writing.is_set():
            for number in range(start, ITEMS, 2):
                try:
                    self.commit(cache, number)
                except BaseException as error:  # noqa: BLE001 - shown in the end
                    self.failed.append(error)
                pause.wait(0.002)

    def commit(self, cache: Cache, number: int) -> Any:
        """Commit a version, invalidate, and give the receipt."""
        version = self.truth[number] = self.truth[number] + 1
        receipt = cache.invalidate(f"product:{number}")
        self.commits.append(Commit(number, version, boottime()))
        return receipt

    def read_on(self) -> None:
        """Wait until every reader has made some rounds more."""
        rounds = [reader.rounds + ROUNDS for reader in self.readers]
        until(lambda: all(reader.rounds >= least for reader, least in zip(self.readers, rounds, strict=True)))

    def go_on(self) -> None:
        """Wait until there are some commits more, and some rounds of every reader after them."""
        commits = len(self.commits) + ROUNDS
        until(lambda: len(self.commits) >= commits or self.failed)
        self.read_on()

    def end(self) -> None:
        """Stop all, and close."""
        self.writing.clear()
        for writer in self.writers:
            writer.join()
        for reader in self.readers:
            reader.over.set()
            reader.thread.join()
            reader.cache.close()


def move(cluster: RedisCluster, shop: Shop, slot: int, target: RedisServer) -> None:
    """Move a slot; half of the way all readers go on reading."""
    source = cluster.owner_of_slot(slot)
    cluster.open_slot(slot, source, target)
    cluster.move_keys(slot, source, target, at_most=1)
    shop.read_on()
    cluster.move_keys(slot, source, target)
    cluster.close_slot(slot, target)


def test_h10_slots_move_back_and_forth_under_readers_without_tickets(cluster: RedisCluster) -> None:
    """While slots of log and entries move, no read fails or is beyond the bound, and writers cross by themselves."""
    log = cluster.slot_of(f"{TAG}:log")
    shop = Shop(cluster.url)
    try:
        shop.go_on()
        entry = next(
            slot
            for node in cluster.nodes
            for key in node.call("KEYS", f"{ENTRY}*")
            if (slot := cluster.slot_of(key)) != log
        )
        for slot in (log, entry, log, entry, log):
            source = cluster.owner_of_slot(slot)
            target = next(node for node in cluster.nodes if node is not source)
            before = shop.readers[0].cache.node.generation
            move(cluster, shop, slot, target)
            receipt = shop.commit(shop.readers[2].cache, ITEMS)
            after = receipt.stamp.generation
            assert (after == before) == (slot == entry), "the new owner's log is another generation"
            shop.go_on()
            until(lambda after=after: {one.cache.node.generation for one in shop.readers} == {after})  # type: ignore[misc] # a default
    finally:
        shop.end()
    verdict = judge(shop.commits, [reader.seen for reader in shop.readers], BOUND_S)
    assert (verdict.beyond, verdict.errors, shop.failed) == ({}, {}, [])
    assert verdict.reads > 1000
    assert {type(error) for reader in shop.readers for error in reader.troubles} <= {UnavailableError}
    for reader in shop.readers:
        assert reader.rounds > 10 * ROUNDS
