from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted import Bench
from unstale.core import ops
from unstale.core.node import Node, Progress
from unstale.core.ops import Batch, Identity
from unstale.core.publish import publish
from unstale.core.reach import reach
from unstale.core.read import read
from unstale.core.record import Logged, Record, Stamp
from unstale.core.tail import Drained, beat, extend_marks, follow, join, pulse, tail
from unstale.errors import UnavailableError


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


def logged(*positions: int) -> tuple[Logged, ...]:
    """Give records at positions."""
    return tuple(Logged(at, f"r{at - 1}" if at > 1 else "", Record(f"r{at}", (f"s{at}",))) for at in positions)


def apply(node: Node, batch: Batch, *, sent: float = 0.0) -> Progress:
    """Let a node apply a batch that it asked for just now."""
    return node.apply(batch, Stamp(node.generation or "", node.applied), node.applied_id, sent)


def holding(bench: Bench, *keys: str) -> Node:
    """Give a node that holds entries."""
    node = bench.node()
    for key in keys:
        bench.run(read(node, bench.want(key, lambda: 1)))
    return node


# Joining ------------------------------------------------------------------------------------------------------------


def test_h13_joining_reads_back_what_is_there(bench: Bench) -> None:
    """The floor of a node that joins lies as low as the log reaches back without a hole."""
    for number in range(10):
        bench.publish(f"s{number}")
    assert bench.node().marks.floor == 0
    bench.log.trim(4)
    node = bench.node()
    assert (node.marks.floor, node.applied, sorted(node.marks.by_scope)) == (6, 10, ["s6", "s7", "s8", "s9"])


@pytest.mark.parametrize("damage", ["hole", "generation", "head", "id"])
def test_what_is_read_back_must_lead_to_the_head(bench: Bench, damage: str) -> None:
    """Records that do not lead to the head without a hole, or are of another life of the log, lower no floor."""
    for number in range(5):
        bench.publish(f"s{number}")
    node = bench.node(joined=False)
    script = bench.script(join(node))
    script.until(ops.Poll)
    script.perform()
    batch = bench.perform(script.until(ops.Poll))
    records = list(batch.records)
    identity = batch.identity
    if damage == "hole":
        del records[2]
    elif damage == "generation":
        identity = Identity("g2", 5, identity.head_id)
    elif damage == "head":
        del records[-1]
    else:
        records[-1] = Logged(5, records[-1].prev, Record("another", ("s",)))
    script.answer(Batch(identity, batch.at_id, tuple(records))).end()
    assert (node.marks.floor, node.applied, node.generation) == (5, 5, "g1")


def test_an_empty_log_is_joined_with_one_request(bench: Bench) -> None:
    """There is nothing to be read back from an empty log."""
    node = bench.node(joined=False)
    script = bench.script(join(node))
    script.perform()
    assert (script.done, node.generation, node.marks.floor) == (True, "g1", 0)


# Following ----------------------------------------------------------------------------------------------------------


def test_h07_duplicates_and_holes(bench: Bench) -> None:
    """What was applied is not applied again; a hole, or a wrong predecessor, ends the batch and proves nothing."""
    node = bench.node()
    head = Identity("g1", 5, "r5")
    bench.now += 10
    assert apply(node, Batch(head, "", logged(1, 1, 2, 1, 4, 5)), sent=bench.now) is Progress.MORE
    assert (node.applied, node.lease.proven) == (2, 1000.0)
    wrong = Logged(3, "another", Record("r3", ("s3",)))
    assert apply(node, Batch(head, "r2", (wrong, *logged(4, 5))), sent=bench.now) is Progress.MORE
    assert apply(node, Batch(head, "r2", logged(3, 4, 5)), sent=bench.now) is Progress.HEAD
    assert (node.applied, node.lease.proven) == (5, 1010.0)


@pytest.mark.parametrize(
    ("identity", "at_id"),
    [(Identity("g2", 2, "r2"), "r2"), (Identity("g1", 1, "r1"), None), (Identity("g1", 2, "x2"), "x2")],
)
def test_h10_h12_another_history_is_noticed(bench: Bench, identity: Identity, at_id: str | None) -> None:
    """Another generation, a head below ours, or another record at our position: all that is resident goes."""
    node = bench.node()
    apply(node, Batch(Identity("g1", 2, "r2"), "", logged(1, 2)))
    bench.run(read(node, bench.want("k", lambda: 1)))
    script = bench.script(follow(node, 0.0))
    script.until(ops.Poll)
    script.answer(Batch(identity, at_id, ())).end()
    assert (len(node.table), node.applied, node.generation) == (0, identity.head, identity.generation)
    assert node.counts["discontinuities"] == 2


def test_h09_a_log_that_was_trimmed_past_a_node(bench: Bench) -> None:
    """If the log has forgotten what comes next, the node drops all and begins at the head."""
    node = holding(bench, "k")
    for number in range(9):
        bench.publish(f"s{number}")
    bench.log.trim(3)
    bench.hear(node)
    assert (len(node.table), node.applied, node.marks.floor) == (0, 9, 9)


def test_an_answer_that_outlived_a_discontinuity_is_nothing(bench: Bench) -> None:
    """A poll that was sent in another generation is neither applied nor a discontinuity."""
    node = bench.node()
    script = bench.script(follow(node, 0.0))
    batch = bench.perform(script.until(ops.Poll))
    node.reset(Identity("g2", 0, ""), bench.now)
    script.answer(batch).end()
    assert (node.generation, node.counts["discontinuities"]) == ("g2", 2)


def test_h36_a_larger_bound_counts_from_the_poll_that_tells_of_it(bench: Bench) -> None:
    """Polls that were sent before a node had told of its larger bound renew no lease, nor does a join."""
    node = bench.node()
    script = bench.script(follow(node, 0.0))
    script.until(ops.Poll)
    node.serve_bound(30.0)
    script.end()
    assert not node.lease.proves(bench.now, 30.0)
    bench.hear(node)
    assert node.lease.proves(bench.now + 29, 30.0)
    node.serve_bound(1.0)
    assert (node.max_staleness_s, node.poll_wait_s) == (30.0, 0.4)
    script = bench.script(join(node))
    script.until(ops.Poll)
    node.serve_bound(60.0)
    script.end()
    assert not node.lease.proves(bench.now, 60.0)


def test_who_waits_for_a_position_is_woken_when_it_is_applied(bench: Bench) -> None:
    """A ticket that lies ahead is waited for; other positions wake nobody."""
    node = bench.node()
    bench.broken[ops.Poll] = UnavailableError("no poll")
    script = bench.script(reach(node, Stamp("g1", 2), 5.0))
    signal = script.until(ops.Wait).signal
    bench.broken.clear()
    apply(node, Batch(Identity("g1", 1, "r1"), "", logged(1)))
    assert (signal.fired, node.expected) == (False, 1)
    apply(node, Batch(Identity("g1", 2, "r2"), "r1", logged(2)))
    assert (signal.fired, node.expected) == (True, 0)
    assert script.end() is True


def test_h08_the_tail_goes_on_whatever_fails(bench: Bench) -> None:
    """A tail that fails reports it, waits a little longer each time, and begins again; readers are not kept waiting."""
    node = bench.node(joined=False)
    troubles: list[str] = []
    node.on_trouble = lambda what, _error: troubles.append(what)
    turns = iter(range(100))
    script = bench.script(tail(node, lambda: next(turns) > 4))
    pauses = []
    for _ in range(3):
        script.until(ops.Poll)
        script.fail(UnavailableError("no log"))
        pauses.append(script.until(ops.Sleep).seconds)
        script.perform()
        assert node.joined.fired
    assert pauses == [0.01, 0.02, 0.04]
    script.end()
    assert (node.generation, troubles) == ("g1", ["tail"] * 3)


# Two engines --------------------------------------------------------------------------------------------------------


def test_nodes_write_the_marks_of_a_foreign_log() -> None:
    """With two engines the nodes that follow the log write its marks to the store, from where they left off."""
    with contextlib.closing(Bench(two=True)) as bench:
        node = bench.node()
        bench.publish("a")
        bench.hear(node)
        assert bench.store.covered == ("g1", 1, 1)
        bench.publish("b")
        script = bench.script(follow(node, 0.0))
        op = script.until(ops.ExtendMarks)
        assert (op.start, op.upto, op.marks) == (2, 2, {"b": 2})
        script.fail(UnavailableError("no store"))
        assert node.counts["trouble:extend marks"] == 1
        bench.hear(node)
        assert bench.store.covered == ("g1", 1, 2)
        script = bench.script(extend_marks(node))
        assert script.done, "there is nothing new"
        assert bench.run(extend_marks(bench.node(joined=False))) is None


def test_h33_marks_written_for_a_generation_that_is_over() -> None:
    """If the generation changes while marks are written, the node begins anew with those of the new one."""
    with contextlib.closing(Bench(two=True)) as bench:
        node = bench.node()
        bench.publish("a")
        script = bench.script(follow(node, 0.0))
        script.until(ops.ExtendMarks)
        node.reset(Identity("g2", 0, ""), bench.now)
        script.end()
        assert node.extended == 0


def test_the_tail_gives_way_to_a_node_that_publishes(bench: Bench) -> None:
    """Who has just published, and applied, a record polls a moment later, unless somebody waits to see it applied."""
    node = bench.node()

    def first() -> type[ops.Op[Any] | None]:
        return type(bench.script(tail(node, lambda: False)).op)

    assert first() is ops.Poll
    bench.run(publish(node, Record("r1", ("a",))))
    assert first() is ops.Sleep
    bench.now += 1
    assert first() is ops.Poll
    bench.run(publish(node, Record("r2", ("a",), ack=True)))
    assert first() is ops.Poll


# Pulses -------------------------------------------------------------------------------------------------------------


def test_h19_a_pulse_proves_polls_from_before_it_was_begun(bench: Bench) -> None:
    """A pulse renews the lease to the latest poll that ended below the head that it covers; a poll alone does not."""
    node, relay = bench.node("n", relayed=True), bench.node("relay", relayed=True)
    assert not node.lease.proves(bench.now, 2.0)
    heads = []
    for _ in range(3):
        bench.now += 1
        told = bench.run(pulse(relay, lambda: Drained((Record(bench.new_id(), ("a",)),), "t1")))
        bench.hear(relay)
        bench.now += 1
        bench.hear(node)
        heads.append((told.records[-1].record.covers, node.lease.proven))
    assert heads == [(Stamp("g1", 0), float("-inf")), (Stamp("g1", 3), 1000.0), (Stamp("g1", 5), 1002.0)]


def test_h11_the_nodes_of_a_log_with_replicas_write_its_pulses(bench: Bench) -> None:
    """Once the log tells of replicas leases rest on pulses, which whoever has its turn writes: one of two nodes."""
    nodes = [bench.node("one"), bench.node("two")]
    bench.log.pulsed = True
    for node in nodes:
        assert bench.run(beat(node)) == node.poll_wait_s, "it does not know yet"
        bench.hear(node)
    wait_s = 0.0
    for _ in range(20):
        for node in nodes:
            wait_s = bench.run(beat(node))
            bench.hear(node)
        bench.now += wait_s
    assert all(bench.now - node.lease.proven < node.bound_s / 2 for node in nodes)
    assert 10 <= bench.log.head <= 21, "one a beat"
    assert bench.run(beat(bench.node("three", relayed=True))) == nodes[0].poll_wait_s, "a relay writes them"


def test_h11_a_head_that_proves_nothing_is_no_pulse(bench: Bench) -> None:
    """A node that cannot reach the quorum writes no pulse: its lease lapses."""
    bench.log.pulsed, bench.log.proven = True, False
    node = bench.node()
    for _ in range(5):
        bench.now += bench.run(beat(node))
        bench.hear(node)
    assert bench.log.head == 0
    assert not node.lease.proves(bench.now, node.bound_s)


def test_h20_another_timeline_of_the_source_ends_everything(bench: Bench) -> None:
    """The relay that sees another life of the source says so, and nodes drop all that was loaded from the last."""
    relay = bench.node("relay", relayed=True)
    node = bench.node("n", relayed=True)
    bench.run(pulse(relay, lambda: Drained((), "t1")))
    bench.hear(relay)
    bench.hear(node)
    bench.run(read(node, bench.want("k", lambda: 1)))
    assert len(node.table) == 1
    told = bench.run(pulse(relay, lambda: Drained((), "t2")))
    assert told.records[0].record.scopes == ("*",)
    bench.hear(node)
    assert (len(node.table), node.timeline) == (0, "t2")
