"""The cache backend of Django against Django's own upon Redis: on one server, in rounds that interleave both."""

# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import interleave, median, ratios
from tests.support.redis_servers import RedisServer

GROUP = "django"
GET_RATIO_MIN = 10.0
SET_RATIO_MAX = 1.5
VALUE = {"id": 17, "name": "kettle", "price": 39, "tags": ["steel", "kitchen"]}


def measure(options: Options) -> list[Figure]:
    """Measure on a private server; the process has the tail of our backend running all the time."""
    with RedisServer() as server:
        settings.configure(
            SECRET_KEY="of the benchmark, and of nothing else",
            CACHES={
                "ours": {"BACKEND": "unstale.django.Cache", "LOCATION": server.url},
                "theirs": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.url},
            },
        )
        django.setup()
        from django.core.cache import caches

        from unstale.django import cache_of

        rounds = 15 if options.quick else 101
        figures = []
        cases: tuple[tuple[str, Callable[[Any, int], float], int], ...] = (
            ("get, hot key", getting, 100),
            ("set", setting, 20),
            ("incr", counting, 20),
        )
        for name, case, times in cases:
            taken = interleave(
                {alias: bound(case, caches[alias]) for alias in ("ours", "theirs")}, rounds=rounds, times=times
            )
            figures.append(judged(name, taken))
        cache_of("ours").close()
        return figures


def bound(case: Callable[[Any, int], float], cache: Any) -> Callable[[int], float]:
    """Give a case upon a cache."""
    cache.set("hot", VALUE)
    cache.set("n", 0)
    return lambda times: case(cache, times)


def getting(cache: Any, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        cache.get("hot")
    return time.perf_counter() - began


def setting(cache: Any, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        cache.set("hot", VALUE)
    return time.perf_counter() - began


def counting(cache: Any, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        cache.incr("n")
    return time.perf_counter() - began


def judged(name: str, taken: dict[str, list[float]]) -> Figure:
    """Give the figure of one method: how often faster a read is, and by what a write costs more."""
    note = ", ".join(f"{alias}: {median(times) * 1e6:.1f} us" for alias, times in taken.items())
    if name.startswith("get"):
        faster = ratios(taken["theirs"], taken["ours"])
        return figure(GROUP, f"{name}: times faster", faster, "x", target=GET_RATIO_MIN, sense=">=", note=note)
    by_theirs = ratios(taken["ours"], taken["theirs"])
    target = SET_RATIO_MAX if name == "set" else None
    return figure(GROUP, f"{name}: time by theirs", by_theirs, "x", target=target, note=note)
