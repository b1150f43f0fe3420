"""The oracle of the fault tests: it knows every commit, and says which reads were staler than the bound allows.

A read is stale if the version that it returned had been replaced by a commit before the read began. It is stale beyond
the bound if an invalidation of that commit, or of a later one, had been acknowledged more than the bound before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Served = Mapping[tuple[int, int], float]


class Commit(NamedTuple):
    """A commit whose invalidation was acknowledged.

    Attributes:
        number: Which item was changed.
        version: What it is since.
        acknowledged: The moment, on the clock that all processes share, at which the invalidation had returned.
    """

    number: int
    version: int
    acknowledged: float


class Seen(NamedTuple):
    """What one reader has seen.

    Attributes:
        reads: How many reads it made.
        stale: How many of them were stale.
        last: For items and versions that were served stale the begin of the last such read.
        errors: How many reads raised, by the error's class.
        slowest_s: The longest that a read took, in seconds.
    """

    reads: int
    stale: int
    last: Served
    errors: Mapping[str, int]
    slowest_s: float


class Verdict(NamedTuple):
    """What the oracle says of all readers.

    Attributes:
        reads: How many reads there were.
        stale: How many of them were stale, within the bound or not.
        oldest_s: How long after the acknowledgement the oldest of them began, in seconds.
        beyond: The items and versions that were served beyond the bound, and for how long.
        errors: How many reads raised, by the error's class.
        slowest_s: The longest that a read took, in seconds.
    """

    reads: int
    stale: int
    oldest_s: float
    beyond: dict[tuple[int, int], float]
    errors: dict[str, int]
    slowest_s: float


def replaced_at(commits: Iterable[Commit]) -> dict[int, list[tuple[int, float]]]:
    """Give, for each item, versions and the moment since which it was told that they, and all before, are over.

    A later version's invalidation ends the earlier versions too, should theirs never have been acknowledged.
    """
    told: dict[int, list[tuple[int, float]]] = {}
    earliest: dict[int, float] = {}
    for number, version, acknowledged in sorted(commits, key=lambda commit: -commit.version):
        earliest[number] = min(earliest.get(number, math.inf), acknowledged)
        told.setdefault(number, []).append((version, earliest[number]))
    for steps in told.values():
        steps.reverse()
    return told


def judge(commits: Iterable[Commit], readers: Iterable[Seen], bound_s: float) -> Verdict:
    """Judge what readers have seen.

    Args:
        commits: All commits whose invalidation was acknowledged.
        readers: What each reader has seen.
        bound_s: The bound that was promised, in seconds.
    """
    told, readers = replaced_at(commits), tuple(readers)
    oldest_s = 0.0
    beyond: dict[tuple[int, int], float] = {}
    errors: dict[str, int] = {}
    for reader in readers:
        for (number, version), began in reader.last.items():
            over = next((at for later, at in told.get(number, ()) if later > version), math.inf)
            oldest_s = max(oldest_s, began - over)
            if began - over > bound_s:
                beyond[number, version] = max(beyond.get((number, version), 0.0), began - over)
        for name, count in reader.errors.items():
            errors[name] = errors.get(name, 0) + count
    return Verdict(
        sum(reader.reads for reader in readers),
        sum(reader.stale for reader in readers),
        oldest_s,
        beyond,
        errors,
        max((reader.slowest_s for reader in readers), default=0.0),
    )
