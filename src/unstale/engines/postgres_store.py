"""The store of the PostgreSQL engine, step by step: entries, locks, and the marks of a log that is another engine's."""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping
from typing import Final, NamedTuple, TypeAlias, TypeVar

from unstale.core.marks import NEVER, Mark, Severity, full, merged
from unstale.core.ops import Fetched, Identity, Item, MarksReply
from unstale.engines.memory import ENTRIES_MAX
from unstale.engines.postgres_wire import Param, Row, Statement, array, number, numbers
from unstale.errors import BusyError

T = TypeVar("T")
TRIES: Final = 100  # of a compare-and-set
SWEEP_EVERY: Final = 64  # items written
SWEEP_ROWS: Final = 512
DOUBLE: Final = struct.Struct(">d").unpack
TRUE: Final = b"\x01"


class Ask(NamedTuple):
    """A statement that goes to the server.

    Attributes:
        statement: The statement.
        params: What it is given.
        proof: Its first column says whether the cache is there, and is still the one that its row names.
    """

    statement: Statement
    params: tuple[Param, ...]
    proof: bool = True


Steps: TypeAlias = Generator[Ask, list[Row], T]

FETCH: Final = """SELECT e.key, e.data, extract(epoch FROM e.until - clock_timestamp())::float8
  FROM {s}.entry e WHERE e.cache = (SELECT id FROM {s}.cache WHERE name = $1) AND e.key = ANY($2::bytea[])
  AND e.until > clock_timestamp()"""
# An entry is nothing that must survive: its writer does not wait for the disk. In one order, so that of two writers of
# several entries none waits for the other.
STORE: Final = """WITH c AS (SELECT id, set_config('synchronous_commit', 'off', true) FROM {s}.cache WHERE name = $1),
  put AS (INSERT INTO {s}.entry (cache, key, until, data)
    SELECT c.id, i.key, clock_timestamp() + i.ttl * interval '1 second', i.data
    FROM c, unnest($2::bytea[], $3::bytea[], $4::float8[]) i (key, data, ttl) ORDER BY i.key
    ON CONFLICT (cache, key) DO UPDATE SET until = excluded.until, data = excluded.data)
  SELECT true FROM c"""
DELETE: Final = """DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.entry
  WHERE cache = (SELECT id FROM {s}.cache WHERE name = $1 AND set_config('synchronous_commit', 'off', true) = 'off')
  AND key = ANY($2::bytea[]) ORDER BY key FOR UPDATE))"""
# The number of all entries is autovacuum's estimate: a count of ours would be a row for which all writers queue.
SWEEP: Final = """WITH locks AS (DELETE FROM {s}.lock WHERE until < clock_timestamp() - interval '1 minute'),
  crowd AS (SELECT CASE WHEN set_config('synchronous_commit', 'off', true) = 'off' THEN reltuples > $2::float8 END
    AS yes FROM pg_class WHERE oid = '{s}.entry'::regclass)
  DELETE FROM {s}.entry WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.entry
    WHERE until <= CASE WHEN (SELECT yes FROM crowd) THEN 'infinity' ELSE clock_timestamp() END ORDER BY until
    LIMIT CASE WHEN (SELECT yes FROM crowd) THEN $1::bigint ELSE {rows} + $1 END FOR UPDATE SKIP LOCKED))"""
# A lock that was given back leaves its row for a while, so that the next token is drawn when that row is held.
LOCK: Final = """WITH c AS (SELECT id, set_config('synchronous_commit', 'off', true) FROM {s}.cache WHERE name = $1),
  put AS (INSERT INTO {s}.lock AS l (cache, key, token, until)
    SELECT c.id, $2::bytea, nextval('{s}.token'), clock_timestamp() + $3::float8 * interval '1 second' FROM c
    WHERE NOT EXISTS (SELECT FROM {s}.lock h WHERE h.cache = c.id AND h.key = $2 AND h.until > clock_timestamp())
    ON CONFLICT (cache, key) DO UPDATE SET token = nextval('{s}.token'), until = excluded.until
      WHERE l.until <= clock_timestamp() RETURNING token)
  SELECT true, (SELECT token FROM put) FROM c"""
UNLOCK: Final = """UPDATE {s}.lock SET until = '-infinity' WHERE cache = (SELECT id FROM {s}.cache WHERE name = $1)
  AND key = $2 AND token = $3::bigint"""
# A server with a synchronous standby writes before it answers: then it was not deposed after it was asked (H11).
MARKS: Final = """SELECT c.place = {s}.place_1() AND c.xmin = c.by::xid, c.generation, c.head, c.head_id,
    current_setting('synchronous_standby_names') <> '', c.marks_from, c.covered, c.covered_from, c.covered_upto,
    c.by::text, CASE WHEN current_setting('synchronous_standby_names') <> ''
      THEN pg_logical_emit_message(true, 'unstale', '') END,
    m.scope, m.hl, m.hp, m.hv, m.ht, m.sl, m.sp, m.sv, m.st
  FROM {s}.cache c LEFT JOIN {s}.mark m ON m.cache = c.id AND m.scope = ANY($2::bytea[]) WHERE c.name = $1"""
# Compare and set: nothing is written unless the row is still the one that was read. $2: who wrote that.
EXTEND: Final = """WITH c AS (UPDATE {s}.cache SET covered = $3, covered_from = $4::bigint, covered_upto = $5::bigint,
    marks_from = CASE WHEN covered = $3 THEN marks_from ELSE 1 END, by = pg_current_xact_id()
    WHERE name = $1 AND by = $2::xid8 RETURNING id),
  old AS (DELETE FROM {s}.mark WHERE $6::boolean AND cache = (SELECT id FROM c) AND scope <> ALL($7::bytea[])),
  put AS (INSERT INTO {s}.mark (cache, scope, expires, hl, hp, hv, ht, sl, sp, sv, st)
    SELECT c.id, m.scope, ceil(extract(epoch FROM clock_timestamp()) + 2 * $8::float8), m.hl, m.hp, m.hv, m.ht, m.sl,
      m.sp, m.sv, m.st
    FROM c, unnest($7::bytea[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[], $13::bigint[], $14::bigint[],
      $15::bigint[], $16::bytea[]) m (scope, hl, hp, hv, ht, sl, sp, sv, st)
    ON CONFLICT (cache, scope) DO UPDATE SET expires = excluded.expires, hl = excluded.hl, hp = excluded.hp,
      hv = excluded.hv, ht = excluded.ht, sl = excluded.sl, sp = excluded.sp, sv = excluded.sv, st = excluded.st)
  SELECT true FROM c"""


class StoreSteps:
    """What the methods of the store's port do.

    Args:
        schema: Of the tables.
        name: Of the cache.
        max_ttl_s: No entry lives longer, in seconds.
        entries_max: Of all caches of the schema, about so many entries.
    """

    def __init__(self, schema: str, name: str, max_ttl_s: float, entries_max: int = ENTRIES_MAX) -> None:
        quoted = f'"{schema}"'
        self._name = name.encode()
        self._max_ttl_s = max_ttl_s
        self._entries_max = entries_max
        self._written = 0
        self._fetch, self._store, self._delete, self._sweep, self._lock, self._unlock, self._marks, self._extend = (
            Statement(name, sql.format(s=quoted, rows=SWEEP_ROWS))
            for name, sql in (
                ("fetch", FETCH), ("store", STORE), ("delete", DELETE), ("sweep", SWEEP), ("lock", LOCK),
                ("unlock", UNLOCK), ("marks", MARKS), ("extend", EXTEND),
            )
        )  # fmt: skip

    def fetch(self, keys: tuple[str, ...]) -> Steps[tuple[Fetched | None, ...]]:
        """Fetch. Whether the cache is still the same is told by the stamps in the entries."""
        if not keys:
            return ()
        names = [key.encode() for key in keys]
        rows = yield Ask(self._fetch, (self._name, array(names)), proof=False)
        found = {key: Fetched(data or b"", DOUBLE(left or b"")[0]) for key, data, left in rows}
        return tuple(found.get(name) for name in names)

    def store(self, items: tuple[Item, ...]) -> Steps[None]:
        """Put items, and sweep now and then."""
        newest = {item.key.encode(): item for item in items}
        if newest:
            lives = numbers(min(item.ttl_s, self._max_ttl_s) for item in newest.values())
            datas = array(item.data for item in newest.values())
            yield Ask(self._store, (self._name, array(newest), datas, lives))
        self._written += len(newest)
        if self._written >= SWEEP_EVERY:
            written, self._written = self._written, 0
            yield Ask(self._sweep, (2 * written, self._entries_max), proof=False)

    def delete(self, keys: tuple[str, ...]) -> Steps[None]:
        """Drop items."""
        if keys:
            names = array(dict.fromkeys(key.encode() for key in keys))
            yield Ask(self._delete, (self._name, names), proof=False)

    def lock(self, key: str, ttl_s: float) -> Steps[int | None]:
        """Take a lock."""
        ((_there, token),) = yield Ask(self._lock, (self._name, key.encode(), ttl_s))
        return None if token is None else number(token)

    def unlock(self, key: str, token: int) -> Steps[None]:
        """Give a lock back."""
        yield Ask(self._unlock, (self._name, key.encode(), token), proof=False)

    def read_marks(self, scopes: tuple[str, ...]) -> Steps[MarksReply]:
        """Read marks with the identity of their log: ours, or the foreign one that extended them."""
        reply, _by = yield from self._read(scopes)
        return reply

    def _read(self, scopes: tuple[str, ...]) -> Steps[tuple[MarksReply, str]]:
        names = array(dict.fromkeys(scope.encode() for scope in scopes))
        rows = yield Ask(self._marks, (self._name, names))
        _ours, generation, head, head_id, pulsed, start, covered, first, last, by, _beat, *_mark = rows[0]
        marks = {row[11].decode(): _mark_of(row[12:]) for row in rows if row[11] is not None}
        if covered is None:
            identity = Identity(text(generation), number(head), text(head_id), pulsed=pulsed == TRUE)
            return MarksReply(identity, marks, number(start), identity.head), text(by)
        foreign = Identity(text(covered), number(last), "", proven=False)
        return MarksReply(foreign, marks, max(number(first), number(start)), number(last)), text(by)

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> Steps[None]:
        """Compare and set: what is there is read and merged here, and written if nobody else has written meanwhile."""
        for _ in range(TRIES):
            reply, by = yield from self._read(tuple(marks))
            known = reply.identity.generation == generation and not reply.identity.proven
            first, last = reply.start, reply.upto
            both = {scope: merged(reply.marks.get(scope) if known else None, mark) for scope, mark in marks.items()}
            if not known or start > last + 1:
                first, last = start, upto
            elif upto >= first - 1:
                first, last = min(start, first), max(upto, last)
            written = yield Ask(
                self._extend,
                (self._name, by, generation.encode(), first, last, not known, array(scope.encode() for scope in both),
                 self._max_ttl_s, *_columns([full(mark) for mark in both.values()])),
                proof=False,
            )  # fmt: skip
            if written:
                return
        raise BusyError("others write the marks of this cache all the time", hint="the next poll tries again")


def text(data: bytes | None) -> str:
    """Read a text."""
    return (data or b"").decode()


def _mark_of(row: Row) -> int | Mark:
    hl, hp, hv, ht, sl, sp, sv, st = row
    if hv is None and not number(sl) and hl == hp:
        return number(hl)
    return Mark(_severity(hl, hp, hv, ht), _severity(sl, sp, sv, st))


def _severity(last: bytes | None, plain: bytes | None, version: bytes | None, timeline: bytes | None) -> Severity:
    if not number(last):
        return NEVER
    return Severity(number(last), number(plain), None if version is None else number(version), text(timeline))


def _columns(marks: list[Mark]) -> tuple[Param, ...]:
    columns: list[Param] = []
    for severities in ([mark.hard for mark in marks], [mark.soft for mark in marks]):
        columns += (
            numbers(one.last for one in severities), numbers(one.plain for one in severities),
            numbers(one.version for one in severities), array(one.timeline.encode() for one in severities),
        )  # fmt: skip
    return tuple(columns)
