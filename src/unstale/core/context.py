"""What surrounds a read: the load that it is part of, observers of its block, transactions that have written.

All hang on one context variable, so that a hit outside of any load, block and transaction pays one look-up for the
three.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextvars import ContextVar
from typing import Protocol

import msgspec

from unstale.core.record import Stamp, Version
from unstale.errors import OutsideLoadError


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


class Frame:
    """One load under way: what its loader, and the cached functions that it calls, tell of its result.

    Attributes:
        keys: The stored keys that are being loaded: several, if one call loads them together.
        outer: The frame of the load that this one runs in.
        flight: The flight that it belongs to.
        scopes: Scopes learnt so far: by `tag()`, and inherited from the entries that were read.
        ttl_s: A life given by `ttl()`.
        life_s: The shortest remaining life among the entries that were read: it bounds the outer one's.
        skipped: `skip()` was called, or something unprovable was read: the result is not kept.
        foreign: It depends on what the records of this log's generation say nothing of: nobody can judge it afterwards.
        stale: Something stale was read, and so the result is; `unproven`: and nothing proved it.
        oldest: The stamp of the oldest stale entry or view that was read: the result's cannot be later.
        view_from: The moment at which the oldest view was taken that was read, if that was before the load began.
        seen_from: The moment that what was read through a cache shows for sure: an entry may be older than the load.
        alone: What is not committed may have been read: nobody but the reader that loads it may have the result.
        version: The source version given by `version()`.
        origin: The origin of which its load holds a place.
        log: The generation of the log in which it is stamped.
        after: The ticket that the load answers: what it reads through the cache must be as fresh.
    """

    __slots__ = (
        "after",
        "alone",
        "flight",
        "foreign",
        "keys",
        "life_s",
        "log",
        "oldest",
        "origin",
        "outer",
        "scopes",
        "seen_from",
        "skipped",
        "stale",
        "ttl_s",
        "unproven",
        "version",
        "view_from",
    )

    def __init__(
        self, keys: Collection[str], outer: Frame | None, flight: object = None, after: Stamp | None = None
    ) -> None:
        self.keys = keys
        self.outer = outer
        self.flight = flight
        self.scopes: dict[str, None] = {}
        self.ttl_s: float | None = None
        self.life_s: float | None = None
        self.skipped = self.foreign = False
        self.stale = False
        self.unproven = False
        self.oldest: Stamp | None = None
        self.view_from: float | None = None
        self.seen_from = float("inf")
        self.alone = False
        self.version: int | Version | None = None
        self.after = after
        self.origin: object = None
        self.log: object = None

    def holds(self, origin: object) -> bool:
        """Say whether this load, or one that it runs in, holds a place of an origin: it needs no second one."""
        if origin is None:
            return False
        return self.origin is origin or (self.outer is not None and self.outer.holds(origin))

    def look_back(self, stamp: Stamp | None, view_from: float) -> None:
        """Take over that what is loaded shows a view from before the load: that of a transaction begun earlier (H17).

        Args:
            stamp: What had been applied before that view was taken; None when that is not known.
            view_from: The moment at which it was taken.
        """
        if stamp is None or (self.oldest is not None and self.oldest.generation != stamp.generation):
            self.alone = True
        elif self.oldest is None or stamp.position < self.oldest.position:
            self.oldest = stamp
        self.view_from = view_from if self.view_from is None else min(self.view_from, view_from)

    def keep_apart(self) -> None:
        """Keep the result, and those of the loads around this one, from everybody else: it may not be committed."""
        frame: Frame | None = self
        while frame is not None:
            frame.alone = True
            frame = frame.outer

    def inherit(self, read: Read, shows: float) -> None:
        """Take over what the result now depends on.

        Args:
            read: What was read.
            shows: The moment that it shows for sure.
        """
        self.scopes.update(dict.fromkeys(read.scopes))
        if read.remaining_s is not None:
            life_s = max(read.remaining_s, 0.0)
            self.life_s = life_s if self.life_s is None else min(self.life_s, life_s)
        if read.stale:
            self.stale = True
            self.unproven = self.unproven or read.proven_s is None
        elif read.source not in {"load", "flight"}:
            return  # an entry that was judged just now, by all that has been applied
        # What is built from something stale is no fresher than it: with the stale entry's stamp, the record that ended
        # that entry ends this one too. So it is with what was loaded from a replica that lags (H17): 1. record 11 ends
        # `a` 2. a view is loaded, stamp 11, and within it `a`, from a replica that shows 10 3. `a` is not kept, nor
        # may the view be, which would outlive it.
        if read.stamp is None or (self.oldest is not None and self.oldest.generation != read.stamp.generation):
            self.skipped = self.foreign = True
        elif self.oldest is None or read.stamp.position < self.oldest.position:
            self.oldest = read.stamp
        if shows > float("-inf"):
            self.view_from = shows if self.view_from is None else min(self.view_from, shows)


class Transaction(Protocol):
    """An open transaction of the source that has written."""

    def touches(self, scopes: Iterable[str]) -> bool:
        """Say whether it has changed any of these, and that is not published yet."""


class Surroundings(msgspec.Struct, frozen=True):
    """The load, the observers and the writing transactions around the code that runs."""

    frame: Frame | None = None
    observers: tuple[list[Read], ...] = ()
    transactions: tuple[Transaction, ...] = ()

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


surroundings: ContextVar[Surroundings | None] = ContextVar("unstale_surroundings", default=None)


def within(frame: Frame) -> Surroundings:
    """Give what surrounds the loader of a frame: that load, and whatever else is around the code that runs."""
    around = surroundings.get()
    return Surroundings(frame) if around is None else Surroundings(frame, around.observers, around.transactions)


def changed_here(scopes: Iterable[str]) -> bool:
    """Say whether a transaction around the code that runs has changed any of these scopes: no cache knows of it yet."""
    around = surroundings.get()
    return around is not None and any(transaction.touches(scopes) for transaction in around.transactions)


def enter(transaction: Transaction) -> None:
    """Let reads of the running context see that a transaction has written."""
    around = surroundings.get() or Surroundings()
    if transaction not in around.transactions:
        surroundings.set(Surroundings(around.frame, around.observers, (*around.transactions, transaction)))


def leave(transaction: Transaction) -> None:
    """Take a transaction that is over out of the running context: hits there are as quick as before."""
    around = surroundings.get()
    if around is None or transaction not in around.transactions:
        return
    rest = tuple(other for other in around.transactions if other is not transaction)
    empty = around.frame is None and not (around.observers or rest)
    surroundings.set(None if empty else Surroundings(around.frame, around.observers, rest))


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
