from __future__ import annotations

import sys

import pytest

from tests.torture_behind.check import Verdict, show
from tests.torture_behind.mutants import MUTANTS
from tests.torture_behind.run import torture

KILLS = 6  # of each queue; `make torture-behind` kills 200 times

pytestmark = pytest.mark.real


def tortured(kills: int, *, redis: bool, without: str = "") -> Verdict:
    """Run it, and show what was found when the test fails."""
    verdict, _killed = torture(kills, redis=redis, without=without, say=print)
    sys.stdout.write(show(verdict))
    return verdict


@pytest.mark.parametrize("redis", [False, True], ids=["sqlite", "redis"])
def test_kill_9_loses_nothing_and_applies_nothing_twice(*, redis: bool) -> None:
    """Producers, flushers and Redis are killed at random moments: what was acknowledged is there, once and in order."""
    verdict = tortured(KILLS, redis=redis)
    assert verdict.clean
    assert verdict.acknowledged > verdict.applied > 0, "some was merged, some was flushed"


@pytest.mark.parametrize("without", MUTANTS)
def test_kill_9_without_a_defence(without: str) -> None:
    """Without one of the defences the same run shows it."""
    assert not tortured(KILLS - 2, redis=False, without=without).clean
