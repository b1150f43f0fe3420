"""Triggers of PostgreSQL that write into the outbox which rows a statement has changed.

A statement trigger sees all rows of the statement at once, as transition tables. A partitioned table has row triggers
instead: PostgreSQL gives them to each partition by itself, also to one that is added later, and they see what is
written to a partition under its own name. So has the target of a subscription: what applies its rows runs no
statements.

All of them fire ALWAYS: `session_replication_role = replica`, which loaders set, does not turn them off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from unstale.errors import UsageError
from unstale.sources.capture_change import FORMAT
from unstale.sources.capture_plan import Captured, Found
from unstale.sources.capture_rows import digest
from unstale.sources.connections import Database
from unstale.sources.dialects import channel
from unstale.sources.row_scopes import columns_of

KINDS: Final = {
    "int2": "int", "int4": "int", "int8": "int", "oid": "int", "text": "text", "varchar": "text", "name": "text",
    "bool": "bool", "uuid": "uuid", "date": "date", "timestamp": "timestamp", "numeric": "numeric", "bytea": "bytes",
}  # fmt: skip
OPERATIONS: Final = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}  # bits of pg_trigger.tgtype
EACH_ROW: Final = 1
PREFIX: Final = "unstale_capture_"
LOCK_S: Final = 5

DESCRIBE: Final = """SELECT c.oid::bigint, c.relkind::text, c.relpersistence::text, c.relispartition,
  c.oid::regclass::text, n.nspname::text, c.relname::text,
  EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
          WHERE p.relkind <> 'p' AND (i.inhrelid = c.oid OR i.inhparent = c.oid)),
  EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid),
  current_setting('server_encoding')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(?)"""

COLUMNS: Final = """SELECT a.attname::text, coalesce(nullif(b.typtype::text, 'b'), b.typname::text),
  coalesce(l.collisdeterministic, true), format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = ?::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

KEY: Final = """SELECT a.attname::text FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (number, place)
JOIN pg_attribute a ON a.attnum = k.number
WHERE i.indrelid = ?::bigint::oid AND i.indisprimary AND a.attrelid = i.indrelid ORDER BY k.place"""

REGISTRY: Final = """CREATE TABLE IF NOT EXISTS {t}_capture (
  name text PRIMARY KEY, place text NOT NULL, function text NOT NULL, spec text NOT NULL, body text NOT NULL
)"""


def ident(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text; without backslashes being special, which no session can then change."""
    quoted = "'" + text.replace("'", "''") + "'"
    return f" E{quoted}".replace("\\", "\\\\") if "\\" in text else quoted


def place_of(table: str) -> str:
    """Give the name of a table in SQL."""
    return ".".join(ident(part) for part in table.split("."))


def function_of(table: Captured, outbox: str) -> str:
    """Give the name of the function of a table's triggers: beside the outbox."""
    schema, dot, _ = table.outbox.rpartition(".")
    return f"{schema}{dot}{PREFIX}{digest(f'{outbox}|{table.name}')[:16]}"


def describe(database: Database, table: str, outbox: str) -> Found:
    """Say what the database knows of a table, and of the outbox.

    Raises:
        UsageError: It cannot be captured.
        SourceError: The database failed.
    """
    found = database.rows(DESCRIBE, (place_of(table),))
    if not found:
        raise UsageError(f"there is no table {table}", hint="write its name as the database has it: product, app.price")
    ((oid, kind, persistence, is_partition, shown, schema, name, inherits, subscribed, encoding),) = found
    place = f"{ident(schema)}.{ident(name)}"
    refusals = (
        (kind not in {"r", "p"}, "is no table of this database", "capture the tables that it reads"),
        (persistence == "t", "is temporary", "leave it out: no other session sees its rows"),
        (persistence == "u", "is unlogged: a crash empties it", f"run: ALTER TABLE {shown} SET LOGGED"),
        (is_partition, "is a partition", "name the table whose partition it is"),
        (inherits, "inherits, or is inherited from", "make it a partitioned table: PARTITION BY"),
        (encoding != "UTF8", f"is in a database in {encoding}", "write its changes from the application, by an outbox"),
    )
    for refused, what, cure in refusals:
        if refused:
            raise UsageError(f"{table} {what}, and cannot be captured", hint=cure)
    kinds: dict[str, str] = {}
    unfit: dict[str, str] = {}
    for name, base, deterministic, written in database.rows(COLUMNS, (oid,)):
        known = "text" if base == "e" else KINDS.get(base)
        if known is None:
            unfit[name] = f"of the type {written}, whose values have no one text"
        elif not deterministic:
            unfit[name] = "whose collation takes different texts for equal"
        else:
            kinds[name] = known
    key = tuple(str(name) for (name,) in database.rows(KEY, (oid,)))
    there = database.rows(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(?)", (outbox,)
    )  # fmt: skip
    if not there:
        raise UsageError(
            f"there is no outbox {outbox}", hint="run what `unstale outbox ddl --dialect postgresql` prints"
        )
    ((schema, name),) = there
    return Found(place, f"{ident(schema)}.{ident(name)}", key, kinds, unfit, rows=kind == "p" or subscribed)


def _value(column: str, kind: str, row: str) -> str:
    name = f"{row}.{ident(column)}"
    return {"numeric": f"{name}::text", "bytes": f"encode({name}, 'hex')"}.get(kind, name)


def _values(table: Captured, template: str, row: str) -> str:
    columns = columns_of(template)
    return f"json_build_array({', '.join(_value(column, table.columns[column], row) for column in columns)})"


def _of_statement(table: Captured, sources: Sequence[str]) -> str:
    """Give what a statement has changed: for each template the values in all rows, or null where they are too many."""
    parts = []
    for template in table.scopes:
        columns = columns_of(template)
        names = ", ".join(map(ident, columns))
        rows = " UNION ALL ".join(f"SELECT {names} FROM {source}" for source in sources)
        # The rows of a key are distinct as they are; others may be many, and their values few.
        whole = bool(table.key) and set(table.key) <= set(columns)
        limit = table.bulk * (len(sources) if whole else 1)
        distinct = "" if whole else "DISTINCT "
        given = f"SELECT {distinct}{names or 'true'} FROM ({rows}) a LIMIT {limit + 1}"
        told = f"SELECT CASE WHEN count(*) <= {limit} THEN json_agg({_values(table, template, 'r')}) END"
        parts.append(f"{literal(template)}, ({told} FROM ({given}) r)")
    return f"json_build_object({', '.join(parts)})"


def _of_row(table: Captured, sources: Sequence[str]) -> str:
    """Give what is changed in one row: for each template the values before and after."""
    parts = []
    for template in table.scopes:
        values = ", ".join(_values(table, template, row) for row in sources)
        parts.append(f"{literal(template)}, json_build_array({values})")
    return f"json_build_object({', '.join(parts)})"


def body_of(table: Captured, outbox: str) -> str:
    """Give the body of the function of a table's triggers."""
    nothing = literal(msgspec.json.encode(dict.fromkeys(table.scopes)).decode())
    constants = (
        f"'unstale', {FORMAT}, 'table', {literal(table.name)}, 'op', TG_OP, 'who', session_user,\n"
        f"    'at', extract(epoch FROM clock_timestamp()), 'kinds', {_json(table.kinds)},\n"
        f"    'ends', {_json(table.ends)}, 'unknown', {_json(table.unknown)}, 'ended', ended"
    )
    tell = "\n".join(
        f"  INSERT INTO {table.outbox} (id, cache, data)\n"
        f"  VALUES (replace(gen_random_uuid()::text, '-', ''), {literal(cache)}, told);"
        + (f"\n  PERFORM pg_notify('{channel(outbox, cache)}', '');" if table.notify else "")
        for cache in table.caches
    )
    told = _of_row if table.rows else _of_statement
    old, new = ("OLD", "NEW") if table.rows else ("old_rows", "new_rows")
    few, none = "    ", ""
    if table.rows:
        counter = f"{PREFIX}{digest(table.place)[:16]}.rows"
        # Set for the transaction only, and taken back by a savepoint together with the rows that it has counted.
        few = f"""    IF TG_LEVEL = 'ROW' THEN
      counted := coalesce(nullif(current_setting('{counter}', true), ''), '0')::int + 1;
      IF counted > {table.bulk + 1} THEN RETURN NULL; END IF;
      PERFORM set_config('{counter}', counted::text, true);
    END IF;
    IF counted > {table.bulk} THEN
      ended := {nothing};
    ELS"""
    else:
        none = "IF NOT EXISTS (SELECT FROM {source}) THEN RETURN NULL; END IF;\n      "
    inserted, updated, deleted = (
        f"{none.format(source=some[-1])}ended := {told(table, some)}" for some in ((new,), (old, new), (old,))
    )
    return f"""
DECLARE
  counted int := 0;
  ended json;
  told bytea;
BEGIN
  BEGIN
{few}IF TG_OP = 'INSERT' THEN
      {inserted};
    ELSIF TG_OP = 'UPDATE' THEN
      {updated};
    ELSIF TG_OP = 'DELETE' THEN
      {deleted};
    ELSE
      ended := {nothing};
    END IF;
  EXCEPTION WHEN undefined_column OR undefined_function THEN -- the table is another one than it was: the write goes on
    ended := {nothing};
  END;
  told := convert_to(json_build_object({constants})::text, 'UTF8');
{tell}
  RETURN NULL;
END
"""


def _json(value: object) -> str:
    return literal(msgspec.json.encode(value).decode()) + "::json"


def create(table: Captured, outbox: str) -> list[str]:
    """Give the statements that capture a table, whatever was there before."""
    function = function_of(table, outbox)
    body = body_of(table, outbox)
    quote = f"$unstale_{digest(body)[:8]}$"
    head = f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
    made = [
        f"SET LOCAL lock_timeout = '{LOCK_S}s'",
        f"{head}\nSET search_path = pg_catalog, pg_temp AS {quote}{body}{quote}",
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
    ]
    for operation in OPERATIONS:
        trigger = f"{PREFIX}{operation}"
        seen = {"insert": "NEW TABLE AS new_rows", "delete": "OLD TABLE AS old_rows"}.get(
            operation, "OLD TABLE AS old_rows NEW TABLE AS new_rows"
        )
        each = "FOR EACH ROW" if table.rows else f"REFERENCING {seen} FOR EACH STATEMENT"
        if operation == "truncate":
            each = "FOR EACH STATEMENT"
        event = f"AFTER {operation.upper()} ON {table.place}"
        made += [
            f"DROP TRIGGER IF EXISTS {trigger} ON {table.place}",
            f"CREATE TRIGGER {trigger} {event} {each} EXECUTE FUNCTION {function}()",
            f"ALTER TABLE {table.place} ENABLE ALWAYS TRIGGER {trigger}",
        ]
    row = (table.name, table.place, function, msgspec.json.encode(table).decode(), digest(body))
    values = ", ".join(map(literal, row))
    known = f"INSERT INTO {outbox}_capture (name, place, function, spec, body) VALUES ({values})"
    anew = ", ".join(f"{column} = excluded.{column}" for column in ("place", "function", "spec", "body"))
    return [*made, f"{known}\nON CONFLICT (name) DO UPDATE SET {anew}"]


def drop(table: Captured, outbox: str, *, gone: bool) -> list[str]:
    """Give the statements that capture a table no longer."""
    triggers = [] if gone else [f"DROP TRIGGER IF EXISTS {PREFIX}{one} ON {table.place}" for one in OPERATIONS]
    return [
        f"SET LOCAL lock_timeout = '{LOCK_S}s'",
        *triggers,
        # Of a table that was renamed the triggers are there, under a name that nobody knows.
        f"DROP FUNCTION IF EXISTS {function_of(table, outbox)}(){' CASCADE' if gone else ''}",
        f"DELETE FROM {outbox}_capture WHERE name = {literal(table.name)}",
    ]
