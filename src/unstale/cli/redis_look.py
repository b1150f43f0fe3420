"""Looking into a Redis or Valkey without leaving a trace.

Most scripts of the engine begin a generation where there is none, and a poll joins the members. A look must do none of
that: it sends commands that only read, and answers the questions of the ports that only read.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from unstale.cli.redis_server import Server, quoted, servers_of, told_by
from unstale.core.ops import Batch, Fetched, Identity, MarksReply, Member, Members
from unstale.core.record import Logged, Record, decode_record
from unstale.engines.redis_calls import Call
from unstale.engines.redis_commands import Command
from unstale.engines.redis_link import Link
from unstale.engines.redis_marks import decode_marks, first_covered
from unstale.engines.redis_places import Places
from unstale.engines.redis_polls import Told, decode_told
from unstale.engines.redis_store import MS, Names, StoreSteps
from unstale.engines.redis_url import RedisUrl
from unstale.engines.seal import LENGTH, SIGNED, Seal
from unstale.errors import EngineError, UnavailableError

LISTEN_MAX_S: Final = 10.0
LISTEN_EVERY_S: Final = 0.05
FIELDS: Final = (b"gen", b"pos", b"id", b"server", b"start", b"evicted", b"bound", b"life", b"replicas", b"lives")


class Meta(msgspec.Struct, frozen=True):
    """What the log says of itself, and its server.

    Attributes:
        identity: The generation and its head.
        start: The first position that the marks cover.
        bound_s: The largest bound that a member ever told.
        life_s: The longest `max_ttl` that a member ever told.
        replicas: The most replicas that this generation was seen with.
        evicted: Keys that the server has evicted since it was looked at last by the engine.
    """

    identity: Identity
    start: int
    bound_s: float
    life_s: float
    replicas: int
    evicted: int


class RedisLook:
    """One cache on a Redis, for reading only: those methods of the ports that change nothing.

    Args:
        url: Where it is.
        name: The name of the cache.
        seal: Tells what was signed from what was not; without it signatures are passed over, and prove nothing.

    Raises:
        EngineError: The servers do not answer, or have no such cache.
    """

    def __init__(self, url: RedisUrl, name: str, seal: Seal | None = None) -> None:
        self.url = url
        self._seal = seal
        self.name = name
        self.names = Names(url.prefix, name)
        self.places = Places(url)
        self._link = Link(self.places)
        self._store = StoreSteps(self.names, 1, seal)
        try:
            self.servers = servers_of(self.places, self.names)
            self.read_meta()
        except BaseException:
            self.close()
            raise

    def _ask(self, *commands: Command) -> list[Any]:
        """Ask the log's server, by one write."""
        link, log = self._link, self.names.log

        def steps() -> Any:
            return (yield Call(commands, [log] * len(commands)))

        replies: list[Any] = link.run(steps())
        return replies

    def read_meta(self) -> Meta:
        """Give what the log says of itself.

        Raises:
            UnavailableError: There is no log, or none since the server was restarted or promoted.
        """
        return self._answered()[0]

    def _answered(self, *commands: Command) -> tuple[Meta, list[Any]]:
        """Give the replies to commands that only read, and what the log says of itself after them."""
        own: tuple[Command, ...] = (
            (b"HMGET", self.names.meta, *FIELDS), (b"INFO", b"replication"), (b"INFO", b"stats"), (b"TIME",),
        )  # fmt: skip
        *replies, fields, replication, stats, (seconds, micros) = self._ask(*commands, *own)
        generation, head, head_id, server, start, evicted, bound, life, replicas, lives = fields
        if generation is None or head is None:
            raise self._missing()
        if (server or b"").decode() != told_by(replication).get("master_replid"):
            msg = f"{self.url.place} was restarted or promoted, and no process has used {self.name!r} since"
            hint = "what it holds will not be served: the first process that uses it begins a new generation"
            raise UnavailableError(msg, hint=hint, unused=True)
        meta = Meta(
            Identity(generation.decode(), int(head), (head_id or b"").decode()),
            first_covered(int(start or 1), int(head), lives or b"", int(seconds) * MS + int(micros) // MS),
            int(bound or 0) / MS,
            int(life or 0) / MS,
            int(replicas or 0),
            int(told_by(stats)["evicted_keys"]) - int(evicted or 0),
        )
        return meta, replies

    def _missing(self) -> UnavailableError:
        """Say that there is no such cache, and which there are."""
        prefix, known = f"{{{self.url.prefix}:".encode(), set()
        for address in self.servers:
            with Server(self.url, address) as server:
                known |= set(server.scan(quoted(prefix) + b"*}:meta"))
        names = sorted(key.removeprefix(prefix).removesuffix(b"}:meta").decode(errors="replace") for key in known)
        there = ", ".join(map(repr, names)) or "no cache at all"
        hint = "choose one by --name" if names else "start a process that uses it; or look at the URL, and its prefix="
        return UnavailableError(f"{self.url.place} holds no cache named {self.name!r}; it holds {there}", hint=hint)

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return self.read_meta().identity

    def read_members(self) -> Members:
        """See `LogPort.read_members`. How old the list is cannot be seen from outside: old enough."""
        meta, (flat,) = self._answered((b"HGETALL", self.names.members))
        listed = _members(flat)
        members = (Member(node, told.generation, told.applied, told.bound_s) for node, (_beat, told) in listed.items())
        return Members(meta.identity, tuple(members), float("inf"), meta.bound_s)

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        found = self._ask(*((b"GET", self.names.about + node.encode()) for node in nodes)) if nodes else []
        return tuple(data or b"" for data in found)

    def silent(self) -> frozenset[str]:
        """Listen until every member has spoken, for as long as its bound at most: those that said nothing."""
        (flat,) = self._ask((b"HGETALL", self.names.members))
        first = _members(flat)
        waiting, began = dict(first), time.monotonic()
        while waiting:
            gone_s = time.monotonic() - began
            if all(gone_s > min(told.bound_s, LISTEN_MAX_S) for _beat, told in waiting.values()):
                break
            time.sleep(LISTEN_EVERY_S)
            (flat,) = self._ask((b"HGETALL", self.names.members))
            now = _members(flat)
            waiting = {node: said for node, said in waiting.items() if now.get(node) == said}
        return frozenset(waiting)

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`. Marks that may have been evicted say nothing, as for the engine."""
        keys = [self.names.mark + scope.encode() for scope in scopes]
        meta, (found,) = self._answered((b"MGET", *keys))
        head = meta.identity.head
        start = head + 1 if meta.evicted else meta.start
        return MarksReply(meta.identity, decode_marks(meta.identity.generation, scopes, found), start, head)

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        found = self._link.run(self._store.fetch(keys))
        for one in found:
            if isinstance(one, EngineError):  # a look that leaves something out would mislead
                raise one
        return tuple(Fetched(_bare(one.data), one.remaining_s) if isinstance(one, Fetched) else None for one in found)

    def stored_keys(self, key: str) -> list[str]:
        """Give the stored keys of all shapes in which an entry of a key is stored: a look at all keys there are."""
        start, wanted = self.names.entry, key.encode()
        pattern = quoted(start) + b"*|" + quoted(wanted)
        found: set[bytes] = set()
        for address in self.servers:
            with Server(self.url, address) as server:
                found |= set(server.scan(pattern))
        stored = (name.removeprefix(start) for name in found)
        return sorted(name.decode() for name in stored if name.partition(b"|")[2] == wanted)

    def after(self, position: int, limit: int) -> Batch:
        """Give records after a position, with the identity of the log, without becoming a member."""
        asked: Command = (b"XRANGE", self.names.log, f"({position}-0", b"+", b"COUNT", limit)
        meta, (rows,) = self._answered(asked)
        return Batch(meta.identity, None, tuple(self._logged(*row) for row in rows))

    def signed(self) -> bool:
        """Say whether the newest record is signed: then nodes skip whatever is not."""
        rows = self._ask((b"XREVRANGE", self.names.log, b"+", b"-", b"COUNT", 1))[0]
        return bool(rows) and any(data.startswith(SIGNED) for data in rows[0][1][5:6])

    def _logged(self, entry_id: bytes, fields: list[bytes]) -> Logged:
        """Read one entry of the stream."""
        told = dict(zip(fields[::2], fields[1::2], strict=True))
        name = told.get(b"i", b"?").decode(errors="replace")
        before = told.get(b"p", b"?").decode(errors="replace")
        position, data = int(entry_id.partition(b"-")[0]), told.get(b"d", b"")
        if self._seal is not None:
            opened = self._seal.open(f"record|{name}", data)
            if opened is None:  # as nodes do: it has its place in the chain, and says nothing
                return Logged(position, before, Record(name, (), why="no valid signature"))
            data = opened
        return Logged(position, before, decode_record(_bare(data), name))

    def close(self) -> None:
        """Close the connections."""
        self._link.close()


def _members(flat: list[bytes]) -> dict[str, tuple[bytes, Told]]:
    """Read the members' hash: by node, what it said last, as bytes and as what they say."""
    found: dict[str, tuple[bytes, Told]] = {}
    for field, data in zip(flat[::2], flat[1::2], strict=True):
        told = decode_told(data) if field.startswith(b"n") else None
        if told is not None:
            found[field[1:].decode(errors="replace")] = (data, told)
    return found


def _bare(data: bytes) -> bytes:
    """Give bytes without a signature that nobody has looked at."""
    return data[1 + LENGTH :] if data.startswith(SIGNED) else data
