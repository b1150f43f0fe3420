"""The messages of PostgreSQL's logical decoding plugin `pgoutput`, protocol version 1.

See "Logical Replication Message Formats" in PostgreSQL's manual. Values come as texts, in the format of the session
that reads them; a value that was stored out of line and has not changed is not told at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

EPOCH_S: Final = 946_684_800  # 2000-01-01, from which PostgreSQL counts
XIDS: Final = 1 << 32
FULL: Final = "f"

Values = Mapping[str, str | None]


class Column(msgspec.Struct, frozen=True):
    """A column of a table: its name, the number of its type, and whether it is part of the replica identity."""

    name: str
    type: int
    identity: bool


class Relation(msgspec.Struct, frozen=True):
    """A table, as it was when the changes that follow were made."""

    number: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[Column, ...]


class Begin(msgspec.Struct, frozen=True):
    """The begin of a transaction: where its commit lies, when that was, and its 32-bit number."""

    commit_lsn: int
    at_s: float
    xid: int


class Commit(msgspec.Struct, frozen=True):
    """The end of a transaction: the position after its commit."""

    end_lsn: int


class Change(msgspec.Struct, frozen=True):
    """The change of a row: what it was, as far as that was told, and what it is; None where it is no more."""

    relation: Relation
    old: Values | None
    new: Values | None


class Truncate(msgspec.Struct, frozen=True):
    """All rows of some tables are gone."""

    relations: tuple[Relation, ...]


class MessageError(ValueError):
    """Bytes that are no message of this protocol."""


Message = Begin | Commit | Relation | Change | Truncate


class Decoder:
    """Reads the messages of one reading, in their order: tables are told before the changes of their rows."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}

    def read(self, data: bytes) -> Message | None:
        """Read a message; None for one that changes nothing.

        Raises:
            MessageError: It is none.
        """
        try:
            return self._read(_Bytes(data))
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            raise MessageError(f"no message of pgoutput: {data[:40].hex()}") from error

    def _read(self, source: _Bytes) -> Message | None:
        kind = source.char()
        if kind == "B":
            return Begin(source.integer(8), source.integer(8) / 1e6 + EPOCH_S, source.integer(4))
        if kind == "C":
            source.integer(1 + 8)
            return Commit(source.integer(8))
        if kind == "R":
            return self._relation(source)
        if kind in "IUD":
            return self._change(source)
        if kind == "T":
            count = source.integer(4)
            source.integer(1)
            return Truncate(tuple(self._relations[source.integer(4)] for _ in range(count)))
        if kind in "OYM":
            return None
        raise MessageError(f"a message of pgoutput of the unknown kind {kind!r}")

    def _relation(self, source: _Bytes) -> Relation:
        number, schema, name = source.integer(4), source.text(), source.text()
        identity = source.char()
        columns = []
        for _ in range(source.integer(2)):
            flags, column, type_ = source.integer(1), source.text(), source.integer(4)
            source.integer(4)
            columns.append(Column(column, type_, bool(flags & 1)))
        relation = Relation(number, schema or "pg_catalog", name, identity, tuple(columns))
        self._relations[number] = relation
        return relation

    def _change(self, source: _Bytes) -> Change:
        relation = self._relations[source.integer(4)]
        old: Values | None = None
        new: Values | None = None
        while source.left():
            image = source.char()
            if image == "N":
                new = source.values(relation)
            elif image == "K":  # the other columns are told as null, which they are not
                told = source.values(relation)
                old = {column.name: told[column.name] for column in relation.columns if column.identity}
            elif image == "O":
                old = source.values(relation)
            else:
                raise MessageError(f"an image of a row of the unknown kind {image!r}")
        if old is not None and new is not None and relation.replica_identity == FULL:
            new = {**old, **new}  # what was not told anew has not changed
        return Change(relation, old, new)


class _Bytes:
    """A message, read from its begin to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> bool:
        return self._at < len(self._data)

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise IndexError(count)
        self._at += count
        return taken

    def char(self) -> str:
        return chr(self._take(1)[0])

    def integer(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise IndexError(self._at)
        taken = self._take(end - self._at).decode()
        self._at += 1
        return taken

    def values(self, relation: Relation) -> dict[str, str | None]:
        values: dict[str, str | None] = {}
        for place in range(self.integer(2)):
            kind, column = self.char(), relation.columns[place]
            if kind == "n":
                values[column.name] = None
            elif kind == "t":
                values[column.name] = self._take(self.integer(4)).decode()
            elif kind != "u":
                raise MessageError(f"a value of the unknown kind {kind!r}")
        return values


class Snapshot(msgspec.Struct, frozen=True):
    """What a fresh read sees, as `pg_current_snapshot()` tells it.

    Attributes:
        xmin: All transactions below are over.
        xmax: None from here on are.
        open: Those between that are not.
    """

    xmin: int
    xmax: int
    open: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read its text, `xmin:xmax:xip,xip`."""
        xmin, xmax, among = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, among.split(",")))))

    def sees(self, xid: int) -> bool:
        """Say whether a transaction that has committed is visible.

        Args:
            xid: Its number of 32 bits. Those that can be told lie within 2**31 of the newest, above or below: a commit
                that waits for a standby may be newer than all that are over.
        """
        half = XIDS // 2
        whole = self.xmax + (xid - self.xmax + half) % XIDS - half
        return whole < self.xmin or (whole < self.xmax and whole not in self.open)


def lsn_of(text: str) -> int:
    """Read a position, `16/B374D848`."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(lsn: int) -> str:
    """Write a position."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
