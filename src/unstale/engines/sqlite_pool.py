"""The connections of one process to the file of the SQLite engine, and what becomes of them when the file is lost.

A connection is taken for a step, and given back: so threads that come and go leave none behind, and none is in use
while the process forks (see `sqlite_fork`).
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable

from unstale.engines import sqlite_fork as forks
from unstale.engines.sqlite_open import RETRY_S, Life, Place, close, open_life, place
from unstale.engines.sqlite_schema import engine_error, is_busy, is_io
from unstale.engines.sqlite_wait import Version, Waiting
from unstale.errors import UnavailableError

IDLE_MAX = 32
FORK_PATIENCE_S = 1.0
OPEN_TRIES = 5
OPEN_RETRY_S = 0.01
LOOK_S = 0.018  # what proves nothing by itself need not look more often whether the file is still the one at its path


class Pool:
    """The connections to one file. Nothing is opened before the first is taken.

    Args:
        path: Where the file is, or will be.
        boot: This life of the machine.
        adopt: Finds or makes our cache in the file: its number.
        patience_s: How long opening waits for others, in seconds.
    """

    def __init__(self, path: str, boot: str, adopt: Callable[[sqlite3.Connection], int], patience_s: float) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - a string; the working directory may change
        self.closed = False
        self._boot = boot
        self._adopt = adopt
        self._patience_s = patience_s
        self._suspect: Place = None
        self._life: Life | None = None
        self._over: list[Life] = []
        self._start()
        forks.watch(self)
        _pools.add(self)

    def _start(self) -> None:
        self._busy = 0
        self._pausing = False
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self.writing = threading.Lock()  # whoever writes holds it, so that threads do not compete for SQLite's lock
        self.waiting = Waiting(self.version)
        self._pid = os.getpid()

    def take(self, *, writing: bool = False) -> tuple[Life, sqlite3.Connection | None]:
        """Give a resting connection; None if there is none, and the caller must open one.

        Raises:
            EngineError: The file cannot be opened.
        """
        if self._pid != os.getpid():
            self.forked()
        with self._lock:
            while self._pausing:
                self._returned.wait()
            life = self._life or self._open()
            self._busy += 1
            resting = life.writers if writing else life.readers
            return life, resting.pop() if resting else None

    def give_back(
        self, life: Life, connection: sqlite3.Connection | None, *, writing: bool = False, drop: bool = False
    ) -> None:
        """Take a connection back, and close it if it is of no more use."""
        with self._lock:
            resting, most = (life.writers, 1) if writing else (life.readers, IDLE_MAX)
            if connection is not None:
                if drop or life is not self._life or len(resting) >= most:
                    close(connection)
                else:
                    resting.append(connection)
            self._busy -= 1
            if self._pausing:
                self._returned.notify_all()

    def intact(self, life: Life) -> bool:
        """Look whether a life is still the one at its path; if not, it is over, and the next step opens anew.

        To be called before the connection that answered is given back: from then on it may be us who end the life.
        """
        if life.intact():
            return True
        with self._lock:
            life.lost = True
            if self._life is life:
                self._suspect = life.suspect()
                # It is closed after the next opening: until then, no new file gets its inode's number, and could be
                # taken for the suspect.
                self._over.append(life)
                self._life = None
        return False

    def version(self) -> Version | None:
        """Give what stays equal as long as nobody commits to the file; None when there is nothing to compare."""
        if self._pid != os.getpid():
            return None
        with self._lock:
            life = self._life
            if life is None or self._pausing:
                return None
            try:
                number: int = life.anchor.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error:
                return None
            return life, number

    def _open(self) -> Life:
        until = time.monotonic() + self._patience_s
        tries = 0
        while not self.closed:
            tries += 1
            try:
                suspect = self._suspect or _suspected(self.path)
                self._life = open_life(self.path, self._boot, suspect, self._patience_s, self._adopt)
            except (sqlite3.Error, OSError) as error:
                # A part of the file may have vanished this very moment; others, who can prove it, replace it.
                unsettled = is_io(error) or place(f"{os.path.realpath(self.path)}-shm") is not None
                again = is_busy(error) or (unsettled and tries < OPEN_TRIES)
                if not again or time.monotonic() > until:
                    raise engine_error(error, self.path) from error
            else:
                self._suspect = None
                self._close_over()
                return self._life
            time.sleep(random.random() * (RETRY_S if tries > OPEN_TRIES else OPEN_RETRY_S))
        raise UnavailableError(f"{self.path}: this engine was closed", hint="make a new one")

    def close(self) -> None:
        """Close all connections; those in use, when they are given back. Idempotent."""
        if self._pid != os.getpid():
            self.forked()
        with self._lock:
            self.closed = True
            self._close_resting()
        self.waiting.close()

    def _close_resting(self) -> None:
        if self._life is not None:
            self._over.append(self._life)
            self._life = None
        self._close_over()

    def _close_over(self) -> None:
        for life in self._over:
            for connection in (*life.readers, *life.writers, life.anchor):
                close(connection)
            life.readers.clear()
            life.writers.clear()
        self._over.clear()

    # Forks ----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Before a fork: close all connections, and let nobody open any until `resume`. Steps under way may end."""
        self._lock.acquire()
        self._pausing = True
        self._returned.wait_for(lambda: not self._busy, FORK_PATIENCE_S)
        if not self._busy:
            self._close_resting()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._pausing = False
        self._returned.notify_all()
        self._lock.release()

    def forked(self) -> None:
        """After a fork, in the child: threads and their locks are gone; what was inherited is dropped, never closed."""
        with _dropping:
            if self._pid == os.getpid():
                return
            _inherited.extend(self._over)
            if self._life is not None:
                _inherited.append(self._life)
            self._life, self._over = None, []
            self.waiting.forked()
            self._start()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_inherited: list[Life] = []
_dropping = threading.Lock()


def _suspected(path: str) -> Place:
    """Give the place of a file that another engine of this process must replace, and may not have noticed yet.

    SQLite gives all connections of a process to a file the same -shm: with that of the other, ours would misread it.
    """
    for other in list(_pools):
        life = other._life if other._pid == os.getpid() else None  # noqa: SLF001 - of our own kind
        if other.path == path and life is not None and not life.intact():
            return life.suspect()
    return None
