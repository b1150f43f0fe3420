"""Statistics of noisy rounds: medians, quantiles, ratios within a round, slopes; and rounds that interleave cases."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

Case = Callable[[int], float]
"""Does something so many times, and gives the seconds that it took."""


def quantile(values: Sequence[float], share: float) -> float:
    """Give the value below which a share of the values lies, between two of them in proportion."""
    if not values:
        msg = "no values, no quantile"
        raise ValueError(msg)
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """Give the middle value."""
    return quantile(values, 0.5)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Give ours by theirs, round by round: what slowed one of a round down slowed the other too."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Give the slope of the straight line that lies nearest to the points, by least squares."""
    mean_x = sum(x for x, _y in points) / len(points)
    mean_y = sum(y for _x, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _y in points)
    if not spread:
        msg = "all points have one x: they have no slope"
        raise ValueError(msg)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def growth(curve: Sequence[float]) -> float:
    """Give by how much a curve rises in its second half, as a share of its highest point so far."""
    half = curve[len(curve) // 2 :]
    peak = max(curve[: len(curve) // 2 + 1])
    return max(max(half) - peak, 0.0) / peak


def enough(case: Case, sample_s: float) -> int:
    """Give how often a case is to be done for one sample to take about so long."""
    count = 1
    while (took := case(count)) < sample_s / 4:
        count = max(count * 2, min(count * 50, int(count * sample_s / 2 / max(took, 1e-9))))
    return max(1, int(count * sample_s / took))


def interleave(
    cases: Mapping[str, Case], *, rounds: int, sample_s: float = 0.0, times: int = 0, seed: int = 1
) -> dict[str, list[float]]:
    """Measure cases in rounds, each case once a round and in an order of its own: seconds for one doing, by round.

    Args:
        cases: The cases.
        rounds: How many rounds.
        sample_s: About so long a sample of a case takes, in seconds.
        times: So often each case is done for a sample, in place of that: alike for all, whatever disturbed the first.
        seed: Of the orders.
    """
    order = random.Random(seed)
    counts = {name: times or enough(case, sample_s) for name, case in cases.items()}
    measured: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        names = list(cases)
        order.shuffle(names)
        for name in names:
            measured[name].append(cases[name](counts[name]) / counts[name])
    return measured
