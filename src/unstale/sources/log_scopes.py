"""Which scopes the change of a row ends, as the database's log tells it: what `capture.toml` says, for its reader."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from unstale.errors import UsageError
from unstale.sources.capture_change import KINDS
from unstale.sources.capture_config import (
    EXAMPLE,
    Asked,
    Config,
    check_bulk,
    kinds_of,
    scopes_of_table,
    unknown_of,
)
from unstale.sources.row_scopes import columns_of, names_of, scopes_of_row

KIND_OF: Final[Mapping[type, str]] = {
    int: "int", bool: "bool", str: "text", uuid.UUID: "uuid", date: "date", datetime: "timestamp", Decimal: "numeric",
    bytes: "bytes", float: "float",
}  # fmt: skip
"""How the file calls what a column holds."""
_TABLE: Final = re.compile(r"(?:[^\W\d][\w$]{0,62}\.)?[^\W\d][\w$]{0,62}")


def check_tables(config: Config) -> None:
    """Make sure that the file names tables, each as the log does.

    Raises:
        UsageError: It does not.
    """
    if not config.tables:
        raise UsageError("capture.toml names no table", hint=EXAMPLE)
    for name in config.tables:
        if not _TABLE.fullmatch(name):
            raise UsageError(f"{name!r} is no plain name of a table", hint="write it as [tables.product], or quote it")


class Rule:
    """Gives the scopes of a table's rows.

    Args:
        name: The table's name, as the file has it.
        config: The file.
        key: The columns of its primary key.
        kinds: The Python types of the columns whose values have a text in keys.

    Attributes:
        columns: The columns that its templates name.
        unknown: What ends where the rows are not known.
        bulk: So many rows of one transaction are told one by one; 0 where all are unknown.

    Raises:
        UsageError: It has no primary key and no templates, or these name a column that is not there, or has no text.
    """

    def __init__(self, name: str, config: Config, key: Iterable[str], kinds: Mapping[str, type]) -> None:
        self.name = name
        self.queries = names_of(name)[1]
        asked = config.tables.get(name, Asked())
        self._scopes = scopes_of_table(name, asked, tuple(key))
        check_bulk(name, config.bulk_of(name))
        self.bulk = config.bulk_of(name) if self._scopes else 0
        self.columns = tuple(dict.fromkeys(column for scope in self._scopes for column in columns_of(scope)))
        missing = [column for column in self.columns if column not in kinds]
        if missing:
            msg = f"{name} has no column {', '.join(missing)} whose values could be told apart in a scope"
            hint = "name a column of integers, texts (of a binary collation), dates or UUIDs, or write scopes = []"
            raise UsageError(msg, hint=hint)
        self._types = {column: kinds[column] for column in self.columns}
        there = {column: KIND_OF[kind] for column, kind in kinds.items()}
        held = kinds_of(name, asked, self._scopes, there)
        self._held = {column: KINDS[kind] for column, kind in held.items() if kind != there[column]}
        self.unknown = tuple(dict.fromkeys((*unknown_of(name, asked, self._scopes), self.queries)))

    def scopes(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Give the scopes of a row by the values of its columns; None where these do not tell them."""
        try:
            plain = {column: self._plain(column, values[column]) for column in self.columns}
        except (KeyError, TypeError, ValueError):  # a value that was not told, or is not what the column should hold
            return None
        return (*(scope for template in self._scopes for scope in scopes_of_row(template, plain)), self.queries)

    def _plain(self, column: str, value: Any) -> object:
        """Give a value as functions get it.

        Raises:
            TypeError, ValueError: It is not of the column's kind.
        """
        if value is None:
            return None
        if type(value) is not self._types[column]:
            raise TypeError
        held = self._held.get(column)
        if held is None:
            return value
        return held(value.hex() if isinstance(value, bytes) else value)


class Changes:
    """What one transaction ends, gathered change by change: bounded, however many rows it changes."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._whole: dict[str, tuple[str, ...]] = {}
        self._scopes: dict[str, dict[str, None]] = {}

    def row(self, rule: Rule, *images: Mapping[str, Any] | None) -> bool:
        """Take in the change of a row, by what it was and what it is: could that be told?"""
        if rule.name in self._whole:
            return True
        self._rows[rule.name] = self._rows.get(rule.name, 0) + 1
        if self._rows[rule.name] > rule.bulk:
            self.everything(rule)
            return True
        scopes = self._scopes.setdefault(rule.name, {})
        for values in images:
            told = () if values is None else rule.scopes(values)
            if told is None:
                self.everything(rule)
                return False
            scopes.update(dict.fromkeys(told))
        return True

    def everything(self, rule: Rule) -> None:
        """Take in a change of rows that nobody knows."""
        self._whole[rule.name] = rule.unknown
        self._scopes.pop(rule.name, None)

    def told(self) -> tuple[str, ...]:
        """Give the scopes that end, each once."""
        whole = (scope for scopes in self._whole.values() for scope in scopes)
        return tuple(dict.fromkeys((*whole, *(scope for scopes in self._scopes.values() for scope in scopes))))
