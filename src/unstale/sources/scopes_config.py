"""Which scopes the change of a row ends: a small TOML file, and templates over the columns of a table.

    [tables.product]
    scopes = ["product:{id}", "tenant:{tenant}"]

Without `scopes` the row has the scope of its primary key, `product:{id}`. A known row also ends `table:product`, on
which queries of the table depend. Where nobody can say which rows have changed (a TRUNCATE, a changed table, more rows
in one transaction than `bulk`), all that `all` names is ended: by default the names before the placeholders (`product`,
`tenant`), the table's own and `table:product`. What is tagged by hand with the scope of a row, and must end in that
case too, is tagged with `table:product` as well.

Values are written as in the keys of functions whose parameters declare their types: see `core.keytext`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgspec

from unstale.core.keys import check_scope
from unstale.core.keytext import renderer
from unstale.errors import ScopeError, UsageError

BULK_ROWS: Final = 1000
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_TABLE: Final = re.compile(r"(?:[^\W\d][\w$]{0,62}\.)?[^\W\d][\w$]{0,62}")
_NO_NAME: Final = re.compile(r"[^\w.@~+-]")
EXAMPLE: Final = '[tables.product]\nscopes = ["product:{id}"]'


class TableConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says of a table.

    Attributes:
        scopes: Templates over its columns; None for its primary key's.
        all: What is ended where the rows are not known; None for what follows from the templates.
        bulk: So many rows of one transaction are told one by one, at most.
        whole: Each change ends all of it: nothing is asked of its columns.
    """

    scopes: tuple[str, ...] | None = None
    all: tuple[str, ...] | None = None
    bulk: int = BULK_ROWS
    whole: bool = False


class CaptureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says: the tables that are captured, by name, with their schema before it or not."""

    tables: dict[str, TableConfig]

    def digest(self) -> str:
        """Give a short text that differs when anything in it does."""
        return blake2b(msgspec.json.encode(self, order="deterministic"), digest_size=8).hexdigest()


def read_config(path: str | Path) -> CaptureConfig:
    """Read a file.

    Raises:
        UsageError: It cannot be read, or says what cannot be.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="write --config capture.toml") from error
    return parse_config(text)


def parse_config(text: str) -> CaptureConfig:
    """Read the text of a file.

    Raises:
        UsageError: It says what cannot be.
    """
    try:
        config = msgspec.convert(tomllib.loads(text), CaptureConfig)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"the configuration of the capture: {error}", hint=f"write\n{EXAMPLE}") from error
    if not config.tables:
        raise UsageError("the configuration of the capture names no table", hint=f"write\n{EXAMPLE}")
    for name, table in config.tables.items():
        if not _TABLE.fullmatch(name):
            raise UsageError(f"{name!r} is no plain name of a table", hint="write it as [tables.product], or quote it")
        if table.bulk < 1:
            raise UsageError(f"{name}: bulk = {table.bulk} tells no row", hint="write whole = true for that")
        for scope in (*(table.scopes or ()), *(table.all or ())):
            _checked(name, scope, _PLACE.sub("x", scope) if scope in (table.scopes or ()) else scope)
    return config


def _checked(table: str, scope: str, rendered: str) -> None:
    hint = 'write scopes = ["product:{id}"]'
    try:
        check_scope(rendered)
    except ScopeError as error:
        raise UsageError(f"{table}: {scope!r}: {error.message}", hint=hint) from error
    if "{" in rendered or "}" in rendered:
        raise UsageError(f"{table}: {scope!r}: a brace stands for a column", hint=hint)


class Rule:
    """Gives the scopes of a table's rows.

    Args:
        name: The table's name, as the configuration has it.
        config: What the configuration says of it.
        key: The columns of its primary key.
        kinds: The Python types of the columns whose values have a text in keys.

    Attributes:
        columns: The columns that its templates name.
        all: What ends where the rows are not known.
        bulk: So many rows of one transaction are told one by one.

    Raises:
        UsageError: It has no primary key and no templates, or these name a column that is not there, or has no text.
    """

    def __init__(self, name: str, config: TableConfig, key: Iterable[str], kinds: Mapping[str, type]) -> None:
        self.name = name
        plain = _NO_NAME.sub("_", name)
        self.table = f"table:{plain}"
        self.bulk = 0 if config.whole else config.bulk
        templates = config.scopes
        if templates is None and not config.whole:
            places = [f"{{{column}}}" for column in key]
            if not places:
                hint = (
                    f"give it one, or name its rows by other columns, or end all of it:\n[tables.{name}]\nwhole = true"
                )
                raise UsageError(f"{name} has no primary key", hint=hint)
            templates = (":".join((plain, *places)),)
        self._templates = tuple(_PLACE.split(template) for template in templates or ())
        self.columns = tuple(dict.fromkeys(part for parts in self._templates for part in parts[1::2]))
        missing = [column for column in self.columns if column not in kinds]
        if missing and not config.whole:
            msg = f"{name} has no column {', '.join(missing)} whose values could be told apart in a scope"
            hint = "name a column of integers, texts (of a binary collation), dates or UUIDs, or write whole = true"
            raise UsageError(msg, hint=hint)
        self._text = {column: renderer(kinds[column]) for column in self.columns if column in kinds}
        names = [parts[0].rstrip(":/|#") for parts in self._templates]
        self.all = config.all or tuple(dict.fromkeys(filter(None, (*names, plain, self.table))))

    def scopes(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Give the scopes of a row by the values of its columns; None where these do not tell them."""
        try:
            texts = {column: text(values[column]) for column, text in self._text.items()}
            whole = [
                "".join(texts[part] if place % 2 else part for place, part in enumerate(parts))
                for parts in self._templates
            ]
            return (*map(check_scope, whole), self.table)
        except (KeyError, UsageError):  # a value that was not told, or has no text
            return None


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
        self._whole[rule.name] = rule.all
        self._scopes.pop(rule.name, None)

    def told(self) -> tuple[str, ...]:
        """Give the scopes that end, each once."""
        whole = (scope for scopes in self._whole.values() for scope in scopes)
        return tuple(dict.fromkeys((*whole, *(scope for scopes in self._scopes.values() for scope in scopes))))
