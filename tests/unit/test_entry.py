from __future__ import annotations

import enum
import math
from pathlib import Path
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.core.entry import (
    FAILURE,
    FORMAT,
    VALUE,
    Entry,
    Failure,
    class_name,
    decode_entry,
    decode_failure,
    encode_entry,
    encode_failure,
)
from unstale.core.record import Stamp, Version

SNAPSHOTS = Path(__file__).parent / "snapshots"

FULL = Entry(
    "product:17",
    Stamp("generation", 2**63),
    ("product", "Käse/чай/茶", ""),
    bytes(range(256)),
    FAILURE,
    kept_s=3600.5,
    cost_s=0.125,
    version=Version(2**63, "tl-2"),
)
# Never edit a line: add new ones, and a new file with a new format.
SNAPSHOT_V1 = {
    "value": Entry("product:17", Stamp("g", 41), ("product", "catalog"), b"\x92\x01\xc0", VALUE, 60.0, 0.02, None),
    "failure": Entry("product:18", Stamp("g", 42), ("product",), b"\x92\xa1K\x91\x12", FAILURE, 0.0, 0.5),
    "full": FULL,
    "versioned": Entry("k", Stamp("g", 0), (), b"", version=Version(-7)),
    "first": Entry("k", Stamp("g", 1), ("t",), b"x"),  # its wire form has the fields that every entry must have
    "later": Entry("k", Stamp("g", 2), ("t",), b"x"),  # its wire form has fields at its end that nobody knows yet
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
any_entry = st.builds(
    Entry,
    key=texts,
    stamp=st.builds(Stamp, texts, st.integers(0, 2**64 - 1)),
    scopes=st.lists(texts, max_size=4).map(tuple),
    data=st.binary(max_size=32),
    kind=st.sampled_from([VALUE, FAILURE]),
    kept_s=st.floats(0, allow_nan=False),
    cost_s=st.floats(0, allow_nan=False, allow_infinity=False),
    version=st.none() | st.builds(Version, st.integers(-(2**63), 2**64 - 1), texts),
)


def read_snapshots(name: str) -> dict[str, bytes]:
    """Read a file of snapshots: one a line, its name and its bytes in hexadecimal digits."""
    lines = (SNAPSHOTS / name).read_text(encoding="ascii").splitlines()
    return {name: bytes.fromhex(digits) for name, digits in (line.split() for line in lines)}


def sealed(body: bytes, form: int = FORMAT) -> bytes:
    """Give a body with its format number and its checksum before it."""
    return bytes([form]) + crc32(body).to_bytes(4, "little") + body


def wire(*fields: object, form: int = FORMAT) -> bytes:
    """Give bytes as another version, or a stranger, might have written them, with a good checksum."""
    return sealed(msgspec.msgpack.encode(fields), form)


@settings(deadline=None)
@given(any_entry)
def test_an_entry_survives_the_wire(entry: Entry) -> None:
    """Every entry is read as it was written."""
    assert decode_entry(encode_entry(entry), entry.key) == entry


@settings(deadline=None)
@given(any_entry, texts)
def test_h29_an_entry_under_another_key_is_a_miss(entry: Entry, key: str) -> None:
    """Bytes copied from one key to another are not that other key's entry."""
    assert (decode_entry(encode_entry(entry), key) is None) == (key != entry.key)


@pytest.mark.parametrize("name", SNAPSHOT_V1)
def test_h28_old_bytes_still_read(name: str) -> None:
    """Bytes written by the first version of format 1 mean for ever what they meant then."""
    entry = SNAPSHOT_V1[name]
    assert decode_entry(read_snapshots("entry_v1.hex")[name], entry.key) == entry


def test_h28_every_snapshot_is_read() -> None:
    """No line of the snapshots is left unread."""
    assert set(read_snapshots("entry_v1.hex")) == set(SNAPSHOT_V1)


@pytest.mark.parametrize("name", sorted(set(SNAPSHOT_V1) - {"first", "later"}))
def test_h28_the_stored_form_does_not_change_unnoticed(name: str) -> None:
    """What is stored today is, byte for byte, what format 1 has always been."""
    assert FORMAT == 1
    assert encode_entry(SNAPSHOT_V1[name]) == read_snapshots("entry_v1.hex")[name]


GOOD = encode_entry(Entry("k", Stamp("g", 1), (), b"x"))


@pytest.mark.parametrize(
    "data",
    [
        wire("k", ("g", 1), (), b"x", form=FORMAT + 1),  # a later format
        wire("k", ("g", 1), (), b"x", form=0),
        wire("k", ("g", 1), ()),  # no value
        wire("k", ("g", 1), (), "text"),
        wire("k", ("g", 1.5), (), b"x"),
        wire("k", ("g",), (), b"x"),
        wire("k", ("g", 1), "scopes", b"x"),
        wire("k", ("g", 1), (), b"x", "w"),  # an unknown kind of value
        wire("k", ("g", 1), (), b"x", VALUE, -1.0),  # it would be fresh beyond its stored life
        wire("k", ("g", 1), (), b"x", VALUE, math.nan),
        wire("k", ("g", 1), (), b"x", VALUE, 0.0, "slow"),
        wire("k", ("g", 1), (), b"x", VALUE, 0.0, 0.0, 7),
        wire(),
        sealed(b""),
        sealed(b"\xc1"),
        sealed(msgspec.msgpack.encode({"key": "k"})),
        sealed(GOOD[5:-1]),
        sealed(GOOD[5:] + b"\0"),
        sealed(GOOD[5:].replace(b"\xa1g", b"\xa1\xff")),  # no UTF-8
        sealed(b"\x94\xa1k\x92\xa1g\x01\xdd\xff\xff\xff\xff"),  # four thousand million scopes, of which none follows
        sealed(b"\x91" * 100_000),  # a deep nest
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[5:],
        b"",
        b"\x01",
        b"\x01\0\0\0",
    ],
)
def test_h28_h29_what_cannot_be_read_is_a_miss(data: bytes) -> None:
    """Bytes of another format, damaged or forged, are no entry."""
    assert decode_entry(data, "k") is None


def test_h29_a_deep_nest_behind_a_good_entry_is_a_miss() -> None:
    """A nest of arrays in the place of fields to come is no entry, and does not escape as a RecursionError."""
    assert decode_entry(sealed(b"\x99" + GOOD[6:] + b"\x91" * 100_000 + b"\xc0"), "k") is None


@pytest.mark.parametrize("cost_s", [-1.0, -math.inf, math.inf, math.nan])
def test_h29_a_load_that_took_no_sensible_time_is_a_miss(cost_s: float) -> None:
    """A negative cost would put the moment of the early refresh behind the end of the entry's life."""
    assert decode_entry(wire("k", ("g", 1), (), b"x", VALUE, 0.0, cost_s), "k") is None


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_h29_arbitrary_bytes_never_raise(data: bytes) -> None:
    """Arbitrary bytes are a miss or an entry of the key that was asked for, even with a good checksum."""
    for entry in (decode_entry(data, "k"), decode_entry(sealed(data), "k")):
        assert entry is None or entry.key == "k"


def damage(good: bytes, data: st.DataObject) -> bytes:
    """Change a few bytes, cut some off or put some in."""
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(damaged)))
        damaged[start : start + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    return bytes(damaged)


@settings(deadline=None)
@given(any_entry, st.data())
def test_h29_damaged_bytes_are_a_miss(entry: Entry, data: st.DataObject) -> None:
    """An entry with a few bytes changed, cut off or put in is not served: its checksum tells."""
    good = encode_entry(entry)
    damaged = damage(good, data)
    assert (decode_entry(damaged, entry.key) is None) is (damaged != good)


@settings(deadline=None)
@given(any_entry, st.data())
def test_h29_forged_bytes_never_raise(entry: Entry, data: st.DataObject) -> None:
    """An entry changed by a stranger, who knows the checksum, is a miss, or an entry of the key asked for."""
    read = decode_entry(sealed(damage(encode_entry(entry)[5:], data)), entry.key)
    assert read is None or (read.key == entry.key and read.kept_s >= 0 and read.kind in {VALUE, FAILURE})


class Colour(enum.Enum):
    RED = 1


class Label(str):
    __slots__ = ()


class Count(int):
    pass


class Mean(float):
    pass


class Silent:
    def __str__(self) -> str:
        raise RuntimeError


def test_a_class_is_remembered_by_its_full_name() -> None:
    """Two classes of one name in different places are told apart."""

    class LookupError(Exception):  # noqa: A001 - the point of this test
        pass

    assert class_name(ValueError) == "builtins.ValueError"
    assert class_name(LookupError).endswith("test_a_class_is_remembered_by_its_full_name.<locals>.LookupError")


def test_a_failure_keeps_its_plain_arguments() -> None:
    """Plain arguments come back as they were, all others as text."""
    plain = ("name", 17, 1.5, True, None)
    failure = decode_failure(encode_failure(KeyError(*plain, b"x", Colour.RED, ["a", 1])))
    assert failure == Failure("builtins.KeyError", (*plain, "b'x'", "Colour.RED", "['a', 1]"))


@settings(deadline=None)
@given(st.lists(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts, max_size=4).map(tuple))
def test_a_failure_survives_the_wire(args: tuple[str | int | bool | None, ...]) -> None:
    """Every failure with plain arguments is read as it was written."""
    assert decode_failure(encode_failure(LookupError(*args))) == Failure("builtins.LookupError", args)


@pytest.mark.parametrize(
    "argument",
    [Label("text"), Count(3), Mean(1.5), 2**64, -(2**63) - 1, "\udc80", Silent()],
    ids=["Label", "Count", "Mean", "large", "small", "surrogate", "Silent"],
)
def test_h29_a_failure_with_unwieldy_arguments_can_be_remembered(argument: object) -> None:
    """An exception whose arguments the stored form cannot hold does not make way for an error of the encoding."""
    failure = decode_failure(encode_failure(LookupError("first", argument)))
    assert (failure.kind, failure.args[0]) == ("builtins.LookupError", "first")


def test_h28_an_old_failure_still_reads() -> None:
    """A failure remembered by the first version of format 1 means for ever what it meant then."""
    assert decode_failure(SNAPSHOT_V1["failure"].data) == Failure("K", (18,))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xc0", b"\x91\xa1K", b"\x92\x01\x90", b"\x92\xa1K\x91\x90"])
def test_h29_bytes_that_are_no_failure_are_told_apart(data: bytes) -> None:
    """What is no remembered failure raises the one error that the reader takes for a miss."""
    with pytest.raises(msgspec.MsgspecError):
        decode_failure(data)
