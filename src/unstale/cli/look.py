"""Looking at a cache from outside: what the commands need that read and never join, and where a URL leads."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote, urlsplit

import msgspec

from unstale.cli.sqlite_look import SQLiteLook
from unstale.clock import boottime
from unstale.core.entry import FAILURE, Entry, decode_entry, decode_failure
from unstale.core.explain import Explanation, explain
from unstale.core.keys import check_key
from unstale.core.node import Node
from unstale.core.ops import Batch, Fetched, Identity, MarksReply, Members
from unstale.core.policy import Policy
from unstale.core.served import Want, stored_key
from unstale.drivers import run
from unstale.engines.connect import connect
from unstale.engines.ports import Ports
from unstale.engines.seal import Seal, read_secrets
from unstale.errors import EngineUrlError

MAX_TTL_S: Final = 7 * 24 * 3600.0
SIGNING: Final = "UNSTALE_SECRET"  # never an option: other users of the machine can read those


class Look(Protocol):
    """Those methods of the ports that change nothing, and two that only looking needs."""

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""

    def read_members(self) -> Members:
        """See `LogPort.read_members`."""

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""

    def stored_keys(self, key: str) -> list[str]:
        """Give the stored keys of all shapes in which an entry of a key is stored."""

    def after(self, position: int, limit: int) -> Batch:
        """Give records after a position, with the identity of the log, without becoming a member."""

    def silent(self) -> frozenset[str]:
        """Give the members that have said nothing for as long as their bound, as far as that can be seen."""

    def close(self) -> None:
        """Release what it holds."""


class Shape:
    """Stands in for the codec of a value whose type only the application knows: looking decodes nothing by it."""

    def __init__(self, shape: str) -> None:
        self.shape = shape

    def encode(self, value: object) -> bytes:
        """Never called."""
        raise NotImplementedError

    def decode(self, data: bytes) -> object:
        """Never called."""
        raise NotImplementedError


class Stored(msgspec.Struct, frozen=True):
    """An entry as it is stored under one of its shapes.

    Attributes:
        stored_key: The stored key: the shape of the value's type, a bar, the key.
        entry: The entry; None when it cannot be read.
        explanation: What the library says of it.
    """

    stored_key: str
    entry: Entry | None
    explanation: Explanation

    @property
    def shape(self) -> str:
        """The shape of the value's type."""
        return self.stored_key.partition("|")[0]


def sqlite_path(url: str) -> str:
    """Give the path in the URL of an SQLite cache, empty for any other URL."""
    parts = urlsplit(url)
    return unquote(parts.path).removeprefix("/") if parts.scheme == "sqlite" and not parts.netloc else ""


def is_redis(url: str) -> bool:
    """Say whether a URL names a Redis or Valkey: one server, a cluster, or sentinels."""
    return urlsplit(url).scheme.partition("+")[0] in {"redis", "rediss", "valkey", "valkeys"}


def is_postgres(url: str) -> bool:
    """Say whether a URL names a PostgreSQL."""
    return urlsplit(url).scheme in {"postgresql", "postgres"}


def secrets_of(url: str) -> list[str] | None:
    """Give the secrets with which a cache is signed, as the environment names them; None for none."""
    return os.environ.get(SIGNING, "").split() or None if is_redis(url) else None


@contextmanager
def opened(url: str, name: str) -> Iterator[Look]:
    """Give a look at a cache.

    Raises:
        EngineUrlError: The URL names nothing that can be looked at from outside.
        EngineError: There is nothing, or it cannot be opened.
    """
    look = open_look(url, name)
    try:
        yield look
    finally:
        look.close()


def open_look(url: str, name: str) -> Look:
    """Give a look at a cache, to be closed."""
    if urlsplit(url).scheme == "memory":
        msg = f"{url} lives and ends with the process that made it: there is nothing to be seen from outside"
        raise EngineUrlError(msg, hint="look at it from within, by cache.explain(key) and cache.stats()", url=url)
    path = sqlite_path(url)
    if path:
        return SQLiteLook(path, name)
    engine: Any = connect(url, name=name, max_ttl_s=MAX_TTL_S).store
    if is_postgres(url):
        from unstale.cli.postgres_look import PostgresLook

        return PostgresLook(engine.url, name)
    if is_redis(url):
        from unstale.cli.redis_look import RedisLook

        known = read_secrets(secrets_of(url))
        return RedisLook(engine.url, name, Seal(name, known) if known else None)
    missing = [method for method in ("stored_keys", "after", "silent") if not hasattr(engine, method)]
    if missing:
        msg = f"the engine of {url} offers no {' and no '.join(missing)}: it cannot be looked at from outside"
        raise EngineUrlError(msg, hint="look at it from within, by cache.explain(key)", url=url)
    return cast("Look", engine)


def find(look: Look, key: str) -> list[Stored]:
    """Find what is stored under a key, in all shapes.

    Raises:
        ScopeError: No key can read so.
        EngineError: The store failed.
    """
    check_key(key)
    return [_stored(look, key, stored_key) for stored_key in look.stored_keys(key)]


def explain_nothing(look: Look, key: str) -> Explanation:
    """Explain a key under which nothing is stored: its own mark, and the one of everything."""
    return _explanation(look, key, "")


def _stored(look: Look, key: str, stored_key: str) -> Stored:
    (fetched,) = look.fetch((stored_key,))
    entry = decode_entry(fetched.data, key) if fetched else None
    return Stored(stored_key, entry, _explanation(look, key, stored_key.partition("|")[0]))


def _explanation(look: Look, key: str, shape: str) -> Explanation:
    """Let the library itself judge: its flow, run for a node that never joins."""
    node = Node(
        "look",
        clock=boottime,
        random=Random().random,
        new_id=lambda: secrets.token_hex(10),
        lock=threading.Lock(),
        max_ttl_s=MAX_TTL_S,
    )
    stored = stored_key(shape, key)
    want = Want(key=key, stored_key=stored, scopes=(), policy=Policy(), codec=Shape(shape), bound_s=node.bound_s)
    return run(explain(node, want), Ports(cast("Any", look), cast("Any", look)))


class Opaque(msgspec.Struct, frozen=True):
    """Stands for a value that only the application can read: its length in bytes."""

    opaque_bytes: int


def value_of(entry: Entry) -> object:
    """Give an entry's value as far as it can be read without the application's types; `Opaque` where it cannot."""
    if entry.kind == FAILURE:
        failure = decode_failure(entry.data)
        return {"failure": failure.kind, "args": list(failure.args)}
    try:
        value = msgspec.msgpack.decode(entry.data)
        msgspec.json.encode(value, enc_hook=repr)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return Opaque(len(entry.data))
    return value
