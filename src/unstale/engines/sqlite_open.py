"""Opening a file of the SQLite engine: what may be trusted, what is replaced by a fresh one, and what is left alone.

A file that cannot be trusted is never repaired: a fresh one takes its place, which is a new generation of every cache
in it. That is one whose -wal or -shm vanished under us, that shrank, that was written in another life of the machine
(with synchronous=NORMAL a power cut may take the last commits), or that is a copy: it tells the device and inode of its
original. All of these are provably ours; what is not ours is never touched.

Opening is serialised by a lock on the directory, so that nobody opens a file while another replaces it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from unstale.engines.sqlite_schema import APPLICATION_ID, FRESH_START, SCHEMA, SCHEMA_VERSION
from unstale.errors import BusyError, CorruptError, UnavailableError

try:
    import fcntl
except ImportError:  # Windows: a file that is open there can be neither deleted nor replaced
    fcntl = None  # type: ignore[assignment]

Place = tuple[int, int] | None
TRIES = 5
RETRY_S = 0.0005  # times a random number: SQLite's own waiting starves some writers for seconds
WAL_PAGES = 4000  # the log of pages is copied into the database every so many: what waits for the disk is seldom
WAL_BYTES = WAL_PAGES * 4200
BOOT_TOLERANCE_S = 10.0
BEGAN = "began "
PRAGMAS = (
    # Nothing is lost with a killed process. A restart of the machine is a new generation, so OFF would be coherent too;
    # but a power cut could then leave a file that nobody can read.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA secure_delete = OFF",
    "PRAGMA trusted_schema = OFF",
    f"PRAGMA wal_autocheckpoint = {WAL_PAGES}",
    f"PRAGMA journal_size_limit = {WAL_BYTES}",
)


# What counts suspends, and is the same for all processes; on macOS that is CLOCK_MONOTONIC.
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def boot_clock() -> float:
    """Give the seconds since the machine started, suspends included where the system can tell."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def boot_id(clock: Callable[[], float]) -> str:
    """Name this life of the machine: Linux tells it; elsewhere, the moment at which it began."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()
    except OSError:
        return f"{BEGAN}{time.time() - clock():.0f}"


def same_boot(one: str, two: str) -> bool:
    """Compare two names of lives of the machine; moments may differ by what time servers correct."""
    if one.startswith(BEGAN) and two.startswith(BEGAN):
        return abs(float(one.removeprefix(BEGAN)) - float(two.removeprefix(BEGAN))) <= BOOT_TOLERANCE_S
    return one == two


def place(name: str) -> Place:
    """Give device and inode of what a name leads to, None for nothing."""
    try:
        found = os.stat(name)  # noqa: PTH116 - on every answer's path
    except OSError:
        return None
    return found.st_dev, found.st_ino


def size(name: str) -> int:
    """Give the size of a file, 0 for none."""
    try:
        return os.stat(name).st_size  # noqa: PTH116 - a string, as everything here
    except OSError:
        return 0


class Life:
    """One opening of the file: its names, what they led to, its connections, and the number of our cache in it.

    The anchor is a connection on which nothing is done, but to see whether others commit. As long as it is open, the
    -wal is not removed by whoever closes last, and the inode's number is given to no other file.
    """

    __slots__ = ("anchor", "cache", "looked", "lost", "names", "places", "readers", "size", "url", "writers")

    def __init__(self, names: tuple[str, str, str], url: str, cache: int, anchor: sqlite3.Connection) -> None:
        self.names = names
        self.url = url
        self.cache = cache
        self.anchor = anchor
        self.places = tuple(place(name) for name in names)
        self.size = 0
        self.looked = 0.0
        self.lost = False
        self.readers: list[sqlite3.Connection] = []
        self.writers: list[sqlite3.Connection] = []  # one alone: its pages stay valid while no other process writes

    def connect(self) -> sqlite3.Connection:
        """Open one more connection to the file, which must be there."""
        return connect(f"{self.url}?mode=rw")

    def intact(self) -> bool:
        """Say whether the names still lead to what was opened, and the file has not shrunk; three `stat`, about 3 us.

        A database that is never vacuumed only grows, so a smaller one was truncated or overwritten in place. What it is
        compared with must be read before looking: another thread may see it larger, and note that, in between.
        """
        seen = self.size
        path, wal, shm = self.names
        try:
            found = os.stat(path)  # noqa: PTH116 - on every answer's path
        except OSError:
            return False
        if found.st_size > seen:
            self.size = found.st_size
        self.looked = time.monotonic()
        places = ((found.st_dev, found.st_ino), place(wal), place(shm))
        return places == self.places and found.st_size >= seen and not self.lost

    def suspect(self) -> Place:
        """Give the place of a file that must be replaced: it is there, but lost its -wal or -shm, or shrank."""
        path, wal, shm = (place(name) for name in self.names)
        if path != self.places[0]:
            return None
        was_wal, was_shm = self.places[1:]
        gained = (was_wal, was_shm) == (None, None) and (wal, shm) != (None, None)  # opened for reading only
        return None if gained else path


def connect(url: str) -> sqlite3.Connection:
    """Open a connection that waits for nobody and may move between threads, one at a time."""
    connection = sqlite3.connect(url, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def close(connection: sqlite3.Connection) -> None:
    """Close a connection, come what may."""
    with contextlib.suppress(sqlite3.Error):
        connection.close()


def rolled_back(connection: sqlite3.Connection | None) -> bool:
    """Roll back what was begun; False if the connection cannot be used again."""
    try:
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


@contextlib.contextmanager
def locked_directory(folder: str, patience_s: float) -> Iterator[None]:
    """Hold a lock on a directory; the database file itself must never be opened and closed beside SQLite."""
    until = time.monotonic() + patience_s
    try:
        handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be entered, but not read: opening goes unserialised
        handle = None
    if handle is None:
        yield
        return
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BusyError(
                        f"{folder} is locked by others", hint="who holds a lock on it? ask lslocks"
                    ) from None
                time.sleep(random.random() * 2 * RETRY_S)
            except OSError:
                break  # a file system without such locks
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def open_life(path: str, boot: str, lost: Place, patience_s: float, adopt: Callable[[sqlite3.Connection], int]) -> Life:
    """Open the file at a path, make one where there is none, and replace one that cannot be trusted.

    Args:
        path: Where it is.
        boot: This life of the machine.
        lost: The place of a file that is to be replaced if it is still there; see `Life.suspect`.
        patience_s: How long to wait for others who are opening.
        adopt: Finds or makes our cache in the file: its number.

    Raises:
        sqlite3.Error: SQLite failed.
        OSError: The file system failed.
        EngineError: What is there is not ours, or others are in the way.
    """
    real = os.path.realpath(path)
    names = (path, f"{real}-wal", f"{real}-shm")
    url = Path(real).as_uri()
    with locked_directory(os.path.dirname(real), patience_s):  # noqa: PTH120 - a string, as everything here
        if lost is not None and place(path) == lost:
            discard(real)
        for _ in range(TRIES):
            empty = not size(path)
            torn = not empty and place(names[1]) is None and place(names[2]) is not None  # SQLite removes the -wal last
            if empty or torn:
                # 1. A holds the old life: its -shm keeps A's locks and index. 2. Only the database, or only the -wal,
                # is deleted or emptied. 3. B opens, joins that index, and reads by it what is not there; A writes to
                # it. So a -shm whose database or -wal is gone goes first. It never holds data.
                remove(names[1:])
            connection = connect(f"{url}?mode=rwc")
            try:
                home = place(path)
                trusted = settle(connection, path, boot, home) and not torn
                life = Life(names, url, adopt(connection), connection) if trusted else None
            except BaseException:
                close(connection)
                raise
            if life is not None and life.places[0] == home and life.intact():
                return life
            close(connection)
            if not trusted and place(path) == home:
                discard(real)
    raise UnavailableError(f"{path} is replaced again and again", hint="who else writes there?", path=path)


def settle(connection: sqlite3.Connection, path: str, boot: str, home: Place) -> bool:
    """Make the tables of an empty database, and say whether one of ours can be trusted.

    Raises:
        CorruptError: It is not ours, or of another version.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID and (application or tables or version):
        hint = "name another path; this file is left as it is"
        raise CorruptError(f"{path} is a database of another program", hint=hint, path=path)
    if tables and version != SCHEMA_VERSION:
        msg = f"{path} was made by another version of unstale (format {version}, this one reads {SCHEMA_VERSION})"
        raise CorruptError(msg, hint=f"use one version, or {FRESH_START}", path=path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        hint = "put it on a local disk: a network file system cannot share a write-ahead log"
        raise UnavailableError(f"{path} lies where SQLite cannot keep a write-ahead log", hint=hint, path=path)
    told = str(home)
    if not tables:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in SCHEMA:
                connection.execute(statement)
            # Tokens begin at the clock, in microseconds: those of a file that takes this one's place are greater.
            connection.execute("INSERT INTO file VALUES (?, ?, ?)", (boot, told, int(boot_clock() * 1e6)))
        connection.execute("COMMIT")
    row = connection.execute("SELECT boot, home FROM file").fetchone()
    return row is not None and same_boot(row[0], boot) and row[1] == told


def discard(real: str) -> None:
    """Delete a file that is provably ours, so that a fresh one takes its place; others notice, and follow."""
    remove((real, f"{real}-wal", f"{real}-shm"))  # in this order: names beside an absent file are removed by the next


def remove(names: tuple[str, ...]) -> None:
    """Delete what is there of some files."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - a string, as everything here
