"""Following the sessions of a maker: where they begin, what they run, how they end.

Everything is seen where it is executed, on the connections of the session: flushes, bulk statements, associations and
plain statements of the core alike. A statement that the unit of work did not issue was not a change.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction

from unstale.core.context import enter, leave
from unstale.core.keys import check_scope
from unstale.errors import UsageError
from unstale.sources import exact as exacts
from unstale.sources.links import as_text
from unstale.sqlalchemy.changes import Transaction
from unstale.sqlalchemy.expressions import may_write
from unstale.sqlalchemy.names import Naming
from unstale.sqlalchemy.publishing import Publisher
from unstale.sqlalchemy.reading import Reading, SessionState, loading
from unstale.sqlalchemy.statements import Statements

if TYPE_CHECKING:
    from unstale.cache import Cache

Active = tuple[Session, SessionState]


class Tracking:
    """Follows sessions for one cache.

    Args:
        cache: The cache.
        naming: Names of tables and rows.
        outbox: Records are written into an outbox, in the transaction that they are about.
        exact: Transactions are dated by what they see of the log.
    """

    def __init__(self, cache: Cache, naming: Naming, *, outbox: bool, exact: bool) -> None:
        self.cache = cache
        self._exact = exacts.head_in_snapshot(cache) if exact else None
        self.naming = naming
        self._statements = Statements(naming)
        self._reading = Reading(cache.node, naming)
        self._publisher = Publisher(cache, outbox=outbox)
        self._engines: WeakSet[Any] = WeakSet()
        # What is kept of a session, and of its connection, hangs on these: a session that nobody ends goes with them.
        self._name = f"_unstale_{id(self):x}"

    def follow(self, target: Any) -> None:
        """Listen to the sessions of a class, or to one session."""
        for name, listener in (
            ("after_transaction_create", self._began),
            ("after_begin", self._connected),
            ("after_commit", self._committed),
            ("after_rollback", self._rolled_back),
            ("after_transaction_end", self._ended),
            ("detached_to_persistent", self._attached),
        ):
            event.listen(target, name, listener)
        look_up = target._identity_lookup  # noqa: SLF001 - nothing public tells of what a session holds already

        @functools.wraps(look_up)
        def identity_lookup(*args: Any, **how: Any) -> Any:
            instance = look_up(*args, **how)
            session = target if isinstance(target, Session) else args[0]
            if instance is not None and hasattr(instance, "_sa_instance_state"):
                self._found(session, instance)
            return instance

        target._identity_lookup = identity_lookup  # noqa: SLF001

    def touch(self, session: Session, changed: Iterable[str | type]) -> None:
        """Take in changes that were named by hand.

        Raises:
            ScopeError: A scope that cannot be one, or a class that is not mapped.
        """
        found = [check_scope(one) if isinstance(one, str) else self.naming.of_class(one) for one in changed]
        if not session.in_transaction():
            session.begin()
        state: SessionState = session.info[self]
        if state.transaction is None:  # it was begun before it was tracked
            raise UsageError("the session's transaction began before it was tracked", hint="call track() earlier")
        self._changing(state.transaction, None, state)
        for one in found:
            if isinstance(one, str):
                state.transaction.now.add_scope(one)
            else:
                for names in one:
                    state.transaction.now.add(names, None)

    # A session's transactions -------------------------------------------------------------------------------------

    def _began(self, session: Session, part: SessionTransaction) -> None:
        """Take the stamp, before the database takes its snapshot (H17)."""
        if part.parent is not None and not part.nested:
            return  # a flush
        state: SessionState | None = session.info.get(self)
        if part.nested:
            if state is not None and state.transaction is not None:
                state.transaction.begin(part)
            return
        if state is None:
            state = session.info[self] = SessionState()
        if not len(session.identity_map):
            state.forget()
        node, bind = self.cache.node, session.bind
        state.joined = isinstance(bind, Connection) and bind.in_transaction()
        stamp = None if state.joined else node.stamp()  # its view may be older than this session
        runtime = self.cache.runtime
        if runtime.tail is None and self.cache.active is not None and not runtime.closed:
            runtime.start()  # by the next transaction there is a stamp
        state.begin(Transaction(part), stamp, node.clock())

    def _connected(self, session: Session, part: SessionTransaction, connection: Connection) -> None:
        state: SessionState | None = session.info.get(self)
        if state is None or state.transaction is None or part.nested:
            return
        setattr(connection, self._name, (session, state))
        transaction = state.transaction
        transaction.connections.setdefault(connection, False)
        transaction.asynchronous = connection.dialect.is_async
        driver = connection.connection.driver_connection
        if getattr(driver, "autocommit", None) is True:
            transaction.sent = True  # each statement is committed by itself, and a rollback takes nothing back
        if connection.engine not in self._engines:
            self._engines.add(connection.engine)
            self._listen(connection.engine)
        if self._exact is not None and self.cache.active is not None:
            transaction.busy, busy = True, transaction.busy
            try:
                found = connection.execute(*as_text(*self._exact)).fetchone()
            finally:
                transaction.busy = busy
            state.seen_in(*exacts.view(self.cache.node, found))

    def _committed(self, session: Session) -> None:
        state: SessionState | None = session.info.get(self)
        if state is None or state.transaction is None:
            return
        savepoint = session.get_nested_transaction()
        if savepoint is None:
            state.transaction.committed = True
        else:
            state.transaction.release(savepoint, keep=True)

    def _rolled_back(self, session: Session) -> None:
        """Note that what was prepared is no more, if the database was there to hear it."""
        state: SessionState | None = session.info.get(self)
        transaction = None if state is None else state.transaction
        if transaction is not None and not any(connection.invalidated for connection in transaction.connections):
            transaction.prepared = False

    def _ended(self, session: Session, part: SessionTransaction) -> None:
        if part.parent is not None and not part.nested:
            return
        state: SessionState | None = session.info.get(self)
        transaction = None if state is None else state.transaction
        if state is None or transaction is None:
            return
        if part.nested:
            transaction.release(part, keep=False)  # a savepoint that was released has been taken in already
            return
        for connection in tuple(transaction.connections):
            vars(connection).pop(self._name, None)
        state.end(keeps=transaction.committed and not session.expire_on_commit)
        if transaction.certain():
            transaction.over = True
        else:
            self._publisher.publish(transaction)
        if transaction.over:
            leave(transaction)

    def _attached(self, session: Session, _instance: object) -> None:
        """Note that an object came with values of a view that nobody knows (H17)."""
        state: SessionState | None = session.info.get(self)
        if state is not None:
            state.since = None

    def _found(self, session: Session, instance: object) -> None:
        state: SessionState | None = session.info.get(self)
        if state is not None:
            self._reading.found(session, state, instance)

    # Its statements -----------------------------------------------------------------------------------------------

    def _listen(self, engine: Engine) -> None:
        for name, listener in (
            ("after_execute", self._executed),
            ("before_cursor_execute", self._ran_text),
            ("handle_error", self._failed),
            ("commit", self._commits),
            ("prepare_twophase", self._prepares),
            ("commit_twophase", self._commits_prepared),
        ):
            event.listen(engine, name, listener)

    def _executed(
        self, connection: Connection, _element: Any, _many: Any, _one: Any, _options: Any, result: Any
    ) -> None:
        active: Active | None = getattr(connection, self._name, None)
        context = getattr(result, "context", None)
        compiled = getattr(context, "compiled", None)
        if active is None or compiled is None or context is None:
            return
        session, state = active
        transaction = state.transaction
        if transaction is None or transaction.busy:
            return
        statement = self._statements.of(compiled)
        if statement.writes or statement.raw:
            self._changing(transaction, connection, state, raw=statement.raw)
            for change in statement.changes(context):
                transaction.now.add(change.names, change.row)
        if statement.reads or statement.opaque:
            self._reading.executed(session, state, statement, context)

    def _changing(
        self, transaction: Transaction, connection: Connection | None, state: SessionState, *, raw: bool = False
    ) -> None:
        """Take over that something is changed: the context sees it, and a load that does so is nobody else's (H1)."""
        if state.joined and self.cache.active is not None:
            msg = "the session is part of a connection's own transaction, whose end it does not see"
            hint = (
                "bind sessions to the engine: Session(engine); in tests, write: with unstale.testing.disabled(cache):"
            )
            raise UsageError(msg, hint=hint)
        if connection is not None:
            transaction.connections[connection] = True
        transaction.now.raw |= raw
        enter(transaction)
        frame = loading()
        if frame is not None:
            frame.keep_apart()

    def _ran_text(
        self, connection: Connection, _cursor: Any, text: str, _values: Any, context: Any, _many: Any
    ) -> None:
        """See what goes to the driver as it is: nobody knows what it reads, or changes."""
        active: Active | None = getattr(connection, self._name, None)
        if active is None or context is None or context.compiled is not None or active[1].transaction is None:
            return
        _session, state = active
        if may_write(text):
            self._changing(active[1].transaction, connection, state, raw=True)
            return
        frames = self._reading.frames(state)
        if frames:
            self._reading.read_text(frames)

    def _failed(self, happened: Any) -> None:
        """Take a change that failed for one that may have come about in part."""
        active: Active | None = getattr(happened.connection, self._name, None)
        compiled = getattr(happened.execution_context, "compiled", None)
        transaction = None if active is None else active[1].transaction
        if active is None or transaction is None or compiled is None or transaction.busy:
            return
        for names in self._statements.of(compiled).written():
            transaction.now.add(names, None)
            enter(transaction)

    # Its end, as the database is asked for it ---------------------------------------------------------------------

    def _transaction_on(self, connection: Connection) -> Transaction | None:
        active: Active | None = getattr(connection, self._name, None)
        return None if active is None else active[1].transaction

    def _commits(self, connection: Connection) -> None:
        transaction = self._transaction_on(connection)
        if transaction is not None:
            self._publisher.write(transaction, connection)
            transaction.sent = True

    def _prepares(self, connection: Connection, _xid: Any) -> None:
        transaction = self._transaction_on(connection)
        if transaction is not None:
            self._publisher.write(transaction, connection, prepared=True)
            transaction.prepared = True

    def _commits_prepared(self, connection: Connection, _xid: Any, _prepared: Any) -> None:
        transaction = self._transaction_on(connection)
        if transaction is not None:
            transaction.sent = True
