"""Hits in Redis with nothing in memory: a decorated function of ours, next to redis-py's own `get`, and to peers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import redis
import redis.asyncio

from benchmarks.awake import awake
from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import Case, interleave, median, ratios
from tests.support.ports import HOST
from tests.support.redis_servers import RedisServer
from unstale import Cache

GROUP = "redis hits"
VALUE = random.Random(1).randbytes(1024)
NUMBERS = range(200)
TTL_S = 3600
TASKS = 50

SYNC_TARGETS = {"redis-py get": 0.9, "dogpile": 0.6}
ASYNC_TARGETS = {"redis-py get": 1.0, "aiocache": 0.6, "cashews": 0.6}
CROWD_TARGETS = {"redis-py get": 3.0}

Function = Callable[[int], object]
AsyncFunction = Callable[[int], Awaitable[object]]


def stored_names(server: RedisServer, keys: list[str]) -> list[bytes]:
    """Give the names under which the server has the entries of keys, and see that it has them."""
    client: Any = server.client()
    by_key = {name.rpartition(b"|")[2]: name for name in client.scan_iter(match="*:e:*", count=10_000)}
    names = [by_key[key.encode()] for key in keys]
    if not all(VALUE in client.get(name) for name in names):
        msg = "what is stored is not what was cached"
        raise RuntimeError(msg)
    return names


def sync_case(function: Function) -> Case:
    """Give the case that calls a function with all numbers in turn, each call as long as the middle one took."""

    def calls(times: int) -> float:
        clock, each = time.perf_counter, []
        for number in range(times):
            began = clock()
            function(number % len(NUMBERS))
            each.append(clock() - began)
        return median(each) * times

    return calls


def async_case(function: AsyncFunction, loop: asyncio.AbstractEventLoop) -> Case:
    """Give the case that awaits a function with all numbers in turn, each call as long as the middle one took."""

    async def calls(times: int) -> float:
        clock, each = time.perf_counter, []
        for number in range(times):
            began = clock()
            await function(number % len(NUMBERS))
            each.append(clock() - began)
        return median(each) * times

    return lambda times: loop.run_until_complete(calls(times))


def crowd_case(function: AsyncFunction, loop: asyncio.AbstractEventLoop) -> Case:
    """Give the case in which many tasks await a function at once, each with all numbers in turn, from first to last."""

    async def one(times: int, first: int) -> None:
        for number in range(first, first + times):
            await function(number % len(NUMBERS))

    async def calls(times: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*[one(times, first) for first in range(TASKS)])
        return time.perf_counter() - began

    return lambda times: loop.run_until_complete(calls(times))


def compare(
    name: str, cases: Mapping[str, Case], targets: Mapping[str, float], options: Options, *, tasks: int = 1
) -> list[Figure]:
    """Measure all cases in the same rounds: ours, and its time (with many tasks, its throughput) by each other's."""
    rounds, count = (15, 300) if options.quick else (101, 500)
    times = interleave(cases, rounds=rounds, times=count if tasks == 1 else count * 4 // tasks)
    ours = times.pop("unstale")
    figures = []
    if tasks == 1:
        figures.append(figure(GROUP, name, [seconds * 1e6 for seconds in ours], "us"))
    else:
        figures.append(figure(GROUP, name, [tasks / seconds for seconds in ours], "reads/s"))
    for other, theirs in times.items():
        target, by, middle = targets.get(other), f"{name}, by {other}", median(theirs)
        if tasks == 1:
            note = f"{other}: {middle * 1e6:.1f} us"
            figures.append(figure(GROUP, by, ratios(ours, theirs), "x", target=target, note=note))
        else:
            note = f"{other}: {tasks / middle:,.0f} reads/s"
            figures.append(figure(GROUP, by, ratios(theirs, ours), "x", target=target, sense=">=", note=note))
    return figures


def both(
    name: str, cases: Mapping[str, Case], targets: Mapping[str, float], options: Options, tasks: int = 1
) -> list[Figure]:
    """Compare with the cores kept awake, where the targets hold, and without."""
    with awake():
        hot = compare(f"{name}, awake", cases, targets, options, tasks=tasks)
    return hot + compare(f"{name}, not kept awake", cases, {}, options, tasks=tasks)


def sync_hits(options: Options, server: RedisServer) -> list[Figure]:
    """Measure plain functions."""
    from dogpile.cache import make_region

    loads = []

    def load(number: int) -> bytes:
        loads.append(number)
        return VALUE

    region = make_region().configure(
        "dogpile.cache.redis", expiration_time=TTL_S, arguments={"host": HOST, "port": server.port}
    )
    with Cache(server.url, name="sync hits", entries_max=0) as cache, redis.Redis(HOST, server.port) as client:
        ours = cache.cached("plain:{number}", ttl=TTL_S)(load)
        theirs: Function = region.cache_on_arguments()(load)
        for number in NUMBERS:
            ours(number)
            theirs(number)
        names = stored_names(server, [ours.key(number) for number in NUMBERS])
        primed = len(loads)
        cases = {
            "unstale": sync_case(ours),
            "redis-py get": sync_case(lambda number: client.get(names[number])),
            "dogpile": sync_case(theirs),
        }
        figures = both("hit in Redis, sync", cases, SYNC_TARGETS, options)
        prove(primed, len(loads), cache)
    return figures


def async_hits(options: Options, server: RedisServer) -> list[Figure]:
    """Measure coroutine functions: one task, and many."""
    import aiocache
    import cashews
    from aiocache.serializers import PickleSerializer

    loads = []

    async def load(number: int) -> bytes:
        loads.append(number)
        return VALUE

    tags = cashews.Cache()
    tags.setup(server.url)
    by_cashews: AsyncFunction = tags(ttl=TTL_S, key="cashews:{number}")(load)
    by_aiocache: AsyncFunction = aiocache.cached(
        ttl=TTL_S, cache=aiocache.RedisCache, endpoint=HOST, port=server.port, serializer=PickleSerializer()
    )(load)
    with asyncio.Runner() as runner, Cache(server.url, name="async hits", entries_max=0) as cache:
        loop = runner.get_loop()
        client: Any = redis.asyncio.Redis(host=HOST, port=server.port)
        decorated = cache.cached("awaited:{number}", ttl=TTL_S)(load)
        ours: Callable[[int], Coroutine[Any, Any, bytes]] = decorated
        for function in (ours, by_cashews, by_aiocache):
            async_case(function, loop)(len(NUMBERS))
        names = stored_names(server, [decorated.key(number) for number in NUMBERS])
        primed = len(loads)
        functions: dict[str, AsyncFunction] = {
            "unstale": ours,
            "redis-py get": lambda number: client.get(names[number]),
            "aiocache": by_aiocache,
            "cashews": by_cashews,
        }
        cases = {name: async_case(function, loop) for name, function in functions.items()}
        figures = both("hit in Redis, async", cases, ASYNC_TARGETS, options)
        crowd = {name: crowd_case(functions[name], loop) for name in ("unstale", "redis-py get")}
        figures += both(f"{TASKS} tasks", crowd, CROWD_TARGETS, options, TASKS)
        engine: Any = cache.ports.store
        stored = [(name.partition(b":e:")[2].decode(),) for name in names]
        bare = {"unstale": crowd_case(lambda number: engine.afetch(stored[number]), loop)}
        figures += both(
            f"{TASKS} tasks, the engine's fetch alone",
            bare | {"redis-py get": crowd["redis-py get"]},
            {},
            options,
            TASKS,
        )
        prove(primed, len(loads), cache)
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(tags.close())
    return figures


def prove(primed: int, loaded: int, cache: Cache) -> None:
    """Make sure that hits in Redis were measured: no loader ran, nothing lay in memory, each read found its entry."""
    stats = cache.stats()
    if loaded != primed or stats["entries"] or stats["fetches"] - len(NUMBERS) != stats["store_hits"]:
        msg = f"{loaded - primed} loads, {stats}: these were no hits in Redis"
        raise RuntimeError(msg)
