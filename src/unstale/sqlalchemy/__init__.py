"""SQLAlchemy sessions that tell a cache what they change, and cached functions that depend on what they read by them.

    Session = sessionmaker(engine)
    track(Session, cache)

A row has the scope `product:17`, from the name of its table and its primary key, or from a template of its class. What
a commit publishes, and what a cached function depends on that reads through a tracked session:

| | published | depended on |
|---|---|---|
| one row, known by its primary key | `product:17`, `table:product` | `product:17`, `product` |
| rows of a table that nobody knows: bulk statements | `product`, `table:product` | |
| any other query of the table | | `table:product`, `product` |

The table has two names. `product` is the namespace of each function cached as `"product:{product_id}"`, and so a scope
of all its entries: were it published for each changed row, one change would end the entries of all products. So a
changed row publishes `table:product`, on which queries depend; `product` is published where any row may have changed,
and whoever invalidates it by hand ends all that was ever made of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unstale.errors import UsageError

try:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
    from sqlalchemy.orm import Session, scoped_session, sessionmaker
except ImportError as error:
    msg = "unstale.sqlalchemy needs SQLAlchemy 2"
    raise UsageError(msg, hint='pip install "unstale[sqlalchemy]"') from error

from unstale.sqlalchemy.names import Naming
from unstale.sqlalchemy.reading import narrowed
from unstale.sqlalchemy.tracking import Tracking

if TYPE_CHECKING:
    from unstale.cache import Cache

__all__ = ["narrowed", "touched", "track"]


def track(
    target: Any,
    cache: Cache,
    *,
    scopes: Mapping[type, str] | None = None,
    outbox: bool = False,
    exact: bool = False,
) -> None:
    """Let sessions tell a cache what they have committed, and tag what cached functions read through them.

    Args:
        target: A `sessionmaker`, `async_sessionmaker`, scoped session, subclass of a session, or one session.
        cache: The cache.
        scopes: Templates of the scopes of rows, by mapped class: `{Product: "item:{id}"}`, of attributes of the primary
            key. A class can say so itself: `__unstale_scope__ = "item:{id}"`.
        outbox: What is published is written in the transaction that it is about, too, and a relay publishes it if this
            process dies (see the guide on the outbox).
        exact: At the begin of each transaction ask what it sees of the log: also a session on a replica that lags then
            loads what is never served too long. For a cache on `postgresql://` in the same database.

    Raises:
        UsageError: The target makes no sessions, or is tracked for this cache already.
        KeyTemplateError: A template that cannot be read, or names what is no part of the primary key.
    """
    sessions = _sessions_of(target)
    if any(one.cache is cache for one in _trackings(sessions)):
        raise UsageError("these sessions are tracked for this cache already", hint="call track() once")
    tracking = Tracking(cache, Naming(scopes or {}), outbox=outbox, exact=exact)
    tracking.follow(sessions)
    sessions._unstale_trackings = (*_trackings(sessions), tracking)  # noqa: SLF001 - of ours


def touched(session: Any, *changed: str | type) -> None:
    """Tell of a change that no session can see, such as that of a text: it is published with the others at the commit.

    Args:
        session: A tracked session, which need not have begun anything.
        changed: Scopes, such as `"product:17"`, or mapped classes of which any row may have changed.

    Raises:
        UsageError: The session is not tracked.
        ScopeError: A scope that cannot be one, or a class that is not mapped.
    """
    inner: Session = getattr(session, "sync_session", session)
    inner = inner() if isinstance(inner, scoped_session) else inner
    trackings = _trackings(inner)
    if not trackings:
        msg = f"{session!r} is not tracked"
        raise UsageError(msg, hint="write track(Session, cache) where sessions are made")
    for tracking in trackings:
        tracking.touch(inner, changed)


def _trackings(sessions: Any) -> tuple[Tracking, ...]:
    trackings: tuple[Tracking, ...] = getattr(sessions, "_unstale_trackings", ())
    return trackings


def _sessions_of(target: Any) -> Any:
    """Give the class whose instances are the sessions that a target makes, or the one session.

    Raises:
        UsageError: It makes none.
    """
    if isinstance(target, scoped_session | async_scoped_session):
        return _sessions_of(target.session_factory)
    if isinstance(target, sessionmaker):
        return target.class_  # a class of its own, that it has made for events
    if isinstance(target, async_sessionmaker):
        given = target.kw.get("sync_session_class") or target.class_.sync_session_class
        if not _trackings(given):
            given = type(given.__name__, (given,), {})
            target.configure(sync_session_class=given)
        return given
    if isinstance(target, AsyncSession):
        return target.sync_session
    if isinstance(target, Session) or (isinstance(target, type) and issubclass(target, Session)):
        return target
    msg = f"{target!r} makes no sessions"
    raise UsageError(msg, hint="pass the sessionmaker or async_sessionmaker: track(Session, cache)")
