"""Looking into the file of an SQLite cache without leaving a trace.

An engine makes a file that is missing, replaces one that cannot be trusted, and enters its cache's name. A look must
do none of that: it opens the file for reading only, and answers the questions of the ports that only read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from unstale.core.ops import Batch, Fetched, Identity, MarksReply, Members
from unstale.core.record import Logged, decode_record
from unstale.engines import sqlite_about, sqlite_entries, sqlite_log
from unstale.engines.sqlite_open import boot_clock, boot_id, same_boot
from unstale.engines.sqlite_schema import APPLICATION_ID, SCHEMA_VERSION, engine_error
from unstale.errors import CorruptError, UnavailableError

T = TypeVar("T")
PATIENCE_S: Final = 2.0
CACHES: Final = (
    "SELECT id, name, generation, head, trimmed, since, entries, bytes, marks, max_ttl FROM cache ORDER BY name"
)
STORED: Final = "SELECT key FROM entry WHERE cache = ? AND key LIKE ? ESCAPE '\\' AND until > ? ORDER BY key"
WILD: Final = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})


@dataclass(frozen=True)
class CacheFacts:
    """One cache of a file: its row."""

    number: int
    name: str
    generation: str
    head: int
    trimmed: int
    since: float
    entries: int
    bytes: int
    marks: int
    max_ttl_s: float


@dataclass(frozen=True)
class FileFacts:
    """What a file tells of itself.

    Attributes:
        ours: It is a cache file of unstale.
        version: The version of its format.
        same_boot: It was made in this life of the machine.
        same_home: It lies where it was made; a copy does not.
        journal: How SQLite keeps its transactions.
        caches: The caches in it.
    """

    ours: bool
    version: int
    same_boot: bool = False
    same_home: bool = False
    journal: str = ""
    caches: tuple[CacheFacts, ...] = ()


def open_for_reading(path: str) -> sqlite3.Connection:
    """Open a file that is there, for reading only.

    Raises:
        UnavailableError: It is not there.
        EngineError: It cannot be opened.
    """
    if not Path(path).exists():
        msg = f"there is no file {path}"
        raise UnavailableError(
            msg, hint="no process has used this cache yet, or the path is another: look at the URL", path=path
        )
    uri = Path(os.path.realpath(path)).as_uri()
    try:
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=PATIENCE_S, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise engine_error(error, path) from error
    return connection


def file_facts(path: str) -> FileFacts:
    """Give what a file tells of itself.

    Raises:
        EngineError: It cannot be read.
    """
    connection = open_for_reading(path)
    try:
        ((application,),) = connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        if application != APPLICATION_ID or version != SCHEMA_VERSION:
            return FileFacts(application == APPLICATION_ID, version)
        boot, home = connection.execute("SELECT boot, home FROM file").fetchone()
        ((journal,),) = connection.execute("PRAGMA journal_mode").fetchall()
        found = os.stat(path)  # noqa: PTH116 - as the engine does
        return FileFacts(
            ours=True,
            version=version,
            same_boot=same_boot(boot, boot_id(boot_clock)),
            same_home=home == str((found.st_dev, found.st_ino)),
            journal=journal,
            caches=tuple(CacheFacts(*row) for row in connection.execute(CACHES)),
        )
    except sqlite3.Error as error:
        raise engine_error(error, path) from error
    finally:
        connection.close()


class SQLiteLook:
    """One cache of a file, for reading only: those methods of the ports that change nothing.

    Args:
        path: The file.
        name: The name of the cache.

    Raises:
        EngineError: There is no such file, it is not ours, or there is no such cache in it.
    """

    def __init__(self, path: str, name: str) -> None:
        facts = file_facts(path)
        if not facts.ours:
            hint = "name a file that unstale has made"
            raise CorruptError(f"{path} is a database of another program", hint=hint, path=path)
        if facts.version != SCHEMA_VERSION:
            msg = f"{path} was made by another version of unstale: format {facts.version}, not {SCHEMA_VERSION}"
            raise CorruptError(msg, hint="use the version of unstale that the service uses", path=path)
        known = {cache.name: cache for cache in facts.caches}
        if name not in known:
            there = ", ".join(map(repr, known)) or "no cache at all"
            hint = "choose one by --name" if known else "no process has used it yet"
            raise UnavailableError(f"{path} holds no cache named {name!r}; it holds {there}", hint=hint, path=path)
        self.path = path
        self.cache = known[name]
        found = os.stat(path)  # noqa: PTH116 - as the engine does
        self._place = (found.st_dev, found.st_ino)
        self._db = open_for_reading(path)

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return self._safely(lambda: sqlite_log.read_head(self._db, self.cache.number).identity)

    def read_members(self) -> Members:
        """See `LogPort.read_members`."""
        return self._safely(lambda: sqlite_log.read_members(self._db, self.cache.number, boot_clock()))

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        return self._safely(lambda: sqlite_about.read(self._db, self.cache.number, nodes, boot_clock()))

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return self._safely(lambda: sqlite_log.read_marks(self._db, self.cache.number, scopes, boot_clock()))

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        now = boot_clock()
        found = self._safely(lambda: sqlite_entries.fetch(self._db, self.cache.number, keys, now))
        rows = (found.get(key) for key in keys)
        return tuple(Fetched(row[0], row[1] - now) if row and isinstance(row[0], bytes) else None for row in rows)

    def stored_keys(self, key: str) -> list[str]:
        """Give the stored keys of all shapes in which an entry of a key is stored."""
        pattern = f"%|{key.translate(WILD)}"
        rows = self._safely(lambda: self._db.execute(STORED, (self.cache.number, pattern, boot_clock())).fetchall())
        return [stored for (stored,) in rows if stored.partition("|")[2] == key]

    def after(self, position: int, limit: int) -> Batch:
        """Give records after a position, with the identity of the log, without becoming a member."""

        def look() -> Batch:
            self._db.execute("BEGIN")
            try:
                identity = sqlite_log.read_head(self._db, self.cache.number).identity
                rows = self._db.execute(sqlite_log.AFTER, (self.cache.number, position, limit)).fetchall()
            finally:
                self._db.execute("COMMIT")
            records = (Logged(place, prev, decode_record(data, name)) for place, prev, name, data in rows)
            return Batch(identity, None, tuple(records))

        return self._safely(look)

    def silent(self) -> frozenset[str]:
        """Give nobody: on one machine with one clock, a member that has said nothing for long is no longer listed."""
        return frozenset()

    def intact(self) -> bool:
        """Say whether the file is still the one at its path."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - as the engine does
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._place

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _safely(self, look: Callable[[], T]) -> T:
        try:
            return look()
        except sqlite3.Error as error:
            raise engine_error(error, self.path) from error
