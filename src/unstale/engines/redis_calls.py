"""What is sent to Redis in one write: commands, where they go, and how their answers are made ours.

A method of the engine is a generator that yields such calls and returns its answer: the blocking driver and the one for
event loops run the same, so nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from unstale.engines.breaker import Breaker
from unstale.engines.redis_commands import Command, Commands, Data, in_turn, made, packed
from unstale.engines.redis_errors import ErrorReply, reply_error
from unstale.engines.redis_places import Places
from unstale.engines.redis_scripts import BY_SHA
from unstale.engines.redis_url import Address
from unstale.errors import EngineError, ReadOnlyError, UnavailableError

T = TypeVar("T")

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
        through: It is sent even to a server that is known to be out: the tail's, for which no reader waits.
        partly: What some servers answer is of use without the others: their errors stand in place of replies.
        data: The bytes of the commands, from who knows them already.
    """

    commands: Commands
    keys: Sequence[bytes]
    wait_s: float = 0.0
    node: str = ""
    slow: bool = False
    through: bool = False
    partly: bool = False
    data: bytes = b""

    def bytes(self) -> Data:
        """Give the bytes of its commands, at once or piece by piece."""
        return self.data or in_turn(self.commands)


class Ask(NamedTuple):
    """What goes to one server; it answers with so many replies."""

    address: Address
    data: Data
    replies: int
    call: Call


class Refresh(NamedTuple):
    """The places are asked for anew; `needed`: else this cannot go on."""

    needed: bool


Steps: TypeAlias = Generator[Call, list[Any], T]
Moves: TypeAlias = Generator[Ask | Refresh, Any, T]


def follow(steps: Steps[T], call: Call, places: Places) -> Moves[T]:
    """Give the moves of a method: whoever drives them only sends bytes, or lets the places be refreshed.

    Args:
        steps: The method.
        call: The call at which it is: those before were answered without any detour.
        places: Where the keys lie.

    Raises:
        EngineError: One of its calls failed, and the method did not deal with that.
    """
    try:
        while True:
            try:
                replies = yield from _make(call, places)
            except EngineError as error:
                call = steps.throw(error)
            else:
                call = steps.send(replies)
    except StopIteration as done:
        answer: T = done.value
        return answer


def _make(call: Call, places: Places) -> Moves[list[Any]]:
    try:
        return (yield from _send(call, places))
    except ReadOnlyError:
        if places.fixed:
            raise
        yield Refresh(needed=True)  # the primary was deposed
        return (yield from _send(call, places))


def _send(call: Call, places: Places) -> Moves[list[Any]]:
    only = None if places.spread or not call.keys else places.find(call.keys[0])
    route = None
    if only is not None:  # the usual case: all goes to one server, and its replies are what was asked for
        try:
            replies = yield from _ask(Ask(only, call.bytes(), len(call.commands), call), places)
            if ErrorReply not in map(type, replies):
                return replies
            route = Route(call, places)
            route.take(only, list(range(len(replies))), replies)
        except UnavailableError as error:
            yield from _mend(call, places, error)
            raise
    route = route or Route(call, places)
    while asked := route.next():
        for address, numbers, data in asked:
            if address is None:
                yield from _learn(call, places)
                break
            try:
                replies = yield from _ask(Ask(address, data, route.expected(numbers), call), places)
                route.take(address, numbers, replies)
            except ReadOnlyError:
                raise
            except EngineError as error:  # of this server: what lies on others is asked for all the same
                route.lose(numbers, error)
                yield from _mend(call, places, error)
    if route.stray:
        places.refresh_soon()
    return route.result()


def _ask(ask: Ask, places: Places) -> Moves[list[Any]]:
    """Ask one server, unless it is known to be out; the tail's polls go through all the same, as probes."""
    breaker = places.breakers.at(ask.address)
    _admit(ask.call, places, breaker, ask.address)
    try:
        replies: list[Any] = yield ask
    except UnavailableError:
        breaker.failed()
        raise
    if ErrorReply in map(type, replies) and any(type(reply) is ErrorReply and reply.out for reply in replies):
        breaker.failed()
    else:
        breaker.succeeded()  # who answers, be it with an error, costs nobody a timeout
    return replies


def _learn(call: Call, places: Places) -> Moves[None]:
    """Ask where the keys are, unless it is known that nobody tells."""
    breaker = places.breakers.at(None)
    _admit(call, places, breaker, None)
    try:
        yield Refresh(needed=True)
    except UnavailableError:
        breaker.failed()
        raise
    breaker.succeeded()


def _admit(call: Call, places: Places, breaker: Breaker, address: Address | None) -> None:
    if call.through or breaker.admits():
        return
    if breaker.due(PROBE_TIMEOUTS * places.url.timeout_s):
        places.probe(address)
    place = places.url.place if address is None else f"{address[0]}:{address[1]}"
    hint = "the cache goes on by its policy until it is back"
    raise UnavailableError(f"{place} is out: it was not asked", hint=hint, refused=True)


def _mend(call: Call, places: Places, error: EngineError) -> Moves[None]:
    """See to it that the next call knows where the keys are: this server's may have failed over.

    The tail has the time to wait for that, and needs it for its very next poll; a reader has waited long enough.
    """
    if places.fixed or "refused" in error.fields or not isinstance(error, UnavailableError):
        return
    if call.through:
        yield Refresh(needed=False)
    else:
        places.refresh_soon()


class Route:
    """The way of one call: to several servers, where keys are spread, and on to where they have gone meanwhile.

    Args:
        call: The call.
        places: Where the keys lie.

    Attributes:
        replies: As far as they are there; what is left is `None` and in `_left`.
        stray: A server said that keys lie on another one.
    """

    __slots__ = ("_asking", "_errors", "_hops", "_left", "_places", "call", "commands", "replies", "stray")

    def __init__(self, call: Call, places: Places) -> None:
        self.call = call
        self.commands = [made(command) for command in call.commands]
        self.replies: list[Any] = [None] * len(self.commands)
        self.stray = False
        self._places = places
        self._left = list(range(len(self.commands)))
        self._asking: dict[int, Address] = {}
        self._errors: list[EngineError] = []
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

    def lose(self, numbers: list[int], error: EngineError) -> None:
        """Give up what one server was asked for, as far as it has not answered."""
        self._errors.append(error)
        for number in numbers:
            if number in self._left:
                self._left.remove(number)
                self._asking.pop(number, None)
                self.replies[number] = error

    def result(self) -> list[Any]:
        """Give the replies; with `partly`, errors among them.

        Raises:
            EngineError: One of the servers failed; with `partly`, all of them.
        """
        lost = sum(isinstance(reply, EngineError) for reply in self.replies) if self._errors else 0
        if lost == len(self.replies) or (lost and not self.call.partly):
            raise self._errors[0]
        return self.replies

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
