"""What surrounds a read: the load that it is part of, observers, transactions that have written, and its session.

All hang on one context variable, so that a hit outside of all four pays one look-up for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from unstale.core.frame import Frame
from unstale.core.record import Stamp
from unstale.core.session import NOWHERE, Tickets
from unstale.errors import OutsideLoadError

if TYPE_CHECKING:
    from unstale.core.node import Node
    from unstale.core.table import Cell


class Read(msgspec.Struct, frozen=True):
    """What one read served.

    Attributes:
        key: The key that was read.
        source: Where the value came from: `l1`, `store`, `load`, `flight` (another caller's load) or `none`.
        stamp: The stamp of the entry, None when it had none.
        proven_s: Seconds ago as of which it was proven fresh; None when nothing proved it.
        stale: It was served although it is no longer fresh.
        why: Why this and not another, in a few words.
        scopes: All that would end it.
        remaining_s: Seconds that it has to live; negative within its grace.
    """

    key: str
    source: str
    stamp: Stamp | None
    proven_s: float | None
    stale: bool
    why: str
    scopes: tuple[str, ...]
    remaining_s: float | None


class Transaction(Protocol):
    """A transaction of the source that has written."""

    @property
    def over(self) -> bool:
        """It has ended, and nothing of it waits to be published."""

    def touches(self, scopes: Iterable[str]) -> bool:
        """Say whether it has changed any of these, and that is not published yet."""


class Surroundings(msgspec.Struct, frozen=True):
    """The load, the observers, the writing transactions and the session around the code that runs."""

    frame: Frame | None = None
    observers: tuple[list[Read], ...] = ()
    transactions: tuple[Transaction, ...] = ()
    tickets: Tickets | None = None

    @property
    def changed(self) -> bool:
        """Something may have been changed here that no cache knows of yet."""
        return bool(self.transactions) or not (self.tickets is None or self.tickets.all_published)

    def note(self, read: Read, log: object, shows: float = float("-inf")) -> None:
        """Tell observers and the load under way of a read.

        Args:
            read: What was read.
            log: Names the log that its stamp belongs to.
            shows: The moment that it shows for sure.
        """
        for reads in self.observers:
            reads.append(read)
        frame = self.frame
        if frame is None:
            return
        if read.source != "none":
            frame.seen_from = min(frame.seen_from, shows)
        if frame.log is None or frame.log == log:
            frame.inherit(read, shows)
        else:
            # It depends on scopes of another cache, whose records this one never hears of: it cannot be kept.
            frame.skipped = frame.foreign = True


NOTHING = Surroundings()
surroundings: ContextVar[Surroundings | None] = ContextVar("unstale_surroundings", default=None)


def lets(node: Node, cell: Cell) -> bool:
    """Say whether a call with something around it may have a resident entry as if there were nothing.

    It may within a session whose ticket is reached. The entry was found before: 1. it is found 2. record 41 is applied,
    which ends it 3. the ticket, 41, is reached. So it is looked for again, under the lock, in the step that finds the
    ticket reached (H5).
    """
    around = surroundings.get() or NOTHING
    tickets = around.tickets
    if tickets is None or around.frame is not None or around.observers or around.changed:
        return False
    stamps = tickets.by_cache.get(node.name)
    if stamps is None:
        return True
    ticket = stamps[0] if len(stamps) == 1 else NOWHERE
    with node.lock:
        reached = ticket.generation == node.generation and ticket.position <= node.applied
        return reached and cell.aliases.get(cell.alias) is cell


def within(frame: Frame) -> Surroundings:
    """Give what surrounds the loader of a frame: that load, and whatever else is around the code that runs."""
    around = surroundings.get()
    return Surroundings(frame) if around is None else replace(around, frame=frame)


def changed_here(scopes: Iterable[str]) -> bool:
    """Say whether a transaction or session around the code that runs has changed these scopes: no cache knows yet."""
    around = surroundings.get()
    if around is None:
        return False
    if around.tickets is not None and around.tickets.touches(scopes):
        return True
    return any(transaction.touches(scopes) for transaction in around.transactions)


def enter(transaction: Transaction) -> None:
    """Let reads of the running context see that a transaction has written."""
    around = surroundings.get()
    if around is None:
        surroundings.set(Surroundings(None, (), (transaction,)))
    elif transaction not in around.transactions:
        surroundings.set(replace(around, transactions=(*_going_on(around), transaction)))


def leave(transaction: Transaction) -> None:
    """Take a transaction that is over out of the running context: hits there are as quick as before."""
    around = surroundings.get()
    if around is None or transaction not in around.transactions:
        return
    surround(replace(around, transactions=tuple([one for one in _going_on(around) if one is not transaction])))


def _going_on(around: Surroundings) -> list[Transaction]:
    """Give the transactions that are not over; one that was published in the background left no context by itself."""
    return [one for one in around.transactions if not one.over]


def surround(around: Surroundings) -> None:
    """Set what surrounds the running context; where that is nothing, hits are as quick as before."""
    surroundings.set(None if around == NOTHING else around)


def tickets_here() -> Tickets | None:
    """Give the tickets of the session around the code that runs."""
    around = surroundings.get()
    return None if around is None else around.tickets


def loading(called: str) -> Frame:
    """Give the load under way.

    Raises:
        OutsideLoadError: There is none.
    """
    around = surroundings.get()
    if around is None or around.frame is None:
        msg = f"{called}() was called while nothing is being loaded"
        raise OutsideLoadError(msg, hint=f"call unstale.{called}() inside a cached function, while it runs")
    return around.frame
