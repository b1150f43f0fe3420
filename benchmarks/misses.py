"""Misses, records and what they end, on `memory://`: the costs of the core itself, with an engine that costs little.

All times are CPU times: what other programs take from the machine meanwhile is no cost of a miss.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Callable

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import slope
from unstale import Cache, tag
from unstale.core.calls import read_served
from unstale.core.marks import MARKS_MAX
from unstale.core.record import Record
from unstale.core.table import ENTRIES_MAX
from unstale.core.tail import follow, join
from unstale.drivers import run
from unstale.requests import want_of

GROUP = "misses"
MISS_US_MAX = 30.0
RECORDS_PER_S_MIN = 100_000.0
ENDED_US_MAX = 1.0

_names = itertools.count()


def own_cache(entries_max: int = ENTRIES_MAX) -> Cache:
    """Give a cache that shares its memory with no other."""
    return Cache("memory://", name=f"bench {next(_names)}", entries_max=entries_max)


def misses(options: Options) -> list[Figure]:
    """Measure a call that finds nothing: look, fetch, load, check, keep, send to the store."""
    rounds, calls = (7, 500) if options.quick else (31, 2000)
    numbers = itertools.count()
    sync_us: list[float] = []
    full_us: list[float] = []
    async_us: list[float] = []

    def plain(number: int) -> int:
        return number

    async def awaited(number: int) -> int:
        return number

    with own_cache() as roomy, own_cache(entries_max=calls) as full, asyncio.Runner() as runner:
        by_thread = roomy.cached("thread:{number}")(plain)
        by_task = roomy.cached("task:{number}")(awaited)
        evicting = full.cached("full:{number}")(plain)

        async def tasks(first: int) -> float:
            began = time.thread_time()
            for number in range(first, first + calls):
                await by_task(number)
            return (time.thread_time() - began) / calls * 1e6

        def threads(function: Callable[[int], int], first: int) -> float:
            began = time.thread_time()
            for number in range(first, first + calls):
                function(number)
            return (time.thread_time() - began) / calls * 1e6

        threads(evicting, next(numbers) * calls)
        for _ in range(rounds):
            first = next(numbers) * calls
            sync_us.append(threads(by_thread, first))
            full_us.append(threads(evicting, first))
            async_us.append(runner.run(tasks(first)))
        fetched = roomy.stats()["fetches"]
        if fetched != 2 * rounds * calls:
            msg = f"{fetched} fetches for {2 * rounds * calls} calls: these were not all misses"
            raise RuntimeError(msg)
    return [
        figure(GROUP, "miss, instant loader, sync", sync_us, "us", target=MISS_US_MAX),
        figure(GROUP, "miss, instant loader, async", async_us, "us", target=MISS_US_MAX),
        figure(GROUP, "miss that evicts an entry, sync", full_us, "us"),
    ]


def apply_rate(options: Options) -> list[Figure]:
    """Measure poll and apply by the tail's own flow: records of two scopes, a tenth of which end a resident entry."""
    rounds, count, resident = (3, 20_000, 2_000) if options.quick else (7, 90_000, 9_000)
    fresh = [_records_per_s(seed, count, resident, marks=0) for seed in range(rounds)]
    bounded = [_records_per_s(seed, count, resident, marks=MARKS_MAX) for seed in range(rounds)]
    return [
        figure(GROUP, "records applied a second", fresh, "records/s", target=RECORDS_PER_S_MIN, sense=">="),
        figure(
            GROUP, "records applied a second, marks at their bound", bounded, "records/s",
            target=RECORDS_PER_S_MIN, sense=">=", note=f"{MARKS_MAX:,} marks before the first of them",
        ),
    ]  # fmt: skip


def _records_per_s(seed: int, count: int, resident: int, *, marks: int) -> float:
    chance = random.Random(seed)
    cache = own_cache()  # its tail is never started: this thread follows the log alone
    node, ports = cache.node, cache.ports
    run(join(node), ports)
    for number in range(marks):
        node.marks.apply(0, Record("", (f"old:{number}",)))
    for number in range(resident):
        run(read_served(node, want_of(cache, f"item:{number}", call=lambda: 1)), ports)
    names = [number if number < resident else number + resident for number in range(count)]
    chance.shuffle(names)
    for start in range(0, count, 500):
        batch = names[start : start + 500]
        ports.log.append(tuple(Record(f"{name:x}", (f"item:{name}", f"list:{name % 997}")) for name in batch))
    head = ports.log.read_head().head
    gc.collect()
    began = time.thread_time()
    while node.applied < head:
        run(follow(node, 0.0), ports)
    took_s = time.thread_time() - began
    if node.table.cells or node.counts["ended"] != resident:
        msg = f"{node.counts['ended']} of {resident} resident entries were ended"
        raise RuntimeError(msg)
    return count / took_s


def ended(options: Options) -> list[Figure]:
    """Measure an invalidation by how many resident entries it ends: their number's share in the time it takes."""
    rounds, few, many = (3, 100, 5_000) if options.quick else (9, 100, 20_000)
    shared_us: list[float] = []
    own_us: list[float] = []
    with own_cache() as cache:

        def alike(number: int) -> int:
            return number

        def apart(number: int) -> int:
            tag("ended", f"row:{number}", f"owner:{number % 50}")
            return number

        bystander = cache.cached("bystander:{number}")(alike)
        for number in range(1_000):
            bystander(number)
        alike_cached = cache.cached("alike:{number}", tags=["ended"])(alike)
        apart_cached = cache.cached("apart:{number}")(apart)
        for function, costs in ((alike_cached, shared_us), (apart_cached, own_us)):
            for _ in range(rounds):
                points = [(float(count), _ended_us(cache, function, count)) for count in (few, many)]
                costs.append(slope(points))
    return [
        figure(GROUP, "each resident entry ended by a tag, scopes alike", shared_us, "us", target=ENDED_US_MAX),
        figure(GROUP, "each resident entry ended by a tag, four scopes each", own_us, "us", target=ENDED_US_MAX),
    ]


def _ended_us(cache: Cache, function: Callable[[int], int], count: int) -> float:
    for number in range(count):
        function(number)
    before = cache.stats().get("ended", 0)
    gc.collect()
    began = time.process_time()  # of all threads: the tail may be the one that applies the record
    cache.invalidate("ended")
    took_us = (time.process_time() - began) * 1e6
    if cache.stats()["ended"] - before != count:
        msg = f"{cache.stats()['ended'] - before} entries were ended, not {count}"
        raise RuntimeError(msg)
    return took_us


def measure(options: Options) -> list[Figure]:
    """Measure misses, the apply rate and the cost of ended entries."""
    return misses(options) + apply_rate(options) + ended(options)
