"""A connection of an event loop to Redis: for how long it keeps the loop from sleeping while it waits for an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from unstale.engines.redis_stream import TURNS, Stream
from unstale.engines.redis_wire import AWAY, LOOK_AGAIN, NEAR

ANSWER = b":17\r\n"


class Turning:
    """A loop that turns when it is told to: futures are those of a real one."""

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self.soon: deque[Callable[[], object]] = deque()
        self.create_future = real.create_future
        self.written: list[bytes] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have something called in the next turn."""
        self.soon.append(call)

    def call_at(self, _until: float, _call: Callable[[], object]) -> Any:
        """Have something called later: never, here."""
        return contextlib.nullcontext()

    def time(self) -> float:
        """Tell the time."""
        return 0.0

    def write(self, data: bytes) -> None:
        """Take what is sent."""
        self.written.append(data)

    def turn(self) -> bool:
        """Turn once: whether there was something to do, so that it did not sleep."""
        due = len(self.soon)
        for _ in range(due):
            self.soon.popleft()()
        return due > 0


class Scene:
    """A connection of such a loop, and its server."""

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self.loop = Turning(real)
        self.stream = Stream(cast("asyncio.AbstractEventLoop", self.loop), 5.0)
        self.stream._transport = cast("asyncio.Transport", self.loop)

    def ask(self, *, turns: int | None = None) -> int:
        """Ask something that is answered after so many turns, or after the loop has slept: how often it turned."""
        future = self.stream.ask(b"PING", 1)
        turned = 0
        while turned != turns and self.loop.turn():
            turned += 1
        self.stream.data_received(ANSWER)
        assert future.result() == [17]
        while self.loop.turn():
            continue
        return turned


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Give a connection."""
    with contextlib.closing(asyncio.new_event_loop()) as real:
        yield Scene(real)


@pytest.mark.parametrize("turns", [1, 3, TURNS - 1])
def test_what_a_near_server_answers_finds_the_loop_awake(scene: Scene, turns: int) -> None:
    """The loop turns until the answer is there, and then sleeps as it would."""
    for _ in range(NEAR * 2):
        assert scene.ask(turns=turns) == turns
        assert not scene.loop.soon


def test_a_far_server_soon_lets_the_loop_sleep_but_now_and_then(scene: Scene) -> None:
    """After a few late answers the loop sleeps at once; for one answer in many it is kept awake, to see."""
    some = NEAR // AWAY
    turned = [scene.ask() for _ in range(some + 2 * LOOK_AGAIN)]
    assert turned[:some] == [TURNS] * some
    assert [at - some for at in range(some, len(turned)) if turned[at]] == [LOOK_AGAIN - 1, 2 * LOOK_AGAIN - 1]
    for _ in range(LOOK_AGAIN - 1):
        assert scene.ask(turns=1) == 0
    assert scene.ask(turns=3) == 3  # it has come near
    assert scene.ask(turns=2) == 2


def test_a_server_that_answers_late_as_often_as_not_is_far(scene: Scene) -> None:
    """The loop has to be found awake more often than not: to be kept so for nothing costs more than it gains."""
    turned = [scene.ask(turns=1 if number % 2 else None) for number in range(4 * NEAR)]
    assert turned[-NEAR:] == [0] * NEAR


def test_the_next_request_of_the_same_task_goes_on(scene: Scene) -> None:
    """One that asks again and again in the turn of its answer keeps one chain of turns, not one for each request."""
    for _ in range(NEAR * 2):
        future = scene.stream.ask(b"PING", 1)
        assert len(scene.loop.soon) == 1
        scene.loop.turn()
        scene.stream.data_received(ANSWER)
        assert future.result() == [17]


def test_requests_that_come_together_let_the_loop_sleep(scene: Scene) -> None:
    """Where several are under way the loop has other work, or their server has: nobody is kept awake for them."""
    futures = [scene.stream.ask(b"PING", 1) for _ in range(3)]
    turned = 0
    while scene.loop.turn():
        turned += 1
    assert turned == 1
    assert b"".join(scene.loop.written) == b"PING" * 3
    scene.stream.data_received(ANSWER * 3)
    assert [future.result() for future in futures] == [[17]] * 3
    while scene.loop.turn():
        continue
    scene.ask()  # alone again, but the turn before was a crowd's: it leaves at the end of this one
    assert scene.ask(turns=1) == 1
