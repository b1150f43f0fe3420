"""The caller's own connection, through which a record is written in the caller's own transaction."""

from __future__ import annotations

import reprlib
import sqlite3
from typing import Any, Final, Protocol

from unstale.errors import UsageError
from unstale.sources.dialects import MYSQL, POSTGRESQL, SQLITE, Dialect, dialect_of

IN_TRANSACTION: Final = 1  # of what a MySQL says of itself with each answer
KNOWN: Final = "psycopg, sqlite3, PyMySQL, and the Connection or Session of SQLAlchemy"
NO_TRANSACTION: Final = "begin a transaction around the change and this call, or write: with cache.transaction({name}):"


class Link(Protocol):
    """What a transaction needs of a connection. What is asynchronous gives what is to be awaited."""

    dialect: Dialect
    asynchronous: bool

    def refuse_autocommit(self) -> None:
        """Raise `UsageError` where a statement would be committed by itself."""

    def begin(self) -> object:
        """Begin a transaction, where the connection does not do so by itself."""

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> object:
        """Run a statement in the transaction."""

    def commit(self) -> object:
        """Commit."""

    def rollback(self) -> object:
        """Roll back."""

    def open(self) -> bool:
        """Say whether a transaction is under way."""


def _refuse() -> None:
    msg = "the connection commits each statement by itself: the record would not belong to the change"
    raise UsageError(msg, hint=NO_TRANSACTION.format(name="connection"))


class PsycopgLink:
    """A connection of psycopg 3, blocking or asynchronous."""

    dialect = POSTGRESQL

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.asynchronous = type(connection).__name__.startswith("Async") or hasattr(connection, "__aenter__")

    def refuse_autocommit(self) -> None:
        """Refuse autocommit outside of `with connection.transaction()`."""
        if self._connection.autocommit and not self.open():
            _refuse()

    def begin(self) -> object:
        """Begin."""
        return self._connection.execute("BEGIN") if self._connection.autocommit and not self.open() else None

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> object:
        """Run a statement."""
        return self._connection.execute(self.dialect.written(statement), parameters)

    def commit(self) -> object:
        """Commit."""
        return self._connection.commit()

    def rollback(self) -> object:
        """Roll back."""
        return self._connection.rollback()

    def open(self) -> bool:
        """Say whether a transaction is under way."""
        return bool(self._connection.info.transaction_status.name != "IDLE")


class SQLiteLink:
    """A connection of sqlite3."""

    dialect = SQLITE
    asynchronous = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: Any = connection
        self._mode = getattr(connection, "autocommit", -1)  # of Python 3.12; -1: as `isolation_level` says
        self._by_itself = self._mode is True or (self._mode == -1 and connection.isolation_level is None)

    def refuse_autocommit(self) -> None:
        """Refuse autocommit outside of BEGIN."""
        if self._by_itself and not self.open():
            _refuse()

    def begin(self) -> object:
        """Begin."""
        return self._connection.execute("BEGIN IMMEDIATE") if self._by_itself and not self.open() else None

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> object:
        """Run a statement."""
        return self._connection.execute(statement, parameters)

    def commit(self) -> object:
        """Commit."""
        return self._connection.execute("COMMIT") if self._mode is True else self._connection.commit()

    def rollback(self) -> object:
        """Roll back."""
        return self._connection.execute("ROLLBACK") if self._mode is True else self._connection.rollback()

    def open(self) -> bool:
        """Say whether a transaction is under way; with `autocommit=False` one always is."""
        return bool(self._connection.in_transaction)


class PyMySQLLink:
    """A connection of PyMySQL."""

    dialect = MYSQL
    asynchronous = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def refuse_autocommit(self) -> None:
        """Refuse autocommit outside of BEGIN."""
        if self._connection.get_autocommit() and not self.open():
            _refuse()

    def begin(self) -> object:
        """Begin."""
        return None if self.open() else self._connection.begin()

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> object:
        """Run a statement."""
        with self._connection.cursor() as cursor:
            return cursor.execute(self.dialect.written(statement), parameters)

    def commit(self) -> object:
        """Commit."""
        return self._connection.commit()

    def rollback(self) -> object:
        """Roll back."""
        return self._connection.rollback()

    def open(self) -> bool:
        """Say whether a transaction is under way."""
        return bool(self._connection.server_status & IN_TRANSACTION)


class AlchemyLink:
    """A Connection or Session of SQLAlchemy, blocking or asynchronous.

    Attributes:
        session: The blocking session, if it is one: its commits can be followed.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        inner = getattr(connection, "sync_session", None) or getattr(connection, "sync_connection", None)
        self.asynchronous = inner is not None
        self._inner = inner or connection
        self.session = self._inner if hasattr(self._inner, "get_bind") else None
        bind = self.session.get_bind() if self.session is not None else self._inner
        self.dialect = dialect_of(bind.dialect.name)

    def refuse_autocommit(self) -> None:
        """Refuse what is set to AUTOCOMMIT."""
        inner = self._inner.get_bind() if self.session is not None else self._inner
        if inner.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            _refuse()
        if self.asynchronous:
            return  # its driver cannot be asked from here
        connection = inner if self.session is None else self.session.connection()
        driver = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection) or type(driver).__module__.partition(".")[0] in {
            "psycopg",
            "pymysql",
        }:
            link_of(driver).refuse_autocommit()

    def begin(self) -> object:
        """Begin: it does so by itself."""
        return None

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> object:
        """Run a statement."""
        from sqlalchemy import text

        head, *rest = statement.split("?")
        named = head + "".join(f":p{number}{part}" for number, part in enumerate(rest))
        return self._connection.execute(text(named), {f"p{number}": one for number, one in enumerate(parameters)})

    def commit(self) -> object:
        """Commit."""
        return self._connection.commit()

    def rollback(self) -> object:
        """Roll back."""
        return self._connection.rollback()

    def open(self) -> bool:
        """Say whether a transaction is under way."""
        return bool(self._inner.in_transaction())


def link_of(connection: Any) -> Link:
    """Give the link to a connection.

    Raises:
        UsageError: It is none that is known.
    """
    families = {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}
    if isinstance(connection, sqlite3.Connection):
        return SQLiteLink(connection)
    if "psycopg" in families and hasattr(connection, "info"):
        return PsycopgLink(connection)
    if "pymysql" in families and hasattr(connection, "get_autocommit"):
        return PyMySQLLink(connection)
    if "sqlalchemy" in families and hasattr(connection, "in_transaction") and hasattr(connection, "execute"):
        return AlchemyLink(connection)
    msg = f"no record can be written over {reprlib.repr(connection)}"
    raise UsageError(msg, hint=f"give the connection itself; it knows those of {KNOWN}")
