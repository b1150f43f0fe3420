from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.soak.run import NODE_LIMITS, enough
from tests.soak.truth import RING, Oracle, Truth
from tests.soak.verdict import SAMPLES_MIN, Limit, judge, merged, rows, trend
from unstale.clock import boottime

LIMIT = Limit("MB", share=0.05, slack=0.5)
NOISE = (0.0, 3.0, -2.0, 1.0, -3.0)


def series(begin: float, per_sample: float) -> list[float]:
    """Give a noisy series that warms up in its first third, and then grows by so much a sample."""
    return [begin + min(number, 40) + per_sample * number + NOISE[number % len(NOISE)] / 10 for number in range(120)]


def test_h27_a_series_that_grows_is_named() -> None:
    """Whatever grows steadily by more than is allowed is found, with its name and what it came to."""
    (found,) = judge({"node: memory": LIMIT, "node: marks": LIMIT}, {
        "node: memory": series(40.0, 0.2), "node: marks": series(40.0, 0.0),
    })  # fmt: skip
    assert found.startswith("node: memory grew from 91.85 MB in the second third of the run to 99.85 MB in the last")
    assert [row[-1] for row in rows({"node: memory": LIMIT}, {"node: memory": series(40.0, 0.2)})] == ["GREW"]


@pytest.mark.parametrize("per_sample", [0.0, 0.05, -0.5])
def test_h27_a_series_that_only_warms_up_is_flat(per_sample: float) -> None:
    """Growth in the first third, noise, a little growth and any shrinking are no findings."""
    assert judge({"memory": LIMIT}, {"memory": series(40.0, per_sample)}) == []


def test_h27_single_peaks_are_no_growth() -> None:
    """Medians do not see a few high samples, even if all of them lie in the last third."""
    values = [10.0] * 120
    values[-15:] = [1000.0] * 15
    assert judge({"memory": LIMIT}, {"memory": values}) == []


def test_h27_a_bound_holds_for_every_sample() -> None:
    """A count that was above its bound once is found, whatever its trend."""
    values = [10.0] * 120
    values[3] = 21.0
    assert judge({"ids": Limit(bound=20)}, {"ids": values}) == ["ids came to 21; its bound is 20"]


def test_h27_what_was_hardly_measured_is_not_flat() -> None:
    """A series without enough samples, or without any, is a finding."""
    few = judge({"memory": LIMIT, "marks": LIMIT}, {"memory": [1.0] * (SAMPLES_MIN - 1)})
    assert len(few) == 2
    assert all("let it run longer" in sentence for sentence in few)
    assert "SECONDS=30" in enough(10.0)
    assert not enough(30.0)


def test_h27_one_object_a_step_is_noticed_within_a_minute() -> None:
    """The tolerance of a node's blocks is below what a leak of one object a step comes to in a minute."""
    steps_a_sample = 40
    leaking = [170_000.0 + steps_a_sample * number for number in range(120)]
    assert len(judge({"blocks": NODE_LIMITS["blocks"]}, {"blocks": leaking})) == 1


def test_trends_of_short_series_are_defined() -> None:
    """A soak that was interrupted at once has a table too."""
    assert trend([7.0]).growth == 0.0
    assert merged([{"a": 1.0}, {"a": 2.0, "b": 3.0}]) == {"a": [1.0, 2.0], "b": [3.0]}
    assert list(rows({"a": LIMIT}, {})) == []


def test_h27_the_oracle_needs_no_history(tmp_path: Path) -> None:
    """Reads are judged by the earliest acknowledgement of what replaced them, of the latest commits alone."""
    truth = Truth(tmp_path / "truth")
    oracle = Oracle(Truth(tmp_path / "truth"), bound_s=0.0)
    early = oracle.before(5)
    first = truth.commit(5)
    early(0)
    assert (oracle.reads, oracle.stale) == (1, 0), "it began before the commit"
    oracle.before(5)(0)
    assert (oracle.stale, oracle.beyond) == (1, 0), "nobody had been told of it"
    before = boottime()
    truth.acknowledge(5, first)
    assert before <= truth.replaced_at(5, 0) <= boottime()
    second = truth.commit(5)
    truth.acknowledge(5, second)
    assert truth.replaced_at(5, 0) < truth.replaced_at(5, first) < math.inf
    oracle.before(5)(0)
    oracle.before(5)(second)
    assert (oracle.reads, oracle.stale, oracle.beyond) == (4, 2, 1)
    assert truth.replaced_at(5, second) == truth.replaced_at(6, 0) == math.inf
    for _ in range(2 * RING):
        truth.acknowledge(5, truth.commit(5))
    assert truth.replaced_at(5, 0) > before
    assert truth.current(6) == 0
