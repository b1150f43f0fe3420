"""Hits: a decorated function with one int argument, its result resident, next to the same function under its peers.

Ours is coherent: each hit looks at the lease, the deadline and the surroundings. All caches hold the same 1,000 entries
and are bounded alike; all are safe to be used by threads, as ours is. Peers stand as their documentation shows them.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import Case, interleave, ratios
from unstale import Cache

GROUP = "hits"
KEYS = list(range(1000))
ENTRIES_MAX = 100_000
TTL_S = 3600

Function = Callable[[int], int]
AsyncFunction = Callable[[int], Coroutine[None, None, int]]

SYNC_TARGETS = {"cachebox": 0.6, "dogpile": 0.06}
ASYNC_TARGETS = {"cachebox": 0.7, "cashews": 0.03}


def sync_peers(load: Function) -> dict[str, Function]:
    """Give the function under each peer."""
    import cachebox
    import cachetools
    import theine
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=TTL_S)
    by_theine = theine.Memoize(ENTRIES_MAX, timedelta(seconds=TTL_S))(load)
    by_theine.key(lambda number: number)
    bare = cachebox.TTLCache(ENTRIES_MAX, TTL_S)
    return {
        "cachebox": cachebox.cached(cachebox.TTLCache(ENTRIES_MAX, TTL_S))(load),
        "cachebox, no copies, no lock": cachebox.cached(bare, postprocess=None, lock=None)(load),
        "dogpile": region.cache_on_arguments()(load),
        "lru_cache": functools.lru_cache(maxsize=ENTRIES_MAX)(load),
        "cachetools": cachetools.cached(cachetools.TTLCache(ENTRIES_MAX, TTL_S), lock=threading.Lock())(load),
        "theine": by_theine,
    }


def async_peers(load: AsyncFunction) -> dict[str, AsyncFunction]:
    """Give the coroutine function under each peer."""
    import aiocache
    import cachebox
    import cashews

    tags = cashews.Cache()
    tags.setup("mem://", size=ENTRIES_MAX)
    bare = cachebox.TTLCache(ENTRIES_MAX, TTL_S)
    return {
        "cachebox": cachebox.cached(cachebox.TTLCache(ENTRIES_MAX, TTL_S))(load),
        "cachebox, no copies, no lock": cachebox.cached(bare, postprocess=None, lock=None)(load),
        "cashews": tags(ttl=TTL_S, key="number:{number}")(load),
        "aiocache": aiocache.cached(ttl=TTL_S)(load),
    }


def sync_case(function: Function) -> Case:
    """Give the case that calls a function with all keys in turn."""

    def calls(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            for key in KEYS:
                function(key)
        return (time.perf_counter() - began) / len(KEYS)

    return calls


def async_case(function: AsyncFunction, loop: asyncio.AbstractEventLoop) -> Case:
    """Give the case that awaits a coroutine function with all keys in turn, in one task."""

    async def calls(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            for key in KEYS:
                await function(key)
        return (time.perf_counter() - began) / len(KEYS)

    return lambda times: loop.run_until_complete(calls(times))


def compare(name: str, cases: dict[str, Case], targets: dict[str, float], options: Options) -> list[Figure]:
    """Measure all cases in the same rounds, and give ours by each peer's."""
    rounds, sample_s = (7, 0.02 / len(KEYS)) if options.quick else (41, 0.03 / len(KEYS))
    times = interleave(cases, rounds=rounds, sample_s=sample_s)
    ours = times.pop("unstale")
    figures = [figure(GROUP, name, [seconds * 1e9 for seconds in ours], "ns")]
    for peer, theirs in times.items():
        note = f"{peer}: {sorted(theirs)[len(theirs) // 2] * 1e9:,.0f} ns"
        target = targets.get(peer)
        figures.append(figure(GROUP, f"{name}, by {peer}", ratios(ours, theirs), "x", target=target, note=note))
    return figures


def sync_hits(options: Options) -> list[Figure]:
    """Measure plain functions."""
    loads = []

    def load(number: int) -> int:
        loads.append(number)
        return number

    with Cache("memory://", name="sync hits", entries_max=ENTRIES_MAX) as cache:
        ours: Function = cache.cached("number:{number}", ttl=TTL_S)(load)
        functions = {"unstale": ours, **sync_peers(load)}
        for function in functions.values():
            sync_case(function)(1)
        primed = len(loads)
        figures = compare("sync hit", {name: sync_case(one) for name, one in functions.items()}, SYNC_TARGETS, options)
        _prove(primed, len(loads), cache)
    return figures


def async_hits(options: Options) -> list[Figure]:
    """Measure coroutine functions."""
    loads = []

    async def load(number: int) -> int:
        loads.append(number)
        return number

    with asyncio.Runner() as runner, Cache("memory://", name="async hits", entries_max=ENTRIES_MAX) as cache:
        loop = runner.get_loop()
        ours: AsyncFunction = cache.cached("number:{number}", ttl=TTL_S)(load)
        functions = {"unstale": ours, **async_peers(load)}
        cases = {name: async_case(function, loop) for name, function in functions.items()}
        for case in cases.values():
            case(1)
        primed = len(loads)
        figures = compare("async hit", cases, ASYNC_TARGETS, options)
        _prove(primed, len(loads), cache)
    return figures


def _prove(primed: int, loaded: int, cache: Cache) -> None:
    """Make sure that hits were measured: no loader ran, and ours fetched nothing beyond its first misses."""
    if loaded != primed or cache.stats()["fetches"] != len(KEYS):
        msg = f"{loaded - primed} loads, {cache.stats()['fetches']} fetches: these were no hits"
        raise RuntimeError(msg)


def measure(options: Options) -> list[Figure]:
    """Measure hits of both colours."""
    return sync_hits(options) + async_hits(options)
