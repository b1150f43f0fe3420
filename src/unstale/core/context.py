"""What surrounds a read: the load that it is part of, and the observers of the block that it stands in.

Both hang on one context variable, so that a hit outside of any load and any block pays one look-up for the two.
"""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar

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
        stale: Something stale was read, and so the result is; `unproven`: and nothing proved it.
        oldest: The stamp of the oldest stale entry that was read: the result's cannot be later.
        version: The source version given by `version()`.
        origin: The origin of which its load holds a place.
        log: The generation of the log in which it is stamped.
        after: The ticket that the load answers: what it reads through the cache must be as fresh.
    """

    __slots__ = (
        "after",
        "flight",
        "keys",
        "life_s",
        "log",
        "oldest",
        "origin",
        "outer",
        "scopes",
        "skipped",
        "stale",
        "ttl_s",
        "unproven",
        "version",
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
        self.skipped = False
        self.stale = False
        self.unproven = False
        self.oldest: Stamp | None = None
        self.version: int | Version | None = None
        self.after = after
        self.origin: object = None
        self.log: object = None

    def holds(self, origin: object) -> bool:
        """Say whether this load, or one that it runs in, holds a place of an origin: it needs no second one."""
        if origin is None:
            return False
        return self.origin is origin or (self.outer is not None and self.outer.holds(origin))

    def inherit(self, read: Read) -> None:
        """Take over what the result now depends on."""
        self.scopes.update(dict.fromkeys(read.scopes))
        if read.remaining_s is not None:
            life_s = max(read.remaining_s, 0.0)
            self.life_s = life_s if self.life_s is None else min(self.life_s, life_s)
        if not read.stale:
            return
        self.stale = True
        self.unproven = self.unproven or read.proven_s is None
        # What is built from something stale is no fresher than it: with the stale entry's stamp, the record that ended
        # that entry ends this one too.
        if read.stamp is None or (self.oldest is not None and self.oldest.generation != read.stamp.generation):
            self.skipped = True
        elif self.oldest is None or read.stamp.position < self.oldest.position:
            self.oldest = read.stamp


class Surroundings(msgspec.Struct, frozen=True):
    """The load and the observers around the code that runs."""

    frame: Frame | None = None
    observers: tuple[list[Read], ...] = ()

    def note(self, read: Read, log: object) -> None:
        """Tell observers and the load under way of a read; `log` names the log that its stamp belongs to."""
        for reads in self.observers:
            reads.append(read)
        frame = self.frame
        if frame is None:
            return
        if frame.log is None or frame.log == log:
            frame.inherit(read)
        else:
            # It depends on scopes of another cache, whose records this one never hears of: it cannot be kept.
            frame.skipped = True


surroundings: ContextVar[Surroundings | None] = ContextVar("unstale_surroundings", default=None)


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
