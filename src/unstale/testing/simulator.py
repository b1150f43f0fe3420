"""The deterministic simulator: the real flows, a broken world, and an oracle that checks every read.

What it checks after each read: (1) nothing older than what was acknowledged `max_staleness` before; (2) nothing older
after a waiting invalidation has returned; (3) tickets and strong reads; and at the end, when all has healed, (4) that
every node serves the newest again, and (5) that no reader waits for ever.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from unstale.core.calls import publish_record, read_served, write_value
from unstale.core.context import loading
from unstale.core.ops import Sleep
from unstale.core.publish import publish_once
from unstale.core.reach import reach
from unstale.core.record import Record, Version, decode_record
from unstale.core.served import Served
from unstale.core.tail import Drained, forward, pulse, tail
from unstale.engines.memory import MemoryServer
from unstale.errors import EngineError, UnstaleError
from unstale.testing import faults
from unstale.testing.mixes import MIXES, Mix
from unstale.testing.oracle import Oracle, StaleReadError
from unstale.testing.outbox import Outbox
from unstale.testing.source import LoaderError, Source, View
from unstale.testing.world import CancelledError, CrashedError, Process, Server, Task, World

RUN_S = 16.0
HEAL_S = 14.0


class Outcome(msgspec.Struct):
    """What one seed did.

    Attributes:
        seed: The seed.
        mix: The mix of faults.
        reads: Reads judged.
        cached: Reads that were served from a cache.
        commits: Changes committed.
        failure: What went wrong; None when nothing did.
        trace: The run, line by line, if it was asked for.
    """

    seed: int
    mix: str
    reads: int = 0
    cached: int = 0
    commits: int = 0
    failure: str | None = None
    trace: list[str] | None = None


class Simulator:
    """One run.

    Args:
        seed: Decides everything.
        mix: The name of a mix of faults, or a mix of your own.
        trace: Keep a trace of all that happens.
    """

    def __init__(self, seed: int, mix: str | Mix = "all", *, trace: bool = False) -> None:
        self.mix = MIXES[mix] if isinstance(mix, str) else mix
        self.world = world = World(seed)
        self.rng = rng = world.rng
        self.outcome = Outcome(seed, self.mix.name)
        if trace:
            self.outcome.trace = world.trace = []
        rows = [f"p:{i}" for i in range(rng.randint(1, 3))]
        views = [f"v:{i}" for i in range(rng.randint(0, 2))]
        self.pulsed = rng.random() < self.mix.pulsed
        boxed, ahead = self.pulsed and rng.random() < self.mix.outbox, rng.random() < self.mix.capture
        self.beaten = self.pulsed and not boxed and rng.random() < 0.5  # by the nodes, without a relay
        world.one_engine = self.one_engine = rng.random() >= self.mix.two_engines
        versioned = rng.random() < self.mix.versioned and not (boxed and ahead)
        lag_s = rng.choice([0.3, 0.8]) if rng.random() < self.mix.replica_lag else 0.0
        self.log = Server(world, self.new_state(), "log")
        self.store = self.log if self.one_engine else Server(world, self.new_state(), "store")
        self.healed = False
        self.failure: str | None = None
        self.readers: list[Task] = []
        self.source = Source(world, self.mix, rows=rows, views=views, versioned=versioned, lag_s=lag_s)
        self.truth = self.source.truth
        self.outbox = Outbox(rng, self.truth, ahead=ahead) if boxed else None
        self.oracle = Oracle(self.truth, lag_s, measured=self.mix.measured)
        # A wiped log has forgotten the largest bound of its members: waiting is exact only where all have the same.
        wiped = faults.wipe_log in self.mix.kinds
        self.bounds = (rng.choice(self.mix.bounds),) if wiped else self.mix.bounds
        self.heal_s = HEAL_S + 36 * self.mix.load_s

    # The parts ------------------------------------------------------------------------------------------------

    def new_state(self) -> MemoryServer:
        """Give a new server's state: an empty log of a new generation."""
        state = MemoryServer(
            lambda: self.world.now,
            f"g{self.world.new_id()}",
            records_max=self.mix.records_max,
            max_ttl_s=self.mix.max_ttl_s,
        )
        state.pulsed = self.beaten
        return state

    def new_process(self) -> Process:
        """Start a node, with its tail."""
        name = f"n{len(self.world.processes)}"
        process = self.world.process(
            name, self.store, self.log, max_staleness_s=self.rng.choice(self.bounds),
            pulsed=self.pulsed and not self.beaten, relayed=self.outbox is not None, max_ttl_s=self.mix.max_ttl_s,
            marks_max=self.mix.marks_max, entries_max=self.rng.choice([2, 64, 64]),
        )  # fmt: skip
        self.world.spawn(process, tail(process.node, lambda: False), f"tail of {name}")
        return process

    def living(self) -> list[Process]:
        """Give the nodes that run."""
        return [process for process in self.world.processes if not process.dead]

    # Readers and writers --------------------------------------------------------------------------------------

    def read(self) -> None:
        """Start a read on some node."""
        process = self.rng.choice(self.living())
        key = self.rng.choice(self.source.keys + self.source.views)
        kind = self.rng.random()
        task = self.world.spawn(process, self.reading(process, key, kind), f"read {key} on {process.name}")
        self.readers.append(task)
        if self.rng.random() < self.mix.cancel:
            self.world.after(self.rng.random() * 0.3, lambda: self.world.cancel(task))

    async def reading(self, process: Process, key: str, kind: float) -> None:
        """Read, and judge what was served."""
        node, begun = process.node, self.world.now
        how: dict[str, Any] = {}
        parts = self.source.keys if key.startswith("v:") else [key]
        bound_s = node.max_staleness_s
        due = {one: self.oracle.required(one, begun, bound_s) for one in parts}
        due_hard = {one: self.oracle.required(one, begun, bound_s, hard_only=True) for one in parts}
        why, view = "bounded", None
        if self.rng.random() < self.mix.old_views and not self.source.lag_s and key in self.source.keys and kind < 1:
            view = View(node.stamp(), node.clock(), begun)  # of a transaction, in which it then reads
            await Sleep(self.rng.random() * 3)
        if kind < self.mix.strong:
            how["consistency"], why = "strong", "strong"
            if self.outbox is None:  # what the relay has not told yet is not in the log
                due = {one: self.oracle.acknowledged(one, begun) for one in parts}
        elif kind < self.mix.strong + self.mix.tickets and key in self.source.keys:
            change = self.rng.choice(self.truth.changes[key])
            if change.stamp is not None:
                how["after"], why = change.stamp, "ticket"
                due = {key: max(due[key], change.version)}
        try:
            served = await read_served(node, self.source.want(key, view, process=process, **how))
        except (UnstaleError, LoaderError):
            return
        assert served is not None, "a read with a loader serves or raises"
        if view is not None and served.source == "load":
            return  # what its own transaction shows; what others are served of that is judged
        self.judge(process, key, served, due, due_hard, why)

    def judge(  # noqa: PLR0917 - all that is known of one read
        self, process: Process, key: str, served: Served, due: dict[str, int], due_hard: dict[str, int], why: str
    ) -> None:
        """Let the oracle check one read."""
        self.outcome.reads += 1
        self.outcome.cached += served.source in {"l1", "store"}
        values = served.value if key.startswith("v:") else [served.value]
        if served.proven is None:
            return  # the policy says `stale`, and it said so
        shaped = len(values) == len(due) and all(isinstance(value, list) and len(value) == 2 for value in values)
        assert shaped, f"{key}: served what belongs to another key: {served.value}"
        for one, (whose, got) in zip(due, values, strict=True):
            assert whose == one, f"{one}: served what belongs to {whose}"
            oldest = due_hard[one] if served.stale else due[one]
            if self.world.trace is not None:
                self.world.say(f"{process.name} read {key}: {got} (due {oldest}) from {served.source}: {served.why}")
            self.oracle.check(one, got, oldest, f"{why} read on {process.name} from {served.source}: {served.why}")

    def write(self) -> None:
        """Start a write on some node."""
        process = self.rng.choice(self.living())
        key = self.rng.choice(self.source.keys)
        through = self.rng.random() < self.mix.write_through and self.outbox is None
        flow = self.writing_through(process, key) if through else self.writing(process, key)
        self.world.spawn(process, flow, f"write {key} on {process.name}")

    async def writing(self, process: Process, key: str) -> None:
        """Commit, then invalidate by key, tag, namespace or everything."""
        rng, world, node = self.rng, self.world, process.node
        soft = rng.random() < self.mix.soft
        await Sleep(rng.random() * 0.1)
        if self.outbox is not None:
            await self.writing_rows(self.outbox, process, key, soft=soft)
            return
        change = self.truth.commit(key, world.now, soft=soft)
        self.outcome.commits += 1
        world.say(f"{process.name} commits {key} = {change.version}")
        record = self.record_of(key, soft=soft, row=change.row, timeline=node.timeline)
        await Sleep(rng.random() * 0.2)
        try:
            receipt = await publish_record(node, record, wait=rng.random() < self.mix.waiting)
        except EngineError:
            return
        change.acknowledged = world.now
        change.stamp = receipt.stamp
        if receipt.complete:
            change.waited = world.now
        world.say(f"{process.name} is told of {key} = {change.version} at {receipt.stamp} complete={receipt.complete}")

    def record_of(self, key: str, *, soft: bool, row: int, timeline: str) -> Record:
        """Give a record that ends a key: by itself, or by one of its scopes."""
        rng = self.rng
        scope = rng.choice([key, key, self.source.tag_of(key), "p", "*"])
        version = Version(row, timeline) if self.source.versioned and scope == key else None
        record = Record(self.world.new_id(), (scope,), soft=soft, ack=True, version=version)
        return decode_record(b"of a later version", record.id) if rng.random() < self.mix.alien else record

    async def writing_rows(self, outbox: Outbox, process: Process, key: str, *, soft: bool) -> None:
        """Write a row and its record in one transaction; what is committed is published at once, if nothing befalls."""
        rng, world, truth = self.rng, self.world, self.truth
        row = outbox.write()
        await Sleep(rng.random() * 0.3)

        def commit() -> None:
            if not row.lost:
                row.change = change = truth.commit(key, world.now, soft=soft)
                self.outcome.commits += 1
                world.say(f"{process.name} has committed {key} = {change.version}")
                if row.record is None:
                    row.record = self.record_of(key, soft=soft, row=change.row, timeline=truth.timeline)
                change.acknowledged = world.now

        if (
            outbox.ahead
        ):  # it is in the database's log from here on, and will be visible, whatever becomes of its writer
            row.record = self.record_of(key, soft=soft, row=0, timeline="")
            world.after(rng.random() * 0.6, commit)
            return
        commit()
        if row.record is not None and row.change is not None and rng.random() < 0.4:
            await Sleep(rng.random() * 0.1)
            row.change.stamp = await publish_once(process.node, (row.record,))

    async def writing_through(self, process: Process, key: str) -> None:
        """Write through."""
        rng, world, node = self.rng, self.world, process.node
        changes = []

        async def writer() -> list[object]:
            await Sleep(rng.random() * 0.2)
            changes.append(self.truth.commit(key, world.now))
            self.outcome.commits += 1
            world.say(f"{process.name} commits {key} = {changes[-1].version} (write-through)")
            frame = loading("tag")
            frame.scopes[self.source.tag_of(key)] = None
            if self.source.versioned:
                frame.version = changes[-1].row
            await Sleep(rng.random() * 0.3)
            return [key, changes[-1].version]

        record = Record(world.new_id(), (key,), ack=True)
        try:
            await write_value(node, self.source.want(key, process=process), writer, record)
        except EngineError:
            return
        changes[-1].acknowledged = world.now

    def start_relay(self) -> None:
        """Start a relay: the one that stays, when others are killed."""
        self.relay = relay = self.new_process()
        relay.name = f"relay {relay.name}"
        self.world.spawn(relay, self.relaying(relay), relay.name)

    async def relaying(self, process: Process) -> None:
        """Relay the outbox, if there is one, and write pulses."""

        async def nothing() -> Drained:
            await Sleep(self.rng.random() * 0.05)
            return Drained((), self.truth.timeline)

        while True:
            await Sleep(min(self.mix.bounds) / 10)
            try:
                if self.outbox is not None and not self.healed and self.rng.random() < 0.5:
                    await forward(process.node, self.outbox.drain())
                await pulse(process.node, nothing if self.outbox is None else self.outbox.drain())
            except EngineError:
                continue
            self.world.say(f"{process.name} pulses")

    # The run --------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run it to its end."""
        try:
            self._run()
        except StaleReadError as error:
            self.outcome.failure = str(error)
        except AssertionError as error:
            self.outcome.failure = f"assertion: {error}"
        finally:
            for process in self.world.processes:
                faults.crash(self, process)
        return self.outcome

    def _run(self) -> None:
        rng, world = self.rng, self.world
        for _ in range(rng.randint(2, 4)):
            self.new_process()
        if self.pulsed and not self.beaten:
            self.start_relay()
            if self.outbox is not None and rng.random() < 0.3:
                self.start_relay()
        for _ in range(self.mix.reads):
            world.after(rng.random() * RUN_S, self.read)
        for _ in range(rng.randint(min(2, self.mix.writes), self.mix.writes)):
            world.after(rng.random() * RUN_S, self.write)
        for _ in range(rng.randint(0, self.mix.faults)):
            fault = rng.choice(self.mix.kinds)
            world.after(rng.random() * RUN_S, functools.partial(fault, self))
        self.advance(RUN_S)
        faults.heal(self)
        self.healed = True
        self.advance(RUN_S + self.heal_s)
        self.final()

    def advance(self, until: float) -> None:
        """Let time pass; the first failed check of a task is the run's."""
        while self.world.now < until:
            self.world.run(min(until, self.world.now + 1.0))
            for task in self.world.tasks:
                if (
                    task.done
                    and task.error is not None
                    and not isinstance(task.error, CancelledError | CrashedError | UnstaleError | LoaderError)
                ):
                    raise task.error
            self.world.tasks = [task for task in self.world.tasks if not task.done]

    def final(self) -> None:
        """Check that all has healed: every node is proven, serves the newest, and nobody waits."""
        world = self.world
        for task in self.readers:
            assert task.done or task.process.dead, f"{task.what} waits for ever"
        last: list[tuple[Process, str, Task]] = []
        for process in self.living():
            node = process.node
            assert node.lease.proves(node.clock(), node.bound_s), f"{process.name} is not proven after all has healed"
            assert len(node.marks.by_scope) <= self.mix.marks_max, f"{process.name} has too many marks"
            assert len(node.table) <= 64, f"{process.name} has too many entries"
            left = (len(node.flights), len(node.refreshing), len(node.intents), node.expected)
            assert left == (0, 0, 0, 0), f"{process.name} keeps flights, refreshes, intents or waiters: {left}"
            for key in self.source.keys:
                flow = self.reading(process, key, 1.0)
                last.append((process, key, world.spawn(process, flow, f"last read of {key} on {process.name}")))
        self.advance(RUN_S + self.heal_s + 8.0 + 12 * self.mix.load_s)
        for _process, _key, task in last:
            assert task.done, f"{task.what} waits for ever"


__all__ = ["Outcome", "Simulator", "reach"]
