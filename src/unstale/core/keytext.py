"""How an argument is written inside a key: escaped, and with its type where that is not the declared one.

Arguments are escaped, so that `! , ( ) %` in a rendered argument are always written by this module, and every other
separator in a key (`: / | #` ...) by the key's template:

    argument = bare | type "!" bare         a value of the declared type is bare, another one carries its type
    bare     = escaped text | "(" [argument {"," argument}] ")"

Two values of one type, items included, share a rendering if and only if they are equal, with one exception: datetimes
and times that differ in their offset from UTC are kept apart, since a day begins at another moment for each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, Flag
from types import NoneType
from typing import Any, Final
from unicodedata import ucd_3_2_0

from unstale.errors import KeyArgumentError

KEY_BYTES_MAX: Final = 1024
"""The longest key or scope, in bytes of UTF-8."""
DEPTH_MAX: Final = 3
"""How deep tuples, lists and frozensets may be nested in an argument."""

_ESCAPED: Final = re.compile(r"[^A-Za-z0-9_.@~+-]")
_NUMBER: Final = r"[+-]?(?:nan|inf|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)"
_AMBIGUOUS: Final = re.compile(rf"(?:None|True|False|{_NUMBER})?")
TOO_LONG: Final = f"hash long arguments first, and pass the digest; a key has at most {KEY_BYTES_MAX} bytes"
SUPPORTED: Final = (
    "str, int, bool, None, float, bytes, UUID, Decimal, date, datetime, time, Enum members, "
    "and tuples, lists and frozensets of these"
)


def is_plain(char: str) -> bool:
    """Tell whether escaping leaves the character alone.

    Beyond ASCII, letters and digits are those of Unicode 3.2, which Python carries for IDNA. Its newest tables grow
    with each release: two nodes on different Pythons would write one argument as two keys, and lose invalidations.
    """
    return not _ESCAPED.match(char) or (not char.isascii() and ucd_3_2_0.category(char)[0] in "LN")


def _percent(match: re.Match[str]) -> str:
    return match[0] if is_plain(match[0]) else "".join(f"%{byte:02X}" for byte in match[0].encode())


def escape(text: str) -> str:
    """Escape a text as it is escaped inside a key, for scopes written by hand: `f"tenant:{escape(name)}"`.

    Args:
        text: Any text of at most 1024 characters.

    Returns:
        The text with everything but letters, digits and `_ . - @ ~ +` percent-encoded. Nothing is normalised.

    Raises:
        KeyArgumentError: It is no text, too long, or not encodable (a lone surrogate).
    """
    if not isinstance(text, str):
        raise KeyArgumentError(f"escape takes a text, not {text!r}", hint=f"write escape(str({text!r}))")
    if len(text) > KEY_BYTES_MAX:
        raise KeyArgumentError(f"a text of {len(text)} characters is too long", hint=TOO_LONG)
    try:
        return _ESCAPED.sub(_percent, text)
    except UnicodeEncodeError:
        raise KeyArgumentError("the text holds a lone surrogate", hint="decode it with errors='strict'") from None


def _int_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses thousands of digits, which take quadratic time
        raise KeyArgumentError("the integer is too long", hint=TOO_LONG) from None


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        raise KeyArgumentError(f"{value} is no number that could be found again", hint="pass None, or a text")
    return repr(value + 0.0)  # -0.0 + 0.0 is 0.0: the two are equal, and so are their keys


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite() or abs(value.adjusted()) > KEY_BYTES_MAX:
        raise KeyArgumentError("the Decimal is not finite, or too long", hint="pass None, or a text")
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if value else "0"  # equal Decimals may differ in trailing zeros and in the sign of zero


def _moment_text(value: datetime | time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise KeyArgumentError("its time zone gives no offset without a date", hint="use a time without a zone")
    return escape(value.isoformat())


_TEXTS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: escape,
    int: _int_text,
    bool: str,
    NoneType: str,
    float: _float_text,
    bytes: bytes.hex,
    Decimal: _decimal_text,
    datetime: _moment_text,
    date: date.isoformat,
    time: _moment_text,
}
_BARE_IF_UNDECLARED: Final = frozenset({NoneType, bool, int, float})
_CONTAINERS: Final = frozenset({tuple, list, frozenset})


def _is_uuid(kind: type) -> bool:
    """Know a UUID by its name, for the core does not import a module of random numbers.

    Database drivers return subclasses that equal the original; they are rendered like it.
    """
    return any(base.__module__ == "uuid" and base.__qualname__ == "UUID" for base in kind.__mro__)


def _items_text(items: Collection[object], depth: int) -> str:
    if depth > DEPTH_MAX:
        raise KeyArgumentError(f"it is nested more than {DEPTH_MAX} deep", hint="pass a digest of it, or fewer levels")
    if len(items) > KEY_BYTES_MAX:
        raise KeyArgumentError(f"{len(items)} items are too many", hint=TOO_LONG)
    texts: Iterable[str] = [_undeclared(item, depth + 1) for item in items]
    text = ",".join(sorted(texts) if isinstance(items, frozenset) else texts)
    if len(text) > KEY_BYTES_MAX:  # at every level, so that no nesting can multiply the work
        raise KeyArgumentError("its items are too long", hint=TOO_LONG)
    return f"({text})"


def _bare(value: object, depth: int) -> str:
    kind = type(value)
    if kind in _TEXTS:
        return _TEXTS[kind](value)
    if isinstance(value, tuple | list | frozenset) and kind in _CONTAINERS:
        return _items_text(value, depth)
    if isinstance(value, Flag):
        return str(value._value_)  # a combination of flags has no name of its own
    if isinstance(value, Enum):
        return escape(value._name_)
    if _is_uuid(kind):
        return escape(str(value))
    for base in _TEXTS:
        if isinstance(value, base):  # it may hold more than its base shows, or claim to equal others
            hint = f"pass a plain {base.__name__}"
            raise KeyArgumentError(f"{kind.__qualname__} is a subclass of {base.__name__}", hint=hint)
    raise KeyArgumentError(f"no text would always name {kind.__qualname__} objects")


def _tagged(value: object, depth: int = 1) -> str:
    kind = type(value)
    if isinstance(value, Enum):
        tag = f"Enum!{escape(kind.__module__)}!{escape(kind.__qualname__)}"
    else:
        tag = "UUID" if _is_uuid(kind) else kind.__name__
    return f"{tag}!{_bare(value, depth)}"


def _undeclared(value: object, depth: int = 1) -> str:
    """Render a value whose parameter declares no type, or several: bare if only one type could look so."""
    kind = type(value)
    if kind in _BARE_IF_UNDECLARED or (type(value) is str and not _AMBIGUOUS.fullmatch(value)):
        return _TEXTS[kind](value)
    return _tagged(value, depth)


def forms(value: object) -> tuple[str, ...]:
    """Give the texts under which a value stands in keys: where its one type is declared, and where several may come.

    Raises:
        KeyArgumentError: It stands in no key.
    """
    undeclared = _undeclared(value)
    return (undeclared,) if type(value) in _BARE_IF_UNDECLARED else tuple(dict.fromkeys((_bare(value, 1), undeclared)))


def plain_text(declared: type) -> Callable[[Any], str] | None:
    """Give how the arguments of exactly this type are rendered, if they are rendered as they are, without a tag."""
    return _TEXTS.get(declared)


def renderer(declared: object) -> Callable[[Any], str]:
    """Choose once, from the type that a parameter declares, how its arguments are rendered."""
    if not isinstance(declared, type):
        return _undeclared
    text = _TEXTS.get(declared)
    if text is not None:
        return lambda value: text(value) if type(value) is declared else _tagged(value)
    if _is_uuid(declared):
        return lambda value: _bare(value, 1) if _is_uuid(type(value)) else _tagged(value)
    if declared in _CONTAINERS or issubclass(declared, Enum):
        return lambda value: _bare(value, 1) if type(value) is declared else _tagged(value)
    return _undeclared
