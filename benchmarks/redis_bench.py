"""Redis: publishing, following, what an invalidation reaches, and the rest of `make bench-redis` from other modules."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from benchmarks import redis_fanout, redis_fleet, redis_peers
from benchmarks.awake import awake
from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import Case, interleave, median, ratios
from tests.support.redis_servers import RedisServer
from unstale import Cache
from unstale.core.record import Record, encode_record
from unstale.core.tail import follow, join
from unstale.drivers import run

GROUP = "redis log"
PUBLISH_RATIO_MAX = 2.2
BATCHED_PER_S_MIN = 80_000.0
FOLLOWED_PER_S_MIN = 150_000.0
REACH_RATIO_MAX = 1.2
DELETE_TAGS_RATIO_MAX = 0.01

_ids = itertools.count()


def patient(server: RedisServer) -> str:
    """Give a server's URL for calls that nobody repeats: a machine that pauses for a second must not end the run."""
    return f"{server.url}?timeout=5s"


def a_record(*scopes: str) -> Record:
    """Give a record as an invalidation makes it."""
    return Record(f"{next(_ids):020x}", scopes, who="host:1", at=time.time())


def each(times: int, call: Any) -> float:
    """Do something so many times, each as long as the middle one took."""
    clock, took = time.perf_counter, []
    for _ in range(times):
        began = clock()
        call()
        took.append(clock() - began)
    return median(took) * times


def publish(options: Options, server: RedisServer) -> list[Figure]:
    """Publish one record of one scope, next to a raw XADD of the same bytes; by the engine, and by a whole node."""
    client: Any = server.client()
    data = encode_record(a_record("product:17"))
    with Cache(server.url, name="publish") as cache, Cache(patient(server), name="bare") as bare:
        cache.get("nothing")  # its tail follows what it publishes itself
        append = bare.ports.log.append
        cases: dict[str, Case] = {
            "xadd": lambda times: each(times, lambda: client.xadd("raw", {"d": data})),
            "append": lambda times: each(times, lambda: append((a_record("product:17"),))),
            "invalidate": lambda times: each(times, lambda: cache.invalidate("product:17")),
        }
        rounds, count = (15, 300) if options.quick else (101, 500)
        with awake():
            hot = interleave(cases, rounds=rounds, times=count)
        cold = interleave(cases, rounds=rounds, times=count)
    figures = []
    for name, times, target in (("awake", hot, PUBLISH_RATIO_MAX), ("not kept awake", cold, None)):
        note = f"XADD by redis-py: {median(times['xadd']) * 1e6:.1f} us"
        for case, what in (("append", "append of one record"), ("invalidate", "cache.invalidate")):
            by_xadd = ratios(times[case], times["xadd"])
            figures.append(figure(GROUP, f"{what}, {name}, by a raw XADD", by_xadd, "x", target=target, note=note))
            note = ""
    return figures


def batched(options: Options, server: RedisServer) -> list[Figure]:
    """Append many records a call, from one process, to a log that is trimmed as it grows."""
    rounds, count = (5, 10_000) if options.quick else (15, 30_000)
    figures = []
    with Cache(patient(server), name="batched") as cache:
        append = cache.ports.log.append
        for size in (100, 500):
            rates = []
            for _ in range(rounds):
                records = [a_record(f"product:{number}") for number in range(count)]
                batches = [tuple(records[start : start + size]) for start in range(0, count, size)]
                began = time.perf_counter()
                for batch in batches:
                    append(batch)
                rates.append(count / (time.perf_counter() - began))
            name = f"published by one process, {size} records a call"
            figures.append(figure(GROUP, name, rates, "records/s", target=BATCHED_PER_S_MIN, sense=">="))
    return figures


def followed(options: Options, server: RedisServer) -> list[Figure]:
    """Fetch and apply records of two scopes that another has published, by the tail's own flow."""
    rounds, count = (3, 20_000) if options.quick else (9, 80_000)
    rates = []
    with Cache(patient(server), name="followed") as cache:  # its tail is not started: this thread follows the log alone
        node, ports = cache.node, cache.ports
        run(join(node), ports)
        for round_ in range(rounds):
            for start in range(0, count, 500):
                numbers = range(start, start + 500)
                ports.log.append(tuple(a_record(f"item:{round_}:{n}", f"list:{n % 997}") for n in numbers))
            head = ports.log.read_head().head
            began = time.perf_counter()
            while node.applied < head:
                run(follow(node, 0.0), ports)
            rates.append(count / (time.perf_counter() - began))
        if node.counts["discontinuities"] != 1:
            msg = "the log was lost on the way: these records were not followed"
            raise RuntimeError(msg)
    name = "fetched and applied by one node"
    return [figure(GROUP, name, rates, "records/s", target=FOLLOWED_PER_S_MIN, sense=">=")]


def reach(options: Options, server: RedisServer) -> list[Figure]:
    """Invalidate a tag over many stored entries, and one over few; and have cashews delete as many by their tag."""
    rounds, few, many = (51, 100, 5_000) if options.quick else (81, 100, 50_000)
    sizes = {"few": few, "many": many}
    with Cache(server.url, name="reach", max_ttl="1d") as cache:
        for name, count in sizes.items():
            tags = [f"{name}:{number}" for number in range(rounds)]
            for start in range(0, count, 1000):
                keys = [f"{name}-entry:{number}" for number in range(start, min(start + 1000, count))]
                cache.get_or_load_many(keys, lambda wanted: dict.fromkeys(wanted, 1), tags=tags, ttl="1h")
    times_ms: dict[str, list[float]] = {"few": [], "many": []}
    with Cache(server.url, name="reach", max_ttl="1d", entries_max=0) as cache:
        cache.invalidate("nothing")
        if cache.get("many-entry:1") != 1:
            msg = "the entries are not in the store"
            raise RuntimeError(msg)
        with awake():
            for number in range(rounds):
                for name in ("few", "many") if number % 2 else ("many", "few"):
                    began = time.perf_counter()
                    cache.invalidate(f"{name}:{number}")
                    times_ms[name].append((time.perf_counter() - began) * 1e3)
        if cache.get("many-entry:1") is not None or cache.get(f"many-entry:{many - 1}") is not None:
            msg = "an entry outlived the invalidation of its tag"
            raise RuntimeError(msg)
    theirs_ms = asyncio.run(_delete_tags(server, many, 1 if options.quick else 3))
    what, ours_ms = f"a tag over {many:,} stored entries", median(times_ms["many"])
    few_ms = median(times_ms["few"])
    by_cashews = [ours_ms / one_ms for one_ms in theirs_ms]
    note = f"cashews, delete_tags: {median(theirs_ms):,.0f} ms"
    return [
        figure(GROUP, f"invalidating {what}", times_ms["many"], "ms"),
        figure(
            GROUP, f"{what}, by one over {few}", [ours_ms / few_ms], "x", target=REACH_RATIO_MAX,
            note=f"medians of {rounds} each, in turn",
        ),
        figure(GROUP, f"{what}, by cashews", by_cashews, "x", target=DELETE_TAGS_RATIO_MAX, note=note),
    ]  # fmt: skip


async def _delete_tags(server: RedisServer, count: int, rounds: int) -> list[float]:
    import cashews

    cache = cashews.Cache()
    cache.setup(server.url)
    times_ms = []
    for _ in range(rounds):
        for start in range(0, count, 100):
            numbers = range(start, start + 100)
            await asyncio.gather(*[cache.set(f"cashews:{n}", 1, expire=3600, tags=["cashews"]) for n in numbers])
        if await cache.get("cashews:1") != 1:
            msg = "the entries of cashews are not in the store"
            raise RuntimeError(msg)
        began = time.perf_counter()
        await cache.delete_tags("cashews")
        times_ms.append((time.perf_counter() - began) * 1e3)
        if await cache.get("cashews:1") is not None or await cache.get(f"cashews:{count - 1}") is not None:
            msg = "an entry of cashews outlived its tag"
            raise RuntimeError(msg)
    await cache.close()
    return times_ms


PARTS = (
    redis_peers.sync_hits, redis_peers.async_hits, publish, batched, followed, reach,
    redis_fleet.propagation, redis_fleet.waiting, redis_fleet.outage, redis_fanout.fanout,
)  # fmt: skip


def measure(options: Options) -> list[Figure]:
    """Measure each part on a private server of its own."""
    figures = []
    for part in PARTS:
        print(f"  {part.__name__.replace('_', ' ')} ...", flush=True)
        with RedisServer() as server:
            figures += part(options, server)
    return figures
