"""Runs clients that write through one worker and read at once through another, while the replica lags."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.support.postgres_servers import PostgresServer
from tests.support.processes import Process
from tests.support.waiting import until
from unstale.clock import boottime

ROLE: Final = Path(__file__).with_name("worker.py")
COLOURS: Final = ("blocking", "asynchronous", "blocking")
ITEMS: Final = 5  # few, so that the other workers hold an older price of most of them
DELAY_S: Final = 0.1  # how much later than the primary the replica applies what is committed


class Way(NamedTuple):
    """A way to read: `how` the worker does it, and whether the client hands on its token."""

    title: str
    how: str
    token: bool


WAYS: Final = (
    Way("with the ticket", "measured", token=True),
    Way("without the ticket", "measured", token=False),
    Way("without, replica_lag= declared, loader does not ask", "declared", token=False),
    Way("the replica itself, no cache", "bare", token=False),
)


class Told(NamedTuple):
    """How it went: for each way how many reads there were, how many were older than the client's write, and whence."""

    way: Way
    reads: int
    older: int
    oldest: int
    sources: Counter[str]
    seconds: float


class Workers:
    """Worker processes, and the client that talks to them."""

    def __init__(self, url: str, primary: str, replica: str, seed: int) -> None:
        self.random = Random(seed)
        self.running: list[Process] = []
        try:
            for colour in COLOURS:
                self.running.append(Process(ROLE, colour, url, primary, replica))
            for worker in self.running:
                until(lambda worker=worker: worker.ask("known"))  # type: ignore[misc]
        except BaseException:
            self.end()
            raise

    def client(self, way: Way) -> tuple[int, str]:
        """Write through one worker, and read at once through another: by how much the price is too old, and whence."""
        writer, reader = self.random.sample(self.running, 2)
        item = self.random.randrange(ITEMS)
        # A write-through leaves its value where the others find it. The end of a tag that is learnt while loading sends
        # no load to the primary by itself: only the ticket does.
        ends = self.random.choice(["writer", "key", "row"]) if way.how == "measured" else "key"
        price, token = writer.ask("write", item, "", ends)
        shown, source = reader.ask("read", way.how, item, token if way.token else "")
        return price - shown, source

    def end(self) -> None:
        """End them."""
        for worker in self.running:
            worker.end()


@contextlib.contextmanager
def truth_and_replica(delay_s: float) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Give the primary, and a physical replica that applies each commit a while later."""
    with PostgresServer() as primary:
        primary.sql(
            "CREATE TABLE item (id integer PRIMARY KEY, price integer NOT NULL)",
            f"INSERT INTO item SELECT n, 0 FROM generate_series(0, {ITEMS - 1}) n",
        )
        with PostgresServer(of=primary, recovery_min_apply_delay=f"{delay_s * 1000:.0f}ms") as replica:
            yield primary, replica


def own_writes(
    times: int,
    *,
    url: str = "",
    delay_s: float = DELAY_S,
    seed: int = 1,
    say: Callable[[str], None] = lambda _line: None,
) -> list[Told]:
    """Run it.

    Args:
        times: How often each way is gone.
        url: Of an engine for the caches; default: a file of their own.
        delay_s: How much later the replica applies what is committed.
        seed: Of the client's choices.
        say: Prints a line.
    """
    told = []
    with tempfile.TemporaryDirectory(prefix="unstale-own-") as folder, truth_and_replica(delay_s) as (primary, replica):
        workers = Workers(url or f"sqlite:///{folder}/cache", primary.url, replica.url, seed)
        try:
            for way in WAYS:
                say(f"{way.title}: {times:,} writes, each read at once through another worker ...")
                began = boottime()
                ages, sources = zip(*(workers.client(way) for _ in range(times)), strict=True)
                older = sum(age > 0 for age in ages)
                told.append(Told(way, times, older, max(ages), Counter(sources), boottime() - began))
        finally:
            workers.end()
    return told


def show(told: list[Told], console: Console, delay_s: float) -> None:
    """Print what came of it."""
    title = f"A client reads its own write through another worker; the replica is {delay_s * 1000:.0f} ms behind"
    table = Table("read", "reads", "older than its write", "share", "writes missed, at most", "came from", title=title)
    for name in ("reads", "older than its write", "share", "writes missed, at most"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for one in told:
        sources = ", ".join(f"{source} {count:,}" for source, count in one.sources.most_common())
        share = f"{100 * one.older / one.reads:.2f} %"
        table.add_row(one.way.title, f"{one.reads:,}", f"{one.older:,}", share, f"{max(one.oldest, 0):,}", sources)
    console.print(table)
