"""Records: the lines of the log, and their wire form.

The wire form is a MessagePack array that starts with a format number. Fields are only ever added at its end, so an old
node still reads the part that it knows. What a node cannot read (another format, an unknown kind, damaged bytes) it
treats as "invalidate everything": the one reading that cannot make it serve something stale (H28).
"""

from __future__ import annotations

import msgspec

from unstale.errors import TicketError

POSITION_DIGITS = 19  # of a 64-bit integer
FORMAT = 1
EVERYTHING = "*"
INVALIDATE = "i"
PULSE = "p"


class Version(msgspec.Struct, frozen=True, array_like=True):
    """A version that the source gives to a row. Comparable only within one timeline of the source."""

    value: int
    timeline: str = ""


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """A position within a generation. Positions of different generations cannot be compared.

    As a ticket it travels as text: `str(stamp)` one way, `Stamp.parse(text)` the other.
    """

    generation: str
    position: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.position}"

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """Read a ticket.

        Args:
            text: What `str()` made of one.

        Raises:
            TicketError: It is none.
        """
        generation, _, position = text.rpartition(".")
        if not generation or not position.isascii() or not position.isdigit() or len(position) > POSITION_DIGITS:
            msg = f"{text[:80]!r} is not a ticket"
            raise TicketError(msg, hint="pass on what str(cache.ticket()) or str(receipt.stamp) gave", text=text[:80])
        return cls(generation, int(position))


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One invalidation, or one pulse.

    Attributes:
        id: Unique id, chosen by the writer; repeating an append with it is harmless.
        scopes: The names that are invalidated; `*` is everything.
        soft: The ended entries may still be served, flagged stale, within their grace.
        version: The source's version of the one key that this record names.
        covers: For a pulse, the head that had been acknowledged before the source was read to its end.
        timeline: For a pulse, the timeline of the source that was read.
        ack: The writer waits until the members have applied this record: tell it soon.
        who: The node or program that wrote it, for people.
        why: The reason given by the caller, for people.
        trace: W3C `traceparent` of the write, or empty.
        at: Wall clock in seconds since the epoch at the writer, for people only.
    """

    id: str
    scopes: tuple[str, ...]
    soft: bool = False
    version: Version | None = None
    covers: Stamp | None = None
    timeline: str = ""
    ack: bool = False
    who: str = ""
    why: str = ""
    trace: str = ""
    at: float = 0.0


class Logged(msgspec.Struct, frozen=True):
    """A record at its place in the log: its position, and the id of the one before it."""

    position: int
    prev: str
    record: Record

    @property
    def id(self) -> str:
        """The id of the record."""
        return self.record.id


class _Wire(msgspec.Struct, array_like=True):
    format: int
    kind: str
    record: Record


_KINDS = frozenset({INVALIDATE, PULSE})

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Wire).decode


def encode_record(record: Record) -> bytes:
    """Give the wire form of a record."""
    return _encode(_Wire(FORMAT, INVALIDATE if record.covers is None else PULSE, record))


def decode_record(data: bytes, record_id: str) -> Record:
    """Read a wire form; what cannot be read becomes "invalidate everything", hard.

    Args:
        data: The bytes as stored.
        record_id: The id under which the log has it; the log's word counts, not the bytes'.
    """
    record = read_record(data, record_id)
    return unreadable(record_id) if record is None else record


def read_record(data: bytes, record_id: str) -> Record | None:
    """Read a wire form: None for one that this version cannot read."""
    try:
        wire = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    record = wire.record
    return record if wire.format == FORMAT and wire.kind in _KINDS and record.id == record_id else None


def unreadable(record_id: str) -> Record:
    """Give the record that stands in for one that this version cannot read."""
    return Record(record_id, (EVERYTHING,), why="unreadable record")
