from __future__ import annotations

import threading
from collections import deque
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.core.ops import Wait
from unstale.core.origin import Origin
from unstale.core.signal import Signal
from unstale.errors import DurationError, OriginBusyError, PolicyError

DEADLINE_S = 20.0


class Load:
    """One load that asks an origin for a place; its waiting ends as the test says."""

    def __init__(self, origin: Origin) -> None:
        self.flow: Coroutine[Any, Any, None] = origin.enter()
        self.wait = self.flow.send(None)
        assert isinstance(self.wait, Wait)

    @property
    def admitted(self) -> bool:
        """Its turn has come."""
        return bool(self.wait.signal.fired)

    def go_on(self, *, fired: bool) -> None:
        """End the wait with this answer: it enters."""
        with pytest.raises(StopIteration):
            self.flow.send(fired)

    def refuse(self) -> OriginBusyError:
        """End the wait in vain: it raises."""
        with pytest.raises(OriginBusyError) as caught:
            self.flow.send(False)  # noqa: FBT003 - the answer to the op
        return caught.value

    def cancel(self) -> None:
        """Cancel the wait."""
        with pytest.raises(KeyboardInterrupt):
            self.flow.throw(KeyboardInterrupt())


def places(origin: Origin) -> int:
    """Give the number of free places."""
    return len(origin._places)


def test_h25_no_more_loads_than_the_limit() -> None:
    """As many loads as the limit says are admitted at once; the next one when one of them leaves."""
    origin = Origin(2, wait="3s")
    first, second, third = Load(origin), Load(origin), Load(origin)
    assert [load.admitted for load in (first, second, third)] == [True, True, False]
    assert (origin.waiting, third.wait.timeout_s) == (1, 3.0)
    first.go_on(fired=True)
    origin.leave()
    assert (third.admitted, origin.waiting) == (True, 0)


def test_loads_are_admitted_in_the_order_of_arrival() -> None:
    """Nobody overtakes: each place that becomes free goes to whoever has waited longest."""
    origin = Origin(1)
    loads = [Load(origin) for _ in range(4)]
    for index in range(4):
        assert [load.admitted for load in loads] == [number <= index for number in range(4)]
        loads[index].go_on(fired=True)
        origin.leave()
    assert (places(origin), origin.waiting) == (1, 0)


def test_h26_a_load_that_waits_too_long_is_refused() -> None:
    """After the wait the load fails with an error that says what to do, and leaves the queue."""
    origin = Origin(1, wait="250ms", name="orders database")
    Load(origin).go_on(fired=True)
    late = Load(origin)
    error = late.refuse()
    assert error.message == "1 loads of orders database were under way for 0.25 s"
    assert "Origin(limit=...)" in error.hint
    assert origin.waiting == 0
    origin.leave()
    assert places(origin) == 1


def test_a_turn_that_comes_as_the_wait_ends_is_taken() -> None:
    """1. the wait ends; 2. the place becomes free; 3. the load is told that it waited in vain: it has the place."""
    origin = Origin(1)
    first, late = Load(origin), Load(origin)
    first.go_on(fired=True)
    origin.leave()
    late.go_on(fired=False)
    assert places(origin) == 0
    origin.leave()
    assert places(origin) == 1


def test_h24_a_cancelled_load_leaves_the_queue() -> None:
    """A load cancelled while it waits is passed over."""
    origin = Origin(1)
    first, gone, last = Load(origin), Load(origin), Load(origin)
    first.go_on(fired=True)
    gone.cancel()
    assert origin.waiting == 1
    origin.leave()
    assert (gone.admitted, last.admitted) == (False, True)


def test_h24_a_load_cancelled_as_its_turn_comes_passes_the_place_on() -> None:
    """1. the place becomes free and is given to a load; 2. that load is cancelled before it knows: the next has it."""
    origin = Origin(1)
    first, gone, last = Load(origin), Load(origin), Load(origin)
    first.go_on(fired=True)
    origin.leave()
    assert gone.admitted
    gone.cancel()
    assert last.admitted
    last.go_on(fired=True)
    origin.leave()
    assert places(origin) == 1


class Emptied(deque[Signal]):
    """A queue whose last waiter gives up between the look at the queue and the taking of his turn."""

    def popleft(self) -> Signal:
        self.clear()
        return super().popleft()


def test_a_place_is_not_lost_to_a_waiter_who_gives_up() -> None:
    """1. a place is taken for a waiter; 2. the waiter leaves the queue; 3. the place is put back."""
    origin = Origin(1)
    origin._queue = Emptied([Signal()])
    origin._admit()
    assert (places(origin), origin.waiting) == (1, 0)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    """An origin that could never be asked is an error that says what to write."""
    with pytest.raises(PolicyError, match=f"limit={limit} could never be asked") as caught:
        Origin(limit)
    assert "Origin(limit=20)" in caught.value.hint


def test_the_wait_is_a_duration() -> None:
    """The wait is read like every other duration."""
    assert Origin(1, wait="1m30s").wait_s == 90.0
    with pytest.raises(DurationError, match="wait"):
        Origin(1, wait="soon")


@settings(deadline=None)
@given(st.integers(1, 3), st.lists(st.sampled_from(["enter", "leave", "cancel", "late", "go"]), max_size=40), st.data())
def test_places_are_neither_lost_nor_made(limit: int, steps: list[str], data: st.DataObject) -> None:
    """Whatever becomes of the loads, the places taken never exceed the limit, and in the end all are free again."""
    origin, inside, waiting = Origin(limit), 0, list[Load]()
    for step in steps:
        if step == "enter":
            waiting.append(Load(origin))
        elif step == "leave" and inside:
            inside -= 1
            origin.leave()
        elif step in {"cancel", "late", "go"} and waiting:
            load = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            if step == "cancel":
                load.cancel()
            elif load.admitted:
                load.go_on(fired=step == "go")
                inside += 1
            elif step == "late":
                load.refuse()
            else:
                waiting.insert(0, load)
        taken = inside + sum(load.admitted for load in waiting)
        assert taken + places(origin) == limit
        assert origin.waiting == sum(not load.admitted for load in waiting)
        assert not (origin.waiting and places(origin))
    for load in waiting:
        load.cancel()
    for _ in range(inside):
        origin.leave()
    assert (places(origin), origin.waiting) == (limit, 0)


def test_h25_threads_keep_to_the_limit() -> None:
    """With many threads at it, no more loads than the limit are inside at once, and no place is lost."""
    origin = Origin(3, wait=DEADLINE_S)
    inside, most, guard = 0, 0, threading.Lock()

    def enter() -> None:
        flow = origin.enter()
        wait, turn = flow.send(None), threading.Event()
        wait.signal.watch(turn.set)
        with pytest.raises(StopIteration):
            flow.send(turn.wait(wait.timeout_s))

    def work() -> None:
        nonlocal inside, most
        for _ in range(100):
            enter()
            with guard:
                inside += 1
                most = max(most, inside)
            with guard:
                inside -= 1
            origin.leave()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 3
    assert (places(origin), origin.waiting) == (3, 0)
