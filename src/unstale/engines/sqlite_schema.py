"""What a file of the SQLite engine holds, and what its driver's errors mean.

Several caches may share a file: each has a row in `cache`, and its number there begins the key of every other table.
Only `file` is common to them. Moments are seconds of the boot clock, comparable between the processes of one machine
until it restarts; then the file is replaced as a whole (see `sqlite_open`), so none of them outlives its clock.
"""

from __future__ import annotations

import errno
import sqlite3

from unstale.errors import BusyError, CorruptError, EngineError, FullError, ReadOnlyError, UnavailableError

APPLICATION_ID = 0x756E7374  # "unst": says that a file is ours
SCHEMA_VERSION = 1

SCHEMA = (
    # boot: the life of the machine. home: device and inode of this very file; a copy tells another one (H10).
    "CREATE TABLE file (boot TEXT NOT NULL, home TEXT NOT NULL, token INTEGER NOT NULL)",
    # A counter row, not AUTOINCREMENT: always dense, never used twice after trimming, and the predecessor is at hand.
    """CREATE TABLE cache (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, generation TEXT NOT NULL,
        head INTEGER NOT NULL DEFAULT 0, head_id TEXT NOT NULL DEFAULT '', trimmed INTEGER NOT NULL DEFAULT 0,
        max_ttl REAL NOT NULL, since REAL NOT NULL, bound REAL NOT NULL DEFAULT 0,
        written INTEGER NOT NULL DEFAULT 0, entries INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
        marks INTEGER NOT NULL DEFAULT 0, marks_from INTEGER NOT NULL DEFAULT 1,
        covered TEXT, covered_from INTEGER NOT NULL DEFAULT 1, covered_upto INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE log (
        cache INTEGER NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL, prev TEXT NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (cache, position)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX log_id ON log (cache, id)",
    # mark: an integer for the short form, else the MessagePack form of `Mark`.
    """CREATE TABLE mark (
        cache INTEGER NOT NULL, scope TEXT NOT NULL, mark NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (cache, scope)) WITHOUT ROWID""",
    "CREATE INDEX mark_until ON mark (cache, until)",
    """CREATE TABLE entry (
        id INTEGER PRIMARY KEY, cache INTEGER NOT NULL, key TEXT NOT NULL, until REAL NOT NULL, data BLOB NOT NULL,
        UNIQUE (cache, key))""",
    "CREATE INDEX entry_until ON entry (cache, until)",
    """CREATE TABLE member (
        cache INTEGER NOT NULL, node TEXT NOT NULL, generation TEXT NOT NULL, applied INTEGER NOT NULL,
        bound REAL NOT NULL, until REAL NOT NULL, PRIMARY KEY (cache, node)) WITHOUT ROWID""",
    """CREATE TABLE lock (
        cache INTEGER NOT NULL, key TEXT NOT NULL, token INTEGER NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (cache, key)) WITHOUT ROWID""",
    "CREATE INDEX lock_until ON lock (cache, until)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

FRESH_START = "delete the file with its -wal and -shm; every process then begins a new one, without a restart"
_NO_SPACE = "free some space, or raise the quota or file size limit; nothing that was acknowledged is lost"
_LOCKED = "another program holds a transaction open on the file: end it, or give the cache a file of its own"
_SYSTEM = "look at the system's log; if the storage is sound, " + FRESH_START

# By extended code first, then by primary code. What is not listed is an error of the file system or of memory.
_ERRORS: dict[int, tuple[type[EngineError], str, str]] = {
    sqlite3.SQLITE_BUSY: (BusyError, "is locked by others", _LOCKED),
    sqlite3.SQLITE_LOCKED: (BusyError, "is locked by others", _LOCKED),
    sqlite3.SQLITE_PROTOCOL: (BusyError, "is locked by others", _LOCKED),
    sqlite3.SQLITE_FULL: (FullError, "cannot grow: no space left", _NO_SPACE),
    # Only ENOSPC becomes SQLITE_FULL; a quota or file size limit shows as a failed write.
    sqlite3.SQLITE_IOERR_WRITE: (FullError, "cannot be written: no space, or a limit, or a fault", _NO_SPACE),
    sqlite3.SQLITE_IOERR_SHMSIZE: (FullError, "cannot grow its index: no space left", _NO_SPACE),
    sqlite3.SQLITE_TOOBIG: (FullError, "cannot hold a value of this size", "store less than a gigabyte under one key"),
    sqlite3.SQLITE_READONLY: (
        ReadOnlyError, "is read-only", "let this user write to the file, its -wal and -shm, and their directory",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        UnavailableError, "cannot be opened", "name a file in an existing directory that this user may write to",
    ),
    sqlite3.SQLITE_NOTADB: (CorruptError, "is not a database", "name another path; this file is left as it is"),
    sqlite3.SQLITE_CORRUPT: (CorruptError, "is damaged", FRESH_START),
    sqlite3.SQLITE_FORMAT: (CorruptError, "is damaged", FRESH_START),
    sqlite3.SQLITE_CONSTRAINT: (CorruptError, "contradicts itself", FRESH_START),
    sqlite3.SQLITE_MISMATCH: (CorruptError, "contradicts itself", FRESH_START),
    sqlite3.SQLITE_ERROR: (CorruptError, "lacks what ours have", FRESH_START),
}  # fmt: skip
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


def is_busy(error: BaseException) -> bool:
    """Say whether others were in the way, so that trying again helps."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def is_io(error: BaseException) -> bool:
    """Say whether the file could not be read or written as expected."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def engine_error(error: sqlite3.Error | OSError, path: str) -> EngineError:
    """Give what a driver's error means; the caller raises it from that error."""
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return ReadOnlyError(f"{path} may not be changed: {error}", hint=_ERRORS[sqlite3.SQLITE_READONLY][2], path=path)
    if isinstance(error, OSError):
        return UnavailableError(
            f"{path} cannot be opened: {error}", hint=_ERRORS[sqlite3.SQLITE_CANTOPEN][2], path=path
        )
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR)
    known = _ERRORS.get(code) or _ERRORS.get(code & 0xFF) or (UnavailableError, "does not answer", _SYSTEM)
    kind, what, hint = known
    return kind(f"{path} {what}: {error}", hint=hint, path=path, code=getattr(error, "sqlite_errorname", ""))
