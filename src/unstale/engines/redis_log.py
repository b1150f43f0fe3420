"""The log of the Redis engine, step by step: records, the members that follow it, and its marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from unstale.core.ops import Appended, Batch, Identity, MarksReply, Member, Members
from unstale.core.record import Logged, Record, Stamp, encode_record, read_record, unreadable
from unstale.engines import redis_scripts as scripts
from unstale.engines.memory import MEMBER_LIFE
from unstale.engines.redis_append_scripts import PUT
from unstale.engines.redis_appends import Appends
from unstale.engines.redis_calls import Call, Steps
from unstale.engines.redis_commands import Command
from unstale.engines.redis_lua import Script
from unstale.engines.redis_marks import decode_marks
from unstale.engines.redis_polls import NOWHERE, Told, decode_told, encode_told, led_to
from unstale.engines.redis_store import MS, Names, Put, script_call
from unstale.engines.redis_url import RedisUrl
from unstale.engines.seal import Seal
from unstale.errors import UnavailableError

WAIT_SHARE: Final = 0.5  # of the time for an answer, that replicas have to acknowledge
TICK_S: Final = 0.1  # an idle server sees only so often (hz 10) that a wait is over: a lease must not lapse by that
SWEEP_S: Final = 30.0  # so often a node looks for members that have died
ABOUT_S: Final = 3600.0  # what a member tells about itself lives so long, and is told again after half of that


class LogSteps:
    """What the methods of the log's port do, and what they learn from the answers.

    Args:
        url: Of the engine.
        names: The keys of the cache.
        records_max: The log is trimmed to about so many records.
        mark_ms: The life of a mark, in milliseconds.
        clock: Elapsed time of this node, in seconds.
        new_id: Source of unique ids.
        end_poll: Ends the poll of a node that is under way.
        seal: Signs records, if they are signed.
    """

    def __init__(  # noqa: PLR0917 - what the engine was made with
        self,
        url: RedisUrl,
        names: Names,
        records_max: int,
        mark_ms: int,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        end_poll: Callable[[str], None],
        seal: Seal | None = None,
    ) -> None:
        self._seal = seal
        self._url = url
        self._names = names
        self._records_max = records_max
        self._mark_ms = mark_ms
        self._clock = clock
        self._new_id = new_id
        self._end_poll = end_poll
        self._appends = Appends(names, records_max, mark_ms, new_id, self._encode)
        self._left: set[str] = set()  # their polls wait no more
        self._seen: dict[bytes, tuple[bytes, float]] = {}  # members: what each said last, and since when
        self._told: dict[str, tuple[bytes, float]] = {}  # what members told about themselves through us, and until when
        self._list: tuple[bytes, float] = (b"", 0.0)  # the member list: its id, and since when it is known
        self._swept = clock()
        self._replicas: int | None = None  # the most that the log was seen with
        self._at_head = NOWHERE

    def _on_log(self, script: Script, *args: bytes | str | int, keys: Iterable[bytes] = ()) -> Call:
        """Give the call of a script upon the log."""
        names = self._names
        return Call((script_call(script, (*names.all, *keys), self._new_id(), *args),), (names.log,))

    def _acknowledged(self, call: Call, quorum: int) -> Call:
        """Give a call upon the log with the question, in the same write, how many replicas have followed it."""
        wait = (b"WAIT", quorum, max(1, int(self._url.timeout_s * WAIT_SHARE * MS)))
        return Call((*call.commands, wait), (*call.keys, self._names.log), slow=True)

    def _quorum(self) -> Steps[int]:
        """Give how many replicas have to acknowledge: as the URL says, else one where there are any."""
        if self._url.quorum is not None:
            return self._url.quorum
        if self._replicas is None:
            ((_generation, _head, _head_id, self._replicas),) = yield self._on_log(scripts.HEAD, "")
        return 1 if self._replicas else 0

    def _identity(self, generation: bytes, head: int, head_id: bytes, *, proven: bool = True) -> Identity:
        """Give who answered. Where there are replicas, a deposed primary may answer polls as it always did (H11)."""
        quorum = self._url.quorum if self._url.quorum is not None else self._replicas
        return Identity(generation.decode(), head, head_id.decode(), proven, pulsed=bool(quorum))

    def append(self, records: tuple[Record, ...]) -> Steps[Appended]:
        """Append records by one script, or many by several of one write; acknowledged by the quorum if there is one."""
        quorum = 0 if self._replicas == 0 and not self._url.quorum else (yield from self._quorum())
        makes = self._appends.commands(records)
        call = Call(makes, [self._names.log] * len(makes))
        if quorum:
            *replies, acknowledged = yield self._acknowledged(call, quorum)
            self._check(acknowledged, quorum)
        else:
            replies = yield call
        generation, *_where, head, head_id = replies[-1]
        return Appended(self._identity(generation, head, head_id), self._appends.logged(records, replies))

    def put(self, record: Record, entries: Sequence[Put], after: Stamp) -> Steps[Appended | Identity]:
        """Append a record and put entries by one script, if the head is at `after`."""
        quorum = yield from self._quorum()
        marks = [self._names.mark + scope.encode() for scope in record.scopes]
        args: list[bytes | str | int] = [after.generation, after.position, record.id, self._encode(record), len(marks)]
        args += [part for _name, data, life_ms in entries for part in (data, life_ms)]
        keys = (*marks, *[name for name, _data, _life_ms in entries])
        call = self._on_log(PUT, self._records_max, self._mark_ms, *args, keys=keys)
        (generation, *where, head, head_id), *acknowledged = yield self._acknowledged(call, quorum) if quorum else call
        self._check(sum(acknowledged), quorum)
        identity = self._identity(generation, head, head_id)
        return Appended(identity, (Logged(where[0], where[1].decode(), record),)) if where else identity

    def _check(self, acknowledged: int, quorum: int) -> None:
        if acknowledged < quorum:
            hint = "look at its replicas: INFO replication; or write quorum=0 into the URL, and lose what it proves"
            told = f"{acknowledged} of {quorum} replicas of {self._url.place} have acknowledged what was appended"
            raise UnavailableError(told, hint=hint)

    def poll(self, member: Member, position: int, limit: int, wait_s: float) -> Steps[Batch]:
        """Ask for what there is, and if that is nothing, wait.

        Each time the membership is renewed and the identity told, in the same write and after the records: an empty
        answer alone proves nothing (H12). Who was at the head a moment ago waits at once, unless somebody waits to
        see what it has applied. Who would not wait at all is a reader or a writer that wants to catch up: those do not
        ask a server that is known to be out.
        """
        here = (member.node, member.generation, position)
        at, batch = self._at_head
        batch = batch if at == here else None
        wait_now = 0.0 if batch is None or member.urgent else wait_s
        while True:
            before = batch
            try:
                batch = yield from self._ask(member, position, limit, wait_now, through=wait_s > 0)
            except UnavailableError:
                self._at_head = NOWHERE  # another server may be the next to answer: ask it before waiting on it
                if before is None or member.node not in self._left:
                    raise
                return before
            self._at_head = led_to(member, position, batch)
            at_head = self._at_head[0] == here
            if at_head and wait_now < wait_s and member.node not in self._left:
                wait_now = wait_s
                continue
            missed = batch.at_id is None and not batch.records and batch.identity.head > position
            if not missed or (before is not None and before.identity == batch.identity):
                break
            wait_now = 0.0  # appended between the two commands: the next look finds it, or it was trimmed away
        if self._clock() - self._swept > SWEEP_S:
            self._swept = self._clock()
            yield from self.read_members()
        return batch

    def _ask(self, member: Member, position: int, limit: int, wait_s: float, *, through: bool) -> Steps[Batch]:
        names = self._names
        read: list[bytes | str | int] = [b"XREAD", b"COUNT", max(1, limit)]
        if wait_s:
            read += (b"BLOCK", max(1, int((wait_s - TICK_S) * MS)))
        read += (b"STREAMS", names.log, f"{position}-0")
        told = Told(self._new_id(), member.generation, member.applied, member.max_staleness_s)
        life_s = max(ABOUT_S, MEMBER_LIFE * member.max_staleness_s)
        due = self._due(member)
        renew = script_call(
            scripts.RENEW, (*names.all, self._about(member.node)) if due else names.all,
            self._new_id(), member.node, encode_told(told), int(member.max_staleness_s * MS), self._mark_ms // 2,
            *((member.about, int(life_s * MS)) if due else ()),
        )  # fmt: skip
        commands, keys = (tuple(read), renew), (names.log, names.log)
        replies = yield Call(commands, keys, wait_s, member.node, through=through)
        found, (generation, head, head_id, self._replicas, list_id, new) = replies
        if due:
            self._told[member.node] = (member.about, self._clock() + life_s / 2)
        elif new:  # the list was lost, or it had been taken off: what it told went with that, so the next poll tells it
            self._told.pop(member.node, None)
        if self._list[0] != list_id:
            self._list = (list_id, self._clock())
        identity = self._identity(generation, head, head_id)
        records = tuple([self._logged(*entry) for entry in found[0][1]]) if found else ()
        at_id: str | None = None
        if records and records[0].position == position + 1:
            at_id = records[0].prev
        elif not records and position == head:
            at_id = identity.head_id
        return Batch(identity, at_id, records[:limit])

    def _due(self, member: Member) -> bool:
        """Say whether a member has to tell about itself with this poll: it never did, it changed, or it grew old."""
        told, until = self._told.get(member.node, (b"", float("inf")))
        return told != member.about or self._clock() > until

    def _about(self, node: str) -> bytes:
        return self._names.about + node.encode()

    def _encode(self, record: Record) -> bytes:
        data = encode_record(record)
        return data if self._seal is None else self._seal.sign(f"record|{record.id}", data)

    def _logged(self, entry_id: bytes, fields: list[Any]) -> Logged:
        """Read one entry of the stream; one that is not ours names no predecessor, and so ends the chain."""
        position = int(entry_id[:-2] if entry_id.endswith(b"-0") else entry_id.partition(b"-")[0])
        try:
            _i, record_id, _p, prev, _d, data = fields
            name, before = record_id.decode(), prev.decode()
        except (ValueError, UnicodeDecodeError):
            return Logged(position, "?", unreadable("?"))
        if self._seal is not None:
            data = self._seal.open(f"record|{name}", data)
            if data is None:  # it has its place in the chain, and says nothing
                return Logged(position, before, Record(name, (), why="no valid signature"))
        return Logged(position, before, read_record(data, name) or unreadable(name))

    def read_head(self) -> Steps[Identity]:
        """Tell the head: with a quorum, by a write that it acknowledges."""
        quorum = yield from self._quorum()
        if not quorum:
            ((generation, head, head_id, self._replicas),) = yield self._on_log(scripts.HEAD, "")
            return self._identity(generation, head, head_id)
        call = self._acknowledged(self._on_log(scripts.HEAD, "proof"), quorum)
        (generation, head, head_id, self._replicas), acknowledged = yield call
        return self._identity(generation, head, head_id, proven=acknowledged >= quorum)

    def read_members(self) -> Steps[Members]:
        """Read the member list; who has said nothing for long, on this node's clock, is taken off it."""
        ((generation, head, head_id, bound_ms, flat),) = yield self._on_log(scripts.MEMBERS)
        listed = dict(zip(flat[::2], flat[1::2], strict=True))
        list_id, now = listed.pop(b"list"), self._clock()
        if self._list[0] != list_id:
            self._list = (list_id, now)
        seen: dict[bytes, tuple[bytes, float]] = {}
        members: list[Member] = []
        dead: list[Command] = []
        for field, data in listed.items():
            told = decode_told(data)
            before = self._seen.get(field)
            seen[field] = before if before is not None and before[0] == data else (data, now)
            if told is None or now - seen[field][1] > MEMBER_LIFE * told.bound_s:
                about = self._names.about + field[1:]
                dead.append(script_call(scripts.FORGET, (self._names.members, about), field, data))
                continue
            members.append(Member(field[1:].decode(), told.generation, told.applied, told.bound_s))
        self._seen = seen
        if dead:
            yield Call(dead, [self._names.members] * len(dead))
        identity = self._identity(generation, head, head_id)
        return Members(identity, tuple(members), now - self._list[1], int(bound_ms) / MS)

    def read_about(self, nodes: tuple[str, ...]) -> Steps[tuple[bytes, ...]]:
        """Read what members tell about themselves."""
        if not nodes:
            return ()
        found = yield Call([(b"GET", self._about(node)) for node in nodes], [self._names.log] * len(nodes))
        return tuple(data or b"" for data in found)

    def leave(self, node: str) -> Steps[None]:
        """Take a node off the list, and end its poll."""
        self._left.add(node)
        self._at_head = NOWHERE
        self._end_poll(node)
        self._told.pop(node, None)
        members = self._names.members
        yield Call(((b"HDEL", members, b"n" + node.encode()), (b"DEL", self._about(node))), (members, members))

    def read_marks(self, scopes: tuple[str, ...]) -> Steps[MarksReply]:
        """Read marks, and the range that they cover: with a quorum, after a write that it acknowledges."""
        keys = [self._names.mark + scope.encode() for scope in scopes]
        quorum = yield from self._quorum()
        if quorum:
            call = self._acknowledged(self._on_log(scripts.MARKS, "proof", keys=keys), quorum)
            (generation, head, head_id, start, marks), acknowledged = yield call
        else:
            acknowledged = 0
            ((generation, head, head_id, start, marks),) = yield self._on_log(scripts.MARKS, "", keys=keys)
        identity = self._identity(generation, head, head_id, proven=acknowledged >= quorum)
        return MarksReply(identity, decode_marks(identity.generation, scopes, marks), start, head)
