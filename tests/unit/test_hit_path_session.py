from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import unstale
from tests.support.stage import Stage
from unstale.core.context import Surroundings, lets, surroundings
from unstale.core.frame import Frame
from unstale.core.publish import unpublished
from unstale.core.record import Record, Stamp
from unstale.core.session import Tickets
from unstale.testing.world import NoLock


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give a node whose time and tail stand still."""
    one = Stage(name="shop")
    yield one
    one.close()


@pytest.fixture
def tickets(stage: Stage) -> Iterator[Tickets]:
    """Give the tickets of a session around the test."""
    one = Tickets(NoLock())
    surroundings.set(Surroundings(tickets=one))
    stage.cache.ticket()
    yield one
    surroundings.set(None)


def functions(stage: Stage) -> tuple[Callable[..., Any], ...]:
    """Give calls of each path: of one argument in both colours, and of two."""

    @stage.cache.cached("p:{number}")
    def one(number: int) -> int:
        return stage.loaded(number)

    @stage.cache.cached("q:{number}")
    async def other(number: int) -> int:
        return stage.loaded(number)

    @stage.cache.cached("r:{number}:{more}")
    def two(number: int, more: int = 2) -> int:
        return stage.loaded(number, more)

    return one, other, lambda number: two(number, 3)


def sources(stage: Stage, calls: tuple[Callable[..., Any], ...]) -> set[str]:
    """Call each: how the values came."""
    return {stage.source(call, 1) for call in calls}


def test_a_hit_in_a_session_is_a_hit(stage: Stage, tickets: Tickets) -> None:
    """Within a session that asks for nothing, or for what is applied, hits take no flow; before that they are reads."""
    calls = functions(stage)
    sources(stage, calls)
    assert sources(stage, calls) == {"hit"}
    stage.other_node_ends("other")
    generation = stage.cache.node.generation or ""
    tickets.merge({"shop": (Stamp(generation, 1),), "elsewhere": (Stamp("g", 1),)})
    assert {stage.source(call, 1) for call in calls[:1]} == {"l1"}  # which polls, and so applies it
    assert sources(stage, calls) == {"hit"}
    blocking = calls[0], calls[2]  # what has to be waited for, a coroutine on this stage cannot do
    tickets.merge({"shop": (Stamp("another", 0),)})
    assert stage.source(calls[0], 1) == "load"
    assert sources(stage, blocking) == {"hit"}  # it has taken over what is in force
    tickets.merge({"shop": (Stamp(generation, 2),)})
    assert sources(stage, blocking) == {"load"}


def test_h05_a_hit_is_not_older_than_the_ticket(stage: Stage, tickets: Tickets) -> None:
    """An entry is found; a record is applied that ends it, and so the ticket is reached: the entry is no hit."""
    (one, *_rest) = functions(stage)
    stage.call(one, 1)
    cell = stage.cache.node.table.cells["p:1"]
    assert lets(stage.cache.node, cell)
    tickets.merge({"shop": (Stamp(stage.cache.node.generation or "", 1),)})
    assert not lets(stage.cache.node, cell)
    stage.hear_of("p:1")
    assert not lets(stage.cache.node, cell)
    stage.version = 2
    assert stage.call(one, 1) == 2


def test_h02_nothing_unpublished_is_a_hit(stage: Stage, tickets: Tickets) -> None:
    """While something is left to a relay, an observer is there, or a load is under way, no call takes the short way."""
    calls = functions(stage)
    sources(stage, calls)
    with unstale.observe() as reads:
        assert sources(stage, calls) == {"l1"}
    assert len(reads) == len(calls)
    surroundings.set(Surroundings(Frame((), None), tickets=tickets))
    assert sources(stage, calls) == {"l1"}
    surroundings.set(Surroundings(tickets=tickets))
    unpublished(stage.cache.node, (Record("row", ("p:1",)),))
    assert {stage.source(call, 1) for call in calls[:1]} == {"load"}
    assert {stage.source(call, 1) for call in calls[1:]} == {"l1"}
