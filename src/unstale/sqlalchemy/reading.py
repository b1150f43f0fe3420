"""Automatic tags: what a cached function reads through a tracked session, its entry depends on.

The interleavings that this file defeats:

H6   a loader forgets a tag: what is read is tagged where it is read, and not where somebody remembers to
H17  a session reads in a view, or from objects, of before the load: the load is dated back to that (`since`)
H1   a session has written and not committed: what is loaded through it reaches nobody else
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Table
from sqlalchemy import inspect as look_at
from sqlalchemy.orm import Session

from unstale.core.context import surroundings
from unstale.core.frame import Frame
from unstale.core.keys import check_scope
from unstale.core.record import Stamp
from unstale.errors import ScopeError, UsageError
from unstale.sqlalchemy.changes import Sent, Transaction
from unstale.sqlalchemy.expressions import plain_column, plain_table, tables_in
from unstale.sqlalchemy.names import Naming
from unstale.sqlalchemy.statements import Statement

if TYPE_CHECKING:
    from unstale.core.node import Node

HELD_MAX = 100
"""A session that holds more objects than these is not looked through."""
_narrowed: ContextVar[tuple[str, ...]] = ContextVar("unstale_narrowed", default=())


def loading() -> Frame | None:
    """Give the load under way."""
    around = surroundings.get()
    return None if around is None else around.frame


@contextmanager
def narrowed(*scopes: str) -> Iterator[None]:
    """Let queries in the block depend on these scopes in place of whole tables.

    A query of one tenant's products depends on the table `product`, and ends when any product changes. Narrowed to
    `tenant:acme`, it ends when somebody publishes `tenant:acme`: by `touched()`, where that tenant's products change. A
    change of unknown rows ends it all the same. Text, whose tables nobody knows, depends on these scopes alone.

    Args:
        scopes: At least one, such as `"tenant:acme"`.

    Raises:
        ScopeError: A scope that cannot be one, or none.
    """
    if not scopes:
        raise ScopeError("narrowed() was given no scope", hint='write narrowed("tenant:acme")')
    token = _narrowed.set(tuple(map(check_scope, scopes)))
    try:
        yield
    finally:
        _narrowed.reset(token)


class SessionState:
    """What one cache keeps of one session.

    Attributes:
        transaction: The one that is open.
        connections: Those that it has, and whether it has changed something over each.
        joined: It takes part in a transaction that was begun on its connection by somebody else.
        since: What had been applied when the oldest view was taken of which the session may still hold objects; None
            when that is not known.
        view_from: The moment of that.
        seen: The tables that it has read since then.
        met: The loads that have read through it in this transaction.
        sent: The insert that was executed last.
    """

    __slots__ = ("__weakref__", "connections", "joined", "met", "seen", "sent", "since", "transaction", "view_from")

    def __init__(self) -> None:
        self.transaction: Transaction | None = None
        self.connections: dict[Connection, bool] = {}
        self.joined = False
        self.since: Stamp | None = None
        self.view_from: float | None = None
        self.seen: set[str] = set()
        self.met: set[Frame] = set()
        self.sent: Sent | None = None

    def begin(self, transaction: Transaction, stamp: Stamp | None, now: float) -> None:
        """Begin a transaction, before its view is taken."""
        self.transaction = transaction
        if self.view_from is None:  # else the session holds objects of an earlier view
            self.since, self.view_from = stamp, now

    def seen_in(self, stamp: Stamp | None, view_from: float) -> None:
        """Take over what the transaction's own view shows of the log: it may be older than its begin."""
        known = self.since
        if stamp is None or known is None or stamp.generation != known.generation:
            self.since = None
        elif stamp.position < known.position:
            self.since = stamp
        self.view_from = view_from if self.view_from is None else min(self.view_from, view_from)

    def end(self, *, keeps: bool) -> None:
        """End the transaction; `keeps`: the session keeps the objects as they are."""
        self.transaction = self.sent = None
        self.connections.clear()
        self.met.clear()
        if not keeps:
            self.forget()

    def forget(self) -> None:
        """Take over that the session holds nothing any more."""
        self.since = self.view_from = None
        self.seen.clear()


class Reading:
    """Tags the loads that read through tracked sessions.

    Args:
        node: Of the cache.
        naming: Names of tables and rows.
    """

    def __init__(self, node: Node, naming: Naming) -> None:
        self._node = node
        self._naming = naming
        self._hanging: WeakKeyDictionary[Any, dict[str, tuple[str, ...]]] = WeakKeyDictionary()

    def frames(self, state: SessionState) -> list[Frame]:
        """Give the loads of this cache under way, from the innermost on."""
        frame = loading()
        logs = {None, self._node.generation, None if state.since is None else state.since.generation}
        found = []
        while frame is not None:
            if frame.log in logs:
                found.append(frame)
            frame = frame.outer
        return found

    def executes(self, session: Session, state: SessionState, statement: Statement, context: Any) -> None:
        """Tag the loads under way with what a query reads."""
        frames = self.frames(state) if loading() is not None else ()
        if frames:
            self._meet(session, state, frames)
            if statement.opaque:
                self.read_text(frames)
            values = context.compiled_parameters[0] if context.compiled_parameters else {}
            for names, rows in statement.scopes_read(values):
                narrow = (_narrowed.get() or (names.table,)) if rows is None else rows
                for frame in frames:
                    frame.scopes.update(dict.fromkeys((names.rows, *narrow)))
        state.seen.update(statement.tables)

    def found(self, session: Session, state: SessionState, instance: object) -> None:
        """Tag the loads under way with an object that the session held already, so that nothing was asked for it."""
        frames = self.frames(state) if loading() is not None else ()
        if not frames:
            return
        self._meet(session, state, frames)
        known: Any = look_at(instance)
        columns = [plain_column(column) for column in known.mapper.primary_key]
        scopes = set(state.seen)
        if isinstance(columns[0].table, Table):
            names = self._naming.of(columns[0].table)
            dialect = session.get_bind(known.mapper).dialect.name
            row = names.row(dict(zip(columns, known.identity or (), strict=False)), dialect)
            scopes = {names.rows, names.table if row is None else row}
        for frame in frames:
            frame.scopes.update(dict.fromkeys(scopes))

    def read_text(self, frames: Iterable[Frame]) -> None:
        """Tag loads with what a text has read: nobody knows what, so they are not kept unless somebody says it."""
        named = _narrowed.get()
        for frame in frames:
            frame.scopes.update(dict.fromkeys(named))
            frame.skipped |= not named
        if not named:
            msg = "a cached function reads by SQL text, whose tables are not known: its result is not kept"
            hint = 'write: with unstale.sqlalchemy.narrowed("product:17"): session.execute(text(...))'
            self._node.trouble("tag", UsageError(msg, hint=hint))

    def _meet(self, session: Session, state: SessionState, frames: Sequence[Frame]) -> None:
        """Date loads back to what their session may hold, and tag them with what they can read there unseen.

        1. outside of any load, order 5 is read and its lines with it 2. a cached function reads order 5 by the same
        session, and walks along its lines: they are there, and nothing is executed for them.
        """
        transaction = state.transaction
        pending = bool(session.new or session.dirty or session.deleted)
        if pending or (transaction is not None and transaction.writes):
            frames[0].keep_apart()
        new = [frame for frame in frames if frame not in state.met]
        if new:
            state.met.update(new)
            held = dict.fromkeys(self._held(session, state))
            for frame in new:
                frame.scopes.update(held)
        for frame in frames:
            frame.look_back(state.since, self._node.clock() if state.view_from is None else state.view_from)

    def _held(self, session: Session, state: SessionState) -> Iterable[str]:
        """Give the tables of what hangs on the objects that a session holds; of many, all that it has read."""
        if len(session.identity_map) > HELD_MAX:
            return tuple(state.seen)
        scopes = set[str]()
        for instance in session.identity_map.values():
            known: Any = look_at(instance)
            hanging = self._hanging.get(known.mapper)
            if hanging is None:
                hanging = self._hanging[known.mapper] = dict(self._hanging_of(known.mapper))
            for key in hanging.keys() & known.dict.keys():
                scopes.update(hanging[key])
        return scopes

    def _hanging_of(self, mapper: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Give the attributes of a class that are read from other tables than its own, and those tables."""
        for one in mapper.relationships:
            tables = [*one.mapper.tables, *(() if one.secondary is None else [one.secondary])]
            yield one.key, tuple(self._naming.of(plain_table(table)).table for table in tables)
        for one in mapper.column_attrs:
            tables = [table for column in one.columns for table in tables_in(column)]
            if tables:
                yield one.key, tuple(self._naming.of(table).table for table in tables)
