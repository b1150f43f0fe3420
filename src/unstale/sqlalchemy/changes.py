"""What the transaction of a session has changed, savepoint by savepoint, until it is published or rolled back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import ref

from unstale.core.record import EVERYTHING
from unstale.sqlalchemy.names import Names
from unstale.sqlalchemy.statements import Statement

SCOPES_MAX = 500
"""A record has so many scopes at most; a transaction that changes more rows publishes several, by one append."""


class Sent:
    """An insert that is executed: once it has come about, the database has said which keys its rows have.

    Its context holds on to the connection, so the session alone may keep this alive.

    Attributes:
        statement: The statement.
        context: Of its execution.
        changes: Where its rows belong to.
    """

    __slots__ = ("__weakref__", "changes", "context", "statement")

    def __init__(self, statement: Statement, context: Any, changes: Changes) -> None:
        self.statement = statement
        self.context = context
        self.changes = changes

    def settle(self) -> None:
        """Take in its rows."""
        try:
            found = self.statement.changes(self.context)
        except Exception:  # noqa: BLE001 - it was broken off: what it would have told of its rows is not there
            self.changes.add_failed(self.statement)
        else:
            for names, row in found:
                self.changes.add(names, row)


class Changes:
    """The scopes of the changes since one savepoint, or since the begin of the transaction.

    Attributes:
        scopes: All of them.
        raw: Something was changed by a text, and nobody knows what.
    """

    __slots__ = ("raw", "scopes")

    def __init__(self) -> None:
        self.scopes: dict[str, None] = {}
        self.raw = False

    def add(self, names: Names, row: tuple[str, ...] | None) -> None:
        """Take in the change of a row of a table, by its scopes; of any row, if there are None."""
        self.scopes[names.table] = None
        for scope in (names.rows,) if row is None else row:
            self.scopes[scope] = None

    def add_failed(self, statement: Statement) -> None:
        """Take in a statement that failed: it may have come about in part, and nobody knows in which."""
        for names in statement.written():
            self.add(names, None)

    def add_scope(self, scope: str) -> None:
        """Take in a scope that was named by hand."""
        self.scopes[scope] = None

    def merge(self, other: Changes) -> None:
        """Take in the changes since a savepoint that was released."""
        self.scopes.update(other.scopes)
        self.raw |= other.raw


class Transaction:
    """The transaction of one session, as one cache sees it: it may have changed what its own reads must not miss.

    It may be seen in a context for longer than its session lives, and so does not keep that alive.

    Attributes:
        sent: A commit has been sent: whatever its answer, it may have come about.
        prepared: The first of two phases has been sent: the transaction may be committed from elsewhere.
        committed: The commit was acknowledged.
        over: It has ended, and nothing of it waits to be published.
        busy: It asks what its view shows of the log.
        asynchronous: It is one of an asynchronous session.
        written: What it has written into outboxes.
    """

    __slots__ = (
        "__weakref__",
        "_levels",
        "_root",
        "_sent",
        "asynchronous",
        "busy",
        "committed",
        "over",
        "prepared",
        "sent",
        "written",
    )

    def __init__(self, root: Any) -> None:
        self.sent = self.prepared = self.committed = self.over = self.busy = self.asynchronous = False
        self.written: list[Any] = []
        self._root = ref(root)
        self._sent: ref[Sent] | None = None
        self._levels: list[tuple[int, Changes]] = [(id(root), Changes())]

    @property
    def now(self) -> Changes:
        """The changes since the innermost savepoint."""
        return self._levels[-1][1]

    @property
    def writes(self) -> bool:
        """Something was changed, and is not published yet."""
        if self.over:
            return False
        return self._sent is not None or any(changes.scopes or changes.raw for _level, changes in self._levels)

    def note(self, statement: Statement, context: Any) -> Sent | None:
        """Note that a statement is executed that changes rows.

        Args:
            statement: The statement.
            context: Of its execution.

        Returns:
            What the session is to keep until the next one, if it is an insert.
        """
        self.settle(context)
        changes = self.now
        if context.isinsert:
            sent = Sent(statement, context, changes)
            self._sent = ref(sent)
            return sent
        for names, row in statement.changes(context):
            changes.add(names, row)
        return None

    def settle(self, context: Any = None) -> None:
        """Take in the rows of the last insert, unless it is this one, which goes on."""
        if self._sent is None:
            return
        sent, self._sent = self._sent(), None
        if sent is not None and sent.context is not context:
            sent.settle()

    def failed(self, statement: Statement) -> None:
        """Note that a statement failed, the last that was executed."""
        self._sent = None
        self.now.add_failed(statement)

    def parts(self) -> list[tuple[str, ...]]:
        """Give all that it has changed, in parts that are short enough for a record."""
        self.settle()
        found: dict[str, None] = {}
        for _level, changes in self._levels:
            found |= changes.scopes
        scopes = tuple(found)
        return [scopes[start : start + SCOPES_MAX] for start in range(0, len(scopes), SCOPES_MAX)]

    def begin(self, savepoint: Any) -> None:
        """Begin a savepoint."""
        self.settle()
        self._levels.append((id(savepoint), Changes()))

    def release(self, savepoint: Any, *, keep: bool) -> None:
        """End a savepoint, with those in it: its changes are from now on those of what is around it, or never were."""
        self.settle()
        while any(level == id(savepoint) for level, _changes in self._levels[1:]):
            _level, changes = self._levels.pop()
            if keep:
                self.now.merge(changes)

    def touches(self, scopes: Iterable[str]) -> bool:
        """Say whether it has changed any of these, and that is not published yet."""
        if self.over or (self._root() is None and self.certain()):
            return False  # a session that nobody ended is gone, and was rolled back
        self.settle()
        changed = [changes.scopes for _level, changes in self._levels]
        return any(EVERYTHING in one for one in changed) or any(scope in one for scope in scopes for one in changed)

    def certain(self) -> bool:
        """Say whether nothing of it can have been committed."""
        return not (self.committed or self.sent or self.prepared)
