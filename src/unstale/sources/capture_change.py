"""What a trigger writes into the outbox: which rows changed; the relay makes a record of it.

A trigger tells the values of key columns as JSON, with the templates of the scopes and the kinds of the columns. The
scopes are written here, by the code that writes keys, so that both are the same text for the same value. A row of the
outbox says all that it takes to read it: whatever is installed meanwhile, it means what it meant when it was written.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from unstale.core.record import Record
from unstale.sources.row_scopes import columns_of, scopes_of_row

FORMAT: Final = 1


class Change(msgspec.Struct, frozen=True):
    """What a trigger tells.

    Attributes:
        unstale: The format.
        table: The table, for people.
        op: What was done to it, for people.
        who: Who did it, for people.
        at: When, in seconds since the epoch by the database's clock, for people.
        ends: The scopes that end with every change of the table.
        unknown: The scopes that end where it is not known which rows changed.
        kinds: The kind of each column that a template names.
        ended: For each template the values of its columns in each row that changed, old and new; None where they were
            too many, or nobody knows them.
    """

    unstale: int
    table: str
    op: str
    ends: tuple[str, ...]
    unknown: tuple[str, ...]
    kinds: dict[str, str]
    ended: dict[str, list[list[Any]] | None]
    who: str = ""
    at: float = 0.0


def _int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _bool(value: Any) -> bool:
    if value not in {0, 1} or not isinstance(value, int):
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _timestamp(value: Any) -> datetime:
    found = datetime.fromisoformat(_text(value))
    if found.tzinfo is not None:
        raise ValueError
    return found


KINDS: Final[Mapping[str, Callable[[Any], object]]] = {
    "int": _int,
    "bool": _bool,
    "text": _text,
    "uuid": lambda value: uuid.UUID(_text(value)),
    "date": lambda value: date.fromisoformat(_text(value)),
    "timestamp": _timestamp,
    "numeric": lambda value: Decimal(_text(value)),
    "bytes": lambda value: bytes.fromhex(_text(value)),
}
"""The kinds of columns that a template may name, and what makes Python's value of what the trigger has told."""


def scopes_of(template: str, kinds: Mapping[str, str], row: Iterable[Any]) -> Iterator[str]:
    """Give the scopes of a row.

    Args:
        template: The template.
        kinds: The kinds of its columns.
        row: What the trigger told of them, in the order of `columns_of`.

    Raises:
        ValueError: It does not tell which row that is.
    """
    try:
        told = dict(zip(columns_of(template), row, strict=True))
        values = {name: None if one is None else KINDS[kinds[name]](one) for name, one in told.items()}
    except (KeyError, TypeError, ValueError, InvalidOperation, OverflowError) as error:
        raise ValueError from error
    return scopes_of_row(template, values)


def read_change(data: bytes, record_id: str) -> Record | None:
    """Give the record of what a trigger has told; None if this version cannot read it.

    Args:
        data: What the trigger wrote.
        record_id: The id of its row in the outbox.
    """
    try:
        change = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if change.unstale != FORMAT:
        return None
    scopes = dict.fromkeys(change.ends)
    for template, rows in change.ended.items():
        try:
            if rows is None:
                raise ValueError  # noqa: TRY301 - the same as one that cannot be read
            scopes |= {scope: None for row in rows for scope in scopes_of(template, change.kinds, row)}
        except ValueError:
            scopes |= dict.fromkeys(change.unknown)
    return Record(record_id, tuple(scopes), who=change.who, why=f"{change.op} {change.table}", at=change.at)


_decode = msgspec.json.Decoder(Change).decode
