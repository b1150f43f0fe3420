"""Looks whether the triggers of SQLite are there, and were all the time."""

from __future__ import annotations

import msgspec

from unstale.sources.capture_plan import Captured, Finding
from unstale.sources.capture_rows import digest, wrong
from unstale.sources.capture_sqlite import triggers
from unstale.sources.connections import Database


def installed(database: Database, outbox: str) -> bool:
    """Say whether anything was ever captured."""
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{outbox}_capture",)))


def look(database: Database, outbox: str) -> tuple[list[Captured], list[Finding], str]:
    """Give what is captured, what is wrong with it, and a text that changes with the schema.

    The file counts its changes of the schema: a trigger that was dropped and made again shows.

    Raises:
        SourceError: The database failed.
    """
    registry = database.rows(f"SELECT spec, body FROM {outbox}_capture ORDER BY name")
    master = database.rows("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type IN ('table', 'trigger')")
    ((version,),) = database.rows("PRAGMA schema_version")
    tables = {name for kind, name, *_ in master if kind == "table"}
    captured, findings = [], []
    for spec, body in registry:
        table = msgspec.json.decode(spec, type=Captured)
        captured.append(table)
        found = {name: sql for kind, name, of, sql in master if kind == "trigger" and of == table.name}
        there = table.name in tables
        findings += wrong(table, there=there, found=found, body=body, wanted=triggers(table, outbox))
    life = digest(repr((version, registry)))
    return captured, findings, life
