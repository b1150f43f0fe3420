"""What the transaction of a session has changed, savepoint by savepoint, until it is published or rolled back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, ref

from unstale.core.record import EVERYTHING
from unstale.sqlalchemy.names import Names

SCOPES_MAX = 500
"""A record has so many scopes at most; a transaction that changes more rows publishes several, by one append."""


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

    def add_scope(self, scope: str) -> None:
        """Take in a scope that was named by hand."""
        self.scopes[scope] = None

    def merge(self, other: Changes) -> None:
        """Take in the changes since a savepoint that was released."""
        self.scopes.update(other.scopes)
        self.raw |= other.raw

    def __bool__(self) -> bool:
        return bool(self.scopes) or self.raw


class Transaction:
    """The transaction of one session, as one cache sees it: it may have changed what its own reads must not miss.

    It may be seen in a context for longer than its session lives, and so keeps neither that nor its connections alive.

    Attributes:
        sent: A commit has been sent: whatever its answer, it may have come about.
        prepared: The first of two phases has been sent: the transaction may be committed from elsewhere.
        committed: The commit was acknowledged.
        over: It has ended, and nothing of it waits to be published.
        busy: It writes into the outbox.
        asynchronous: It is one of an asynchronous session.
        connections: Those that it has, and whether it has changed something over each.
        written: What it has written into outboxes.
    """

    __slots__ = (
        "__weakref__",
        "_levels",
        "_root",
        "asynchronous",
        "busy",
        "committed",
        "connections",
        "over",
        "prepared",
        "sent",
        "written",
    )

    def __init__(self, root: Any) -> None:
        self.sent = self.prepared = self.committed = self.over = self.busy = self.asynchronous = False
        self.connections: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self.written: list[Any] = []
        self._root = ref(root)
        self._levels: list[tuple[int, Changes]] = [(id(root), Changes())]

    @property
    def now(self) -> Changes:
        """The changes since the innermost savepoint."""
        return self._levels[-1][1]

    @property
    def writes(self) -> bool:
        """Something was changed, and is not published yet."""
        return not self.over and any(changes for _level, changes in self._levels)

    def parts(self) -> list[tuple[str, ...]]:
        """Give all that it has changed, in parts that are short enough for a record."""
        scopes = tuple(dict.fromkeys(scope for _level, changes in self._levels for scope in changes.scopes))
        return [scopes[start : start + SCOPES_MAX] for start in range(0, len(scopes), SCOPES_MAX)]

    def begin(self, savepoint: Any) -> None:
        """Begin a savepoint."""
        self._levels.append((id(savepoint), Changes()))

    def release(self, savepoint: Any, *, keep: bool) -> None:
        """End a savepoint, with those in it: its changes are from now on those of what is around it, or never were."""
        while any(level == id(savepoint) for level, _changes in self._levels[1:]):
            _level, changes = self._levels.pop()
            if keep:
                self.now.merge(changes)

    def touches(self, scopes: Iterable[str]) -> bool:
        """Say whether it has changed any of these, and that is not published yet."""
        if self.over or (self._root() is None and self.certain()):
            return False  # a session that nobody ended is gone, and was rolled back
        changed = [changes.scopes for _level, changes in self._levels]
        return any(EVERYTHING in one for one in changed) or any(scope in one for scope in scopes for one in changed)

    def certain(self) -> bool:
        """Say whether nothing of it can have been committed."""
        return not (self.committed or self.sent or self.prepared)
