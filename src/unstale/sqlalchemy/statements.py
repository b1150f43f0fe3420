"""What a statement reads and changes: tables, and of these the rows that its values name.

A statement is looked at once, as it was compiled; each execution brings the values. Whatever is not understood counts
as more than it is: rows as the whole table, a table as one that nobody knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, product
from typing import Any, NamedTuple

from sqlalchemy import Column, Table
from sqlalchemy.sql.expression import BindParameter, Delete, Insert, TableClause, TextClause, Update

from unstale.sqlalchemy.expressions import (
    all_of,
    compared,
    final_of,
    joined,
    may_write,
    plain_column,
    plain_table,
    walk,
)
from unstale.sqlalchemy.names import Names, Naming, exact_type

KEYS_MAX = 100
"""A query for more keys than these counts as one of the whole table."""
Values = Mapping[str, Any]


Change = tuple[Names, tuple[str, ...] | None]
"""One change: of a table, and of the row whose scopes are given; None where it is not known."""


class Read(NamedTuple):
    """One table that a query reads.

    Attributes:
        names: The table's.
        keys: For each column of its primary key, the parameter that it equals, and whether that is a list; None where
            the query is not for rows of known keys.
    """

    names: Names
    keys: tuple[tuple[Column[Any], str, bool], ...] | None


class Statement:
    """What a compiled statement reads and changes.

    Attributes:
        reads: The tables that it reads, and in `tables` the scopes of these.
        opaque: It reads what cannot be known: it is text, or holds text that names tables.
        raw: It is text that may change anything.
        writes: It changes rows.
    """

    def __init__(self, compiled: Any, naming: Naming) -> None:
        self._naming = naming
        self._dialect: str = compiled.dialect.name
        self._binds: Mapping[Any, str] = getattr(compiled, "bind_names", {})
        self._bound: frozenset[str] = frozenset(getattr(compiled, "binds", ()))
        top = final_of(compiled)
        text = isinstance(top, TextClause)
        self.raw = text and may_write(top.text)
        self._target = plain_table(top.table) if isinstance(top, Insert | Update | Delete) else None
        found: list[tuple[Any, bool]] = []
        self.opaque = (text and not self.raw) or walk(top, found, within=False)
        nested = [plain_table(one.table) for one, _within in found if isinstance(one, Insert | Update | Delete)]
        self._others = [self._naming.of(table) for table in nested]
        self.reads = [] if self._target is not None or text else self._look(top, found)
        self.tables = frozenset(read.names.table for read in self.reads)
        self.writes = self._target is not None or bool(nested)
        if self._target is not None:
            self._look_at_target(top)

    # Reads --------------------------------------------------------------------------------------------------------

    def _look(self, top: Any, found: list[tuple[Any, bool]]) -> list[Read]:
        tables = Counter[Any]()
        within = set()
        for one, inner in found:
            if isinstance(one, TableClause):
                tables[plain_table(one)] += 1
                if inner:
                    within.add(plain_table(one))
        equal = self._equal(top)
        return [Read(self._naming.of(table), None if table in within else self._keys(table, equal)) for table in tables]

    def _keys(
        self, table: Any, equal: Mapping[Any, tuple[str, bool]]
    ) -> tuple[tuple[Column[Any], str, bool], ...] | None:
        key = self._naming.of(table).key
        if not key or any(column not in equal or exact_type(column, self._dialect) is None for column in key):
            return None
        return tuple((column, *equal[column]) for column in key)

    def _equal(self, top: Any) -> dict[Any, tuple[str, bool]]:
        """Give the columns that a statement's conditions fix, each with its parameter, and whether that is a list."""
        equal: dict[Any, tuple[str, bool]] = {}
        pairs: list[tuple[Any, Any]] = []
        for clause in all_of(getattr(top, "_where_criteria", ())):
            column, other, many = compared(clause)
            if isinstance(other, BindParameter) and other in self._binds:
                equal.setdefault(column, (self._binds[other], many))
            elif isinstance(other, Column) and not many:
                pairs.append((column, plain_column(other)))
        pairs += joined(getattr(top, "get_final_froms", tuple)())
        for one, other in (*pairs, *((other, one) for one, other in pairs)) * 2:
            if one in equal:
                equal.setdefault(other, equal[one])
        return equal

    def scopes_read(self, values: Values) -> Iterator[tuple[Names, tuple[str, ...] | None]]:
        """Give the tables that an execution reads, each with the scopes of the rows that it asks for; None for all."""
        for names, keys in self.reads:
            yield names, None if keys is None else self._rows_of(names, keys, values)

    def _rows_of(
        self, names: Names, keys: tuple[tuple[Column[Any], str, bool], ...], values: Values
    ) -> tuple[str, ...] | None:
        lists = [_listed(values, parameter) if many else [values.get(parameter)] for _column, parameter, many in keys]
        if sum(map(len, lists)) > KEYS_MAX:
            return None
        columns = [column for column, _parameter, _many in keys]
        rows = [names.row(dict(zip(columns, row, strict=True)), self._dialect) for row in product(*lists)]
        return None if None in rows else tuple(row for row in rows if row is not None)

    # Changes ------------------------------------------------------------------------------------------------------

    def _look_at_target(self, top: Any) -> None:
        table = self._target
        self._names = self._naming.of(table)
        self._with = self._naming.changed_with(table)
        columns = table.columns if isinstance(table, Table) else ()
        self._set = {column: column.key for column in columns if column.key in self._bound}
        named = {column if isinstance(column, str) else column.key for column in (getattr(top, "_values", None) or ())}
        self._unclear = any(c.key in named and c.key not in self._bound for c in self._names.key)
        self._where: dict[Any, tuple[str, bool]] = {}
        if isinstance(top, Insert):
            upsert = getattr(top, "_post_values_clause", None) is not None or bool(getattr(top, "_prefixes", ()))
            self._unclear |= upsert or top.select is not None or bool(getattr(top, "_multi_values", ()))
        else:
            self._where = self._equal(top)
            used = {parameter for parameter, _many in self._where.values()}
            self._set = {column: key for column, key in self._set.items() if key not in used}
        self._simple = self._by_key(top)
        new_key = isinstance(top, Update) and (self._unclear or any(c in self._set for c in self._names.key))
        if isinstance(top, Delete) or new_key:
            self._others += self._naming.ended_with(table, deleted=isinstance(top, Delete))

    def written(self) -> Iterator[Names]:
        """Give the tables that an execution may have changed."""
        yield from self._others
        if self._target is not None:
            yield self._names

    def _by_key(self, top: Any) -> tuple[Any, str] | None:
        """Give the column and the parameter of a statement for one row by its key that changes no key: most are so."""
        if isinstance(top, Insert) or self._unclear or self._with or len(self._where) != 1:
            return None
        ((column, (parameter, many)),) = self._where.items()
        return None if many or self._names.key != (column,) or column in self._set else (column, parameter)

    def changes(self, context: Any) -> list[Change]:
        """Give what an execution has changed.

        Args:
            context: Of that execution.
        """
        found: list[Change] = [(names, None) for names in self._others]
        if self._target is None:
            return found
        own, dialect = self._names, self._dialect
        if self._simple is not None:
            column, parameter = self._simple
            keys = [{column: values.get(parameter)} for values in context.compiled_parameters]
            return [*found, *((own, own.ended(key, dialect)) for key in keys)]
        rows = None if self._unclear else self._rows(context)
        if rows is None:
            return [*found, (own, None), *((names, None) for names, _pairs in self._with)]
        for row in rows:
            found.append((own, own.ended(row, dialect)))
            for names, pairs in self._with:
                there = {column: row[here] for column, here in pairs.items() if here in row}
                found.append((names, names.ended(there, dialect)))
        return found

    def _rows(self, context: Any) -> list[dict[Any, Any]] | None:
        """Give what is known of each row that was changed, before and after; None where rows are not known."""
        executions: Sequence[Values] = context.compiled_parameters
        if context.isinsert:
            key = self._target.primary_key.columns if isinstance(self._target, Table) else ()
            inserted = context.inserted_primary_key_rows if len(key) else [()] * len(executions)
            if len(inserted) != len(executions):
                return None
            return [
                {c: values[name] for c, name in self._set.items() if name in values} | dict(zip(key, row, strict=False))
                for values, row in zip(executions, inserted, strict=True)
            ]
        rows = []
        for values in executions:
            columns = list(self._where)
            lists = [
                _listed(values, parameter) if many else [values.get(parameter)]
                for parameter, many in self._where.values()
            ]
            if sum(map(len, lists)) > KEYS_MAX:
                return None
            changed = {column: values[name] for column, name in self._set.items() if name in values}
            for row in product(*lists):
                before = dict(zip(columns, row, strict=True))
                rows.append(before)
                if any(column in changed for column in (*self._names.key, *self._linked())):
                    rows.append(before | changed)
        return rows

    def _linked(self) -> Iterator[Any]:
        for _names, pairs in self._with:
            yield from pairs.values()


def _listed(values: Values, parameter: str) -> list[Any]:
    """Give the items of a list that is a parameter; each has a parameter of its own by the time it is executed."""
    if parameter in values:
        return list(values[parameter])
    names = (f"{parameter}_{number}" for number in count(1))
    items: list[Any] = []
    for name in names:
        if name not in values:
            return items
        items.append(values[name])
    return items
