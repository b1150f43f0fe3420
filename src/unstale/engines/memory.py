"""The memory engine: store and log in this process, for tests and for services of one process.

It is also the model that every other engine is compared with, and the server that the simulator breaks: it is one
plain object, `MemoryServer`, that knows nothing of threads.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from unstale.core.marks import Mark, merged, raised
from unstale.core.marks import full as mark_of
from unstale.core.ops import Appended, Batch, Fetched, Identity, Item, MarksReply, Member, Members
from unstale.core.record import Logged, Record, Stamp
from unstale.engines.ports import Guarantees

RECORDS_MAX = 100_000
ENTRIES_MAX = 1_000_000
BYTES_MAX = 512 * 1024 * 1024
MARKS_MAX = 200_000
MEMBER_LIFE = 4.0  # a member is kept for so many times its bound after its last poll
SWEEP = 4  # expired items looked for with every write

MarkTable = OrderedDict[str, tuple[int | Mark, float]]


class MemoryServer:
    """Entries, marks, locks, log and members, as plain data. Not thread-safe.

    Args:
        clock: Elapsed time, in seconds.
        generation: The id of this life of the log.
        records_max: The log is trimmed to so many records.
        entries_max: At most so many entries; the oldest writes go first.
        bytes_max: At most so many bytes of entries.
        marks_max: At most so many marks; what the oldest would have ended is a miss.
        max_ttl_s: No entry lives longer, in seconds; marks live twice as long.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        generation: str,
        *,
        records_max: int = RECORDS_MAX,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        marks_max: int = MARKS_MAX,
        max_ttl_s: float = 7 * 24 * 3600.0,
    ) -> None:
        self.clock = clock
        self.records_max = records_max
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.marks_max = marks_max
        self.max_ttl_s = max_ttl_s
        self.entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.bytes = 0
        self.locks: dict[str, tuple[int, float]] = {}
        self.tokens = 0
        self.proven = True
        self.pulsed = False
        self.certain = True
        self.begin(generation)

    def begin(self, generation: str) -> None:
        """Begin a new generation with an empty log and no marks. Entries stay; their stamps tell them apart."""
        self.log: deque[Logged] = deque()
        self.ids: dict[str, Logged] = {}
        self.head = 0
        self.head_id = ""
        self.marks: MarkTable = OrderedDict()
        self.forgotten = 0
        self.covered: tuple[str, int, int] | None = None
        self.bound_s = 0.0
        self.begin_generation(generation)

    def begin_generation(self, generation: str) -> None:
        """Begin a new generation that goes on with the log as it is: after a promotion, or from an older copy.

        The members are gone, their largest bound is not: some may hold leases from before.
        """
        self.generation = generation
        self.members: dict[str, tuple[Member, float]] = {}
        self.members_since = self.clock()

    # The log --------------------------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Give the identity of the log."""
        return Identity(self.generation, self.head, self.head_id, self.proven, self.pulsed)

    def append(self, records: tuple[Record, ...], *, marks: bool = True) -> Appended:
        """Append records, and raise their marks if the store is ours too."""
        logged = []
        for record in records:
            known = self.ids.get(record.id)
            if known is None:
                known = Logged(self.head + 1, self.head_id, record)
                self.head, self.head_id = known.position, record.id
                self.log.append(known)
                self.ids[record.id] = known
                if marks:
                    self._raise_marks(known)
            logged.append(known)
        self.trim(self.records_max)
        return Appended(self.identity(), tuple(logged))

    def put(self, record: Record, items: tuple[Item, ...], after: Stamp) -> Appended | Identity:
        """Append a record and put its items, if the head is still where the writer knows it to be."""
        if record.id in self.ids:
            return self.append((record,))
        if (self.generation, self.head) != (after.generation, after.position):
            return self.identity()
        appended = self.append((record,))
        self.store(tuple(item for item in items if item.ttl_s > 0))
        self.delete(tuple(item.key for item in items if item.ttl_s <= 0))
        return appended

    def trim(self, keep: int) -> None:
        """Forget the oldest records but `keep`."""
        while len(self.log) > keep:
            del self.ids[self.log.popleft().id]

    def after(self, position: int, limit: int) -> Batch:
        """Give records after a position, and the id of the record at it, None where the log has none."""
        first = self.head - len(self.log) + 1
        at_id: str | None = None
        if position == self.head:
            at_id = self.head_id
        elif first - 1 <= position < self.head:
            at_id = self.log[position - first + 1].prev
        start = max(position - first + 1, 0)
        count = max(0, min(limit, len(self.log) - start))
        # Like any deposed leader it answers polls as before: a head, acknowledged by a quorum, would tell (H11).
        identity = Identity(self.generation, self.head, self.head_id, self.proven or self.pulsed, self.pulsed)
        return Batch(identity, at_id, tuple(self.log[start + i] for i in range(count)))

    def renew(self, member: Member) -> None:
        """Put a member on the list, or keep it there."""
        now = self.clock()
        self.members.pop(member.node, None)
        self.members[member.node] = (member, now + MEMBER_LIFE * member.max_staleness_s)
        self.bound_s = max(self.bound_s, member.max_staleness_s)
        for node in list(itertools.islice(self.members, SWEEP)):  # the oldest first: they renew at the end
            if self.members[node][1] <= now:
                del self.members[node]

    def read_members(self) -> Members:
        """Give the members whose lease may still be alive."""
        now = self.clock()
        self.members = {node: (member, until) for node, (member, until) in self.members.items() if until > now}
        living = tuple(msgspec.structs.replace(member, about=b"") for member, _until in self.members.values())
        return Members(self.identity(), living, now - self.members_since, self.bound_s)

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """Give what living members tell about themselves."""
        now = self.clock()
        found = (self.members.get(node) for node in nodes)
        return tuple(one[0].about if one and one[1] > now else b"" for one in found)

    # The store ------------------------------------------------------------------------------------------------

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """Give what is stored under keys."""
        now = self.clock()
        found = (self.entries.get(key) for key in keys)
        return tuple(Fetched(one[0], one[1] - now) if one and one[1] > now else None for one in found)

    def store(self, items: tuple[Item, ...]) -> None:
        """Put items."""
        now = self.clock()
        for item in items:
            self._drop(item.key)
            self.entries[item.key] = (item.data, now + item.ttl_s)
            self.bytes += len(item.data)
        swept = 0
        while self.entries:
            key, (_data, until) = next(iter(self.entries.items()))
            full = len(self.entries) > self.entries_max or self.bytes > self.bytes_max
            if not full and (until > now or swept >= SWEEP):
                break
            self._drop(key)
            swept += 1

    def delete(self, keys: tuple[str, ...]) -> None:
        """Drop items."""
        for key in keys:
            self._drop(key)

    def _drop(self, key: str) -> None:
        old = self.entries.pop(key, None)
        if old is not None:
            self.bytes -= len(old[0])

    def _raise_marks(self, logged: Logged) -> None:
        now = self.clock()
        for scope in logged.record.scopes:
            old = self.marks.pop(scope, None)
            mark = raised(old[0] if old else None, logged.position, logged.record)
            self.marks[scope] = (mark, now + 2 * self.max_ttl_s)
        self._sweep_marks(now)

    def _sweep_marks(self, now: float) -> None:
        for _ in range(SWEEP):
            scope = next(iter(self.marks), None)
            if scope is None or (self.marks[scope][1] > now and len(self.marks) <= self.marks_max):
                break
            mark, until = self.marks.pop(scope)
            if until > now:
                self.forgotten = max(self.forgotten, mark_of(mark).last)

    def read_marks(self, scopes: tuple[str, ...], *, own: bool = True) -> MarksReply:
        """Give marks; `own` says that this server is the log too, so that its marks are complete up to its head."""
        now = self.clock()
        marks = {scope: self.marks[scope][0] for scope in scopes if scope in self.marks and self.marks[scope][1] > now}
        if own:
            return MarksReply(self.identity(), marks, self.forgotten + 1, self.head, self.certain)
        generation, start, upto = self.covered or ("", 1, 0)
        start = max(start, self.forgotten + 1)
        return MarksReply(Identity(generation, upto, "", proven=False), marks, start, upto, self.certain)

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """Extend the range that the marks of a foreign log cover."""
        now = self.clock()
        if self.covered is not None and self.covered[0] != generation:
            self.covered = None
            self.forgotten = 0
            self.marks.clear()  # positions of another generation say nothing about this one's entries
        for scope, mark in marks.items():
            old = self.marks.pop(scope, None)
            self.marks[scope] = (merged(old[0] if old else None, mark), now + 2 * self.max_ttl_s)
        self._sweep_marks(now)
        if self.covered is None or start > self.covered[2] + 1:
            self.covered = (generation, start, upto)
        elif upto >= self.covered[1] - 1:
            self.covered = (generation, min(start, self.covered[1]), max(upto, self.covered[2]))

    def lock(self, key: str, ttl_s: float) -> int | None:
        """Take a lock if it is free or has expired."""
        now = self.clock()
        held = self.locks.get(key)
        if held is not None and held[1] > now:
            return None
        if len(self.locks) > ENTRIES_MAX:
            self.locks = {name: lock for name, lock in self.locks.items() if lock[1] > now}
        self.tokens += 1
        self.locks[key] = (self.tokens, now + ttl_s)
        return self.tokens

    def unlock(self, key: str, token: int) -> None:
        """Release a lock that is still its holder's."""
        held = self.locks.get(key)
        if held is not None and held[0] == token:
            del self.locks[key]


class _Waiting:
    """The polls that wait at one server: their nodes, and what wakes them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.nodes: list[str] = []


_waiting: weakref.WeakKeyDictionary[MemoryServer, _Waiting] = weakref.WeakKeyDictionary()


class MemoryEngine:
    """Both ports upon a `MemoryServer`, for the threads of this process.

    Args:
        server: The server; several engines, and so several caches, may share one.
        own: The server is the log too; else its marks are written by the nodes that follow another engine's log.
    """

    guarantees: ClassVar[Guarantees] = Guarantees(
        name="memory",
        store=True,
        log=True,
        processes="one process; caches of one name share it",
        durable="no: it ends with the process",
        replay="yes, as far as the bounded log reaches",
        atomic_marks="yes",
        keeps_marks="yes: marks are never evicted before they expire",
        survives_failover="there is none: a new process is a new generation",
        proves_leadership="it is the only server there is",
        quick=frozenset(
            {"fetch", "store", "delete", "read_marks", "extend_marks", "lock", "unlock", "append", "put",
             "read_head", "read_members", "read_about", "leave"}
        ),
    )  # fmt: skip

    def __init__(self, server: MemoryServer, *, own: bool = True) -> None:
        self.server = server
        self._own = self.puts = own
        # Engines upon one server are handles to the same data, as those of several processes would be.
        self._waiting = _waiting.setdefault(server, _Waiting())
        self._lock = self._waiting.lock

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        with self._lock:
            return self.server.fetch(keys)

    def store(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        with self._lock:
            self.server.store(items)

    def delete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        with self._lock:
            self.server.delete(keys)

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        with self._lock:
            return self.server.read_marks(scopes, own=self._own)

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        with self._lock:
            self.server.extend_marks(generation, start, upto, marks)

    def lock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`."""
        with self._lock:
            return self.server.lock(key, ttl_s)

    def unlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        with self._lock:
            self.server.unlock(key, token)

    def append(self, records: tuple[Record, ...], applier: str = "") -> Appended:
        """See `LogPort.append`."""
        with self._lock:
            appended = self.server.append(records)
            if self._waiting.nodes != [applier]:
                self._waiting.changed.notify_all()
            return appended

    def put(self, record: Record, items: tuple[Item, ...], after: Stamp) -> Appended | Identity:
        """See `PutPort.put`."""
        with self._lock:
            answer = self.server.put(record, items, after)
            self._waiting.changed.notify_all()
            return answer

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """See `LogPort.poll`."""
        until = time.monotonic() + wait_s
        with self._lock:
            self.server.renew(member)
            while True:
                batch = self.server.after(position, limit)
                ours = batch.identity.generation == member.generation and batch.identity.head == position
                left_s = until - time.monotonic()
                left = member.node not in self.server.members
                if batch.records or not ours or left or left_s <= 0:
                    return batch
                self._waiting.nodes.append(member.node)
                try:
                    self._waiting.changed.wait(left_s)
                finally:
                    self._waiting.nodes.remove(member.node)

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        with self._lock:
            return self.server.identity()

    def read_members(self) -> Members:
        """See `LogPort.read_members`."""
        with self._lock:
            return self.server.read_members()

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        with self._lock:
            return self.server.read_about(nodes)

    def leave(self, node: str) -> None:
        """See `LogPort.leave`."""
        with self._lock:
            self.server.members.pop(node, None)
            self._waiting.changed.notify_all()

    def close(self) -> None:
        """Nothing to release: other caches may share the server."""
