"""A clock for tests: time passes when the test says so."""

from __future__ import annotations

import secrets
from typing import Any

from unstale.cache import Cache
from unstale.core.durations import Duration, seconds
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.ports import Ports


class FakeClock:
    """Seconds that only `advance` lets pass.

    Args:
        now: Where it starts, in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Give the seconds."""
        return self.now

    def advance(self, duration: Duration) -> None:
        """Let time pass.

        Args:
            duration: Such as `"5m"`.
        """
        self.now += seconds(duration, "duration")


def fake_cache(clock: FakeClock, **how: Any) -> Cache:
    """Give a cache of its own, in memory, in which lives and leases follow a fake clock.

    Args:
        clock: The clock of the cache and of its engine.
        how: Further arguments of `Cache`.
    """
    server = MemoryServer(clock, secrets.token_hex(8))
    engine = MemoryEngine(server)
    return Cache(ports=Ports(engine, engine), clock=clock, **how)
