"""Every point at which a flow of the core can be suspended.

A flow is an `async def` function that awaits nothing but the frozen `Op` classes below. A driver (`run`, `arun` or the
simulator) performs each op against the ports and sends the answer back in. Between two ops a flow only changes memory,
under the node's short lock; the lock is never held across an op.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from unstale.core.marks import Mark
from unstale.core.record import Logged, Record, Stamp
from unstale.core.signal import Signal
from unstale.errors import EngineError

T = TypeVar("T")
Flow = Coroutine["Op[Any]", Any, T]


class Identity(msgspec.Struct, frozen=True):
    """Who answered: the life of the log, its head, and the id of the record there.

    `proven` says that the server could not have been deposed when it answered (DESIGN: leadership); an engine that
    cannot know says False, and its marks and heads then prove nothing. `pulsed` says that the server has replicas, one
    of which could depose it unnoticed: leases rest on pulses alone, which the nodes write in turn.
    """

    generation: str
    head: int
    head_id: str
    proven: bool = True
    pulsed: bool = False


class Fetched(msgspec.Struct, frozen=True):
    """Stored bytes and the seconds that the store itself still keeps them."""

    data: bytes
    remaining_s: float


class Item(msgspec.Struct, frozen=True):
    """Bytes to be stored under a stored key for at most `ttl_s` seconds."""

    key: str
    data: bytes
    ttl_s: float


class MarksReply(msgspec.Struct, frozen=True):
    """The marks of the scopes asked for, and the range of positions [start, upto] within which they are complete.

    `certain` is False when the store may have dropped marks by itself (memory pressure): a missing one is then unknown.
    """

    identity: Identity
    marks: Mapping[str, int | Mark]
    start: int
    upto: int
    certain: bool = True


class Member(msgspec.Struct, frozen=True):
    """What a node tells of itself with every poll. `urgent`: somebody waits to see `applied`.

    `about`: what it tells people, as bytes that the log keeps beside the member. An engine sends it only when it is
    another one than before or when the log has lost it, and does not tell it with the list of members.
    """

    node: str
    generation: str
    applied: int
    max_staleness_s: float
    urgent: bool = False
    about: bytes = b""


class Members(msgspec.Struct, frozen=True):
    """The living members, the age in seconds of the list itself, and the largest bound that any of them declared."""

    identity: Identity
    members: tuple[Member, ...]
    age_s: float
    bound_s: float


class Batch(msgspec.Struct, frozen=True):
    """Records after a position. `at_id` is the id of the record at that position, None where the log has none there."""

    identity: Identity
    at_id: str | None
    records: tuple[Logged, ...]


class Appended(msgspec.Struct, frozen=True):
    """Where the records of one append ended up, in their order."""

    identity: Identity
    records: tuple[Logged, ...]


class Op(msgspec.Struct, Generic[T], frozen=True):
    """One thing that a flow asks its driver to do. `port` says who does it."""

    port: ClassVar[str] = "driver"

    def __await__(self) -> Generator[Op[T], T, T]:
        """Hand this op to the driver; the value of the `await` is what the driver sends back."""
        answer: T = yield self
        return answer


# The store ------------------------------------------------------------------------------------------------------


class Fetch(Op[tuple[Fetched | EngineError | None, ...]], frozen=True):
    """Get the bytes and remaining lifetimes of stored keys, in one round trip.

    An error in place of bytes is that of a server which could not be asked, while others were.
    """

    port: ClassVar[str] = "store"
    keys: tuple[str, ...]


class Store(Op[None], frozen=True):
    """Put items, each atomically. A later one replaces an earlier one, whatever their stamps."""

    port: ClassVar[str] = "store"
    items: tuple[Item, ...]


class Delete(Op[None], frozen=True):
    """Drop stored keys. Only to free space: correctness rests on records."""

    port: ClassVar[str] = "store"
    keys: tuple[str, ...]


class ReadMarks(Op[MarksReply], frozen=True):
    """Get the marks of scopes, with the identity of the log they belong to, in one step."""

    port: ClassVar[str] = "store"
    scopes: tuple[str, ...]


class ExtendMarks(Op[None], frozen=True):
    """Two engines: merge marks of the positions [start, upto], and extend the covered range by compare-and-set."""

    port: ClassVar[str] = "store"
    generation: str
    start: int
    upto: int
    marks: Mapping[str, int | Mark]


class Lock(Op[int | None], frozen=True):
    """Try to take a lock for at most `ttl_s` seconds: its fencing token, or None when another holds it."""

    port: ClassVar[str] = "store"
    key: str
    ttl_s: float


class Unlock(Op[None], frozen=True):
    """Release a lock, if the token is still its own."""

    port: ClassVar[str] = "store"
    key: str
    token: int


# The log --------------------------------------------------------------------------------------------------------


class Append(Op[Appended], frozen=True):
    """Append records, and in the same atomic step their marks where store and log are one engine.

    A record whose id the log already has is not appended again: the answer names the position that it has.

    `applier` is the node that will apply them when it has the answer, if it tells nobody that it has: its own poll need
    not end for them.
    """

    port: ClassVar[str] = "log"
    records: tuple[Record, ...]
    applier: str = ""


class Put(Op["Appended | Identity"], frozen=True):
    """Append a record and put items, in one atomic step, if the head of the log is still at `after`.

    Else nothing is done, and the answer is the identity found. So whoever knows the log up to `after` knows the
    position of his record, and stamps the items with it. An item with no life is dropped from the store instead. A
    record whose id the log already has was put before, with its items: the answer names its position.

    Only where store and log are one engine, and that engine says so: it has a method `put`, and `puts` is true.
    """

    port: ClassVar[str] = "log"
    record: Record
    items: tuple[Item, ...]
    after: Stamp


class Poll(Op[Batch], frozen=True):
    """Renew the membership, then read up to `limit` records after `position`, waiting up to `wait_s` for the first."""

    port: ClassVar[str] = "log"
    member: Member
    position: int
    limit: int
    wait_s: float


class ReadHead(Op[Identity], frozen=True):
    """Get the identity of the log: one round trip, acknowledged by the quorum where there is one."""

    port: ClassVar[str] = "log"


class ReadMembers(Op[Members], frozen=True):
    """Get the members and what they have applied."""

    port: ClassVar[str] = "log"


class Leave(Op[None], frozen=True):
    """Take a node off the member list; it must hold no lease any more."""

    port: ClassVar[str] = "log"
    node: str


# The source of truth, time and other flows ----------------------------------------------------------------------


class Load(Op[Any], frozen=True):
    """Call the user's loader or writer; a coroutine function is awaited by the asynchronous driver."""

    port: ClassVar[str] = "user"
    call: Callable[[], object | Awaitable[object]]


class Sleep(Op[None], frozen=True):
    """Let `seconds` pass."""

    seconds: float


class Wait(Op[bool], frozen=True):
    """Wait until a signal fires, for at most `timeout_s` (None: as long as it takes): did it fire?"""

    signal: Signal
    timeout_s: float | None = None


class Spawn(Op[None], frozen=True):
    """Run another flow in the background. Its errors are its own: they are reported, never raised here."""

    flow: Callable[[], Flow[object]]
    what: str
