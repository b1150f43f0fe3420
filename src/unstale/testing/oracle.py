"""The oracle of the simulator: it knows every commit and every acknowledgement in true time, and judges each read."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from unstale.core.record import Stamp


class StaleReadError(AssertionError):
    """A read served something older than the protocol allows."""


class Change(msgspec.Struct):
    """A version of a key that was committed, and what was heard of its invalidation."""

    version: int
    committed: float
    row: int = 0
    acknowledged: float | None = None
    soft: bool = False
    waited: float | None = None
    stamp: Stamp | None = None


class Truth:
    """The source of truth: every version of every key, with the moment of its commit."""

    def __init__(self, keys: list[str]) -> None:
        self.changes: dict[str, list[Change]] = {key: [Change(0, 0.0, acknowledged=0.0)] for key in keys}
        self.timeline = "t0"
        self.versions = 0

    def commit(self, key: str, now: float, *, soft: bool = False) -> Change:
        """Commit a version of a key. Versions are unique and grow; rows count as the database would count them."""
        self.versions += 1
        changes = self.changes[key]
        change = Change(self.versions, now, changes[-1].row + 1, soft=soft)
        changes.append(change)
        return change

    def view(self, key: str, at: float) -> Change:
        """Give the change that a view of a moment shows."""
        changes = self.changes[key]
        return changes[max(0, bisect.bisect_right(changes, at, key=lambda change: change.committed) - 1)]

    def restore(self, now: float) -> None:
        """Restore the database from a backup: other content for every key, row versions used again, another timeline.

        No record tells of it; but whoever reads the source to its end sees the timeline.
        """
        self.timeline = f"t{now:.3f}"
        for key in self.changes:
            change = self.commit(key, now)
            change.row = max(0, change.row - 3)
            change.acknowledged = now


class Oracle:
    """Judges reads.

    Args:
        truth: What was committed.
        lag_s: How far the replicas lag that are loaded from: no cache can be fresher than its source.
        measured: Loads go to the primary where a replica is further behind than a read may be stale.
    """

    def __init__(self, truth: Truth, lag_s: float = 0.0, *, measured: bool = False) -> None:
        self.truth = truth
        self.lag_s = lag_s
        self.measured = measured

    def required(self, key: str, begun: float, bound_s: float, *, hard_only: bool = False) -> int:
        """Give the oldest version that a read begun then, with that bound, may serve."""
        limit = begun - (bound_s if self.measured else max(bound_s, self.lag_s))
        oldest = 0
        for change in self.truth.changes[key]:
            told = change.acknowledged is not None and change.acknowledged <= limit
            waited = change.waited is not None and change.waited <= begun - self.lag_s
            if (told or waited) and not (hard_only and change.soft):
                oldest = max(oldest, change.version)
        return oldest

    def acknowledged(self, key: str, begun: float) -> int:
        """Give the oldest version that a strong read begun then may serve."""
        return max(
            (c.version for c in self.truth.changes[key] if c.acknowledged is not None and c.acknowledged <= begun),
            default=0,
        )

    def check(self, key: str, got: int, oldest: int, why: str) -> None:
        """Judge one value.

        Raises:
            StaleReadError: It is older than it may be.
        """
        if got < oldest:
            msg = f"{key}: served version {got}, but {oldest} was due ({why})"
            raise StaleReadError(msg)
