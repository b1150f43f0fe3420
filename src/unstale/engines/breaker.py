"""A circuit breaker: while a server is known to be out, calls fail at once instead of each waiting for a timeout.

1. Closed: calls go through. 2. After failures in a row it is open: calls are refused, until a moment that lies later
with each further failure, by a random part, so that the nodes of a fleet do not come back together. 3. Then one probe,
and only one, is due: it closes the breaker, or opens it for longer. No caller is that probe, or one reader after the
other would wait for a timeout: it is made beside them. Any call that succeeds closes the breaker too, so what polls a
server anyway, as the tail does, is told no later (Nygard, "Release It!", 2007).

Each address has one of its own: that one server answers says nothing of another, and who reads what lies on a dead one
must not find its breaker closed by all that the others answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable
from random import Random
from typing import Final

WAIT_MIN_S: Final = 0.05
WAIT_MAX_S: Final = 2.0
BREAKERS_MAX: Final = 1024  # a cluster of Redis is told to have no more than 1000 servers


class Breaker:
    """The breaker of one address.

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


class Breakers:
    """The breakers of one engine, one for each address that was asked.

    Args:
        breakers_max: For more addresses than that the oldest are forgotten: a call to them finds a closed one.
    """

    def __init__(self, breakers_max: int = BREAKERS_MAX) -> None:
        self._breakers_max = breakers_max
        self._by_address: dict[Hashable, Breaker] = {}
        self._forgotten = 0

    def at(self, address: Hashable) -> Breaker:
        """Give the breaker of an address."""
        breaker = self._by_address.get(address)
        if breaker is None:
            while len(self._by_address) >= self._breakers_max:
                self._forget(next(iter(self._by_address.copy()), None))
            breaker = self._by_address.setdefault(address, Breaker())
        return breaker

    def failures(self, address: Hashable) -> int:
        """Say how often in a row an address has failed."""
        breaker = self._by_address.get(address)
        return 0 if breaker is None else breaker.failures

    def keep(self, addresses: Collection[Hashable]) -> None:
        """Forget the breakers of all other addresses: nothing lies there any more.

        1. a call takes the breaker of A 2. A is forgotten 3. the call fails, which nobody is told: should something lie
        at A again, its first calls are made, and find out.
        """
        for address in self._by_address.copy():
            if address not in addresses:
                self._forget(address)

    def _forget(self, address: Hashable) -> None:
        breaker = self._by_address.pop(address, None)
        if breaker is not None:
            self._forgotten += breaker.refused

    def reborn(self) -> None:
        """Start anew in a forked child; what is out is out for it too."""
        for breaker in self._by_address.values():
            breaker.reborn()

    @property
    def open(self) -> frozenset[Hashable]:
        """The addresses to which calls are refused."""
        return frozenset(address for address, breaker in self._by_address.copy().items() if breaker.open)

    @property
    def refused(self) -> int:
        """Calls that were ever refused."""
        return self._forgotten + sum(breaker.refused for breaker in self._by_address.copy().values())
