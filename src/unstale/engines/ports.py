"""What an engine offers: the store's port, the log's port, and its guarantees as data.

Every method is blocking, thread-safe, and raises nothing but `EngineError` and its children. An engine whose calls are
quick enough for an event loop says so in `Guarantees.quick`, one that can be awaited says so in `Guarantees.native`;
the asynchronous driver makes all other calls in worker threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, runtime_checkable

from unstale.core.marks import Mark
from unstale.core.ops import Appended, Batch, Fetched, Identity, Item, MarksReply, Member, Members
from unstale.core.record import Record, Stamp
from unstale.errors import EngineError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guarantees:
    """What an engine promises; the conformance and fault suites show each.

    Attributes:
        name: The engine's name.
        store: It can be a store.
        log: It can be a log.
        processes: Which processes can share it.
        durable: What survives a crash of a process, and of the machine.
        replay: A node that was away finds what it missed.
        atomic_marks: Append and marks are one atomic step.
        keeps_marks: Whether marks can be lost while entries stay (memory pressure).
        survives_failover: What becomes of the log when the server is replaced.
        proves_leadership: How a reply proves that the server was not deposed.
        quick: Calls that only take microseconds, which an event loop may make itself.
        native: Calls that have a twin to be awaited, with an `a` before its name.
    """

    name: str
    store: bool
    log: bool
    processes: str
    durable: str
    replay: str
    atomic_marks: str
    keeps_marks: str
    survives_failover: str
    proves_leadership: str
    quick: frozenset[str] = frozenset()
    native: frozenset[str] = frozenset()


@runtime_checkable
class StorePort(Protocol):
    """Keeps entries, marks and short-lived locks."""

    guarantees: ClassVar[Guarantees]

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | EngineError | None, ...]:
        """Give bytes and remaining lifetimes, in the order of the keys; None for what is not there or expired.

        Where keys lie on several servers some of which are out, their error stands in place of what they hold. If
        nothing could be asked for, it is raised.
        """

    def store(self, items: tuple[Item, ...]) -> None:
        """Put items; each replaces what was there."""

    def delete(self, keys: tuple[str, ...]) -> None:
        """Drop items."""

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """Give the marks of scopes and the identity of their log, in one atomic step."""

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """Merge marks of [start, upto] into the covered range, by compare-and-set.

        A hole between the covered range and `start` begins a new range: what lies outside of it is not judged. Another
        generation begins a new one without marks: positions of the old one would end too much.
        """

    def lock(self, key: str, ttl_s: float) -> int | None:
        """Take a lock if it is free: a fencing token that grows with every lock given, else None."""

    def unlock(self, key: str, token: int) -> None:
        """Release a lock if the token is its holder's."""

    def close(self) -> None:
        """Release what this process holds. Idempotent."""


@runtime_checkable
class LogPort(Protocol):
    """Keeps the ordered, durable log, and the members that follow it."""

    guarantees: ClassVar[Guarantees]

    def append(self, records: tuple[Record, ...], applier: str = "") -> Appended:
        """Append records at dense positions, in order; one whose id is there already keeps its position.

        Where the engine is also the store, the marks of all their scopes are raised in the same atomic step.

        The node `applier`, if any, applies them itself: an engine may leave its poll that is under way alone. All other
        polls end, and that one gives these records too when it ends, in time or for another record. So if the node is
        kept from applying them, it learns of them no later than a poll lasts, and no lease rests on less:

        1. a poll of A is sent at t, and waits 2. A appends, quietly, and is interrupted before it has applied that
        3. the poll ends, gives the record, and proves the lease as of t; until then A has that of an earlier poll.
        """

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """Renew the membership, then give up to `limit` records after `position`.

        What the member tells `about` itself is kept beside it, written when it is not what this engine has written
        already or when the log has lost it, with this poll or the next.

        Waits up to `wait_s` for the first one; returns at once when the log is not the one that the member follows
        (another generation, a head below its position). The identity is read after the records, or in the same step.
        """

    def read_head(self) -> Identity:
        """Give the identity of the log."""

    def read_members(self) -> Members:
        """Give the members that may still hold a lease; `about` is left empty."""

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """Give what members tell about themselves, in the order of the nodes; empty for who tells or is nothing."""

    def leave(self, node: str) -> None:
        """Take a node off the list, and end its poll that is under way."""

    def close(self) -> None:
        """Release what this process holds. Idempotent."""


@runtime_checkable
class PutPort(Protocol):
    """What an engine offers beside, if it can append a record and put items in one atomic step."""

    @property
    def puts(self) -> bool:
        """It can: not where the log and the entries lie on several servers."""

    def put(self, record: Record, items: tuple[Item, ...], after: Stamp) -> Appended | Identity:
        """Append a record and put items, if the head of the log is at `after`; else give the identity found.

        Items without a life are dropped. A record whose id is there already was put: its position is given.
        """


@dataclasses.dataclass(frozen=True)
class Ports:
    """The two engines of one cache; the same object twice where store and log are one engine."""

    store: StorePort
    log: LogPort

    @property
    def one_engine(self) -> bool:
        """Store and log are one engine, or the store leaves the marks to the log's."""
        store: object = self.store
        return store is self.log or getattr(store, "marks", None) is self.log

    @property
    def puts(self) -> bool:
        """A record and the entries that it makes good are written in one atomic step."""
        store: object = self.store
        return store is self.log and isinstance(store, PutPort) and store.puts

    def tell_troubles_to(self, on_trouble: Callable[[str, BaseException], None]) -> None:
        """Say who is told of what an engine notices by itself, and no caller sees."""
        self._each("tell_troubles_to", on_trouble)

    def reborn(self) -> None:
        """Let engines that hold locks or connections start anew in a forked child (H23): nothing is closed or sent."""
        self._each("reborn")

    def _each(self, method: str, *args: object) -> None:
        for engine in (self.store, self.log):
            call = getattr(engine, method, None)
            if call is not None:
                call(*args)
