"""A connection to Redis: when it looks for an answer, and when it sleeps until that comes."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from redis.connection import Connection

from unstale.engines import redis_wire
from unstale.engines.redis_wire import AWAY, LOOK_AGAIN, LOOKS, NEAR, Wire

if not redis_wire.KERNEL_TIMES:
    pytest.skip("only there the kernel keeps the time, and a thread looks before it sleeps", allow_module_level=True)

ANSWER = b":17\r\n"


class Watched(socket.socket):
    """A socket that counts looks and sleeps, and has the other end do something before each."""

    looks: int
    sleeps: int
    before_look: Callable[[int], None]
    before_sleep: Callable[[], None]

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive."""
        if flags:
            self.looks += 1
            self.before_look(self.looks)
        else:
            self.sleeps += 1
            self.before_sleep()
        return super().recv(size, flags)


class Scene:
    """A connection, its other end, and what else is under way beside it."""

    def __init__(self, ours: socket.socket, server: socket.socket) -> None:
        self.server = server
        self.watched = Watched(fileno=ours.detach())
        self.asking: deque[None] = deque()
        self.heard = b""
        self.wire = self.made()

    def made(self) -> Wire:
        """Make the connection."""
        connection: Any = type("Made", (), {"connect": lambda _: None, "_get_socket": lambda _: self.watched})()
        return Wire(cast("Connection", connection), 5.0, self.asking)

    def ask(self, *, look: int | None = None, wait_s: float = 0.0) -> tuple[int, int]:
        """Ask something that is answered before the look of this number, or before the sleep: how many there were."""
        self.watched.looks = self.watched.sleeps = 0
        self.watched.before_look = lambda number: self.answer() if number == look else None
        self.watched.before_sleep = self.answer
        assert self.wire.ask(b"PING", 1, wait_s) == [17]
        return self.watched.looks, self.watched.sleeps

    def answer(self) -> None:
        """Let the server hear what was sent, and answer."""
        self.heard += self.server.recv(1 << 16)
        self.server.send(ANSWER)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Give a connection."""
    pair = socket.socketpair()
    monkeypatch.setattr(socket, "socket", Watched)  # the class of a plain socket, by which the kernel keeps the time
    made = Scene(*pair)
    yield made
    made.watched.close()
    made.server.close()


@pytest.mark.parametrize("look", [1, 5, LOOKS])
def test_what_a_near_server_answers_is_found_before_the_thread_sleeps(scene: Scene, look: int) -> None:
    """The answer is taken at the look at which it is there, and nothing else is received."""
    for _ in range(NEAR * 2):
        assert scene.ask(look=look) == (look, 0)


def test_a_far_server_is_soon_looked_for_no_more_but_now_and_then(scene: Scene) -> None:
    """After a few late answers the thread sleeps at once; one answer in many is looked for, and may be near again."""
    some = NEAR // AWAY
    looks = [scene.ask()[0] for _ in range(some + 2 * LOOK_AGAIN)]
    assert looks[:some] == [LOOKS] * some
    assert [number - some for number in range(some, len(looks)) if looks[number]] == [
        LOOK_AGAIN - 1,
        2 * LOOK_AGAIN - 1,
    ]
    for _ in range(LOOK_AGAIN - 1):
        assert scene.ask(look=1) == (0, 1)
    assert scene.ask(look=3) == (3, 0)  # it has come near
    assert scene.ask(look=2) == (2, 0)


def test_a_server_that_answers_late_as_often_as_not_is_far(scene: Scene) -> None:
    """Looking has to find more answers than it misses: a miss costs more than a find gains."""
    found = [scene.ask(look=1 if number % 2 else None) for number in range(4 * NEAR)]
    assert found[-NEAR:] == [(0, 1)] * NEAR
    scene.wire = scene.made()
    found = [scene.ask(look=1 if number % 4 else None) for number in range(16 * NEAR)]
    assert found.count((1, 0)) == 12 * NEAR


def test_who_is_not_alone_sleeps(scene: Scene) -> None:
    """While another request is under way, from the start or from some look on, there is other work than to look."""
    scene.asking.append(None)
    for _ in range(NEAR * 2):
        assert scene.ask() == (0, 1)
    scene.asking.pop()
    assert scene.ask(look=1) == (1, 0)  # and nobody takes the server for a far one

    def another(number: int) -> None:
        if number == 4:
            scene.asking.append(None)

    scene.watched.looks = scene.watched.sleeps = 0
    scene.watched.before_look, scene.watched.before_sleep = another, scene.answer
    assert scene.wire.ask(b"PING", 1, 0.0) == [17]
    assert (scene.watched.looks, scene.watched.sleeps) == (4, 1)


def test_a_poll_that_waits_sleeps_and_keeps_nobody_from_looking(scene: Scene) -> None:
    """The tail's poll waits for as long as nothing happens: it neither looks nor counts as under way."""
    waiting: list[int] = []

    def wait() -> None:
        waiting.append(len(scene.asking))
        scene.answer()

    scene.watched.looks = scene.watched.sleeps = 0
    scene.watched.before_sleep = wait
    assert scene.wire.ask(b"XREAD", 1, 1.0) == [17]
    assert (scene.watched.looks, waiting) == (0, [0])


def test_a_server_that_hangs_up_while_it_is_looked_for(scene: Scene) -> None:
    """An end of the connection is an error at once, not the end of looking."""
    scene.watched.looks = 0
    scene.watched.before_look = lambda _number: scene.server.close()
    with pytest.raises(ConnectionResetError):
        scene.wire.ask(b"PING", 1, 0.0)
    assert not scene.asking


def test_of_commands_in_turn_only_a_single_one_is_looked_for(scene: Scene) -> None:
    """A single append is made when it is sent, and looked for; of many the answer takes longer than any look."""
    scene.watched.looks = scene.watched.sleeps = 0
    scene.watched.before_look = lambda _number: scene.answer()
    scene.watched.before_sleep = scene.answer
    assert scene.wire.ask((lambda: b"EVALSHA",), 1, 0.0) == [17]
    assert (scene.watched.looks, scene.watched.sleeps) == (1, 0)
    assert scene.wire.ask((lambda: b"EVALSHA", lambda: b"EVALSHA"), 1, 0.0) == [17]
    assert (scene.watched.looks, scene.watched.sleeps) == (1, 1)
    assert scene.heard == b"EVALSHA" * 3
