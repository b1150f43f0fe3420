"""Taking statements of SQLAlchemy apart: their tables, the conditions that must hold, the text that hides tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Table
from sqlalchemy.sql import operators
from sqlalchemy.sql.expression import (
    AliasedReturnsRows,
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ColumnClause,
    Delete,
    Insert,
    Join,
    SelectBase,
    TableClause,
    TextClause,
    Update,
)

_QUERY = re.compile(
    r"\s*\(*\s*(?:select|values|table|show|explain|describe|pragma|set|declare|fetch|close)\b", re.IGNORECASE
)
_NAMES_TABLES = re.compile(r"\b(?:from|join|table|select)\b", re.IGNORECASE)


def plain_table(table: Any) -> Any:
    """Give a table itself, where the mapper has put notes on a copy of it."""
    return table.metadata.tables.get(table.key, table) if isinstance(table, Table) else table


def plain_column(column: Any) -> Any:
    """Give a column itself, where the mapper has put notes on a copy of it."""
    table = plain_table(column.table)
    return table.columns.get(column.key, column) if isinstance(table, Table) else column


def tables_in(expression: Any) -> list[Any]:
    """Give the tables that an expression reads by queries of its own; none for a plain column."""
    found: list[tuple[Any, bool]] = []
    walk(expression, found, within=False)
    return [plain_table(one) for one, _within in found if isinstance(one, TableClause)]


def may_write(text: str) -> bool:
    """Say whether a text may change something: it does not look like a query."""
    return _QUERY.match(text) is None


def final_of(compiled: Any) -> Any:
    """Give the statement as it was compiled: with the joins that the mapper has added."""
    state = getattr(compiled, "compile_state", None)
    statement = getattr(state, "statement", None)
    return compiled.statement if statement is None else statement


def walk(element: Any, found: list[tuple[Any, bool]], *, within: bool) -> bool:
    """Collect tables and changes, each with whether it stands in a part of its own; say whether text hides some."""
    hidden = False
    for child in element.get_children():
        inner = within or isinstance(child, SelectBase | AliasedReturnsRows | Insert | Update | Delete)
        if isinstance(child, TableClause | Insert | Update | Delete):
            found.append((child, inner))
        text = child.text if isinstance(child, TextClause) else ""
        if isinstance(child, ColumnClause) and child.is_literal:
            text = str(child.name)
        hidden |= bool(text) and _NAMES_TABLES.search(text) is not None
        if not isinstance(child, TableClause):
            hidden |= walk(child, found, within=inner)
    return hidden


def all_of(clauses: Sequence[Any]) -> Iterator[Any]:
    """Give the conditions that must all hold."""
    for clause in clauses:
        if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
            yield from all_of(clause.clauses)
        else:
            yield clause


def compared(clause: Any) -> tuple[Any, Any, bool]:
    """Give the column of a comparison, what it equals, and whether that is one of a list."""
    if not isinstance(clause, BinaryExpression) or clause.operator not in {operators.eq, operators.in_op}:
        return None, None, False
    many = clause.operator is operators.in_op
    one: Any = clause.left
    other: Any = clause.right
    if not isinstance(one, Column) and not many:
        one, other = other, one
    if not isinstance(one, Column) or not isinstance(one.table, Table):
        return None, None, False
    if many and not (isinstance(other, BindParameter) and other.expanding):
        return None, None, False
    return plain_column(one), other, many


def joined(froms: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Give the columns that joins make equal."""
    for one in froms:
        if isinstance(one, Join):
            if not one.full and one.onclause is not None:
                for clause in all_of((one.onclause,)):
                    column, other, many = compared(clause)
                    if not many and isinstance(other, Column) and isinstance(other.table, Table):
                        yield column, plain_column(other)
            yield from joined((one.left, one.right))
