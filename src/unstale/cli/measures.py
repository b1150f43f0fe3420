"""The figures of a run, the same for each strategy, and how they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from unstale.cli.checker import Delay, delay_percentile, find_delays, find_stale, percentile
from unstale.cli.plan import STRATEGIES, Name
from unstale.cli.runner import Run

POINTS: Final = 60
SAMPLES_MIN: Final = 20  # fewer changes say nothing of how long they take; the 99th percentile needs more


@dataclass(frozen=True)
class Measures:
    """The figures of one strategy.

    Attributes:
        strategy: Which.
        seconds: How long the work went on.
        reads: Reads of all workers.
        changes: Objects that were given a new version.
        requests: Length of the trace that was replayed; 0 without one.
        p50_s: The middle duration of a read.
        p99_s: The duration that one read in a hundred exceeds.
        loads: Reads of the truth.
        stale: Stale reads.
        oldest_s: The greatest age of a stale read.
        beyond: Stale reads beyond the bound, which unstale alone has promised to keep.
        spread_p50: The middle time that a change took to reach another process.
        spread_p99: The time that one change in a hundred exceeded.
        spread_count: How many times of that kind were taken.
        step_s: The width of an interval of the two series below.
        ages: For each interval, the greatest age of a stale read that began in it; 0 without any.
        load_rates: For each interval, loads a second.
        troubles: What failed in the processes without any caller seeing it.
    """

    strategy: Name
    seconds: float
    reads: int
    changes: int
    requests: int
    p50_s: float
    p99_s: float
    loads: int
    stale: int
    oldest_s: float
    beyond: int
    spread_p50: Delay | None
    spread_p99: Delay | None
    spread_count: int
    step_s: float
    ages: list[float]
    load_rates: list[float]
    troubles: dict[str, int]

    @property
    def broken(self) -> bool:
        """A promise was broken."""
        return self.strategy == "unstale" and self.beyond > 0

    @property
    def title(self) -> str:
        """The strategy's name for people."""
        return STRATEGIES[self.strategy]

    @property
    def reads_per_s(self) -> float:
        """Reads a second, of all workers together."""
        return self.reads / self.seconds

    @property
    def hit_ratio(self) -> float:
        """The share of reads that needed no load."""
        return max(0.0, 1 - self.loads / self.reads) if self.reads else 0.0

    @property
    def stale_share(self) -> float:
        """The share of reads that were stale."""
        return self.stale / self.reads if self.reads else 0.0


def measure(run: Run, bound_s: float, requests: int = 0) -> Measures:
    """Judge a run, and give its figures.

    Args:
        run: The run.
        bound_s: The bound that unstale has to keep, in seconds.
        requests: Length of the trace that was replayed; 0 without one.

    Raises:
        ImpossibleReadError: The logs contradict each other.
    """
    found = find_stale(run.reads, run.writes, bound_s)
    delays = find_delays(run.reads, run.writes)
    tooks = sorted(chain.from_iterable(run.tooks))
    step_s = run.seconds / POINTS
    ages = [0.0] * POINTS
    for moment, age in zip(found.times, found.ages, strict=True):
        place = _place(moment - run.began, step_s)
        ages[place] = max(ages[place], age)
    loads = Counter(_place(moment - run.began, step_s) for moment in run.loads)
    return Measures(
        run.strategy,
        run.seconds,
        found.reads,
        sum(len(log.objects) for log in run.writes),
        requests,
        percentile(tooks, 0.5),
        percentile(tooks, 0.99),
        len(run.loads),
        found.stale,
        found.oldest_s,
        found.beyond,
        delay_percentile(delays, 0.5) if len(delays) >= SAMPLES_MIN else None,
        delay_percentile(delays, 0.99) if len(delays) >= 5 * SAMPLES_MIN else None,
        len(delays),
        step_s,
        ages,
        [loads[place] / step_s for place in range(POINTS)],
        dict(run.troubles),
    )


def _place(moment_s: float, step_s: float) -> int:
    return min(max(int(moment_s / step_s), 0), POINTS - 1)


def span(seconds: float | None) -> str:
    """Write a duration with three digits and its unit."""
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor or unit == "µs":
            value = seconds / factor
            if value == 0:
                return "0"
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"  # noqa: PLR2004 - three digits
    raise AssertionError


def long_span(seconds: float) -> str:
    """Write a duration that people count in minutes, hours or days."""
    for unit, factor in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return span(seconds)


def delay(one: Delay | None) -> str:
    """Write how long a change took to spread."""
    if one is None:
        return "-"
    return span(one.seconds) if one.reached else f"> {span(one.seconds)}"


def share(part: float) -> str:
    """Write a share as a percentage that is not rounded to 0 or 100."""
    if part in {0.0, 1.0}:
        return f"{part * 100:.0f} %"
    for digits in range(1, 5):
        text = f"{part:.{digits}%}"
        if float(text[:-1]) not in {0.0, 100.0}:
            return text.replace("%", " %")
    return "< 0.0001 %" if part < 0.5 else "> 99.9999 %"  # noqa: PLR2004 - nearer to which end


def _times(part: float) -> str:
    return f"{part:.1f} times" if part >= 1 else share(part)


BEYOND: Final = "stale for over"


def rows(measures: Sequence[Measures], bound: str) -> list[tuple[str, list[str]]]:
    """Give the table: for each figure, its name and the text for each strategy."""

    def row(name: str, texts: list[str]) -> tuple[str, list[str]]:
        return name, texts

    parts = [(one.reads + one.changes) / one.requests for one in measures if one.requests]
    return [
        *([row("of the trace", [_times(part) for part in parts])] if parts else []),
        row("reads a second", [f"{one.reads_per_s:,.0f}" for one in measures]),
        row("changes a second", [f"{one.changes / one.seconds:,.0f}" for one in measures]),
        row("a read, p50", [span(one.p50_s) for one in measures]),
        row("a read, p99", [span(one.p99_s) for one in measures]),
        row("loads from the origin", [f"{one.loads:,}" for one in measures]),
        row("hit ratio", [share(one.hit_ratio) for one in measures]),
        row("stale reads", [f"{one.stale:,}" for one in measures]),
        row("  their share", [share(one.stale_share) for one in measures]),
        row("oldest value served", [span(one.oldest_s) for one in measures]),
        row(f"{BEYOND} {bound}", [f"{one.beyond:,}" for one in measures]),
        row("propagation, p50", [delay(one.spread_p50) for one in measures]),
        row("propagation, p99", [delay(one.spread_p99) for one in measures]),
    ]
