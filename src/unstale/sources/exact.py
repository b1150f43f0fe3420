"""Exact stamps: a load is stamped with what the log shows in the very snapshot in which it reads (H17).

Where the log lies in the database that is the truth, a snapshot that sees a record sees the change that it is about:
the record was appended after the change was committed, and no snapshot of PostgreSQL, on a primary or a replica, shows
a commit without those that were over before it began. So the head of the log, read in the transaction of a load, is a
stamp for all that this transaction reads afterwards, however old its view is:

1. a transaction in REPEATABLE READ takes its snapshot: the head is 10
2. another one commits v2, record 11, which this node applies
3. a cached function is called in the first one and shows v1: its own snapshot shows the head 10, and 11 ends it
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unstale.core.context import loading
from unstale.core.frame import Frame
from unstale.core.record import Stamp
from unstale.errors import UsageError
from unstale.sources.links import link_of

if TYPE_CHECKING:
    from unstale.cache import Cache
    from unstale.core.node import Node

View = tuple[Stamp | None, float]


def exact(cache: Cache, connection: Any) -> None:
    """Stamp the load under way with what its own transaction sees of the log: call it before the load's first query.

    It is one query on that connection, which may be one to a replica, or in a transaction that began long ago. A
    result whose view is older than this node can tell goes to its reader alone.

    Args:
        cache: The cache, on `postgresql://`; the connection is one to the same database or to a replica of it.
        connection: Of psycopg, or a Connection or Session of SQLAlchemy.

    Raises:
        OutsideLoadError: Nothing is being loaded.
        UsageError: The log is not in PostgreSQL, or the connection has to be awaited, or is none that is known.
        Exception: What the driver raised.
    """
    frame, (statement, values), link = loading("exact"), head_in_snapshot(cache), link_of(connection)
    if link.asynchronous:
        raise UsageError("the connection has to be awaited", hint="write: await cache.aexact(connection)")
    if not cache.disabled:
        found: Any = link.execute(statement, values)
        date(cache.node, frame, found.fetchone())


async def aexact(cache: Cache, connection: Any) -> None:
    """Stamp the load under way with what its own transaction sees of the log: see `exact`."""
    frame, (statement, values) = loading("exact"), head_in_snapshot(cache)
    if not cache.disabled:
        found: Any = await _awaited(link_of(connection).execute(statement, values))
        date(cache.node, frame, await _awaited(found.fetchone()))


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def head_in_snapshot(cache: Cache) -> tuple[str, tuple[Any, ...]]:
    """Give the query for the log's head, and its parameters.

    Raises:
        UsageError: The log is not in a database that could be the truth.
    """
    query = getattr(cache.ports.log, "head_in_snapshot", None)
    if query is None:
        msg = "stamps are exact only where the log lies in the database that is the truth"
        raise UsageError(msg, hint='write Cache("postgresql://..."), or leave stamps to the begin of the load')
    found: tuple[str, tuple[Any, ...]] = query()
    return found


def view(node: Node, found: Any) -> View:
    """Give the stamp of a snapshot, None where this node cannot judge it, and the moment at which it was the newest."""
    with node.lock:
        now = node.clock()
        if found is None or node.generation != bytes(found[0]).decode():
            return None, now
        stamp = Stamp(node.generation, int(found[1]))
        if stamp.position >= node.applied:
            return stamp, now
        left_at = node.left_at(stamp.position)
        return (None, now) if left_at is None else (stamp, left_at)


def date(node: Node, frame: Frame, found: Any) -> None:
    """Date the loads under way back to a snapshot."""
    stamp, view_from = view(node, found)
    for one in _loads(frame, node.generation):
        one.look_back(stamp, view_from)


def _loads(frame: Frame | None, log: str | None) -> Iterator[Frame]:
    """Give the loads of one log, from the innermost on: what the inner one shows, the outer ones show too."""
    while frame is not None:
        if frame.log in {None, log}:
            yield frame
        frame = frame.outer
