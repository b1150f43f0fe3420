"""The scopes of tables and rows, and which rows end with which.

A change of the row 17 of `product` ends `product:17` and `table:product`. A change of rows that nobody knows ends
`product` and `table:product`. What reads a row by its primary key depends on `product:17` and `product`; what reads the
table in any other way, on `table:product` and `product`.
"""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Date, Enum, Integer, LargeBinary, String, Table, TypeDecorator, Uuid
from sqlalchemy import inspect as look_at
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import mapperlib as mappers
from sqlalchemy.sql.expression import TableClause

from unstale.core.keys import Template
from unstale.errors import KeyArgumentError, KeyTemplateError, ScopeError
from unstale.sources.row_scopes import names_of, scopes_of_row

ATTRIBUTE = "__unstale_scope__"
CASCADES = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
EXACT_TEXT = frozenset({"postgresql", "sqlite"})
"""Databases that tell two texts apart unless a collation is named."""


def exact_type(column: Column[Any], dialect: str) -> type | None:
    """Give the type of a key column's values, if equal values are one row and one text; None where they may not be.

    Under a collation that ignores case, 'ABC' finds the row 'abc': the scope of the one says nothing of the other.

    Args:
        column: A column of a primary key.
        dialect: The database's name.
    """
    kind: Any = column.type
    if isinstance(kind, TypeDecorator):
        return None
    for family, plain in ((Integer, int), (Date, date), (LargeBinary, bytes)):
        if isinstance(kind, family):
            return plain
    if isinstance(kind, Uuid):
        return uuid.UUID if kind.as_uuid else None
    if isinstance(kind, Enum):
        return kind.enum_class if kind.enum_class is not None else str if dialect in EXACT_TEXT else None
    if isinstance(kind, String):
        collation = str(getattr(kind, "collation", None) or "")
        binary = collation == "C" or collation.lower().endswith(("_bin", "binary"))
        plain_text = not collation and dialect in EXACT_TEXT and not {"CHAR", "NCHAR"} & {kind.__visit_name__}
        return str if binary or plain_text else None
    return None


class Names:
    """The names of one table and its rows.

    Attributes:
        table: What every change of the table ends.
        rows: What a change of unknown rows ends: all that depends on any row.
        key: The columns that tell its rows apart; none where nothing does.
    """

    def __init__(self, table: TableClause, template: str | None, attributes: Mapping[str, str]) -> None:
        name, self.table = names_of(getattr(table, "fullname", table.name))
        self.key: tuple[Column[Any], ...] = tuple(_key_of(table)) if isinstance(table, Table) else ()
        names = [attributes.get(column.key, column.key) for column in self.key]
        self._places = dict(zip(self.key, (f"p{number}" for number in range(len(names))), strict=True))
        if template is None:
            text = ":".join((name, *(f"{{{place}}}" for place in self._places.values())))
            self.rows = name
        else:
            text = _placed(template, dict(zip(names, self._places.values(), strict=True)), table.name)
            self.rows = ""
        self._types: dict[str, tuple[type, ...]] = {}
        self._templates: dict[tuple[type, ...], Template] = {}
        head, _place, tail = text.partition("{p0}")
        self._ends = head, tail
        self._text = text
        if template is not None:
            self.rows = self._template(tuple(object for _ in self.key)).namespace

    def _template(self, types: tuple[type, ...]) -> Template:
        template = self._templates.get(types)
        if template is None:
            places = [inspect.Parameter(place, inspect.Parameter.KEYWORD_ONLY) for place in self._places.values()]
            hints = dict(zip(self._places.values(), types, strict=True))
            signature = inspect.Signature(places)
            namespace = self.rows or None
            template = Template.compile(self._text, signature, hints, namespace=namespace, require_all=False)
            self._templates[types] = template
        return template

    def row(self, values: Mapping[Column[Any], object], dialect: str) -> str | None:
        """Give the scope of a row; None where the values do not tell which row it is.

        Args:
            values: What is known of the row, by column.
            dialect: The database's name.
        """
        types = self._types.get(dialect)
        if types is None:
            types = self._types[dialect] = tuple(exact_type(column, dialect) or object for column in self.key)
        if types == (int,):  # the commonest key by far
            value = values.get(self.key[0])
            return f"{self._ends[0]}{value}{self._ends[1]}" if type(value) is int else None
        if not types or any(column not in values for column in self.key):
            return None
        if not all(_fits(values[column], kind) for column, kind in zip(self.key, types, strict=True)):
            return None
        try:
            return self._template(types).render({self._places[column]: values[column] for column in self.key})
        except KeyArgumentError:
            return None

    def ended(self, values: Mapping[Column[Any], object], dialect: str) -> tuple[str, ...] | None:
        """Give what the change of a row ends: its scope first, and the others under which keys may hold its values.

        Args:
            values: What is known of the row, by column.
            dialect: The database's name.
        """
        row = self.row(values, dialect)
        if row is None or self._types[dialect] == (int,):
            return None if row is None else (row,)
        return tuple(scopes_of_row(self._text, {place: values[column] for column, place in self._places.items()}))


def _fits(value: object, kind: type) -> bool:
    return isinstance(value, kind) if kind is uuid.UUID else type(value) is kind


def _key_of(table: Table) -> Iterable[Column[Any]]:
    """Give the columns that tell rows apart: the primary key; of an association without one, its foreign keys."""
    if len(table.primary_key.columns):
        return table.primary_key.columns
    return table.columns if all(column.foreign_keys for column in table.columns) else ()


def _placed(template: str, places: Mapping[str, str], table: str) -> str:
    """Give a template with places for the key's columns in place of the names of attributes.

    Raises:
        KeyTemplateError: It names something else, or nothing.
    """
    if not isinstance(template, str):
        hint = f'write {ATTRIBUTE} = "{table}:{{id}}"'
        raise KeyTemplateError(f"the scope of {table} must be a text, not {template!r}", hint=hint)
    named = re.findall(r"\{([^{}]*)\}", template)
    wanted = ":".join(f"{{{name}}}" for name in places)
    for name in named:
        if name not in places:
            message = f"the scope {template!r} of {table} names {name!r}, which is no attribute of its primary key"
            hint = f'write "{table}:{wanted}"; what else a row belongs to, name with unstale.tag() and touched()'
            raise KeyTemplateError(message, hint=hint, template=template)
    if not named:
        hint = f'write "{table}:{wanted}"'
        raise KeyTemplateError(f"the scope {template!r} would be that of every row of {table}", hint=hint)
    return re.sub(r"\{([^{}]*)\}", lambda match: f"{{{places[match[1]]}}}", template)


class Naming:
    """The names of all tables, as one cache uses them.

    Args:
        scopes: Templates by class, over what the classes themselves say.
    """

    def __init__(self, scopes: Mapping[type, str]) -> None:
        self._templates: dict[type, str] = {}
        for kind, template in scopes.items():
            self._templates[_identity_class(kind)] = template
        self._known: WeakKeyDictionary[TableClause, Names] = WeakKeyDictionary()
        for mapper in _mappers():
            if self._template_of(mapper) is not None:
                self.of(mapper.local_table)

    def of(self, table: Any) -> Names:
        """Give the names of a table.

        Raises:
            KeyTemplateError: The template of its class cannot be read.
        """
        names = self._known.get(table)
        if names is None:
            template, attributes = None, dict[str, str]()
            for mapper in _mappers():
                if mapper.local_table is table and self._template_of(mapper) is not None:
                    template = self._template_of(mapper)
                    attributes = {str(c.key): mapper.get_property_by_column(c).key for c in mapper.primary_key}
            names = self._known[table] = Names(table, template, attributes)
        return names

    def of_class(self, kind: type) -> list[Names]:
        """Give the names of all tables of a mapped class.

        Raises:
            ScopeError: It is not mapped.
        """
        return [self.of(table) for table in _mapper_of(kind).tables]

    def _template_of(self, mapper: Mapper[Any]) -> str | None:
        """Give the template of a mapped class: one for all classes whose rows have the same identity."""
        root = mapper if mapper.concrete else mapper.base_mapper
        if mapper is not root:
            own = mapper.class_.__dict__.get(ATTRIBUTE)
            if own is not None and own != root.class_.__dict__.get(ATTRIBUTE):
                name, base = mapper.class_.__name__, root.class_.__name__
                message = f"{name} has a scope of its own, and its rows are rows of {base}"
                raise KeyTemplateError(message, hint=f"write {ATTRIBUTE} in {base}, and leave it out of {name}")
            return None
        template: str | None = self._templates.get(mapper.class_, getattr(mapper.class_, ATTRIBUTE, None))
        return template

    def changed_with(self, table: Any) -> Sequence[tuple[Names, dict[Column[Any], Column[Any]]]]:
        """Give the tables whose rows change with those of a table that only joins others to one another.

        An association's row belongs to the rows that it joins; so does the part of a row that lies in a table of its
        own (joined inheritance). For each: its names, and the column here by the column there.
        """
        own = self.of(table)
        if not own.key or not all(column.foreign_keys for column in own.key):
            return ()
        there = []
        for constraint in table.foreign_key_constraints:
            if not set(constraint.columns) & set(own.key):
                continue
            pairs = {element.column: element.parent for element in constraint.elements}
            there.append((self.of(constraint.referred_table), pairs))
        return there

    def ended_with(self, table: Any, *, deleted: bool, known: frozenset[Any] = frozenset()) -> Iterator[Names]:
        """Give the tables in which the database itself changes rows when rows of a table are deleted, or get new keys.

        Args:
            table: The table.
            deleted: Rows are deleted, and not only given another key.
            known: Tables that have been looked at.
        """
        if not isinstance(table, Table):
            return
        for other in table.metadata.tables.values():
            for constraint in other.foreign_key_constraints:
                action = constraint.ondelete if deleted else constraint.onupdate
                if constraint.referred_table is not table or (action or "").upper() not in CASCADES or other in known:
                    continue
                yield self.of(other)
                yield from self.ended_with(other, deleted=deleted, known=known | {table, other})


def _mappers() -> Iterator[Mapper[Any]]:
    """Give all mapped classes; what maps a table to one cannot be asked of the table."""
    for registry in mappers._all_registries():  # noqa: SLF001 - nothing public lists them
        yield from registry.mappers


def _mapper_of(kind: object) -> Mapper[Any]:
    """Give how a class is mapped.

    Raises:
        ScopeError: It is not.
    """
    try:
        mapper = look_at(kind)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper):
        raise ScopeError(f"{kind!r} is no mapped class", hint="pass a class of the declarative base, or a scope")
    return mapper


def _identity_class(kind: object) -> type:
    """Give the class under which the rows of a class are known.

    Raises:
        ScopeError: It is no mapped class.
        KeyTemplateError: Its rows are rows of another one.
    """
    mapper = _mapper_of(kind)
    if not mapper.concrete and mapper.base_mapper is not mapper:
        base, name = mapper.base_mapper.class_.__name__, mapper.class_.__name__
        raise KeyTemplateError(f"the rows of {name} are rows of {base}", hint=f'write scopes={{{base}: "..."}}')
    found: type = mapper.class_
    return found
