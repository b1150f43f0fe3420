"""What is sent to Redis in one write: commands, where they go, and how their answers are made ours.

A method of the engine is a generator that yields such calls and returns its answer: the blocking driver and the one for
event loops run the same, so nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import hiredis

from unstale.engines.breaker import Breaker
from unstale.engines.redis_errors import ErrorReply, reply_error
from unstale.engines.redis_places import Places
from unstale.engines.redis_scripts import BY_SHA
from unstale.engines.redis_url import Address
from unstale.errors import EngineError, ReadOnlyError, UnavailableError

T = TypeVar("T")
Command: TypeAlias = tuple[bytes | str | int | float, ...]

HOPS_MAX: Final = 6  # redirections that one command follows
PROBE_TIMEOUTS: Final = 8  # that a probe may take: sentinels are asked, a connection made, TLS and password agreed upon


class Call(NamedTuple):
    """Commands of one write.

    Attributes:
        commands: The commands.
        keys: For each the key that says where it goes.
        wait_s: The server may wait for so long before it answers.
        node: The member whose poll this is, so that it can be ended.
        slow: It waits for replicas: it must not keep others waiting.
        data: The bytes of the commands, from who knows them already.
    """

    commands: Sequence[Command]
    keys: Sequence[bytes]
    wait_s: float = 0.0
    node: str = ""
    slow: bool = False
    data: bytes = b""


class Ask(NamedTuple):
    """What goes to one server; it answers with so many replies."""

    address: Address
    data: bytes
    replies: int
    call: Call


class Refresh(NamedTuple):
    """The places are asked for anew; `needed`: else this cannot go on."""

    needed: bool


Steps: TypeAlias = Generator[Call, list[Any], T]
Moves: TypeAlias = Generator[Ask | Refresh, Any, T]


def packed(commands: Sequence[Command]) -> bytes:
    """Give the bytes of commands."""
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]


def follow(steps: Steps[T], places: Places, breaker: Breaker) -> Moves[T]:
    """Give the moves of a method: whoever drives them only sends bytes, or lets the places be refreshed.

    Raises:
        EngineError: One of its calls failed, and the method did not deal with that.
    """
    try:
        call = next(steps)
        while True:
            try:
                replies = yield from _make(call, places, breaker)
            except EngineError as error:
                call = steps.throw(error)
            else:
                call = steps.send(replies)
    except StopIteration as done:
        answer: T = done.value
        return answer


def _make(call: Call, places: Places, breaker: Breaker) -> Moves[list[Any]]:
    """Make one call, unless the servers are known to be out; the tail's polls go through all the same, as probes."""
    if not (call.node or breaker.admits()):
        if breaker.due(PROBE_TIMEOUTS * places.url.timeout_s):
            places.probe(call.keys[0], breaker)
        hint = "the cache goes on by its policy until it is back"
        raise UnavailableError(f"{places.url.place} is out: it was not asked", hint=hint)
    try:
        try:
            replies = yield from _send(call, places)
        except ReadOnlyError:
            if places.fixed:
                raise
            yield Refresh(needed=True)  # the primary was deposed
            replies = yield from _send(call, places)
    except UnavailableError as error:
        if "answered" not in error.fields:  # who answers costs nobody a timeout
            breaker.failed()
        if not places.fixed:
            yield Refresh(needed=False)  # for the next call: it may have failed over
        raise
    breaker.succeeded()
    return replies


def _send(call: Call, places: Places) -> Moves[list[Any]]:
    only = places.find(call.keys[0]) if places.fixed and call.keys else None
    if only is None:
        route = Route(call, places)
    else:  # the usual case: all goes to one server, and its replies are what was asked for
        replies: list[Any] = yield Ask(only, call.data or packed(call.commands), len(call.commands), call)
        if ErrorReply not in map(type, replies):
            return replies
        route = Route(call, places)
        route.take(only, list(range(len(replies))), replies)
    while asked := route.next():
        for address, numbers, data in asked:
            if address is None:
                yield Refresh(needed=True)
                break
            replies = yield Ask(address, data, route.expected(numbers), call)
            route.take(address, numbers, replies)
    if route.stray:
        yield Refresh(needed=False)
    return route.replies


class Route:
    """The way of one call: to several servers, where keys are spread, and on to where they have gone meanwhile.

    Args:
        call: The call.
        places: Where the keys lie.

    Attributes:
        replies: As far as they are there; what is left is `None` and in `_left`.
    """

    __slots__ = ("_asking", "_hops", "_left", "_places", "call", "commands", "replies", "stray")

    def __init__(self, call: Call, places: Places) -> None:
        self.call = call
        self.commands = list(call.commands)
        self.replies: list[Any] = [None] * len(self.commands)
        self.stray = False
        self._places = places
        self._left = list(range(len(self.commands)))
        self._asking: dict[int, Address] = {}
        self._hops = 0

    def next(self) -> list[tuple[Address | None, list[int], bytes]]:
        """Give what is to be sent next: the server, the commands by number, and their bytes; nothing when it is over.

        A server that nobody knows is None: the places have to be asked for anew, and then this.
        """
        if not self._left:
            return []
        if self._hops > HOPS_MAX:
            raise UnavailableError(f"{self._places.url.place} sends a request round and round", hint="see CLUSTER INFO")
        self._hops += 1
        groups: dict[Address | None, list[int]] = {}
        for number in self._left:
            address = self._asking.get(number) or self._places.find(self.call.keys[number])
            groups.setdefault(address, []).append(number)
        return [(address, numbers, self._bytes(numbers)) for address, numbers in groups.items()]

    def expected(self, numbers: list[int]) -> int:
        """Say how many replies will come."""
        return len(numbers) + sum(number in self._asking for number in numbers)

    def _bytes(self, numbers: list[int]) -> bytes:
        commands: list[Command] = []
        for number in numbers:
            if number in self._asking:
                commands.append((b"ASKING",))
            commands.append(self.commands[number])
        return packed(commands)

    def take(self, address: Address, numbers: list[int], replies: list[Any]) -> None:
        """Take the replies of one server: those that send us elsewhere leave their commands to be sent again.

        Raises:
            EngineError: One of them is an error.
        """
        at = 0
        for number in numbers:
            if self._asking.pop(number, None) is not None:
                at += 1
            reply = replies[at]
            at += 1
            if type(reply) is ErrorReply and self._again(number, reply, address):
                continue
            self.replies[number] = reply
            self._left.remove(number)

    def _again(self, number: int, reply: ErrorReply, address: Address) -> bool:
        """Prepare a command for the next write, if its error reply says how."""
        code = reply.code
        if code == "NOSCRIPT":
            name, sha, *rest = self.commands[number]
            assert name == b"EVALSHA", "only scripts are not found"
            self.commands[number] = (b"EVAL", BY_SHA[str(sha)].text, *rest)
            return True
        if code in {"MOVED", "ASK"} and self._places.spread:
            host, _, port = str(reply).split()[2].rpartition(":")
            target = (host or address[0], int(port))
            if code == "ASK":
                self._asking[number] = target
            else:
                self._places.learn(self.call.keys[number], target)
                self.stray = True
            return True
        if code == "TRYAGAIN":
            return True
        raise reply_error(reply, f"{address[0]}:{address[1]}")
