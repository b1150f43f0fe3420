"""What a relay reads: a source that tells committed changes, again and again until they are settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One change that a source tells: the id of its record, and the record's wire form."""

    id: str
    data: bytes


class Part(msgspec.Struct, frozen=True):
    """Some of what a source had to tell when it began to.

    Attributes:
        rows: The changes, in the order in which they are to be published.
        more: There are others, which were committed before this was read: read again.
        lag_s: The age of the oldest of them, in seconds by the source's own clock.
    """

    rows: tuple[Row, ...]
    more: bool = False
    lag_s: float = 0.0


class Feed(Protocol):
    """A source, as seen by the one thread that relays it; it raises `SourceError` and nothing else.

    Reading is draining: what is committed and not settled is told, whatever its number. A change with a low number that
    is committed late is told by a later read, and what was told and not settled is told again (H2, H21).
    """

    def read(self, limit: int, *, first: bool) -> Part:
        """Give up to `limit` changes, the first of a reading or the next.

        A reading has come to its end when all is told, and settled, that was committed before its first call.
        """

    def settle(self, ids: Sequence[str], dead: Mapping[str, str]) -> None:
        """Tell these no more: they are published. Of some, by their ids, the reason why they could not be read."""

    def timeline(self) -> str:
        """Name the life of the source: another one after a failover or restore, as far as that can be told (H20)."""

    def dead(self) -> int:
        """Count what was put aside, and neither replayed nor discarded since."""

    def wait(self, seconds: float) -> bool:
        """Wait until there may be something to read, for so many seconds at most: may there be?"""

    def close(self) -> None:
        """Release the connection. Idempotent."""
