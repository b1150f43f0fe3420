"""Each defence taken out, one at a time: the simulator has to notice."""

from __future__ import annotations

import pytest

from tests.sim.directed import SCHEDULES
from tests.sim.mutants import MUTANTS, Mutant, applied
from unstale.testing.mixes import MIXES
from unstale.testing.simulator import Simulator

SEEDS = 2000

pytestmark = pytest.mark.sim


def caught(mutant: Mutant) -> str | None:
    """Give the failure that a mutant causes, by its directed schedule or within the first seeds of its mixes."""
    with applied(mutant):
        if mutant.name in SCHEDULES:
            try:
                SCHEDULES[mutant.name]()
            except AssertionError as failure:
                return str(failure)
            return None
        for seed in range(SEEDS):
            outcome = Simulator(seed, mutant.mixes[seed % len(mutant.mixes)]).run()
            if outcome.failure is not None:
                return outcome.failure
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_defence_taken_out_is_noticed(mutant: Mutant) -> None:
    """Without this defence the simulator fails within 2,000 seeds, or in the schedule that is aimed at it."""
    assert caught(mutant) is not None, f"nothing fails without: {mutant.defence}"


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_directed_schedule_passes_with_its_defence(name: str) -> None:
    """The schedules that are aimed at rare mutants find nothing wrong with the code as it is."""
    SCHEDULES[name]()


def test_mutants_are_told_apart() -> None:
    """Names are unique, mixes exist, and every schedule has its mutant."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert {mix for mutant in MUTANTS for mix in mutant.mixes} <= set(MIXES)
    assert set(SCHEDULES) <= set(names)
