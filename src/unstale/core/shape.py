"""The shape of a type: a digest of its structure, which stands in the stored key.

A deploy that changes a type changes its shape, and so never reads the bytes of the old one. The shape depends on what
MessagePack makes of the type, not on names of classes, memory addresses, or the order in which modules were imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.inspect import EnumType, Field, LiteralType, Metadata, StructType, Type, UnionType

SHAPE_DIGITS: Final = 8

_DEFAULTS: Final = msgspec.msgpack.Encoder(order="deterministic", enc_hook=lambda value: type(value).__qualname__)


def digest(text: str) -> str:
    """Give the eight hex digits of a text."""
    return hashlib.blake2s(text.encode(), digest_size=SHAPE_DIGITS // 2).hexdigest()


def shape_of(root: Type) -> str:
    """Digest the structure of a type.

    Args:
        root: What `msgspec.inspect.type_info` says of the type.

    Returns:
        Eight hex digits, the same in every process and on every version of Python.
    """
    return digest(_write(root, {}))


def nodes_of(root: Type) -> list[Type]:
    """List a type and all types inside it, each once; a recursive type ends where it meets itself."""
    found: dict[int, Type] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += _children(node)
    return list(found.values())


def _children(node: Type) -> list[Type]:
    single = ("type", "item_type", "key_type", "value_type")
    children: list[Type] = [getattr(node, name) for name in single if hasattr(node, name)]
    children += getattr(node, "types", ()) + getattr(node, "item_types", ())
    return children + [field.type for field in getattr(node, "fields", ())]


def _write(node: Type, numbers: dict[int, int]) -> str:
    """Write a type as text; a class that is met again is written as its number."""
    if isinstance(node, Metadata):
        return _write(node.type, numbers)  # titles and descriptions change no byte
    if hasattr(node, "fields"):
        if id(node) in numbers:
            return f"#{numbers[id(node)]}"
        numbers[id(node)] = len(numbers)
    children = _children(node)
    if isinstance(node, UnionType):
        # Python takes `A | B` and `B | A` for equal, and may hand out either for the other from a cache of
        # generics: their order depends on who was imported first. No two members of a union look alike.
        children.sort(key=_outline)
    return f"{_outline(node)}({','.join(_write(child, numbers) for child in children)})"


def _outline(node: Type) -> str:
    """Write what a type says of itself, without the types inside it."""
    return ";".join([type(node).__name__, *_facts(node)])


def _facts(node: Type) -> Iterator[str]:
    # ascii() throughout: what repr() takes for printable depends on Python's Unicode tables.
    if isinstance(node, EnumType):
        yield from (f"{member.name!a}={member.value!a}" for member in node.cls)
    if isinstance(node, LiteralType):
        yield from sorted(map(ascii, node.values))
    defaults_are_left_out = False
    if isinstance(node, StructType):
        yield f"{node.tag_field!a},{node.tag!a},{node.array_like}"
        config = getattr(node.cls, "__origin__", node.cls).__struct_config__
        defaults_are_left_out = config.omit_defaults
    for field in getattr(node, "fields", ()):
        yield f"{field.encode_name!a},{field.required}"
        if defaults_are_left_out:  # then a default is part of what the bytes mean
            yield _default(field)


def _default(field: Field) -> str:
    if field.default is not msgspec.NODEFAULT:
        return _DEFAULTS.encode(field.default).hex()
    return getattr(field.default_factory, "__qualname__", "")
