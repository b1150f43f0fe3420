"""The harness's own judgement of a run: which reads were stale and by how much, made from versions and times alone.

A read is stale when it served a version older than one whose commit had returned before the read began. Its age is
the time from that commit to the begin of the read. No cache is asked; the versions are the database's, and all times
are of one clock that all processes share.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

NEAR_S: Final = 0.01
NEVER: Final = math.inf


@dataclass
class ReadLog:
    """What one process read, one line for each read, in order of time: see `worker.Reads`."""

    process: str
    objects: Sequence[int]
    versions: Sequence[int]
    begins: Sequence[float]


@dataclass
class WriteLog:
    """What one process changed, one line for each changed object: see `worker.Writes`."""

    process: str
    objects: Sequence[int]
    versions: Sequence[int]
    committed: Sequence[float]
    announced: Sequence[float]


class ImpossibleReadError(Exception):
    """A read served a version that nobody committed: the logs are not complete, or the harness is wrong."""


@dataclass
class Staleness:
    """The stale reads of a run.

    Attributes:
        reads: All reads.
        stale: How many of them were stale.
        oldest_s: The greatest age of a stale read.
        beyond: Reads that served a version whose end had been announced longer ago than the bound.
        times: When the stale reads began.
        ages: Their ages.
    """

    reads: int = 0
    stale: int = 0
    oldest_s: float = 0.0
    beyond: int = 0
    times: array[float] = field(default_factory=lambda: array("d"))
    ages: array[float] = field(default_factory=lambda: array("d"))


def ends(writes: Iterable[WriteLog], column: str) -> dict[int, list[float]]:
    """Give, for each object, the moment at which each of its versions was over.

    The list's place v holds the first moment at which a version above v had been committed (or announced), infinity
    for the newest. A process may have been held up between its commit and its look at the clock, so it is the minimum
    over all later versions that counts.

    Args:
        writes: What all processes changed.
        column: `committed` or `announced`.
    """
    moments: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for log in writes:
        for number, version, moment in zip(log.objects, log.versions, getattr(log, column), strict=True):
            moments[number][version] = moment
    return {number: _over(known) for number, known in moments.items()}


def _over(known: Mapping[int, float]) -> list[float]:
    newest = max(known)
    later = accumulate((known.get(version, NEVER) for version in range(newest, 0, -1)), min, initial=NEVER)
    return list(later)[::-1]


def find_stale(reads: Iterable[ReadLog], writes: Sequence[WriteLog], bound_s: float = NEVER) -> Staleness:
    """Find the stale reads.

    Args:
        reads: What all processes read.
        writes: What all processes changed.
        bound_s: The bound that was promised, in seconds from the announcement of a change to its last stale read.

    Raises:
        ImpossibleReadError: A read served a version that nobody committed.
    """
    committed, announced = ends(writes, "committed"), ends(writes, "announced")
    found = Staleness()
    unchanged = [NEVER, NEVER]
    for log in reads:
        found.reads += len(log.begins)
        for number, version, begin in zip(log.objects, log.versions, log.begins, strict=True):
            over = committed.get(number, unchanged)
            try:
                moment = over[version]
            except IndexError:
                msg = f"{log.process} was served version {version} of object {number}, which nobody committed"
                raise ImpossibleReadError(msg) from None
            if begin >= moment:
                found.times.append(begin)
                found.ages.append(begin - moment)
                found.beyond += begin - announced[number][version] > bound_s
    found.stale = len(found.ages)
    found.oldest_s = max(found.ages, default=0.0)
    return found


@dataclass
class Delay:
    """How long a change took to reach another process; `reached` is False when the run ended before."""

    seconds: float
    reached: bool = True


def find_delays(reads: Iterable[ReadLog], writes: Sequence[WriteLog], near_s: float = NEAR_S) -> list[Delay]:
    """Give, for each change and each process that goes on reading its object, how long that served the old version.

    That is the time from the commit to the begin of the first read that served the new version, or a newer one;
    nothing, if the first read after the commit already did. A process goes on reading if no pause between its reads of
    the object is longer than `near_s`. Pauses are no delay: one around the commit leaves no sample; one before that
    first read, or the end of the log, leaves one that was not reached when the old version was served last. A process
    that changes an object itself is no other process.

    Args:
        reads: What all processes read.
        writes: What all processes changed.
        near_s: How near is continuous, in seconds.
    """
    delays: list[Delay] = []
    for log in reads:
        lines: defaultdict[int, list[int]] = defaultdict(list)
        for line, number in enumerate(log.objects):
            lines[number].append(line)
        histories: dict[int, tuple[list[float], list[int]]] = {}
        for change in writes:
            if change.process == log.process:
                continue
            for number, version, moment in zip(change.objects, change.versions, change.committed, strict=True):
                if number not in lines:
                    continue
                if number not in histories:
                    begins = [log.begins[line] for line in lines[number]]
                    newest = list(accumulate((log.versions[line] for line in lines[number]), max))
                    histories[number] = (begins, newest)
                delay = _delay(*histories[number], version, moment, near_s)
                if delay is not None:
                    delays.append(delay)
    return delays


def _delay(begins: list[float], newest: list[int], version: int, moment: float, near_s: float) -> Delay | None:
    after = bisect_left(begins, moment)
    if not 0 < after < len(begins) or begins[after] - moment > near_s or moment - begins[after - 1] > near_s:
        return None
    fresh = bisect_left(newest, version)
    if fresh <= after:
        return Delay(0.0)
    if fresh == len(begins) or begins[fresh] - begins[fresh - 1] > near_s:
        return Delay(begins[fresh - 1] - moment, reached=False)
    return Delay(begins[fresh] - moment)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the value below which a share of the ordered values lies; 0 for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def delay_percentile(delays: Sequence[Delay], share: float) -> Delay | None:
    """Give the delay within which a share of all changes arrived; None without any.

    Changes that had not arrived when the run ended count as long as they were seen (Kaplan and Meier: "Nonparametric
    estimation from incomplete observations", JASA 1958). If too few arrived, it is the longest delay seen, not reached.
    """
    survival, left = 1.0, len(delays)
    for delay in sorted(delays, key=lambda one: (one.seconds, not one.reached)):
        if delay.reached:
            survival *= 1 - 1 / left
            if survival <= 1 - share + 1e-12:
                return delay
        left -= 1
    return Delay(max(delay.seconds for delay in delays), reached=False) if delays else None
