"""The processes that are killed: producers, which note what was acknowledged, and flushers, whose sink is a database.

python roles.py producer URL FOLDER NAME INCARNATION WITHOUT
python roles.py flusher URL FOLDER WITHOUT
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

from tests.torture_behind.mutants import MUTANTS
from unstale import Cache
from unstale.behind import Write, WriteBehind, queue_redis
from unstale.errors import EngineError

THREADS = 3
KEYS = 300  # of each thread, in each of its lives: what one life was acknowledged, no later one replaces
SHARED = 10
PAUSE_S = 0.03  # between two puts of a thread, at most
BEFORE, AFTER = 0.1, 0.03  # so often the sink fails: before its commit, and after it

TRUTH = """
CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, value TEXT NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS applied (seq INTEGER PRIMARY KEY, key TEXT, value TEXT, version INTEGER, id TEXT);
"""
UPSERT = """INSERT INTO item VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value,
    version = excluded.version WHERE item.version < excluded.version"""
BLIND = "INSERT OR REPLACE INTO item VALUES (?, ?, ?)"


class Truth:
    """The database, and the pattern that the guide gives: what is not newer is refused; all else is noted.

    Args:
        folder: Where it is.
        flaky: It fails at times.
        blind: It takes whatever it is given.
    """

    def __init__(self, folder: Path, *, flaky: bool, blind: bool = False) -> None:
        self.path = folder / "truth.db"
        self.flaky = flaky
        self.upsert = BLIND if blind else UPSERT
        self.local = threading.local()
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(TRUTH)

    def save(self, writes: list[Write]) -> None:
        """Take a batch in one transaction."""
        if not hasattr(self.local, "db"):
            self.local.db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        db = self.local.db
        luck = random.random() if self.flaky else 1.0
        db.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                if db.execute(self.upsert, (write.key, write.value, write.version)).rowcount:
                    row = (write.key, write.value, write.version, write.id)
                    db.execute("INSERT INTO applied (key, value, version, id) VALUES (?, ?, ?, ?)", row)
            if luck >= BEFORE:
                db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        if luck < BEFORE:
            raise ConnectionError("before the commit")
        if self.flaky and luck > 1 - AFTER:
            raise ConnectionError("after the commit")


def produce(url: str, folder: str, name: str, incarnation: str, _without: str) -> None:
    """Put until told to stop; what is tried and what is acknowledged is noted before and after."""
    told = os.open(Path(folder) / f"told-{name}-{incarnation}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    stop = threading.Event()

    def note(kind: str, rows: list[Any]) -> None:
        os.write(told, "".join(json.dumps([kind, *row]) + "\n" for row in rows).encode())

    def work(thread: int) -> None:
        who = f"{name}.{incarnation}.{thread}"
        number = 0
        while not stop.wait(random.random() * PAUSE_S):
            pairs = []
            for _ in range(random.choice((1, 1, 5, 20))):
                number += 1
                key = f"shared:{number % SHARED}" if random.random() < 0.1 else f"own:{who}:{number % KEYS}"
                pairs.append((key, f"{who}/{number}"))
            note("tried", pairs)
            try:
                done = behind.put_many(pairs)
            except EngineError:
                continue  # whether it was queued is not known
            note("acknowledged", [(*pair, one.version) for pair, one in zip(pairs, done, strict=True)])

    with Cache("memory://") as cache:
        behind = WriteBehind(cache, print, url, type=str, flush=False, timeout="3s")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        say("ready")
        sys.stdin.readline()
        stop.set()
        for thread in threads:
            thread.join()
        behind.close()
    say("done")


def flush(url: str, folder: str, without: str) -> None:
    """Flush until told to stop."""
    truth = Truth(Path(folder), flaky=True, blind=without == "version")
    with Cache("memory://", on_trouble=lambda _what, _error: None) as cache:
        behind = WriteBehind(cache, truth.save, url, type=str, batch=50, linger="5ms", pause="2ms", pause_max="50ms")
        say("ready")
        sys.stdin.readline()
        behind.close(drain=False)
    say("done")


def say(what: str) -> None:
    """Say something to whoever started us."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    queue_redis.LEASE_S = 1.0  # type: ignore[misc]  # so that a dead flusher is followed by another before that dies too
    if sys.argv[-1] in MUTANTS:
        MUTANTS[sys.argv[-1]].take_out()
    if sys.argv[1] == "producer":
        produce(*sys.argv[2:])
    else:
        flush(*sys.argv[2:])
