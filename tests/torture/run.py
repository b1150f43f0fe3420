"""Runs a torture: servers, processes that read, write and relay, what befalls them, and the verdict."""

from __future__ import annotations

import contextlib
import itertools
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from rich.console import Console
from rich.table import Table

from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from tests.torture import cast
from tests.torture.cast import CAST, Player
from tests.torture.defences import DEFENCES
from tests.torture.roles import Scene
from tests.torture.shop import BOUND_S, CAPTURED, CONFIG, DELAY_S, KINDS, LAG_S, TABLES, TOLD
from unstale.clock import boottime
from unstale.sources.capture import Capture
from unstale.sources.capture_config import Config
from unstale.sources.connections import connect
from unstale.sources.outbox import Outbox
from unstale.sources.slot_admin import create_slot, slot_of
from unstale.sources.slot_tables import captured

DEAD_S: Final = 1.5 * BOUND_S  # so long a relay is dead: without its pulses all leases lapse meanwhile
ALIVE_S: Final = 2.0 * BOUND_S  # between one's return and the next one's death
PATHS: Final = ("READ COMMITTED", "REPEATABLE READ", "replica", "captured")


class Told(NamedTuple):
    """How a torture went.

    Attributes:
        seconds: How long it ran.
        reads: By path what was counted of its reads.
        oldest_s: By path how old the oldest read was that was stale, in seconds.
        done: What the writers have done, and what befell the relays.
        errors: What was raised, and how often.
    """

    seconds: float
    reads: dict[str, Counter[str]]
    oldest_s: dict[str, float]
    done: Counter[str]
    errors: Counter[str]

    @property
    def beyond(self) -> int:
        """How many reads were staler than the bound."""
        return sum(counts["beyond"] for counts in self.reads.values())


class Torture:
    """The processes of a run.

    Args:
        scene: Where it takes place.
        truth: The primary.
    """

    def __init__(self, scene: Scene, truth: PostgresServer) -> None:
        self._scene = scene
        self._truth = truth
        self._processes: dict[str, Player] = {}
        self._told = Told(0.0, {}, {}, Counter(), Counter())
        self._began = boottime()

    def begin(self) -> None:
        """Start all processes, and let them work when all are there."""
        cast.prepare()
        for name in CAST:
            self._start(name)
        for process in self._processes.values():
            assert process.hear() == "ready"
        for process in self._processes.values():
            process.tell("begin")
        for process in self._processes.values():
            process.hear()
        self._began = boottime()

    def _start(self, name: str) -> None:
        with uninterrupted():  # a process that nobody knows yet would not be ended
            self._processes[name] = Player(name, self._scene)

    def last(self, seconds: float, say: Callable[[str], None]) -> None:
        """Let it go on for so long, and kill one relay after the other."""
        over = self._began + seconds
        turns = itertools.cycle((TOLD, CAPTURED))
        while self._wait(ALIVE_S / 2, over):
            name = next(turns)
            self._processes[name].end()
            self._told.done["relays killed"] += 1
            if name == CAPTURED:
                self._drop_slot()
            say(f"{boottime() - self._began:5.0f} s  the relay of {name} was killed")
            self._start(name)  # it does nothing yet
            self._wait(DEAD_S, over)
            assert self._processes[name].hear() == "ready"
            self._processes[name].tell("begin")
            self._processes[name].hear()
            self._wait(ALIVE_S / 2, over)

    def _drop_slot(self) -> None:
        """Drop the slot when the server has noticed that its reader is gone; a late relay may not have made it yet."""
        slot = f"FROM pg_replication_slots WHERE slot_name = '{slot_of(CAPTURED)}'"
        until(lambda: not self._truth.sql(f"SELECT 1 {slot} AND active"))
        self._told.done["slots dropped"] += len(self._truth.sql(f"SELECT pg_drop_replication_slot(slot_name) {slot}"))

    def _wait(self, seconds: float, over: float) -> bool:
        """Wait for so long, or until it is over: is there time left?"""
        limit = min(boottime() + seconds, over)
        until(lambda: boottime() >= limit)
        return boottime() < over

    def verdict(self) -> Told:
        """Stop all, and give how it went."""
        seconds = boottime() - self._began
        for process in self._processes.values():
            process.tell("end")
        for process in self._processes.values():
            self._count(process.hear())
        return self._told._replace(seconds=seconds)

    def _count(self, seen: dict[str, Any]) -> None:
        told = self._told
        told.done.update(seen["done"])
        told.errors.update(seen["errors"])
        for path, counts in seen.get("counts", {}).items():
            told.reads.setdefault(path, Counter()).update(counts)
        for path, age_s in seen.get("oldest_s", {}).items():
            told.oldest_s[path] = max(told.oldest_s.get(path, 0.0), age_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.end()
        cast.end()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def truth_and_replica(*, triggers: bool) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Give the primary, with all that the caches need in it, and its replica, which applies everything late."""
    room: dict[str, Any] = {"max_connections": 100}
    # A commit waits for the replica where its writer says so.
    standby: dict[str, Any] = {"synchronous_standby_names": "*", "synchronous_commit": "local"}
    with PostgresServer(wal_level="logical", **room, **standby) as truth:
        for table, rows in TABLES:
            name = table.__tablename__
            truth.sql(
                f"CREATE TABLE {name} (id integer PRIMARY KEY, version integer NOT NULL)",
                f"INSERT INTO {name} SELECT n, 0 FROM generate_series({rows.start}, {rows.stop - 1}) n",
            )
        with Outbox(truth.url) as outbox:
            outbox.create()
        if triggers:
            with Capture(truth.url) as capture:
                capture.install(capture.plan(["stock"], Config(), [TOLD]))
        with contextlib.closing(connect(truth.url)) as database:
            create_slot(database, slot_of(CAPTURED), captured(database, CONFIG))
        late: dict[str, Any] = {"recovery_min_apply_delay": f"{DELAY_S * 1000:.0f}ms", "hot_standby_feedback": True}
        with PostgresServer(of=truth, **room, **late) as replica:
            yield truth, replica


def torture(url: str, seconds: float, say: Callable[[str], None], without: str = "") -> Told:
    """Run a torture, and give how it went; whatever ends it, Ctrl-C too, ends all its processes.

    Args:
        url: Of an engine that serves nothing else; empty: the caches lie in the truth itself.
        seconds: How long.
        say: Prints a line.
        without: The defence that is taken out.
    """
    with (
        tempfile.TemporaryDirectory(prefix="unstale-torture-") as folder,
        truth_and_replica(triggers=without != "triggers") as (truth, replica),
    ):
        scene = Scene(url or truth.url, truth.url, replica.url, f"{folder}/ledger", without)
        with Torture(scene, truth) as running:
            running.begin()
            running.last(seconds, say)
            return running.verdict()


def show(told: Told, console: Console, without: str = "") -> None:
    """Print the table."""
    title = f"{told.seconds:,.0f} s of torture, bound {BOUND_S:g} s, declared lag of the replica {LAG_S:g} s"
    if without:
        title += f"; without: {DEFENCES[without].without} ({DEFENCES[without].hazard})"
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for name in ("times", "loaded", "stale within the bound", "oldest", "beyond the bound"):
        table.add_column(name, justify="right")
    for path in PATHS:
        counts = told.reads.get(path, Counter())
        beyond = counts["beyond"]
        table.add_row(
            f"reads: {path}", f"{counts['reads']:,}", f"{counts['loaded']:,}", f"{counts['stale'] - beyond:,}",
            f"{told.oldest_s.get(path, 0.0) * 1000:,.0f} ms", f"{beyond:,}", style="bold red" if beyond else None,
        )  # fmt: skip
    table.add_section()
    for kind in KINDS:
        if kind != "all of them":
            table.add_row(f"commits: {kind}", f"{told.done[kind]:,}")
    for what in ("rolled back", "savepoints rolled back", "relays killed", "slots dropped"):
        table.add_row(what, f"{told.done[what]:,}")
    console.print(table)
    in_time, late = told.done["replica in time"], told.done["replica too late"]
    console.print(f"loads from the replica: {in_time:,}; from the primary, since the replica was too late: {late:,}")
    for name, many in (("errors", told.errors), ("troubles", told.done)):
        shown = [f"{what} {count:,}" for what, count in sorted(many.items()) if name == "errors" or "trouble" in what]
        if shown:
            console.print(f"{name}: {', '.join(shown)}", style="dim")
