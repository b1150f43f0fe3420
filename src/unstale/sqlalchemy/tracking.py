"""Following the sessions of a maker: where they begin, what they run, how they end.

Everything is seen where it is executed, on the connections of the session: flushes, bulk statements, associations and
plain statements of the core alike. A statement that the unit of work did not issue was not a change.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import ref

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from unstale.core.context import enter, leave
from unstale.core.keys import check_scope
from unstale.errors import UsageError
from unstale.sources import exact as exacts
from unstale.sources.links import as_text
from unstale.sqlalchemy.autocommit import commits_itself, released_all
from unstale.sqlalchemy.changes import Transaction
from unstale.sqlalchemy.expressions import may_write
from unstale.sqlalchemy.names import Naming
from unstale.sqlalchemy.publishing import Publisher
from unstale.sqlalchemy.reading import Reading, SessionState, loading
from unstale.sqlalchemy.statements import Statement

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
        self._reading = Reading(cache.node, naming)
        self._publisher = Publisher(cache, outbox=outbox)
        # What is kept of sessions, connections, compiled statements ... hangs on these, and goes with them.
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
        state: SessionState = getattr(session, self._name)
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
        state: SessionState | None = getattr(session, self._name, None)
        if part.nested:
            if state is not None and state.transaction is not None:
                state.transaction.begin(part)
            return
        if state is None:
            state = SessionState()
            setattr(session, self._name, state)
        elif not len(session.identity_map):
            state.forget()
        node, bind = self.cache.node, session.bind
        state.joined = isinstance(bind, Connection) and bind.in_transaction()
        stamp = None if state.joined else node.stamp()  # its view may be older than this session
        runtime = self.cache.runtime
        if runtime.tail is None and self.cache.active is not None and not runtime.closed:
            runtime.start()  # by the next transaction there is a stamp
        state.begin(Transaction(part), stamp, node.clock())

    def _connected(self, session: Session, part: SessionTransaction, connection: Connection) -> None:
        state: SessionState | None = getattr(session, self._name, None)
        if state is None or state.transaction is None or part.nested:
            return
        setattr(connection, self._name, (session, state))
        transaction = state.transaction
        state.connections.setdefault(connection, False)
        dialect, driver = connection.dialect, connection.connection
        transaction.asynchronous = dialect.is_async
        transaction.sent |= commits_itself(connection)  # each statement: a rollback takes nothing back
        if not hasattr(dialect, self._name):
            setattr(dialect, self._name, True)
            self._listen(dialect)
        if session.twophase and not hasattr(connection.engine, self._name):
            setattr(connection.engine, self._name, True)
            event.listen(connection.engine, "prepare_twophase", self._prepares)
            event.listen(connection.engine, "commit_twophase", self._commits_prepared)
        setattr(driver, self._name, ref(connection))
        if self._exact is not None and self.cache.active is not None:
            transaction.busy, busy = True, transaction.busy
            try:
                found = connection.execute(*as_text(*self._exact)).fetchone()
            finally:
                transaction.busy = busy
            state.seen_in(*exacts.view(self.cache.node, found))

    def _committed(self, session: Session) -> None:
        state: SessionState | None = getattr(session, self._name, None)
        if state is None or state.transaction is None:
            return
        savepoint = session.get_nested_transaction()
        if savepoint is None:
            state.transaction.committed = True
        else:
            state.transaction.release(savepoint, keep=True)
            if any(released_all(connection) for connection in state.connections):
                state.transaction.sent = True

    def _rolled_back(self, session: Session) -> None:
        """Note that what was prepared is no more, if the database was there to hear it."""
        state: SessionState | None = getattr(session, self._name, None)
        transaction = None if state is None else state.transaction
        if state is not None and transaction is not None and not any(one.invalidated for one in state.connections):
            transaction.prepared = False

    def _ended(self, session: Session, part: SessionTransaction) -> None:
        if part.parent is not None and not part.nested:
            return
        state: SessionState | None = getattr(session, self._name, None)
        transaction = None if state is None else state.transaction
        if state is None or transaction is None:
            return
        if part.nested:
            transaction.release(part, keep=False)  # a savepoint that was released has been taken in already
            return
        for connection in state.connections:
            vars(connection).pop(self._name, None)
        transaction.settle()
        state.end(keeps=transaction.committed and not session.expire_on_commit)
        if transaction.certain():
            transaction.over = True
        else:
            self._publisher.publish(transaction)
        if transaction.over:
            leave(transaction)

    def _attached(self, session: Session, _instance: object) -> None:
        """Note that an object came with values of a view that nobody knows (H17)."""
        state: SessionState | None = getattr(session, self._name, None)
        if state is not None:
            state.since = None

    def _found(self, session: Session, instance: object) -> None:
        state: SessionState | None = getattr(session, self._name, None)
        if state is not None:
            self._reading.found(session, state, instance)

    # Its statements -----------------------------------------------------------------------------------------------

    def _listen(self, dialect: Any) -> None:
        """Listen to what is executed, where that costs statements least: events of engines slow down each of them."""
        for name, listener in (
            ("do_execute", self._executes),
            ("do_executemany", self._executes),
            ("do_execute_no_params", lambda cursor, text, context: self._executes(cursor, text, None, context)),
            ("handle_error", self._failed),
        ):
            event.listen(dialect, name, listener, insert=True)  # one that executes by itself hides it from the rest
        do_commit = dialect.do_commit

        @functools.wraps(do_commit)
        def commit(driver: Any) -> None:
            found: ref[Connection] | None = getattr(driver, self._name, None)
            connection = None if found is None else found()
            if connection is not None:
                self._commits(connection)
            do_commit(driver)

        dialect.do_commit = commit  # the event of the same moment is one of those that slow down

    def _executes(self, _cursor: Any, text: str, _values: Any, context: Any) -> None:
        """See what is about to be executed; of what the driver is given as it is nobody knows what it reads."""
        active: Active | None = getattr(getattr(context, "root_connection", None), self._name, None)
        if active is None:
            return
        session, state = active
        transaction = state.transaction
        if transaction is None or transaction.busy:
            return
        connection, compiled = context.root_connection, context.compiled
        if compiled is None:
            if may_write(text):
                self._changing(transaction, connection, state, raw=True)
            elif frames := self._reading.frames(state):
                self._reading.read_text(frames)
            return
        statement = self._statement_of(compiled)
        if statement.writes or statement.raw:
            self._changing(transaction, connection, state, raw=statement.raw)
            state.sent = transaction.note(statement, context)
        if statement.reads or statement.opaque:
            self._reading.executes(session, state, statement, context)

    def _statement_of(self, compiled: Any) -> Statement:
        """Give what a compiled statement reads and changes: it is looked at once."""
        statement: Statement | None = getattr(compiled, self._name, None)
        if statement is None:
            statement = Statement(compiled, self.naming)
            setattr(compiled, self._name, statement)
        return statement

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
            state.connections[connection] = True
        transaction.now.raw |= raw
        enter(transaction)
        frame = loading()
        if frame is not None:
            frame.keep_apart()

    def _failed(self, happened: Any) -> None:
        """Take a change that failed for one that may have come about in part."""
        active: Active | None = getattr(happened.connection, self._name, None)
        compiled = getattr(happened.execution_context, "compiled", None)
        transaction = None if active is None else active[1].transaction
        if active is None or transaction is None or compiled is None or transaction.busy:
            return
        statement = self._statement_of(compiled)
        if statement.writes:
            transaction.failed(statement)
            enter(transaction)

    # Its end, as the database is asked for it ---------------------------------------------------------------------

    def _commits(self, connection: Connection) -> None:
        active: Active | None = getattr(connection, self._name, None)
        if active is not None and active[1].transaction is not None:
            self._publisher.write(active[1].transaction, connection, active[1].connections)
            active[1].transaction.sent = True

    def _prepares(self, connection: Connection, _xid: Any) -> None:
        active: Active | None = getattr(connection, self._name, None)
        if active is not None and active[1].transaction is not None:
            self._publisher.write(active[1].transaction, connection, active[1].connections)
            active[1].transaction.prepared = True

    def _commits_prepared(self, connection: Connection, _xid: Any, _prepared: Any) -> None:
        active: Active | None = getattr(connection, self._name, None)
        if active is not None and active[1].transaction is not None:
            active[1].transaction.sent = True
