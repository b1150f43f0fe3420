from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from tests.support.scripted import Bench, Script
from unstale.core import ops
from unstale.core.calls import read_served
from unstale.core.context import Surroundings, enter, leave, loading, surroundings
from unstale.core.frame import Frame
from unstale.core.many import read_many
from unstale.core.read import read
from unstale.core.record import Record, Stamp
from unstale.core.write import write
from unstale.loading import observe

KEY = "k:1"


class Open:
    """A transaction that has changed some scopes."""

    over = False

    def __init__(self, *scopes: str) -> None:
        self.scopes = set(scopes)

    def touches(self, scopes: Iterable[str]) -> bool:
        return not self.scopes.isdisjoint(scopes)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


@pytest.fixture
def transaction() -> Iterator[Open]:
    """Give a transaction around the test, which has changed nothing yet."""
    one = Open()
    enter(one)
    yield one
    leave(one)
    assert surroundings.get() is None


def looking_back(stamp: Stamp | None, view_from: float, value: object = "old view") -> Callable[[], object]:
    """Give a loader that reads a view from before its load."""

    def load() -> object:
        loading("load").look_back(stamp, view_from)
        return value

    return load


def tagging(scope: str, value: object) -> Callable[[], object]:
    """Give a loader that learns a scope."""

    def load() -> object:
        loading("load").scopes[scope] = None
        return value

    return load


def begun(bench: Bench, node: Any, load: Callable[[], object]) -> Script:
    """Begin a read, up to the call of its loader."""
    script = bench.script(read(node, bench.want(KEY, load)))
    script.until(ops.Load)
    return script


# Old views ------------------------------------------------------------------------------------------------------------


def test_h17_a_load_is_stamped_by_its_view(bench: Bench) -> None:
    """A value from a view that was taken before a record is not kept, though its load began after that record."""
    node = bench.node()
    stamp, view_from = node.stamp(), bench.now
    bench.now += 1
    bench.publish(KEY)
    bench.hear(node)
    served = bench.run(read(node, bench.want(KEY, looking_back(stamp, view_from))))
    assert (served.why, served.stamp) == ("loaded, not kept: overtaken by a record", stamp)
    assert bench.run(read(node, bench.want(KEY))) is None


def test_h35_the_life_of_a_load_begins_with_its_view(bench: Bench) -> None:
    """What is loaded from an old view lives and is proven from the moment of the view on; too old, it is not kept."""
    node = bench.node()
    stamp = node.stamp()
    bench.now += 50
    bench.hear(node)
    served = bench.run(read(node, bench.want(KEY, looking_back(stamp, bench.now - 40))))
    assert (served.proven, served.fresh_until) == (bench.now - 40, bench.now + 20)
    served = bench.run(read(node, bench.want("k:2", looking_back(stamp, bench.now - 60))))
    assert served.why == "loaded, not kept: no life"


def test_h05_a_reader_does_not_take_a_view_from_before_it_arrived(bench: Bench) -> None:
    """A flight that began after a reader arrived is not for that reader, if its view is older and a record came since.

    1. A transaction takes its view. 2. A record ends the key, and a reader arrives. 3. A load inside the transaction
    begins. 4. The reader boards it, and what it brings was ended before the reader came.
    """
    node = bench.node()
    stamp, view_from = node.stamp(), bench.now
    bench.publish(KEY)
    bench.hear(node)
    bench.now += 1
    leader = begun(bench, node, looking_back(stamp, view_from))
    reader = bench.script(read(node, bench.want(KEY, lambda: "new")))
    reader.until(ops.Wait)
    assert leader.end().value == "old view"
    assert reader.end().value == "new"


def test_h17_an_older_view_counts_and_a_later_one_does_not(bench: Bench) -> None:
    """Of several views the oldest dates a load; views of two generations, or one without a stamp, keep it apart."""
    frame = Frame((KEY,), None)
    for position, at in ((5, 2.0), (3, 1.0), (4, 3.0)):
        frame.look_back(Stamp("g1", position), at)
    assert (frame.oldest, frame.view_from, frame.alone) == (Stamp("g1", 3), 1.0, False)
    frame.look_back(Stamp("g2", 9), 4.0)
    assert frame.alone
    node = bench.node()
    served = bench.run(read(node, bench.want(KEY, looking_back(None, bench.now))))
    assert (served.why, served.stamp) == ("loaded, not kept: not committed", None)


def test_h17_a_load_of_many_is_stamped_by_its_view(bench: Bench) -> None:
    """What one call loads for many keys is dated back by the view of that call."""
    node = bench.node()
    stamp = node.stamp()
    bench.publish("k:1")
    bench.hear(node)
    wants = [bench.want("k:1"), bench.want("k:2")]
    served = bench.run(read_many(node, wants, lambda keys: looking_back(stamp, 999.0, dict.fromkeys(keys, 1))()))
    assert {key: one.stamp for key, one in served.items()} == {"k:1": stamp, "k:2": stamp}
    assert [bench.run(read(node, bench.want(key))) is None for key in ("k:1", "k:2")] == [True, False]


# Own changes ----------------------------------------------------------------------------------------------------------


def test_h17_own_changes_are_not_hidden_by_the_cache(bench: Bench, transaction: Open) -> None:
    """Who has changed a key, or a scope of its entry, loads past the cache; other keys are served from it."""
    node = bench.node()
    tagged = bench.want(KEY, lambda: "committed", scopes=("tag",))
    bench.run(read(node, tagged))
    for scope in ("tag", "learnt"):
        bench.run(read(node, bench.want(f"of:{scope}", lambda: "committed", scopes=(scope,))))
    transaction.scopes.add("tag")
    served = bench.run(read(node, bench.want(KEY, lambda: "mine", scopes=("tag",))))
    assert (served.value, served.why) == ("mine", "loaded past the cache: a transaction here has changed it")
    assert bench.run(read(node, bench.want("of:tag", tagging("tag", "mine")))).value == "mine"
    assert bench.run(read(node, bench.want("of:learnt", lambda: "mine"))).value == "committed"
    assert bench.run(read(node, bench.want("of:tag"))) is None
    assert bench.run(read(node, bench.want("of:nothing"))) is None


def test_h01_what_is_not_committed_reaches_nobody_else(bench: Bench, transaction: Open) -> None:
    """What a load inside of a writing transaction saw is neither kept nor given to whoever waits for that load."""
    node = bench.node()
    transaction.scopes.add(KEY)
    leader = begun(bench, node, lambda: "not committed")
    transaction.scopes.clear()
    reader = bench.script(read(node, bench.want(KEY, lambda: "committed")))
    reader.until(ops.Wait)
    transaction.scopes.add(KEY)
    served = leader.end()
    assert (served.value, served.why) == ("not committed", "loaded past the cache: a transaction here has changed it")
    transaction.scopes.clear()
    assert reader.end().value == "committed"
    assert bench.run(read(node, bench.want(KEY))).value == "committed"


def test_h01_a_view_of_what_is_not_committed_is_not_kept(bench: Bench, transaction: Open) -> None:
    """A load around one that saw what is not committed is kept apart as well."""
    node = bench.node()
    outer = begun(bench, node, lambda: "outer")
    transaction.scopes.add("part:1")
    inner = bench.script(read(node, bench.want("part:1", lambda: "not committed")), inside=outer)
    assert inner.end().value == "not committed"
    assert outer.end().why == "loaded, not kept: not committed"


def test_h17_own_changes_among_many_keys(bench: Bench, transaction: Open) -> None:
    """Of many keys those that a transaction here has changed are loaded past the cache, and no others."""
    node = bench.node()

    def all_of(value: str) -> Callable[[list[str]], dict[str, str]]:
        return lambda keys: dict.fromkeys(keys, value)

    def wants() -> list[Any]:
        return [bench.want("k:1"), bench.want("k:2"), bench.want("k:3", scopes=("tag",))]

    for scopes in ((), ("k:1",), ("k:1", "k:2", "k:3")):
        transaction.scopes.update(scopes)
        served = bench.run(read_many(node, wants(), all_of(f"seen {len(scopes)}")))
        values = {key: one.value for key, one in served.items()}
        assert values == {f"k:{n}": f"seen {len(scopes) if f'k:{n}' in scopes else 0}" for n in (1, 2, 3)}
    transaction.scopes.clear()
    with contextlib.suppress(KeyError):
        node.table.cells["k:2"].scopes = ("learnt",)
    transaction.scopes.add("learnt")
    served = bench.run(read_many(node, wants(), all_of("mine")))
    assert [served[f"k:{n}"].value for n in (1, 2, 3)] == ["seen 0", "mine", "seen 0"]


def test_h01_a_write_that_is_not_committed_is_not_cached(bench: Bench, transaction: Open) -> None:
    """A write-through whose own transaction is still open caches nothing: it may be rolled back."""
    node = bench.node()
    transaction.scopes.add(KEY)
    record = Record("w", (KEY,))
    assert bench.run(write(node, bench.want(KEY), lambda: "mine", record)).value == "mine"
    transaction.scopes.clear()
    assert bench.run(read(node, bench.want(KEY))) is None


def test_h16_a_write_in_an_old_view_is_not_cached(bench: Bench) -> None:
    """A writer that has read a view from before another's record does not cache what it made of that."""
    node = bench.node()
    stamp = node.stamp()
    bench.publish(KEY)
    bench.hear(node)
    record = Record("w", (KEY,))
    assert bench.run(write(node, bench.want(KEY), looking_back(stamp, 999.0), record)).value == "old view"
    assert bench.run(read(node, bench.want(KEY))) is None


# What is around -------------------------------------------------------------------------------------------------------


def test_a_transaction_outlives_the_block_that_it_began_in() -> None:
    """A transaction that begins in a block of observers is still seen after it, and one that ends there is not."""
    one, other = Open("a"), Open("b")
    with observe():
        enter(one)
        enter(one)
        enter(other)
        leave(other)
        leave(other)
    assert surroundings.get() == Surroundings(None, (), (one,))
    with observe():
        leave(one)
    assert surroundings.get() is None
    leave(one)


def test_h27_what_ended_elsewhere_leaves_with_the_next() -> None:
    """A transaction that was published in the background is in no context any more once another one comes or goes."""
    ended, one, other = Open("a"), Open("b"), Open("c")
    enter(ended)
    ended.over = True
    enter(one)
    around = surroundings.get()
    assert around is not None
    assert around.transactions == (one,)
    one.over = True
    enter(other)
    leave(other)
    assert surroundings.get() is None


def test_h17_when_a_position_was_the_newest(bench: Bench) -> None:
    """A view of a position is as old as the last moment at which nothing later was applied; before all: unknown."""
    node = bench.node()
    moments = []
    for _ in range(3):
        bench.now += 10
        moments.append(bench.now)
        bench.publish("a")
        bench.hear(node)
    with node.lock:
        assert [node.left_at(position) for position in (-1, 0, 1, 2, 3)] == [None, 1000.0, *moments]


@pytest.mark.parametrize("how", [{"replica_lag": 5}, {}])
def test_h17_what_holds_an_old_part_is_as_old(bench: Bench, how: dict[str, Any]) -> None:
    """A load without lag may be made of what a replica that lags shows, or an old view: it is stamped as that is."""
    node = bench.node()
    node.keep_history(5)
    bench.now += 60
    bench.hear(node)
    before = node.stamp()
    bench.publish("part")
    bench.hear(node)
    bench.now += 1
    load = (lambda: "old view") if how else looking_back(before, bench.now - 2)
    whole = bench.script(read(node, bench.want("whole", lambda: "of old parts")))
    whole.until(ops.Load)
    part = bench.script(read_served(node, bench.want("part", load, **how)), inside=whole)
    part.end()
    whole.perform()
    whole.end()
    assert part.value.why == "loaded, not kept: overtaken by a record"
    assert whole.value.why == "loaded, not kept: overtaken by a record"
    assert whole.value.view_from <= bench.now - 2, "who waited for it since then may not have it (H5)"
    assert node.table.cells == {}


@pytest.mark.parametrize("ours", [True, False])
def test_h33_what_nobody_can_judge_is_for_those_who_came_before_it(bench: Bench, *, ours: bool) -> None:
    """Who comes while a load is under way has its result if the log tells of its parts, which another's does not."""
    node, other = bench.node(), Bench()
    elsewhere = other.node()
    other.log.generation = elsewhere.generation = "elsewhere"
    whole = bench.script(read(node, bench.want("whole", lambda: "first")))
    whole.until(ops.Load)
    bench.now += 1
    second = bench.script(read(node, bench.want("whole", lambda: "second")))
    second.until(ops.Wait)
    scene, at = (bench, node) if ours else (other, elsewhere)
    scene.script(read_served(at, scene.want("part", lambda: "p")), inside=whole).end()
    whole.perform()
    whole.end()
    second.end()
    assert (whole.value.value, second.value.value) == ("first", "first" if ours else "second")
