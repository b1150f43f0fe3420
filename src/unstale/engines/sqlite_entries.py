"""The entries and locks of the SQLite engine, as rows, and the sweeping of all that has expired.

An entry's id is the number of its cache, then its turn among the cache's writes: so the oldest writes of a cache lie
side by side, in order, without an index of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from unstale.core.ops import Item
from unstale.engines.sqlite_log import SWEEP_ROWS, Limits, chunks

SEQUENCE_BITS = 40
EVICT_ROWS = 8192  # entries that one write evicts at most: a large value has to make room for itself
EVICT_STEP = 256

# The sign keeps the planner from the index by moments: a key is looked for by itself.
FETCH = "SELECT data, until FROM entry WHERE cache = ? AND key = ? AND +until > ?"
OLDEST = "SELECT id, length(data) FROM entry WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
EXPIRED = "SELECT id, length(data) FROM entry WHERE cache = ? AND until <= ? ORDER BY until LIMIT ?"


def fetch_one(db: sqlite3.Connection, cache: int, key: str, now: float) -> tuple[bytes, float] | None:
    """Give bytes and the moment at which they expire."""
    found: tuple[bytes, float] | None = db.execute(FETCH, (cache, key, now)).fetchone()
    return found


def fetch(db: sqlite3.Connection, cache: int, keys: Iterable[str], now: float) -> dict[str, tuple[bytes, float]]:
    """Give bytes and the moments at which they expire, by key."""
    found = {}
    for places, chunk in chunks(keys):
        sql = f"SELECT key, data, until FROM entry WHERE cache = ? AND key IN ({places}) AND +until > ?"  # noqa: S608
        found.update({key: (data, until) for key, data, until in db.execute(sql, (cache, *chunk, now))})
    return found


def store(db: sqlite3.Connection, cache: int, items: tuple[Item, ...], now: float, limits: Limits) -> None:
    """Put entries; the oldest writes make room."""
    newest = {item.key: item for item in items}
    delete(db, cache, newest)
    written, entries, size = db.execute("SELECT written, entries, bytes FROM cache WHERE id = ?", (cache,)).fetchone()
    first = (cache << SEQUENCE_BITS) + written + 1
    db.executemany(
        "INSERT INTO entry VALUES (?, ?, ?, ?, ?)",
        [
            (first + turn, cache, item.key, now + min(item.ttl_s, limits.max_ttl_s), item.data)
            for turn, item in enumerate(newest.values())
        ],
    )
    entries += len(newest)
    size += sum(len(item.data) for item in newest.values())
    db.execute(
        "UPDATE cache SET written = ?, entries = ?, bytes = ?, max_ttl = max(max_ttl, ?) WHERE id = ?",
        (written + len(newest), entries, size, limits.max_ttl_s, cache),
    )
    evicted = 0
    while (entries > limits.entries_max or size > limits.bytes_max) and evicted < EVICT_ROWS:
        oldest = db.execute(OLDEST, (cache << SEQUENCE_BITS, (cache + 1) << SEQUENCE_BITS, EVICT_STEP)).fetchall()
        going = []
        for row in oldest:
            if entries <= limits.entries_max and size <= limits.bytes_max:
                break
            going.append(row)
            entries, size = entries - 1, size - row[1]
        if not going:
            break
        _remove(db, cache, going)
        evicted += len(going)


def delete(db: sqlite3.Connection, cache: int, keys: Iterable[str]) -> None:
    """Drop entries."""
    for places, chunk in chunks(keys):
        sql = f"SELECT id, length(data) FROM entry WHERE cache = ? AND key IN ({places})"  # noqa: S608
        _remove(db, cache, db.execute(sql, (cache, *chunk)).fetchall())


def _remove(db: sqlite3.Connection, cache: int, rows: list[tuple[int, int]]) -> None:
    if rows:
        db.executemany("DELETE FROM entry WHERE id = ?", [(row[0],) for row in rows])
        db.execute(
            "UPDATE cache SET entries = entries - ?, bytes = bytes - ? WHERE id = ?",
            (len(rows), sum(row[1] for row in rows), cache),
        )


def sweep(db: sqlite3.Connection, cache: int, now: float) -> None:
    """Remove some of what has expired, of this cache and of any one of the file: its own processes may be gone."""
    other = db.execute("SELECT id FROM cache ORDER BY random() LIMIT 1").fetchone()[0]
    for each in {cache, other}:
        _remove(db, each, db.execute(EXPIRED, (each, now, SWEEP_ROWS)).fetchall())
        old = db.execute(
            "SELECT cache, scope FROM mark WHERE cache = ? AND until <= ? LIMIT ?", (each, now, SWEEP_ROWS)
        )
        marks = old.fetchall()
        if marks:
            db.executemany("DELETE FROM mark WHERE cache = ? AND scope = ?", marks)
            db.execute("UPDATE cache SET marks = marks - ? WHERE id = ?", (len(marks), each))
        old = db.execute("SELECT cache, key FROM lock WHERE cache = ? AND until <= ? LIMIT ?", (each, now, SWEEP_ROWS))
        db.executemany("DELETE FROM lock WHERE cache = ? AND key = ?", old.fetchall())


# Locks ------------------------------------------------------------------------------------------------------------


def held(db: sqlite3.Connection, cache: int, key: str, now: float) -> bool:
    """Say whether somebody holds a lock."""
    sql = "SELECT 1 FROM lock WHERE cache = ? AND key = ? AND +until > ?"
    return db.execute(sql, (cache, key, now)).fetchone() is not None


def lock(db: sqlite3.Connection, cache: int, key: str, ttl_s: float, now: float) -> int | None:
    """Take a lock that is free or has expired: its token."""
    if held(db, cache, key, now):
        return None
    db.execute("UPDATE file SET token = token + 1")
    token: int = db.execute("SELECT token FROM file").fetchone()[0]
    db.execute("INSERT OR REPLACE INTO lock VALUES (?, ?, ?, ?)", (cache, key, token, now + ttl_s))
    return token


def unlock(db: sqlite3.Connection, cache: int, key: str, token: int) -> None:
    """Release a lock if the token is its holder's."""
    db.execute("DELETE FROM lock WHERE cache = ? AND key = ? AND token = ?", (cache, key, token))
