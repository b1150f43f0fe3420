"""The scopes of a table and its rows, the same for all who tell of changes: triggers, a database's log, sessions."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final

from unstale.core.keys import Template
from unstale.core.keytext import KEY_BYTES_MAX, forms
from unstale.errors import KeyArgumentError, KeyTemplateError

_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_NO_NAME: Final = re.compile(r"[^\w.@~+-]")


def names_of(table: str) -> tuple[str, str]:
    """Give the scope of all rows of a table, and that of its queries.

    A changed row ends `product:17` and `table:product`; a change of unknown rows ends `product` and `table:product`.
    """
    name = _NO_NAME.sub("_", table)
    return name, f"table:{name}"


@functools.lru_cache(maxsize=512)
def _split(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the literals of a template, and the columns between them."""
    parts = _PLACE.split(template)
    return tuple(parts[::2]), tuple(parts[1::2])


def columns_of(template: str) -> tuple[str, ...]:
    """Give the columns that a template names, each once, in their order."""
    return tuple(dict.fromkeys(_split(template)[1]))


def scope_of_all(table: str, template: str) -> str:
    """Give what ends where a template's rows are not known: its namespace, or all of it if it names no column.

    Raises:
        KeyTemplateError: It cannot be read, or the scopes of two rows could be one.
    """
    columns = columns_of(template)
    odd = next((column for column in columns if not column.isidentifier()), None)
    if odd is not None:
        hint = f'name a column by its plain name, as in "product:{{id}}"; or write [tables.{table}] scopes = []'
        msg = f"the scope {template!r} of {table} names {odd!r}, which is no plain name"
        raise KeyTemplateError(msg, hint=hint, template=template)
    places = inspect.Signature([inspect.Parameter(column, inspect.Parameter.KEYWORD_ONLY) for column in columns])
    compiled = Template.compile(template, places, {}, require_all=False)
    return compiled.namespace if columns else template


def scopes_of_row(template: str, values: Mapping[str, object]) -> Iterator[str]:
    """Give the scopes of a row: for each text under which its values may stand in keys one, the plainest first.

    A function may declare the one type of an argument, several, or none: whichever it does, its entry ends.

    Args:
        template: The template.
        values: The values of its columns, or of more.

    Raises:
        KeyError: A value is missing.
    """
    literals, columns = _split(template)
    try:
        texts = {column: forms(values[column]) for column in columns}
    except KeyArgumentError:
        return  # no key holds this value, so nothing depends on it
    for chosen in itertools.product(*texts.values()):
        text = dict(zip(texts, chosen, strict=True))
        scope = literals[0] + "".join(text[c] + tail for c, tail in zip(columns, literals[1:], strict=True))
        if len(scope.encode()) <= KEY_BYTES_MAX:
            yield scope
