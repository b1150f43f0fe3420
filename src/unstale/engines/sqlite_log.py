"""The log, the members and the marks of the SQLite engine, as rows: what each call does within its one transaction.

Nothing here knows of files, threads or retries. Each function gets a connection and the number of the cache.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from unstale.core.marks import Mark, full, merged, raised
from unstale.core.ops import Appended, Batch, Identity, MarksReply, Member, Members
from unstale.core.record import Logged, Record, decode_record, encode_record
from unstale.engines.memory import MEMBER_LIFE
from unstale.engines.sqlite_schema import FRESH_START
from unstale.errors import CorruptError

CHUNK = 512
MARK_STEPS = 1024
SWEEP_ROWS = 64  # rows of each kind that one write removes beyond what it adds

HEAD = """SELECT generation, head, head_id, trimmed, max_ttl, since, bound, marks, marks_from, covered, covered_from,
    covered_upto FROM cache WHERE id = ?"""
ADD = "INSERT INTO log VALUES (?, ?, ?, ?, ?) ON CONFLICT (cache, id) DO NOTHING"
KNOWN = "SELECT position, prev, id, data FROM log WHERE cache = ? AND id = ?"
AFTER = "SELECT position, prev, id, data FROM log WHERE cache = ? AND position > ? ORDER BY position LIMIT ?"
RAISE = "UPDATE mark SET mark = ? WHERE cache = ? AND scope = ?"
PUT = """INSERT INTO mark VALUES (?, ?, ?, ?)
    ON CONFLICT (cache, scope) DO UPDATE SET mark = excluded.mark, until = excluded.until"""
RENEW = """INSERT INTO member VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (cache, node) DO UPDATE SET
    generation = excluded.generation, applied = excluded.applied, bound = excluded.bound, until = excluded.until"""
DECLARE = "UPDATE cache SET bound = max(bound, ?), max_ttl = max(max_ttl, ?) WHERE id = ?"

_encode_mark = msgspec.msgpack.Encoder().encode
_decode_mark = msgspec.msgpack.Decoder(Mark).decode


class Limits(NamedTuple):
    """What one cache may hold; see `SQLiteEngine`."""

    records_max: int
    entries_max: int
    bytes_max: int
    marks_max: int
    max_ttl_s: float


class Reach(NamedTuple):
    """The positions of a foreign log that some marks cover."""

    generation: str
    start: int
    upto: int


class Head(NamedTuple):
    """The row of a cache, as far as most steps need it."""

    generation: str
    head: int
    head_id: str
    trimmed: int  # positions up to this one are forgotten
    max_ttl: float  # the longest that anybody declared: marks must outlive every entry (H35)
    since: float  # when the member list began
    bound: float  # the longest that any member declared
    marks: int
    marks_from: int  # marks are complete from this position on
    covered: str | None  # the generation of the foreign log that writes the marks
    covered_from: int
    covered_upto: int

    @property
    def identity(self) -> Identity:
        """The identity of the log; a file has one life, so nobody can be deposed."""
        return Identity(self.generation, self.head, self.head_id)


def read_head(db: sqlite3.Connection, cache: int) -> Head:
    """Read the row of a cache."""
    row = db.execute(HEAD, (cache,)).fetchone()
    if row is None:
        raise CorruptError("the row of this cache has vanished from its file", hint=FRESH_START)
    return Head(*row)


def chunks(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Cut names into lists for `IN`, padded to powers of two, so that few statements serve all lengths."""
    distinct = list(dict.fromkeys(names))
    for start in range(0, len(distinct), CHUNK):
        chunk = distinct[start : start + CHUNK]
        chunk += chunk[:1] * ((1 << (len(chunk) - 1).bit_length()) - len(chunk))
        yield ",".join("?" * len(chunk)), chunk


# The log ----------------------------------------------------------------------------------------------------------


def append(db: sqlite3.Connection, cache: int, records: tuple[Record, ...], now: float, limits: Limits) -> Appended:
    """Append records at dense positions, and raise the marks of their scopes (H21: within a write transaction)."""
    row = read_head(db, cache)
    head, head_id = row.head, row.head_id
    answer: list[Logged] = []
    new: list[Logged] = []
    for record in records:
        one = Logged(head + 1, head_id, record)
        if db.execute(ADD, (cache, one.position, record.id, head_id, encode_record(record))).rowcount:
            head, head_id = one.position, record.id
            new.append(one)
        else:  # a repeated append
            one = _logged(db.execute(KNOWN, (cache, record.id)).fetchone())
        answer.append(one)
    if new:
        added = _raise_marks(db, cache, new, _marks_until(now, max(row.max_ttl, limits.max_ttl_s)))
        trimmed = max(row.trimmed, min(head - limits.records_max, row.trimmed + len(new) + SWEEP_ROWS))
        if trimmed > row.trimmed:
            db.execute("DELETE FROM log WHERE cache = ? AND position <= ?", (cache, trimmed))
        db.execute(
            "UPDATE cache SET head = ?, head_id = ?, trimmed = ?, marks = marks + ? WHERE id = ?",
            (head, head_id, trimmed, added, cache),
        )
        surplus = row.marks + added - limits.marks_max
        if surplus > 0:
            _forget_marks(db, cache, min(surplus, added + SWEEP_ROWS))
    return Appended(Identity(row.generation, head, head_id), tuple(answer))


def _logged(row: tuple[int, str, str, bytes]) -> Logged:
    position, prev, record_id, data = row
    return Logged(position, prev, decode_record(data, record_id))


def poll(
    db: sqlite3.Connection, cache: int, member: Member, position: int, limit: int, *, now: float, max_ttl_s: float
) -> tuple[Batch, bool]:
    """Give records after a position, and whether the membership must be written first, all from one snapshot.

    Looking for the member's row in the snapshot that the head comes from is what makes a lost list known (H36): a node
    that is on it with half of its life left will be on it for as long as the lease that this answer proves.
    """
    db.execute("BEGIN")
    row = read_head(db, cache)
    listed = db.execute(
        "SELECT generation, applied, bound, until FROM member WHERE cache = ? AND node = ?", (cache, member.node)
    ).fetchone()
    found = db.execute(AFTER, (cache, position, max(limit, 1))).fetchall()
    db.execute("COMMIT")
    at_id: str | None = None
    if position == row.head:
        at_id = row.head_id
    elif found and found[0][0] == position + 1:
        at_id = found[0][1]
    batch = Batch(row.identity, at_id, tuple(map(_logged, found[:limit])))
    return batch, row.max_ttl < max_ttl_s or _outdated(listed, member, now)


def _outdated(listed: tuple[str, int, float, float] | None, member: Member, now: float) -> bool:
    """Say whether a member must be written: as seldom as its life, and those who wait for it, allow."""
    if listed is None:
        return True
    generation, applied, bound_s, until = listed
    if generation != member.generation or bound_s != member.max_staleness_s:
        return True
    life_s, left_s = MEMBER_LIFE * bound_s, until - now
    if applied != member.applied and (member.urgent or left_s < life_s - bound_s / 4):
        return True
    return left_s < life_s / 2


def renew(db: sqlite3.Connection, cache: int, member: Member, *, now: float, max_ttl_s: float) -> None:
    """Put a member on the list, or keep it there; take off who has not been heard of."""
    bound_s = member.max_staleness_s
    db.execute(RENEW, (cache, member.node, member.generation, member.applied, bound_s, now + MEMBER_LIFE * bound_s))
    db.execute("DELETE FROM member WHERE cache = ? AND until <= ?", (cache, now))
    db.execute(DECLARE, (bound_s, max_ttl_s, cache))


def read_members(db: sqlite3.Connection, cache: int, now: float) -> Members:
    """Give the members that may still hold a lease."""
    db.execute("BEGIN")
    row = read_head(db, cache)
    rows = db.execute(
        "SELECT node, generation, applied, bound FROM member WHERE cache = ? AND until > ?", (cache, now)
    ).fetchall()
    db.execute("COMMIT")
    return Members(row.identity, tuple(Member(*one) for one in rows), now - row.since, row.bound)


def leave(db: sqlite3.Connection, cache: int, node: str) -> None:
    """Take a node off the list."""
    db.execute("DELETE FROM member WHERE cache = ? AND node = ?", (cache, node))


# Marks ------------------------------------------------------------------------------------------------------------


def _stored_marks(
    db: sqlite3.Connection, cache: int, scopes: Iterable[str], unreadable: int, now: float = float("-inf")
) -> dict[str, tuple[int | Mark, float]]:
    """Read marks and when they expire; a damaged one counts as a hard invalidation at the position `unreadable`."""
    marks: dict[str, tuple[int | Mark, float]] = {}
    for places, chunk in chunks(scopes):
        sql = f"SELECT scope, mark, until FROM mark WHERE cache = ? AND scope IN ({places}) AND +until > ?"  # noqa: S608
        for scope, mark, until in db.execute(sql, (cache, *chunk, now)):
            try:
                marks[scope] = (mark if isinstance(mark, int) else _decode_mark(mark)), until
            except (msgspec.MsgspecError, TypeError):
                marks[scope] = unreadable, until
    return marks


def _put_marks(
    db: sqlite3.Connection,
    cache: int,
    marks: Mapping[str, int | Mark],
    old: Mapping[str, tuple[int | Mark, float]],
    until: float,
) -> None:
    for scope, mark in marks.items():
        wire = mark if isinstance(mark, int) else _encode_mark(mark)
        if scope in old and old[scope][1] == until:
            db.execute(RAISE, (wire, cache, scope))
        else:
            db.execute(PUT, (cache, scope, wire, until))


def _marks_until(now: float, max_ttl_s: float) -> float:
    """Give the moment at which a mark raised now expires, at least twice the longest life of an entry away (H35).

    Rounded up by a thousandth or two, so that raising a busy mark again leaves the index of these moments alone.
    """
    step_s = max_ttl_s / MARK_STEPS
    return (math.floor((now + 2 * max_ttl_s) / step_s) + 1) * step_s


def _raise_marks(db: sqlite3.Connection, cache: int, new: list[Logged], until: float) -> int:
    """Raise the marks of all scopes of new records; give the number of marks that were not there before."""
    old = _stored_marks(db, cache, [scope for one in new for scope in one.record.scopes], new[0].position)
    marks = {scope: mark for scope, (mark, _until) in old.items()}
    for one in new:
        for scope in one.record.scopes:
            marks[scope] = raised(marks.get(scope), one.position, one.record)
    _put_marks(db, cache, marks, old, until)
    return len(marks) - len(old)


def _forget_marks(db: sqlite3.Connection, cache: int, count: int) -> None:
    """Forget the marks that were raised longest ago: nothing is known of scopes before the last of them any more."""
    oldest = db.execute("SELECT scope FROM mark WHERE cache = ? ORDER BY until LIMIT ?", (cache, count))
    marks = _stored_marks(db, cache, [scope for (scope,) in oldest], read_head(db, cache).head)
    start = max(full(mark).last for mark, _until in marks.values()) + 1
    db.executemany("DELETE FROM mark WHERE cache = ? AND scope = ?", [(cache, scope) for scope in marks])
    db.execute(
        "UPDATE cache SET marks = marks - ?, marks_from = max(marks_from, ?) WHERE id = ?", (len(marks), start, cache)
    )


def read_marks(db: sqlite3.Connection, cache: int, scopes: tuple[str, ...], now: float) -> MarksReply:
    """Give marks with the identity of their log: ours, or the foreign one that extended them."""
    db.execute("BEGIN")
    row = read_head(db, cache)
    stored = _stored_marks(db, cache, scopes, row.head, now)
    db.execute("COMMIT")
    marks = {scope: mark for scope, (mark, _until) in stored.items()}
    if row.covered is None:
        return MarksReply(row.identity, marks, row.marks_from, row.head)
    foreign = Identity(row.covered, row.covered_upto, "", proven=False)
    return MarksReply(foreign, marks, max(row.covered_from, row.marks_from), row.covered_upto)


def extend_marks(
    db: sqlite3.Connection, cache: int, reach: Reach, marks: Mapping[str, int | Mark], *, now: float, limits: Limits
) -> None:
    """Merge the marks of a foreign log, and extend the range that they cover, or begin a new one."""
    row = read_head(db, cache)
    generation, start, upto = reach
    count, first, last = row.marks, row.covered_from, row.covered_upto
    if row.covered != generation:
        # Positions of another generation say nothing about this one's entries.
        db.execute("DELETE FROM mark WHERE cache = ?", (cache,))
        db.execute("UPDATE cache SET marks_from = 1 WHERE id = ?", (cache,))
        count, first, last = 0, start, upto
    elif start > last + 1:
        first, last = start, upto
    elif upto >= first - 1:
        first, last = min(start, first), max(upto, last)
    old = _stored_marks(db, cache, marks, upto)
    both = {scope: merged(old[scope][0] if scope in old else None, mark) for scope, mark in marks.items()}
    _put_marks(db, cache, both, old, _marks_until(now, max(row.max_ttl, limits.max_ttl_s)))
    count += len(both) - len(old)
    db.execute(
        "UPDATE cache SET covered = ?, covered_from = ?, covered_upto = ?, marks = ? WHERE id = ?",
        (generation, first, last, count, cache),
    )
    if count > limits.marks_max:
        _forget_marks(db, cache, min(count - limits.marks_max, len(both) + SWEEP_ROWS))
