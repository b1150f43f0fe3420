"""The figures of a run: how they are counted, written and told."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unstale.cli import compare
from unstale.cli.app import app
from unstale.cli.checker import Delay, ReadLog, WriteLog
from unstale.cli.measures import POINTS, delay, long_span, measure, rows, share, span
from unstale.cli.plan import Name
from unstale.cli.runner import Run
from unstale.cli.table import sentences


def run_of(strategy: Name, *ages_s: float) -> Run:
    """Make a run of ten seconds with one fresh read, and one stale read for each age."""
    begins = [0.5, *(2.0 + age for age in ages_s)]
    return Run(
        strategy,
        began=0.0,
        seconds=10.0,
        reads=[ReadLog("worker-0", [0] * len(begins), [1] * len(begins), begins)],
        tooks=[array("f", [0.001] * len(begins))],
        writes=[WriteLog("writer-0", [0], [2], [2.0], [2.25])],
        loads=array("d", [0.5, 0.6, 9.99, 10.5]),
        troubles=Counter(),
    )


def test_figures_of_a_run() -> None:
    """Reads, staleness, what lies beyond the bound, and both series come from the logs."""
    figures = measure(run_of("unstale", 0.5, 1.5), bound_s=1.0)
    assert (figures.reads, figures.stale, figures.beyond, figures.oldest_s) == (3, 2, 1, 1.5)
    assert (figures.reads_per_s, figures.changes, figures.loads) == (0.3, 1, 4)
    assert figures.hit_ratio == 0.0
    assert figures.stale_share == pytest.approx(2 / 3)
    assert len(figures.ages) == len(figures.load_rates) == POINTS
    assert [age for age in figures.ages if age] == [0.5, 1.5]
    assert sum(figures.load_rates) * figures.step_s == pytest.approx(4)
    assert figures.spread_p50 is None


def test_only_unstale_can_break_its_bound() -> None:
    """All strategies are measured by the bound, and the one that promised it is judged."""
    assert measure(run_of("unstale", 1.5), bound_s=1.0).broken
    assert not measure(run_of("unstale", 1.2), bound_s=1.0).broken
    assert not measure(run_of("ttl", 1.5), bound_s=1.0).broken


def told(*runs: Run) -> str:
    """Give the sentences about some runs."""
    return " ".join(sentences([measure(run, 1.0) for run in runs], "1s"))


def test_sentences_say_what_the_table_shows() -> None:
    """A broken bound is said as plainly as a kept one, and so is a run without any stale read."""
    assert "this run has failed" in told(run_of("ttl", 1.5), run_of("unstale", 1.5))
    kept = told(run_of("none"), run_of("ttl", 1.5), run_of("delete", 0.5), run_of("unstale", 0.5))
    assert "TTL only 50.0 % and delete on write 50.0 %" in kept
    assert "longer than its bound of 1s (TTL only once and delete on write never)" in kept
    assert "With unstale no read did." in told(run_of("ttl", 1.5), run_of("unstale"))
    assert told(run_of("none")) == ""


def test_broken_bound_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If unstale serves anything beyond its bound, the demo exits with 1, and says so."""
    monkeypatch.setattr(compare, "run_strategy", lambda name, *_rest: run_of(name, 1.5))
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["demo", "--report", str(tmp_path / "plots.html")])
    assert result.exit_code == 1
    assert "That must never happen: this run has failed." in result.stdout
    assert 'class="unstale bad"' in (tmp_path / "plots.html").read_text(encoding="utf-8")


def test_table_of_a_replay_tells_how_far_it_came() -> None:
    """A replay has a line more: the part of the trace that was done."""
    demo, replay = (rows([measure(run_of("ttl", 0.5), 1.0, length)], "1s") for length in (0, 12))
    assert ("of the trace", ["25.0 %"]) in replay
    assert len(replay) == len(demo) + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "0"), (2.5e-7, "0.25 µs"), (1.234e-5, "12.3 µs"), (0.001, "1 ms"), (0.1234, "123 ms"),
        (0.9999, "1000 ms"), (1.5, "1.5 s"), (123.4, "123 s"),
    ],
)  # fmt: skip
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    """A duration is written in the unit that people read."""
    assert span(seconds) == text


def test_long_durations() -> None:
    """Minutes, hours and days have a unit of their own."""
    assert [long_span(value) for value in (59, 90, 7200, 14 * 86_400)] == ["59 s", "1.5 min", "2 h", "14 d"]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (0.0, "0 %"), (1.0, "100 %"), (0.5, "50.0 %"), (0.012, "1.2 %"), (0.0004, "0.04 %"), (0.99996, "99.996 %"),
        (1e-9, "< 0.0001 %"), (1 - 1e-9, "> 99.9999 %"),
    ],
)  # fmt: skip
def test_shares_are_not_rounded_away(part: float, text: str) -> None:
    """A share is 0 or 100 % only if it is exactly that."""
    assert share(part) == text


def test_delays_that_were_not_reached() -> None:
    """What had not arrived is written as longer than it was seen."""
    assert [delay(one) for one in (None, Delay(0.5), Delay(0.5, reached=False))] == ["-", "500 ms", "> 500 ms"]
