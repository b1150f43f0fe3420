"""Triggers of MySQL and MariaDB that write into the outbox which row was changed."""

from __future__ import annotations

from typing import Final

import msgspec

from unstale.errors import UsageError
from unstale.sources.capture_plan import Captured, Found
from unstale.sources.capture_rows import OPERATIONS, digests, told, trigger_of
from unstale.sources.connections import Database
from unstale.sources.row_scopes import columns_of

REGISTRY: Final = """CREATE TABLE IF NOT EXISTS {t}_capture (
  name varchar(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, spec longtext CHARACTER SET utf8mb4 NOT NULL,
  body longtext CHARACTER SET utf8mb4 NOT NULL
) ENGINE = InnoDB"""
KINDS: Final = {
    "tinyint": "int", "smallint": "int", "mediumint": "int", "int": "int", "bigint": "int", "decimal": "numeric",
    "varchar": "text", "char": "text", "text": "text", "tinytext": "text", "mediumtext": "text", "longtext": "text",
    "enum": "text", "date": "date", "datetime": "timestamp", "uuid": "uuid", "varbinary": "bytes", "binary": "bytes",
}  # fmt: skip
VALUES: Final = {
    "int": "{v}",
    "bytes": "hex({v})",
    "text": "CONVERT({v} USING utf8mb4)",
}

DESCRIBE: Final = """SELECT table_type, coalesce(engine, '') FROM information_schema.tables
WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ?"""
COLUMNS: Final = """SELECT column_name, data_type, coalesce(collation_name, ''), column_type
FROM information_schema.columns WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ?
ORDER BY ordinal_position"""
KEY: Final = """SELECT column_name FROM information_schema.statistics
WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ? AND index_name = 'PRIMARY'
ORDER BY seq_in_index"""
CASCADES: Final = """SELECT constraint_name FROM information_schema.referential_constraints
WHERE constraint_schema = coalesce(nullif(?, ''), database()) AND table_name = ?
AND (delete_rule NOT IN ('RESTRICT', 'NO ACTION') OR update_rule NOT IN ('RESTRICT', 'NO ACTION'))"""


def ident(name: str) -> str:
    """Quote a name."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """Quote a text: as hexadecimal where a session's mode decides what a backslash is."""
    if "\\" in text:
        return f"CONVERT(x'{text.encode().hex()}' USING utf8mb4)"
    return "'" + text.replace("'", "''") + "'"


def _parts(table: str) -> tuple[str, str]:
    schema, _, name = table.rpartition(".")
    return schema, name


def describe(database: Database, table: str, outbox: str) -> Found:
    """Say what the database knows of a table.

    Raises:
        UsageError: It cannot be captured.
        SourceError: The database failed.
    """
    where = _parts(table)
    found = database.rows(DESCRIBE, where)
    if not found:
        raise UsageError(
            f"there is no table {table}", hint="write its name as the database has it: product, shop.price"
        )
    ((kind, engine),) = found
    cascades = [str(name) for (name,) in database.rows(CASCADES, where)]
    by = f"has rows that change by {', '.join(cascades)}, a foreign key whose deeds fire no trigger,"
    refusals = (
        (kind != "BASE TABLE", "is no table", "capture the tables that it reads"),
        (
            engine != "InnoDB",
            f"is kept by {engine}, without transactions,",
            f"run: ALTER TABLE {table} ENGINE = InnoDB",
        ),
        (bool(cascades), by, "let the key say ON DELETE RESTRICT, and delete the rows by a statement"),
    )
    for refused, what, cure in refusals:
        if refused:
            raise UsageError(f"{table} {what} and cannot be captured", hint=cure)
    if not database.rows(DESCRIBE, _parts(outbox)):
        raise UsageError(f"there is no outbox {outbox}", hint="run what `unstale outbox ddl --dialect mysql` prints")
    kinds: dict[str, str] = {}
    unfit: dict[str, str] = {}
    for name, base, collation, shown in database.rows(COLUMNS, where):
        known = KINDS.get(str(base).lower())
        if known is None:
            unfit[name] = f"of the type {shown}, whose values have no one text"
        elif collation and not str(collation).endswith("_bin"):
            unfit[name] = f"whose collation {collation} takes different texts for equal"
        else:
            kinds[name] = known
    key = tuple(str(name) for (name,) in database.rows(KEY, where))
    place, here = (".".join(ident(part) for part in one.split(".")) for one in (table, outbox))
    return Found(place, here, key, kinds, unfit, rows=True)


def _array(table: Captured, template: str, row: str) -> str:
    values = [
        VALUES.get(table.columns[column], "CAST({v} AS char)").format(v=f"{row}.{ident(column)}")
        for column in columns_of(template)
    ]
    return f"JSON_ARRAY({', '.join(values)})"


def _insert(table: Captured, cache: str, data: tuple[str | None, ...]) -> str:
    who = "CONCAT(',\"who\":', JSON_QUOTE(CONVERT(user() USING utf8mb4)), ',\"at\":', unix_timestamp(now(6)))"
    # Constants and expressions in turn.
    value = ", ".join(who if one is None else one if place % 2 else literal(one) for place, one in enumerate(data))
    return (
        f"  INSERT INTO {table.outbox} (id, cache, data)\n"
        f"  VALUES (replace(uuid(), '-', ''), {literal(cache)}, CONVERT(CONCAT({value}) USING utf8mb4));\n"
    )


def bodies(table: Captured, outbox: str) -> dict[str, str]:
    """Give the bodies of a table's triggers, by the triggers' names."""
    return {
        trigger_of(table, outbox, operation): "BEGIN\n"
        + "".join(_insert(table, cache, told(table, operation, rows, _array)) for cache in table.caches)
        + "END"
        for operation, rows in OPERATIONS.items()
    }


def create(table: Captured, outbox: str) -> list[str]:
    """Give the statements that capture a table, whatever was there before."""
    made = bodies(table, outbox)
    schema, _ = _parts(table.place)
    row = (table.name, msgspec.json.encode(table).decode(), msgspec.json.encode(digests(made)).decode())
    values = ", ".join(map(literal, row))
    statements = [
        "SET SESSION lock_wait_timeout = 3",
        f"REPLACE INTO {outbox}_capture (name, spec, body) VALUES ({values})",
    ]
    for operation, (name, body) in zip(OPERATIONS, made.items(), strict=True):
        trigger = f"{schema}.{name}" if schema else name
        statements += [
            f"DROP TRIGGER IF EXISTS {trigger}",
            f"CREATE TRIGGER {trigger} AFTER {operation.upper()} ON {table.place} FOR EACH ROW\n{body}",
        ]
    return statements


def drop(table: Captured, outbox: str, *, gone: bool) -> list[str]:
    """Give the statements that capture a table no longer; the triggers of one that is gone are gone with it."""
    schema, _ = _parts(table.place)
    names = [] if gone else [f"{schema}.{name}" if schema else name for name in bodies(table, outbox)]
    delete = f"DELETE FROM {outbox}_capture WHERE name = {literal(table.name)}"
    return [*(f"DROP TRIGGER IF EXISTS {name}" for name in names), delete]
