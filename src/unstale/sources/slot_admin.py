"""A replication slot and its publication on PostgreSQL: made, looked at, and removed.

The slot's life is a row of `unstale_capture`: a random text, and the position that was reached. PostgreSQL itself does
not tell a slot from one that was made anew under its name; but one that was made anew begins beyond what was reached.
"""

from __future__ import annotations

import re
import uuid
from hashlib import blake2b
from typing import Final

import msgspec

from unstale.errors import SourceError, UsageError
from unstale.sources.connections import Database
from unstale.sources.dialects import POSTGRESQL
from unstale.sources.slot_tables import Captured

PLUGIN: Final = "pgoutput"
NOTES: Final = "unstale_capture"
TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {NOTES} (name text PRIMARY KEY, life text NOT NULL, position pg_lsn NOT NULL)"
)
SHORT_CHARS_MAX: Final = 30
PLAIN: Final = re.compile(r"[a-z0-9_]{1,30}")
NAME: Final = re.compile(r"[a-z0-9_]{1,63}")
CREATE: Final = "make it: unstale capture slot create DATABASE --config capture.toml"


class SlotStatus(msgspec.Struct, frozen=True):
    """A slot, as PostgreSQL tells it.

    Attributes:
        slot: Its name.
        exists: It is there.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`.
        active: Somebody reads it now.
        behind_bytes: How much was written since the position that was reached.
        retained_bytes: How much PostgreSQL keeps for it.
        sound: It is the one of which the relay knows.
        tables: What its publication tells.
    """

    slot: str
    exists: bool
    wal_status: str
    active: bool
    behind_bytes: int
    retained_bytes: int
    sound: bool
    tables: tuple[str, ...]


def slot_of(cache: str) -> str:
    """Give the name of a cache's slot: two caches never share one."""
    if PLAIN.fullmatch(cache):
        return f"unstale_{cache}"
    short = re.sub(r"[^a-z0-9_]", "_", cache.lower())[:SHORT_CHARS_MAX]
    return f"unstale_{short}_{blake2b(cache.encode(), digest_size=6).hexdigest()}"


def checked_slot(name: str) -> str:
    """Give a slot's name, if it can be one.

    Raises:
        UsageError: It cannot.
    """
    if NAME.fullmatch(name):
        return name
    raise UsageError(f"{name!r} can be no slot's name", hint="write small letters, digits and _: --slot unstale_shop")


def create_slot(database: Database, slot: str, tables: list[Captured]) -> None:
    """Make the publication and then the slot: what is committed from then on is told.

    Raises:
        SourceError: The server is not set up for it, or there is one already.
    """
    require_postgres(database)
    ((level, there, published),) = database.rows(
        "SELECT current_setting('wal_level'), EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = ?),"
        " EXISTS (SELECT FROM pg_publication WHERE pubname = ?)",
        (slot, slot),
    )
    if level != "logical":
        raise SourceError(f"wal_level is {level}", hint="ALTER SYSTEM SET wal_level = logical, and restart the server")
    if there:
        raise SourceError(f"there is a slot {slot} already", hint="unstale capture slot drop, or name another one")
    named = ", ".join(f"ONLY {one.quoted()}" for one in tables)
    database.rows(TABLE)
    verb = f"ALTER PUBLICATION {slot} SET TABLE" if published else f"CREATE PUBLICATION {slot} FOR TABLE"
    database.rows(f"{verb} {named}")
    begin_life(database, slot)


def begin_life(database: Database, slot: str) -> None:
    """Make a slot where there is none, and note that it is another one than any before."""
    there = database.rows("SELECT 1 FROM pg_replication_slots WHERE slot_name = ?", (slot,))
    if not there:  # it waits for the transactions that are under way
        database.rows("SELECT pg_create_logical_replication_slot(?, ?)", (slot, PLUGIN))
    database.rows(
        f"INSERT INTO {NOTES} AS n (name, life, position)"
        " SELECT slot_name, ?, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = ?"
        " ON CONFLICT (name) DO UPDATE SET life = excluded.life, position = excluded.position",
        (uuid.uuid4().hex, slot),
    )


def drop_slot(database: Database, slot: str) -> bool:
    """Remove the slot, its publication and what is noted of it: was there one?

    Raises:
        SourceError: Somebody reads it now.
    """
    require_postgres(database)
    there = bool(database.rows("SELECT 1 FROM pg_replication_slots WHERE slot_name = ?", (slot,)))
    if there:
        database.rows("SELECT pg_drop_replication_slot(?)", (slot,))
    database.rows(f"DROP PUBLICATION IF EXISTS {slot}")
    if database.rows(f"SELECT 1 WHERE to_regclass('{NOTES}') IS NOT NULL"):
        database.rows(f"DELETE FROM {NOTES} WHERE name = ?", (slot,))
    return there


def slot_status(database: Database, slot: str) -> SlotStatus:
    """Look at a slot."""
    require_postgres(database)
    database.rows(TABLE)
    ((exists, wal_status, active, behind, retained, sound),) = database.rows(
        "SELECT s.slot_name IS NOT NULL, coalesce(s.wal_status, ''), coalesce(s.active, false),"
        " coalesce(pg_current_wal_lsn() - s.confirmed_flush_lsn, 0)::bigint,"
        " coalesce(pg_current_wal_lsn() - s.restart_lsn, 0)::bigint,"
        " coalesce(s.confirmed_flush_lsn <= n.position, false) FROM (SELECT) one"
        f" LEFT JOIN pg_replication_slots s ON s.slot_name = ? LEFT JOIN {NOTES} n ON n.name = ?",
        (slot, slot),
    )
    tables = database.rows(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = ? ORDER BY 1", (slot,)
    )
    return SlotStatus(slot, exists, wal_status, active, behind, retained, sound, tuple(name for (name,) in tables))


def require_postgres(database: Database) -> None:
    """Refuse another database.

    Raises:
        UsageError: It is another one.
    """
    if database.dialect is not POSTGRESQL:
        msg = f"{database.place} has no replication slots"
        raise UsageError(msg, hint="name a postgresql:// database, or relay with --source binlog")
