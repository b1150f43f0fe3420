"""Stored entries: value, stamp and scopes as one string of bytes, written and read atomically (H15).

The wire form is a format number, a CRC-32 and a MessagePack array. Bytes of another format, or damaged ones, are a
miss (H28, H29): a flipped bit within a number would otherwise be served as another number.
"""

from __future__ import annotations

import struct
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias
from zlib import crc32

import msgspec

from unstale.core.record import Stamp, Version

FORMAT = 1
INT_MIN, INT_MAX = -(2**63), 2**64 - 1
VALUE: Literal["v"] = "v"
FAILURE: Literal["f"] = "f"


if TYPE_CHECKING:
    Bytes: TypeAlias = bytes | memoryview
else:  # so that decoding gives a view of what was fetched: a copy of a value, made only to be decoded, is for nothing
    Bytes = memoryview


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A stored entry.

    Attributes:
        key: Its own key, and first scope. Bytes found under another key are not this key's entry.
        stamp: What its node had applied before the read view of the load was taken.
        scopes: The other scopes: tags and namespace.
        data: The encoded value, or the encoded failure; of an entry that was read, a view of the bytes read.
        kind: `v` for a value, `f` for a failure that is remembered.
        kept_s: Seconds at the end of the stored lifetime during which it is no longer fresh, only to be served stale.
        cost_s: Seconds that the load took (for early refreshing).
        version: The source's version of the key's row.
    """

    key: str
    stamp: Stamp
    scopes: tuple[str, ...]
    data: Bytes
    kind: Literal["v", "f"] = VALUE
    kept_s: float = 0.0
    cost_s: float = 0.0
    version: Version | None = None


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A remembered failure: the name of its class, and its arguments as far as they are plain."""

    kind: str
    args: tuple[str | int | float | bool | None, ...]


_HEAD = struct.Struct("<BI")  # format, CRC-32 of what follows
_HEAD_BYTES = _HEAD.size

_unpack_head = _HEAD.unpack_from
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def encode_entry(entry: Entry) -> bytes:
    """Give the stored form of an entry."""
    body = _encode(entry)
    return _HEAD.pack(FORMAT, crc32(body)) + body


def decode_entry(data: bytes, key: str) -> Entry | None:
    """Read a stored form; None for anything that is not an entry of this key in a format that we know."""
    if len(data) < _HEAD_BYTES:
        return None
    form, checksum = _unpack_head(data)
    body = memoryview(data)[_HEAD_BYTES:]
    if form != FORMAT or checksum != crc32(body):
        return None
    try:
        entry = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    sound = entry.key == key and entry.kept_s >= 0 and 0 <= entry.cost_s < inf
    return entry if sound else None


def class_name(kind: type[BaseException]) -> str:
    """Give the name under which an exception class is remembered."""
    return f"{kind.__module__}.{kind.__qualname__}"


def encode_failure(error: Exception) -> bytes:
    """Give the stored form of an exception: its class by name, its plain arguments, the others as text."""
    return _encode(Failure(class_name(type(error)), tuple(map(_plain, error.args))))


def _plain(arg: object) -> str | int | float | bool | None:
    """Give an argument of an exception in a form that can be stored, whatever it is: the failure is what matters."""
    if arg is None or type(arg) in {bool, float} or (type(arg) is int and INT_MIN <= arg <= INT_MAX):
        return arg  # type: ignore[return-value]
    try:
        text = str(arg)
    except Exception:  # noqa: BLE001 - a __str__ that fails must not hide the failure itself
        text = type(arg).__qualname__
    return text.encode(errors="backslashreplace").decode()


def decode_failure(data: Bytes) -> Failure:
    """Read a stored failure.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    return _decode_failure(data)
