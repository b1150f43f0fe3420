"""Looks whether the triggers of MySQL and MariaDB are there, and were all the time."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from unstale.errors import SourceError
from unstale.sources.capture_mysql import bodies
from unstale.sources.capture_plan import Captured, Finding
from unstale.sources.capture_rows import digest, wrong
from unstale.sources.connections import Database

HERE: Final = "coalesce(nullif(?, ''), database())"
TABLE: Final = f"""SELECT CAST(create_time AS char), (SELECT group_concat(concat_ws('|', column_name, column_type,
  coalesce(collation_name, '')) ORDER BY ordinal_position SEPARATOR ',') FROM information_schema.columns c
  WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name)
FROM information_schema.tables t WHERE table_schema = {HERE} AND table_name = ?"""
TRIGGERS: Final = f"""SELECT trigger_name, action_statement, CAST(created AS char) FROM information_schema.triggers
WHERE event_object_schema = {HERE} AND event_object_table = ? ORDER BY trigger_name"""
NUMBER: Final = f"""SELECT table_id FROM information_schema.{{names}}
WHERE name = concat({HERE}, '/', ?) OR name LIKE concat({HERE}, '/', ?, '#P#%%') ORDER BY name"""


def installed(database: Database, outbox: str) -> bool:
    """Say whether anything was ever captured."""
    schema, _, name = f"{outbox}_capture".rpartition(".")
    there = f"SELECT 1 FROM information_schema.tables WHERE table_schema = {HERE} AND table_name = ?"
    return bool(database.rows(there, (schema, name)))


def look(database: Database, outbox: str) -> tuple[list[Captured], list[Finding], str]:
    """Give what is captured, what is wrong with it, and a text that changes with all by which changes may go unseen.

    TRUNCATE fires no trigger. It makes the table anew, under another number, which shows to who may see it.

    Raises:
        SourceError: The database failed.
    """
    registry = database.rows(f"SELECT spec, body FROM {outbox}_capture ORDER BY name")
    captured, findings, seen = [], [], list[Any]()
    for spec, body in registry:
        table = msgspec.json.decode(spec, type=Captured)
        captured.append(table)
        schema, _, name = table.name.rpartition(".")
        state = database.rows(TABLE, (schema, name))
        triggers = database.rows(TRIGGERS, (schema, name))
        number = _number(database, schema, name)
        seen.append((spec, body, state, triggers, number))
        found = {trigger: text for trigger, text, _created in triggers}
        findings += wrong(table, there=bool(state), found=found, body=body, wanted=bodies(table, outbox))
        if state and not number:
            text = "a TRUNCATE goes unseen: it fires no trigger, and this user may not see the numbers of tables"
            findings.append(Finding(table.name, text, "GRANT PROCESS ON *.* TO the user of the relay", unseen=False))
    return captured, findings, digest(repr(seen))


def _number(database: Database, schema: str, name: str) -> list[tuple[Any, ...]]:
    """Give the numbers of a table and its partitions: a TRUNCATE gives others. Empty where the user may not see them."""
    for names in ("innodb_sys_tables", "innodb_tables"):  # of MariaDB, of MySQL
        try:
            return database.rows(NUMBER.format(names=names), (schema, name, schema, name))
        except SourceError:
            continue
    return []
