"""Steps upon the file of the SQLite engine, and the proof that it is still the file at its path.

SQLite itself goes on in a file that was deleted or replaced, for ever and without an error, so every answer is followed
by a look at the names: it counts only if they still lead to what was opened (H10, H12).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from unstale.engines.sqlite_open import RETRY_S, rolled_back
from unstale.engines.sqlite_pool import LOOK_S, Pool
from unstale.engines.sqlite_schema import engine_error, is_busy
from unstale.errors import BusyError, UnavailableError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection, int], T]


class Database:
    """The file as one cache of one process uses it: short steps, each on a connection that no other thread uses.

    Args:
        path: Where the file is, or will be.
        boot: This life of the machine.
        adopt: Finds or makes our cache in the file: its number.
        patience_s: How long a step waits for others before it is a `BusyError`, in seconds.
    """

    def __init__(self, path: str, boot: str, adopt: Callable[[sqlite3.Connection], int], patience_s: float) -> None:
        self.pool = Pool(path, boot, adopt, patience_s)
        self._path = self.pool.path
        self._patience_s = patience_s

    def read(self, work: Work[T], *, proof: bool = True) -> T:
        """Do a reading step; do it again if the file was lost meanwhile, or others are in the way.

        Args:
            work: The step: it gets a connection, and the number of the cache.
            proof: The answer proves something: look whether the file is still the one at its path.

        Raises:
            EngineError: It cannot be done.
        """
        pool = self.pool
        until = 0.0
        while True:
            life, connection = pool.take()
            try:
                connection = connection or life.connect()
                answer = work(connection, life.cache)
                good = (not proof and time.monotonic() - life.looked < LOOK_S) or pool.intact(life)
            except BaseException as error:
                good = pool.intact(life) and not is_busy(error)
                pool.give_back(life, connection, drop=True)
                until = until or time.monotonic() + self._patience_s
                if not isinstance(error, sqlite3.Error):
                    raise
                if good or time.monotonic() > until:
                    raise engine_error(error, self._path) from error
            else:
                pool.give_back(life, connection)
                if good:
                    return answer
                until = until or time.monotonic() + self._patience_s
                if time.monotonic() > until:
                    self._replaced()
            time.sleep(random.random() * RETRY_S)

    def write(self, work: Work[T], *, proof: bool = True) -> T:
        """Do a writing step as one transaction, in turn with all others.

        Args:
            work: The step: it gets a connection within the transaction, and the number of the cache.
            proof: Look whether the file is still the one at its path: else what was written counts for nothing.

        Raises:
            EngineError: Nothing was done; after an `UnavailableError` nobody knows.
        """
        until = time.monotonic() + self._patience_s
        while True:
            writing = self.pool.writing
            if not writing.acquire(timeout=max(0.0, until - time.monotonic())):
                raise BusyError(f"{self._path}: other threads write to it all the time", hint="write less at once")
            try:
                return self._transact(work, proof=proof)
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() > until:
                    raise engine_error(error, self._path) from error
            finally:
                writing.release()
            time.sleep(random.random() * RETRY_S)

    def _transact(self, work: Work[T], *, proof: bool) -> T:
        pool = self.pool
        life, connection = pool.take(writing=True)
        try:
            connection = connection or life.connect()
            connection.execute("BEGIN IMMEDIATE")
            answer = work(connection, life.cache)
            connection.execute("COMMIT")
            # 1. B deletes the file, and begins a new one that all read from now on. 2. A, which has not noticed,
            # commits to the old one. 3. A would report as published what no node will ever see. So A looks, after the
            # commit, and its caller repeats the append with the same ids on the new file.
            good = not proof or pool.intact(life)
        except BaseException as error:
            good, busy = pool.intact(life), is_busy(error)
            pool.give_back(life, connection, writing=True, drop=not (busy and rolled_back(connection)))
            if isinstance(error, sqlite3.Error) and not good and not busy:
                self._replaced(error)
            raise
        pool.give_back(life, connection, writing=True)
        if not good:
            self._replaced()
        return answer

    def _replaced(self, error: BaseException | None = None) -> NoReturn:
        msg = f"{self._path} was deleted or replaced meanwhile"
        raise UnavailableError(msg, hint="try again: with the same ids, nothing is appended twice") from error
