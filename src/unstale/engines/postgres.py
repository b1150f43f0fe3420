"""The PostgreSQL engine: store and log in the tables of one schema; PostgreSQL 13 or newer.

An append is one call of a function of ours in the database (`postgres_schema`), and so one transaction: it locks the
cache's row, takes the next positions, writes records and marks, and notifies. Positions are in commit order because the
row stays locked until the commit (H21). Nothing is partitioned: what has expired is swept in small steps by ordinary
writes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from unstale.clock import boottime
from unstale.core.marks import Mark
from unstale.core.ops import Appended, Batch, Fetched, Identity, Item, MarksReply, Member, Members
from unstale.core.record import Record
from unstale.engines.breaker import Breaker
from unstale.engines.memory import ENTRIES_MAX, RECORDS_MAX
from unstale.engines.ports import Guarantees
from unstale.engines.postgres_home import Home
from unstale.engines.postgres_link import Link
from unstale.engines.postgres_log import LogSteps
from unstale.engines.postgres_loop import LoopLink
from unstale.engines.postgres_store import StoreSteps
from unstale.engines.postgres_url import PostgresUrl

MAX_TTL_S: Final = 7 * 24 * 3600.0
MARKS_MAX: Final = 1_000_000
LOOK_S: Final = 1.0  # so often a waiting poll looks, should no notification come through


class PostgresEngine:
    """Both ports upon PostgreSQL. Nothing is opened before the first call.

    Args:
        url: Where it is, and how it is reached.
        name: The cache's name; caches of several names share the tables of a schema.
        records_max: The log is trimmed to about so many records.
        entries_max: About so many entries of all caches of the schema, as autovacuum counts them; those that end
            soonest go first.
        marks_max: At most about so many marks; the oldest go first, and entries from before the last of them are
            misses.
        max_ttl_s: No entry lives longer, in seconds; marks live twice as long.
        clock: Elapsed time of this node, in seconds, by which it judges the member list.
        new_id: Source of unique ids.
        making: It makes tables and caches that are missing.
    """

    guarantees: ClassVar[Guarantees] = Guarantees(
        name="postgres",
        store=True,
        log=True,
        processes="all processes of all machines that reach the server",
        durable="what was acknowledged survives a crash and a restart, which begin no new generation, unless fsync is "
        "off; entries are unlogged, and a crash empties them: misses",
        replay="yes, as far as the bounded log reaches",
        atomic_marks="yes: one transaction",
        keeps_marks="yes: beyond `marks_max` the oldest go, and what they alone could judge is a miss",
        survives_failover="a promotion, a recovery to a point in time, a restored dump, another server or database, "
        "dropped tables: a new generation. Not noticed is an older copy of the data directory put back as it was: drop "
        "the schema then",
        proves_leadership="with synchronous_standby_names, a standby acknowledges appends, heads and marks, and leases "
        "rest on pulses; one in recovery is refused. Without, an isolated old primary of asynchronous replicas is "
        "believed until it is told",
        native=frozenset(
            {"fetch", "store", "delete", "read_marks", "extend_marks", "lock", "unlock", "append", "poll", "read_head",
             "read_members", "read_about", "leave"}
        ),
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - the limits of a server
        self,
        url: PostgresUrl,
        *,
        name: str = "default",
        records_max: int = RECORDS_MAX,
        entries_max: int = ENTRIES_MAX,
        marks_max: int = MARKS_MAX,
        max_ttl_s: float = MAX_TTL_S,
        clock: Callable[[], float] = boottime,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        making: bool = True,
    ) -> None:
        self.url = url
        self.name = name
        self._store = StoreSteps(url.schema, name, max_ttl_s, entries_max)
        self._log = LogSteps(url.schema, name, records_max, marks_max, max_ttl_s, clock, new_id)
        self._home = Home(url, self._log.adopt, making=making)
        self._link = Link(self._home, self._log.channel)
        self._loops = LoopLink(self._home)
        self._left: set[str] = set()  # their polls wait no more

    @property
    def breaker(self) -> Breaker:
        """Whether the server is out."""
        return self._home.breaker

    # The ports, blocking --------------------------------------------------------------------------------------

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        return self._link.run(self._store.fetch(keys))

    def store(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        self._link.run(self._store.store(items))

    def delete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        self._link.run(self._store.delete(keys))

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return self._link.run(self._store.read_marks(scopes))

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        self._link.run(self._store.extend_marks(generation, start, upto, marks))

    def lock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`."""
        return self._link.run(self._store.lock(key, ttl_s))

    def unlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        self._link.run(self._store.unlock(key, token))

    def append(self, records: tuple[Record, ...], applier: str = "") -> Appended:  # noqa: ARG002 - each poll is told
        """See `LogPort.append`."""
        return self._link.run(self._log.append(records))

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """See `LogPort.poll`."""
        if wait_s <= 0:  # a reader or a writer that wants to catch up: it does not ask a server that is out
            return self._link.run(self._log.poll(member, position, limit))
        until = time.monotonic() + wait_s
        self._left.discard(member.node)
        with self._link.hearing(member.node) as ear:
            while True:
                ear.forget()
                batch = self._link.run(self._log.poll(member, position, limit), ear)
                identity, left_s = batch.identity, until - time.monotonic()
                changed = identity.generation != member.generation or identity.head != position
                if changed or left_s <= 0 or member.node in self._left or self._link.closed:
                    return batch
                ear.wait(min(left_s, LOOK_S))
                if ear.woken or time.monotonic() >= until:
                    return batch

    def head_in_snapshot(self) -> tuple[str, tuple[bytes]]:
        """Give the query that shows generation and head in the snapshot of whoever runs it, and its parameters."""
        schema = self.url.schema  # the URL's parser takes nothing but plain names
        return f'SELECT generation, head FROM "{schema}".cache WHERE name = ?', (self.name.encode(),)  # noqa: S608

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return self._link.run(self._log.read_head())

    def read_members(self) -> Members:
        """See `LogPort.read_members`."""
        return self._link.run(self._log.read_members())

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        return self._link.run(self._log.read_about(nodes))

    def leave(self, node: str) -> None:
        """See `LogPort.leave`."""
        self._left.add(node)
        self._link.end_poll(node)
        self._link.run(self._log.leave(node))

    def reborn(self) -> None:
        """Start anew in a forked child: locks may be held for ever there, and the connections are the parent's."""
        self._home.reborn()
        self._link.reborn()
        self._loops.reborn()
        self._log.forget()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._link.close()
        self._loops.close()

    # The ports, for event loops -------------------------------------------------------------------------------

    async def afetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        return await self._loops.run(self._store.fetch(keys))

    async def astore(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        await self._loops.run(self._store.store(items))

    async def adelete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        await self._loops.run(self._store.delete(keys))

    async def aread_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return await self._loops.run(self._store.read_marks(scopes))

    async def aextend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        await self._loops.run(self._store.extend_marks(generation, start, upto, marks))

    async def alock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`."""
        return await self._loops.run(self._store.lock(key, ttl_s))

    async def aunlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        await self._loops.run(self._store.unlock(key, token))

    async def aappend(self, records: tuple[Record, ...], applier: str = "") -> Appended:  # noqa: ARG002 - each poll is told
        """See `LogPort.append`."""
        return await self._loops.run(self._log.append(records))

    async def apoll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """See `LogPort.poll`. One that waits has a thread: it may last for long, and a loop has few connections."""
        if wait_s > 0:
            return await asyncio.to_thread(self.poll, member, position, limit, wait_s)
        return await self._loops.run(self._log.poll(member, position, limit))

    async def aread_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return await self._loops.run(self._log.read_head())

    async def aread_members(self) -> Members:
        """See `LogPort.read_members`."""
        return await self._loops.run(self._log.read_members())

    async def aread_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        return await self._loops.run(self._log.read_about(nodes))

    async def aleave(self, node: str) -> None:
        """See `LogPort.leave`."""
        self._left.add(node)
        self._link.end_poll(node)
        await self._loops.run(self._log.leave(node))
