"""The file of a queue on one machine: its tables, its locks, and statements for many rows."""

from __future__ import annotations

import random
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from unstale.engines.sqlite_open import RETRY_S, close
from unstale.engines.sqlite_schema import is_busy
from unstale.errors import CorruptError, UnavailableError

Cells = TypeVar("Cells", bound=tuple[object, ...])
APPLICATION_ID: Final = 0x75_6E_73_62  # "unsb"
FORMAT: Final = 1
PATIENCE_S: Final = 5.0
ROWS_A_STATEMENT: Final = 200
SCHEMA: Final = (
    "CREATE TABLE queue (id TEXT NOT NULL, version INTEGER NOT NULL, token INTEGER NOT NULL, rows INTEGER NOT NULL)",
    """CREATE TABLE write (key TEXT NOT NULL UNIQUE, data BLOB NOT NULL, version INTEGER NOT NULL,
        since INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '', at REAL NOT NULL DEFAULT 0)""",
    "CREATE INDEX write_since ON write (dead, since)",
    # A count of the rows would be read for every put. A put that finds its key updates, and fires none of these.
    "CREATE TRIGGER write_more AFTER INSERT ON write BEGIN UPDATE queue SET rows = rows + 1; END",
    "CREATE TRIGGER write_less AFTER DELETE ON write BEGIN UPDATE queue SET rows = rows - 1; END",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
# A merged write keeps its place: a key that is written all the time is flushed as soon as any other.
PUT: Final = "INSERT INTO write (key, data, version, since) VALUES "
MERGE: Final = """ ON CONFLICT (key) DO UPDATE SET data = excluded.data, version = excluded.version,
    since = CASE dead WHEN 0 THEN since ELSE excluded.since END, tries = 0, dead = 0, error = ''"""


def put_rows(db: sqlite3.Connection, rows: list[tuple[str, bytes, int]]) -> None:
    """Put rows by few statements: Python gives up its lock for each step of one, and may wait for it each time."""
    for part in parts([(key, data, version, version) for key, data, version in rows]):
        db.execute(PUT + places(part) + MERGE, flat(part))


def parts(rows: list[Cells]) -> Iterator[list[Cells]]:
    """Cut rows into what one statement takes."""
    return (rows[start : start + ROWS_A_STATEMENT] for start in range(0, len(rows), ROWS_A_STATEMENT))


def places(rows: Sequence[tuple[object, ...]]) -> str:
    """Write the marks for the values of rows."""
    one = f"({','.join('?' * len(rows[0]))})"
    return ",".join([one] * len(rows))


def flat(rows: Sequence[tuple[object, ...]]) -> list[Any]:
    """Give the values of rows, one after the other."""
    return [value for row in rows for value in row]


def hold(path: str) -> sqlite3.Connection | None:
    """Take the lock of a file until the connection is closed, or its process ends; None while another has it."""
    holder = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        holder.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        close(holder)
        if is_busy(error):
            return None
        raise
    return holder


def begin(db: sqlite3.Connection) -> None:
    """Begin a transaction that writes; SQLite's own waiting starves some writers for seconds."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(random.random() * 2 * RETRY_S)
        else:
            return


def settle(db: sqlite3.Connection, path: str) -> str:
    """Make the tables of an empty file, and give the id of the queue in it.

    Raises:
        CorruptError: It is another program's, or of another format.
    """
    # In this order: 1. there is no mark of ours 2. another process makes the tables and marks the file 3. there are
    # tables: they would be taken for another program's.
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if tables and application != APPLICATION_ID:
        hint = "give the queue a path of its own: neither that of a cache nor that of your database"
        raise CorruptError(f"{path} holds something else than a queue", hint=hint, path=path)
    if (db.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
        hint = "put it on a local disk: a network file system cannot share a write-ahead log"
        raise UnavailableError(f"{path} lies where SQLite cannot keep a write-ahead log", hint=hint, path=path)
    if not tables:
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO queue VALUES (?, 0, 0, 0)", (secrets.token_hex(6),))
        db.execute("COMMIT")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != FORMAT:
        msg = f"{path} was made by another version of unstale (format {version}, this one reads {FORMAT})"
        raise CorruptError(msg, hint="let that version flush it to its end", path=path)
    name: str = db.execute("SELECT id FROM queue").fetchone()[0]
    return name
