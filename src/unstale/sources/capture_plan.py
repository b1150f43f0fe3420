"""How tables are captured by triggers: what the file says, over what the database says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from unstale.errors import UsageError
from unstale.sources.capture_config import Asked, Config, check_bulk, kinds_of, scopes_of_table, unknown_of
from unstale.sources.row_scopes import columns_of, names_of

GONE: Final = "the table is gone"


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
    scopes = scopes_of_table(table, asked, found.key)
    bulk = config.bulk_of(table)
    check_bulk(table, bulk)
    for template in scopes:
        _check_columns(table, template, found)
    unknown = unknown_of(table, asked, scopes)
    queries = names_of(table)[1]
    return Captured(
        name=table,
        place=found.place,
        outbox=found.outbox,
        scopes=scopes,
        columns={column: found.kinds[column] for template in scopes for column in columns_of(template)},
        kinds=kinds_of(table, asked, scopes, found.kinds),
        key=found.key,
        ends=(queries,) if scopes else tuple(dict.fromkeys((*unknown, queries))),
        unknown=unknown,
        caches=tuple(dict.fromkeys(caches)),
        bulk=bulk,
        rows=found.rows,
        notify=config.notify,
        unique=found.unique,
    )


def _check_columns(table: str, template: str, found: Found) -> None:
    """Make sure that a template names columns whose values have one text each.

    Raises:
        UsageError: It names another one.
    """
    wrong = next((one for one in columns_of(template) if one not in found.kinds), None)
    if wrong is not None:
        why = found.unfit.get(wrong, "which the table does not have")
        fit = ", ".join(found.kinds) or "none"
        hint = f"name others: {fit}; or write [tables.{table}] scopes = [], which ends all rows with every change"
        raise UsageError(f"the scope {template!r} of {table} names the column {wrong!r}, {why}", hint=hint)


def differing(installed: Captured, wanted: Captured) -> list[str]:
    """Name in what two ways to capture a table differ."""
    one, two = msgspec.to_builtins(installed), msgspec.to_builtins(wanted)
    assert isinstance(one, Mapping)
    return [name for name in one if one[name] != two[name]]
