"""What is measured in a soak, what it may come to, and whether it has grown (H27)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

THIRDS: Final = 3
SAMPLES_MIN: Final = 30  # fewer say nothing about a trend


class Limit(NamedTuple):
    """What a series may do.

    Attributes:
        unit: Of its values, for people.
        bound: No value may be higher.
        share: It may grow by this share of itself between the second and the last third of the run;
        slack: or by so much, where that is more.
    """

    unit: str = ""
    bound: float = math.inf
    share: float = 0.1
    slack: float = 0.0


class Trend(NamedTuple):
    """A series in short: the medians of its second and its last third, and its highest value.

    The first third is for warming up: tables fill, allocators find their size.
    """

    middle: float
    last: float
    highest: float

    @property
    def growth(self) -> float:
        """How much it has grown from one third to the next."""
        return self.last - self.middle


def trend(values: Sequence[float]) -> Trend:
    """Give a series in short; it has a value at least."""
    third = len(values) // THIRDS
    middle, last = values[third : 2 * third] or values, values[2 * third :]
    return Trend(median(middle), median(last), max(values))


def allowed(limit: Limit, seen: Trend) -> float:
    """Give how much a series may grow from its second to its last third."""
    return max(limit.slack, limit.share * seen.middle)


def fault(name: str, limit: Limit, seen: Trend) -> str:
    """Say what is wrong with a series; nothing, if nothing is."""
    if seen.highest > limit.bound:
        return f"{name} came to {quantity(seen.highest, limit)}; its bound is {quantity(limit.bound, limit)}"
    if seen.growth > allowed(limit, seen):
        return (
            f"{name} grew from {quantity(seen.middle, limit)} in the second third of the run to "
            f"{quantity(seen.last, limit)} in the last; {quantity(allowed(limit, seen), limit)} of growth are allowed"
        )
    return ""


def judge(limits: Mapping[str, Limit], samples: Mapping[str, Sequence[float]]) -> list[str]:
    """Judge all series: a sentence for each that has grown, or was never measured often enough to tell."""
    found = []
    for name, limit in limits.items():
        values = samples.get(name, ())
        if len(values) < SAMPLES_MIN:
            found.append(f"{name} was measured {len(values)} times, and {SAMPLES_MIN} are needed: let it run longer")
        elif sentence := fault(name, limit, trend(values)):
            found.append(sentence)
    return found


def rows(limits: Mapping[str, Limit], samples: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, ...]]:
    """Give a row for each series that was measured: name, thirds, growth, what is allowed, highest, bound, verdict."""
    for name, limit in limits.items():
        if not samples.get(name):
            continue
        seen = trend(samples[name])
        bound = "-" if limit.bound == math.inf else quantity(limit.bound, limit)
        yield (
            name,
            quantity(seen.middle, limit),
            quantity(seen.last, limit),
            f"{seen.growth:+,.{digits(limit)}f}",
            quantity(allowed(limit, seen), limit),
            quantity(seen.highest, limit),
            bound,
            "GREW" if fault(name, limit, seen) else "flat",
        )


def digits(limit: Limit) -> int:
    """Give the decimals that a series is shown with."""
    return 2 if limit.unit == "MB" else 0


def quantity(value: float, limit: Limit) -> str:
    """Write a value with its unit."""
    return f"{value:,.{digits(limit)}f} {limit.unit}".rstrip()


def merged(samples: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Give series of samples."""
    series: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.items():
            series.setdefault(name, []).append(value)
    return series
