"""What other processes do in the tests of the outbox; run as a script, it plays the role named first."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.support.outboxes import behind_an_outbox, scopes_told
from unstale import Cache
from unstale.sources.relay import Relay


def tell(value: object) -> None:
    """Say something, at once."""
    print(json.dumps(value), flush=True)  # noqa: T201 - the way back


def heard() -> Any:
    """Wait for what is said."""
    return json.loads(sys.stdin.readline())


def die() -> None:
    """End as a process ends when the machine has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(call: Callable[..., Any], *, before: bool, at: int = 1) -> Callable[..., Any]:
    """Give the same call, but the process is killed before it, or when it has done all and before it tells so."""
    count = 0

    def killed(*args: Any, **how: Any) -> Any:
        nonlocal count
        count += 1
        if before and count == at:
            die()
        answer = call(*args, **how)
        if not before and count == at:
            die()
        return answer

    return killed


def open_connection(url: str) -> Any:
    """Give an application's own connection: not one that commits by itself."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        import sqlite3

        return sqlite3.connect(parts.path.removeprefix("/"))
    if parts.scheme == "mysql":
        import pymysql

        return pymysql.connect(
            host=parts.hostname or "", port=parts.port or 0, user=parts.username, database=parts.path[1:], password=""
        )
    import psycopg

    return psycopg.connect(url)


def change(connection: Any, price: int) -> None:
    """Change the row."""
    cursor = connection.cursor()
    cursor.execute(f"UPDATE product SET price = {price} WHERE id = 17")
    cursor.close()


def commit(cache: Cache, database: str, step: str) -> None:
    """Write, commit and publish, and be killed at a step of that."""
    connection = open_connection(database)
    append: Any = cache.ports.log.append
    tx = cache.in_transaction(connection)
    change(connection, 2)
    if step == "changed":
        die()
    tx.invalidate("product:17")
    if step == "written":
        die()
    connection.commit()
    if step == "committed":
        die()
    with contextlib.suppress(AttributeError):
        cache.ports.log.append = dying(append, before=step == "publishing")  # type: ignore[method-assign]
    tx.publish()


def relay(cache: Cache, database: str, step: str) -> None:
    """Relay, and be killed at a step of it."""
    one = Relay(cache, database)
    log: Any = cache.ports.log
    feed = one._source()
    if step in {"head read", "publishing", "published"}:
        method = "read_head" if step == "head read" else "append"
        setattr(log, method, dying(getattr(log, method), before=step == "publishing"))
    elif step in {"read", "settling", "settled"}:
        method = "read" if step == "read" else "settle"
        setattr(feed, method, dying(getattr(feed, method), before=step == "settling"))
    one.run(threading.Event())


def lead(cache: Cache, database: str) -> None:
    """Relay until told to stop; say when it leads."""
    one = Relay(cache, database)
    one.start()
    while not one.pulses:
        one._stopped.wait(0.01)
    tell("leads")
    sys.stdin.readline()
    one.stop()


def fork(cache: Cache, database: str) -> None:
    """Relay, fork, and stop to relay in the parent: the child goes on by itself, for as long as its parent lives."""
    one = Relay(cache, database)
    one.start()
    while not one.pulses:
        one._stopped.wait(0.01)
    parent, pulses = os.getpid(), one.pulses
    child = os.fork()
    if child:
        one.stop()
        tell(child)
        sys.stdin.readline()
        return

    def orphaned() -> bool:
        threading.Event().wait(0.01)
        return os.getppid() != parent

    while one.pulses <= pulses and not orphaned():
        continue
    connection = open_connection(database)
    cache.in_transaction(connection).invalidate("of the child")
    connection.commit()
    while "of the child" not in scopes_told(cache) and not orphaned():
        continue
    if not orphaned():
        tell("the child relays")
    while not orphaned():
        continue
    os._exit(0)


def main(role: str, url: str, database: str, *rest: str) -> None:
    """Play a role."""
    roles: dict[str, Any] = {"commit": commit, "relay": relay, "lead": lead, "fork": fork}
    with behind_an_outbox(url) as cache:
        cache.ticket()
        tell("ready")
        heard()
        roles[role](cache, database, *rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
