from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.torture import ledger as ledgers
from tests.torture.ledger import RING, Ledger, Oracle


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give what the clock says: the last of them."""
    moments = [10.0]
    monkeypatch.setattr(ledgers, "boottime", lambda: moments[-1])
    return moments


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Give an empty ledger."""
    return Ledger(tmp_path / "ledger")


def test_a_version_is_over_since_the_first_later_commit(ledger: Ledger, moments: list[float]) -> None:
    """Whichever later version was noted first ends a version, also one whose own successor was never noted."""
    assert ledger.replaced_at(7, 0) == math.inf
    for version, moment in ((1, 10.0), (3, 12.0), (4, 11.0)):
        moments.append(moment)
        ledger.note(7, version)
    assert [ledger.replaced_at(7, version) for version in range(5)] == [10.0, 11.0, 11.0, 11.0, math.inf]
    assert ledger.replaced_at(8, 0) == math.inf


def test_another_process_sees_it(ledger: Ledger, tmp_path: Path, moments: list[float]) -> None:
    """All who map the file share what was noted."""
    ledger.note(7, 1)
    assert Ledger(tmp_path / "ledger").replaced_at(7, 0) == 10.0


def test_a_late_note_takes_no_newer_ones_place(ledger: Ledger, moments: list[float]) -> None:
    """The ring keeps the newest versions: one that is noted after a whole turn of it is left out."""
    ledger.note(7, RING + 1)
    moments.append(11.0)
    ledger.note(7, 1)
    assert ledger.replaced_at(7, 0) == 10.0


def test_the_oracle_tells_within_from_beyond(ledger: Ledger, moments: list[float]) -> None:
    """A read of what was replaced before it began is stale; longer ago than the bound, and the lag, it is beyond."""
    oracle = Oracle(ledger, bound_s=1.0)
    ledger.note(7, 1)
    for began in (9.9, 10.0, 10.5, 11.0, 11.5):
        oracle.judge("a path", 7, 0, began)
        oracle.judge("a path", 7, 1, began)
    assert oracle.counts["a path"] == {"reads": 10, "stale": 3, "beyond": 1}
    assert oracle.oldest_s == {"a path": 1.5}
    oracle.judge("replica", 7, 0, 11.5, 0.5)
    oracle.judge("replica", 7, 0, 11.6, 0.5)
    assert oracle.counts["replica"] == {"reads": 2, "stale": 2, "beyond": 1}
    oracle.judge("its own", 7, 0, 99.0, math.inf)
    assert oracle.counts["its own"] == {"reads": 1}
