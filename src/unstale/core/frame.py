"""One load under way, as the code that it runs sees it: what its result depends on, and how old it may be."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from unstale.core.record import Stamp, Version

if TYPE_CHECKING:
    from unstale.core.context import Read


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
        primary: A replica that lags must not answer, or had better not.
        told: The loader has asked, and was told so.
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
        "primary",
        "scopes",
        "seen_from",
        "skipped",
        "stale",
        "told",
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
        self.primary = after is not None
        self.told = False

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
