"""Two nodes of one cache, of which one hears late of what the other publishes; and the truth that both load."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unstale import Cache
from unstale.core.ops import Batch, Member

BOUND = "60s"
"""The node may be so late, and keeps its lease meanwhile: nothing but a ticket makes it look."""


@contextlib.contextmanager
def late_node(url: str, **how: Any) -> Iterator[Cache]:
    """Give a node whose tail's waiting polls are answered at the end only; who asks without waiting is answered."""
    cache = Cache(url, max_staleness=BOUND, **how)
    log: Any = cache.ports.log
    poll, over = log.poll, threading.Event()

    def held(member: Member, position: int, limit: int, wait_s: float) -> Batch:
        if wait_s:
            over.wait()
        answer: Batch = poll(member, position, limit, 0.0)
        return answer

    log.poll = held
    try:
        cache.ticket()
        yield cache
    finally:
        over.set()
        cache.close()


class Shop:
    """A price, and two nodes that cache it: one that writes, and one that is late.

    Attributes:
        price: The truth.
        writer: The node that writes.
        late: The node that is late.
    """

    def __init__(self, writer: Cache, late: Cache) -> None:
        self.price = 1
        self.writer = writer
        self.late = late
        self.loads = 0

        @late.cached("price:{product}")
        def read(product: int) -> int:
            self.loads += 1
            return self.price

        @late.cached("slow-price:{product}")
        async def aread(product: int) -> int:
            self.loads += 1
            return self.price

        self.read = read
        self.aread = aread

    def write(self, price: int) -> None:
        """Change the price, by the node that writes."""
        self.price = price
        self.writer.invalidate("price:17", "slow-price:17")


@contextlib.contextmanager
def shops(where: Path | str) -> Iterator[Shop]:
    """Give a shop over one file in a folder, or over the server of a URL."""
    url = where if isinstance(where, str) else f"sqlite:///{where}/shop.cache"
    with Cache(url, name="shop", max_staleness=BOUND) as writer, late_node(url, name="shop") as late:
        writer.ticket()
        yield Shop(writer, late)
