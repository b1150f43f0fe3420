"""The simulator itself: what it promises to those who read its failures."""

from __future__ import annotations

import pytest

from unstale.testing.mixes import MIXES
from unstale.testing.sim import main
from unstale.testing.simulator import Simulator


@pytest.mark.parametrize("mix", MIXES)
def test_each_mix_runs_clean(mix: str) -> None:
    """A handful of seeds of every mix of faults finds nothing wrong."""
    for seed in range(8):
        outcome = Simulator(seed, mix).run()
        assert outcome.failure is None, f"make sim SEED={seed} MIX='{mix}': {outcome.failure}"


@pytest.mark.parametrize(("seed", "mix"), [(5848, "evicted marks")])
def test_seeds_that_failed_once(seed: int, mix: str) -> None:
    """5848: the simulated server was certain of its marks again, when all was healed, although it had lost some."""
    assert Simulator(seed, mix).run().failure is None


def test_a_seed_decides_everything() -> None:
    """One seed gives one run, line by line."""
    one, two = (Simulator(7, "all", trace=True).run() for _ in range(2))
    assert one.trace == two.trace
    assert one.trace


def test_most_reads_are_served_from_a_cache() -> None:
    """What is proven is proven of a cache: most reads do not load."""
    outcomes = [Simulator(seed, "calm").run() for seed in range(20)]
    assert sum(outcome.cached for outcome in outcomes) > sum(outcome.reads for outcome in outcomes) / 2


def test_its_command_tells_how_many_seeds_ran(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says what it did, and exits with 0 when nothing was wrong."""
    assert main(["--seeds", "20"]) == 0
    assert "20 seeds" in capsys.readouterr().out


def test_its_command_replays_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """One seed of one mix can be run again."""
    assert main(["--seed", "3", "--mix", "old fills"]) == 0
    assert "seed 3" in capsys.readouterr().out
