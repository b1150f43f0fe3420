"""What others do: no cache, TTL alone, and deleting on write; each written as a competent team would write it.

Delete on write keeps a shared store, here a key-value table in an SQLite file in place of a server, and a short-lived
copy in each process; after its commit a writer deletes the keys of all that it changed, in the store and in its own
copy. Two holes are left, and they are the pattern's own: a reader that loaded before the commit may fill the store
after the deletion, and nobody tells the copies of the other processes.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from unstale.cli.plan import Plan, Settings
from unstale.cli.truth import Block, Change, Listing, Product, Truth, View
from unstale.clock import boottime

JITTER: Final = 0.1
BUSY_RETRY_S: Final = 0.0005
BUSY_MAX_S: Final = 20.0


class NoCache:
    """Ask the truth every time."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def read(self, entry: int) -> int:
        """Load an entry."""
        return self._truth.load(entry).version

    def changed(self, changes: Sequence[Change]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to release."""


class Copies:
    """What a process keeps for a while in its own memory: a dict with deadlines, the least recently used go first.

    Args:
        ttl_s: How long, less a random tenth, so that not all copies end together.
        entries_max: At most so many.
        seed: For the random part.
    """

    def __init__(self, ttl_s: float, entries_max: int, seed: int) -> None:
        self._ttl_s = ttl_s
        self._entries_max = entries_max
        self._random = Random(seed).random
        self._copies: OrderedDict[int, tuple[View, float]] = OrderedDict()

    def get(self, entry: int) -> View | None:
        """Give a copy that has not expired."""
        copy = self._copies.get(entry)
        if copy is None:
            return None
        if boottime() >= copy[1]:
            del self._copies[entry]
            return None
        self._copies.move_to_end(entry)
        return copy[0]

    def put(self, entry: int, view: View) -> None:
        """Keep a copy."""
        self._copies[entry] = (view, boottime() + self._ttl_s * (1 - JITTER * self._random()))
        self._copies.move_to_end(entry)
        if len(self._copies) > self._entries_max:
            self._copies.popitem(last=False)

    def drop(self, entry: int) -> None:
        """Forget a copy."""
        self._copies.pop(entry, None)


class TtlOnly:
    """Keep in each process what was loaded, for a few seconds."""

    def __init__(self, truth: Truth, plan: Plan, settings: Settings, seed: int) -> None:
        self._truth = truth
        self._copies = Copies(settings.ttl_s, settings.entries_max, seed)
        self._entries = _entries_of(plan)

    def read(self, entry: int) -> int:
        """Serve the copy, or load."""
        view = self._copies.get(entry)
        if view is None:
            view = self._truth.load(entry)
            self._copies.put(entry, view)
        return view.version

    def changed(self, changes: Sequence[Change]) -> None:
        """Drop this process's own copies; others wait for their TTL."""
        for change in changes:
            for entry in self._entries.get(change.object, ()):
                self._copies.drop(entry)

    def close(self) -> None:
        """Nothing to release."""


class SharedStore:
    """A key-value store for all processes: a stand-in for a server such as Redis.

    Args:
        path: Its file.
        ttl_s: The life of what is put, less a random tenth.
        seed: For the random parts.
    """

    def __init__(self, path: Path, ttl_s: float, seed: int) -> None:
        self._ttl_s = ttl_s
        self._random = Random(seed).random
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self._run("PRAGMA journal_mode=WAL", ())
        self._run("PRAGMA synchronous=OFF", ())
        self._run(
            "CREATE TABLE IF NOT EXISTS kv (key INTEGER PRIMARY KEY, value BLOB NOT NULL, until REAL NOT NULL)", ()
        )

    def get(self, key: int) -> bytes | None:
        """Give what is stored and has not expired."""
        row = self._run("SELECT value, until FROM kv WHERE key = ?", (key,))
        return row[0] if row and boottime() < row[1] else None

    def put(self, key: int, value: bytes) -> None:
        """Store."""
        until = boottime() + self._ttl_s * (1 - JITTER * self._random())
        self._run("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", (key, value, until))

    def delete(self, keys: Sequence[int]) -> None:
        """Delete."""
        self._run(f"DELETE FROM kv WHERE key IN ({','.join('?' * len(keys))})", tuple(keys))  # noqa: S608 - only marks

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def _run(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # Short random pauses are fairer to many writers than SQLite's own growing ones.
        began = boottime()
        while True:
            try:
                row: tuple[Any, ...] | None = self._db.execute(statement, values).fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                    raise
                if boottime() - began > BUSY_MAX_S:
                    raise
                time.sleep(BUSY_RETRY_S * self._random())
            else:
                return row


class DeleteOnWrite:
    """Keep what was loaded in a shared store and, for a shorter time, in each process; delete it when it changes."""

    def __init__(self, truth: Truth, plan: Plan, settings: Settings, folder: Path, seed: int) -> None:
        self._truth = truth
        self._copies = Copies(settings.copy_ttl_s, settings.entries_max, seed)
        self._store = SharedStore(folder / "shared-store", settings.shared_ttl_s, seed)
        self._decoders = {kind: msgspec.msgpack.Decoder(kind).decode for kind in (Product, Listing, Block)}
        self._encode = msgspec.msgpack.Encoder().encode
        self._entries = _entries_of(plan)

    def read(self, entry: int) -> int:
        """Serve the copy, or what is in the shared store, or load and fill both."""
        view: Any = self._copies.get(entry)
        if view is None:
            data = self._store.get(entry)
            if data is None:
                view = self._truth.load(entry)
                self._store.put(entry, self._encode(view))
            else:
                view = self._decoders[self._truth.kind(entry)](data)
            self._copies.put(entry, view)
        version: int = view.version
        return version

    def changed(self, changes: Sequence[Change]) -> None:
        """Delete all entries of what changed, in the shared store and in this process."""
        entries = [entry for change in changes for entry in self._entries.get(change.object, ())]
        if entries:
            self._store.delete(entries)
            for entry in entries:
                self._copies.drop(entry)

    def close(self) -> None:
        """Release the shared store."""
        self._store.close()


def _entries_of(plan: Plan) -> dict[int, list[int]]:
    entries: dict[int, list[int]] = {}
    for entry, number in enumerate(plan.object_of):
        entries.setdefault(number, []).append(entry)
    return entries
