"""Mixes: which faults a run may have, how often, and what the workload is like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from unstale.testing import faults

if TYPE_CHECKING:
    from unstale.testing.simulator import Simulator

Fault = Callable[["Simulator"], None]

COMMON: tuple[Fault, ...] = (
    faults.partition, faults.loss, faults.delay, faults.duplicate, faults.pause, faults.crash, faults.join,
    faults.outage,
)  # fmt: skip
LOG: tuple[Fault, ...] = (faults.trim, faults.wipe_log, faults.promote, faults.failback)
DAMAGE: tuple[Fault, ...] = (faults.garble, faults.swap, faults.scramble)
STORE: tuple[Fault, ...] = (faults.wipe_store, faults.evict_marks, faults.lose_members)
ALL = COMMON + LOG + DAMAGE + STORE


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """A mix. Shares are probabilities from 0 to 1.

    Attributes:
        name: Its name.
        kinds: The faults it draws from.
        faults: At most so many a run.
        reads: So many reads a run.
        writes: At most so many writes a run.
        load_s: How long a loader takes, about, in seconds.
        raising: Loads that raise.
        cancel: Reads that are cancelled.
        strong: Strong reads.
        tickets: Reads with a ticket.
        waiting: Invalidations that wait.
        soft: Soft invalidations.
        write_through: Writes that go through the cache.
        versioned: Runs whose source has versions.
        replica_lag: Runs that load from lagging replicas.
        measured: The lag is measured before each load, and loaders ask where to read.
        two_engines: Runs with a store and a log of two engines.
        pulsed: Runs whose leases rest on pulses.
        outbox: Of these, runs whose records come from the database: from an outbox, or
        capture: of these, from a capture that reads ahead of what is visible.
        old_views: Reads in a transaction that began before.
        records_max: The log's length.
        marks_max: Marks a node keeps.
        bounds: The `max_staleness` of nodes, in seconds.
        max_ttl_s: The longest life of an entry, in seconds.
        own_ttl: Loads that ask for a life of their own, too long.
        alien: Records that a later version wrote.
        origin: Runs whose loads are bounded in number.
        herd: Nothing changes and nobody is in a hurry: a key is loaded once at a time in a process.
        circles: Views whose loader needs another view, or itself.
    """

    name: str
    kinds: tuple[Fault, ...] = ALL
    faults: int = 6
    reads: int = 90
    writes: int = 14
    load_s: float = 0.2
    raising: float = 0.02
    cancel: float = 0.05
    strong: float = 0.1
    tickets: float = 0.1
    waiting: float = 0.3
    soft: float = 0.2
    write_through: float = 0.2
    versioned: float = 0.3
    replica_lag: float = 0.15
    measured: bool = False
    two_engines: float = 0.3
    pulsed: float = 0.25
    outbox: float = 0.5
    capture: float = 0.3
    old_views: float = 0.05
    records_max: int = 1000
    marks_max: int = 1000
    bounds: tuple[float, ...] = (1.0, 2.0, 2.0, 3.0)
    max_ttl_s: float = 30.0
    own_ttl: float = 0.02
    alien: float = 0.02
    circles: float = 0.0
    herd: bool = False
    origin: float = 0.3


MIXES: dict[str, Mix] = {
    mix.name: mix
    for mix in (
        Mix(name="all"),
        Mix(name="calm", kinds=COMMON, faults=1),
        Mix(name="network", kinds=(faults.partition, faults.loss, faults.delay, faults.duplicate), faults=10),
        Mix(name="processes", kinds=(faults.pause, faults.crash, faults.join), faults=10),
        Mix(name="log", kinds=LOG, faults=8, two_engines=0.5),
        Mix(name="failover", kinds=(faults.promote, faults.failback, faults.partition), faults=6, pulsed=0.5),
        Mix(name="leaders", kinds=(faults.promote, faults.pause, faults.suspend_relay), faults=5, pulsed=1.0),
        Mix(name="engines", kinds=(faults.wipe_store, faults.evict_marks, *COMMON), faults=8, two_engines=1.0),
        Mix(name="slow loads", kinds=COMMON, load_s=1.0, faults=4, writes=24),
        Mix(name="soft", kinds=COMMON, soft=0.6, faults=4),
        Mix(name="versions", kinds=COMMON, versioned=1.0, write_through=0.5, faults=4, writes=24),
        Mix(name="write-through", kinds=COMMON, write_through=1.0, versioned=0.3, faults=4, writes=24),
        Mix(name="replicas", kinds=COMMON, replica_lag=1.0, faults=4),
        Mix(name="measured replicas", kinds=COMMON, replica_lag=1.0, measured=True, tickets=0.3, strong=0.2, faults=4),
        Mix(name="damage", kinds=COMMON + DAMAGE, alien=0.3, faults=8),
        Mix(name="members", kinds=(faults.lose_members, faults.pause, faults.partition, faults.join), waiting=1.0),
        Mix(name="restores", kinds=(faults.restore, faults.pause, faults.partition), pulsed=1.0, outbox=1.0),
        Mix(
            name="outbox",
            kinds=(faults.crash, faults.outage, faults.partition_log, faults.suspend_relay, faults.restart_relay),
            faults=10,
            pulsed=1.0,
            outbox=1.0,
            capture=0.0,
            writes=24,
        ),
        Mix(name="capture", kinds=COMMON, faults=3, pulsed=1.0, outbox=1.0, capture=1.0, writes=24),
        Mix(name="old views", kinds=COMMON, faults=2, old_views=0.5, replica_lag=0.0, writes=24),
        Mix(name="circles", kinds=COMMON, circles=0.6, faults=3),
        Mix(
            name="herd",
            herd=True,
            pulsed=0.0,
            kinds=COMMON,
            faults=0,
            writes=0,
            strong=0,
            tickets=0,
            cancel=0,
            raising=0,
            load_s=0.6,
        ),
        Mix(name="tickets", kinds=COMMON + LOG, faults=6, strong=0.4, tickets=0.4, load_s=0.4, replica_lag=0.0),
        Mix(name="tickets of replicas", kinds=COMMON, faults=2, strong=0.5, load_s=0.4, replica_lag=1.0, writes=24),
        Mix(
            name="replies",
            kinds=(faults.slow_store, faults.slow_store, faults.join, *LOG),
            faults=10,
            marks_max=4,
            records_max=2,
        ),
        Mix(name="lapsed", kinds=(faults.partition_log, faults.pause), faults=5, load_s=1.5, writes=24, cancel=0.0),
        Mix(
            name="written over", kinds=(faults.promote,), faults=4, pulsed=1.0, outbox=0.0, write_through=0.8, writes=30
        ),
        Mix(name="young replicas", kinds=(faults.crash, faults.join, faults.wipe_log), replica_lag=1.0, faults=10),
        Mix(
            name="ranges",
            kinds=(faults.partition_store, faults.join, faults.crash, faults.crash),
            faults=14,
            reads=50,
            two_engines=1.0,
            records_max=2,
            pulsed=0.0,
        ),
        Mix(name="bounds", kinds=(faults.partition_log,), faults=4, bounds=(0.5, 4.0), waiting=1.0, pulsed=0.0),
        Mix(name="scrambled", kinds=(faults.scramble,), faults=8, writes=24),
        Mix(name="places", kinds=COMMON, faults=2, origin=1.0, load_s=1.0, reads=140, circles=0.0),
        Mix(name="old leaders", kinds=(faults.promote,), faults=4, pulsed=1.0, outbox=0.0, strong=0.4),
        Mix(
            name="lost members",
            kinds=(faults.lose_members, faults.partition_log),
            waiting=1.0,
            two_engines=0.0,
            pulsed=0.0,
        ),
        Mix(
            name="evicted marks",
            kinds=(faults.evict_marks, faults.wipe_marks, faults.join, faults.crash),
            faults=14,
            reads=50,
            strong=0.0,
            records_max=2,
        ),
        Mix(name="pulses", kinds=(faults.wipe_log, faults.delay, faults.pause), pulsed=1.0, faults=8),
        Mix(
            name="old fills",
            kinds=(faults.partition_log, faults.join, faults.crash),
            max_ttl_s=1.0,
            load_s=4.0,
            faults=10,
            reads=150,
            writes=8,
            own_ttl=0.2,
            two_engines=0.0,
            pulsed=0.0,
            replica_lag=0.0,
            records_max=2,
            cancel=0.0,
        ),
        Mix(name="tight", kinds=COMMON + LOG, records_max=3, marks_max=2, faults=6),
    )
}
