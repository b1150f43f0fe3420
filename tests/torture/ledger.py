"""The ledger of a torture run: which version of which row is committed since when, and the oracle that reads it.

It is the harness's own, in memory that all processes share. Whoever commits notes so when the database has answered;
what was rolled back is never noted. No cache is asked. A ring for each row keeps its latest versions.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.support.rings import mapped
from unstale.clock import boottime

ROWS: Final = 300
RING: Final = 64  # commits of a row: older ones are long past any bound


class Ledger:
    """The ledger.

    Args:
        path: The file that all processes map; empty it before.
    """

    def __init__(self, path: Path) -> None:
        self._newest, self._versions, self._moments = mapped(path, ROWS, RING)

    def note(self, row: int, version: int) -> None:
        """Note that the commit of a version was acknowledged to its writer."""
        moment = boottime()
        place = row * RING + version % RING
        if self._versions[place] > version:
            return  # so late that its place is taken
        self._versions[place] = 0  # who looks now finds neither the old nor half of the new one
        self._moments[place] = moment
        self._versions[place] = version
        self._newest[row] = max(self._newest[row], version)

    def replaced_at(self, row: int, version: int) -> float:
        """Give the moment since which a later version was committed; infinity, if none is."""
        if version >= self._newest[row]:
            return math.inf
        places = range(row * RING, (row + 1) * RING)
        return min((self._moments[place] for place in places if self._versions[place] > version), default=math.inf)


class Oracle:
    """Judges the reads of one process, by their paths.

    Args:
        ledger: The ledger.
        bound_s: The bound that was promised, in seconds.

    Attributes:
        counts: By path and what was counted: `reads`, `loaded`, `stale`, `beyond`.
        oldest_s: By path the largest age of a read that was judged, in seconds.
    """

    def __init__(self, ledger: Ledger, bound_s: float) -> None:
        self._ledger = ledger
        self._bound_s = bound_s
        self.counts: dict[str, Counter[str]] = {}
        self.oldest_s: dict[str, float] = {}

    def judge(self, path: str, row: int, version: int, began: float, lag_s: float = 0.0) -> None:
        """Judge what a read has returned.

        Args:
            path: The way by which it was read.
            row: The row.
            version: What was returned.
            began: The moment at which the read began.
            lag_s: It may be older by so much: infinity, and it is not judged.
        """
        counts = self.counts.setdefault(path, Counter())
        counts["reads"] += 1
        age_s = began - self._ledger.replaced_at(row, version)
        if age_s <= 0 or lag_s == math.inf:
            return
        counts["stale"] += 1
        self.oldest_s[path] = max(self.oldest_s.get(path, 0.0), age_s - lag_s)
        counts["beyond"] += age_s > self._bound_s + lag_s

    def loaded(self, path: str) -> None:
        """Count a read that its reader has loaded itself."""
        self.counts.setdefault(path, Counter())["loaded"] += 1

    def told(self) -> dict[str, Any]:
        """Give what was counted, as JSON takes it."""
        return {"counts": self.counts, "oldest_s": self.oldest_s}
