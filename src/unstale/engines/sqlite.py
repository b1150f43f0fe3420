"""The SQLite engine: store and log in one file, for many processes of one machine and without a server.

Every append is one transaction: positions from a counter row, the records, and the marks of all their scopes. What
has expired is swept in small steps by ordinary writes. The rows are in `sqlite_log` and `sqlite_entries`; `sqlite_file`
keeps the connections, and proves with every answer that the file is still the one at its path.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

from unstale.core.marks import Mark
from unstale.core.ops import Appended, Batch, Fetched, Identity, Item, MarksReply, Member, Members
from unstale.core.record import Record, Stamp
from unstale.engines import sqlite_about as about
from unstale.engines import sqlite_entries as entries
from unstale.engines import sqlite_log as log
from unstale.engines.memory import BYTES_MAX, ENTRIES_MAX, RECORDS_MAX
from unstale.engines.ports import Guarantees
from unstale.engines.sqlite_file import Database
from unstale.engines.sqlite_open import boot_clock, boot_id
from unstale.engines.sqlite_put import put
from unstale.errors import EngineUrlError

T = TypeVar("T")
MARKS_MAX = 1_000_000
MAX_TTL_S = 7 * 24 * 3600.0
PATIENCE_S = 5.0
SWEEP_EVERY = 8  # writes


def _new_id() -> str:
    return uuid.uuid4().hex


class SQLiteEngine:
    """Both ports upon one file, shared by the processes of one machine. Nothing is opened before the first call.

    Args:
        path: The file; it is made when it is missing, its directory is not. It must be on a local disk.
        name: The cache's name; caches of several names may share a file.
        records_max: The log is trimmed to so many records.
        entries_max: At most so many entries; the oldest writes go first.
        bytes_max: At most so many bytes of entries.
        marks_max: At most so many marks; the oldest go first, and entries from before the last of them are misses.
        max_ttl_s: No entry lives longer, in seconds; marks live twice as long.
        patience_s: How long a call waits for others before it is a `BusyError`, in seconds.
        new_id: Source of unique ids.
        clock: Seconds since the machine started, the same for all processes.
        boot: This life of the machine; another one makes a fresh file. Empty: as the system tells it.

    Raises:
        EngineUrlError: The path names no file that processes could share.
    """

    guarantees: ClassVar[Guarantees] = Guarantees(
        name="sqlite",
        store=True,
        log=True,
        processes="all processes of one machine, on a local disk; caches of several names may share a file",
        durable="what was acknowledged survives killed processes; a restart of the machine is a new generation",
        replay="yes, as far as the bounded log reaches",
        atomic_marks="yes: one transaction",
        keeps_marks="yes: beyond `marks_max` the oldest go, and what they alone could judge is a miss",
        survives_failover="a deleted, replaced, copied or truncated file is noticed: a new generation. Not noticed "
        "is an older copy written into the same file while no process has it open: delete the file instead",
        proves_leadership="it is the only file: every answer is followed by a look at what its names lead to",
        quick=frozenset({"fetch", "read_marks", "read_head", "read_members", "read_about"}),
    )

    puts: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - the limits of a server
        self,
        path: str,
        *,
        name: str = "default",
        records_max: int = RECORDS_MAX,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        marks_max: int = MARKS_MAX,
        max_ttl_s: float = MAX_TTL_S,
        patience_s: float = PATIENCE_S,
        new_id: Callable[[], str] = _new_id,
        clock: Callable[[], float] = boot_clock,
        boot: str = "",
    ) -> None:
        if not path or path == ":memory:" or path.startswith("file:"):
            hint = "write a path, as in sqlite:///var/cache/shop.cache; for one process, there is memory://"
            raise EngineUrlError(f"{path!r} is no file that processes can share", hint=hint, path=path)
        self.name = name
        self._limits = log.Limits(records_max, entries_max, bytes_max, marks_max, max_ttl_s)
        self._new_id = new_id
        self._clock = clock
        self._writes = 0
        self._left: set[str] = set()  # a poll of theirs that is under way ends
        self._told: dict[str, bytes] = {}  # what they were last seen to tell about themselves
        self._database = Database(path, boot or boot_id(clock), self._adopt, patience_s)

    def _adopt(self, db: sqlite3.Connection) -> int:
        """Find our cache in a file, or begin its first generation there."""
        sql = "SELECT id FROM cache WHERE name = ?"
        row = db.execute(sql, (self.name,)).fetchone()
        if row is None:
            db.execute(
                "INSERT OR IGNORE INTO cache (name, generation, max_ttl, since) VALUES (?, ?, ?, ?)",
                (self.name, self._new_id(), self._limits.max_ttl_s, self._clock()),
            )
            row = db.execute(sql, (self.name,)).fetchone()
        number: int = row[0]
        return number

    def _write(self, work: Callable[[sqlite3.Connection, int, float], T]) -> T:
        """Do a step of a write at the time of its transaction, and sweep now and then."""

        def step(db: sqlite3.Connection, cache: int) -> T:
            now = self._clock()
            answer = work(db, cache, now)
            if self._writes % SWEEP_EVERY == 0:
                entries.sweep(db, cache, now)
            self._writes += 1
            return answer

        return self._database.write(step)

    # The store ------------------------------------------------------------------------------------------------

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        now = self._clock()
        if len(keys) == 1:
            key = keys[0]
            one = self._database.read(lambda db, cache: entries.fetch_one(db, cache, key, now), proof=False)
            return (_fetched(one, now),)
        found = self._database.read(lambda db, cache: entries.fetch(db, cache, keys, now), proof=False)
        return tuple(_fetched(found.get(key), now) for key in keys)

    def store(self, items: tuple[Item, ...]) -> None:
        """See `StorePort.store`."""
        self._write(lambda db, cache, now: entries.store(db, cache, items, now, self._limits))

    def delete(self, keys: tuple[str, ...]) -> None:
        """See `StorePort.delete`."""
        self._write(lambda db, cache, _now: entries.delete(db, cache, keys))

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        now = self._clock()
        return self._database.read(lambda db, cache: log.read_marks(db, cache, scopes, now))

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> None:
        """See `StorePort.extend_marks`."""
        reach = log.Reach(generation, start, upto)
        self._write(lambda db, cache, now: log.extend_marks(db, cache, reach, marks, now=now, limits=self._limits))

    def lock(self, key: str, ttl_s: float) -> int | None:
        """See `StorePort.lock`. Who finds it held writes nothing."""
        now = self._clock()
        if self._database.read(lambda db, cache: entries.held(db, cache, key, now)):
            return None
        return self._write(lambda db, cache, now: entries.lock(db, cache, key, ttl_s, now))

    def unlock(self, key: str, token: int) -> None:
        """See `StorePort.unlock`."""
        self._write(lambda db, cache, _now: entries.unlock(db, cache, key, token))

    # The log --------------------------------------------------------------------------------------------------

    def append(self, records: tuple[Record, ...], applier: str = "") -> Appended:  # noqa: ARG002 - each poll is told
        """See `LogPort.append`."""
        appended = self._write(lambda db, cache, now: log.append(db, cache, records, now, self._limits))
        self._database.pool.waiting.announce()
        return appended

    def put(self, record: Record, items: tuple[Item, ...], after: Stamp) -> Appended | Identity:
        """See `PutPort.put`: one transaction."""
        answer = self._write(lambda db, cache, now: put(db, cache, record, items, after, now, self._limits))
        self._database.pool.waiting.announce()
        return answer

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Batch:
        """See `LogPort.poll`."""
        until = time.monotonic() + wait_s
        self._left.discard(member.node)
        pool = self._database.pool
        while True:
            changes, version = (
                pool.waiting.changes,
                pool.version(),
            )  # before the log is read: what comes after ends the wait
            batch, due = self._ask(member, position, limit)
            if member.node in self._left:
                return batch
            if due or self._told.get(member.node, b"") != member.about:
                # Written, then looked for again together with the head: so no lease is renewed off the list (H36).
                self._renew(member)
                continue
            identity = batch.identity
            changed = identity.generation != member.generation or identity.head != position
            if changed or time.monotonic() >= until:
                return batch
            pool.waiting.wait(changes, version, until)
            if pool.closed:
                return batch

    def _ask(self, member: Member, position: int, limit: int) -> tuple[Batch, bool]:
        now, max_ttl_s = self._clock(), self._limits.max_ttl_s
        return self._database.read(
            lambda db, cache: log.poll(db, cache, member, position, limit, now=now, max_ttl_s=max_ttl_s)
        )

    def _renew(self, member: Member) -> None:
        max_ttl_s = self._limits.max_ttl_s

        def step(db: sqlite3.Connection, cache: int) -> None:
            log.renew(db, cache, member, now=self._clock(), max_ttl_s=max_ttl_s)
            about.tell(db, cache, member.node, member.about)  # also when it was told: the row may be a new one

        self._database.write(step, proof=False)
        self._told[member.node] = member.about

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return self._database.read(log.read_head).identity

    def read_members(self) -> Members:
        """See `LogPort.read_members`."""
        now = self._clock()
        return self._database.read(lambda db, cache: log.read_members(db, cache, now))

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        now = self._clock()
        return self._database.read(lambda db, cache: about.read(db, cache, nodes, now))

    def leave(self, node: str) -> None:
        """See `LogPort.leave`."""
        self._left.add(node)
        self._told.pop(node, None)
        self._write(lambda db, cache, _now: log.leave(db, cache, node))
        self._database.pool.waiting.announce()

    def close(self) -> None:
        """Close the file. Idempotent; what is under way may end."""
        self._database.pool.close()


def _fetched(row: tuple[bytes, float] | None, now: float) -> Fetched | None:
    return Fetched(row[0], row[1] - now) if row is not None and isinstance(row[0], bytes) else None
