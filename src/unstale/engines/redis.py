"""The Redis engine: store and log upon one server, a cluster, or what sentinels name; Redis 7 or newer, or Valkey.

The log is a stream whose ids are the positions. Publishing is one script: position, entry and marks in one atomic step
(`redis_scripts`). Log, marks, members and locks lie under one hash tag, entries are spread over a cluster. No clock of
the server decides anything but the life of entries and of marks, which a step of it cannot part (`redis_lua`): who is
still a member is judged by each node, on its own clock, by what the list tells over time (H22).
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from unstale.clock import boottime
from unstale.core.marks import Mark
from unstale.core.ops import Appended, Batch, Fetched, Identity, Item, MarksReply, Member, Members
from unstale.core.record import Record, Stamp
from unstale.engines.breaker import Breakers
from unstale.engines.linger import Linger, LoopLinger
from unstale.engines.memory import RECORDS_MAX
from unstale.engines.ports import Guarantees
from unstale.engines.redis_errors import ErrorReply
from unstale.engines.redis_link import Link
from unstale.engines.redis_log import LogSteps
from unstale.engines.redis_loop import LoopLink
from unstale.engines.redis_places import Places
from unstale.engines.redis_store import MS, Names, StoreSteps
from unstale.engines.redis_url import RedisUrl
from unstale.engines.redis_wire import BREAKS
from unstale.engines.seal import OnForged, Seal
from unstale.errors import EngineError

MAX_TTL_S: Final = 7 * 24 * 3600.0


class RedisEngine:
    """Both ports upon Redis. Nothing is opened before the first call.

    Args:
        url: Where it is, and how it is reached.
        name: The cache's name.
        records_max: The log is trimmed to about so many records.
        max_ttl_s: No entry lives longer, in seconds; marks live twice as long.
        own: It is the log too; else its marks are written by the nodes that follow another engine's log.
        clock: Elapsed time of this node, in seconds, by which it judges the member list.
        new_id: Source of unique ids.
        seal: Signs entries and records, if they are signed.
    """

    guarantees: ClassVar[Guarantees] = Guarantees(
        name="redis",
        store=True,
        log=True,
        processes="all processes of all machines that reach the server",
        durable="as the server is set up; a restart, which may have lost something, is a new generation",
        replay="yes, as far as the bounded log reaches",
        atomic_marks="yes: one script",
        keeps_marks="not when memory is short; evictions are noticed: what a lost mark could have judged is a miss",
        survives_failover="a restart or promotion is a new generation: a cold start, bounded by the origin's limit",
        proves_leadership="a server without replicas cannot be deposed; else `quorum` of them acknowledge appends, "
        "heads and marks, and leases rest on pulses. With fewer than all of them, or quorum=0, an isolated old primary "
        "is believed until it is told",
        native=frozenset(
            {"fetch", "store", "delete", "read_marks", "extend_marks", "lock", "unlock", "append", "put", "poll",
             "read_head", "read_members", "leave"}
        ),
    )  # fmt: skip

    def __init__(
        self,
        url: RedisUrl,
        *,
        name: str = "default",
        records_max: int = RECORDS_MAX,
        max_ttl_s: float = MAX_TTL_S,
        own: bool = True,
        clock: Callable[[], float] = boottime,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
        seal: Seal | None = None,
    ) -> None:
        self.url = url
        self.name = name
        self._places = places = Places(url)
        names, mark_ms = Names(url.prefix, name), int(2 * max_ttl_s * MS)
        self._link = Link(places)
        self._loops = LoopLink(places)
        self._store_steps = StoreSteps(names, mark_ms, seal)
        self._log_steps = LogSteps(url, names, records_max, mark_ms, clock, new_id, self._link.end_poll, seal)
        self._seal = seal
        self._linger = Linger(url.linger_s, self._append) if url.linger_s else None
        self._loop_lingers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLinger]
        self._loop_lingers = weakref.WeakKeyDictionary()
        self._marks_steps = self._log_steps.read_marks if own else self._store_steps.read_foreign

    @property
    def breakers(self) -> Breakers:
        """Which of the servers are out."""
        return self._places.breakers

    # The ports, blocking --------------------------------------------------------------------------------------

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | EngineError | None, ...]:
        """See `StorePort.fetch`."""
        if len(keys) == 1:
            name, wire = self._store_steps.name_and_wire(keys[0])
            replies = self._link.ask_at_hand(wire, 2)
            if replies is not None and ErrorReply not in map(type, replies):
                return (self._store_steps.found(name, *replies),)
        return self._link.run(self._store_steps.fetch(keys))

    def store(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        self._link.run(self._store_steps.store(items))

    def delete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        self._link.run(self._store_steps.delete(keys))

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return self._link.run(self._marks_steps(scopes))

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        self._link.run(self._store_steps.extend_marks(generation, start, upto, marks))

    def lock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`."""
        return self._link.run(self._store_steps.lock(key, ttl_s))

    def unlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        self._link.run(self._store_steps.unlock(key, token))

    def append(self, records: tuple[Record, ...], applier: str = "") -> Appended:  # noqa: ARG002 - each poll is told
        """See `LogPort.append`."""
        return self._append(records) if self._linger is None else self._linger.append(records)

    def _append(self, records: tuple[Record, ...]) -> Appended:
        return self._link.run(self._log_steps.append(records))

    @property
    def puts(self) -> bool:
        """Whether the log and all entries lie on one server: a script reaches no further."""
        return not self._places.spread

    def put(self, record: Record, items: tuple[Item, ...], after: Stamp) -> Appended | Identity:
        """See `PutPort.put`."""
        return self._link.run(self._log_steps.put(record, self._store_steps.put(items), after))

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """See `LogPort.poll`."""
        return self._link.run(self._log_steps.poll(member, position, limit, wait_s))

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return self._link.run(self._log_steps.read_head())

    def read_members(self) -> Members:
        """See `LogPort.read_members`."""
        return self._link.run(self._log_steps.read_members())

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        return self._link.run(self._log_steps.read_about(nodes))

    def leave(self, node: str) -> None:
        """See `LogPort.leave`."""
        self._link.run(self._log_steps.leave(node))

    def reborn(self) -> None:
        """Start anew in a forked child: locks may be held for ever there, and the connections are the parent's."""
        self._places.reborn()
        self._link.reborn()
        self._loops.reborn()
        if self._linger is not None:
            self._linger.reborn()

    def tell_troubles_to(self, on_trouble: OnForged) -> None:
        """Say who is told of entries and records without a valid signature."""
        if self._seal is not None:
            self._seal.on_forged = on_trouble

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._link.close()
        self._loops.close()

    # The ports, for event loops -------------------------------------------------------------------------------

    async def afetch(self, keys: tuple[str, ...]) -> tuple[Fetched | EngineError | None, ...]:
        """See `StorePort.fetch`."""
        if len(keys) == 1:
            stream = self._loops.at_hand()
            if stream is not None:
                name, wire = self._store_steps.name_and_wire(keys[0])
                try:
                    left_ms, data = await stream.ask(wire, 2)
                except BREAKS as error:
                    self._loops.note(error)
                else:
                    if type(left_ms) is not ErrorReply and type(data) is not ErrorReply:
                        return (self._store_steps.found(name, left_ms, data),)
        return await self._loops.run(self._store_steps.fetch(keys))

    async def astore(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        await self._loops.run(self._store_steps.store(items))

    async def adelete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        await self._loops.run(self._store_steps.delete(keys))

    async def aread_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return await self._loops.run(self._marks_steps(scopes))

    async def aextend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        await self._loops.run(self._store_steps.extend_marks(generation, start, upto, marks))

    async def alock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`."""
        return await self._loops.run(self._store_steps.lock(key, ttl_s))

    async def aunlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        await self._loops.run(self._store_steps.unlock(key, token))

    async def aappend(self, records: tuple[Record, ...], applier: str = "") -> Appended:  # noqa: ARG002 - each poll is told
        """See `LogPort.append`."""
        if self._linger is None:
            return await self._aappend(records)
        loop = asyncio.get_running_loop()
        linger = self._loop_lingers.get(loop)
        if linger is None:
            linger = self._loop_lingers[loop] = LoopLinger(self.url.linger_s, self._aappend)
        return await linger.append(records)

    async def _aappend(self, records: tuple[Record, ...]) -> Appended:
        return await self._loops.run(self._log_steps.append(records))

    async def aput(self, record: Record, items: tuple[Item, ...], after: Stamp) -> Appended | Identity:
        """See `PutPort.put`."""
        return await self._loops.run(self._log_steps.put(record, self._store_steps.put(items), after))

    async def apoll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """See `LogPort.poll`. One that waits would keep all others of its connection waiting, so it has a thread."""
        if wait_s:
            return await asyncio.to_thread(self.poll, member, position, limit, wait_s)
        return await self._loops.run(self._log_steps.poll(member, position, limit, 0.0))

    async def aread_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return await self._loops.run(self._log_steps.read_head())

    async def aread_members(self) -> Members:
        """See `LogPort.read_members`."""
        return await self._loops.run(self._log_steps.read_members())

    async def aleave(self, node: str) -> None:
        """See `LogPort.leave`."""
        await self._loops.run(self._log_steps.leave(node))
