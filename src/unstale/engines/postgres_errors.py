"""What PostgreSQL answers in place of an answer, as our errors, each with its cure."""

from __future__ import annotations

from typing import Final

from unstale.errors import (
    BusyError,
    CorruptError,
    DeniedError,
    EngineError,
    FullError,
    ReadOnlyError,
    UnavailableError,
)

OTHER_FORMAT: Final = "UN001"  # raised by our own functions, see `postgres_schema`
NOT_OURS: Final = "UN002"
MISSING: Final = frozenset({"42P01", "3F000", "42883", "42703"})  # a table, schema, function or column
STALE: Final = frozenset({"26000", "0A000"})  # a prepared statement that its connection does not have, or not so
AGAIN: Final = frozenset({"40001", "40P01"})  # nothing was done, and the same once more may well succeed

FRESH_START: Final = "drop the schema: DROP SCHEMA {schema} CASCADE; every process then makes a new one by itself"
GRANT: Final = (
    "let its owner run: GRANT CREATE ON DATABASE <database> TO <user>; or make it for the user: "
    "CREATE SCHEMA {schema} AUTHORIZATION <user>; where the tables are there already: GRANT USAGE ON SCHEMA {schema} "
    "TO <user>; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO <user>; "
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO <user>"
)
REPLICA: Final = (
    "name the primary in the URL, or all servers: postgresql://host1,host2/database finds the one that takes writes"
)
LOOK: Final = "look whether it runs, and whether this host reaches it; the cache goes on by its policy until it does"
ROOM: Final = "make room on its disk; nothing that was acknowledged is lost"
CONNECTIONS: Final = "raise max_connections, or let fewer processes use it; each has a few connections for its cache"
LOGIN: Final = "correct user and password in the URL: postgresql://user:password@host/database; see pg_hba.conf"
DATABASE: Final = "make it: createdb <database>; or correct the URL: postgresql://user@host/database"

# By whole code first, then by class.
_ERRORS: Final[dict[str, tuple[type[EngineError], str, str]]] = {
    OTHER_FORMAT: (CorruptError, "has tables of another version of unstale", "use one version, or another ?schema="),
    NOT_OURS: (CorruptError, "has tables of another program under our names", "choose another schema: ?schema=cache"),
    "42501": (DeniedError, "does not let this user do what the cache needs", GRANT),
    "28": (DeniedError, "denies the connection", LOGIN),
    "3D000": (UnavailableError, "has no such database", DATABASE),
    "25006": (ReadOnlyError, "is a replica or read-only, which takes no writes", REPLICA),
    "55000": (ReadOnlyError, "is a replica, which takes no writes", REPLICA),
    "0A000": (ReadOnlyError, "is a replica, which takes no writes", REPLICA),
    "53300": (UnavailableError, "has no room for another connection", CONNECTIONS),
    "53200": (FullError, "has no memory left", "give it more memory, or fewer connections"),
    "53": (FullError, "has no space left", ROOM),
    "54": (FullError, "cannot hold a value of this size", "store less than a gigabyte under one key"),
    "57014": (BusyError, "took too long, and gave up", "another session may hold a lock on our tables: pg_locks"),
    "55P03": (BusyError, "is locked by others", "another session holds a lock on our tables: pg_locks tells which"),
    "40": (BusyError, "is locked by others", "another session holds a lock on our tables: pg_locks tells which"),
    "57": (UnavailableError, "does not answer now", "it starts, stops or recovers; it will answer soon"),
    "58": (UnavailableError, "has trouble with its disk", "look into its log"),
    "XX001": (CorruptError, "has damaged data", "restore it; its log names the table"),
    "XX002": (CorruptError, "has a damaged index", "REINDEX the table that its log names"),
    "22": (CorruptError, "has tables that lack what ours have", FRESH_START),
    "23": (CorruptError, "has tables that contradict themselves", FRESH_START),
    "42": (CorruptError, "has tables that lack what ours have", FRESH_START),
}


class ServerError(Exception):
    """An error that a server sent as its answer.

    Attributes:
        code: Its SQLSTATE.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def broken(self) -> bool:
        """The server ends the connection with it."""
        return self.code.startswith("57P") or self.code.startswith("08")


def server_error(error: ServerError, place: str, schema: str) -> EngineError:
    """Give the error that a server's answer means; the caller raises it from that."""
    code = "" if error.code == "0A000" and "recovery" not in str(error) else error.code
    known = _ERRORS.get(code) or _ERRORS.get(code[:2])
    if known is None:
        return EngineError(f"{place} answered with an error: {error}", hint="see its log", code=error.code)
    kind, what, hint = known
    return kind(f"{place} {what}: {error}", hint=hint.replace("{schema}", schema), code=error.code)


def unreached(place: str, text: str, *, password: bool = False) -> EngineError:
    """Give the error for a server to which there is no connection: libpq has only a text for why.

    Args:
        place: The server, for the message.
        text: What libpq says.
        password: The server asked for a password.
    """
    low = text.lower()
    if "does not exist" in low and "database" in low:
        return UnavailableError(f"{place} has no such database: {text}", hint=DATABASE)
    if "too many" in low or "remaining connection slots" in low:
        return UnavailableError(f"{place} has no room for another connection: {text}", hint=CONNECTIONS)
    if "read-only" in low or "hot standby" in low:
        return ReadOnlyError(f"{place} takes no writes: {text}", hint=REPLICA)
    if any(word in low for word in ("authentication failed", "no password", "pg_hba", "role")) or password:
        return DeniedError(f"{place} denies the connection: {text}", hint=LOGIN)
    return UnavailableError(f"{place} does not answer: {text}", hint=LOOK)
