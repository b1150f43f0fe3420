"""From a URL to the engines of a cache."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from unstale.clock import boottime
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.ports import LogPort, Ports, StorePort
from unstale.engines.seal import Seal, read_secrets
from unstale.engines.spread import SpreadStore, check_pins
from unstale.errors import EngineUrlError, UsageError

HINT = (
    'write "memory://" (one process), "sqlite:///path/to/file" (many processes on one machine) '
    '"redis://host:6379/0" or "postgresql://user@host:5432/database" (many machines)'
)

_memory: dict[str, MemoryEngine] = {}


def connect(
    url: str,
    *,
    name: str,
    max_ttl_s: float,
    secret: object = None,
    stores: Sequence[str] = (),
    pins: Mapping[str, str] | None = None,
) -> Ports:
    """Open the engines that URLs name.

    Args:
        url: `memory://`, `sqlite:///path`, `redis://host:port/db` and its kin,
            `postgresql://host/database`: the log, and the store too if no other
            is named.
        name: The cache's name; caches of other names at the same URL are other caches.
        max_ttl_s: No entry lives longer, in seconds.
        secret: Signs entries and records: a text, or two of them.
        stores: URLs of the stores over which entries are spread.
        pins: Patterns of keys, and the store on which all such keys lie.

    Raises:
        EngineUrlError: A URL names no engine that this installation has.
        EngineError: An engine cannot be opened.
        UsageError: The secret, the list or the pins cannot be.
    """
    secrets = read_secrets(secret)
    main = open_engine(url, name, max_ttl_s, secrets)
    if isinstance(stores, str):
        raise UsageError("store is a list of URLs", hint=f"write store=[{stores!r}]")
    if not stores and not pins:
        return Ports(main, main)
    check_pins(pins or {}, stores)
    engines = {one: main if one == url else open_engine(one, name, max_ttl_s, secrets) for one in stores}
    return Ports(cast("StorePort", SpreadStore(main, engines, pins or {})), main)


def open_engine(url: str, name: str, max_ttl_s: float, secrets: tuple[bytes, ...]) -> Any:
    """Open one engine, which is store and log.

    Raises:
        EngineUrlError: The URL names no engine that this installation has.
        EngineError: The engine cannot be opened.
    """
    if not isinstance(url, str) or "://" not in url:
        msg = f"{url!r} is not the URL of an engine"
        raise EngineUrlError(msg, hint=HINT, url=url)
    parts = urlsplit(url)
    if parts.scheme.split("+")[0] in {"redis", "rediss", "valkey", "valkeys"}:
        return _redis(url, name, max_ttl_s, secrets)
    if parts.scheme in {"postgresql", "postgres"}:
        return _postgres(url, name, max_ttl_s, secrets)
    options: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options:
        msg = f"{parts.scheme} knows no option {', '.join(sorted(options))}"
        raise EngineUrlError(msg, hint="pass options as arguments of Cache(...)", url=url)
    if secrets:
        msg = f"{parts.scheme}:// signs nothing: only programs of this machine can write to it"
        raise EngineUrlError(msg, hint="leave secret= out, and see to the permissions of the file", url=url)
    if parts.scheme == "memory":
        return memory_engine(f"{parts.netloc}{parts.path}|{name}", max_ttl_s)
    if parts.scheme == "sqlite":
        path = unquote(parts.path).removeprefix("/")
        if parts.netloc or not path:
            msg = f"{url!r} names no file"
            raise EngineUrlError(
                msg, hint='write three slashes and a path: "sqlite:///shop.cache", "sqlite:////var/cache/shop.cache"'
            )
        from unstale.engines.sqlite import SQLiteEngine

        return SQLiteEngine(path, name=name, max_ttl_s=max_ttl_s)
    msg = f"there is no engine for {parts.scheme}://"
    raise EngineUrlError(msg, hint=HINT, url=url)


def _redis(url: str, name: str, max_ttl_s: float, secrets: tuple[bytes, ...]) -> Any:
    try:
        from unstale.engines.redis import RedisEngine
        from unstale.engines.redis_url import parse_url
    except ImportError as error:
        msg = f"the engine of {urlsplit(url).scheme}:// needs {error.name}"
        raise EngineUrlError(msg, hint='install it by: pip install "unstale[redis]"') from error
    seal = Seal(name, secrets) if secrets else None
    return RedisEngine(parse_url(url), name=name, max_ttl_s=max_ttl_s, seal=seal)


def _postgres(url: str, name: str, max_ttl_s: float, secrets: tuple[bytes, ...]) -> Any:
    try:
        from unstale.engines.postgres import PostgresEngine
        from unstale.engines.postgres_url import parse_url
    except ImportError as error:
        msg = f"the engine of {urlsplit(url).scheme}:// needs {error.name}"
        raise EngineUrlError(msg, hint='install it by: pip install "unstale[postgres]"') from error
    if secrets:
        msg = "postgresql:// signs nothing: who may write to its tables is told by their rights"
        raise EngineUrlError(msg, hint="leave secret= out, and GRANT the tables to the service's user alone")
    return PostgresEngine(parse_url(url), name=name, max_ttl_s=max_ttl_s)


def memory_engine(place: str, max_ttl_s: float) -> MemoryEngine:
    """Give the memory engine of a name: caches of one name in this process share it."""
    engine = _memory.get(place)
    if engine is None:
        server = MemoryServer(boottime, secrets.token_hex(8), max_ttl_s=max_ttl_s)
        engine = _memory.setdefault(place, MemoryEngine(server))
    return engine


def forget_memory() -> None:
    """Forget all memory engines: what was shared by name begins anew (for tests)."""
    _memory.clear()


__all__ = ["LogPort", "Ports", "StorePort", "connect", "forget_memory", "memory_engine"]
