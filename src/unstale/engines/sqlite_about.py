"""What the members in a file of the SQLite engine tell about themselves: a table beside theirs.

It is no column of theirs, and the version of the format stays: processes of an older version, which know nothing of it,
use the same file. It is made when the first member has something to tell. The trigger takes with a member what it told,
whoever takes the member off.
"""

from __future__ import annotations

import sqlite3

ADDED = (
    """CREATE TABLE IF NOT EXISTS about (
        cache INTEGER NOT NULL, node TEXT NOT NULL, told BLOB NOT NULL, PRIMARY KEY (cache, node)) WITHOUT ROWID""",
    """CREATE TRIGGER IF NOT EXISTS about_gone AFTER DELETE ON member
        BEGIN DELETE FROM about WHERE cache = old.cache AND node = old.node; END""",
)
TELL = """INSERT INTO about VALUES (?, ?, ?) ON CONFLICT (cache, node) DO UPDATE SET told = excluded.told
    WHERE told IS NOT excluded.told"""
TOLD = """SELECT about.told FROM about JOIN member USING (cache, node)
    WHERE cache = ? AND node = ? AND until > ?"""


def tell(db: sqlite3.Connection, cache: int, node: str, about: bytes) -> None:
    """Keep what a member tells about itself, within the transaction that renews its membership."""
    if not about:
        return
    if not _there(db):
        for statement in ADDED:
            db.execute(statement)
    db.execute(TELL, (cache, node, about))


def read(db: sqlite3.Connection, cache: int, nodes: tuple[str, ...], now: float) -> tuple[bytes, ...]:
    """Give what living members tell about themselves."""
    if not _there(db):
        return (b"",) * len(nodes)
    rows = (db.execute(TOLD, (cache, node, now)).fetchone() for node in nodes)
    return tuple(row[0] if row is not None and isinstance(row[0], bytes) else b"" for row in rows)


def _there(db: sqlite3.Connection) -> bool:
    """Say whether a file has the table and its trigger; one in which nobody has told anything yet has not."""
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'about_gone'").fetchone()[0])
