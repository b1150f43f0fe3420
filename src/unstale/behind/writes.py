"""What is queued, what is handed to the sink, and what a queue can do.

A queue holds at most one write of a key: the newest. A later one takes its place and gets a greater version. That is
all the merging there is, and it makes most interleavings harmless:

1. The flusher hands v5 to the sink. 2. v6 is queued: v5's row becomes v6's. 3. The sink has committed v5; the flusher
   removes "the row of this key, if it is still v5": v6 stays, and is flushed next.
1. The flusher hands v5 to the sink and is killed; whether v5 was committed, nobody knows. 2. The row is still there, as
   v5, or as v6. 3. The next flusher hands it to the sink: v5 once more with the same version and id, which the sink
   refuses if it has it, or v6, which comes after v5 in any case.
1. Flusher A is stopped inside the sink, with v5 in its hands. 2. B leads, and flushes v6. 3. A goes on and commits v5
   after v6: only the sink can refuse that, by the version. The queue takes nothing from A, whose token is not the last.

Versions are microseconds of the clock at first, and the last one plus 1 wherever the clock is behind that. So they grow
within one queue whatever the clock does, and a queue that was lost and begins anew, or that has lost its last second
with a power cut, goes on above what the sink has seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

import msgspec

from unstale.core.record import Stamp

Durable = Literal["power", "process"]
Items = Sequence[tuple[str, bytes]]


class DeposedError(Exception):
    """Another flusher leads. Never leaves the package."""


class Write(msgspec.Struct, frozen=True):
    """One write, as the sink gets it.

    Attributes:
        key: Its key.
        value: The value.
        version: Grows with every write of the key. The sink keeps it with the value, and refuses what is not newer.
        id: The same however often the write is handed over, and no other write's: an idempotency key.
    """

    key: str
    value: Any
    version: int
    id: str


class Queued(msgspec.Struct, frozen=True):
    """The acknowledgement of a write.

    Attributes:
        key: Its key.
        version: Its version.
        id: Its id.
        ticket: A read with `after=` it sees the write, on any node.
    """

    key: str
    version: int
    id: str
    ticket: Stamp | None


class Row(msgspec.Struct, frozen=True):
    """A write as it lies in the queue.

    Attributes:
        key: Its key.
        data: The encoded value.
        version: Its version.
        tries: How often it failed alone.
    """

    key: str
    data: bytes
    version: int
    tries: int = 0


class Dead(msgspec.Struct, frozen=True):
    """A write that was put aside.

    Attributes:
        key: Its key.
        version: Its version.
        data: The encoded value.
        tries: How often it failed alone.
        error: What the sink said.
        at: When it was put aside, by the wall clock: for people.
    """

    key: str
    version: int
    data: bytes
    tries: int
    error: str
    at: float


class Status(msgspec.Struct, frozen=True):
    """What lies in a queue.

    Attributes:
        queued: Keys with a write that waits.
        dead: Keys whose write was put aside.
    """

    queued: int
    dead: int


class Queue(Protocol):
    """What a durable queue can do. All that it raises are errors of the tree, but for `DeposedError`."""

    place: str
    lease_s: float | None
    """A flusher that is not heard of for so long no longer leads; None: it leads until its process ends."""

    def put(self, groups: Sequence[Items], call: int) -> list[list[int] | None]:
        """Make groups of writes durable, each wholly or, where there is no room (None), not at all: their versions.

        Args:
            groups: The groups, in their order.
            call: Counted up for every call, and not for one that is repeated because its outcome is unknown.
        """

    def id_of(self, version: int) -> str:
        """Give the idempotency key of a write."""

    def newest(self, key: str) -> Row | None:
        """Give the write of a key that waits."""

    def lead(self) -> int:
        """Become the one flusher: a token greater than all before, 0 while another leads."""

    def renew(self, token: int) -> bool:
        """Go on leading, if we lead."""

    def resign(self, token: int) -> None:
        """Let another one lead."""

    def take(self, token: int, limit: int, resting: Collection[str]) -> list[Row]:
        """Give the writes that wait longest, but for keys that rest; they stay in the queue."""

    def done(self, token: int, rows: Sequence[Row]) -> None:
        """Remove what was taken by the sink and told to the nodes; a newer write of a key moves to the end."""

    def failed(self, token: int, row: Row) -> int:
        """Count a failure of one write alone: how many there were."""

    def bury(self, token: int, rows: Sequence[tuple[Row, str]]) -> None:
        """Put writes aside, each with what the sink said."""

    def dead(self) -> list[Dead]:
        """Give what was put aside."""

    def replay(self, keys: Collection[str]) -> int:
        """Queue again what was put aside, with its version and id: how many there were."""

    def discard(self, keys: Collection[str]) -> int:
        """Forget what was put aside: how many there were."""

    def status(self) -> Status:
        """Count what lies in the queue."""

    def close(self) -> None:
        """Close its connections. Idempotent."""
