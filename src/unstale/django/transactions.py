"""Writes within a transaction: they wait for its commit, and the code of that transaction sees them at once.

H1   1. a value derived from uncommitted rows is written 2. another process serves it 3. the transaction is rolled back:
     what was served never was the truth, and nothing ends it. So nothing leaves this process before the commit.

What waits stands nowhere but in Django's own list of what is to be done on commit. Django takes out of it what a
savepoint or the transaction has rolled back; what is left is what a read in the transaction sees.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from unstale.core.context import enter, leave

GONE: Final = object()
"""Stands for a key that a transaction has deleted."""
UNKNOWN: Final = object()
"""Says that no transaction has written a key."""


_ORDER: Final = itertools.count()


class Waiting:
    """What waits for a commit.

    Args:
        run: Does it.
        owner: Whose keys these are.
        values: What reads of the transaction see, by key; `GONE` for nothing.
        scopes: What it will end.
        before: Done at once where `run` has to wait for another database too: what it writes may rest on that one.
    """

    __slots__ = ("before", "order", "owner", "run", "scopes", "values")

    def __init__(
        self,
        run: Callable[[], object],
        *,
        owner: object = None,
        values: Mapping[str, Any] | None = None,
        scopes: Iterable[str] = (),
        before: Callable[[], object] | None = None,
    ) -> None:
        self.run = run
        self.before = before
        self.order = next(_ORDER)
        self.owner = owner
        self.values = values or {}
        self.scopes = dict.fromkeys(scopes)

    def __call__(self) -> None:
        """Do it. Values wait for other databases of this thread that are in a transaction still; what ends, does not.

        1. a row of one database is changed, and a key deleted, within a transaction of another 2. the former is
        committed, the latter rolled back: if the deletion waited for that, nobody would ever be told (H2).
        """
        connection = None if self.before is None else open_transaction()
        if self.before is None or connection is None:
            self.run()
        else:
            try:
                self.before()
            finally:
                wait(connection, self)


class Uncommitted:
    """What a connection's transaction has changed, for cached functions that are read within it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection

    @property
    def over(self) -> bool:
        """Nothing waits for its commit."""
        return next(waiting_on(self._connection), None) is None

    def touches(self, scopes: Iterable[str]) -> bool:
        """Say whether it has changed any of these, and that is not published yet."""
        waiting = list(waiting_on(self._connection))
        if not waiting:
            leave(self)
            return False
        asked = set(scopes)
        return any(not asked.isdisjoint(one.scopes) for one in waiting)


class _Open(threading.local):
    """The connections of this thread on which something waits."""

    def __init__(self) -> None:
        self.connections: list[BaseDatabaseWrapper] = []


OPEN: Final = _Open()


def is_open(connection: BaseDatabaseWrapper) -> bool:
    """Say whether a connection is in a transaction that will be committed: that of a `TestCase` never is."""
    return connection.in_atomic_block and not all(
        getattr(block, "_from_testcase", False) for block in connection.atomic_blocks
    )


def open_transaction() -> BaseDatabaseWrapper | None:
    """Give a connection of this thread that is in a transaction."""
    return next((one for one in connections.all(initialized_only=True) if is_open(one)), None)


def wait(connection: BaseDatabaseWrapper, waiting: Waiting) -> None:
    """Let something wait for the commit of a connection's transaction."""
    transaction.on_commit(waiting, using=connection.alias, robust=True)
    # Before what others have asked for: if that fails, Django does none of what comes after it; and if it reads, it
    # finds what is in force.
    hooks = connection.run_on_commit
    hooks.insert(sum(isinstance(hook[1], Waiting) for hook in hooks) - 1, hooks.pop())
    if connection not in OPEN.connections:
        OPEN.connections.append(connection)
    known: Uncommitted | None = getattr(connection, "_unstale_uncommitted", None)
    if known is None:
        known = Uncommitted(connection)
        connection._unstale_uncommitted = known  # noqa: SLF001 - of ours
    enter(known)


def waiting_on(connection: BaseDatabaseWrapper) -> Iterator[Waiting]:
    """Give what waits for a connection's commit, the latest first."""
    return (one for _ids, one, _robust in reversed(connection.run_on_commit) if isinstance(one, Waiting))


def seen(owner: object, key: str) -> Any:
    """Give what the transactions of this thread have written under a key: a value, `GONE`, or `UNKNOWN`."""
    found: Waiting | None = None
    for connection in tuple(OPEN.connections):
        waits = False
        for one in waiting_on(connection):
            waits = True
            if one.owner == owner and (key in one.values or EVERY in one.values):
                found = one if found is None or one.order > found.order else found
                break
        if not waits:
            OPEN.connections.remove(connection)
    return UNKNOWN if found is None else found.values.get(key, GONE)


EVERY: Final = "*"
"""In place of a key: all of the owner's."""


def steady(connection: BaseDatabaseWrapper) -> bool:
    """Say whether each statement of a transaction sees what is committed by then: not a view from its begin (H17)."""
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor == "mysql":  # without the option Django asks for READ COMMITTED; None is what the server has
        level = options.get("isolation_level", "read committed")
    else:
        level = options.get("isolation_level") or "read committed"
    committed = "readcommitted" in re.sub(r"[^a-z]", "", str(getattr(level, "name", level)).lower())
    set_otherwise = "isolation" in str(options.get("options", ""))
    return connection.vendor in {"postgresql", "mysql", "oracle"} and committed and not set_otherwise
