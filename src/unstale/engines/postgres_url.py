"""The URLs of PostgreSQL: where the server is, how it is reached, and the options of the engine."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from psycopg.conninfo import make_conninfo

from unstale.core.durations import seconds
from unstale.errors import EngineUrlError, UsageError

SCHEMES: Final = ("postgresql", "postgres")
TIMEOUT_S: Final = 2.0
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
EXAMPLES: Final = 'write "postgresql://user:password@host:5432/database", and a folder of sockets as "?host=/run/..."'
LIBPQ: Final = ("host", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile")
OPTIONS: Final = f"schema, unlogged, timeout, {', '.join(LIBPQ)}"
MS: Final = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostgresUrl:
    """A URL, read.

    Attributes:
        hosts: Of the servers; of several, the one that takes writes is used.
        ports: Of the servers, in the same order; empty for the usual one.
        user: Empty for the one that libpq takes.
        password: Empty for none, or for one in a password file.
        database: Empty for the one that libpq takes.
        schema: Holds the tables of all caches of this URL.
        unlogged: Entries are not written to the server's log when the tables are made: a crash loses them.
        timeout_s: What any single answer may take, in seconds; also a connection.
        libpq: Options handed on to libpq.
    """

    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    database: str = ""
    schema: str = "unstale"
    unlogged: bool = True
    timeout_s: float = TIMEOUT_S
    libpq: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The servers and the database, for messages: without user and password."""
        hosts = ",".join(f"{host}:{port}" if port else host for host, port in zip(self.hosts, self.ports, strict=True))
        return f"{hosts or self.libpq.get('host', 'localhost')}/{self.database}".rstrip("/")

    @property
    def conninfos(self) -> tuple[str, ...]:
        """What libpq connects by, for each of the servers."""
        return tuple(self._conninfo(host, port) for host, port in zip(self.hosts, self.ports, strict=True)) or (
            self._conninfo("", ""),
        )

    def _conninfo(self, host: str, port: str) -> str:
        given: dict[str, Any] = {
            "host": host,
            "port": port,
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "application_name": "unstale",
            # A server whose machine is gone acknowledges nothing: the kernel gives up by itself, without a query.
            "tcp_user_timeout": int(self.timeout_s * MS),
            "keepalives_idle": 10,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "target_session_attrs": "read-write" if len(self.hosts) > 1 else "any",
        }
        return make_conninfo(**{name: value for name, value in (given | self.libpq).items() if value != ""})


def parse_url(url: str) -> PostgresUrl:
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
        raise EngineUrlError("the URL of a PostgreSQL cannot be read", hint=EXAMPLES) from None  # may hold a password


def _parse(url: str) -> PostgresUrl:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise EngineUrlError(f"there is no engine for {parts.scheme}://", hint=EXAMPLES)
    login, _, servers = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    libpq: dict[str, str] = {name: options.pop(name) for name in LIBPQ if name in options}
    addresses = [_address(server) for server in servers.split(",")] if servers else []
    if not addresses and "host" not in libpq:
        raise EngineUrlError("the URL names no server", hint=EXAMPLES)
    if addresses and "host" in libpq:
        raise EngineUrlError("the URL names its server twice", hint=EXAMPLES)
    database = unquote(parts.path.removeprefix("/"))
    if "/" in database:
        raise EngineUrlError(f"{parts.path!r} is no database", hint=EXAMPLES)
    schema = options.pop("schema", "unstale")
    if not NAME.fullmatch(schema):
        raise EngineUrlError(f"schema={schema!r} is no plain name", hint="write letters, digits and _: schema=unstale")
    unlogged = options.pop("unlogged", "yes")
    if unlogged not in {"yes", "no"}:
        hint = "write unlogged=no for entries that survive a crash of the server, or leave it out"
        raise EngineUrlError(f"unlogged={unlogged!r} is neither yes nor no", hint=hint)
    timeout_s = seconds(options.pop("timeout"), "timeout") if "timeout" in options else TIMEOUT_S
    if not timeout_s:
        raise EngineUrlError("timeout=0 leaves no time for any answer", hint='write timeout="500ms"')
    if options:
        msg = f"a PostgreSQL knows no option {', '.join(sorted(options))}"
        raise EngineUrlError(msg, hint=f"the options are: {OPTIONS}")
    return PostgresUrl(
        hosts=tuple(host for host, _port in addresses), ports=tuple(port for _host, port in addresses),
        user=unquote(user), password=unquote(password), database=database, schema=schema, unlogged=unlogged == "yes",
        timeout_s=timeout_s, libpq=libpq,
    )  # fmt: skip


def _address(text: str) -> tuple[str, str]:
    """Read `host`, `host:port` or `[::1]:port`."""
    host, port = text, ""
    if not text.endswith("]"):
        head, colon, tail = text.rpartition(":")
        host, port = (head, tail) if colon else (text, "")
    host = unquote(host.removeprefix("[").removesuffix("]"))
    if not host or "," in host:
        raise EngineUrlError("the URL names no host", hint=EXAMPLES)
    if port and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise EngineUrlError(f"{port!r} is no port", hint=EXAMPLES)
    return host, port
