from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

import unstale
from tests.support.scripted import CODEC, Bench, KilledError, Script
from unstale.core import ops
from unstale.core.calls import delete_key, publish_record, read_served
from unstale.core.node import Node
from unstale.core.ops import Member
from unstale.core.publish import append, publish, publish_once
from unstale.core.read import read
from unstale.core.record import Record, Stamp
from unstale.core.table import Table
from unstale.core.write import invalidate, write
from unstale.errors import FullError, NotPublishedError, UnavailableError

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


def writing(bench: Bench, node: Node, call: Any = lambda: "written", **how: Any) -> Script:
    """Begin a write-through, up to its writer."""
    script = bench.script(write(node, bench.want(KEY, **how), call, Record(bench.new_id(), (KEY,))))
    script.until(ops.Load)
    return script


def look(bench: Bench, node: Node) -> Any:
    """Give what a node serves."""
    served = bench.run(read(node, bench.want(KEY)))
    return None if served is None else served.value


# Write-through ------------------------------------------------------------------------------------------------------


def test_h01_the_record_is_published_after_the_commit(bench: Bench) -> None:
    """Nothing is appended before the writer has returned; then it is, and the value is cached under its position."""
    node = bench.node()
    script = writing(bench, node)
    assert bench.log.head == 0
    script.perform()
    assert isinstance(script.op, ops.Append)
    served = script.end()
    assert (served.stamp, served.cell.position, look(bench, node)) == (Stamp("g1", 1), 1, "written")


@pytest.mark.parametrize("scope", [KEY, "tag", "*"])
def test_h16_a_record_that_comes_between_keeps_the_value_out(bench: Bench, scope: str) -> None:
    """If a record between the begin of a write and its own names one of its scopes, the value is not cached."""
    node = bench.node()
    script = writing(bench, node, scopes=("tag",))
    bench.publish(scope)
    assert script.end().value == "written"
    assert (look(bench, node), bench.store.entries) == (None, {})


def test_h16_a_record_of_another_scope_is_no_matter(bench: Bench) -> None:
    """Records that do not concern the value leave it cached."""
    node = bench.node()
    script = writing(bench, node)
    bench.publish("other")
    script.end()
    assert look(bench, node) == "written"


@pytest.mark.parametrize("answered", [True, False])
def test_a_write_waits_until_its_record_is_applied(bench: Bench, answered: bool) -> None:  # noqa: FBT001 - a parameter
    """If the node cannot catch up by itself, the write waits for the tail, and caches nothing if that is late."""
    node = bench.node()
    script = writing(bench, node)
    bench.publish("other")
    bench.broken[ops.Poll] = UnavailableError("no poll")
    script.until(ops.Wait)
    bench.broken.clear()
    if answered:
        bench.hear(node)
        assert script.op is not None
        assert script.op.signal.fired  # type: ignore[attr-defined]
    assert script.end().value == "written"
    assert node.expected == 0
    assert look(bench, node) == ("written" if answered else None)


def test_h33_a_write_that_crosses_a_discontinuity_is_not_cached(bench: Bench) -> None:
    """A record that ends up in another generation was not judged against what came before it there."""
    node = bench.node()
    script = writing(bench, node)
    bench.log.begin("g2")
    script.end()
    bench.hear(node)
    assert (look(bench, node), node.intents) == (None, {})


def test_h12_the_own_next_read_sees_what_was_published_to_another_log(bench: Bench) -> None:
    """A writer whose record is the first of a new log crosses to it, and serves nothing of before."""
    node = bench.node()
    bench.run(read(node, bench.want(KEY, lambda: "old")))
    bench.log.begin("g2")
    bench.run(publish_record(node, Record("w1", (KEY,)), wait=False))
    assert (node.generation, node.applied) == ("g2", 1)
    assert bench.run(read(node, bench.want(KEY, lambda: "new"))).value == "new"


def test_h12_who_crosses_late_does_not_go_back(bench: Bench) -> None:
    """An answer that shows another log is no reason to cross once another thread has crossed, and gone on."""
    node = bench.node()
    slow = bench.script(publish_record(node, Record("w1", (KEY,)), wait=False))
    slow.until(ops.Append)
    bench.log.begin("g2")
    slow.perform()
    slow.until(ops.Poll)
    asked = slow.op
    assert isinstance(asked, ops.Poll)
    late = bench.perform(asked)
    bench.hear(node)
    bench.publish("other")
    bench.hear(node)
    slow.answer(late).end()
    assert (node.generation, node.applied, node.counts["discontinuities"]) == ("g2", 2, 2)


def test_h12_of_two_that_cross_one_changes_the_node(bench: Bench) -> None:
    """Who was elsewhere when the node crossed, or went on, leaves it as it is."""
    node = bench.node()
    here = Stamp("g1", 0)
    for position, crossed in ((5, "g2"), (6, "g2")):
        node.reset(ops.Identity("g2", position, ""), bench.now, left=here)
        assert (node.generation, node.applied) == (crossed, 5)


def test_h33_a_discontinuity_wakes_who_waits_for_a_position(bench: Bench) -> None:
    """A write that waits for a position which will never come is woken when the generation changes."""
    node = bench.node()
    script = writing(bench, node)
    bench.publish("other")
    bench.broken[ops.Poll] = UnavailableError("no poll")
    signal = script.until(ops.Wait).signal
    bench.broken.clear()
    bench.log.begin("g2")
    bench.hear(node)
    assert signal.fired
    assert script.end().value == "written"
    assert look(bench, node) is None


def test_a_write_before_the_node_has_joined_is_published(bench: Bench) -> None:
    """Without a log to follow nothing is cached, but the record is published."""
    node = bench.node(joined=False)
    for head in (1, 2):
        assert writing(bench, node).end().value == "written"
        assert (bench.log.head, node.intents, bench.store.entries) == (head, {}, {})


def test_a_record_that_ends_the_written_value_at_once(bench: Bench) -> None:
    """A record that is applied between the write's own and its caching keeps the value out."""
    node = bench.node()
    script = writing(bench, node)
    script.perform()
    answer = bench.perform(script.until(ops.Append))
    bench.publish(KEY)
    script.answer(answer)
    assert script.end().value == "written"
    assert look(bench, node) == "written", "it was cached before the node heard of the other record"
    bench.hear(node)
    assert look(bench, node) is None
    script = writing(bench, node)
    bench.publish("other")
    script.until(ops.Append)
    script.perform()
    bench.publish(KEY)
    assert script.end().value == "written"
    assert look(bench, node) is None


def test_h27_a_written_value_that_is_too_large_is_not_resident(bench: Bench) -> None:
    """A value larger than the whole table goes to the store alone."""
    node = bench.node(table=Table(10, 2000))
    assert writing(bench, node, lambda: "x" * 5000).end().cell is None
    assert bench.run(read(node, bench.want(KEY))).source == "store"


@pytest.mark.parametrize("error", [ConnectionError("committed?"), KilledError()])
def test_h02_whatever_ends_the_writer_its_record_is_published(bench: Bench, error: BaseException) -> None:
    """A writer that raised, or was cancelled, may have committed: the key is invalidated, and the error goes on."""
    node = bench.node()
    script = writing(bench, node)
    script.fail(error)
    script.until(ops.Append)
    with pytest.raises(type(error)):
        script.end()
    assert [logged.record.scopes for logged in bench.log.log] == [(KEY,)]


def test_h02_what_cannot_be_published_carries_what_was_written(bench: Bench) -> None:
    """The log refuses: the error tells what was written, and no intent is left behind."""
    node = bench.node()
    bench.broken[ops.Append] = FullError("full")
    with pytest.raises(NotPublishedError) as caught:
        writing(bench, node).end()
    assert (caught.value.fields["value"], node.intents) == ("written", {})


def test_h35_a_written_value_that_died_on_its_way_is_not_sent(bench: Bench) -> None:
    """A written value lives from the begin of its write: if the log takes longer than that, nothing is stored."""
    node = bench.node()
    script = writing(bench, node, ttl=5)
    script.until(ops.Append)
    bench.now += 6
    assert script.end().value == "written"
    assert bench.store.entries == {}


def test_a_writer_whose_tail_was_quicker_asks_nothing(bench: Bench) -> None:
    """What the node has applied when the reply to its append comes need not be fetched."""
    node = bench.node()
    script = bench.script(publish(node, Record("r", (KEY,))))
    bench.perform(script.until(ops.Append))
    bench.hear(node)
    bench.broken[ops.Poll] = UnavailableError("it was asked")
    assert script.end() == Stamp("g1", 1)
    assert not node.counts["trouble:catch up"]


def test_h36_who_waits_for_all_members_ends_every_poll(bench: Bench) -> None:
    """A writer's own poll may wait on for what it applies, but not if somebody waits for it to tell that it has."""
    node = bench.node()
    assert bench.script(publish(node, Record("r1", (KEY,)))).until(ops.Append).applier == node.id
    assert bench.script(publish(node, Record("r2", (KEY,), ack=True))).until(ops.Append).applier == ""
    assert bench.script(publish_once(node, (Record("r3", (KEY,)),))).until(ops.Append).applier == node.id
    assert bench.script(append(node, (Record("r4", (KEY,)),))).until(ops.Append).applier == ""


def test_h07_an_append_of_unknown_outcome_is_repeated_with_its_id(bench: Bench) -> None:
    """The log does not answer: the same record is appended again until it does, and counts once."""
    node = bench.node()
    script = writing(bench, node)
    script.perform()
    for _ in range(3):
        bench.perform(script.until(ops.Append))
        script.fail(UnavailableError("no answer"))
        script.until(ops.Sleep)
        script.perform()
    script.end()
    assert (bench.log.head, node.counts["trouble:append"], look(bench, node)) == (1, 3, "written")


def test_an_append_that_never_succeeds_is_given_up(bench: Bench) -> None:
    """A log that does not answer for seconds is reported to the caller."""
    node = bench.node()
    bench.broken[ops.Append] = UnavailableError("no log")
    began = bench.now
    with pytest.raises(NotPublishedError):
        bench.run(invalidate(node, Record("r", ("a", "b")), wait=False))
    assert 5 < bench.now - began < 6


def test_what_was_made_of_another_cache_is_not_kept(bench: Bench) -> None:
    """A writer that read another cache gives a value that cannot be kept: its records are never heard of here."""
    node, other = bench.node(), Bench()
    elsewhere = other.node()
    other.log.generation = elsewhere.generation = "elsewhere"
    script = writing(bench, node)
    bench.script(read_served(elsewhere, other.want("part", lambda: "p")), inside=script).end()
    script.end()
    assert look(bench, node) is None


def test_a_writer_may_say_what_a_loader_may(bench: Bench) -> None:
    """Its tags end the value, its version orders it, its life counts, and what it skips is not cached."""
    node = bench.node()

    def writer() -> str:
        unstale.tag("t")
        unstale.version(7)
        unstale.ttl("5s")
        return "written"

    writing(bench, node, writer).end()
    assert bench.log.log[0].record.version is not None
    assert bench.log.log[0].record.version.value == 7
    assert node.table.cells[KEY].fresh_until == bench.now + 5
    bench.publish("t")
    bench.hear(node)
    assert look(bench, node) is None


def test_a_writer_may_read_what_it_replaces(bench: Bench) -> None:
    """A writer that reads its key through the cache gets it, resident or loaded: nobody waits for the writer."""
    node = bench.node()
    for resident in (True, False):
        if resident:
            bench.run(read(node, bench.want(KEY, lambda: "old")))
        script = writing(bench, node)
        assert bench.script(read(node, bench.want(KEY, lambda: "old")), inside=script).end().value == "old"
        script.end()
        bench.publish(KEY)
        bench.hear(node)


def test_h24_a_writer_within_a_load_closes_no_circle(bench: Bench) -> None:
    """A load's writer waits for another load, which would wait for the first: it loads what it needs by itself."""
    node = bench.node()
    one = bench.script(read(node, bench.want("a:1", lambda: "a")))
    two = bench.script(read(node, bench.want("b:1", lambda: "b")))
    for script in (one, two):
        script.until(ops.Load)
    writer = bench.script(write(node, bench.want(KEY), lambda: "new", Record("w1", (KEY,))), inside=one)
    writer.until(ops.Load)
    bench.script(read(node, bench.want("b:1", lambda: "b")), inside=writer).until(ops.Wait)
    circle = bench.script(read(node, bench.want("a:1", lambda: "again")), inside=two)
    assert circle.end().value == "again"


# Invalidating -------------------------------------------------------------------------------------------------------


def test_h08_the_barrier_waits_for_every_member(bench: Bench) -> None:
    """A waiting invalidation returns when all members have applied it, and names them."""
    here, there = bench.node("here"), bench.node("there")
    bench.now += 10
    for node in (here, there):
        bench.hear(node)
    script = bench.script(publish_record(here, Record("r", (KEY,), ack=True), wait=True))
    script.until(ops.Sleep)
    for node in (here, here, there, there):  # the first poll applies it, the second one tells of that
        bench.hear(node)
    receipt = script.end()
    assert (set(receipt.nodes), receipt.complete) == ({"here", "there"}, True)
    assert receipt.took_s < 1


def test_h36_a_young_list_waits_for_the_largest_bound(bench: Bench) -> None:
    """A list that was just lost may lack nodes that hold a lease: the barrier waits for the longest of all bounds."""
    here = bench.node("here")
    bench.log.renew(Member("slow", "g1", 0, 7.0))
    bench.log.members.clear()
    bench.log.members_since = bench.now
    bench.hear(here)
    receipt = bench.run(publish_record(here, Record("r", (KEY,)), wait=True))
    assert receipt.complete
    assert receipt.took_s >= 7.0


def test_h36_without_a_list_the_barrier_cannot_say(bench: Bench) -> None:
    """If the members can never be read, the receipt says that it is not certain."""
    here = bench.node("here")
    bench.broken[ops.ReadMembers] = UnavailableError("no list")
    receipt = bench.run(publish_record(here, Record("r", (KEY,)), wait=True))
    assert not receipt.complete
    assert receipt.took_s >= here.max_staleness_s
    assert here.counts["trouble:members"] > 1


def test_h36_members_of_another_generation_have_not_applied_it(bench: Bench) -> None:
    """What a member says of another generation is no answer."""
    here = bench.node("here")
    bench.now += 100
    bench.log.renew(Member("stray", "g0", 999, 2.0))
    script = bench.script(publish_record(here, Record("r", (KEY,)), wait=True))
    script.until(ops.Sleep)
    bench.hear(here)
    bench.hear(here)
    receipt = script.end()
    assert (receipt.nodes, receipt.complete) == (("here",), True)
    assert receipt.took_s >= 2.0


def test_deleting_frees_the_space_of_the_entry(bench: Bench) -> None:
    """A delete is an invalidation; that the store cannot free the space is reported, and no failure."""
    node = bench.node()
    for broken in (False, True):
        bench.run(read(node, bench.want(KEY, lambda: "x")))
        if broken:
            bench.broken[ops.Delete] = UnavailableError("no store")
        bench.run(delete_key(node, bench.want(KEY), Record(bench.new_id(), (KEY,))))
        assert (f"{CODEC.shape}|{KEY}" in bench.store.entries) is broken
        assert look(bench, node) is None
    assert node.counts["trouble:delete"] == 1
