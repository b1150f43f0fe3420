"""Marks as the Redis engine stores them: texts that its scripts raise, and that only count within one generation."""

from __future__ import annotations

from typing import Final

import msgspec

from unstale.core.marks import NEVER, Mark, Severity
from unstale.core.record import Version

SHIFT: Final = 2**63  # added to versions, so that texts of one length are in the order of the integers
DIGITS: Final = 20

_Eight = tuple[int, int, str, str, int, int, str, str]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Eight).decode
_decode_lives = msgspec.msgpack.Decoder(list[int]).decode


def version_text(version: Version | None) -> str:
    """Give a version as the scripts compare it: a text of 20 digits, empty for none."""
    return "" if version is None else f"{version.value + SHIFT:0{DIGITS}d}"


def encode_mark(generation: str, mark: int | Mark) -> bytes:
    """Give the stored form of a mark."""
    if isinstance(mark, int):
        return f"{generation}:{mark}".encode()
    eight = [field for one in (mark.hard, mark.soft) for field in _fields(one)]
    return f"{generation};".encode() + _encode(eight)


def _fields(severity: Severity) -> tuple[int, int, str, str]:
    version = None if severity.version is None else Version(severity.version)
    return severity.last, severity.plain, version_text(version), severity.timeline


def decode_mark(generation: str, data: bytes | None) -> int | Mark | None:
    """Read a stored mark; None for one of another generation, or none at all.

    Bytes that nobody of us wrote end everything of the scope: the one reading that cannot serve something stale (H29).
    """
    own = generation.encode()
    if data is None or not data.startswith(own):
        return None
    kind, rest = data[len(own) : len(own) + 1], data[len(own) + 1 :]
    try:
        if kind == b":":
            return int(rest)
        if kind != b";":
            return None
        hl, hp, hv, ht, sl, sp, sv, st = _decode(rest)
        return Mark(_severity(hl, hp, hv, ht), _severity(sl, sp, sv, st))
    except (ValueError, msgspec.MsgspecError):
        return SHIFT


def _severity(last: int, plain: int, version: str, timeline: str) -> Severity:
    return Severity(last, plain, int(version) - SHIFT if version else None, timeline) if last else NEVER


def first_covered(start: int, upto: int, lives: bytes, now_ms: int) -> int:
    """Give the first position whose mark cannot have expired; the scripts find the same (`redis_lua`).

    Args:
        start: The first one that was covered when somebody looked last.
        upto: The last one.
        lives: Positions, each with the moment until which the marks of those after it live at least.
        now_ms: A moment of the server's clock.
    """
    try:
        noted = _decode_lives(lives)
    except msgspec.MsgspecError:
        noted = []
    living = [after for after, ends_ms in zip(noted[::2], noted[1::2], strict=False) if ends_ms > now_ms]
    return max(start, living[0] + 1 if living else upto + 1)


def decode_marks(generation: str, scopes: tuple[str, ...], found: list[bytes | None]) -> dict[str, int | Mark]:
    """Read the marks of scopes."""
    decoded = ((scope, decode_mark(generation, data)) for scope, data in zip(scopes, found, strict=True))
    return {scope: mark for scope, mark in decoded if mark is not None}
