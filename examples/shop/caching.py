"""The cache, in one place: what it is told, and by whom."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import sessions
from shop.settings import settings
from unstale import Cache, Policy
from unstale.sources.relay import Relay
from unstale.sqlalchemy import touched, track

cache = Cache(
    settings.cache if settings.cached else "memory://",
    name="shop",
    max_staleness=settings.max_staleness,
    policy=Policy(ttl="1h"),  # the backstop: entries end when what they were made of changes
    # A worker may die after its commit, before it has told anybody. So each transaction writes what it changes into an
    # outbox, a table beside its own, and a relay publishes what the dead one could not. `truth` says that nothing is
    # proven fresh without that relay.
    truth="outbox",
)

if settings.cached:
    # From here on nobody has to think of the cache: what a cached function reads through these sessions, its entry
    # depends on, and what they commit ends what was made of it.
    track(sessions, cache, outbox=True)
else:
    cache.disabled = True  # each call loads: the shop without a cache, to compare


# One in each worker, and one of them leads. When that worker is killed, another one takes over within a second.
relay = Relay(cache, settings.plain_database) if settings.cached else None


def changes(session: AsyncSession, scope: str) -> None:
    """Say that this transaction also changes what somebody has narrowed a query to, see queries.py."""
    if settings.cached:
        touched(session, scope)
