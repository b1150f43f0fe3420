"""The file `capture.toml`: which tables are captured, and what their changes end.

One file serves both captures, that by triggers and that from the database's log:

    bulk = 500

    [tables.product]
    scopes = ["product:{id}", "tenant:{tenant}"]

A changed row ends the scopes that its templates give, for what it was and for what it is, and `table:product`, on which
queries of the table depend. Where nobody can say which rows have changed, what `unknown` names is ended: by default the
namespaces of the templates, `product` and `tenant`, that of the table, and `table:product`.

What follows from the file alone is checked here; what the database must be asked for, such as the columns, is not.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from unstale.core.keys import check_scope
from unstale.errors import UsageError
from unstale.sources.row_scopes import columns_of, names_of, scope_of_all

BULK: Final = 500
BULK_MAX: Final = 1000
SCOPES_MAX: Final = 10
HELD: Final = {"text": ("uuid", "date", "timestamp"), "bytes": ("uuid",), "int": ("bool",)}
"""What a column may hold for Python, by what it is for the database."""
EXAMPLE: Final = 'write: [tables.product], then: scopes = ["product:{id}", "tenant:{tenant}"]'


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says of one table.

    Attributes:
        scopes: Templates over its columns; None for the row's own scope, from the primary key. With none at all, every
            change is one of unknown rows.
        bulk: Of more rows than these no list is made, and they count as unknown; None for what the file says of all.
        unknown: What ends where the rows are not known; None for the namespaces of the scopes, and the table's.
        kinds: What columns hold for Python, where that is not what they are for the database: a UUID kept as a text.
    """

    scopes: tuple[str, ...] | None = None
    bulk: int | None = None
    unknown: tuple[str, ...] | None = None
    kinds: dict[str, str] = {}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file.

    Attributes:
        caches: The caches that triggers tell. The log's capture ignores it: each relay reads for its own.
        bulk: As for a table. Triggers count the rows of a statement, the log's capture those of a transaction.
        notify: Triggers wake the relay with each commit: PostgreSQL cannot PREPARE such a one. The log's capture
            ignores it.
        tables: What it says of each table.
    """

    caches: tuple[str, ...] = ()
    bulk: int = BULK
    notify: bool = True
    tables: dict[str, Asked] = {}

    def bulk_of(self, table: str) -> int:
        """Give of how many rows of a table a list is made."""
        bulk = self.tables.get(table, Asked()).bulk
        return self.bulk if bulk is None else bulk

    def digest(self) -> str:
        """Give a short text that differs when anything does that the log's capture heeds."""
        heeded = {name: msgspec.structs.replace(asked, bulk=self.bulk_of(name)) for name, asked in self.tables.items()}
        return blake2b(msgspec.json.encode(heeded, order="deterministic"), digest_size=8).hexdigest()


def read_config(path: str | Path | None) -> Config:
    """Read the file; without one, everything is as it is by default.

    Raises:
        UsageError: It cannot be read, or says what cannot be.
    """
    if path is None:
        return Config()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="write --config capture.toml") from error
    return parse_config(text, Path(path).name)


def parse_config(text: str, name: str = "capture.toml") -> Config:
    """Read the text of the file.

    Args:
        text: The text.
        name: How the file is called.

    Raises:
        UsageError: It says what cannot be.
    """
    try:
        config = msgspec.convert(tomllib.loads(text), Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{name} cannot be read: {error}", hint=EXAMPLE) from error
    check_bulk("all tables", config.bulk)
    for table, asked in config.tables.items():
        check_bulk(table, config.bulk_of(table))
        check_scopes(table, asked.scopes or ())
        unknown_of(table, asked, ())
    return config


def check_bulk(table: str, bulk: int) -> None:
    """Make sure that a list is made of some rows, and not of too many.

    Raises:
        UsageError: It is not so.
    """
    if not 1 <= bulk <= BULK_MAX:
        hint = f"write 1 to {BULK_MAX}; where every change is to end all rows, write scopes = []"
        raise UsageError(f"bulk = {bulk} of {table} is out of range", hint=hint)


def check_scopes(table: str, scopes: tuple[str, ...]) -> None:
    """Make sure that the templates of a table can be read.

    Raises:
        UsageError: There are too many.
        KeyTemplateError: One cannot be read.
    """
    if len(scopes) > SCOPES_MAX:
        raise UsageError(f"{table} has {len(scopes)} scopes", hint=f"write up to {SCOPES_MAX} templates for a table")
    for template in scopes:
        scope_of_all(table, template)


def scopes_of_table(table: str, asked: Asked, key: tuple[str, ...]) -> tuple[str, ...]:
    """Give the templates of a table's rows: those of the file, or that of the primary key.

    Args:
        table: Its name, as the file has it.
        asked: What the file says of it.
        key: The columns of its primary key.

    Raises:
        UsageError: It has no primary key and no templates, or too many.
        KeyTemplateError: One cannot be read.
    """
    scopes = asked.scopes
    if scopes is None:
        if not key:
            msg = f"{table} has no primary key: its rows cannot be told apart"
            hint = f'add one, or say what its changes end: [tables.{table}] scopes = ["tenant:{{tenant}}"]; [] ends all'
            raise UsageError(msg, hint=hint)
        scopes = (":".join((names_of(table)[0], *(f"{{{column}}}" for column in key))),)
    check_scopes(table, scopes)
    return tuple(dict.fromkeys(scopes))


def unknown_of(table: str, asked: Asked, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Give what ends where it is not known which rows of a table have changed.

    Args:
        table: Its name, as the file has it.
        asked: What the file says of it.
        scopes: The templates of its rows.

    Raises:
        UsageError: The file names what is no scope.
    """
    rows, queries = names_of(table)
    if asked.unknown is None:
        return tuple(dict.fromkeys((*(scope_of_all(table, template) for template in scopes), rows, queries)))
    for scope in asked.unknown:
        if "{" in scope or "}" in scope:
            hint = 'no row is known there: write a namespace, a tag, or "*" for everything'
            raise UsageError(f"unknown = [{scope!r}] of {table} holds a brace, which stands for a column", hint=hint)
    return tuple(check_scope(scope) for scope in asked.unknown)


def kinds_of(table: str, asked: Asked, scopes: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, str]:
    """Give the kinds that the columns of a table's templates have for Python.

    Args:
        table: Its name, as the file has it.
        asked: What the file says of it.
        scopes: The templates of its rows.
        columns: The kinds that its columns have for the database.

    Raises:
        UsageError: No template names such a column, or it cannot hold what the file says.
    """
    named = {column: columns[column] for template in scopes for column in columns_of(template)}
    for column, kind in asked.kinds.items():
        if column not in named or kind not in HELD.get(named[column], ()):
            held = "; ".join(f"{one} may hold {', '.join(kinds)}" for one, kinds in HELD.items())
            raise UsageError(f"{column} = {kind!r} of {table} cannot be: its scopes name no such column", hint=held)
    return named | asked.kinds
