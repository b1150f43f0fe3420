"""Durations: read once, at the edge, and counted in seconds ever after."""

from __future__ import annotations

import math
import re
import reprlib
from datetime import timedelta
from fractions import Fraction
from typing import Final, TypeAlias

from unstale.errors import DurationError

Duration: TypeAlias = str | timedelta | float

SECONDS_MAX: Final = 36_525 * 86_400
"""The longest duration that is taken for meant: 100 years, in seconds."""

_TEXT_CHARS_MAX: Final = 64
_HINT: Final = (
    'write "250ms", "2s", "5m", "1h30m" or "7d" (units from long to short, each once), '
    "a timedelta, or a number of seconds"
)
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_UNITS: Final = {
    "d": Fraction(86_400),
    "h": Fraction(3_600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1_000),
}
_SECOND: Final = 1_000_000  # microseconds
_PATTERN: Final = re.compile("".join(f"(?:(?P<{u}>{_NUMBER}){u})?" for u in _UNITS))


def seconds(value: Duration, name: str) -> float:
    """Read a duration.

    Args:
        value: A text such as "250ms" or "1h30m", a timedelta, or a number of seconds.
        name: The argument that the value was given for; errors name it.

    Returns:
        The duration in seconds: finite, from 0 to 100 years.

    Raises:
        DurationError: The value cannot be read, is negative, or is longer than 100 years.
    """
    if isinstance(value, str):
        total: float | Fraction = _parse(value, name)
    elif isinstance(value, timedelta):
        total = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__qualname__
        raise DurationError(f"{name} must be a duration, not {kind}", hint=_HINT, argument=name, value=value)
    else:
        total = value
    # A number is compared before it is converted: an int may be too large for a float.
    if total > SECONDS_MAX:
        problem = "is longer than 100 years"
    elif total < 0:
        problem = "is negative"
    elif total >= 0:
        return float(total)
    else:
        problem = "is not a number"
    raise DurationError(f"{name} {problem}", hint=_HINT, argument=name, value=value)


def _parse(text: str, name: str) -> Fraction:
    """Read a text exactly: fractions of a unit are added up before anything is rounded."""
    match = _PATTERN.fullmatch(text) if 0 < len(text) <= _TEXT_CHARS_MAX else None
    if match is None:
        raise DurationError(
            f"{name} cannot be read as a duration: {reprlib.repr(text)}",
            hint=_HINT,
            argument=name,
            value=text,
        )
    given = {unit: number for unit, number in match.groupdict().items() if number}
    return sum((Fraction(number) * _UNITS[unit] for unit, number in given.items()), Fraction(0))


def format_seconds(s: float) -> str:
    """Write a duration the way people do, exact to the microsecond.

    What it writes for a duration of up to 100 years is read back by `seconds`.

    Args:
        s: Seconds. A negative number (a deadline that has passed) keeps its sign.

    Returns:
        A text such as "250ms", "1m30s" or "7d"; "inf" or "nan" for what is no duration.
    """
    if not math.isfinite(s):
        return str(s)
    micros = round(Fraction(abs(s)) * _SECOND)
    sign = "-" if s < 0 and micros else ""
    if 0 < micros < _SECOND:
        return f"{sign}{_decimal(micros, 1_000)}ms"
    text = ""
    for unit in ("d", "h", "m"):
        count, micros = divmod(micros, int(_UNITS[unit]) * _SECOND)
        text += f"{count}{unit}" if count else ""
    if micros or not text:
        text += f"{_decimal(micros, _SECOND)}s"
    return sign + text


def _decimal(count: int, one: int) -> str:
    """Write count / one, where one is a power of ten, without trailing zeros."""
    whole, rest = divmod(count, one)
    fraction = str(one + rest)[1:].rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
