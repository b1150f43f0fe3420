"""Marks: for each scope, where it was last invalidated; and the floor above which a node's marks are complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from itertools import islice

import msgspec

from unstale.core.record import EVERYTHING, Record, Version

MARKS_MAX = 200_000
FORGET_SHARE = 64  # of the marks kept, the share that is forgotten at a time


class Verdict(IntEnum):
    """What the marks say of an entry: the higher, the worse."""

    FRESH = 0
    SOFT = 1
    DEAD = 2


FRESH, SOFT, DEAD = Verdict  # as names of their own: Python 3.11 takes ten times as long to look one up in its enum


class Severity(msgspec.Struct, frozen=True, array_like=True):
    """The last invalidations of one kind, hard or soft.

    Attributes:
        last: Position of the last record of any sort.
        plain: Position of the last record without a version.
        version: Highest version named, within `timeline`; 0 with `last == plain` means none.
        timeline: The source's timeline in which `version` counts.
    """

    last: int = 0
    plain: int = 0
    version: int | None = None
    timeline: str = ""

    def ends(self, position: int, version: Version | None) -> bool:
        """Say whether an entry stamped `position` is ended; pass a version only for the entry's own key (H7, H16)."""
        if version is None or self.version is None or version.timeline != self.timeline:
            return self.last > position
        return self.plain > position or self.version > version.value

    def raised(self, position: int, version: Version | None) -> Severity:
        """Give this severity after one more record."""
        last = max(self.last, position)
        if version is None:
            return Severity(last, max(self.plain, position), self.version, self.timeline)
        if self.version is None or self.timeline == version.timeline:
            highest = version.value if self.version is None else max(self.version, version.value)
            return Severity(last, self.plain, highest, version.timeline)
        # Versions of another timeline cannot be compared any more: they count by their positions.
        return Severity(last, max(self.plain, self.last), version.value, version.timeline)

    def merged(self, other: Severity) -> Severity:
        """Give the severity that ends all that either ends, within one timeline of the source."""
        if other.version is None:
            return Severity(max(self.last, other.last), max(self.plain, other.plain), self.version, self.timeline)
        newer = self.raised(other.last, Version(other.version, other.timeline))
        return Severity(newer.last, max(newer.plain, other.plain), newer.version, newer.timeline)


NEVER = Severity()


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The last hard and the last soft invalidations of one scope, kept apart (H34)."""

    hard: Severity = NEVER
    soft: Severity = NEVER

    @property
    def last(self) -> int:
        """Position of the latest record that named the scope."""
        return max(self.hard.last, self.soft.last)


def full(mark: int | Mark) -> Mark:
    """Expand the short form: an integer is the position of one hard, unversioned invalidation."""
    return Mark(hard=Severity(mark, mark)) if isinstance(mark, int) else mark


def raised(mark: int | Mark | None, position: int, record: Record) -> int | Mark:
    """Give a scope's mark after `record` at `position`, in the short form where that says all (most marks)."""
    if not record.soft and record.version is None and not isinstance(mark, Mark):
        return position if mark is None or position > mark else mark
    old = full(mark or 0)
    if record.soft:
        return Mark(old.hard, old.soft.raised(position, record.version))
    return Mark(old.hard.raised(position, record.version), old.soft)


def merged(mark: int | Mark | None, other: int | Mark) -> int | Mark:
    """Give the mark that ends all that either ends; of two timelines of the source, the second's versions are kept."""
    if mark is None:
        return other
    if isinstance(mark, int) and isinstance(other, int):
        return max(mark, other)
    one, two = full(mark), full(other)
    return Mark(one.hard.merged(two.hard), one.soft.merged(two.soft))


def judge(
    marks: Mapping[str, int | Mark], scopes: Iterable[str], position: int, key: str, version: Version | None
) -> Verdict:
    """Say whether an entry is still good.

    Args:
        marks: The marks known.
        scopes: All scopes of the entry; `*` is always among them, named or not.
        position: The position of the entry's stamp.
        key: The entry's own key: only for it does a version speak, since a tag's version is another row's (H7).
        version: The entry's source version, if its loader gave one.
    """
    verdict = FRESH
    for scope in (*scopes, EVERYTHING):
        mark = marks.get(scope)
        if mark is None:
            continue
        if isinstance(mark, int):
            if mark > position:
                return DEAD
            continue
        own = version if scope == key else None
        if mark.hard.ends(position, own):
            return DEAD
        if mark.soft.ends(position, own):
            verdict = SOFT
    return verdict


class Marks:
    """A node's own marks, complete for positions above `floor`, bounded by number.

    Kept in the order of their last raise, so that the oldest go first; forgetting one raises the floor to it.
    """

    __slots__ = ("_max", "by_scope", "floor")

    def __init__(self, marks_max: int = MARKS_MAX) -> None:
        self._max = marks_max
        self.by_scope: dict[str, int | Mark] = {}
        self.floor = 0

    def reset(self, floor: int) -> None:
        """Forget all; complete from `floor` on."""
        self.by_scope.clear()
        self.floor = floor

    def apply(self, position: int, record: Record) -> None:
        """Raise the marks of a record's scopes."""
        by_scope, plain = self.by_scope, not record.soft and record.version is None
        for scope in record.scopes:
            mark = by_scope.pop(scope, None)  # so that it goes to the end
            if plain and (mark is None or (type(mark) is int and mark < position)):  # as `raised` does, for most
                by_scope[scope] = position
            else:
                by_scope[scope] = raised(mark, position, record)
        if len(by_scope) > self._max:
            # Many at once: to find the first of a dictionary means to pass over all that has been taken out before it.
            surplus = len(by_scope) - self._max + self._max // FORGET_SHARE
            for oldest in list(islice(by_scope, surplus)):
                mark = by_scope.pop(oldest)
                self.floor = max(self.floor, mark if type(mark) is int else full(mark).last)

    def judge(self, scopes: Iterable[str], position: int, key: str, version: Version | None) -> Verdict:
        """Judge an entry stamped at or above the floor; see `judge`."""
        return judge(self.by_scope, scopes, position, key, version)
