from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import unstale
from tests.sim.mutants import mutated
from tests.support.stage import BOUND_S, Stage
from unstale import hitpath
from unstale.core.lease import Lease
from unstale.core.node import Node
from unstale.core.ops import Batch, Identity
from unstale.core.record import Logged, Record, Stamp
from unstale.core.table import Cell


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give a node whose time and tail stand still."""
    with contextlib.closing(Stage()) as one:
        yield one


# The order of the three steps ---------------------------------------------------------------------------------------


class WakingLease(Lease):
    """A lease at which somebody looks: between the steps before and after that look, the tail wakes."""

    __slots__ = ("_value", "wake")

    def __init__(self) -> None:
        self.wake: Callable[[], None] | None = None
        super().__init__()

    @property
    def proven(self) -> float:
        """Wake the tail, then give what it has proven."""
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()
        return self._value

    @proven.setter
    def proven(self, value: float) -> None:
        self._value = value


def one_argument(stage: Stage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Give a function of one argument, and a call of it."""

    @stage.cache.cached("k:{x}")
    def one(x: int) -> int:
        return stage.loaded(x)

    return one, (1,)


def one_argument_later(stage: Stage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Give a coroutine function of one argument, and a call of it."""

    @stage.cache.cached("k:{x}")
    async def one(x: int) -> int:
        return stage.loaded(x)

    return one, (1,)


def two_arguments(stage: Stage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Give a function of two arguments, and a call of it."""

    @stage.cache.cached("k:{x}", ignore=["y"])
    def two(x: int, y: int) -> int:
        return stage.loaded(x, y)

    return two, (1, 2)


def method(stage: Stage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Give a method, and a call of it."""

    class Shop:
        @stage.cache.cached("k:{x}")
        async def one(self, x: int) -> int:
            return stage.loaded(x)

    return Shop().one, (1,)


def one_of_two(stage: Stage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Give a function of two arguments, and a call of it with one."""

    @stage.cache.cached("k:{x}", ignore=["y"])
    def two(x: int, y: int = 2) -> int:
        return stage.loaded(x)

    return two, (1,)


FORMS = (
    (one_argument, "_blocking"),
    (one_argument_later, "_asynchronous"),
    (one_of_two, "_blocking"),
    (two_arguments, "_resident"),
    (method, "_resident"),
)


def wakes_within_a_hit(stage: Stage, form: Callable[..., Any]) -> int:
    """Let a reader fall asleep for a minute just before it looks at its lease, and the tail wake first: what it serves.

    1. The entry is resident. 2. The reader begins, and sleeps. 3. Another node commits version 2 and ends the entry.
    4. A minute later the tail wakes first: it applies that, and renews the lease. 5. The reader goes on.
    """
    stage.cache.node.lease = lease = WakingLease()
    function, args = form(stage)
    assert [stage.call(function, *args) for _ in range(2)] == [1, 1]

    def minute() -> None:
        stage.version = 2
        stage.other_node_ends("k:1")
        stage.clock.advance("1m")
        stage.hear()

    lease.wake = minute
    value: int = stage.call(function, *args)
    assert lease.wake is None, "it looked at the lease"
    return value


@pytest.mark.parametrize(("form", "_builder"), FORMS)
def test_h08_h22_a_reader_that_sleeps_within_a_hit(stage: Stage, form: Callable[..., Any], _builder: str) -> None:
    """A reader that sleeps within the path of a hit serves nothing that was ended before its lease was renewed."""
    assert wakes_within_a_hit(stage, form) == 2


@pytest.mark.parametrize(("form", "builder"), FORMS)
def test_h08_h22_another_order_of_the_steps_would_be_stale(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, form: Callable[..., Any], builder: str
) -> None:
    """If the entry were looked for before the lease, that reader would serve what was ended a minute ago."""
    cell, args = ("cell: Cell | None", "args") if builder == "_resident" else ("cell", "arg")
    _right, wrong = mutated(
        f"unstale.hitpath:{builder}",
        [
            ("now = clock(tick)\n", f"now = clock(tick); early = find({args})\n"),
            (f"{cell} = find({args})", f"{cell} = early"),
        ],
    )
    monkeypatch.setattr(hitpath, builder, wrong)
    assert wakes_within_a_hit(stage, form) == 1


class WatchedLease(Lease):
    """A lease that tells how many entries were resident when a pulse renewed it."""

    node: Node
    resident = 0

    def pulse(self, covers: int) -> None:
        """Note what is resident."""
        self.resident = len(self.node.table)
        super().pulse(covers)


def test_h20_a_pulse_ends_entries_before_it_renews_the_lease() -> None:
    """A pulse of another timeline ends all entries, and only then proves: a hit looks at both without a lock."""
    node = Node("n", clock=lambda: 1.0, random=lambda: 0.5, new_id=str, lock=threading.Lock(), relayed=True)
    lease = WatchedLease(pulsed=True)
    lease.node, node.lease = node, lease
    node.reset(Identity("g", 0, ""), 0.0)
    for position, timeline in ((1, "t1"), (2, "t2")):
        pulse = Record(f"r{position}", (), covers=Stamp("g", position - 1), timeline=timeline)
        prev = node.applied_id
        batch = Batch(Identity("g", position, pulse.id), prev, (Logged(position, prev, pulse),))
        with node.lock:
            node.table.put(Cell("k", "shape", (), 1, position=0, deadline=9.0, fresh_until=9.0, until=9.0, size=1))
        node.apply(batch, Stamp("g", position - 1), prev, 0.5)
    assert len(node.table) == 0
    assert lease.resident == 0


def test_h08_a_lapsed_lease_gives_no_hit(stage: Stage) -> None:
    """Once nothing was heard for as long as the bound, the path of a hit serves nothing; an eventual one does."""

    @stage.cache.cached("k:{x}", revalidate=False)
    def bounded(x: int) -> int:
        return stage.loaded(x)

    @stage.cache.cached("e:{x}", consistency="eventual")
    def eventual(x: int) -> int:
        return stage.loaded(x)

    assert [stage.source(f, 1) for f in (bounded, eventual) for _ in range(2)] == ["load", "hit"] * 2
    stage.clock.advance(BOUND_S * 0.9)
    assert [stage.source(f, 1) for f in (bounded, eventual)] == ["hit", "hit"]
    stage.clock.advance(BOUND_S * 0.1)
    assert [stage.source(f, 1) for f in (bounded, eventual)] == ["load", "hit"]
    stage.hear()
    assert [stage.source(f, 1) for f in (bounded, eventual)] == ["hit", "hit"]
    stage.other_node_ends("*")
    stage.hear()
    assert [stage.source(f, 1) for f in (bounded, eventual)] == ["load", "load"]


def test_a_strong_function_has_no_hits(stage: Stage) -> None:
    """A strong function asks the log for every call: it sees what another node published before the call."""

    @stage.cache.cached("k:{x}", consistency="strong")
    def strong(x: int) -> int:
        return stage.loaded(x)

    assert [stage.source(strong, 1) for _ in range(3)] == ["load", "l1", "l1"]
    stage.other_node_ends("k:1")
    assert stage.source(strong, 1) == "load"


def test_a_function_with_copies_has_no_hits(stage: Stage) -> None:
    """A function whose callers get copies decodes one for each call."""

    @stage.cache.cached("k:{x}", copy=True)
    def copied(x: int) -> list[int]:
        return [stage.loaded(x)]

    assert [stage.source(copied, 1) for _ in range(3)] == ["load", "l1", "l1"]
    assert copied(1) is not copied(1)


# Arguments ----------------------------------------------------------------------------------------------------------


def test_h29_arguments_that_are_equal_and_of_other_types(stage: Stage) -> None:
    """1, True, 1.0 and "1" are four entries, whichever of them is resident, and whichever was called last."""

    @stage.cache.cached("k:{x}")
    def kind(x: Any) -> str:
        stage.loaded(x)
        return type(x).__name__

    @stage.cache.cached("pair:{x}:{y}")
    def kinds(x: Any, y: Any) -> str:
        stage.loaded(x, y)
        return f"{type(x).__name__} {type(y).__name__}"

    values = (1, True, 1.0, "1", b"1", 0, False, 0.0, None, "")
    for _ in range(3):
        for x in values:
            assert [kind(x), kind(x)] == [type(x).__name__] * 2
            for y in values:
                assert [kinds(x, y), kinds(x, y)] == [f"{type(x).__name__} {type(y).__name__}"] * 2
    assert len(stage.loads) == len(values) * (1 + len(values)), "each was loaded once"
    assert [stage.source(kind, x) for x in (1, 1, True, True, 1, 1)] == ["l1", "hit"] * 3
    assert [stage.source(kind, 1.0) for _ in range(2)] == ["l1", "l1"], "0.0 == -0.0, which are one key and two texts"


class Odd(int):
    """A number that claims to equal others."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def test_h29_an_argument_that_claims_to_equal_another(stage: Stage) -> None:
    """Subclasses of plain types never get the entry of the plain value that they claim to equal."""

    @stage.cache.cached("k:{x}")
    def one(x: int) -> int:
        return stage.loaded(x)

    @stage.cache.cached("pair:{x}:{y}")
    def two(x: int, y: int) -> int:
        return stage.loaded(x, y)

    assert (one(7), two(7, 8)) == (1, 1)
    for function, args in ((one, (Odd(7),)), (two, (7, Odd(8))), (two, (Odd(7), 8))):
        with pytest.raises(unstale.errors.KeyArgumentError):
            function(*args)
    assert (stage.source(one, 7), stage.source(two, 7, 8)) == ("hit", "hit")
    assert stage.loads == [7, (7, 8)]


def test_arguments_that_cannot_be_hashed(stage: Stage) -> None:
    """A list is a key like any other; it only takes the longer way. What names nothing is refused."""

    @stage.cache.cached("k:{x}")
    def one(x: Any) -> int:
        return stage.loaded(x)

    @stage.cache.cached("pair:{x}:{y}")
    async def two(x: Any, y: Any) -> int:
        return stage.loaded(x, y)

    @stage.cache.cached("later:{x}")
    async def later(x: Any) -> int:
        return stage.loaded(x)

    calls: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = ((one, ([1, 2],)), (two, ([1], 2)), (later, ([1],)))
    for function, args in calls:
        assert [stage.source(function, *args) for _ in range(3)] == ["load", "l1", "l1"]
    for function, nameless in ((one, ({},)), (two, ({}, 1)), (later, ({},))):
        with pytest.raises(unstale.errors.KeyArgumentError):
            stage.call(function, *nameless)
