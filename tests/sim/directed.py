"""Directed schedules: interleavings so rare that random mixes seldom meet them, played step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unstale.core import ops
from unstale.core.calls import read_served
from unstale.core.codec import codec_for
from unstale.core.ops import Op
from unstale.core.policy import Policy
from unstale.core.publish import LIMIT
from unstale.core.record import Record
from unstale.core.served import Served, Want, stored_key
from unstale.core.tail import Drained, pulse, tail
from unstale.engines.memory import MemoryServer
from unstale.testing.world import Process, Server, World

CODEC = codec_for(Any, "directed")
BOUND_S = 2.0


class Hooked(Server):
    """A server at which something happens in the middle of a request."""

    hook: Callable[[Op[Any], Callable[[Any], None]], Callable[[Any], None]] = staticmethod(lambda _op, done: done)

    def perform(self, op: Op[Any], done: Callable[[Any], None], *, own: bool) -> None:
        super().perform(op, self.hook(op, done), own=own)


class Stage:
    """A world with one key, whose truth is a number."""

    def __init__(self, *, one_engine: bool = True, relayed: bool = False, max_ttl_s: float = 30.0) -> None:
        self.world = World(1)
        self.world.one_engine = one_engine
        self.truth = 1
        self.relayed = relayed
        self.max_ttl_s = max_ttl_s
        self.state = self.new_state("g1")
        self.log = Hooked(self.world, self.state, "log")
        # With one engine two doors lead to the same data, so that each can be held open on its own.
        self.store = Hooked(self.world, self.state if one_engine else self.new_state("s1"), "store")

    def new_state(self, generation: str) -> MemoryServer:
        return MemoryServer(lambda: self.world.now, generation, max_ttl_s=self.max_ttl_s)

    def join(self, name: str) -> Process:
        process = self.world.process(
            name, self.store, self.log, max_staleness_s=BOUND_S, relayed=self.relayed, max_ttl_s=self.max_ttl_s
        )
        self.world.spawn(process, tail(process.node, lambda: False), f"tail of {name}")
        self.wait(0.2)
        return process

    def wait(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def read(self, process: Process, ttl: float = 20.0, **how: Any) -> Served:
        async def load() -> int:
            return self.truth

        policy = Policy(ttl=ttl, jitter=0)
        bound_s = process.node.bound_s
        want = Want(
            key="k:1", stored_key=stored_key(CODEC.shape, "k:1"), scopes=("k",), policy=policy, codec=CODEC,
            bound_s=bound_s, call=load, **how,
        )  # fmt: skip
        task = self.world.spawn(process, read_served(process.node, want), "read")
        self.wait(1.0)
        assert task.done
        if task.error is not None:
            raise task.error
        served = task.value
        assert isinstance(served, Served)
        return served

    def publish(self, *scopes: str) -> None:
        """Append a record, as some other program would."""
        self.state.append((Record(self.world.new_id(), scopes),), marks=self.world.one_engine)
        self.log.notify()


def reply_outlives_a_record() -> None:
    """A reply from the store's marks travels while the record that it does not know is applied."""
    stage = Stage()
    stage.read(stage.join("a"))
    stage.publish("other")
    stage.wait(0.1)
    stage.state.trim(0)
    late = stage.join("b")
    assert late.node.marks.floor == 1

    def hook(op: Op[Any], done: Callable[[Any], None]) -> Callable[[Any], None]:
        if not isinstance(op, ops.ReadMarks):
            return done

        def later(reply: Any) -> None:
            stage.truth = 2
            stage.publish("k:1")
            stage.world.after(0.3, lambda: done(reply))

        return later

    stage.store.hook = hook
    stage.read(late)
    stage.store.hook = Hooked.hook
    stage.wait(3 * BOUND_S)
    assert stage.read(late).value == 2, "the entry that the record ended is served"


def full_batch_proves() -> None:
    """A node that was away catches up by one full batch, and is cut off again before the rest."""
    stage = Stage()
    process = stage.join("a")
    stage.read(process)
    link = process.links["log"]
    link.cut = True
    stage.truth = 2
    for _ in range(600):
        stage.publish("other")
    stage.publish("k:1")
    stage.wait(2 * BOUND_S)

    def hook(op: Op[Any], done: Callable[[Any], None]) -> Callable[[Any], None]:
        def once(reply: Any) -> None:
            done(reply)
            if isinstance(op, ops.Poll) and len(reply.records) == LIMIT:
                link.cut = True  # this reply is on its way, and the last

        return once

    stage.log.hook = hook
    link.cut, link.delay_s = False, 0.005
    stage.wait(1.0)
    assert 0 < process.node.applied < 601
    assert stage.read(process).value == 2, "a full batch was taken for the head"


def marks_die_first() -> None:
    """An entry is found after its mark has expired."""
    stage = Stage(max_ttl_s=1.0)
    stage.read(stage.join("a"), ttl=1.0)
    entry = dict(stage.state.entries)
    stage.truth = 2
    stage.publish("k:1")
    stage.state.trim(0)
    for key, (data, _until) in entry.items():  # filled a little later, as a slow fill would be
        stage.state.entries[key] = (data, stage.world.now + 1.0)
    late = stage.join("b")
    stage.wait(0.3)
    assert stage.read(late, ttl=1.0, consistency="strong").value == 2, "the mark was gone before the entry"


def pulse_of_another_generation() -> None:
    """A relay reads the source, sleeps while the log is replaced, and writes its pulse into the new one."""
    stage = Stage(relayed=True)
    relay, process = stage.join("relay"), stage.join("a")

    async def drain() -> Drained:
        return Drained((), "t")

    for _ in range(5):
        stage.world.spawn(relay, pulse(relay.node, drain), "pulse")
        stage.wait(0.3)
    held: list[Callable[[], None]] = []
    original = stage.log.perform

    def perform(op: Op[Any], done: Callable[[Any], None], *, own: bool) -> None:
        if isinstance(op, ops.Append) and not held:
            held.append(lambda: original(op, done, own=own))
            return
        original(op, done, own=own)

    stage.log.perform = perform  # type: ignore[method-assign]
    stage.world.spawn(relay, pulse(relay.node, drain), "pulse")  # its append is on its way for long
    stage.wait(0.1)
    relay.pause()
    stage.state.begin("g2")
    stage.log.notify()
    stage.wait(1.0)
    assert stage.read(process).value == 1
    stage.truth = 2  # committed, and in the outbox of a relay that sleeps
    committed = stage.world.now
    stage.wait(1.5)
    held[0]()
    stage.wait(committed + BOUND_S + 0.1 - stage.world.now)
    assert stage.read(process).value == 2, "a pulse of another generation proved the lease"


def range_overlooked() -> None:
    """The marks of a two-engine cache are wiped, and a node that needs them asks."""
    stage = Stage(one_engine=False)
    stage.read(stage.join("a"))
    stage.truth = 2
    stage.publish("k:1")
    stage.wait(0.5)
    stage.store.state.marks.clear()
    stage.store.state.covered = None
    stage.publish("other")
    stage.wait(0.5)
    stage.state.trim(0)
    late = stage.join("b")
    assert stage.read(late, consistency="strong").value == 2, "what the marks do not cover was judged by them"


def range_with_a_hole() -> None:
    """The marks of one record never reach the store; those before and after it do."""
    stage = Stage(one_engine=False)
    first = stage.join("a")
    stage.publish("other")
    stage.wait(0.5)
    stage.read(first)
    first.links["store"].cut = True
    stage.truth = 2
    stage.publish("k:1")
    stage.wait(0.5)
    first.links["log"].cut = True
    stage.state.trim(0)
    second = stage.join("b")
    stage.publish("other")
    stage.wait(0.5)
    stage.state.trim(0)
    third = stage.join("c")
    assert second.node.applied == third.node.applied == 3
    assert stage.read(third, consistency="strong").value == 2, "the range covers a hole"


SCHEDULES: dict[str, Callable[[], None]] = {
    "h14_range_overlooked": range_overlooked,
    "h33_reply_outlives_a_record": reply_outlives_a_record,
    "h35_marks_die_first": marks_die_first,
    "design_full_batch_proves": full_batch_proves,
    "design_range_with_a_hole": range_with_a_hole,
    "design_pulse_of_another_generation": pulse_of_another_generation,
}
