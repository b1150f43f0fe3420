"""What a session has to see: for each cache a ticket, raised by what the code within it publishes.

The interleavings that this file and its callers defeat, by hazard number; all of them are a client that does not see
its own write, while every node keeps its bound:

H5   1. this code publishes record 41, through node A 2. its next read reaches node B, which has applied 40. The append
     raises the session's ticket to 41 before the write returns, and the read waits for it, or loads.
H2   1. a row of an outbox is committed, and a relay is to publish it 2. this code reads: there is no position that it
     could ask for. What the row names is unpublished, and reads of that load past the cache, until this node applies
     the record, which raises the ticket. So it is with what could not be published: its outcome may be unknown.
H10  1. the ticket is 41 of generation g1 2. a failover: generation g2 3. no read reaches it any more, and each loads.
     Once a log that proves itself says that g2 is in force, what was acknowledged in g1 lies before all that was loaded
     in g2: the session asks for the head of g2 from then on (`take_over`). A node that is merely late, in g1 with a
     ticket of g2, never makes it ask for less: the log says g2.
H37  1. a ticket of g1 and one of g2 meet, from a cookie and a header, or from before and after a failover 2. neither
     stands for the other: both are kept, no node reaches both, and reads load until the step above.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from unstale.core.record import EVERYTHING, Record, Stamp

if TYPE_CHECKING:
    from unstale.core.node import Node

GENERATIONS_MAX: Final = 4  # of one cache: more come from nobody who means well
NOWHERE: Final = Stamp("", 0)
"""A ticket that no node reaches."""


def one_for(stamps: tuple[Stamp, ...]) -> Stamp | None:
    """Give the ticket that stands for what has to be reached; of two generations none does, and nothing reaches it."""
    if not stamps:
        return None
    return stamps[0] if len(stamps) == 1 else NOWHERE


class Tickets:
    """What a session, and all sessions within it, have to see. Shared by tasks and threads.

    Args:
        lock: A short lock; nothing waits while it is held, and a node's lock is never taken under it.

    Attributes:
        by_cache: For the name of each cache, what has to be reached: a stamp for each generation. The one that was
            raised last stands last.
        raises: How often something was published.
        lives: By the name of each cache that was published to: after so many seconds no node can serve what that ended.
    """

    __slots__ = ("__weakref__", "_lock", "_unpublished", "by_cache", "lives", "raises")

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._lock = lock
        self._unpublished: dict[str, tuple[frozenset[str], bool]] = {}  # by its id: scopes, and whether it failed
        self.by_cache: dict[str, tuple[Stamp, ...]] = {}
        self.raises = 0
        self.lives: dict[str, float] = {}

    def merge(self, by_cache: Mapping[str, Iterable[Stamp]]) -> None:
        """Take in what has to be seen besides: the higher counts."""
        with self._lock:
            for cache, stamps in by_cache.items():
                for stamp in stamps:
                    self._raise(cache, stamp)

    def published(self, node: Node, stamp: Stamp, records: Iterable[Record]) -> None:
        """Raise the ticket of a node's cache: the log has acknowledged records, the last of them there.

        The ticket first: who finds nothing unpublished any more, without the lock, finds it raised.
        """
        with self._lock:
            self._raise(node.name, stamp)
            self.raises += 1
            self.lives[node.name] = max(self.lives.get(node.name, 0.0), node.max_staleness_s)
            for record in records:
                # By its id; or an invalidation that failed was repeated, as its error says, under another id. Not so
                # one whose transaction is open still: another record of its scopes does not stand for its commit.
                named = frozenset(record.scopes)
                for record_id, (scopes, failed) in list(self._unpublished.items()):
                    if record_id == record.id or (failed and scopes <= named):
                        del self._unpublished[record_id]

    def unpublished(self, record: Record, *, failed: bool) -> None:
        """Take in a record that a relay has to publish, or whose append failed: the log may have it, or not."""
        with self._lock:
            self._unpublished[record.id] = (frozenset(record.scopes), failed)

    def forget(self, record: Record) -> None:
        """Take out a record that was rolled back."""
        with self._lock:
            self._unpublished.pop(record.id, None)

    @property
    def all_published(self) -> bool:
        """Nothing is unpublished."""
        return not self._unpublished

    def touches(self, scopes: Iterable[str]) -> bool:
        """Say whether something is unpublished that ends entries with these scopes."""
        if not self._unpublished:
            return False
        with self._lock:
            pending = list(self._unpublished.values())
        return any(EVERYTHING in names or not names.isdisjoint(scopes) for names, _failed in pending)

    def take_over(self, cache: str, left: tuple[Stamp, ...], head: Stamp) -> None:
        """Ask for the head of the generation that is in force, in place of stamps that nothing will ever reach.

        What was raised since stays: 1. `left` was read, and the head, 50 2. this code publishes 51 3. the session takes
        over 50: 51 still has to be reached.
        """
        with self._lock:
            self._raise(cache, head, left)

    def _raise(self, cache: str, stamp: Stamp, left: tuple[Stamp, ...] = ()) -> None:
        """Put a stamp in place of lower ones, under the lock. Readers hold none: what they have found never changes."""
        others = {name: stamps for name, stamps in self.by_cache.items() if name != cache}
        stamps = [one for one in self.by_cache.get(cache, ()) if one not in left]
        same = [stamp, *(one for one in stamps if one.generation == stamp.generation)]
        rest = [one for one in stamps if one.generation != stamp.generation]
        self.by_cache = {**others, cache: (*rest[1 - GENERATIONS_MAX :], max(same, key=lambda one: one.position))}


class Arrival:
    """A record that somebody else publishes: when this node applies it, its session learns where it lies.

    Args:
        tickets: Of the session, which may be over before.
        record: The record.
    """

    __slots__ = ("_record", "_tickets")

    def __init__(self, tickets: Tickets, record: Record) -> None:
        self._tickets = weakref.ref(tickets)
        self._record = record

    def judge(self, node: Node) -> None:
        """Take in, under the node's lock, that the record is the next one to be applied."""
        tickets = self._tickets()
        if tickets is not None:
            tickets.published(node, Stamp(node.generation or "", node.applied + 1), (self._record,))


def expect(node: Node, tickets: Tickets, record: Record, *, failed: bool) -> None:
    """Let a session know of a record that is not published yet, and be told when this node applies it."""
    tickets.unpublished(record, failed=failed)
    with node.lock:
        node.intents.setdefault(record.id, []).append(Arrival(tickets, record))
    # It may never come: it was rolled back, or the log was wiped. Then it is forgotten with the session.
    weakref.finalize(tickets, node.intents.pop, record.id, None).atexit = False
