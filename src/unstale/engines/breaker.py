"""A circuit breaker: while a server is known to be out, calls fail at once instead of each waiting for a timeout.

1. Closed: calls go through. 2. After failures in a row it is open: calls are refused, until a moment that lies later
with each further failure, by a random part, so that the nodes of a fleet do not come back together. 3. Then one probe,
and only one, is due: it closes the breaker, or opens it for longer. No caller is that probe, or one reader after the
other would wait for a timeout: it is made beside them. Any call that succeeds closes the breaker too, so what polls a
server anyway, as the tail does, is told no later (Nygard, "Release It!", 2007).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random
from typing import Final

WAIT_MIN_S: Final = 0.05
WAIT_MAX_S: Final = 2.0


class Breaker:
    """The breaker of one port.

    Args:
        failures_max: So many failures in a row open it.
        clock: Elapsed time, in seconds.
        random: Source of numbers from 0 to 1.

    Attributes:
        failures: Failures in a row.
        refused: Calls that were ever refused.
    """

    def __init__(
        self,
        failures_max: int = 2,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = Random().random,  # noqa: B008 - one source for all
    ) -> None:
        self._failures_max = failures_max
        self._clock = clock
        self._random = random
        self._until = 0.0
        self.failures = 0
        self.refused = 0
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child: the lock may be held for ever, and a probe that was under way is not (H23)."""
        self._lock = threading.Lock()
        self._probe_until = 0.0

    @property
    def open(self) -> bool:
        """Calls are refused."""
        return self.failures >= self._failures_max

    def admits(self) -> bool:
        """Say whether a call may go through, which then has to report what became of it."""
        if self.failures < self._failures_max:  # the usual case, without the lock
            return True
        self.refused += 1
        return False

    def due(self, patience_s: float) -> bool:
        """Say whether the caller has to make a probe, and to report what became of it.

        Args:
            patience_s: How long it may take: after that the next one is due.
        """
        with self._lock:
            now = self._clock()
            if not self.open or now < self._until or now < self._probe_until:
                return False
            self._probe_until = now + patience_s
            return True

    def succeeded(self) -> None:
        """Close: the server has answered."""
        if self.failures:
            with self._lock:
                self.failures, self._until, self._probe_until = 0, 0.0, 0.0

    def failed(self) -> None:
        """Note a failure: a timeout, or no connection."""
        with self._lock:
            now = self._clock()
            if self.open and now < self._until:
                return  # one of many that were under way when it opened
            self.failures += 1
            over = self.failures - self._failures_max
            if over >= 0:
                wait_s = min(WAIT_MIN_S * 2.0 ** min(over, 16), WAIT_MAX_S)
                self._until = now + wait_s * (0.5 + self._random() / 2)
                self._probe_until = 0.0
