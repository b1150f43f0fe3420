"""Looks whether the triggers of MySQL and MariaDB are there, and were all the time."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from unstale.errors import SourceError
from unstale.sources.capture_mysql import bodies, ident
from unstale.sources.capture_plan import Captured, Finding
from unstale.sources.capture_rows import digest, wrong
from unstale.sources.connections import Database

HERE: Final = "coalesce(nullif(?, ''), database())"
TABLES: Final = f"SELECT table_name FROM information_schema.tables WHERE table_schema = {HERE}"
NUMBERS: Final = f"SELECT name, table_id FROM information_schema.{{names}} WHERE name LIKE concat({HERE}, '/%%')"
COUNTER: Final = re.compile(r" AUTO_INCREMENT=[0-9]+")


class _Schema:
    """What one schema holds, asked once for all of its tables: each question costs milliseconds there."""

    def __init__(self, database: Database, name: str) -> None:
        self.tables = {str(table) for (table,) in database.rows(TABLES, (name,))}
        self.triggers: dict[str, list[tuple[Any, ...]]] = {}
        source = f" FROM {ident(name)}" if name else ""
        for trigger, _event, table, text, _timing, created, *_ in database.rows(f"SHOW TRIGGERS{source}"):
            self.triggers.setdefault(table, []).append((trigger, text, str(created)))
        self._numbers = _numbers(database, name)

    def numbers(self, table: str) -> list[tuple[str, int]]:
        """Give the numbers of a table and its partitions: a TRUNCATE gives others. Empty if nobody may see them."""
        return sorted(one for one in self._numbers if re.split("#[Pp]#", one[0].partition("/")[2])[0] == table)


def _numbers(database: Database, schema: str) -> list[tuple[str, int]]:
    for names in ("innodb_sys_tables", "innodb_tables"):  # of MariaDB, of MySQL
        try:
            return [(str(name), int(number)) for name, number in database.rows(NUMBERS.format(names=names), (schema,))]
        except SourceError:  # no such table, or no right to see it
            continue
    return []


def installed(database: Database, outbox: str) -> bool:
    """Say whether anything was ever captured."""
    schema, _, name = f"{outbox}_capture".rpartition(".")
    return bool(database.rows(f"{TABLES} AND table_name = ?", (schema, name)))


def look(database: Database, outbox: str) -> tuple[list[Captured], list[Finding], str]:
    """Give what is captured, what is wrong with it, and a text that changes with all by which changes may go unseen.

    TRUNCATE fires no trigger. It makes the table anew, under another number, which shows to who may see it.

    Raises:
        SourceError: The database failed.
    """
    registry = database.rows(f"SELECT spec, body FROM {outbox}_capture ORDER BY name")
    captured, findings, seen = [], [], list[Any]()
    schemas: dict[str, _Schema] = {}
    for spec, body in registry:
        table = msgspec.json.decode(spec, type=Captured)
        captured.append(table)
        where, _, name = table.name.rpartition(".")
        schema = schemas[where] = schemas.get(where) or _Schema(database, where)
        there = name in schema.tables
        made = COUNTER.sub("", str(database.rows(f"SHOW CREATE TABLE {table.place}")[0][1])) if there else ""
        triggers, numbers = schema.triggers.get(name, []), schema.numbers(name)
        seen.append((spec, body, made, triggers, numbers))
        found = {trigger: text for trigger, text, _created in triggers}
        findings += wrong(table, there=there, found=found, body=body, wanted=bodies(table, outbox))
        if there and not numbers:
            text = "a TRUNCATE goes unseen: it fires no trigger, and this user may not see the numbers of tables"
            findings.append(Finding(table.name, text, "GRANT PROCESS ON *.* TO the user of the relay", unseen=False))
    return captured, findings, digest(repr(seen))
