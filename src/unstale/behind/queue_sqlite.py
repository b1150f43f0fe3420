"""The queue of one machine: an SQLite file with one row for each key.

Acknowledged means committed to the write-ahead log. With `durable="power"` that is synced to the disk at every commit
(synchronous=FULL), so nothing acknowledged is lost by a power cut; with `"process"` it is not (NORMAL): kill -9 of any
process loses nothing, a power cut may lose the last commits, and leaves the file whole.

Removing what was flushed is never synced. 1. v5 is flushed and removed. 2. The power fails, and v5 is there again.
3. It is handed to the sink a second time, with the same version and id. A removal comes before any later put in the
log, so a put that survives keeps the removals before it.

One flusher at a time: it holds SQLite's exclusive lock on a second, empty file, which the kernel frees when the process
dies, however it dies. So another one takes over at once, and a flusher that is merely stopped keeps the lead. Each new
leader raises the token in the queue; what an older one asks for is refused.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from unstale.behind.queue_file import PATIENCE_S, begin, hold, parts, put_rows, settle
from unstale.behind.writes import Dead, DeposedError, Durable, Items, Row, Status
from unstale.engines import sqlite_fork as forks
from unstale.engines.sqlite_open import Place, close, place, rolled_back
from unstale.engines.sqlite_schema import engine_error
from unstale.errors import UnavailableError


class SqliteQueue:
    """A queue in a file.

    Args:
        path: Where it is, or will be made.
        rows_max: So many keys it holds at most, those put aside among them.
        durable: Against what: see above.
    """

    lease_s: float | None = None

    def __init__(self, path: str, rows_max: int, durable: Durable = "power") -> None:
        self.path = self.place = os.path.abspath(path)  # noqa: PTH100 - a string; the working directory may change
        self._rows_max = rows_max
        self._sync = "FULL" if durable == "power" else "NORMAL"
        self._start()
        forks.watch(self)
        with self._reading():
            pass  # a path that cannot be is told at once

    def _start(self) -> None:
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._leading: sqlite3.Connection | None = None
        self._place: Place = None
        self._synced = ""
        self._id = ""

    # Puts and reads ---------------------------------------------------------------------------------------------------

    def put(self, groups: Sequence[Items], call: int) -> list[list[int] | None]:  # noqa: ARG002 - outcomes are known
        """Make groups of writes durable, in one transaction: see `Queue`."""
        answers: list[list[int] | None] = []
        with self._writing(self._sync) as db:
            last, most = db.execute("SELECT version, rows FROM queue").fetchone()
            version = max(last, time.time_ns() // 1000)
            for items in groups:
                most += len(items)  # at most: some keys are there already
                rows = [(key, data, version + n) for n, (key, data) in enumerate(items, start=1)]
                if most <= self._rows_max:
                    put_rows(db, rows)
                elif not self._put_if_room(db, rows):
                    answers.append(None)
                    continue
                answers.append([row[2] for row in rows])
                version += len(rows)
            db.execute("UPDATE queue SET version = ?", (version,))
        if place(self.path) != self._place:
            # 1. Somebody deletes the file. 2. We commit to what has no name any more. 3. Nobody will ever flush that.
            self.close()
            hint = "nothing was acknowledged: put it again; who deletes the queue's file?"
            raise UnavailableError(f"{self.path} was replaced", hint=hint)
        return answers

    def _put_if_room(self, db: sqlite3.Connection, rows: list[tuple[str, bytes, int]]) -> bool:
        (before,) = db.execute("SELECT rows FROM queue").fetchone()
        db.execute("SAVEPOINT room")
        put_rows(db, rows)
        (after,) = db.execute("SELECT rows FROM queue").fetchone()
        fits: bool = after <= max(self._rows_max, before)
        if not fits:
            db.execute("ROLLBACK TO room")
        db.execute("RELEASE room")
        return fits

    def id_of(self, version: int) -> str:
        """Give the idempotency key of a write."""
        return f"{self._id}-{version}"

    def newest(self, key: str) -> Row | None:
        """Give the write of a key that waits."""
        query = "SELECT key, data, version, tries FROM write WHERE key = ? AND dead = 0"
        with self._reading() as db:
            row = db.execute(query, (key,)).fetchone()
        return None if row is None else Row(*row)

    def status(self) -> Status:
        """Count what lies in the queue."""
        with self._reading() as db:
            counts = dict(db.execute("SELECT dead, count(*) FROM write GROUP BY dead").fetchall())
        return Status(counts.get(0, 0), counts.get(1, 0))

    # The flusher ------------------------------------------------------------------------------------------------------

    def lead(self) -> int:
        """Become the one flusher: a token, 0 while another leads."""
        with self._read_lock, self._told():
            self._leading = self._leading or hold(f"{self.path}-flusher")
            if self._leading is None:
                return 0
        with self._writing("NORMAL") as db:
            token: int = db.execute("UPDATE queue SET token = token + 1 RETURNING token").fetchone()[0]
        return token

    def renew(self, token: int) -> bool:
        """Say whether we lead: our lock on the file ends with us."""
        with self._reading() as db:
            return bool(db.execute("SELECT token FROM queue").fetchone()[0] == token)

    def resign(self, token: int) -> None:  # noqa: ARG002 - the lock says who leads
        """Let another one lead."""
        with self._read_lock:
            if self._leading is not None:
                close(self._leading)
                self._leading = None

    def take(self, token: int, limit: int, resting: Collection[str]) -> list[Row]:
        """Give the writes that wait longest: see `Queue`."""
        query = "SELECT key, data, version, tries FROM write WHERE dead = 0 ORDER BY since LIMIT ?"
        with self._reading() as db:
            self._check(db, token)
            found = [Row(*row) for row in db.execute(query, (limit + len(resting),)) if row[0] not in resting]
        return found[:limit]

    def done(self, token: int, rows: Sequence[Row]) -> None:
        """Remove what was flushed: see `Queue`."""
        with self._writing("NORMAL") as db:
            self._check(db, token)
            gone = 0
            for part in parts([(row.key, row.version) for row in rows]):
                # No two rows ever have one version: so the two lists match where a pair of them does.
                marks = ",".join("?" * len(part))
                query = f"DELETE FROM write WHERE key IN ({marks}) AND version IN ({marks})"  # noqa: S608 - marks
                gone += db.execute(query, [cell for column in zip(*part, strict=True) for cell in column]).rowcount
            if gone < len(rows):
                # A batch of keys that are all written again while it is flushed would be the next batch too, and no
                # other key's turn would come.
                db.executemany("UPDATE write SET since = version WHERE key = ?", [(row.key,) for row in rows])

    def failed(self, token: int, row: Row) -> int:
        """Count a failure of one write alone."""
        with self._writing("NORMAL") as db:
            self._check(db, token)
            counted = "UPDATE write SET tries = tries + 1 WHERE key = ? AND version = ? RETURNING tries"
            found = db.execute(counted, (row.key, row.version)).fetchone()
        return found[0] if found else 0

    def bury(self, token: int, rows: Sequence[tuple[Row, str]]) -> None:
        """Put writes aside; one that has been replaced meanwhile is none of them."""
        with self._writing(self._sync) as db:
            self._check(db, token)
            db.executemany(
                "UPDATE write SET dead = 1, error = ?, at = ? WHERE key = ? AND version = ?",
                [(error, time.time(), row.key, row.version) for row, error in rows],
            )

    @staticmethod
    def _check(db: sqlite3.Connection, token: int) -> None:
        if db.execute("SELECT token FROM queue").fetchone()[0] != token:
            raise DeposedError

    # What was put aside -----------------------------------------------------------------------------------------------

    def dead(self) -> list[Dead]:
        """Give what was put aside."""
        query = "SELECT key, version, data, tries, error, at FROM write WHERE dead = 1 ORDER BY since"
        with self._reading() as db:
            return [Dead(*row) for row in db.execute(query)]

    def replay(self, keys: Collection[str]) -> int:
        """Queue again what was put aside; a later put of its key has taken its place long ago."""
        query = "UPDATE write SET dead = 0, tries = 0, error = '' WHERE key = ? AND dead = 1"
        with self._writing(self._sync) as db:
            return db.executemany(query, [(key,) for key in keys]).rowcount

    def discard(self, keys: Collection[str]) -> int:
        """Forget what was put aside."""
        with self._writing(self._sync) as db:
            return db.executemany("DELETE FROM write WHERE key = ? AND dead = 1", [(key,) for key in keys]).rowcount

    # Connections ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self, sync: str) -> Iterator[sqlite3.Connection]:
        with self._write_lock, self._told():
            if self._writer is None:
                self._writer = self._open()
                self._writer.execute("PRAGMA busy_timeout = 0")
                self._synced = ""
            db = self._writer
            if self._synced != sync:
                db.execute(f"PRAGMA synchronous = {sync}")
                self._synced = sync
            begin(db)
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if not rolled_back(db):
                    close(db)
                    self._writer = None
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, self._told():
            if self._reader is None:
                self._reader = self._open()
            yield self._reader

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise engine_error(error, self.path) from error

    def _open(self) -> sqlite3.Connection:
        uri = f"{Path(self.path).as_uri()}?mode=rwc"
        db = sqlite3.connect(uri, uri=True, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
        try:
            self._id = settle(db, self.path)
        except BaseException:
            close(db)
            raise
        self._place = place(self.path)
        return db

    def _drop(self) -> None:
        for db in (self._writer, self._reader, self._leading):
            if db is not None:
                close(db)
        self._writer = self._reader = self._leading = None

    def close(self) -> None:
        """Close its connections. Idempotent."""
        with self._write_lock, self._read_lock:
            self._drop()

    # Forks: SQLite's locks are the process's, so no connection is carried across (see `sqlite_fork`) ----------------

    def pause(self) -> None:
        """Before a fork: close all connections, and let nobody open any. The lead is given up, and taken anew."""
        self._write_lock.acquire()
        self._read_lock.acquire()
        self._drop()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._read_lock.release()
        self._write_lock.release()

    def forked(self) -> None:
        """After a fork, in the child."""
        self._start()
