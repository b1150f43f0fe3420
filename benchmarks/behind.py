"""Write-behind: writes that are acknowledged in a second, with a flusher at work, on both queues."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import quantile
from tests.support.redis_servers import RedisServer
from unstale import Cache
from unstale.behind import Write, WriteBehind
from unstale.behind.writes import Durable

GROUP = "behind"
ACKNOWLEDGED_PER_S_MIN = 20_000.0
MANY = 1000  # writes of one put_many
KEYS = 20_000
THREADS = 16
UPSERT = """INSERT INTO item VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value,
    version = excluded.version WHERE item.version < excluded.version"""


class Truth:
    """The database: it keeps what is newer, in one transaction a batch."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.local = threading.local()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, value INTEGER, version INTEGER)")

    def save(self, writes: list[Write]) -> None:
        if not hasattr(self.local, "db"):
            self.local.db = sqlite3.connect(self.path, timeout=30)
        with self.local.db as db:
            db.executemany(UPSERT, [(write.key, write.value, write.version) for write in writes])


def flush(url: str, path: str, durable: Durable, stop: Event) -> None:
    """Flush, as a process of its own."""
    with Cache("memory://") as cache:
        behind = WriteBehind(cache, Truth(path).save, url, type=int, durable=durable)
        stop.wait()
        behind.close(timeout="120s")


@contextlib.contextmanager
def scene(
    url: str, folder: str, *, durable: Durable = "power", apart: bool = True
) -> Iterator[tuple[WriteBehind, str]]:
    """Give a write-behind whose sink stores into a database of its own; in a process of its own, if it is apart."""
    path = f"{folder}/truth.db"
    truth = Truth(path)
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    process = spawn.Process(target=flush, args=(url, path, durable, stop))
    if apart:
        process.start()
    with Cache("memory://", name=url) as cache:
        behind = WriteBehind(cache, truth.save, url, type=int, timeout="60s", durable=durable, flush=not apart)
        try:
            yield behind, path
        finally:
            left = behind.drain("120s")
            behind.close()
            stop.set()
            if apart:
                process.join()
        if left:
            msg = f"{left} keys were not flushed"
            raise RuntimeError(msg)


def check(path: str, last: dict[str, int]) -> None:
    """Make sure that what was acknowledged last of each key is in the database."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found = dict(db.execute("SELECT key, value FROM item"))
    if found != last:
        msg = f"{sum(found.get(key) != value for key, value in last.items())} keys do not have their last value"
        raise RuntimeError(msg)


def batched(url: str, folder: str, rounds: int, *, durable: Durable = "power", apart: bool = True) -> list[float]:
    """Put many at once, from one thread, again and again: acknowledged writes a second, by round."""
    last: dict[str, int] = {}
    rates, number = [], 0
    with scene(url, folder, durable=durable, apart=apart) as (behind, path):
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(10):
                items = {f"item:{(number + n) % KEYS}": number + n for n in range(MANY)}
                behind.put_many(items)
                last |= items
                number += MANY
            rates.append(10 * MANY / (time.perf_counter() - began))
    check(path, last)
    return rates


def single(url: str, folder: str, rounds: int, count: int) -> tuple[list[float], list[float]]:
    """Put one at a time from many threads: acknowledged writes a second by round, and how long each put took, in ms."""
    rates: list[float] = []
    took: list[float] = []
    with scene(url, folder) as (behind, _path):

        def work(thread: int) -> None:
            for n in range(count):
                began = time.perf_counter()
                behind.put(f"item:{thread}:{n}", n)
                took.append((time.perf_counter() - began) * 1e3)

        for _ in range(rounds):
            threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates.append(THREADS * count / (time.perf_counter() - began))
    return rates, took


def figures_of(where: str, url: Callable[[str], str], options: Options, *, target: float | None = None) -> list[Figure]:
    """Measure one queue."""
    rounds, count = (3, 25) if options.quick else (15, 100)
    with tempfile.TemporaryDirectory() as folder:
        rates = batched(url(folder), folder, rounds)
    with tempfile.TemporaryDirectory() as folder:
        singles, took = single(url(folder), folder, rounds, count)
    slow = f"99th in 100: {quantile(took, 0.99):.1f} ms; middle one: {quantile(took, 0.5):.1f} ms"
    return [
        figure(
            GROUP, f"{where}, {MANY:,} a put, one thread", rates, "writes/s", target=target, sense=">=",
            note="acknowledged, while a flusher in another process stores them",
        ),
        figure(GROUP, f"{where}, one a put, {THREADS} threads", singles, "writes/s", note=slow),
    ]  # fmt: skip


def measure(options: Options) -> list[Figure]:
    """Measure both queues: each syncs before it acknowledges."""
    found = figures_of(
        "SQLite", lambda folder: f"sqlite:///{folder}/writes.queue", options, target=ACKNOWLEDGED_PER_S_MIN
    )
    rounds = 3 if options.quick else 15
    ways: list[tuple[str, Durable, bool]] = [
        ("the flusher in the same process", "power", False),
        ('durable="process"', "process", True),
    ]
    for what, durable, apart in ways:
        with tempfile.TemporaryDirectory() as folder:
            rates = batched(f"sqlite:///{folder}/writes.queue", folder, rounds, durable=durable, apart=apart)
        found.append(figure(GROUP, f"SQLite, {MANY:,} a put, {what}", rates, "writes/s"))
    with RedisServer(appendonly=True, appendfsync="always") as server:
        found += figures_of("Redis", lambda folder: f"{server.url}?queue={hash(folder)}&timeout=5s", options)
    return found
