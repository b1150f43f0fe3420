"""Triggers of SQLite that write into the outbox which row was changed."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from unstale.errors import UsageError
from unstale.sources.capture_plan import Captured, Found
from unstale.sources.capture_rows import OPERATIONS, digests, told, trigger_of
from unstale.sources.connections import Database
from unstale.sources.row_scopes import columns_of

REGISTRY: Final = (
    "CREATE TABLE IF NOT EXISTS {t}_capture (name TEXT PRIMARY KEY, spec TEXT NOT NULL, body TEXT NOT NULL)"
)
TYPES: Final = (
    (re.compile("BOOL"), "bool"), (re.compile("DATETIME|TIMESTAMP"), "timestamp"), (re.compile("DATE"), "date"),
    (re.compile("INT"), "int"), (re.compile("CHAR|CLOB|TEXT"), "text"), (re.compile("BLOB"), "bytes"),
)  # fmt: skip
OTHER_COLLATION: Final = re.compile(r"\bCOLLATE\s+(?!\"?BINARY\b)", re.IGNORECASE)
VALUES: Final = {
    "int": "CASE typeof({v}) WHEN 'integer' THEN {v} WHEN 'null' THEN NULL ELSE '' END",
    "bool": "CASE WHEN {v} IS NULL THEN NULL WHEN {v} IN (0, 1) THEN json(iif({v}, 'true', 'false')) ELSE '' END",
    "bytes": "CASE typeof({v}) WHEN 'blob' THEN hex({v}) WHEN 'null' THEN NULL ELSE 0 END",
    "text": "CASE typeof({v}) WHEN 'text' THEN {v} WHEN 'null' THEN NULL ELSE 0 END",
}
"""Of any column may hold a value of any type: what is of another one than the column's tells no row."""


def ident(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text."""
    return "'" + text.replace("'", "''") + "'"


def describe(database: Database, table: str, outbox: str) -> Found:
    """Say what the file knows of a table.

    Raises:
        UsageError: It cannot be captured.
        SourceError: The database failed.
    """
    found = database.rows("SELECT type, sql FROM sqlite_master WHERE name = ? AND type IN ('table', 'view')", (table,))
    if not found:
        raise UsageError(f"there is no table {table}", hint="write its name as the file has it: product")
    ((kind, sql),) = found
    if kind == "view" or re.match(r"\s*CREATE\s+VIRTUAL", sql, re.IGNORECASE):
        raise UsageError(
            f"{table} is no table of rows, and cannot be captured", hint="capture the tables that it reads"
        )
    if not database.rows("SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'table'", (outbox,)):
        raise UsageError(f"there is no outbox {outbox}", hint="run what `unstale outbox ddl --dialect sqlite` prints")
    kinds: dict[str, str] = {}
    unfit: dict[str, str] = {}
    key: list[tuple[int, str]] = []
    for name, declared, place in database.rows("SELECT name, type, pk FROM pragma_table_xinfo(?)", (table,)):
        known = next((kind for words, kind in TYPES if words.search(declared.upper())), None)
        if known is None:
            unfit[name] = f"of the type {declared or 'none'}, whose values have no one text"
        elif known == "text" and OTHER_COLLATION.search(sql):
            unfit[name] = "whose collation may take different texts for equal"
        else:
            kinds[name] = known
        if place:
            key.append((place, name))
    columns = tuple(name for _place, name in sorted(key))
    unique = _unique(database, table)
    return Found(ident(table), ident(outbox), columns, kinds, unfit, rows=True, unique=unique)


def _unique(database: Database, table: str) -> tuple[tuple[str, ...], ...]:
    """Give the columns of the unique indexes: of what REPLACE removes by them, SQLite tells no trigger."""
    unique = []
    for (index,) in database.rows(
        "SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND origin <> 'pk'", (table,)
    ):
        columns = tuple(name for (name,) in database.rows("SELECT name FROM pragma_index_info(?)", (index,)))
        if None in columns:
            hint = "make it one over columns: which rows a REPLACE removes by it, could not be told"
            raise UsageError(f"the unique index {index} of {table} is one over an expression", hint=hint)
        unique.append(columns)
    return tuple(sorted(unique))


def _array(table: Captured, template: str, row: str) -> str:
    values = [
        VALUES.get(table.columns[column], VALUES["text"]).format(v=f"{row}.{ident(column)}")
        for column in columns_of(template)
    ]
    return f"json_array({', '.join(values)})"


def _insert(table: Captured, cache: str, data: tuple[str | None, ...], source: str = "") -> str:
    at = "',\"at\":' || ((julianday('now') - 2440587.5) * 86400.0)"
    # Constants and expressions in turn.
    value = " || ".join(at if one is None else one if place % 2 else literal(one) for place, one in enumerate(data))
    return (
        f"  INSERT INTO {table.outbox} (id, cache, data)\n"
        f"  SELECT lower(hex(randomblob(16))), {literal(cache)}, CAST({value} AS BLOB){source};\n"
    )


def triggers(table: Captured, outbox: str) -> dict[str, str]:
    """Give the triggers of a table, by name."""
    made = {}
    for operation, rows in OPERATIONS.items():
        name = trigger_of(table, outbox, operation)
        tell = "".join(_insert(table, cache, told(table, operation, rows, _array)) for cache in table.caches)
        made[name] = f"CREATE TRIGGER {name} AFTER {operation.upper()} ON {table.place} BEGIN\n{tell}END"
    # 1. REPLACE INTO product (id, sku) VALUES (17, 'a') 2. SQLite deletes row 18, which has that sku 3. no trigger for
    # DELETE fires, unless the connection says PRAGMA recursive_triggers (H31). So what may be replaced is told before.
    named = {column for template in table.scopes for column in columns_of(template)}
    keys = [*table.unique, *([table.key] if table.key and not named <= {*table.key} else [])]
    if keys:
        same = " OR ".join("(" + " AND ".join(f"o.{ident(c)} = NEW.{ident(c)}" for c in key) + ")" for key in keys)
        for operation in ("insert", "update"):
            name = trigger_of(table, outbox, f"replace_{operation}")
            data = told(table, "replace", ("o",), _array)
            tell = "".join(_insert(table, cache, data, f" FROM {table.place} o WHERE {same}") for cache in table.caches)
            made[name] = f"CREATE TRIGGER {name} BEFORE {operation.upper()} ON {table.place} BEGIN\n{tell}END"
    return made


def create(table: Captured, outbox: str) -> list[str]:
    """Give the statements that capture a table, whatever was there before."""
    made = triggers(table, outbox)
    names = (trigger_of(table, outbox, what) for what in (*OPERATIONS, "replace_insert", "replace_update"))
    row = (table.name, msgspec.json.encode(table).decode(), msgspec.json.encode(digests(made)).decode())
    return [
        *(f"DROP TRIGGER IF EXISTS {name}" for name in names),
        *made.values(),
        f"INSERT OR REPLACE INTO {outbox}_capture (name, spec, body) VALUES ({', '.join(map(literal, row))})",
    ]


def drop(table: Captured, outbox: str, *, gone: bool) -> list[str]:
    """Give the statements that capture a table no longer; the triggers of one that is gone are gone with it."""
    names = () if gone else triggers(table, outbox)
    delete = f"DELETE FROM {outbox}_capture WHERE name = {literal(table.name)}"
    return [*(f"DROP TRIGGER IF EXISTS {name}" for name in names), delete]
