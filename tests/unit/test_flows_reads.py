from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import unstale
from tests.support.scripted import CODEC, Bench, KilledError
from unstale.core import ops
from unstale.core.calls import read_served, read_values
from unstale.core.context import Read
from unstale.core.entry import Entry, encode_entry
from unstale.core.explain import explain
from unstale.core.fill import lowered
from unstale.core.frame import Frame
from unstale.core.node import Node
from unstale.core.read import due_early, read, refresh
from unstale.core.record import Record, Stamp
from unstale.core.write import write
from unstale.errors import UnavailableError, UnprovenError

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


def stored(bench: Bench, position: int, *, generation: str = "g1", kept_s: float = 0.0) -> None:
    """Put an entry into the store, as another node would."""
    entry = Entry(KEY, Stamp(generation, position), ("k",), CODEC.encode("stored"), kept_s=kept_s)
    bench.store.store((ops.Item(f"{CODEC.shape}|{KEY}", encode_entry(entry), 60.0 + kept_s),))


def late(bench: Bench) -> Node:
    """Give a node whose floor lies above position 1, where an entry that is in the store was loaded."""
    bench.publish("other")
    stored(bench, 1)
    for _ in range(3):
        bench.publish("other")
    bench.log.trim(1)
    node = bench.node()
    assert node.marks.floor == 3
    return node


@pytest.mark.parametrize("grace", [0, 5])
@pytest.mark.parametrize("source", ["load", "store", "write"])
def test_moments_that_are_equal_are_one_number(bench: Bench, source: str, grace: int) -> None:
    """An entry keeps one number for its deadline, the end of its life and that of its grace, where they are equal."""
    node = bench.node()
    if source == "store":
        stored(bench, 0, kept_s=float(grace))
    want = bench.want(KEY, lambda: "new", scopes=("k",), grace=grace)
    if source == "write":
        bench.run(write(node, want, lambda: "new", Record(bench.new_id(), (KEY,))))
    else:
        assert bench.run(read(node, want)).source == source
    cell = node.table.cells[KEY]
    assert cell.deadline is cell.fresh_until
    assert (cell.until is cell.fresh_until) == (grace == 0)
    assert cell.until == cell.fresh_until + grace


# What the store has -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"junk", CODEC.encode(1)[:-1] + b"\xc1", b"\x81\xa1x"])
def test_h29_a_value_that_cannot_be_read_is_a_miss(bench: Bench, data: bytes) -> None:
    """An entry whose value is not an encoding of the type is counted, and loaded anew."""
    node = bench.node()
    entry = Entry(KEY, Stamp("g1", 0), (), data)
    bench.store.store((ops.Item(f"{CODEC.shape}|{KEY}", encode_entry(entry), 60.0),))
    assert bench.run(read(node, bench.want(KEY, lambda: "loaded"))).value == "loaded"
    assert node.counts["undecodable"] == 1


@pytest.mark.parametrize("scope", [KEY, "k", "*", "other"])
def test_h03_a_stored_entry_is_judged_by_each_scope_that_may_end_it(bench: Bench, scope: str) -> None:
    """By its key, its namespace and `*`, and by nothing else, where the node's own marks tell."""
    node = bench.node(max_staleness_s=60.0)
    stored(bench, 0)
    bench.publish(scope)
    bench.hear(node)
    served = bench.run(read(node, bench.want(KEY)))
    assert (None if served is None else served.why) == ("judged by local marks" if scope == "other" else None)


def test_h13_an_entry_older_than_the_node_is_judged_by_the_stores_marks(bench: Bench) -> None:
    """A node that joined later asks the store's marks, once: the entry's stamp is raised to what it had applied."""
    node = late(bench)
    served = bench.run(read(node, bench.want(KEY)))
    assert (served.value, served.why, served.cell.position) == ("stored", "judged by the store's marks", 4)
    bench.broken[ops.ReadMarks] = UnavailableError("no marks")
    assert bench.run(read(node, bench.want(KEY))).source == "l1"
    bench.publish("k")
    bench.hear(node)
    assert bench.run(read(node, bench.want(KEY))) is None


def test_h13_each_of_many_is_judged_by_the_stores_marks(bench: Bench) -> None:
    """A read of many keys asks the store's marks for those of its entries that are older than the node."""
    node = late(bench)
    assert bench.run(read_values(node, [bench.want(KEY), bench.want("none")], lambda _keys: {})) == {KEY: "stored"}
    assert bench.run(read(node, bench.want(KEY))).source == "l1"


@pytest.mark.parametrize("scope", [KEY, "k", "*"])
def test_h13_an_older_entry_that_was_ended_is_a_miss(bench: Bench, scope: str) -> None:
    """What ended the entry before the node joined is known to the store's marks."""
    stored(bench, 0)
    bench.publish(scope)
    for _ in range(3):
        bench.publish("other")
    bench.log.trim(1)
    node = bench.node()
    assert bench.run(read(node, bench.want(KEY))) is None


def test_h34_the_grace_of_a_soft_record_from_before_is_unknown(bench: Bench) -> None:
    """An entry that was ended softly before the node joined is a miss: nobody knows when its grace began."""
    stored(bench, 0, kept_s=3600)
    bench.publish("k", soft=True)
    for _ in range(3):
        bench.publish("other")
    bench.log.trim(1)
    node = bench.node()
    want = bench.want(KEY, lambda: "loaded", grace="1h")
    assert bench.run(read(node, want)).value == "loaded"


@pytest.mark.parametrize("event", ["record", "discontinuity"])
def test_h33_what_comes_while_the_marks_travel_counts(bench: Bench, event: str) -> None:
    """A record applied, or a discontinuity crossed, while the store's marks travel: the entry is a miss."""
    node = late(bench)
    script = bench.script(read(node, bench.want(KEY)))
    script.until(ops.ReadMarks)
    reply = bench.log.read_marks((KEY, "k", "*"))
    if event == "record":
        bench.publish("k")
    else:
        bench.log.begin("g2")
    bench.hear(node)
    assert script.answer(reply).end() is None
    assert node.table.cells == {}


def test_h33_a_discontinuity_while_the_bytes_travel(bench: Bench) -> None:
    """Bytes that were asked for in another generation are a miss."""
    stored(bench, 0)
    node = bench.node()
    script = bench.script(read(node, bench.want(KEY)))
    found = bench.perform(script.until(ops.Fetch))
    bench.log.begin("g2")
    bench.hear(node)
    assert script.answer(found).end() is None


def test_h14_marks_that_may_have_been_evicted_prove_nothing(bench: Bench) -> None:
    """From a store that drops marks by itself, a missing mark means that nothing is known: a miss."""
    node = late(bench)
    bench.log.certain = False
    assert bench.run(read(node, bench.want(KEY))) is None


def test_marks_that_do_not_cover_the_entry_prove_nothing() -> None:
    """Marks of another engine's log count only within the range of positions that they cover."""
    bench = Bench(two=True)
    for _ in range(4):
        bench.publish("other")
    bench.log.trim(1)
    node = bench.node()
    stored(bench, 1)
    assert bench.run(read(node, bench.want(KEY))) is None, "no marks were written yet"
    bench.store.extend_marks("g1", 3, 4, {})
    assert bench.run(read(node, bench.want(KEY))) is None, "they begin above its stamp"
    bench.store.extend_marks("g1", 1, 4, {})
    assert bench.run(read(node, bench.want(KEY))).value == "stored"


# With a lapsed lease ------------------------------------------------------------------------------------------------


def lapsed(bench: Bench, **how: Any) -> Node:
    """Give a node that holds an entry, and has heard nothing for longer than its bound."""
    node = bench.node(**how)
    bench.run(read(node, bench.want(KEY, lambda: "cached", scopes=("k",), grace="1h")))
    bench.now += 10
    return node


def test_h08_h11_only_a_proven_server_vouches_for_an_entry(bench: Bench) -> None:
    """With a lapsed lease the marks of a server that may have been deposed are no proof: the read loads."""
    node = lapsed(bench)
    bench.log.proven = False
    assert bench.run(read(node, bench.want(KEY, lambda: "loaded"))).value == "loaded"


def test_h19_behind_a_relay_marks_are_no_proof(bench: Bench) -> None:
    """Where a relay tells the log of changes, what the marks do not know proves nothing: the read loads."""
    node = lapsed(bench, relayed=True)
    assert bench.run(read(node, bench.want(KEY, lambda: "loaded"))).value == "loaded"


@pytest.mark.parametrize("event", ["replaced", "discontinuity"])
def test_h33_an_entry_that_goes_while_its_marks_travel(bench: Bench, event: str) -> None:
    """A resident entry that was replaced, or whose generation is over, is not served on the marks of before."""
    node = lapsed(bench)
    script = bench.script(read(node, bench.want(KEY)))
    reply = bench.perform(script.until(ops.ReadMarks))
    bench.store.delete((f"{CODEC.shape}|{KEY}",))
    if event == "replaced":
        with node.lock:
            node.table.clear()
    else:
        node.reset(ops.Identity("g2", 0, ""), bench.now)
    assert script.answer(reply).end() is None


def test_h34_so_it_is_for_a_node_that_has_read_the_record_back(bench: Bench) -> None:
    """A node that joins reads back the newest records: of a soft one it knows that it was, and not when."""
    bench.publish("other")
    stored(bench, 1)
    bench.publish("k", soft=True)
    node = bench.node()
    assert node.marks.floor == 0, "its own marks judge the entry"
    assert bench.run(read(node, bench.want(KEY, lambda: "loaded", scopes=("k",), grace=60))).value == "loaded"


def test_a_softly_ended_entry_is_revalidated_as_such(bench: Bench) -> None:
    """With a lapsed lease the marks may tell of a soft record: the entry is stale from then on, within its grace."""
    node = lapsed(bench)
    bench.publish("k", soft=True)
    served = bench.run(read(node, bench.want(KEY, lambda: "loaded", grace="1h")))
    assert (served.value, served.stale, served.why) == ("cached", True, "revalidated")
    bench.run_spawned()
    assert bench.run(read(node, bench.want(KEY, grace="1h"))).value == "loaded"


def test_h26_what_is_done_without_proof_is_the_policys_choice(bench: Bench) -> None:
    """With a lapsed lease and nothing that vouches: refuse, serve stale within grace and flagged, or load."""
    node = lapsed(bench)
    bench.store.delete((f"{CODEC.shape}|{KEY}",))
    how = {"revalidate": False, "grace": "1h"}
    with pytest.raises(UnprovenError):
        bench.run(read(node, bench.want(KEY, lambda: "loaded", unproven="refuse", **how)))
    stale = bench.run(read(node, bench.want(KEY, lambda: "loaded", unproven="stale", **how)))
    assert (stale.value, stale.stale, stale.proven) == ("cached", True, None)
    bench.now += 3660
    served = bench.run(read(node, bench.want(KEY, lambda: "loaded", unproven="stale", **how)))
    assert served.value == "loaded", "its grace is over"


# The store fails ----------------------------------------------------------------------------------------------------


def test_when_the_store_fails_the_policy_decides(bench: Bench) -> None:
    """A store that does not answer: load (the default), serve what is resident within its grace, or refuse."""
    node = bench.node()
    bench.run(read(node, bench.want(KEY, lambda: "cached", ttl=5, stale_if_error="1h")))
    bench.now += 6
    bench.hear(node)
    bench.broken[ops.Fetch] = UnavailableError("no store")
    how = {"ttl": 5, "stale_if_error": "1h"}
    with pytest.raises(UnavailableError):
        bench.run(read(node, bench.want(KEY, lambda: "loaded", store_out="refuse", **how)))
    stale = bench.run(read(node, bench.want(KEY, lambda: "loaded", store_out="stale", **how)))
    assert (stale.value, stale.stale) == ("cached", True)
    assert bench.run(read(node, bench.want(KEY, lambda: "loaded", store_out="load", **how))).value == "loaded"


# Tickets ------------------------------------------------------------------------------------------------------------


def test_h37_what_a_load_reads_answers_its_ticket(bench: Bench) -> None:
    """A read inside a load is as fresh as that load: the later of two tickets counts; of two generations, none."""
    node = bench.node()
    reached = bench.publish("other")
    bench.hear(node)
    bench.run(read(node, bench.want("part:1", lambda: "old")))
    ahead = Stamp("g1", 99)
    for whole, part, source in (
        (reached, None, "l1"), (reached, Stamp("g1", 0), "l1"), (Stamp("g1", 0), ahead, "load"), (ahead, None, "load"),
        (ahead, reached, "load"), (reached, Stamp("g0", 0), "load"), (None, None, "l1"),
    ):  # fmt: skip
        outer = bench.script(read(node, bench.want(KEY, lambda: "whole", after=whole, anew=True, ticket_wait=0)))
        outer.until(ops.Load)
        want = bench.want("part:1", lambda: "new", after=part, ticket_wait=0)
        assert bench.script(read(node, want), inside=outer).end().source == source
        outer.end()


# Refreshing ---------------------------------------------------------------------------------------------------------


def test_h24_a_reader_killed_while_it_starts_a_refresh(bench: Bench) -> None:
    """A refresh that could not be started is not thought to be under way."""
    node = bench.node()
    script = bench.script(refresh(node, bench.want(KEY, lambda: 1)))
    assert node.refreshing == {KEY}
    script.until(ops.Spawn)
    assert isinstance(script.fail(KilledError()).error, KilledError)
    assert node.refreshing == set()


# What a result depends on -------------------------------------------------------------------------------------------


def a_read(position: int, generation: str = "g1") -> Read:
    """Give a stale read."""
    return Read(
        "part", "store", Stamp(generation, position), 0.0, stale=True, why="", scopes=("part",), remaining_s=1.0
    )


def test_a_result_of_stale_parts_has_the_oldest_of_their_stamps() -> None:
    """What is made of stale parts is no fresher than they: the record that ended one of them ends it too."""
    frame = Frame(("k",), None)
    for position in (7, 5, 6):
        frame.inherit(a_read(position), 0.0)
    assert frame.oldest == Stamp("g1", 5)
    assert lowered(Stamp("g1", 9), frame) == Stamp("g1", 5)
    assert lowered(Stamp("g1", 4), frame) == Stamp("g1", 4)
    assert lowered(Stamp("g2", 9), frame) is None
    assert lowered(None, frame) is None
    assert not frame.skipped
    assert not frame.foreign


def test_a_result_of_parts_of_two_generations_is_not_kept() -> None:
    """Stamps of two generations cannot be compared: what is made of both is not kept."""
    frame = Frame(("k",), None)
    frame.inherit(a_read(7), 0.0)
    frame.inherit(a_read(7, "g2"), float("-inf"))
    assert frame.skipped
    assert frame.foreign


# Explaining ---------------------------------------------------------------------------------------------------------


def other_generation(bench: Bench) -> None:
    """Begin a new generation."""
    bench.log.begin_generation("g2")


def life_over(bench: Bench) -> None:
    """Let the life of the entry end."""
    bench.now += 61


def trimmed_marks(bench: Bench) -> None:
    """Let the marks of a foreign log begin above the stamp."""
    bench.store.covered = ("g1", 5, 9)


@pytest.mark.parametrize(
    ("event", "two", "why"),
    [
        (other_generation, False, "generation"),
        (life_over, False, "life is over"),
        (trimmed_marks, True, "reach back"),
    ],
)
def test_why_an_entry_is_not_servable_is_told(event: Callable[[Bench], None], two: bool, why: str) -> None:  # noqa: FBT001 - a parameter
    """It is told whether its generation is over, its life, or the marks do not reach back to its stamp."""
    bench = Bench(two=two)
    node = bench.node()
    stored(bench, 0, kept_s=3600)
    event(bench)
    known = bench.run(explain(node, bench.want(KEY)))
    assert (known.servable, known.stored) == (False, True)
    assert why in known.why


def test_observers_hear_of_reads_that_found_nothing(bench: Bench) -> None:
    """A look that finds nothing is recorded as such."""
    node = bench.node()
    with unstale.observe() as reads:
        assert bench.run(read_served(node, bench.want(KEY))) is None
    assert [(one.key, one.source, one.scopes) for one in reads] == [(KEY, "none", ())]


@pytest.mark.parametrize(("deadline", "due"), [(5.0, False), (-5.0, True)])
def test_an_early_refresh_starts_at_the_moment_that_was_drawn(bench: Bench, deadline: float, *, due: bool) -> None:
    """Before that moment an entry is served as it is; then one reader refreshes it, once."""
    node = bench.node()
    now = node.clock()
    cell: Any = SimpleNamespace(deadline=now + deadline, fresh_until=now + 10.0)
    want = bench.want("k:1", lambda: None)
    assert due_early(node, want, cell) is due
    assert due_early(node, want, cell) is False
