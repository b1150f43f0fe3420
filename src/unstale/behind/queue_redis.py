"""The queue of many machines: a stream with a consumer group, and a hash of the newest value of each key.

One flusher at a time: it holds a lock with a life, and a token that is greater than any before. Each of its steps is a
script that begins with that token, so one that was deposed while it was stopped, or busy in the sink, changes nothing
any more. That keeps the order of each key; several consumers at once would not.

1. A is given v5, and dies. 2. Its lock lapses; B leads, and claims by XAUTOCLAIM what A had been given. 3. B reads the
newest value of each such key from the hash: v5, or v6 if that was put meanwhile.

Acknowledged means that the script has been answered. What that survives is the server's to say. With `appendonly yes`
and `appendfsync always` the server has synced the write before it answers, and nothing acknowledged is lost when it is
killed, or its machine loses power: `durable="power"` asks the server for that, and refuses another. With `everysec` a
power cut takes up to two seconds, and even kill -9 of the server may, since it holds writes back while a sync is slow.
A replica that is promoted lacks what had not reached it: `replicas=1` waits for that many before it acknowledges.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from unstale.behind import redis_lua as lua
from unstale.behind.writes import Dead, DeposedError, Durable, Items, Row, Status
from unstale.engines.redis_errors import ErrorReply, reply_error
from unstale.engines.redis_url import RedisUrl
from unstale.errors import EngineError, UnavailableError

LEASE_S: Final = 5.0
CLAIM_FROM: Final = "0-0"
DEAD: Final = msgspec.msgpack.Decoder(Dead)
PARTS: Final = ("values", "stream", "meta", "lock", "tries", "dead")


class RedisQueue:
    """A queue in one Redis or Valkey.

    Args:
        url: The server.
        name: Queues of one name on one server are one queue.
        rows_max: So many keys it holds at most, those put aside among them.
        durable: `power` refuses a server that does not sync before it answers.
        replicas: So many replicas have a write before it is acknowledged.
    """

    def __init__(self, url: RedisUrl, name: str, rows_max: int, durable: Durable, replicas: int) -> None:
        self.place = f"{url.place} (queue {name})"
        self.lease_s: float | None = LEASE_S
        self._url = url
        self._rows_max = rows_max
        self._durable = durable
        self._replicas = replicas
        kind: Any = redis.SSLConnection if url.tls else redis.Connection
        ((host, port),) = url.addresses
        self._redis = redis.Redis(
            connection_pool=redis.ConnectionPool(
                connection_class=kind, host=host, port=port, retry=Retry(NoBackoff(), 0), **url.settings
            )
        )
        self._prefix = f"{url.prefix}:{{behind:{name}}}:"
        self._pid = 0
        self._keys = [self._prefix + part for part in PARTS]
        self._id = ""
        self._scripts: dict[str, Any] = {}
        self._held: OrderedDict[str, str] = OrderedDict()  # the entries that we were given, by their keys
        self._cursor = ""
        self._looked = False
        with contextlib.suppress(UnavailableError):  # it may come up later
            self._look()

    # Puts and reads ---------------------------------------------------------------------------------------------------

    def put(self, groups: Sequence[Items], call: int) -> list[list[int] | None]:
        """Make groups of writes durable, in one script: see `Queue`."""
        self._look()
        flat: list[str | bytes] = [part for items in groups for item in items for part in item]
        sizes = [len(items) for items in groups]
        with self._told():
            client = self._putting()
            said = self._script(lua.PUT)(
                [*self._keys, f"{self._prefix}call:{self._me}"],
                [secrets.token_hex(6), call, self._rows_max, len(sizes), *sizes, *flat],
                client=client,
            )
            if self._replicas:
                self._wait(client)
        self._id, last = said[0].decode(), int(said[1])
        answers: list[list[int] | None] = []
        for size, fits in zip(sizes, said[2:], strict=True):
            if fits != b"1":
                answers.append(None)
                continue
            answers.append([last + n for n in range(1, size + 1)])
            last += size
        return answers

    def _wait(self, client: redis.Redis) -> None:
        there = cast("int", client.execute_command("WAIT", self._replicas, int(self._url.timeout_s * 500)))  # type: ignore[no-untyped-call]
        if there < self._replicas:
            hint = "it may arrive: look at INFO replication, or ask for fewer replicas"
            raise UnavailableError(f"{there} of {self._replicas} replicas have the write", hint=hint)

    def _putting(self) -> redis.Redis:
        """Give a client of one connection: WAIT counts what was written on its own; and of one process."""
        if self._pid != os.getpid():
            # It connects: where that fails, the next put tries again.
            self._single = redis.Redis(connection_pool=self._redis.connection_pool, single_connection_client=True)
            self._pid, self._me = os.getpid(), secrets.token_hex(8)
        return self._single

    def _look(self) -> None:
        """Make sure, once, that the server keeps what it acknowledges."""
        if self._looked or self._durable != "power":
            return
        with self._told():
            try:
                told = cast("dict[str, str]", self._redis.config_get("append*"))
            except redis.ResponseError:
                told = {}  # where CONFIG is not allowed, its operator has to know
        if told and (told.get("appendonly"), told.get("appendfsync")) != ("yes", "always"):
            msg = f"{self._url.place} would lose acknowledged writes with a power cut, or when it is killed"
            hint = 'set appendonly yes and appendfsync always, or write durable="process" if that may be'
            raise EngineError(msg, hint=hint)
        self._looked = True

    def id_of(self, version: int) -> str:
        """Give the idempotency key of a write."""
        if not self._id:
            with self._told():
                self._id = (cast("bytes | None", self._redis.hget(self._keys[2], "id")) or b"").decode()
        return f"{self._id}-{version}"

    def newest(self, key: str) -> Row | None:
        """Give the write of a key that waits."""
        with self._told():
            value = cast("bytes | None", self._redis.hget(self._keys[0], key))
        return None if value is None else row_of(key, value)

    def status(self) -> Status:
        """Count what lies in the queue."""
        with self._told():
            return Status(self._redis.hlen(self._keys[0]), self._redis.hlen(self._keys[5]))

    # The flusher ------------------------------------------------------------------------------------------------------

    def lead(self) -> int:
        """Become the one flusher: a token, 0 while another leads."""
        with self._told():
            token = int(self._run(lua.LEAD, int(LEASE_S * 1000)))
        if token:
            self._held.clear()
            self._cursor = CLAIM_FROM
        return token

    def renew(self, token: int) -> bool:
        """Go on leading, if we lead."""
        try:
            with self._told():
                return bool(self._run(lua.RENEW, token, int(LEASE_S * 1000)))
        except DeposedError:
            return False

    def resign(self, token: int) -> None:
        """Let another one lead."""
        with contextlib.suppress(DeposedError, EngineError), self._told():  # then it lapses
            self._run(lua.RESIGN, token)

    def take(self, token: int, limit: int, resting: Collection[str]) -> list[Row]:
        """Give what waits longest: what we were given before, what the dead were given, and then what is new."""
        try:
            return self._taken(token, limit, resting)
        except BaseException:  # the answer may be lost, and with it what we were given: it is claimed like a dead one's
            self._held.clear()
            self._cursor = CLAIM_FROM
            raise

    def _taken(self, token: int, limit: int, resting: Collection[str]) -> list[Row]:
        held = [(entry, key) for key, entry in self._held.items() if key not in resting][:limit]
        for _entry, key in held:
            del self._held[key]  # what is still there comes back, behind those that were held longer
        flat = [part for pair in held for part in pair]
        rows: list[Row] = []
        while True:
            claiming = bool(self._cursor)
            rows += self._take(token, limit - len(rows) - len(flat) // 2, resting, flat)
            if not claiming or len(rows) >= limit:
                return rows
            flat = []

    def _take(self, token: int, count: int, resting: Collection[str], held: list[str]) -> list[Row]:
        with self._told():
            cursor, found = self._run(lua.TAKE, token, int(LEASE_S * 1000), count, self._cursor, *held)
        self._cursor = cursor.decode()
        rows = []
        for entry, name, value, tries in found:
            key = name.decode()
            self._held[key] = entry.decode()
            if key not in resting:
                rows.append(row_of(key, value, tries))
        return rows

    def done(self, token: int, rows: Sequence[Row]) -> None:
        """Remove what was flushed: see `Queue`."""
        flat = [part for row in rows for part in (self._held[row.key], row.key, row.version)]
        with self._told():
            self._run(lua.DONE, token, *flat)
        for row in rows:
            del self._held[row.key]

    def failed(self, token: int, row: Row) -> int:
        """Count a failure of one write alone."""
        with self._told():
            return int(self._run(lua.FAILED, token, row.key, row.version))

    def bury(self, token: int, rows: Sequence[tuple[Row, str]]) -> None:
        """Put writes aside; one that has been replaced meanwhile is none of them."""
        flat: list[Any] = []
        for row, error in rows:
            dead = Dead(row.key, row.version, row.data, row.tries, error, time.time())
            flat += [self._held[row.key], row.key, row.version, msgspec.msgpack.encode(dead)]
        with self._told():
            gone = self._run(lua.BURY, token, *flat)
        for (row, _error), one in zip(rows, gone, strict=True):
            if one:
                del self._held[row.key]

    # What was put aside -----------------------------------------------------------------------------------------------

    def dead(self) -> list[Dead]:
        """Give what was put aside."""
        with self._told():
            found = cast("list[bytes]", self._redis.hvals(self._keys[5]))
        return sorted(map(DEAD.decode, found), key=lambda one: one.version)

    def replay(self, keys: Collection[str]) -> int:
        """Queue again what was put aside; a later put of its key has taken its place long ago."""
        flat: list[str | bytes] = []
        with self._told():
            for key in keys:
                kept = cast("bytes | None", self._redis.hget(self._keys[5], key))
                if kept is not None:
                    one = DEAD.decode(kept)
                    flat += [key, kept, b"%d:" % one.version + one.data]
            return int(self._run(lua.REPLAY, *flat))

    def discard(self, keys: Collection[str]) -> int:
        """Forget what was put aside."""
        with self._told():
            return self._redis.hdel(self._keys[5], *keys) if keys else 0

    def close(self) -> None:
        """Close its connections. Idempotent."""
        self._redis.close()

    # Calls ------------------------------------------------------------------------------------------------------------

    def _run(self, script: str, *arguments: object) -> Any:
        return self._script(script)(self._keys, list(arguments))

    def _script(self, script: str) -> Any:
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._redis.register_script(script)
        return known

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError as error:
            if "DEPOSED" in str(error):
                raise DeposedError from error
            raise reply_error(ErrorReply(str(error)), self._url.place) from error
        except (redis.RedisError, OSError) as error:
            hint = "look whether the server of the URL runs, and whether this host reaches it"
            raise UnavailableError(f"{self._url.place} does not answer: {error}", hint=hint) from error


def row_of(key: str, value: bytes, tries: int = 0) -> Row:
    """Read a value of the hash."""
    version, _, data = value.partition(b":")
    return Row(key, data, int(version), tries)
