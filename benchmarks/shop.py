"""The example application under load, with and without its cache, side by side; a checker reads both databases.

Both run all the time, started as people start them; the load goes to one and the other in turn. All that takes part,
servers and load included, shares two processors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import median, quantile, ratios
from tests.shop.checker import Checker
from tests.shop.load import Choice, Client
from tests.shop.running import RunningShop
from tests.support.postgres_servers import PostgresServer
from tests.support.redis_servers import RedisServer

GROUP = "shop"
RATIO_MIN = 5.0
BOUND_S = 2.0  # the shop's own
CPUS = 2
CLIENTS = 32
WRITES = 0.015
OF_WHOM = "of the application and its servers; the load itself takes its share of the two processors too"
CACHED, PLAIN = "with unstale", "without a cache"


def processor_s(roots: Iterable[int]) -> float:
    """Give the processor time that these processes, and all that they have started and that still run, have taken."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pid = int(entry.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


class Case:
    """One of the two: its clients, and what they have measured.

    Args:
        shop: The running application.
        checker: Of its database.
        servers: The processes of the servers, whose time counts too.
    """

    def __init__(self, shop: RunningShop, checker: Checker, servers: Sequence[int]) -> None:
        self.shop = shop
        self._processes = (shop.popen.pid, *servers)
        self.checker = checker
        self.clients = [Client(shop.port, Choice(checker.tenants, seed), WRITES) for seed in range(CLIENTS)]
        self.per_s: list[float] = []
        self.p50_ms: list[float] = []
        self.p99_ms: list[float] = []
        self.processor_ms: list[float] = []

    def load(self, seconds: float) -> None:
        """Let the clients ask for so long."""
        asyncio.run(self._load(seconds))

    async def _load(self, seconds: float) -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, over.set)
        for client in self.clients:
            client.took_s.clear()
        began, before_s = time.perf_counter(), processor_s(self._processes)
        await asyncio.gather(*(client.run(over) for client in self.clients))
        took_s, work_s = time.perf_counter() - began, processor_s(self._processes) - before_s
        taken = [one for client in self.clients for one in client.took_s]
        self.per_s.append(len(taken) / took_s)
        self.p50_ms.append(median(taken) * 1e3)
        self.p99_ms.append(quantile(taken, 0.99) * 1e3)
        self.processor_ms.append(work_s * 1e3 / len(taken))

    def warm_up(self, seconds: float, *, walk: bool) -> None:
        """Ask for some time, after having asked for each product once: the first minute's work is not what is measured.

        The checker forgets nothing of it.
        """
        if walk:
            asyncio.run(self._walk())
        self.load(seconds)
        for rounds in (self.per_s, self.p50_ms, self.p99_ms, self.processor_ms):
            rounds.clear()

    async def _walk(self) -> None:
        async def walk(client: Client, share: Sequence[tuple[int, str]]) -> None:
            for product, tenant in share:
                await client.read("product", f"/api/{tenant}/products/{product}")
            client.leave()

        products = list(self.checker.tenants.items())
        await asyncio.gather(*(walk(one, products[n::CLIENTS]) for n, one in enumerate(self.clients)))

    def refuse_errors(self) -> None:
        """Make sure that requests were answered: an error is soon told, and would pass for speed."""
        counts = sum((client.counts for client in self.clients), Counter[str]())
        bad = {what: count for what, count in counts.items() if what not in {"200", "404", "writes"}}
        if bad:
            msg = f"{bad} of {counts}: {self.shop.said()[-2000:]}"
            raise RuntimeError(msg)


class Places(NamedTuple):
    """Where the applications keep what they have: URLs of database and cache, by case, and the servers' processes."""

    urls: dict[str, tuple[str, str]]
    servers: tuple[int, ...]


@contextlib.contextmanager
def on_servers() -> Iterator[Places]:
    """Give databases on one PostgreSQL, that waits for its disk as servers do, and a cache on a Redis."""
    with PostgresServer(fsync=True, shared_buffers="128MB") as postgres, RedisServer() as redis:
        urls = []
        for name in ("cached", "plain"):
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}".encode())
            urls.append(postgres.url.rpartition("/")[0].replace("postgresql://", "postgresql+psycopg://") + f"/{name}")
        yield Places({CACHED: (urls[0], redis.url), PLAIN: (urls[1], "none")}, (postgres.pid, redis.pid))


@contextlib.contextmanager
def on_files() -> Iterator[Places]:
    """Give what `make shop` takes by default."""
    yield Places({CACHED: ("", ""), PLAIN: ("", "none")}, ())


def measure(options: Options) -> list[Figure]:
    """Measure both kinds of places."""
    share_processors()
    figures = []
    for what, places, target in (("PostgreSQL, Redis", on_servers(), RATIO_MIN), ("SQLite", on_files(), None)):
        with places as found, contextlib.ExitStack() as stack:
            cases = {name: started(stack, options, urls, found.servers) for name, urls in found.urls.items()}
            run(cases, options)
            for case in cases.values():
                case.refuse_errors()
            figures += judged(what, cases, target)
    return figures


def share_processors() -> None:
    """Keep to two processors, with all that is started from here."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS])


def started(stack: contextlib.ExitStack, options: Options, urls: tuple[str, str], servers: Sequence[int]) -> Case:
    """Start an application and its checker."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    products = 1000 if options.quick else 10_000
    shop = stack.enter_context(RunningShop(folder, database=urls[0], cache=urls[1], products=products))
    return Case(shop, stack.enter_context(Checker(shop.database)), servers)


def run(cases: dict[str, Case], options: Options) -> None:
    """Load both in turn, in an order that changes."""
    rounds, seconds = (3, 3.0) if options.quick else (9, 6.0)
    order = random.Random(1)
    for name, case in cases.items():
        case.warm_up(seconds, walk=name == CACHED)
    for _ in range(rounds):
        names = list(cases)
        order.shuffle(names)
        for name in names:
            cases[name].load(seconds)


def judged(what: str, cases: dict[str, Case], target: float | None) -> list[Figure]:
    """Give the figures of one kind of places."""
    cached, plain = cases[CACHED], cases[PLAIN]
    times = ratios(cached.per_s, plain.per_s)
    told = cached.checker.judge([client.served for client in cached.clients], BOUND_S)
    beyond = len(told.verdict.beyond) + len(told.invented) + told.unwritten
    note = (
        f"{told.verdict.reads:,} responses; the oldest value was replaced {told.verdict.oldest_s * 1e3:.0f} ms before"
    )
    figures = [
        figure(GROUP, f"{what}: requests/s with unstale, by those without", times, "x", target=target, sense=">="),
        figure(GROUP, f"{what}: stale beyond {BOUND_S:g} s", [beyond], "", target=0.0, sense="=", note=note),
    ]
    for name, case in cases.items():
        figures += [
            figure(GROUP, f"{what}, {name}", case.per_s, "requests/s"),
            figure(GROUP, f"{what}, {name}: p50", case.p50_ms, "ms"),
            figure(GROUP, f"{what}, {name}: p99", case.p99_ms, "ms"),
            figure(GROUP, f"{what}, {name}: processor time a request", case.processor_ms, "ms", note=OF_WHOM),
        ]
    return figures
