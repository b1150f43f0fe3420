"""The captured tables of a MySQL or MariaDB database, and what its binary log must tell of them.

InnoDB changes the rows that a foreign key cascades to by itself: the log tells the parent's change alone. So parents
are watched, and what their change may have cascaded to ends as a whole (H31).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from unstale.errors import SourceError, UsageError
from unstale.sources.capture_config import Config
from unstale.sources.connections import Database
from unstale.sources.dialects import MYSQL
from unstale.sources.log_scopes import Rule, check_tables

Place = tuple[str, str]
INTEGERS: Final = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
KINDS: Final[Mapping[str, type]] = {"date": date, "datetime": datetime, "decimal": Decimal}
TEXTS: Final = frozenset({"char", "varchar", "text", "tinytext", "mediumtext", "longtext"})
# What each setting must be, and what makes it so. One that a server does not know it cannot have wrong.
SETTINGS: Final = (
    ("log_bin", "ON", "start the server with --log-bin"),
    ("binlog_format", "ROW", "SET GLOBAL binlog_format = 'ROW', and in its configuration"),
    ("binlog_row_image", "FULL", "SET GLOBAL binlog_row_image = 'FULL', and in its configuration"),
    ("binlog_row_metadata", "FULL", "SET GLOBAL binlog_row_metadata = 'FULL', and in its configuration"),
    ("binlog_order_commits", "ON", "SET GLOBAL binlog_order_commits = ON, and in its configuration"),
    ("log_bin_compress", "OFF", "SET GLOBAL log_bin_compress = OFF, and in its configuration"),
    ("binlog_transaction_compression", "OFF", "SET GLOBAL binlog_transaction_compression = OFF"),
)
COLUMNS: Final = """
SELECT t.table_schema, t.table_name, t.engine, c.column_name, lower(c.data_type), coalesce(c.collation_name, ''),
  c.column_key = 'PRI'
FROM information_schema.tables t JOIN information_schema.columns c USING (table_schema, table_name)
WHERE t.table_type = 'BASE TABLE' AND t.table_name = ? AND t.table_schema = coalesce(nullif(?, ''), database())
ORDER BY c.ordinal_position
"""
CASCADES: Final = """
SELECT k.referenced_table_schema, k.referenced_table_name, k.table_schema, k.table_name, k.referenced_column_name,
  r.update_rule NOT IN ('RESTRICT', 'NO ACTION'), r.delete_rule NOT IN ('RESTRICT', 'NO ACTION')
FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r
  ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name AND r.table_name = k.table_name
WHERE k.referenced_table_name IS NOT NULL
"""


class Cascade(msgspec.Struct, frozen=True):
    """A foreign key that hands changes on: to which table, of which columns, and whether of updates and deletes."""

    child: Place
    column: str
    updates: bool
    deletes: bool


class Tables:
    """The captured tables.

    Args:
        database: The connection to their database.
        config: What is said of them.

    Attributes:
        rules: The scopes of their rows, by schema and name.

    Raises:
        UsageError: The configuration names none, or one by no plain name.
        SourceError: One cannot be captured as it is.
    """

    def __init__(self, database: Database, config: Config) -> None:
        check_tables(config)
        self.rules: dict[Place, Rule] = {}
        for name in config.tables:
            schema, _, plain = name.rpartition(".")
            rows = database.rows(COLUMNS, (plain, schema))
            if not rows:
                hint = "correct its name; write its database before it if it is another one"
                raise SourceError(f"there is no table {name}", hint=hint)
            if rows[0][2] != "InnoDB":
                msg = f"{name} is a table of {rows[0][2]}: a change is seen before it is in the log, or never is"
                raise SourceError(msg, hint=f"ALTER TABLE {name} ENGINE = InnoDB")
            kinds = {row[3]: kind for row in rows if (kind := _kind(row[4], row[5])) is not None}
            try:
                self.rules[rows[0][0], rows[0][1]] = Rule(name, config, [row[3] for row in rows if row[6]], kinds)
            except UsageError as error:
                raise SourceError(error.message, hint=error.hint) from error
        self._cascades: dict[Place, list[Cascade]] = {}
        for parent, name, schema, child, column, updates, deletes in database.rows(CASCADES):
            if updates or deletes:
                cascade = Cascade((schema, child), column, bool(updates), bool(deletes))
                self._cascades.setdefault((parent, name), []).append(cascade)

    def cascaded(self, place: Place, old: Mapping[str, Any], new: Mapping[str, Any] | None) -> Iterable[Rule]:
        """Give the captured tables that the change of a row may have been handed on to."""
        begun = (
            one.child
            for one in self._cascades.get(place, ())
            if (one.deletes if new is None else one.updates and old.get(one.column) != new.get(one.column))
        )
        seen: dict[Place, None] = dict.fromkeys(begun)
        left = list(seen)
        while left:
            for one in self._cascades.get(left.pop(), ()):
                if one.child not in seen:
                    seen[one.child] = None
                    left.append(one.child)
        return [self.rules[child] for child in seen if child in self.rules]

    def named_in(self, statement: str) -> list[Rule]:
        """Give the captured tables whose names stand in a statement."""
        text = statement.lower()
        return [rule for (_schema, name), rule in self.rules.items() if name.lower() in text]


def _kind(data_type: str, collation: str) -> type | None:
    if data_type in INTEGERS:
        return int
    if data_type in TEXTS:  # in another collation 'ABC' finds the row 'abc'
        return str if collation.endswith("_bin") else None
    return KINDS.get(data_type)


def check_settings(database: Database) -> None:
    """Make sure that the server's log tells all that is needed.

    Raises:
        SourceError: It does not.
        UsageError: It is no MariaDB or MySQL.
    """
    if database.dialect is not MYSQL:
        hint = "name a mysql:// database, or relay with --source slot"
        raise UsageError(f"{database.place} has no binary log", hint=hint)
    found = dict(database.rows("SHOW GLOBAL VARIABLES WHERE variable_name LIKE '%bin%'".replace("%", "%%")))
    for name, value, cure in SETTINGS:
        if name in found and found[name].upper() != value:
            raise SourceError(f"{name} is {found[name]}", hint=cure)
    if "binlog_row_metadata" not in found:
        raise SourceError(f"{database.place} is too old", hint="MariaDB 10.5 or MySQL 8.0.14 tell the names of columns")
    status = database.rows("SHOW MASTER STATUS")
    if not status or any(status[0][2:4]):
        msg = "binlog_do_db or binlog_ignore_db leave databases out of the log"
        raise SourceError(msg, hint="take them out of the server's configuration")
