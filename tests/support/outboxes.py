"""Caches behind an outbox: their relays, and what the log was told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from unstale import Cache
from unstale.core.ops import Member
from unstale.core.record import Record
from unstale.sources.relay import Relay

NAME = "shop"
BOUND = "1s"


@contextlib.contextmanager
def behind_an_outbox(url: str, **how: Any) -> Iterator[Cache]:
    """Give a cache that follows its log and proves its freshness by a relay's pulses alone."""
    settings: dict[str, Any] = {"name": NAME, "max_staleness": BOUND, "truth": "outbox"}
    with Cache(url, **settings | how) as cache:
        cache.ticket()  # from its first call on it follows the log
        yield cache


@contextlib.contextmanager
def relaying(cache: Cache, database: Any, **how: Any) -> Iterator[Relay]:
    """Run a relay in a thread of this process."""
    relay = Relay(cache, database, **how)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


def told(cache: Cache) -> list[Record]:
    """Give all records of the log but pulses."""
    member = Member("a test", "", 0, 1.0)
    read: list[Record] = []
    position = 0
    while True:
        batch = cache.ports.log.poll(member, position, 500, 0.0)
        read += [logged.record for logged in batch.records if logged.record.covers is None]
        position += len(batch.records)
        if position >= batch.identity.head:
            cache.ports.log.leave(member.node)
            return read


def scopes_told(cache: Cache) -> list[str]:
    """Give the scopes of all records of the log, in their order."""
    return [scope for record in told(cache) for scope in record.scopes]


def proven(cache: Cache, within_s: float = 1.0) -> bool:
    """Say whether the cache's lease is younger than that."""
    return cache.stats()["proven_s"] < within_s
