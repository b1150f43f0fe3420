from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted import CODEC, Bench, Script
from unstale.core import ops, register
from unstale.core.node import Node
from unstale.core.record import Record, Stamp
from unstale.core.register import Written, change, end, fill, write_all
from unstale.core.register_reads import LOOKS_MAX, read_all, read_one
from unstale.core.served import Served
from unstale.errors import BusyError, DeniedError, NotPublishedError, UnavailableError

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


def written(bench: Bench, value: Any, life_s: float = 60.0, key: str = KEY) -> Written:
    """Give what is to be written."""
    return Written(bench.want(key, store_out="refuse"), value, CODEC.encode(value), life_s)


def record(bench: Bench, *keys: str) -> Record:
    """Give its record."""
    return Record(bench.new_id(), keys or (KEY,))


def setting(bench: Bench, node: Node, value: Any, *, atomic: bool = True, life_s: float = 60.0) -> Script:
    """Begin to set."""
    return bench.script(write_all(node, [written(bench, value, life_s)], record(bench), atomic=atomic))


def counting(bench: Bench, node: Node, *, atomic: bool = True) -> Script:
    """Begin to add one to a value that must be there."""

    def decide(found: Served | None) -> Written:
        if found is None:
            raise LookupError
        return written(bench, found.value + 1)

    return bench.script(change(node, bench.want(KEY, store_out="refuse"), decide, record(bench), atomic=atomic))


def adding(bench: Bench, node: Node, value: Any = "added", *, atomic: bool = True) -> Script:
    """Begin to write a value where there must be none."""
    one = written(bench, value)
    return bench.script(
        change(node, one.want, lambda found: one if found is None else None, record(bench), atomic=atomic)
    )


def look(bench: Bench, node: Node) -> Any:
    """Give what a node serves."""
    return bench.run(read_one(node, bench.want(KEY), None))


# Writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [True, False])
def test_the_last_record_wins(bench: Bench, atomic: bool) -> None:  # noqa: FBT001 - a parameter
    """Of two writes the one whose record is later is in force, on its node and on others, and lives as long as said."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, "first", atomic=atomic).end()
    setting(bench, two, "second", atomic=atomic).end()
    bench.hear(one)
    assert [look(bench, node) for node in (one, two, bench.node("new"))] == ["second"] * 3
    bench.now += 61
    bench.hear(one)
    assert look(bench, one) is None


def test_h16_a_write_that_finds_another_head_is_stamped_anew(bench: Bench) -> None:
    """A value is never kept under a position that another record has taken."""
    node = bench.node()
    script = setting(bench, node, "mine")
    script.until(ops.Put)
    bench.publish(KEY)
    script.end()
    assert (look(bench, node), bench.log.head, node.applied) == ("mine", 2, 2)


def test_a_write_that_is_overtaken_again_and_again_takes_two_steps(bench: Bench) -> None:
    """No number of other writers keeps it from being written."""
    node = bench.node()
    script = setting(bench, node, "mine")
    puts = 0
    while not isinstance(script.op, ops.Append):
        if isinstance(script.op, ops.Put):
            bench.publish("other")
            puts += 1
        script.perform()
    script.end()
    assert (puts, look(bench, node)) == (register.PUTS_MAX, "mine")


def test_h02_a_put_of_unknown_outcome_is_repeated_and_counts_once(bench: Bench) -> None:
    """The answer was lost: the very same is put again, and finds its record there, also behind another's."""
    node = bench.node()
    script = setting(bench, node, "mine")
    op = script.until(ops.Put)
    bench.perform(op)
    bench.publish("other")
    script.fail(UnavailableError("the answer was lost"))
    script.end()
    assert (look(bench, node), bench.log.head) == ("mine", 2)


@pytest.mark.parametrize("error", [UnavailableError("gone"), DeniedError("not yours")])
def test_a_put_that_fails_is_told(bench: Bench, error: Exception) -> None:
    """A log that does not answer, or refuses, is an error of the write; nor is the old one served here (H2)."""
    node = bench.node()
    setting(bench, node, "old").end()
    bench.broken[ops.Put] = error
    with pytest.raises(NotPublishedError):
        setting(bench, node, "mine").end()
    assert bench.log.head == 1
    assert look(bench, node) is None


def test_a_node_that_knows_no_log_writes_in_two_steps(bench: Bench) -> None:
    """It knows no position to put after, and keeps nothing that it could not judge."""
    node = bench.node(joined=False)
    script = setting(bench, node, "mine")
    script.end()
    assert (bench.log.head, len(node.table)) == (1, 0)
    assert look(bench, bench.node("new")) == "mine"


@pytest.mark.parametrize("atomic", [True, False])
def test_what_has_no_life_is_dropped(bench: Bench, atomic: bool) -> None:  # noqa: FBT001 - a parameter
    """From memory; and from the store if that is one step with the record, else it could be what was put since."""
    node = bench.node()
    setting(bench, node, "mine").end()
    setting(bench, node, "nothing", atomic=atomic, life_s=0.0).end()
    assert (look(bench, node), bool(bench.store.entries)) == (None, not atomic)


def test_a_store_that_fails_in_the_second_step_is_reported(bench: Bench) -> None:
    """The write is announced, and is in force in the memory of its node."""
    node = bench.node()
    bench.broken[ops.Store] = UnavailableError("gone")
    setting(bench, node, "mine", atomic=False).end()
    assert (look(bench, node), node.counts["trouble:store"]) == ("mine", 1)


def test_h16_a_value_that_a_later_record_has_ended_is_not_kept(bench: Bench) -> None:
    """The record came after the value's own, and was applied before it was kept."""
    node = bench.node()
    script = setting(bench, node, "mine")
    op = script.until(ops.Put)
    answer = bench.perform(op)
    bench.publish(KEY)
    bench.hear(node)
    script.answer(answer)
    script.end()
    assert look(bench, node) is None


# Changing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [True, False])
def test_a_change_sees_what_others_wrote(bench: Bench, atomic: bool) -> None:  # noqa: FBT001 - a parameter
    """Although this node has not heard of it."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, 1).end()
    for node in (two, one, two):
        assert counting(bench, node, atomic=atomic).end() is True
    bench.hear(one)
    assert look(bench, one) == 4


def test_h16_a_change_that_was_overtaken_looks_again(bench: Bench) -> None:
    """Another node counts between the look and the write: neither count is lost."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, 1).end()
    script = counting(bench, one)
    script.until(ops.Put)
    counting(bench, two).end()
    script.end()
    assert look(bench, one) == 3


def test_h16_an_answer_that_nothing_is_there_is_proven(bench: Bench) -> None:
    """1. a node holds nothing 2. another writes 3. its change must not say that there was nothing; and the reverse."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, 1).end()
    bench.hear(two)
    assert adding(bench, two).end() is False
    setting(bench, one, 0, life_s=0.0).end()
    assert adding(bench, two).end() is True
    setting(bench, one, 0, life_s=0.0).end()
    with pytest.raises(LookupError):
        counting(bench, two).end()


@pytest.mark.parametrize("kind", [counting, adding])
def test_h16_a_value_that_is_replaced_during_the_look_is_not_missing(bench: Bench, kind: Any) -> None:
    """1. the store sends the value of position 1 2. it is replaced at 2 3. this node applies 2: it looks again."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, 1).end()
    bench.hear(two)
    script = kind(bench, two)
    for _ in range(3):
        op = script.until(ops.Fetch)
        fetched = bench.perform(op)
        setting(bench, one, 5).end()
        bench.hear(two)
        script.answer(fetched)
    assert script.end() is (kind is counting)
    assert look(bench, two) == (6 if kind is counting else 5)


def test_h14_what_cannot_be_judged_is_not_taken_for_absent() -> None:
    """1. a lock is taken by `add` 2. a node joins later, and the store's marks do not answer it: it has no lock."""
    with contextlib.closing(Bench(records_max=2)) as bench:
        assert adding(bench, bench.node("one")).end() is True
        for _ in range(5):
            bench.publish("other")
        late = bench.node("late")
        bench.broken[ops.ReadMarks] = UnavailableError("gone")
        with pytest.raises(UnavailableError, match="gone"):
            adding(bench, late).end()
        bench.broken.clear()
        assert adding(bench, late).end() is False


def test_h19_a_value_that_no_relay_vouches_for_is_not_taken_for_absent(bench: Bench) -> None:
    """Without a pulse nothing is proven fresh by the source, but who has what was written last is the log's to say."""
    one, two = bench.node("one", relayed=True), bench.node("two", relayed=True)
    setting(bench, one, 1).end()
    bench.hear(two)
    assert counting(bench, two).end() is True
    assert adding(bench, one).end() is False


def test_a_change_without_the_log_is_an_error(bench: Bench) -> None:
    """What is there cannot be known, so neither can be said that nothing is."""
    node = bench.node()
    bench.broken[ops.ReadHead] = UnavailableError("gone")
    with pytest.raises(UnavailableError):
        counting(bench, node).end()
    with pytest.raises(UnavailableError):
        counting(bench, bench.node("lost", joined=False)).end()


def test_h11_a_change_is_not_answered_by_a_deposed_log(bench: Bench) -> None:
    """A head that its server cannot prove says nothing of what was written last."""
    node = bench.node()
    bench.log.proven = False
    with pytest.raises(UnavailableError, match="does not tell what was written last"):
        counting(bench, node).end()


def test_h10_a_change_crosses_to_another_log_by_itself(bench: Bench) -> None:
    """1. a node looks 2. the log is wiped, and begins anew 3. its put is told so: it crosses, and looks again there."""
    node = bench.node()
    script = adding(bench, node)
    script.until(ops.Put)
    bench.log.begin("g2")
    assert script.end() is True
    assert (node.generation, look(bench, node)) == ("g2", "added")


def test_a_change_of_what_all_others_write_gives_up(bench: Bench) -> None:
    """After many looks, with an error that says so."""
    node = bench.node()
    setting(bench, node, 1).end()
    script = counting(bench, node)
    while script.op is not None:
        if isinstance(script.op, ops.Put):
            bench.publish("other")
        script.perform()
    assert isinstance(script.error, BusyError)


def test_without_puts_one_changes_at_a_time(bench: Bench) -> None:
    """The lock is waited for, given back whatever happens, and an error if it is held for long."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, 1).end()
    first = counting(bench, one, atomic=False)
    first.until(ops.Append)
    second = counting(bench, two, atomic=False)
    second.until(ops.Sleep)
    first.end()
    second.end()
    assert look(bench, two) == 3
    assert adding(bench, one, atomic=False).end() is False
    bench.broken[ops.Unlock] = UnavailableError("gone")
    counting(bench, one, atomic=False).end()
    assert one.counts["trouble:unlock"] == 1
    held = bench.perform(ops.Lock(f"change|{KEY}", 1e6))
    while held is None:
        bench.now += 1
        held = bench.perform(ops.Lock(f"change|{KEY}", 1e6))
    with pytest.raises(BusyError):
        counting(bench, two, atomic=False).end()


# Ending, filling, reading ---------------------------------------------------------------------------------------------


def test_an_end_tells_what_was_there_and_is_published_in_any_case(bench: Bench) -> None:
    """A load may be under way that it must end (H3)."""
    node = bench.node()
    setting(bench, node, 1).end()
    one = written(bench, None, 0.0)
    for there in (True, False):
        assert bench.run(end(node, one, record(bench), atomic=True)) is there
    assert bench.log.head == 3


@pytest.mark.parametrize("ended", [True, False])
def test_h03_a_fill_is_kept_only_if_nothing_came_since(bench: Bench, ended: bool) -> None:  # noqa: FBT001 - a parameter
    """It publishes nothing, and what was named since its view was taken is not kept anywhere."""
    node = bench.node()
    since = node.stamp()
    assert since is not None
    bench.publish(KEY if ended else "other")
    bench.hear(node)
    bench.run(fill(node, written(bench, "loaded"), since, bench.now))
    assert (look(bench, node), bench.log.head) == (None if ended else "loaded", 1)
    assert bool(bench.store.entries) is not ended
    bench.run(fill(node, written(bench, "dead"), Stamp("another", 1), bench.now))
    assert look(bench, node) != "dead"


@pytest.mark.parametrize("times", [1, LOOKS_MAX])
def test_reads_look_again_at_what_is_replaced_meanwhile(bench: Bench, times: int) -> None:
    """A key that was there all the time is found, unless others write it in each look."""
    one, two = bench.node("one"), bench.node("two")
    setting(bench, one, 0).end()
    bench.hear(two)
    for flow in (read_one(two, bench.want(KEY), None), read_all(two, [bench.want(KEY), bench.want("k:2")])):
        two.table.clear()
        script = bench.script(flow)
        for number in range(times):
            op = script.until(ops.Fetch)
            fetched = bench.perform(op)
            setting(bench, one, number).end()
            bench.hear(two)
            script.answer(fetched)
        found = script.end()
        value = found.get(KEY, None) if isinstance(found, dict) else found
        value = value.value if isinstance(value, Served) else value
        assert value == (0 if times == 1 else None)
    assert bench.run(read_one(None, bench.want(KEY), "default")) == "default"
