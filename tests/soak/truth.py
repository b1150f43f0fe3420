"""The source of truth of a soak, in memory that all processes share; and the oracle that knows it.

For each item there is a version, which its only writer raises, and a ring of the latest commits whose invalidation was
acknowledged, with the moment of that. `tests/support/staleness.py` says what is stale, and what is beyond the bound;
here it is judged at once, read by read: however long a soak, it keeps no more than the ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.support.rings import mapped
from unstale.clock import boottime

ITEMS: Final = 120
RING: Final = 64  # commits of an item: older ones are long past any bound


class Truth:
    """The source of truth.

    Args:
        path: The file that all processes map; empty it before.
    """

    def __init__(self, path: Path) -> None:
        self._current, self._versions, self._moments = mapped(path, ITEMS, RING)

    def current(self, item: int) -> int:
        """Give the version that a load would find now."""
        return self._current[item]

    def commit(self, item: int) -> int:
        """Raise the version of an item: each has but one writer."""
        version = self._current[item] + 1
        self._current[item] = version
        return version

    def acknowledge(self, item: int, version: int) -> None:
        """Note that the invalidation of a commit has returned."""
        place = item * RING + version % RING
        self._versions[place] = 0  # who looks now finds neither the old nor half of the new one
        self._moments[place] = boottime()
        self._versions[place] = version

    def replaced_at(self, item: int, version: int) -> float:
        """Give the moment since which it was told that a version is over; infinity, if nobody has told it."""
        places = range(item * RING, (item + 1) * RING)
        return min((self._moments[place] for place in places if self._versions[place] > version), default=math.inf)


class Oracle:
    """Judges the reads of one node.

    Args:
        truth: The source of truth.
        bound_s: The bound that was promised, in seconds.
    """

    def __init__(self, truth: Truth, bound_s: float) -> None:
        self._truth = truth
        self._bound_s = bound_s
        self.reads = 0
        self.stale = 0
        self.beyond = 0
        self.oldest_s = 0.0

    def before(self, item: int) -> Callable[[int], None]:
        """Begin a read: what judges the version that it returns."""
        current, began = self._truth.current(item), boottime()

        def judge(version: int) -> None:
            self.reads += 1
            if version >= current:
                return
            self.stale += 1
            age_s = began - self._truth.replaced_at(item, version)
            self.oldest_s = max(self.oldest_s, age_s)
            self.beyond += age_s > self._bound_s

        return judge
