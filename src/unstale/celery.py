"""Celery: the session of whoever sends a task goes with it, and around each task there is one.

    app = Celery(...)
    unstale.celery.connect()

It is called once in each process that sends or runs tasks, where the application is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import unstale
from unstale.errors import UsageError
from unstale.session import Session

try:
    from celery import signals  # type: ignore[import-untyped]
except ImportError as error:
    msg = "unstale.celery needs Celery 5"
    raise UsageError(msg, hint='pip install "unstale[celery]"') from error

__all__ = ["connect", "disconnect", "token"]

HEADER: Final = "unstale_ticket"  # of a message, and so an attribute of a task's request
SESSION: Final = "unstale_session"

Secret = str | bytes | Sequence[str | bytes] | None
_connected: list[tuple[Any, Any]] = []


def connect(*, secret: Secret = None) -> None:
    """Let tasks carry tickets, in all applications of this process; called again, with another secret.

    A task reads what its sender had published when it sent it, and what it publishes itself goes on to the tasks that
    it sends: by hand, as a retry of itself, or as the next of a chain.

    Args:
        secret: Tokens are signed with it: see `unstale.session`. For brokers that others can write to.

    Raises:
        UsageError: The secret cannot be one.
    """
    unstale.session(secret=secret)
    disconnect()

    def sent(headers: dict[str, Any] | None = None, **_rest: object) -> None:
        carried = token(secret=secret)
        if carried and headers is not None:
            headers[HEADER] = carried

    def begins(task: Any = None, **_rest: object) -> None:
        carried = getattr(task.request, HEADER, None)
        begun = unstale.session(carried if isinstance(carried, str) else None, secret=secret)
        setattr(task.request, SESSION, begun.__enter__())

    def ended(task: Any = None, **_rest: object) -> None:
        begun = getattr(task.request, SESSION, None)
        if isinstance(begun, Session):
            begun.__exit__(None, None, None)

    _connected.extend(
        [(signals.before_task_publish, sent), (signals.task_prerun, begins), (signals.task_postrun, ended)]
    )
    for signal, receiver in _connected:
        signal.connect(receiver, weak=False)


def disconnect() -> None:
    """Let tasks carry nothing any more."""
    while _connected:
        signal, receiver = _connected.pop()
        signal.disconnect(receiver)


def token(*, secret: Secret = None) -> str:
    """Give the token of the session around the code that runs: "" if there is none, or nothing to hand on.

    A task returns it with its result, for whoever waits for that: `session.take(result["ticket"])`.

    Args:
        secret: As for `connect`.
    """
    with unstale.session(secret=secret) as here:  # part of the session around it, if there is one
        return here.token
