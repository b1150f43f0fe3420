"""Shapes: the same for the same structure in every process, another one for every change that matters."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar

import msgspec
import pytest

from unstale.core.codec import codec_for

T = TypeVar("T")

# Run in other processes: a recursive type, tagged unions, sets in defaults, and unions from the cache of generics.
SCRIPT = """
import dataclasses, enum, typing, msgspec
from unstale.core.codec import codec_for
if {swapped}:
    typing.List[typing.Union[str, int]], typing.List[typing.Literal["b", "a"]]
class Color(enum.Enum):
    RED = "red"
    BLUE = "blü"
class Leaf(msgspec.Struct, tag="leaf", omit_defaults=True):
    words: frozenset[str] = frozenset({{"a", "b", "c", "d"}})
    made: typing.Any = msgspec.field(default_factory=dict)
class Tree(msgspec.Struct, tag="tree", rename="camel"):
    left_side: typing.Union["Tree", Leaf, None]
    colors: dict[Color, set[int]]
@dataclasses.dataclass
class Root:
    tree: Tree
    old: typing.List[typing.Union[int, str]]
    words: typing.List[typing.Literal["a", "b"]]
    other: "Root | None" = None
print(codec_for(Root, "load").shape, codec_for(typing.Any, "load").shape)
"""


def shape(annotation: object) -> str:
    """Give the shape of an annotation."""
    return codec_for(annotation, "load").shape


def test_shapes_are_the_same_in_every_process() -> None:
    """Neither the seed of hashes, nor addresses, nor the order of imports changes a shape."""
    shapes = set()
    for seed, swapped in (("0", False), ("1", True), ("2", True)):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", SCRIPT.format(swapped=swapped)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        shapes.add(done.stdout)
    assert len(shapes) == 1


class Kind(IntEnum):
    A = 1


class Item(msgspec.Struct, tag=True):
    kind: Kind
    next: Item | None = None


def test_shapes_are_snapshots() -> None:
    """These shapes stand in stored keys: no version of Python, msgspec or unstale may change them."""
    assert shape(Any) == "d7be53c5"
    assert shape(list[Item]) == "26a745c3"
    assert shape(dict[str, int | None] | bool) == "da0e53df"


class Movie(TypedDict):
    product_id: int
    name: str


class Point(NamedTuple):
    product_id: int
    name: str


def struct(fields: list[Any], **options: Any) -> type[msgspec.Struct]:
    """Define a struct."""
    return msgspec.defstruct(options.pop("name", "Product"), fields, **options)


BASE = struct([("product_id", int), ("name", str, "x")])


CHANGED: dict[str, object] = {
    "a field more": struct([("product_id", int), ("price", float), ("name", str, "x")]),
    "a field more, with a default": struct([("product_id", int), ("name", str, "x"), ("price", float, 0.0)]),
    "a field less": struct([("product_id", int)]),
    "a field renamed": struct([("product_id", int), ("title", str, "x")]),
    "a field retyped": struct([("product_id", str), ("name", str, "x")]),
    "a field made optional": struct([("product_id", int), ("name", str | None, "x")]),
    "a default less": struct([("product_id", int), ("name", str)]),
    "fields written otherwise": struct([("product_id", int), ("name", str, "x")], rename="camel"),
    "an array": struct([("product_id", int), ("name", str, "x")], array_like=True),
    "a tag": struct([("product_id", int), ("name", str, "x")], tag=True),
    "another tag": struct([("product_id", int), ("name", str, "x")], tag="p"),
    "another field for the tag": struct([("product_id", int), ("name", str, "x")], tag="p", tag_field="kind"),
    "a dataclass": dataclasses.make_dataclass("Product", [("product_id", int), ("name", str)]),
    "a TypedDict": Movie,
    "a NamedTuple": Point,
    "a dict": dict[str, int],
    "anything": Any,
}


@pytest.mark.parametrize("other", CHANGED.values(), ids=CHANGED)
def test_a_changed_type_has_another_shape(other: object) -> None:
    """A field more, less, renamed or retyped, or another encoding, is another shape, wherever the type stands."""
    assert shape(other) != shape(BASE)
    assert shape(list[other]) != shape(list[BASE])  # type: ignore[valid-type]
    assert [shape(other), *map(shape, CHANGED.values())].count(shape(other)) == 2
    assert shape(dict[str, tuple[BASE | None, other]]) != shape(dict[str, tuple[BASE | None, BASE]])  # type: ignore[valid-type]


def test_a_type_that_means_the_same_has_the_same_shape() -> None:
    """The value of a default, the name of a class, a description and the order of a union change no byte."""
    assert shape(struct([("product_id", int), ("name", str, "y")])) == shape(BASE)
    assert shape(struct([("product_id", int), ("name", str, "x")], name="Renamed")) == shape(BASE)
    assert shape(struct([("product_id", int), ("name", str, "x")], forbid_unknown_fields=True)) == shape(BASE)
    assert shape(Annotated[int, msgspec.Meta(description="an id")]) == shape(int)
    assert shape(int | str | None) == shape(None | str | int)
    assert shape(Literal[1, "a"]) == shape(Literal["a", 1])


def test_a_default_that_is_left_out_of_the_bytes_is_part_of_the_shape() -> None:
    """Where fields equal to their default are not written, another default gives the old bytes another meaning."""
    one = struct([("enabled", bool, False)], omit_defaults=True)
    other = struct([("enabled", bool, True)], omit_defaults=True)
    made = struct([("enabled", Any, msgspec.field(default_factory=dict))], omit_defaults=True)
    made_otherwise = struct([("enabled", Any, msgspec.field(default_factory=list))], omit_defaults=True)
    assert len({shape(one), shape(other), shape(made), shape(made_otherwise)}) == 4


def test_enum_members_and_literals_are_part_of_the_shape() -> None:
    """Members that swap their values would give old bytes another meaning."""
    shapes = [
        shape(Enum("Color", {"RED": 1, "BLUE": 2})),
        shape(Enum("Color", {"RED": 2, "BLUE": 1})),
        shape(Enum("Color", {"RED": 1})),
        shape(Literal[1, 2]),
        shape(Literal["1", "2"]),
        shape(Literal[1]),
    ]
    assert len(set(shapes)) == len(shapes)


class Page(msgspec.Struct, Generic[T], omit_defaults=True):
    items: list[T]
    more: bool = False


class Both(msgspec.Struct):
    one: Page[int]
    other: Page[str]


class BothSwapped(msgspec.Struct):
    one: Page[str]
    other: Page[int]


class Same(msgspec.Struct):
    one: Page[int]
    other: Page[int]


def test_generic_types_differ_by_their_arguments() -> None:
    """Two uses of one generic class are two types."""
    assert len({shape(Both), shape(BothSwapped), shape(Same), shape(Page[int]), shape(Page[str])}) == 5


class Ring(msgspec.Struct):
    next: Link


class Link(msgspec.Struct):
    next: Ring


class Spiral(msgspec.Struct):
    next: Coil


class Coil(msgspec.Struct):
    next: Coil


def test_recursive_types_differ_by_where_they_return_to() -> None:
    """A type that contains itself has a shape, which depends on the class that it returns to."""
    assert len({shape(Ring), shape(Spiral), shape(Coil), shape(list[Ring])}) == 4
    assert shape(Ring) == shape(Link)


def test_old_spellings_of_types_have_the_same_shape() -> None:
    """The spelling of an annotation does not matter."""
    assert shape(Optional[int]) == shape(int | None)  # noqa: UP045
