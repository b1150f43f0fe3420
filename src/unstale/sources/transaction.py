"""Invalidating within a transaction: the record is a row of it, and is published when it is committed.

1. the change and the record are written in one transaction: rolled back, neither ever was (H1)
2. committed, both are there for good: a process that dies here loses nothing, the relay reads the row (H2)
3. the process that committed publishes the record at once; the relay will, under the same id, if it cannot
4. the relay deletes the row when the log has acknowledged it: nobody else does
"""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unstale.core.context import tickets_here
from unstale.core.publish import publish_once, unpublished
from unstale.core.record import Record, encode_record
from unstale.drivers import BACKGROUND
from unstale.errors import UnstaleError, UsageError
from unstale.requests import record_of
from unstale.sources.dialects import TABLE, checked
from unstale.sources.links import AlchemyLink, Link, link_of

if TYPE_CHECKING:
    from unstale.cache import Cache

HINT = "write: with cache.transaction(connection) as tx: ..., or call it after the commit; the relay needs no call"


class Transaction:
    """Writes invalidations into the outbox, within the transaction of a connection, which it never ends.

    Args:
        cache: The cache.
        connection: The connection.
        table: The outbox's table.
    """

    def __init__(self, cache: Cache, connection: Any, table: str) -> None:
        self._cache = cache
        self.link: Link = link_of(connection)
        self._insert = self.link.dialect.insert(checked(table), cache.name)
        session = self.link.session if isinstance(self.link, AlchemyLink) else None
        self._pending: list[Record] = [] if session is None else self._followed(session)

    def invalidate(
        self,
        *scopes: str,
        soft: bool = False,
        version: int | None = None,
        reason: str | None = None,
        trace: str = "",
    ) -> None:
        """Let the commit end all entries that depend on any of the scopes, on every node; a rollback ends nothing.

        Args:
            scopes: The scopes.
            soft: The entries may be served, flagged stale, within their grace while they are refreshed.
            version: The source's version of the key that changed: entries at least so new are not ended.
            reason: Why, for those who read the log.
            trace: W3C `traceparent` of the change.

        Raises:
            UsageError: The connection has to be awaited, or commits each statement by itself.
            ScopeError: A scope that cannot be one.
            ValueTypeError: A version that is no integer of 64 bits.
            Exception: What the driver raised: the transaction is to be rolled back.
        """
        if self.link.asynchronous:
            msg = "the connection has to be awaited"
            raise UsageError(msg, hint="write: await cache.in_transaction(connection).ainvalidate(...)")
        record = record_of(self._cache.node, scopes, soft=soft, version=version, reason=reason, trace=trace)
        self._write(record)
        self._note(record)

    async def ainvalidate(
        self,
        *scopes: str,
        soft: bool = False,
        version: int | None = None,
        reason: str | None = None,
        trace: str = "",
    ) -> None:
        """Let the commit end all entries that depend on any of the scopes: see `invalidate`."""
        record = record_of(self._cache.node, scopes, soft=soft, version=version, reason=reason, trace=trace)
        await _awaited(self._write(record))
        self._note(record)

    def _write(self, record: Record) -> object:
        if self._cache.disabled:
            return None
        self.link.refuse_autocommit()
        return self.link.execute(self._insert, (record.id, self._cache.name, encode_record(record)))

    def _note(self, record: Record) -> None:
        if not self._cache.disabled:
            self._pending.append(record)
            # Until it is, reads of this code's session go past the cache.
            unpublished(self._cache.node, (record,), failed=False)

    def publish(self) -> None:
        """Publish at once what was committed: call it after the commit, of a session of SQLAlchemy never.

        What fails is reported, not raised: the relay publishes it.

        Raises:
            UsageError: The transaction is still under way.
        """
        self._refuse_early()
        publish_now(self._cache, self.taken())

    async def apublish(self) -> None:
        """Publish at once what was committed: see `publish`."""
        self._refuse_early()
        await apublish_now(self._cache, self.taken())

    def forget(self) -> None:
        """Publish nothing of what was written so far: it was rolled back."""
        _rolled_back(self._pending)

    def _refuse_early(self) -> None:
        # 1. the record is published 2. a node applies it, loads the old row, and stamps it later 3. the commit: nothing
        # ends what was loaded (H1). So nothing is published while a transaction is under way.
        if self._pending and self.link.open():
            msg = "the transaction is not committed yet: what would be published now could come before the change"
            raise UsageError(msg, hint=HINT)

    def taken(self) -> tuple[Record, ...]:
        """Give what was written so far, once: it is committed."""
        records = tuple(self._pending)
        self._pending.clear()
        return records

    def _followed(self, session: Any) -> list[Record]:
        """Give the records of a session that wait for its commit; the first time, begin to follow its commits."""
        from sqlalchemy import event

        key = ("unstale", id(self._cache))
        known: tuple[Cache, list[Record]] | None = session.info.get(key)
        if known is not None:
            return known[1]
        cache, pending, asynchronous = self._cache, list[Record](), self.link.asynchronous
        session.info[key] = (cache, pending)

        def committed(one: Any) -> None:
            # Of a savepoint too, and of a session within somebody else's transaction: there the relay publishes.
            if one.in_nested_transaction():
                return
            records = tuple(pending)
            pending.clear()
            if _within(one):
                return
            if asynchronous:
                BACKGROUND.submit(lambda: publish_now(cache, records), "publish")
            else:
                publish_now(cache, records)

        def rolled_back(_one: Any, _previous: Any) -> None:
            _rolled_back(pending)  # of a savepoint too: which records are left, the relay reads

        event.listen(session, "after_commit", committed)
        event.listen(session, "after_soft_rollback", rolled_back)
        return pending


def publish_now(cache: Cache, records: tuple[Record, ...]) -> None:
    """Publish what was committed, once and without raising: what is committed must not look as if it were not."""
    if not records:
        return
    try:
        cache.run(publish_once(cache.node, records))
    except UnstaleError as error:  # the cache was closed
        cache.node.trouble("publish", error)


async def apublish_now(cache: Cache, records: tuple[Record, ...]) -> None:
    """Publish what was committed, once and without raising: see `publish_now`."""
    if not records:
        return
    try:
        await cache.arun(publish_once(cache.node, records))
    except UnstaleError as error:  # the cache was closed
        cache.node.trouble("publish", error)


def _rolled_back(pending: list[Record]) -> None:
    tickets = tickets_here()
    if tickets is not None:
        for record in pending:
            tickets.forget(record)
    pending.clear()


def _within(session: Any) -> bool:
    """Say whether a session was given a connection, in whose own transaction it may take part."""
    return hasattr(session.get_bind(), "in_transaction") and session.get_bind().in_transaction()


async def _awaited(value: object) -> object:
    return await value if inspect.isawaitable(value) else value


class Block:
    """A transaction that ends with its block: committed and published, or rolled back if the block raised."""

    def __init__(self, cache: Cache, connection: Any, table: str) -> None:
        self._cache = cache
        self._transaction = Transaction(cache, connection, table)
        self._link = self._transaction.link

    def __enter__(self) -> Transaction:
        if self._link.asynchronous:
            raise UsageError(
                "the connection has to be awaited", hint="write: async with cache.transaction(connection):"
            )
        self._link.begin()
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._transaction.forget()
            self._link.rollback()
            return
        self._link.commit()
        publish_now(self._cache, self._transaction.taken())

    async def __aenter__(self) -> Transaction:
        await _awaited(self._link.begin())
        return self._transaction

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._transaction.forget()
            await _awaited(self._link.rollback())
            return
        await _awaited(self._link.commit())
        await apublish_now(self._cache, self._transaction.taken())


def in_transaction(cache: Cache, connection: Any, *, table: str = TABLE) -> Transaction:
    """Invalidate within the caller's transaction: `cache.in_transaction(connection).invalidate("product:17")`.

    The record is a row of that transaction. The caller commits; then a session of SQLAlchemy publishes it at once, for
    other connections so does `publish()`, and the relay does it in any case.

    Args:
        cache: The cache.
        connection: Of psycopg, sqlite3, PyMySQL, or a Connection or Session of SQLAlchemy, in a transaction.
        table: The outbox's table.

    Raises:
        UsageError: The connection is none that is known.
    """
    return Transaction(cache, connection, table)


def transaction(cache: Cache, connection: Any, *, table: str = TABLE) -> Block:
    """Change and invalidate in one transaction: `with cache.transaction(connection) as tx:`; it commits, and publishes.

    If the block raises, it is rolled back, and nothing is published.

    Args:
        cache: The cache.
        connection: As for `in_transaction`; `async with` where it has to be awaited.
        table: The outbox's table.

    Raises:
        UsageError: The connection is none that is known.
    """
    return Block(cache, connection, table)


def check_truth(truth: object) -> bool:
    """Say whether a relay tells the log of changes.

    Raises:
        UsageError: It is no kind of source.
    """
    if truth not in {None, "outbox"}:
        raise UsageError(f"truth={truth!r} is no kind of source", hint='write truth="outbox", or leave it out')
    return truth is not None
