from __future__ import annotations

import struct
from collections.abc import Sequence
from types import EllipsisType

import pytest

from unstale.sources.pgoutput import (
    Begin,
    Change,
    Column,
    Commit,
    Decoder,
    MessageError,
    Relation,
    Snapshot,
    Truncate,
    lsn_of,
    lsn_text,
)

RELATION = Relation(7, "public", "product", "d", (Column("id", 23, identity=True), Column("name", 25, identity=False)))


def text(value: str) -> bytes:
    """Write a text as the protocol does."""
    return value.encode() + b"\0"


def relation(one: Relation = RELATION) -> bytes:
    """Write a table."""
    columns = b"".join(
        struct.pack(">B", column.identity) + text(column.name) + struct.pack(">Ii", column.type, -1)
        for column in one.columns
    )
    head = b"R" + struct.pack(">I", one.number) + text(one.schema) + text(one.name) + one.replica_identity.encode()
    return head + struct.pack(">H", len(one.columns)) + columns


def image(kind: bytes, values: Sequence[str | EllipsisType | None]) -> bytes:
    """Write an image of a row; an ellipsis is a value that is not told."""
    told = b""
    for value in values:
        if value is ...:
            told += b"u"
        elif value is None:
            told += b"n"
        else:
            encoded = str(value).encode()
            told += b"t" + struct.pack(">I", len(encoded)) + encoded
    return kind + struct.pack(">H", len(values)) + told


def read(*messages: bytes) -> object:
    """Read messages: the last one."""
    decoder = Decoder()
    return [decoder.read(message) for message in messages][-1]


def test_transactions() -> None:
    """A transaction opens with the place of its commit and closes with the place behind it."""
    assert read(b"B" + struct.pack(">QqI", 0x16B374D848, 1_000_000, 4_000_000_000)) == Begin(
        0x16B374D848, 946_684_801.0, 4_000_000_000
    )
    assert read(b"C" + struct.pack(">BQQq", 0, 1, 2, 3)) == Commit(2)
    assert [read(kind + b"whatever") for kind in (b"O", b"Y", b"M")] == [None] * 3


def test_rows() -> None:
    """A row is told as it was, as far as the log knows that, and as it is."""
    insert = b"I" + struct.pack(">I", 7) + image(b"N", ["17", None])
    assert read(relation(), insert) == Change(RELATION, None, {"id": "17", "name": None})
    update = b"U" + struct.pack(">I", 7) + image(b"N", ["17", ...])
    assert read(relation(), update) == Change(RELATION, None, {"id": "17"})
    moved = b"U" + struct.pack(">I", 7) + image(b"K", ["17", None]) + image(b"N", ["18", "é"])
    assert read(relation(), moved) == Change(RELATION, {"id": "17"}, {"id": "18", "name": "é"})
    delete = b"D" + struct.pack(">I", 7) + image(b"K", ["17", None])
    assert read(relation(), delete) == Change(RELATION, {"id": "17"}, None)
    truncate = b"T" + struct.pack(">IBI", 1, 0, 7)
    assert read(relation(), truncate) == Truncate((RELATION,))


def test_what_is_not_told_anew_has_not_changed() -> None:
    """Where the whole old row is told, a value that was stored out of line is that of the old row."""
    full = Relation(7, "public", "product", "f", RELATION.columns)
    update = b"U" + struct.pack(">I", 7) + image(b"O", ["17", "long"]) + image(b"N", ["17", ...])
    assert read(relation(full), update) == Change(full, {"id": "17", "name": "long"}, {"id": "17", "name": "long"})


def test_a_table_may_change_between_two_rows() -> None:
    """A table that is told anew has the columns that it has now."""
    more = Relation(7, "public", "product", "d", (*RELATION.columns, Column("more", 16, identity=False)))
    insert = b"I" + struct.pack(">I", 7) + image(b"N", ["17", "a", "t"])
    assert read(relation(), relation(more), insert) == Change(more, None, {"id": "17", "name": "a", "more": "t"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Z",
        b"B\0",
        b"I" + struct.pack(">I", 8) + image(b"N", ["17", None]),
        b"I" + struct.pack(">I", 7) + image(b"N", ["17", None])[:-1],
        b"I" + struct.pack(">I", 7) + image(b"X", ["17", None]),
        b"I" + struct.pack(">I", 7) + image(b"N", ["17", "x", "too many"]),
        b"I" + struct.pack(">I", 7) + b"N" + struct.pack(">H", 1) + b"?",
        b"D" + struct.pack(">I", 7) + image(b"K", [..., None]),
        b"R" + struct.pack(">I", 7) + b"no end",
        relation()[:9] + b"\xff" + relation()[10:],
    ],
)
def test_damaged_messages(data: bytes) -> None:
    """What is no message is an error, never a guess."""
    with pytest.raises(MessageError):
        read(relation(), data)


@pytest.mark.parametrize(
    ("snapshot", "xid", "seen"),
    [
        ("100:100:", 99, True),
        ("100:100:", 100, False),
        ("100:105:100,103", 101, True),
        ("100:105:100,103", 103, False),
        ("100:105:100,103", 200, False),
        (f"{(3 << 32) + 5}:{(3 << 32) + 5}:", 2**32 - 1, True),  # of the epoch before
        (f"{(3 << 32) + 5}:{(3 << 32) + 5}:", 4, True),
        (f"{(3 << 32) + 5}:{(3 << 32) + 5}:", 6, False),
        (f"{(4 << 32) - 5}:{(4 << 32) - 5}:", 3, False),  # of the epoch after: it waits for a standby
        (f"{(4 << 32) - 9}:{(4 << 32) - 5}:{(4 << 32) - 9}", 2**32 - 9, False),
    ],
)
def test_h18_what_a_snapshot_sees(snapshot: str, xid: int, seen: bool) -> None:  # noqa: FBT001 - what is expected
    """A number of 32 bits is widened by the snapshot's own epoch, and judged as PostgreSQL judges it."""
    assert Snapshot.parse(snapshot).sees(xid) is seen


def test_positions() -> None:
    """A position is written as PostgreSQL writes it."""
    assert lsn_of("16/B374D848") == 0x16B374D848
    assert lsn_text(0x1600000001) == "16/1"
