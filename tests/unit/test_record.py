from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.core import record as records
from unstale.core.record import (
    EVERYTHING,
    FORMAT,
    INVALIDATE,
    POSITION_DIGITS,
    PULSE,
    Logged,
    Record,
    Stamp,
    Version,
    decode_record,
    encode_record,
    unreadable,
)
from unstale.errors import TicketError

SNAPSHOTS = Path(__file__).parent / "snapshots"

FULL = Record(
    "r-4",
    ("product:17", "catalog", "Käse/чай/茶", ""),
    soft=True,
    version=Version(-(2**63), "tl-2"),
    covers=Stamp("generation", 2**63),
    timeline="tl-2",
    ack=True,
    who="shop@host:1",
    why="price list import",
    trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    at=1_700_000_000.25,
)
# Never edit a line: add new ones, and a new file with a new format.
SNAPSHOT_V1 = {
    "hard": Record("r-1", ("product:17",)),
    "soft": Record("r-2", ("tenant:acme", "catalog"), soft=True, why="import"),
    "everything": Record("r-3", (EVERYTHING,), who="doctor", at=1.5),
    "full": FULL,
    "versioned": Record("r-5", ("product:17",), version=Version(7)),
    "pulse": Record("r-6", (), covers=Stamp("g", 41), timeline="tl-1"),
    "first": Record("r-7", ("a",)),  # its wire form has the two fields that every record must have, and no more
    "later": Record("r-8", ("a",), ack=True),  # its wire form has fields at its ends that this version does not know
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
versions = st.builds(Version, st.integers(-(2**63), 2**64 - 1), texts)
stamps = st.builds(Stamp, texts, st.integers(0, 2**64 - 1))
any_record = st.builds(
    Record,
    id=texts,
    scopes=st.lists(texts, max_size=4).map(tuple),
    soft=st.booleans(),
    version=st.none() | versions,
    covers=st.none() | stamps,
    timeline=texts,
    ack=st.booleans(),
    who=texts,
    why=texts,
    trace=texts,
    at=st.floats(allow_nan=False),
)


def read_snapshots(name: str) -> dict[str, bytes]:
    """Read a file of snapshots: one a line, its name and its bytes in hexadecimal digits."""
    lines = (SNAPSHOTS / name).read_text(encoding="ascii").splitlines()
    return {name: bytes.fromhex(digits) for name, digits in (line.split() for line in lines)}


def wire(*parts: object) -> bytes:
    """Give bytes as another version, or a stranger, might have written them."""
    return msgspec.msgpack.encode(parts)


def everything(record_id: str) -> Record:
    """Give what must be made of a record that cannot be read."""
    return Record(record_id, ("*",), why="unreadable record")


@settings(deadline=None)
@given(any_record)
def test_a_record_survives_the_wire(record: Record) -> None:
    """Every record is read as it was written."""
    assert decode_record(encode_record(record), record.id) == record


@pytest.mark.parametrize("name", SNAPSHOT_V1)
def test_h28_old_bytes_still_read(name: str) -> None:
    """Bytes written by the first version of format 1 mean for ever what they meant then."""
    record = SNAPSHOT_V1[name]
    assert decode_record(read_snapshots("record_v1.hex")[name], record.id) == record


def test_h28_every_snapshot_is_read() -> None:
    """No line of the snapshots is left unread."""
    assert set(read_snapshots("record_v1.hex")) == set(SNAPSHOT_V1)


@pytest.mark.parametrize("name", sorted(set(SNAPSHOT_V1) - {"first", "later"}))
def test_h28_the_wire_form_does_not_change_unnoticed(name: str) -> None:
    """What is written today is, byte for byte, what format 1 has always been."""
    assert FORMAT == 1
    assert encode_record(SNAPSHOT_V1[name]) == read_snapshots("record_v1.hex")[name]


def test_kinds() -> None:
    """A record that covers a position is told apart from others without being decoded in full."""
    kinds = [msgspec.msgpack.decode(encode_record(record))[1] for record in (FULL, Record("r", ("a",)))]
    assert kinds == [PULSE, INVALIDATE]


@pytest.mark.parametrize(
    "data",
    [
        wire(FORMAT + 1, INVALIDATE, ("r", ("a",))),  # a later format
        wire(0, INVALIDATE, ("r", ("a",))),
        wire(FORMAT, "x", ("r", ("a",))),  # an unknown kind
        wire(FORMAT, INVALIDATE, ("other", ("a",))),  # not the record that the log says it is
        wire(FORMAT, INVALIDATE, ("r",)),  # no scopes
        wire(FORMAT, INVALIDATE, ("r", "a")),  # scopes that are none
        wire(FORMAT, INVALIDATE, ("r", ("a", 1))),
        wire(FORMAT, INVALIDATE, ("r", ("a",), "yes")),
        wire(FORMAT, INVALIDATE, ("r", ("a",), False, ("seven",))),
        wire(FORMAT, INVALIDATE),
        wire(str(FORMAT), INVALIDATE, ("r", ("a",))),
        wire(),
        msgspec.msgpack.encode({"format": FORMAT, "kind": INVALIDATE, "record": ("r", ("a",))}),
        msgspec.msgpack.encode(None),
        encode_record(Record("r", ("a",)))[:-1],
        encode_record(Record("r", ("a",))) + b"\0",
        encode_record(Record("r", ("a",))).replace(b"\xa1a", b"\xa1\xff"),  # no UTF-8
        encode_record(Record("r", ("a",))).replace(b"\xa1a", b"\xa3\xed\xa0\x80"),  # a lone surrogate
        b"\x93\x01\xa1i\x92\xa1r\xdd\xff\xff\xff\xff",  # four thousand million scopes are announced, none follows
        b"\x91" * 100_000,  # a deep nest
        b"",
        b"\xc1",
    ],
)
def test_h28_h29_what_cannot_be_read_is_everything(data: bytes) -> None:
    """A record of another format, of an unknown kind, damaged or forged, invalidates everything, hard."""
    assert decode_record(data, "r") == everything("r")


def test_h29_a_deep_nest_behind_a_good_record_is_everything() -> None:
    """A nest of arrays in the place of fields to come is damage, and does not escape as a RecursionError."""
    nest = b"\x91" * 100_000 + b"\xc0"
    for data in (b"\x94\x01\xa1i\x92\xa1r\x91\xa1a" + nest, b"\x93\x01\xa1i\x9c\xa1r\x91\xa1a" + nest):
        assert decode_record(data, "r") == everything("r")


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_h29_arbitrary_bytes_never_raise(data: bytes) -> None:
    """Arbitrary bytes become some record of the id that the log names."""
    assert decode_record(data, "r").id == "r"


@settings(deadline=None)
@given(any_record, st.data())
def test_h29_damaged_bytes_never_raise(record: Record, data: st.DataObject) -> None:
    """A valid record with a few bytes changed, cut off or put in becomes everything, or another record of its id."""
    damaged = bytearray(encode_record(record))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)))
        stop = start + data.draw(st.integers(0, 2))
        damaged[start:stop] = data.draw(st.binary(max_size=3))
    read = decode_record(bytes(damaged), record.id)
    assert read.id == record.id
    assert all(isinstance(scope, str) for scope in read.scopes)


def test_unreadable_is_hard_and_proves_nothing() -> None:
    """What stands in for an unreadable record ends all entries for good, and covers nothing."""
    record = unreadable("r")
    assert (record.scopes, record.soft, record.version, record.covers) == (("*",), False, None, None)


def test_a_later_format_is_written_by_a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format number is read from one place, by which the conformance suite imitates a later version."""
    monkeypatch.setattr(records, "FORMAT", FORMAT + 1)
    later = encode_record(FULL)
    assert decode_record(later, FULL.id) == FULL
    monkeypatch.undo()
    assert decode_record(later, FULL.id) == everything(FULL.id)


def test_a_logged_record_has_its_records_id() -> None:
    """A line of the log is known by the id of its record."""
    assert Logged(3, "r-1", FULL).id == FULL.id


@settings(deadline=None)
@given(st.text(min_size=1), st.integers(0, 10**POSITION_DIGITS - 1))
def test_h37_a_ticket_survives_as_text(generation: str, position: int) -> None:
    """A ticket carries its generation and its position as text, whatever the generation is called."""
    stamp = Stamp(generation, position)
    assert Stamp.parse(str(stamp)) == stamp


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "g",
        "g.",
        ".7",
        "g.x",
        "g.-1",
        "g. 7",
        "g.7 ",
        "g.\u0663",
        "g.\u00b2",
        "g." + "9" * (POSITION_DIGITS + 1),
    ],
)
def test_h29_a_ticket_that_cannot_be_read_is_an_error(text: str) -> None:
    """A text that is no ticket is refused, and the error says what to pass instead."""
    with pytest.raises(TicketError, match="is not a ticket") as caught:
        Stamp.parse(text)
    assert "str(cache.ticket())" in caught.value.hint
    assert caught.value.fields == {"text": text[:80]}


@settings(deadline=None)
@given(st.text())
def test_h29_any_text_is_a_ticket_or_an_error(text: str) -> None:
    """Whatever a client sends as a ticket, it is read or refused."""
    try:
        stamp = Stamp.parse(text)
    except TicketError:
        return
    assert (stamp.generation, stamp.position) == (text.rpartition(".")[0], int(text.rpartition(".")[2]))
