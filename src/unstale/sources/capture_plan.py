"""What is to be captured: tables, the scopes of their rows, and the small TOML file that says so."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from unstale.core.keys import Template, check_scope
from unstale.errors import UsageError
from unstale.sources.capture_change import columns_of

BULK: Final = 500
BULK_MAX: Final = 1000
SCOPES_MAX: Final = 10
GONE: Final = "the table is gone"
HELD: Final = {"text": ("uuid", "date", "timestamp"), "bytes": ("uuid",), "int": ("bool",)}
"""What a column may hold for Python, by what it is for the database."""
_NO_NAME: Final = re.compile(r"[^\w.@~+-]")


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says of one table.

    Attributes:
        scopes: Templates over its columns; None for the row's own scope, from the primary key. With none at all, every
            change is one of unknown rows.
        bulk: Of more rows than these in one statement no list is made; None for what the file says of all.
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
        caches: The caches that are told.
        bulk: As for a table.
        notify: The relay is woken by each commit, not by its next pulse only: PostgreSQL cannot PREPARE such a one.
        tables: What it says of each.
    """

    caches: tuple[str, ...] = ()
    bulk: int = BULK
    notify: bool = True
    tables: dict[str, Asked] = {}


class Found(msgspec.Struct, frozen=True):
    """A table, as the database describes it.

    Attributes:
        place: Its name in SQL.
        outbox: The name in SQL of the outbox.
        key: The columns of its primary key.
        kinds: The kinds of the columns that a template may name.
        unfit: Why others may not be named.
        rows: It takes a trigger for each row.
        unique: The columns of its unique indexes, where the database replaces rows without telling.
    """

    place: str
    outbox: str
    key: tuple[str, ...]
    kinds: dict[str, str]
    unfit: dict[str, str]
    rows: bool = False
    unique: tuple[tuple[str, ...], ...] = ()


class Captured(msgspec.Struct, frozen=True):
    """How one table is captured: all that its triggers are made of.

    Attributes:
        name: The table, as it was asked for.
        place: Its name in SQL.
        outbox: The name in SQL of the outbox.
        scopes: The templates of what a changed row ends.
        columns: The kinds of their columns, as the database has them.
        kinds: The same, as Python has them.
        key: The columns of the primary key.
        ends: What every change ends.
        unknown: What ends where the rows are not known.
        caches: The caches that are told.
        bulk: Of more rows than these no list is made.
        rows: There is a trigger for each row.
        notify: The relay is woken by each commit.
        unique: The columns by which a row may replace another.
    """

    name: str
    place: str
    outbox: str
    scopes: tuple[str, ...]
    columns: dict[str, str]
    kinds: dict[str, str]
    key: tuple[str, ...]
    ends: tuple[str, ...]
    unknown: tuple[str, ...]
    caches: tuple[str, ...]
    bulk: int
    rows: bool = False
    notify: bool = True
    unique: tuple[tuple[str, ...], ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be.

    Attributes:
        table: The table.
        text: What it is.
        mend: The command that mends it.
        unseen: Changes may go unseen: nothing is proven until it is mended.
    """

    table: str
    text: str
    mend: str
    unseen: bool = True


def read_config(path: Path | None) -> Config:
    """Read the file; without one, everything is as it is by default.

    Raises:
        UsageError: It cannot be read.
    """
    if path is None:
        return Config()
    example = 'write: [tables.product], then: scopes = ["product:{id}", "tenant:{tenant}"]'
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Config)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}", hint=example) from error


def names_of(table: str) -> tuple[str, str]:
    """Give the scope of all rows of a table, and that of its queries, as sessions of SQLAlchemy name them.

    A changed row ends `product:17` and `table:product`; a change of unknown rows ends `product` and `table:product`.
    """
    name = _NO_NAME.sub("_", table)
    return name, f"table:{name}"


def capture(table: str, found: Found, config: Config, caches: Sequence[str]) -> Captured:
    """Say how a table is captured.

    Args:
        table: Its name, as it was asked for.
        found: What the database says of it.
        config: What was asked for.
        caches: The caches that are told.

    Raises:
        UsageError: Its rows could not be told apart, or what was asked for cannot be done.
    """
    asked = config.tables.get(table, Asked())
    rows, queries = names_of(table)
    if asked.scopes is None and not found.key:
        msg = f"{table} has no primary key: its rows cannot be told apart"
        hint = f'add one, or say what its changes end: [tables.{table}] scopes = ["tenant:{{tenant}}"]; [] ends all'
        raise UsageError(msg, hint=hint)
    scopes = asked.scopes
    if scopes is None:
        scopes = (":".join((rows, *(f"{{{column}}}" for column in found.key))),)
    if len(scopes) > SCOPES_MAX:
        raise UsageError(f"{table} has {len(scopes)} scopes", hint=f"write up to {SCOPES_MAX} templates for a table")
    bulk = config.bulk if asked.bulk is None else asked.bulk
    if not 1 <= bulk <= BULK_MAX:
        raise UsageError(f"bulk = {bulk} of {table} is out of range", hint=f"write 1 to {BULK_MAX}")
    namespaces = [_namespace(table, template, found) for template in scopes]
    unknown = asked.unknown if asked.unknown is not None else (*dict.fromkeys((*namespaces, rows)), queries)
    unknown = tuple(check_scope(scope) for scope in unknown)
    columns = {column: found.kinds[column] for template in scopes for column in columns_of(template)}
    for column, kind in asked.kinds.items():
        if column not in columns or kind not in HELD.get(columns[column], ()):
            held = "; ".join(f"{one} may hold {', '.join(kinds)}" for one, kinds in HELD.items())
            raise UsageError(f"{column} = {kind!r} of {table} cannot be: its scopes name no such column", hint=held)
    return Captured(
        name=table,
        place=found.place,
        outbox=found.outbox,
        scopes=tuple(dict.fromkeys(scopes)),
        columns=columns,
        kinds={column: asked.kinds.get(column, kind) for column, kind in columns.items()},
        key=found.key,
        ends=(queries,) if scopes else tuple(dict.fromkeys((*unknown, queries))),
        unknown=unknown,
        caches=tuple(dict.fromkeys(caches)),
        bulk=bulk,
        rows=found.rows,
        notify=config.notify,
        unique=found.unique,
    )


def _namespace(table: str, template: str, found: Found) -> str:
    """Check a template, and give its namespace.

    Raises:
        UsageError: It cannot be read, or names what is no column whose value has one text.
    """
    columns = columns_of(template)
    wrong = next((one for one in columns if one not in found.kinds), None)
    if wrong is not None:
        why = found.unfit.get(wrong, "which the table does not have")
        fit = ", ".join(found.kinds) or "none"
        hint = f"name others: {fit}; or write [tables.{table}] scopes = [], which ends all rows with every change"
        raise UsageError(f"the scope {template!r} of {table} names the column {wrong!r}, {why}", hint=hint)
    places = [inspect.Parameter(column, inspect.Parameter.KEYWORD_ONLY) for column in columns if column.isidentifier()]
    return Template.compile(template, inspect.Signature(places), {}, require_all=False).namespace


def differing(installed: Captured, wanted: Captured) -> list[str]:
    """Name in what two ways to capture a table differ."""
    one, two = msgspec.to_builtins(installed), msgspec.to_builtins(wanted)
    assert isinstance(one, Mapping)
    return [name for name in one if one[name] != two[name]]
