"""What a scenario of the cache's suite plays with: nodes, a source of truth, a clock, and engines that fail."""

from __future__ import annotations

import functools
import math
import unittest
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, cast

from unstale.cache import Cache
from unstale.engines.ports import LogPort, Ports, StorePort
from unstale.errors import EngineError
from unstale.testing.clock import FakeClock
from unstale.testing.conformance.colours import COLOURS, Colour, Finish, settled
from unstale.testing.conformance.suite import eventually

TIMED_BOUND = "50ms"  # a poll waits for less than half of it: so soon a lease is renewed after a jump of the clock


class CacheSuite:
    """Base of the cache's suites: override `cache` and `other`. Each test is played in both colours.

    Attributes:
        has_clock: `cache` and `other` can give the engine a clock of the suite's.
        pulsed: Leases rest on pulses, so a node that has joined holds none yet. The scenarios are of nodes that do:
            without one, no load of another is waited for, and what is stored is judged by its marks.
    """

    has_clock = True
    pulsed = False

    def cache(self, **settings: Any) -> Cache:
        """Make a cache upon fresh data. A `clock` among the settings is for the engine as well as for the cache."""
        raise NotImplementedError

    def other(self, **settings: Any) -> Cache:
        """Make a cache upon the data of the latest `cache()`: another node, as another process would be."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Play each scenario in both colours."""
        if "colour" in metafunc.fixturenames:
            metafunc.parametrize("colour", list(COLOURS))


def scenario(test: Callable[[Any, Scene], Coroutine[Any, Any, None]]) -> Callable[[Any, str], None]:
    """Make a test of a scenario."""

    def play(self: CacheSuite, colour: str) -> None:
        scene = Scene(self, COLOURS[colour]())
        scene.colour.play(scene.play(test(self, scene)))

    play.__name__, play.__qualname__, play.__doc__ = test.__name__, test.__qualname__, test.__doc__
    play.__module__ = test.__module__
    return play


class Shop:
    """One node, as code of one colour sees it: `await shop.get("k")` calls `get`, or awaits `aget`."""

    def __init__(self, cache: Cache, colour: Colour) -> None:
        self.cache = cache
        self.colour = colour

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self.cache, self.colour.prefix + name)

        async def call(*args: Any, **how: Any) -> Any:
            return await settled(method(*args, **how))

        return call

    def cached(self, key: str, **how: Any) -> Callable[[Any], Any]:
        """Cache an `async def` function, in the colour of the scene."""
        decorate = self.cache.cached(key, **how)

        def coloured(function: Any) -> Any:
            if isinstance(function, classmethod | staticmethod):
                return decorate(type(function)(self.colour.function(function.__func__)))  # type: ignore[arg-type]
            return decorate(self.colour.function(function))

        return coloured

    @property
    def waiters(self) -> int:
        """How many readers wait for a load of another."""
        flights = tuple(self.cache.node.flights.values())
        return sum(len(flight.signal._callbacks) for flight in flights)  # noqa: SLF001 - nobody else asks

    @property
    def proven(self) -> bool:
        """Its lease is proven."""
        return self.cache.stats()["proven_s"] < self.cache.node.bound_s


class Failing:
    """An engine whose methods fail when they are named in `broken`, each with the error given there."""

    def __init__(self, engine: StorePort | LogPort) -> None:
        self._engine = engine
        self.broken: dict[str, type[EngineError]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        if not callable(method):
            return method

        port = name.removeprefix("a") if name.removeprefix("a") in self._engine.guarantees.native else name

        def call(*args: Any) -> Any:
            if port in self.broken:
                raise self.broken[port](f"{port} fails")
            return method(*args)

        return call


class Source:
    """A source of truth.

    Attributes:
        rows: Its rows, by key.
        loads: The key of each load that was begun.
        most: The most loads that ran at one time.
        errors: What is raised instead of a row.
        opened: Loads go on; while it is False, they wait within.
    """

    def __init__(self, colour: Colour, rows: dict[str, Any]) -> None:
        self.rows = rows
        self.loads: list[str] = []
        self.most = 0
        self.errors: dict[str, Exception] = {}
        self.opened = True
        self._colour = colour
        self._running: Counter[str] = Counter()

    async def read(self, key: str) -> Any:
        """Read a row; the view is taken when the load begins."""
        self.loads.append(key)
        self._running[key] += 1
        self.most = max(self.most, self._running.total())
        row = self.rows.get(key)
        try:
            if not self.opened:
                await self._colour.until(lambda: self.opened)
            if key in self.errors:
                raise self.errors[key]
        finally:
            self._running[key] -= 1
        return row

    def of(self, key: str) -> Callable[[], Any]:
        """Give the loader of a key, in the colour of the scene."""
        return self._colour.function(functools.partial(self.read, key))

    def many(self) -> Callable[[list[str]], Any]:
        """Give the loader of many keys: it leaves out what does not exist."""

        async def load(keys: list[str]) -> dict[str, Any]:
            found = {}
            for key in keys:
                row = await self.read(key)
                if row is not None:
                    found[key] = row
            return found

        return self._colour.function(load)


class Scene:
    """Where one scenario is played, in one colour. What it opens is closed at its end."""

    def __init__(self, suite: CacheSuite, colour: Colour) -> None:
        self.suite = suite
        self.colour = colour
        self.clock = FakeClock()
        self.until = colour.until
        self.function = colour.function
        self._shops: list[Shop] = []
        self._unused: list[Cache] = []

    async def play(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Play a scenario, and close what it opened."""
        try:
            await scenario
        finally:
            for finish in [self.start(shop.close()) for shop in self._shops]:
                await finish()
            for cache in self._unused:
                cache.close()

    def start(self, flow: Coroutine[Any, Any, Any]) -> Finish:
        """Run a coroutine at the same time; what is returned gives its outcome, or raises it."""
        return self.colour.start(flow)

    def source(self, **rows: Any) -> Source:
        """Give a source of truth."""
        return Source(self.colour, dict(rows))

    def shop(self, **settings: Any) -> Shop:
        """Give a node upon fresh data."""
        return self._opened(self.suite.cache(**settings))

    def other(self, **settings: Any) -> Shop:
        """Give another node upon the same data."""
        return self._opened(self.suite.other(**settings))

    def pair(self, **settings: Any) -> tuple[Shop, Shop]:
        """Give two nodes upon fresh data."""
        return self.shop(**settings), self.other(**settings)

    def timed(self, **settings: Any) -> Shop:
        """Give a node upon fresh data whose clock moves only by `advance`."""
        return self.shop(**self._timed(settings))

    def timed_other(self, **settings: Any) -> Shop:
        """Give another node upon the same data, with the same clock."""
        return self.other(**self._timed(settings))

    def timed_pair(self, **settings: Any) -> tuple[Shop, Shop]:
        """Give two nodes upon fresh data that share a clock, which moves only by `advance`."""
        return self.pair(**self._timed(settings))

    def failing(self, **settings: Any) -> tuple[Shop, Failing]:
        """Give a node upon fresh data, and the engine under it, whose methods can be made to fail."""
        base = self.suite.cache(**settings)
        self._unused.append(base)
        log = Failing(base.ports.log)
        store = log if base.ports.one_engine else Failing(base.ports.store)
        log.broken = store.broken
        ports = Ports(cast("StorePort", store), cast("LogPort", log))
        return self._opened(Cache(ports=ports, **settings)), log

    def failing_timed(self, **settings: Any) -> tuple[Shop, Failing]:
        """Give both: a clock that moves only by `advance`, and an engine that can be made to fail."""
        return self.failing(**self._timed(settings))

    def _timed(self, settings: dict[str, Any]) -> dict[str, Any]:
        if not self.suite.has_clock:
            raise unittest.SkipTest("this engine cannot be given a clock")
        return {"clock": self.clock, "max_staleness": TIMED_BOUND} | settings

    def _opened(self, cache: Cache) -> Shop:
        shop = Shop(cache, self.colour)
        self._shops.append(shop)
        if self.suite.pulsed:
            cache.ticket()  # the first use begins to follow the log
            eventually(lambda: shop.proven)
        return shop

    async def advance(self, seconds: float, *, heard: bool = True) -> None:
        """Let time pass; with `heard`, until all nodes in use have heard from the log again."""
        used = [shop for shop in self._shops if math.isfinite(shop.cache.stats()["proven_s"])]
        self.clock.advance(seconds)
        if heard:
            await self.until(lambda: all(shop.proven for shop in used))
