"""Connections of this library's own to the database of an outbox, for the relay and the commands."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from unstale.errors import SourceError, UsageError
from unstale.sources.dialects import MYSQL, POSTGRESQL, SQLITE, Dialect

TIMEOUT_S: Final = 5
LOOK_S: Final = 0.02  # how often a database that cannot call is asked
HINT: Final = (
    'write "postgresql://user@host:5432/database", "mysql://user@host:3306/database" or "sqlite:///path/to/file"'
)
LOOK: Final = "look whether it runs and lets this user in; until then nothing is proven, and what was told is not lost"
MISSING: Final = "make its tables: unstale outbox ddl --dialect {dialect}, and run what that prints"


class Database:
    """One connection, in which each statement is a transaction of its own that sees all that is committed by then.

    Args:
        connection: The driver's.
        dialect: What it speaks.
        error: What its driver raises.
        place: The database, for messages.
        path: Its file, if it is one.
    """

    def __init__(self, connection: Any, dialect: Dialect, error: type[Exception], place: str, path: str = "") -> None:
        self.connection = connection
        self.dialect = dialect
        self.place = place
        self._error = error
        self._path = path
        self._file = _file(path) if path else None
        self._version: object = None

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            missing = "exist" in str(error) or "no such table" in str(error)
            hint = MISSING.format(dialect=self.dialect.name) if missing else LOOK
            raise SourceError(f"{self.place}: {error}".strip(), hint=hint) from error

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement: the rows that it gives.

        Raises:
            SourceError: It failed.
        """
        with self._mapped():
            cursor = self.connection.cursor()
            try:
                cursor.execute(self.dialect.written(statement), tuple(parameters))
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            finally:
                cursor.close()

    def stream(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Run a statement of PostgreSQL, and give its rows one by one: never all of them are in memory.

        Raises:
            SourceError: It failed.
        """
        with self._mapped(), self.connection.cursor() as cursor:
            yield from cursor.stream(self.dialect.written(statement), tuple(parameters), binary=True)

    def together(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Run statements in one transaction.

        Raises:
            SourceError: One failed: nothing was done.
        """
        with self._mapped():
            cursor = self.connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE" if self.dialect is SQLITE else "BEGIN")
                for statement, parameters in statements:
                    cursor.execute(self.dialect.written(statement), tuple(parameters))
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(self._error):  # the connection may be what failed
                    cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()

    def script(self, statements: Sequence[str]) -> None:
        """Run statements as they stand, in one transaction where the database can: MySQL commits each by itself.

        Raises:
            SourceError: One failed.
        """
        with self._mapped():
            cursor = self.connection.cursor()
            try:
                for statement in ("BEGIN IMMEDIATE" if self.dialect is SQLITE else "BEGIN", *statements, "COMMIT"):
                    cursor.execute(statement)
            except BaseException:
                with contextlib.suppress(self._error):  # the connection may be what failed
                    cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()

    def listen(self, channel: str) -> None:
        """Let `wait` hear what is announced on a channel, where the database can announce."""
        if self.dialect is POSTGRESQL:
            self.rows(f"LISTEN {channel}")

    def wait(self, seconds: float, ready: Callable[[], bool]) -> bool:
        """Wait until something was announced or committed, or where neither shows, until `ready` says so.

        Raises:
            SourceError: The connection is gone, or the file is another one.
        """
        if self.dialect is POSTGRESQL:
            with self._mapped():
                return len(list(self.connection.notifies(timeout=seconds, stop_after=1))) > 0
        limit = time.monotonic() + seconds
        while not (ready() if self._path == "" else self._changed()):
            left = limit - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, LOOK_S))
        return True

    def _changed(self) -> bool:
        """Say whether another connection has committed to the file since this was last asked."""
        self.look()
        ((version,),) = self.rows("PRAGMA data_version")
        changed, self._version = bool(version != self._version), version
        return changed

    def look(self) -> str:
        """Name the file that this connection has open, empty where it is no file.

        Raises:
            SourceError: Another one lies at its path: what is committed there is not seen here.
        """
        if self._file is not None and _file(self._path) != self._file:
            raise SourceError(f"{self.place} was replaced", hint="it is opened anew; its caches begin anew")
        return "" if self._file is None else self._file

    def close(self) -> None:
        """Close it; what fails then does not matter."""
        with contextlib.suppress(Exception):
            self.connection.close()


def _file(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - the numbers alone
    except OSError:
        return "gone"
    return f"{found.st_dev}:{found.st_ino}"


def connect(url: str) -> Database:
    """Open a connection to the database that a URL names.

    Raises:
        UsageError: It names none, or its driver is not installed.
        SourceError: The database cannot be reached.
    """
    scheme = urlsplit(url).scheme.partition("+")[0] if isinstance(url, str) else ""
    openers = {"postgresql": _postgres, "postgres": _postgres, "mysql": _mysql, "mariadb": _mysql, "sqlite": _sqlite}
    if scheme not in openers:
        raise UsageError("the URL names no database that can hold an outbox", hint=HINT)
    try:
        return openers[scheme](url)
    except ImportError as error:
        extra = "postgres" if scheme.startswith("postgres") else "mysql"
        raise UsageError(f"{scheme}:// needs {error.name}", hint=f'pip install "unstale[{extra}]"') from error


def _postgres(url: str) -> Database:
    import psycopg

    parts = urlsplit(url)
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    url = f"postgresql://{url.partition('://')[2]}"
    kept = {"connect_timeout": TIMEOUT_S, "tcp_user_timeout": TIMEOUT_S * 1000, "application_name": "unstale relay"}
    try:
        known = psycopg.conninfo.conninfo_to_dict(url)
        connection = psycopg.connect(url, autocommit=True, **{name: kept[name] for name in kept if name not in known})  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise SourceError(f"{place}: {error}".strip(), hint=LOOK) from error
    return Database(connection, POSTGRESQL, psycopg.Error, place)


def _mysql(url: str) -> Database:
    import pymysql

    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    socket = options.pop("unix_socket", "")
    if options:
        raise UsageError(f"mysql:// knows no option {', '.join(sorted(options))}", hint="it knows unix_socket=/path")
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    given: dict[str, Any] = {"unix_socket": socket} if socket else {}
    try:
        connection = pymysql.connect(
            host=parts.hostname or "localhost", port=parts.port or 3306, user=unquote(parts.username or "") or None,
            password=unquote(parts.password or ""), database=unquote(parts.path.removeprefix("/")) or None,
            charset="utf8mb4", autocommit=True, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S,
            write_timeout=TIMEOUT_S, init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", **given,
        )  # fmt: skip
    except pymysql.Error as error:
        raise SourceError(f"{place}: {error}".strip(), hint=LOOK) from error
    return Database(connection, MYSQL, pymysql.Error, place)


def _sqlite(url: str) -> Database:
    path = unquote(urlsplit(url).path).removeprefix("/")
    if not Path(path).is_file():
        raise SourceError(
            f"there is no file {path}", hint="correct the path: sqlite:///shop.db, sqlite:////srv/shop.db"
        )
    try:
        connection = sqlite3.connect(path, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.Error as error:
        raise SourceError(f"{path}: {error}", hint=LOOK) from error
    return Database(connection, SQLITE, sqlite3.Error, path, path)
