"""Publishing what a transaction has changed: once, after its outermost commit, and without failing that commit.

H1   1. a record is published 2. a node applies it, loads the old row and stamps it later 3. the commit: nothing ends
     what was loaded. So nothing is published before the commit has been answered; where the answer is lost, the commit
     may have come about, and it is published all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, text
from sqlalchemy.util import await_only

from unstale.core.calls import ready
from unstale.core.ops import Spawn
from unstale.core.publish import append, catch_up, publish_once
from unstale.core.record import Record, encode_record
from unstale.drivers import BACKGROUND
from unstale.errors import UnstaleError
from unstale.requests import this_process
from unstale.sources.dialects import TABLE, dialect_of
from unstale.sqlalchemy.changes import Transaction

if TYPE_CHECKING:
    from unstale.cache import Cache

REASON = "transaction"
INSERT = text(f"INSERT INTO {TABLE} (id, cache, data) VALUES (:id, :cache, :data)")  # noqa: S608 - a name of ours
_TASKS: set[asyncio.Task[None]] = set()


class Publisher:
    """Publishes for one cache.

    Args:
        cache: The cache.
        outbox: A record is written in the transaction that it is about, and a relay sees to it in any case.
    """

    def __init__(self, cache: Cache, *, outbox: bool) -> None:
        self._cache = cache
        self._outbox = outbox
        self._statements: WeakKeyDictionary[Any, tuple[str, Sequence[str] | None]] = WeakKeyDictionary()

    def write(self, transaction: Transaction, connection: Connection, changed: Mapping[Connection, bool]) -> None:
        """Write what a transaction has changed into the outbox, as its last statement before it is committed.

        No relay is woken: this process publishes it after the commit. If it dies before, the relay finds the row by
        itself. In PostgreSQL a NOTIFY makes commits wait for one another, and a transaction with it cannot be prepared.

        Of several databases each that was changed has a row of its own, under another id: the relay of one may come
        before the commit of another, and what it has published the log would not take again.

        Args:
            transaction: The transaction.
            connection: The connection that is about to commit.
            changed: Those of the transaction, and whether it has changed something over each.

        Raises:
            UsageError: No outbox can be in that database.
            Exception: What the driver raised: the transaction cannot be committed.
        """
        if not self._outbox or self._cache.active is None or not transaction.writes:
            return
        if any(changed.values()) and not changed.get(connection):
            return
        records = self._records(transaction)
        statement, order = self._statement(connection.dialect)
        cursor = connection.connection.cursor()  # the driver's own: what SQLAlchemy does for a statement costs as much
        try:
            for record in records:
                row = {"id": record.id, "cache": self._cache.name, "data": encode_record(record)}
                cursor.execute(statement, row if order is None else tuple(row[name] for name in order))
        finally:
            cursor.close()
        transaction.written.extend(records)

    def _records(self, transaction: Transaction) -> tuple[Record, ...]:
        new_id, who, now = self._cache.node.new_id, this_process(), time.time()
        return tuple([Record(new_id(), part, who=who, why=REASON, at=now) for part in transaction.parts()])

    def _statement(self, dialect: Any) -> tuple[str, Sequence[str] | None]:
        """Give the statement that writes a row, as a driver wants it, and the order of its parameters."""
        known = self._statements.get(dialect)
        if known is None:
            dialect_of(dialect.name)
            compiled = INSERT.compile(dialect=dialect)
            known = self._statements[dialect] = (compiled.string, getattr(compiled, "positiontup", None))
        return known

    def publish(self, transaction: Transaction) -> None:
        """Publish what a transaction has changed, which has ended. What fails is reported: the commit has come about.

        Args:
            transaction: The transaction.
        """
        # In doubt, the commit may come about later, and the relay's record then: under the same id the log would not
        # take it again, and what was loaded of the old row in between would never be ended (H2).
        records = (tuple(transaction.written) if transaction.committed else ()) or self._records(transaction)
        if self._cache.active is None or not records:
            transaction.over = True
            return
        try:
            if transaction.asynchronous:
                await_only(self._cache.arun(self._announce(transaction, records)))
            else:
                self._cache.run(self._announce(transaction, records))
        except Exception as error:  # noqa: BLE001 - such as that the cache was closed: what is committed stays so
            transaction.over = True
            self._cache.node.trouble("publish", error)
        except BaseException:  # the caller is cancelled, or interrupted: what is committed has to be told all the same
            if transaction.asynchronous:
                task = asyncio.ensure_future(self._cache.arun(self._insist(transaction, records)))
                _TASKS.add(task)
                task.add_done_callback(_TASKS.discard)
            else:
                BACKGROUND.submit(lambda: self._cache.run(self._insist(transaction, records)), "publish")
            raise

    async def _announce(self, transaction: Transaction, records: tuple[Record, ...]) -> None:
        """Publish at once; if the log is away, go on trying while the caller goes on: its reads bypass the cache.

        What lies in an outbox the relay publishes.
        """
        node = self._cache.node
        if not node.joined.fired:
            await ready(node)
        if await publish_once(node, records) is None and not transaction.written:
            for record in records:
                node.end_here(record)
            await Spawn(lambda: self._insist(transaction, records), "publish")
        else:
            transaction.over = True

    async def _insist(self, transaction: Transaction, records: tuple[Record, ...]) -> None:
        """Publish as long as anyone should try; then nodes may serve the old value up to its time to live."""
        try:
            await append(self._cache.node, records)
            await catch_up(self._cache.node)
        except UnstaleError as error:
            self._cache.node.trouble("publish", error)
        finally:
            transaction.over = True
