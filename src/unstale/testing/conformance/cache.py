"""The conformance of the whole cache on an engine: what its users see, blocking and awaited."""

from __future__ import annotations

from unstale.testing.conformance.cache_flights import FlightTests
from unstale.testing.conformance.cache_functions import FunctionTests
from unstale.testing.conformance.cache_keys import KeyTests
from unstale.testing.conformance.cache_life import LifeTests
from unstale.testing.conformance.cache_loads import LoadTests
from unstale.testing.conformance.cache_nodes import ConsistencyTests, InvalidationTests
from unstale.testing.conformance.cache_policies import PolicyTests
from unstale.testing.conformance.cache_writes import WriteTests

__all__ = ["CacheConformance"]


class CacheConformance(
    KeyTests,
    WriteTests,
    InvalidationTests,
    ConsistencyTests,
    LifeTests,
    FunctionTests,
    LoadTests,
    FlightTests,
    PolicyTests,
):
    """What a cache must do on every engine.

    Derive a test class, and say how a cache is made:

        class TestMyCache(CacheConformance):
            def cache(self, **settings):
                self.server = MyServer(clock=settings.get("clock", time.monotonic))
                return self.other(**settings)

            def other(self, **settings):
                engine = MyEngine(self.server)
                return Cache(ports=Ports(engine, engine), **settings)
    """
