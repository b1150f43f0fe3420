"""Figures: what was measured, against what target, and how it is written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.stats import median, quantile

FORMAT = 1
RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
APART = ("redis", "outbox", "tracking", "capture", "decoding", "django", "behind", "shop")
"""They need programs of servers. Each has a file of results, and a part of the page, of its own."""

Sense = Literal["<=", ">=", "<", "="]
Verdict = Literal["met", "missed", "failed", ""]


def results_of(name: str) -> Path:
    """Give the file of a benchmark that stands apart."""
    return RESULTS.with_name(f"{name}.json")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is made: `quick` trades precision for time, `traces` is the folder of the real traces."""

    quick: bool
    traces: Path


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: the median of its rounds, and from where to where nine tenths of them lie."""

    group: str
    name: str
    measured: float
    low: float
    high: float
    unit: str
    target: float | None = None
    sense: Sense = "<="
    note: str = ""
    verdict: Verdict = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run: its figures, and what they were measured with."""

    format: int
    date: str
    python: str
    system: str
    cpus: int
    quick: bool
    versions: dict[str, str]
    figures: list[Figure]


def figure(
    group: str,
    name: str,
    values: list[float],
    unit: str,
    *,
    target: float | None = None,
    sense: Sense = "<=",
    note: str = "",
) -> Figure:
    """Give the figure of its rounds' values, judged by its target if it has one."""
    measured = median(values)
    return Figure(
        group=group,
        name=name,
        measured=measured,
        low=quantile(values, 0.05),
        high=quantile(values, 0.95),
        unit=unit,
        target=target,
        sense=sense,
        note=note,
        verdict="" if target is None else judge(measured, sense, target),
    )


def judge(measured: float, sense: Sense, target: float) -> Verdict:
    """Say whether a figure meets its target."""
    met = {
        "<=": measured <= target,
        ">=": measured >= target,
        "<": measured < target,
        "=": measured == target,
    }[sense]
    return "met" if met else "missed"


def failed(group: str, reason: str) -> Figure:
    """Give the figure that stands for a benchmark that did not come to its end."""
    return Figure(group=group, name=group, measured=0.0, low=0.0, high=0.0, unit="", note=reason, verdict="failed")
