"""Appending a record and putting its items in one write transaction of SQLite."""

from __future__ import annotations

import sqlite3

from unstale.core.ops import Appended, Identity, Item
from unstale.core.record import Record, Stamp
from unstale.engines import sqlite_entries as entries
from unstale.engines import sqlite_log as log


def put(  # noqa: PLR0917 - a step of a write, and what it puts
    db: sqlite3.Connection,
    cache: int,
    record: Record,
    items: tuple[Item, ...],
    after: Stamp,
    now: float,
    limits: log.Limits,
) -> Appended | Identity:
    """Append a record and put its items, if the head is still where the writer knows it to be."""
    known = db.execute(log.KNOWN, (cache, record.id)).fetchone()
    if known is None:
        identity = log.read_head(db, cache).identity
        if (identity.generation, identity.head) != (after.generation, after.position):
            return identity
        entries.store(db, cache, tuple(item for item in items if item.ttl_s > 0), now, limits)
        entries.delete(db, cache, [item.key for item in items if item.ttl_s <= 0])
    return log.append(db, cache, (record,), now, limits)
