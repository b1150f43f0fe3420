"""A node whose time and tail stand still, to take the path of a hit apart."""

from __future__ import annotations

import inspect
import secrets
import threading
from collections.abc import Callable
from typing import Any

from unstale import Cache
from unstale.core.ops import Batch, Member
from unstale.core.publish import catch_up
from unstale.core.record import Record
from unstale.drivers import run
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.ports import Ports
from unstale.testing import FakeClock

BOUND_S = 2.0


class StillEngine(MemoryEngine):
    """An engine whose waiting polls are never answered before their end: the tail of a node tells it nothing new."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryServer(clock, secrets.token_hex(8)))
        self.over = threading.Event()

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """Answer at the end, if there is a time to wait for."""
        if wait_s:
            self.over.wait()
        return super().poll(member, position, limit, 0.0)


class Stage:
    """One node whose time and tail stand still, and what its functions have loaded.

    Args:
        settings: Of its cache.
    """

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.engine = StillEngine(self.clock)
        self.ports = Ports(self.engine, self.engine)
        self.cache = Cache(ports=self.ports, clock=self.clock, max_staleness=BOUND_S, **settings)
        self.loads: list[Any] = []
        self.version = 1
        self.flows = 0
        cache: Any = self.cache
        cache.run, cache.arun = self._counted(cache.run), self._counted(cache.arun)

    def _counted(self, drive: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counting(flow: Any) -> Any:
            self.flows += 1
            return drive(flow)

        return counting

    def close(self) -> None:
        """Let the tail end."""
        self.engine.over.set()
        self.cache.close()

    def loaded(self, *args: Any) -> int:
        """Load."""
        self.loads.append(args[0] if len(args) == 1 else args)
        return self.version

    def other_node_ends(self, *scopes: str, **how: Any) -> None:
        """Let another node invalidate."""
        self.engine.append((Record(secrets.token_hex(4), scopes, **how),))

    def hear_of(self, *scopes: str, **how: Any) -> None:
        """Let another node invalidate, and this one hear of it."""
        self.other_node_ends(*scopes, **how)
        self.hear()

    def hear(self) -> None:
        """Let the tail wake, apply all that there is, and renew the lease."""
        run(catch_up(self.cache.node), self.ports)

    def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a cached function of either colour."""
        outcome = function(*args, **named)
        if not inspect.iscoroutine(outcome):
            return outcome
        try:  # neither a hit nor a miss of this engine has to wait
            outcome.send(None)
        except StopIteration as done:
            return done.value
        outcome.close()
        raise AssertionError("it was suspended")

    def source(self, function: Callable[..., Any], *args: Any, **named: Any) -> str:
        """Call a cached function: how the value came, or `hit` when the path of a hit gave it."""
        loads, flows, fetches = len(self.loads), self.flows, self.cache.stats().get("fetches", 0)
        self.call(function, *args, **named)
        if len(self.loads) > loads:
            return "load"
        if self.cache.stats().get("fetches", 0) > fetches:
            return "store"
        return "l1" if self.flows > flows else "hit"
