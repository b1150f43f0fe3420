"""The captured tables of a PostgreSQL database: what can be told of their rows, and what is refused, with its cure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from unstale.errors import SourceError, UsageError
from unstale.sources.capture_config import Config
from unstale.sources.connections import Database
from unstale.sources.log_scopes import Rule, check_tables
from unstale.sources.pgoutput import FULL, Relation, Values

Reader = tuple[type, Callable[[str], object]]
INTEGER: Final[Reader] = (int, int)
TEXT: Final[Reader] = (str, str)
# By the numbers of PostgreSQL's built-in types. A moment with a zone is missing: its text is that of the session's.
READERS: Final[Mapping[int, Reader]] = {
    16: (bool, lambda text: text == "t"),
    17: (bytes, lambda text: bytes.fromhex(text.removeprefix("\\x"))),
    19: TEXT,
    20: INTEGER,
    21: INTEGER,
    23: INTEGER,
    25: TEXT,
    26: INTEGER,
    700: (float, float),
    701: (float, float),
    1043: TEXT,
    1082: (date, date.fromisoformat),
    1114: (datetime, datetime.fromisoformat),
    1700: (Decimal, Decimal),
    2950: (UUID, UUID),
}
SETTINGS: Final = (
    "SET synchronous_commit = local",  # what this connection notes for itself waits for no standby
    "SET datestyle = 'ISO'",
    "SET bytea_output = 'hex'",
    "SET extra_float_digits = 1",
)
COLUMNS: Final = """
SELECT n.nspname, c.relname, c.oid::bigint, c.relkind::text, c.relpersistence::text, c.relreplident::text,
  EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid), a.attname,
  a.atttypid::bigint, coalesce(nullif(t.typbasetype, 0), t.oid)::bigint, b.typtype = 'e',
  a.attgenerated = '' AND coalesce(l.collisdeterministic, true),
  a.attnum = ANY(coalesce(p.indkey::int2[], '{}')),
  c.relreplident = 'f' OR a.attnum = ANY(coalesce(CASE WHEN c.relreplident = 'd' THEN p.indkey::int2[] END,
    CASE WHEN c.relreplident = 'i' THEN r.indkey::int2[] END, '{}'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_index p ON p.indrelid = c.oid AND p.indisprimary
LEFT JOIN pg_index r ON r.indrelid = c.oid AND r.indisreplident
WHERE c.oid = to_regclass(?) ORDER BY a.attnum
"""


class Captured(msgspec.Struct, frozen=True):
    """A table that is captured.

    Attributes:
        rule: The scopes of its rows.
        schema: Its schema.
        name: Its name there.
        number: Its number in the database: another one, if it was dropped and made anew.
        readers: How the values of its templates' columns are read, by column, with the number of their type.
    """

    rule: Rule
    schema: str
    name: str
    number: int
    readers: Mapping[str, tuple[int, Callable[[str], object]]]

    def quoted(self) -> str:
        """Give its name as SQL has it."""
        return f'"{self.schema}"."{self.name}"'

    def unsound(self, relation: Relation) -> str:
        """Say why nothing can be told of single rows any more: what it was when they were changed; empty if it can."""
        there = {column.name: column for column in relation.columns}
        for column, (type_, _read) in self.readers.items():
            if column not in there:
                return f"it has no column {column}"
            if there[column].type != type_:
                return f"the type of {column} is another one"
            if not there[column].identity:
                return f"{column} is not part of its replica identity"
        return ""

    def values(self, image: Values | None) -> dict[str, Any] | None:
        """Read the values that its templates name; what is missing, or cannot be read, is left out."""
        if image is None:
            return None
        values: dict[str, Any] = {}
        for column, (_type, read) in self.readers.items():
            if column in image:
                text = image[column]
                try:
                    values[column] = None if text is None else read(text)
                except (ValueError, ArithmeticError):  # an infinite date, a moment before Christ
                    continue
        return values


def captured(database: Database, config: Config) -> list[Captured]:
    """Look up the tables of a configuration.

    Raises:
        UsageError: It names none, or one by no plain name.
        SourceError: One cannot be captured as it is.
    """
    check_tables(config)
    return [_captured(database, config, name) for name in config.tables]


def _captured(database: Database, config: Config, name: str) -> Captured:
    written = ".".join(f'"{part}"' for part in name.split("."))
    rows = database.rows(COLUMNS, (written,))
    if not rows:
        raise SourceError(
            f"there is no table {name}", hint="correct its name; write its schema before it if it has one"
        )
    schema, plain, number, kind, persistence, replica_identity, parent = rows[0][:7]
    if kind != "r" or parent:
        msg = f"{name} is no plain table: what is written to its partitions or children is told under their names"
        raise SourceError(msg, hint="name each of these, or write into an outbox")
    if persistence != "p":
        raise SourceError(f"{name} is not logged", hint=f"ALTER TABLE {name} SET LOGGED")
    readers: dict[str, tuple[int, Callable[[str], object]]] = {}
    kinds: dict[str, type] = {}
    for *_, column, type_, base, is_enum, exact, _is_key, _is_identity in rows:
        reader = TEXT if is_enum else READERS.get(base)
        if reader is not None and exact:
            kinds[column], readers[column] = reader[0], (type_, reader[1])
    key = [row[7] for row in rows if row[12]]
    identity = {row[7] for row in rows if row[13]}
    full = f"ALTER TABLE {name} REPLICA IDENTITY FULL"
    if not identity:
        hint = f"{full}; without, PostgreSQL refuses to change its rows as soon as they are published"
        raise SourceError(f"{name} has no primary key, and no other replica identity", hint=hint)
    try:
        rule = Rule(name, config, key, kinds)
    except UsageError as error:
        raise SourceError(error.message, hint=error.hint) from error
    blind = [column for column in rule.columns if column not in identity] if rule.bulk else []
    if blind and replica_identity != FULL:
        msg = f"the log does not tell what {', '.join(blind)} of {name} was before a change"
        raise SourceError(msg, hint=f"{full}; or end all rows with each change: scopes = []")
    return Captured(rule, schema, plain, number, {column: readers[column] for column in rule.columns if rule.bulk})
