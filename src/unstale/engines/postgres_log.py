"""The log of the PostgreSQL engine, step by step: records, the members that follow it, and looking at them.

No clock of the server decides about members: each node judges by its own clock for how long another has said the same
(H22), as on Redis.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from unstale.core.ops import Appended, Batch, Identity, Member, Members
from unstale.core.record import Logged, Record, decode_record, encode_record
from unstale.engines.memory import MEMBER_LIFE
from unstale.engines.postgres_schema import channel
from unstale.engines.postgres_store import TRUE, Ask, Steps, text
from unstale.engines.postgres_wire import Row, Statement, array, items, number, numbers

SWEEP_S: Final = 30.0  # so often a node looks for members that have died
DOUBLE: Final = struct.Struct(">d").unpack

OURS: Final = """c.place = {s}.place_1() AND c.xmin = c.by::xid, c.generation, c.head, c.head_id,
    current_setting('synchronous_standby_names') <> ''"""
ADOPT: Final = "SELECT generation FROM {s}.identify_1($1, $2, $3)"
APPEND: Final = """SELECT true, a.* FROM {s}.append_1($1, $2, $3, $4, $5, $6, $7::bytea[], $8::bytea[], $9::boolean[],
    $10::bigint[], $11::bytea[], $12::int[], $13::bytea[]) a"""
RENEW: Final = "SELECT true WHERE {s}.renew_1($1, $2, $3, $4, $5, $6, $7, $8, $9)"
# One statement, and so one snapshot: the head, the records, and whether the member is on the list (H36).
POLL: Final = """SELECT {ours}, i.id, m.beat, l.position, l.prev, l.id, l.data
  FROM {s}.cache c LEFT JOIN {s}.list i ON i.cache = c.id LEFT JOIN {s}.member m ON m.cache = c.id AND m.node = $2
  LEFT JOIN LATERAL (SELECT * FROM {s}.log l WHERE l.cache = c.id AND l.position > $3::bigint
    ORDER BY l.position LIMIT $4::bigint) l ON true
  WHERE c.name = $1 ORDER BY l.position"""
# With a synchronous standby, a write that it acknowledges goes before the answer (H11); see `postgres_store.MARKS`.
HEAD: Final = """SELECT {ours}, CASE WHEN current_setting('synchronous_standby_names') <> ''
  THEN pg_logical_emit_message(true, 'unstale', '') END FROM {s}.cache c WHERE c.name = $1"""
MEMBERS: Final = """SELECT {ours}, c.bound, i.id, m.node, m.beat, m.generation, m.applied, m.bound
  FROM {s}.cache c LEFT JOIN {s}.list i ON i.cache = c.id LEFT JOIN {s}.member m ON m.cache = c.id
  WHERE c.name = $1"""
ABOUT: Final = """SELECT node, about FROM {s}.member WHERE cache = (SELECT id FROM {s}.cache WHERE name = $1)
  AND node = ANY($2::bytea[])"""
FORGET: Final = """DELETE FROM {s}.member WHERE cache = (SELECT id FROM {s}.cache WHERE name = $1) AND node = $2
  AND ($3::bytea IS NULL OR beat = $3)"""


class Told(NamedTuple):
    """What a member told last through this engine, and when, on our own clock."""

    beat: bytes
    at: float
    member: Member


class LogSteps:
    """What the methods of the log's port do, and what they learn from the answers.

    Args:
        schema: Of the tables.
        name: Of the cache.
        records_max: The log is trimmed to about so many records.
        marks_max: At most about so many marks.
        max_ttl_s: No entry lives longer, in seconds.
        clock: Elapsed time of this node, in seconds.
        new_id: Source of unique ids.
    """

    def __init__(  # noqa: PLR0917 - what the engine was made with
        self,
        schema: str,
        name: str,
        records_max: int,
        marks_max: int,
        max_ttl_s: float,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        quoted = f'"{schema}"'
        self.channel = channel(schema, name)
        self._name = name.encode()
        self._limits = (records_max, marks_max)
        self._max_ttl_s = max_ttl_s
        self._clock = clock
        self._new_id = new_id
        self._told: dict[str, Told] = {}
        self._seen: dict[bytes, tuple[bytes, float]] = {}  # members: the beat of each, and since when
        self._list: tuple[bytes | None, float] = (b"", clock())  # the member list: its id, and since when it is known
        self._swept = clock()
        self._adopt, self._append, self._renew, self._poll, self._head, self._members, self._about, self._forget = (
            Statement(name, sql.format(s=quoted, ours=OURS.format(s=quoted)))
            for name, sql in (
                ("adopt", ADOPT), ("append", APPEND), ("renew", RENEW), ("poll", POLL), ("head", HEAD),
                ("members", MEMBERS), ("about", ABOUT), ("forget", FORGET),
            )
        )  # fmt: skip

    def adopt(self) -> Ask:
        """Give what finds our cache, or begins its first generation, or another one where it has to."""
        return Ask(self._adopt, (self._name, self._new_id().encode(), self._max_ttl_s), proof=False)

    def append(self, records: tuple[Record, ...]) -> Steps[Appended]:
        """Append records and raise the marks of their scopes, in one call of one function."""
        scopes = [tuple(dict.fromkeys(record.scopes)) for record in records]
        versions = [record.version for record in records]
        (row,) = yield Ask(
            self._append,
            (
                self._name, self._new_id().encode(), self._max_ttl_s, *self._limits, self.channel,
                array(record.id.encode() for record in records), array(map(encode_record, records)),
                "{" + ",".join("t" if record.soft else "f" for record in records) + "}",
                numbers(version.value if version else None for version in versions),
                array(version.timeline.encode() if version else b"" for version in versions),
                numbers(map(len, scopes)), array(scope.encode() for names in scopes for scope in names),
            ),
        )  # fmt: skip
        _ours, generation, head, head_id, pulsed, positions, prevs = row
        logged = tuple(
            Logged(number(position), text(prev), record)
            for record, position, prev in zip(records, items(positions), items(prevs), strict=True)
        )
        return Appended(Identity(text(generation), number(head), text(head_id), pulsed=pulsed == TRUE), logged)

    def poll(self, member: Member, position: int, limit: int) -> Steps[Batch]:
        """Ask for what there is, from one snapshot with the head and the member's place on the list.

        Membership is written first where that is due. 1. we are on the list, and ask for the head 2. the server crashes
        or is emptied, and the list is another one 3. the answer comes from there: we are not on it, so it
        proves nothing, and we are put on the list before it is asked again (H36).
        """
        while True:
            told = self._told.get(member.node)
            if told is None or self._due(told, member):
                yield from self._tell(member)
            rows = yield Ask(self._poll, (self._name, member.node.encode(), position, max(limit, 1)))
            list_id, beat = rows[0][5:7]
            if beat is not None:
                break
            self._told.pop(member.node, None)
        if self._list[0] != list_id:
            self._list = (list_id, self._clock())
        identity = _identity(rows[0])
        records = tuple(_logged(row[7:]) for row in rows if row[7] is not None)
        at_id: str | None = None
        if position == identity.head:
            at_id = identity.head_id
        elif records and records[0].position == position + 1:
            at_id = records[0].prev
        if self._clock() - self._swept > SWEEP_S:
            self._swept = self._clock()
            yield from self.read_members()
        return Batch(identity, at_id, records[:limit])

    def after(self, position: int, limit: int) -> Steps[Batch]:
        """Read records after a position, without becoming a member."""
        rows = yield Ask(self._poll, (self._name, b"", position, limit))
        return Batch(_identity(rows[0]), None, tuple(_logged(row[7:]) for row in rows if row[7] is not None))

    def _due(self, told: Told, member: Member) -> bool:
        """Say whether a member must be written: as seldom as its life, and those who wait for it, allow."""
        before, age_s, bound_s = told.member, self._clock() - told.at, member.max_staleness_s
        if (before.generation, before.max_staleness_s, before.about) != (member.generation, bound_s, member.about):
            return True
        if before.applied != member.applied and (member.urgent or age_s > bound_s / 4):
            return True
        return age_s > MEMBER_LIFE * bound_s / 2

    def _tell(self, member: Member) -> Steps[None]:
        told = Told(self._new_id().encode(), self._clock(), member)
        yield Ask(
            self._renew,
            (
                self._name, self._new_id().encode(), self._max_ttl_s, member.node.encode(), told.beat,
                member.generation.encode(), member.applied, member.max_staleness_s, member.about,
            ),
        )  # fmt: skip
        self._told[member.node] = told

    def read_head(self) -> Steps[Identity]:
        """Tell the head."""
        (row,) = yield Ask(self._head, (self._name,))
        return _identity(row)

    def read_members(self) -> Steps[Members]:
        """Read the member list; who has said nothing for long, on this node's clock, is taken off it."""
        rows = yield Ask(self._members, (self._name,))
        now, list_id = self._clock(), rows[0][6]
        if self._list[0] != list_id:
            self._list = (list_id, now)
        seen: dict[bytes, tuple[bytes, float]] = {}
        members: list[Member] = []
        for _o, _g, _h, _i, _p, _bound, _list, node, beat, generation, applied, bound in rows:
            if node is None or beat is None:
                continue
            bound_s = DOUBLE(bound or b"")[0]
            before = self._seen.get(node)
            seen[node] = before if before is not None and before[0] == beat else (beat, now)
            if now - seen[node][1] > MEMBER_LIFE * bound_s:
                yield Ask(self._forget, (self._name, node, beat), proof=False)
                continue
            members.append(Member(node.decode(), text(generation), number(applied), bound_s))
        self._seen = seen
        return Members(_identity(rows[0]), tuple(members), now - self._list[1], DOUBLE(rows[0][5] or b"")[0])

    def read_about(self, nodes: tuple[str, ...]) -> Steps[tuple[bytes, ...]]:
        """Read what members tell about themselves."""
        if not nodes:
            return ()
        names = [node.encode() for node in nodes]
        rows = yield Ask(self._about, (self._name, array(dict.fromkeys(names))), proof=False)
        found = {node: about or b"" for node, about in rows}
        return tuple(found.get(name, b"") for name in names)

    def leave(self, node: str) -> Steps[None]:
        """Take a node off the list."""
        self._told.pop(node, None)
        yield Ask(self._forget, (self._name, node.encode(), None), proof=False)

    def forget(self) -> None:
        """Forget what was told: a forked child is no member yet."""
        self._told.clear()


def _identity(row: Row) -> Identity:
    """Read who answered: the second to fifth column."""
    return Identity(text(row[1]), number(row[2]), text(row[3]), pulsed=row[4] == TRUE)


def _logged(row: Row) -> Logged:
    position, prev, record_id, data = row
    name = text(record_id)
    return Logged(number(position), text(prev), decode_record(data or b"", name))
