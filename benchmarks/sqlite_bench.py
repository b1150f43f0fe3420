"""Many processes on one SQLite file: how far and fast an invalidation reaches, what idling costs, and a stampede."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import interleave, quantile, ratios
from unstale import Cache
from unstale.clock import boottime
from unstale.core.node import Progress
from unstale.core.ops import Batch

GROUP = "sqlite"
REACH_RATIO_MAX = 1.3
REACH_MS_MAX = 5.0
P50_MS_MAX = 3.0
P99_MS_MAX = 10.0
IDLE_PERCENT_MAX = 1.0
PROCESSES = 8
THREADS = 25
LOAD_S = 0.05
PATIENCE_S = 60.0

SPAWN = multiprocessing.get_context("spawn")


def url_of(folder: str, name: str) -> str:
    """Give the URL of a new file."""
    return f"sqlite:///{Path(folder) / name}"


def reach(options: Options, folder: str) -> list[Figure]:
    """Invalidate a tag over many stored entries, and one over few, each time another tag of the same entries."""
    rounds, few, many = (15, 100, 5_000) if options.quick else (21, 100, 50_000)
    url = url_of(folder, "reach.cache")
    sizes = {"few": few, "many": many}
    with Cache(url, max_ttl="1d") as cache:
        for name, count in sizes.items():
            tags = [f"{name}:{number}" for number in range(rounds)]
            for start in range(0, count, 1000):
                keys = [f"{name}-entry:{number}" for number in range(start, min(start + 1000, count))]
                cache.get_or_load_many(keys, lambda wanted: dict.fromkeys(wanted, 1), tags=tags, ttl="1h")
    times_ms: dict[str, list[float]] = {"few": [], "many": []}
    with Cache(url, max_ttl="1d") as cache:  # holds none of them in memory: what is resident has figures of its own
        cache.invalidate("nothing")
        if cache.get("many-entry:1") != 1:
            msg = "the entries are not in the store"
            raise RuntimeError(msg)
        for number in range(rounds):
            for name in ("few", "many") if number % 2 else ("many", "few"):
                began = time.perf_counter()
                cache.invalidate(f"{name}:{number}")
                times_ms[name].append((time.perf_counter() - began) * 1e3)
        if cache.get("many-entry:1") is not None or cache.get(f"many-entry:{many - 1}") is not None:
            msg = "an entry outlived the invalidation of its tag"
            raise RuntimeError(msg)
    what = f"a tag over {many:,} stored entries"
    by_few = ratios(times_ms["many"], times_ms["few"])
    return [
        figure(GROUP, f"{what}, by one over {few}", by_few, "x", target=REACH_RATIO_MAX),
        figure(GROUP, f"invalidating {what}", times_ms["many"], "ms", target=REACH_MS_MAX),
    ]


def propagation(options: Options, folder: str) -> list[Figure]:
    """Commit in one process, and note when another has applied it, both by the clock that counts from boot."""
    count = 150 if options.quick else 1500
    url = url_of(folder, "propagation.cache")
    delays_ms: list[float] = []
    with Cache(url) as cache:
        cache.get("nothing")
        applied, node = threading.Event(), cache.node
        apply: Callable[..., Progress] = node.apply

        def stamped(batch: Batch, *how: Any) -> Progress:
            progress = apply(batch, *how)
            now = boottime()
            delays_ms.extend((now - float(one.record.why)) * 1e3 for one in batch.records)
            if len(delays_ms) >= count:
                applied.set()
            return progress

        setattr(node, "apply", stamped)  # noqa: B010 - a probe in one node, not a method
        writer = SPAWN.Process(target=_write, args=(url, count))
        writer.start()
        if not applied.wait(PATIENCE_S):
            msg = f"{len(delays_ms)} of {count} invalidations arrived"
            raise RuntimeError(msg)
        writer.join(PATIENCE_S)
    note = f"{count:,} invalidations, 2 to 12 ms apart; the slowest took {max(delays_ms):.1f} ms"
    what, p99_ms = "commit to applied in another process", quantile(delays_ms, 0.99)
    return [
        figure(GROUP, f"{what}, p50", delays_ms, "ms", target=P50_MS_MAX, sense="<", note=note),
        figure(GROUP, f"{what}, p99", [p99_ms], "ms", target=P99_MS_MAX, sense="<"),
    ]


def _write(url: str, count: int) -> None:
    chance = random.Random(1)
    with Cache(url) as cache:
        cache.get("nothing")
        for number in range(count):
            time.sleep(chance.uniform(0.002, 0.012))
            cache.invalidate(f"row:{number}", reason=repr(boottime()))


def idling(options: Options, folder: str) -> list[Figure]:
    """Leave a cache open in a process that does nothing, and see what its tail takes of the processor."""
    seconds = 2.0 if options.quick else 6.0
    shares = []
    for number in range(1 if options.quick else 3):
        receiving, sending = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_idle, args=(url_of(folder, f"idle-{number}.cache"), seconds, sending))
        process.start()
        shares.append(receiving.recv() * 100)
        process.join(PATIENCE_S)
    return [figure(GROUP, "an idle process polls, of one core", shares, "%", target=IDLE_PERCENT_MAX, sense="<")]


def _idle(url: str, seconds: float, share: Connection) -> None:
    with Cache(url) as cache:
        cache.get("nothing")
        time.sleep(0.2)
        began, used = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        share.send((time.process_time() - used) / (time.perf_counter() - began))


def stampede(options: Options, folder: str) -> list[Figure]:
    """Let 8 processes of 25 threads miss one key at once, with a loader that takes 50 ms: how often does it run?"""
    rounds = 3 if options.quick else 10
    file, loads = url_of(folder, "stampede.cache"), Path(folder) / "loads"
    loads.touch()
    gate = SPAWN.Barrier(PROCESSES + 1)
    processes = [SPAWN.Process(target=_storm, args=(file, str(loads), gate, rounds)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    counts, times_ms = [], []
    for _ in range(rounds):
        gate.wait(PATIENCE_S)
        before, began = loads.stat().st_size, time.perf_counter()
        gate.wait(PATIENCE_S)
        times_ms.append((time.perf_counter() - began) * 1e3)
        counts.append(float(loads.stat().st_size - before))
    for process in processes:
        process.join(PATIENCE_S)
    if any(process.exitcode for process in processes):
        msg = f"processes ended with {[process.exitcode for process in processes]}"
        raise RuntimeError(msg)
    name = f"{PROCESSES} x {THREADS} callers miss one key: loads"
    note = f"the most of {rounds} rounds"
    return [
        figure(GROUP, name, [max(counts)], "", target=1, sense="=", note=note),
        figure(GROUP, f"the same, until all have it (the load takes {LOAD_S * 1e3:.0f} ms)", times_ms, "ms"),
    ]


def _storm(url: str, loads: str, gate: Any, rounds: int) -> None:
    with Cache(url) as cache:

        @cache.cached("storm:{number}", coalesce="cluster", ttl="1h")
        def slow(number: int) -> int:
            with open(loads, "ab", buffering=0) as file:  # noqa: PTH123 - one atomic write, at the end
                file.write(b"x")
            time.sleep(LOAD_S)
            return number

        cache.get("nothing")
        for number in range(rounds):
            together = threading.Barrier(THREADS + 1)

            def call(number: int = number, together: threading.Barrier = together) -> None:
                together.wait(PATIENCE_S)
                if slow(number) != number:
                    os._exit(1)

            threads = [threading.Thread(target=call) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            gate.wait(PATIENCE_S)
            together.wait(PATIENCE_S)
            for thread in threads:
                thread.join(PATIENCE_S)
            gate.wait(PATIENCE_S)


def stored_hits(options: Options, folder: str) -> list[Figure]:
    """Read what lies in the file and not in memory, next to diskcache, which keeps its entries in SQLite too."""
    import diskcache

    rounds, sample_s = (7, 0.02) if options.quick else (31, 0.03)
    count = 1000
    keys = [f"stored:{number}" for number in range(count)]
    with (
        Cache(url_of(folder, "stored.cache"), entries_max=0) as cache,
        diskcache.Cache(str(Path(folder) / "disk")) as disk,
    ):
        cache.get_or_load_many(keys, lambda wanted: dict.fromkeys(wanted, 1), ttl="1h")
        for key in keys:
            disk.set(key, 1, expire=3600)

        def case(get: Callable[[str], object]) -> Callable[[int], float]:
            turns = itertools.cycle(keys)

            def calls(times: int) -> float:
                began = time.perf_counter()
                for key in itertools.islice(turns, times):
                    if get(key) != 1:
                        msg = f"{key} is not there"
                        raise RuntimeError(msg)
                return time.perf_counter() - began

            return calls

        times = interleave({"unstale": case(cache.get), "diskcache": case(disk.get)}, rounds=rounds, sample_s=sample_s)
    return [
        figure(GROUP, "hit in the file, not in memory", [seconds * 1e6 for seconds in times["unstale"]], "us"),
        figure(GROUP, "hit in the file, by diskcache", ratios(times["unstale"], times["diskcache"]), "x"),
    ]


def measure(options: Options) -> list[Figure]:
    """Measure on files of a folder of its own."""
    parts = (reach, propagation, idling, stampede, stored_hits)
    with tempfile.TemporaryDirectory(prefix="unstale-bench-") as folder:
        return [one for part in parts for one in part(options, folder)]
