"""Many processes on one Redis: how fast an invalidation reaches them, who waits for whom, and an outage under load."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import redis

from benchmarks.awake import awake
from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import median, quantile
from tests.support.redis_servers import RedisServer
from unstale import Cache, Origin, Policy
from unstale.clock import boottime
from unstale.core.node import Progress
from unstale.core.ops import Batch

GROUP = "redis fleet"
P50_MS_MAX = 0.6
P99_MS_MAX = 3.0
FLEET = 50
FLEET_P99_MS_MAX = 15.0
MEMBERS = 8
WAIT_MS_MAX = 5.0
STOPPED_BOUND_S = 1.0
STOPPED_OVER_MS = 100.0
RECOVERY_MS_MAX = 1000.0
LIMIT = 2
THREADS = 4
KEYS = 100
SLOT_S = 0.05
GOOD = 0.8  # of the reads a second before the outage: so many are a recovery
PATIENCE_S = 120.0

SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["benchmarks.redis_fleet"])


class Role:
    """Another process that does its part, answers when it is ready, and again when it is done.

    Args:
        part: What it does.
        given: What it is given, before its end of the pipe.
    """

    def __init__(self, part: Callable[..., None], *given: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=part, args=(*given, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """Wait for what it says."""
        if not self.pipe.poll(PATIENCE_S):
            msg = f"a process said nothing for {PATIENCE_S:g} s"
            raise RuntimeError(msg)
        return self.pipe.recv()

    def end(self) -> None:
        """End it, if it still runs."""
        self.process.kill()
        self.process.join(PATIENCE_S)
        self.pipe.close()


@contextlib.contextmanager
def roles(count: int, part: Callable[..., None], *given: Any) -> Iterator[list[Role]]:
    """Start so many processes, and wait until all are ready."""
    started = [Role(part, *given) for _ in range(count)]
    try:
        for role in started:
            role.hear()
        yield started
    finally:
        for role in started:
            role.end()


def propagation(options: Options, server: RedisServer) -> list[Figure]:
    """Publish in this process, and note when others have applied it, all by the clock that counts from boot."""
    pairs, fleet = ((400, 100), (60, 20)) if options.quick else ((2000, 100), (400, 20))
    with awake():
        figures = _pair(server, "awake", P50_MS_MAX, *pairs)
    figures += _pair(server, "not kept awake", None, *pairs)
    delays_ms, call_ms = _delays_ms(server, FLEET, *fleet)
    what = f"publish to applied in {FLEET} processes"
    note = f"{fleet[0]:,} invalidations, {fleet[1]} a second; the slowest took {max(delays_ms):.1f} ms; "
    note += f"the call itself: p50 {median(call_ms):.2f} ms"
    return [
        *figures,
        figure(GROUP, f"{what}, p50", delays_ms, "ms", note=note),
        figure(GROUP, f"{what}, p99", [quantile(delays_ms, 0.99)], "ms", target=FLEET_P99_MS_MAX, sense="<"),
    ]


def _pair(server: RedisServer, how: str, target: float | None, count: int, rate: int) -> list[Figure]:
    """Measure how long it takes to one other process, and what is under that."""
    delays_ms, call_ms = _delays_ms(server, 1, count, rate)
    what = f"publish to applied in another process, {how}"
    note = f"{count:,} invalidations, {rate} a second; the slowest took {max(delays_ms):.1f} ms; "
    note += f"the call itself: p50 {median(call_ms):.2f} ms"
    figures = [
        figure(GROUP, f"{what}, p50", delays_ms, "ms", target=target, sense="<", note=note),
        figure(GROUP, f"{what}, p99", [quantile(delays_ms, 0.99)], "ms", target=P99_MS_MAX, sense="<"),
    ]
    floor_ms, call_ms = _floor_ms(server, count, rate)
    what = f"raw XADD to raw XREAD in another process, {how}"
    note = f"redis-py on both sides, paced alike; the XADD itself: p50 {median(call_ms):.2f} ms"
    return [
        *figures,
        figure(GROUP, f"{what}, p50", floor_ms, "ms", note=note),
        figure(GROUP, f"{what}, p99", [quantile(floor_ms, 0.99)], "ms"),
    ]


def _delays_ms(server: RedisServer, readers: int, count: int, rate: int) -> tuple[list[float], list[float]]:
    calls_ms = []
    name = f"propagation to {readers}"
    with Cache(server.url, name=name) as cache, roles(readers, _tail, server.url, name, count) as tails:
        cache.get("nothing")
        for number in range(count):
            time.sleep(1 / rate)
            began = boottime()
            cache.invalidate(f"row:{number}", reason=repr(began))
            calls_ms.append((boottime() - began) * 1e3)
        return [delay for tail in tails for delay in tail.hear()], calls_ms


def _floor_ms(server: RedisServer, count: int, rate: int) -> tuple[list[float], list[float]]:
    """Measure what is under all that: an entry of a stream to whoever waits for it, and what adding it takes."""
    client: Any = server.client()
    calls_ms, stream = [], f"floor {time.monotonic_ns()}"
    with roles(1, _raw_reader, server.url, stream, count) as (reader,):
        for _ in range(count):
            time.sleep(1 / rate)
            began = boottime()
            client.xadd(stream, {"began": repr(began)})
            calls_ms.append((boottime() - began) * 1e3)
        return reader.hear(), calls_ms


def _raw_reader(url: str, stream: str, count: int, pipe: Connection) -> None:
    client: Any = redis.Redis.from_url(url)
    delays_ms: list[float] = []
    last = b"0"
    pipe.send("ready")
    while len(delays_ms) < count:
        for _stream, entries in client.xread({stream: last}, block=int(PATIENCE_S * 1e3)):
            now = boottime()
            delays_ms += [(now - float(fields[b"began"])) * 1e3 for _id, fields in entries]
            last = entries[-1][0]
    pipe.send(delays_ms)
    pipe.recv()


def _tail(url: str, name: str, count: int, pipe: Connection) -> None:
    delays_ms: list[float] = []
    applied = threading.Event()
    with Cache(url, name=name) as cache:
        cache.get("nothing")
        node = cache.node
        apply: Callable[..., Progress] = node.apply

        def stamped(batch: Batch, *how: Any) -> Progress:
            progress = apply(batch, *how)
            now = boottime()
            delays_ms.extend((now - float(one.record.why)) * 1e3 for one in batch.records)
            if len(delays_ms) >= count:
                applied.set()
            return progress

        setattr(node, "apply", stamped)  # noqa: B010 - a probe in one node, not a method
        pipe.send("ready")
        applied.wait(PATIENCE_S)
        pipe.send(delays_ms)
        pipe.recv()


def waiting(options: Options, server: RedisServer) -> list[Figure]:
    """Invalidate and wait for eight other live nodes; then for as many of which one is stopped."""
    rounds, stops = (60, 2) if options.quick else (600, 5)
    bound = f"{STOPPED_BOUND_S:g}s"
    with (
        Cache(server.url, name="waiting", max_staleness=bound) as cache,
        roles(MEMBERS, _member, server.url, "waiting", bound) as members,
    ):
        cache.get("nothing")
        time.sleep(STOPPED_BOUND_S * 1.5)  # a list known for less than the bound is not believed
        times_ms = []
        for number in range(rounds):
            began = time.perf_counter()
            receipt = cache.invalidate(f"flag:{number}", wait=True)
            times_ms.append((time.perf_counter() - began) * 1e3)
            if not receipt.complete or len(receipt.nodes) != MEMBERS + 1:
                msg = f"{len(receipt.nodes)} of {MEMBERS + 1} nodes are on the receipt: {receipt}"
                raise RuntimeError(msg)
        stopped_ms = []
        for number in range(stops):
            pid = members[0].process.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            began = time.perf_counter()
            receipt = cache.invalidate(f"stopped:{number}", wait=True)
            stopped_ms.append((time.perf_counter() - began) * 1e3)
            os.kill(pid, signal.SIGCONT)
            if not receipt.complete or len(receipt.nodes) >= MEMBERS + 1:
                msg = f"a stopped node is on the receipt, or it is not complete: {receipt}"
                raise RuntimeError(msg)
            time.sleep(STOPPED_BOUND_S * 1.5)
    target_ms = STOPPED_BOUND_S * 1e3 + STOPPED_OVER_MS
    what = f"invalidate(wait=True) over {MEMBERS} other nodes"
    slowest = f"p99 {quantile(times_ms, 0.99):.1f} ms"
    return [
        figure(GROUP, f"{what}, p50", times_ms, "ms", target=WAIT_MS_MAX, sense="<", note=slowest),
        figure(
            GROUP, f"the same with one of them stopped, max_staleness {bound}", [max(stopped_ms)], "ms",
            target=target_ms, note=f"the longest of {stops}",
        ),
    ]  # fmt: skip


def _member(url: str, name: str, bound: str, pipe: Connection) -> None:
    with Cache(url, name=name, max_staleness=bound) as cache:
        cache.get("nothing")
        pipe.send("ready")
        pipe.recv()


class Seen(msgspec.Struct):
    """What a reader of the outage saw: reads answered by slot, errors that reached it, and the most loads at once."""

    reads: Counter[int]
    errors: list[str]
    loads: int
    together: int


def outage(options: Options, server: RedisServer) -> list[Figure]:
    """Kill Redis under load, bring it back, and see what readers with a warm memory notice of it."""
    down_s, times = (6.0, 1) if options.quick else (30.0, 2)
    figures = []
    recoveries: dict[str, list[float]] = {"load": [], "stale": []}
    errors: list[str] = []
    together: list[int] = []
    share: dict[str, list[float]] = {"load": [], "stale": []}
    for _ in range(times):
        with (
            roles(2, _reader, server.url, "load") as loading,
            roles(2, _reader, server.url, "stale") as stale,
        ):
            time.sleep(2.0)
            killed = boottime()
            server.kill()
            time.sleep(down_s)
            server.start()
            back = boottime()
            time.sleep(4.0)
            for policy, readers in (("load", loading), ("stale", stale)):
                for reader in readers:
                    reader.pipe.send("stop")
                    seen: Seen = reader.hear()
                    errors += seen.errors
                    together.append(seen.together)
                    recovery_ms, kept = _judged(seen.reads, killed, back)
                    recoveries[policy].append(recovery_ms)
                    share[policy].append(kept)
    what = f"Redis killed for {down_s:g} s"
    figures.append(
        figure(GROUP, f"{what}: exceptions that reached a caller", [len(errors)], "", target=0, sense="=",
               note="; ".join(sorted(set(errors)))[:200])
    )  # fmt: skip
    most = float(max(together))
    figures.append(figure(GROUP, f"{what}: most loads at once, of {LIMIT} allowed", [most], "", target=LIMIT))
    for policy, values in recoveries.items():
        name = f"{what}, policy {policy}: until {GOOD:.0%} of the reads before are reached again"
        kept = median(share[policy]) * 100
        note = f"the longest of {len(values)} processes; the middle one {median(values):.0f} ms; "
        note += f"meanwhile {kept:.0f} % of the reads before"
        figures.append(figure(GROUP, name, [max(values)], "ms", target=RECOVERY_MS_MAX, note=note))
    return figures


def _judged(reads: Counter[int], killed: float, back: float) -> tuple[float, float]:
    """Give the milliseconds from the return to the first slots that are as full as before, and the share kept."""
    first, gone, there = min(reads), int(killed / SLOT_S), int(back / SLOT_S)
    before = median([reads[slot] for slot in range(first + 5, gone)])
    kept = sum(reads[slot] for slot in range(gone + 1, there)) / max(1, there - gone - 1) / before
    for slot in range(there + 1, max(reads) - 4):
        if median([reads[slot + n] for n in range(4)]) >= GOOD * before:
            return max(0.0, (slot + 1) * SLOT_S - back) * 1e3, kept
    return float("inf"), kept


def _reader(url: str, unproven: Any, pipe: Connection) -> None:
    """Read a hundred keys over and over in some threads, by a policy that says what to do without Redis."""
    lock, stop = threading.Lock(), threading.Event()
    seen = Seen(Counter(), [], 0, 0)
    now = 0

    def load(number: int) -> int:
        nonlocal now
        with lock:
            now += 1
            seen.loads += 1
            seen.together = max(seen.together, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return number

    policy = Policy(ttl="1h", grace="1h", unproven=unproven, store_out=unproven, origin=Origin(LIMIT))
    with Cache(url, name=f"outage {unproven}", on_trouble=lambda _what, _error: None) as cache:
        read = cache.cached("row:{number}", policy=policy)(load)

        def reads(number: int) -> None:
            while not stop.is_set():
                number += 1
                try:
                    read(number % KEYS)
                    with lock:
                        seen.reads[int(boottime() / SLOT_S)] += 1
                except Exception as error:  # noqa: BLE001 - what reaches a caller is what is counted
                    with lock:
                        seen.errors.append(f"{type(error).__name__}: {error}")
                time.sleep(0.005)

        for number in range(KEYS):
            read(number)
        threads = [threading.Thread(target=reads, args=(n * KEYS // THREADS,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        pipe.send("ready")
        pipe.recv()
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        pipe.send(seen)
        pipe.recv()
