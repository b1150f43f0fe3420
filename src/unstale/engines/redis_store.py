"""The store of the Redis engine, step by step: entries, locks, and the marks of a log that is another engine's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from unstale.core.marks import Mark, merged
from unstale.core.ops import Fetched, Identity, Item, MarksReply
from unstale.engines import redis_store_scripts as scripts
from unstale.engines.redis_calls import Call, Steps
from unstale.engines.redis_commands import Command
from unstale.engines.redis_lua import Script
from unstale.engines.redis_marks import decode_mark, decode_marks, encode_mark
from unstale.engines.seal import Seal
from unstale.errors import EngineError

MS: Final = 1000
CHUNK: Final = 1000  # commands of one write
TRIES: Final = 8  # of a compare-and-set
FETCH: Final = b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"


Put: TypeAlias = tuple[bytes, bytes, int]


class Names:
    """The keys of one cache. All but the entries share a hash tag, and so lie on one server of a cluster."""

    def __init__(self, prefix: str, name: str) -> None:
        tag = f"{{{prefix}:{name}}}"
        self.meta, self.log, self.ids, self.members, self.token, self.covered = (
            f"{tag}:{kind}".encode() for kind in ("meta", "log", "ids", "members", "token", "covered")
        )
        self.mark = f"{tag}:m:".encode()
        self.foreign = f"{tag}:f:".encode()
        self.lock = f"{tag}:lock:".encode()
        self.about = f"{tag}:about:".encode()
        self.entry = f"{prefix}:{name}:e:".encode()
        self.all = (self.meta, self.log, self.ids, self.members)


def script_call(script: Script, keys: Iterable[bytes], *args: bytes | str | int) -> Command:
    """Give the command that runs a script."""
    keys = tuple(keys)
    return (b"EVALSHA", script.sha, len(keys), *keys, *args)


class StoreSteps:
    """What the methods of the store's port do.

    Args:
        names: The keys of the cache.
        mark_ms: The life of a mark, in milliseconds.
        seal: Signs entries, if they are signed.
    """

    def __init__(self, names: Names, mark_ms: int, seal: Seal | None = None) -> None:
        self._names = names
        self._seal = seal
        self._mark_ms = mark_ms

    def fetch(self, keys: tuple[str, ...]) -> Steps[tuple[Fetched | EngineError | None, ...]]:
        """Fetch. The lifetime is asked for before the bytes: of two writes between them the shorter one is told."""
        if len(keys) == 1:  # by far the most: written in their wire form at once
            name, wire = self.name_and_wire(keys[0])
            left_ms, data = yield Call(((b"PTTL", name), (b"GET", name)), (name, name), data=wire)
            return (self.found(name, left_ms, data),)
        found: list[Fetched | EngineError | None] = []
        for start in range(0, len(keys), CHUNK):
            names = [self._names.entry + key.encode() for key in keys[start : start + CHUNK]]
            commands: list[Command] = []
            for name in names:
                commands += (b"PTTL", name), (b"GET", name)
            replies = yield Call(commands, [name for name in names for _ in range(2)], partly=True)
            found += map(self.found, names, replies[::2], replies[1::2])
        return tuple(found)

    def name_and_wire(self, key: str) -> tuple[bytes, bytes]:
        """Give the name of an entry, and the bytes that ask for its lifetime and its bytes."""
        name = self._names.entry + key.encode()
        return name, FETCH % (len(name), name, len(name), name)

    def found(
        self, name: bytes, left_ms: int | EngineError, data: bytes | EngineError | None
    ) -> Fetched | EngineError | None:
        """Give what lies under a name: nothing, if it has no end, or a signature that is none."""
        if isinstance(left_ms, EngineError):
            return left_ms
        if isinstance(data, EngineError):
            return data
        if data is None or left_ms <= 0:
            return None
        opened = data if self._seal is None else self._seal.open(_entry(name), data)
        return None if opened is None else Fetched(opened, left_ms / MS)

    def store(self, items: tuple[Item, ...]) -> Steps[None]:
        """Put items, each with its own life."""
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            names = [self._names.entry + item.key.encode() for item in chunk]
            yield Call(
                [
                    (b"SET", name, self._signed(name, item.data), b"PX", max(1, int(item.ttl_s * MS)))
                    for name, item in zip(names, chunk, strict=True)
                ],
                names,
            )

    def put(self, items: tuple[Item, ...]) -> list[Put]:
        """Give items as the script takes them that appends their record: name, bytes, life in ms (0: to be dropped)."""
        names = [self._names.entry + item.key.encode() for item in items]
        return [
            (name, self._signed(name, item.data), max(1, int(item.ttl_s * MS))) if item.ttl_s > 0 else (name, b"", 0)
            for name, item in zip(names, items, strict=True)
        ]

    def _signed(self, name: bytes, data: bytes) -> bytes:
        return data if self._seal is None else self._seal.sign(_entry(name), data)

    def delete(self, keys: tuple[str, ...]) -> Steps[None]:
        """Drop items."""
        for start in range(0, len(keys), CHUNK):
            names = [self._names.entry + key.encode() for key in keys[start : start + CHUNK]]
            yield Call([(b"UNLINK", name) for name in names], names)

    def lock(self, key: str, ttl_s: float) -> Steps[int | None]:
        """Take a lock."""
        names = self._names
        command = script_call(scripts.LOCK, (names.lock + key.encode(), names.token), max(1, int(ttl_s * MS)))
        (token,) = yield Call((command,), (names.token,))
        return None if token is None else int(token)

    def unlock(self, key: str, token: int) -> Steps[None]:
        """Give a lock back."""
        names = self._names
        yield Call((script_call(scripts.UNLOCK, (names.lock + key.encode(),), token),), (names.token,))

    def read_foreign(self, scopes: tuple[str, ...]) -> Steps[MarksReply]:
        """Read the marks that nodes have written for another engine's log."""
        names = self._names
        keys = [names.foreign + scope.encode() for scope in scopes]
        command = script_call(scripts.FOREIGN_MARKS, (names.covered, *keys))
        ((generation, start, upto, marks),) = yield Call((command,), (names.covered,))
        identity = Identity(generation.decode(), upto, "", proven=False)
        return MarksReply(identity, decode_marks(identity.generation, scopes, marks), start, upto)

    def extend_marks(self, generation: str, start: int, upto: int, marks: Mapping[str, int | Mark]) -> Steps[None]:
        """Compare and set: what is there is read and merged here, and written if nobody else has written meanwhile."""
        names, scopes = self._names, tuple(marks)
        keys = [names.foreign + scope.encode() for scope in scopes]
        for _ in range(TRIES):
            asked: list[Command] = [(b"HMGET", names.covered, b"gen", b"start", b"upto")]
            asked += [(b"GET", key) for key in keys]
            (covered, *old) = yield Call(asked, [names.covered] * len(asked))
            known, first, last = covered[0] or b"", int(covered[1] or 1), int(covered[2] or 0)
            range_ = (start, upto)
            if known == generation.encode() and start <= last + 1:
                joined = upto >= first - 1
                range_ = (min(start, first), max(upto, last)) if joined else (first, last)
            pairs: list[bytes] = []
            for mark, data in zip(marks.values(), old, strict=True):
                was = decode_mark(generation, data) if known == generation.encode() else None
                pairs += (data or b"", encode_mark(generation, merged(was, mark)))
            command = script_call(
                scripts.EXTEND, (names.covered, *keys), known, first, last, generation, *range_, self._mark_ms, *pairs
            )
            (done,) = yield Call((command,), (names.covered,))
            if done:
                return


def _entry(name: bytes) -> str:
    """Give what the signature of an entry says that it is."""
    return f"entry|{name.decode()}"
