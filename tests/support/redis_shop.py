"""A small shop upon a Redis server: what the tests of errors and limits read, change and look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from tests.support.waiting import until
from unstale import Cache
from unstale.clock import boottime
from unstale.core.ops import Member
from unstale.core.record import Stamp
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_url import parse_url

TAG: Final = "{unstale:shop}"
ENTRY: Final = "unstale:shop:e:"
MEMBER: Final = Member("n", "", 0, 1.0, urgent=False)
BOUND_S: Final = 0.3


class Shop:
    """A cache upon a server, with a source of truth of one number, and all troubles that it was told of."""

    def __init__(self, url: str, **how: Any) -> None:
        self.truth = 1
        self.loads = 0
        self.troubles: list[BaseException] = []
        settings: dict[str, Any] = {"ttl": "1h", "shared": True} | how
        self.cache = Cache(
            url, name="shop", max_staleness=BOUND_S, on_trouble=lambda _what, error: self.troubles.append(error)
        )

        @self.cache.cached("product:{number}", **settings)
        def product(number: int) -> int:
            self.loads += 1
            return self.truth

        @self.cache.cached("product:{number}", **settings)
        async def product_later(number: int) -> int:
            self.loads += 1
            return self.truth

        self.product = product
        self.product_later = product_later

    @property
    def proven(self) -> bool:
        """The node holds a lease."""
        node = self.cache.node
        return node.lease.proves(boottime(), node.bound_s)

    def change(self) -> int:
        """Commit another number, and invalidate."""
        self.truth += 1
        self.cache.invalidate("product:1")
        return self.truth

    def read(self, ticket: Stamp) -> Any:
        """Read with a ticket."""
        return self.cache.get_or_load("product:1", lambda: self.truth, type=int, after=ticket)

    async def read_later(self, ticket: Stamp) -> Any:
        """Read with a ticket, in an event loop."""
        return await self.cache.aget_or_load("product:1", lambda: self.truth, type=int, after=ticket)

    def reads_fresh(self) -> None:
        """Check that reads of both colours give the truth, again and again, whatever the server does."""
        for _ in range(20):
            assert self.product(1) == self.truth
        assert asyncio.run(self._later()) == {self.truth}

    async def _later(self) -> set[int]:
        return {await self.product_later(1) for _ in range(20)}

    def well(self) -> None:
        """Wait until all is as it should be: a lease, changes that are published, hits that load nothing."""
        self.product(1)  # the first use begins to follow the log
        until(lambda: self.proven)
        assert self.product(1) == self.product(1) == self.truth
        self.change()
        self.reads_fresh()
        loads = self.loads
        until(lambda: self.proven)
        assert self.product(1) == self.truth
        assert self.loads == loads


Engines: TypeAlias = Callable[[str], RedisEngine]
Shops: TypeAlias = Callable[..., Shop]


@contextmanager
def open_shops() -> Iterator[Shops]:
    """Make shops, and close their caches in the end."""
    made: list[Shop] = []

    def one(url: str, **how: Any) -> Shop:
        made.append(Shop(url, **how))
        return made[-1]

    yield one
    for shop in made:
        shop.cache.close()


@contextmanager
def open_engines() -> Iterator[Engines]:
    """Make engines, and close them in the end."""
    made: list[RedisEngine] = []

    def one(url: str) -> RedisEngine:
        made.append(RedisEngine(parse_url(url), name="shop"))
        return made[-1]

    yield one
    for engine in made:
        engine.close()
