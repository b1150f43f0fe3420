"""The URLs of Redis and Valkey: where the servers are, how they are reached, and the options of the engine."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from unstale.core.durations import seconds
from unstale.errors import EngineUrlError, UsageError

Address = tuple[str, int]
Kind = Literal["server", "cluster", "sentinel"]

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
TIMEOUT_S: Final = 1.0
KINDS: Final[dict[str, Kind]] = {"": "server", "+cluster": "cluster", "+sentinel": "sentinel"}
SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    f"{name}{letter}{tail}": (kind, letter == "s")
    for name in ("redis", "valkey")
    for letter in ("", "s")
    for tail, kind in KINDS.items()
}
EXAMPLES: Final = (
    'write "redis://host:6379/0", "rediss://user:password@host", "redis+cluster://host1:6379,host2:6379" '
    'or "redis+sentinel://host1:26379,host2:26379/primary-name/0"'
)
TEXTS: Final = ("prefix", "ca", "sentinel_user", "sentinel_password")
OPTIONS: Final = "timeout, quorum, linger, prefix, ca, sentinel_user, sentinel_password"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RedisUrl:
    """A URL, read.

    Attributes:
        kind: One server, a cluster, or sentinels that know the primary.
        tls: Connections are encrypted.
        addresses: Of the servers, or the sentinels; of a cluster, those to ask first.
        primary: The name under which the sentinels know the primary.
        user: Empty for the default user.
        password: Empty for none.
        db: The number of the database.
        timeout_s: What any single answer may take, in seconds; also a connection.
        quorum: So many replicas acknowledge what is appended; None: one, where there are replicas.
        linger_s: What is published waits for so long, in seconds, for more that goes with it.
        prefix: Of all keys.
        ca: A file with the certificates to trust, instead of the system's.
        sentinel_user: The user for the sentinels.
        sentinel_password: The password for the sentinels.
    """

    kind: Kind
    tls: bool
    addresses: tuple[Address, ...]
    primary: str = ""
    user: str = ""
    password: str = ""
    db: int = 0
    timeout_s: float = TIMEOUT_S
    quorum: int | None = None
    linger_s: float = 0.0
    prefix: str = "unstale"
    ca: str = ""
    sentinel_user: str = ""
    sentinel_password: str = ""

    @property
    def place(self) -> str:
        """The servers, for messages: without user and password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{hosts}/{self.primary}" if self.primary else hosts

    @property
    def settings(self) -> dict[str, Any]:
        """What redis-py's connections to these servers are made with, but for the address."""
        return {
            "username": self.user or None,
            "password": self.password or None,
            "db": self.db,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "protocol": 2,
            **({"ssl_ca_certs": self.ca or None} if self.tls else {}),
        }


def parse_url(url: str) -> RedisUrl:
    """Read a URL.

    Raises:
        EngineUrlError: It names no servers, or an option that there is not.
        DurationError: An option that is a duration cannot be read.
    """
    try:
        return _parse(url)
    except (ValueError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise EngineUrlError(f"the URL of a Redis cannot be read: {error}", hint=EXAMPLES) from error


def _parse(url: str) -> RedisUrl:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise EngineUrlError(f"there is no engine for {parts.scheme}://", hint=EXAMPLES)
    kind, tls = SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    addresses = tuple(_address(host, SENTINEL_PORT if kind == "sentinel" else PORT) for host in hosts.split(","))
    path = [unquote(step) for step in parts.path.split("/") if step]
    primary = ""
    if kind == "sentinel":
        if not path:
            msg = "the URL names sentinels, but not the primary that they watch"
            raise EngineUrlError(msg, hint='write "redis+sentinel://host:26379/primary-name/0"')
        primary = path.pop(0)
    if kind == "server" and len(addresses) > 1:
        msg = f"the URL names {len(addresses)} servers: it is not said what they are to each other"
        raise EngineUrlError(msg, hint=EXAMPLES)
    db = int(path.pop(0)) if path else 0
    if path or db < 0 or (db and kind == "cluster"):
        msg = f"{parts.path!r} is no database of it" + (": a cluster has but the one" if kind == "cluster" else "")
        raise EngineUrlError(msg, hint=EXAMPLES)
    quorum = options.pop("quorum", None)
    if quorum is not None and not quorum.isdecimal():
        raise EngineUrlError(f"quorum={quorum!r} is no number of replicas", hint="write quorum=1, or leave it out")
    timeout_s = seconds(options.pop("timeout"), "timeout") if "timeout" in options else TIMEOUT_S
    if not timeout_s:
        raise EngineUrlError("timeout=0 leaves no time for any answer", hint='write timeout="500ms"')
    linger_s = seconds(options.pop("linger"), "linger") if "linger" in options else 0.0
    known = {name: options.pop(name) for name in TEXTS if name in options}
    if options:
        msg = f"a Redis knows no option {', '.join(sorted(options))}"
        raise EngineUrlError(msg, hint=f"the options are: {OPTIONS}")
    return RedisUrl(
        kind=kind, tls=tls, addresses=addresses, primary=primary, user=unquote(user), password=unquote(password),
        db=db, timeout_s=timeout_s, quorum=None if quorum is None else int(quorum), linger_s=linger_s, **known,
    )  # fmt: skip


def _address(text: str, default: int) -> Address:
    """Read `host`, `host:port` or `[::1]:port`."""
    host, port = text, ""
    if not text.endswith("]"):
        head, colon, tail = text.rpartition(":")
        host, port = (head, tail) if colon else (text, "")
    host = unquote(host.removeprefix("[").removesuffix("]"))
    if not host:
        raise EngineUrlError("the URL names no host", hint=EXAMPLES)
    if port and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise EngineUrlError(f"{port!r} is no port", hint=EXAMPLES)
    return host, int(port) if port else default
