"""What other processes do in the tests of the SQLite engine; run as a script, it plays the role named first.

A role tells what happened as one JSON value a line, and hears what to do next as lines on its standard input.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from itertools import count

from unstale.core.ops import Identity, Item, Member
from unstale.core.record import Record
from unstale.engines.sqlite import SQLiteEngine
from unstale.errors import EngineError, FullError, UnavailableError

NOBODY = 65534
MEGABYTE = 1024 * 1024


def tell(value: object) -> None:
    """Say something, at once."""
    print(json.dumps(value), flush=True)  # noqa: T201 - the way back


def told() -> str:
    """Wait for the next line."""
    return sys.stdin.readline().strip()


def outcome(call: Callable[[], object]) -> str:
    """Name what a call ended in: the class of its error, or nothing."""
    try:
        call()
    except EngineError as error:
        return type(error).__name__
    return ""


def member(identity: Identity, position: int, *, applied: int | None = None, urgent: bool = False) -> Member:
    """Give a follower of a log."""
    done = position if applied is None else applied
    return Member(f"node-{os.getpid()}", identity.generation, done, 2.0, urgent)


def writer(path: str, who: str, enough: str, batch: str) -> None:
    """Append batches until the log is long enough; each is told when it is acknowledged."""
    engine = SQLiteEngine(path)
    tell("ready")
    told()
    for turn in count():
        records = tuple(Record(f"{who}-{turn}-{part}", (f"scope-{part}", who)) for part in range(int(batch)))
        while True:
            try:
                appended = engine.append(records)
                break
            except UnavailableError:  # the outcome is unknown: again, with the same ids
                continue
        identity = appended.identity
        tell([identity.generation, [(one.position, one.id) for one in appended.records]])
        if identity.head >= int(enough):
            return


def tailer(path: str) -> None:
    """Follow the log from its begin, and tell every record, until the one called `stop`."""
    engine = SQLiteEngine(path)
    identity, position = engine.read_head(), 0
    tell(identity.generation)
    while True:
        batch = engine.poll(member(identity, position), position, 100, 5.0)
        if batch.identity.generation != identity.generation:
            identity, position = batch.identity, 0
            tell(identity.generation)
            continue
        for logged in batch.records:
            position = logged.position
            tell([position, logged.id])
            if logged.id == "stop":
                return


def holder(path: str) -> None:
    """Hold the write lock until told to let go."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    tell("held")
    told()
    db.execute("ROLLBACK")
    tell("released")


def limited(path: str) -> None:
    """Write until a file may not grow any more, look at what is left, then go on with more space."""
    import resource

    engine = SQLiteEngine(path)
    engine.append((Record("first", ("before",)),))
    engine.store((Item("small", b"kept", 100.0),))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MEGABYTE, resource.RLIM_INFINITY))
    acknowledged = []
    for turn in range(1000):
        records = (Record(f"record-{turn}", (f"scope-{turn}",), why="x" * 100_000),)
        try:
            engine.append(records)
        except FullError:
            break
        acknowledged.append(records[0].id)
    tell(acknowledged)
    tell(outcome(lambda: engine.append((Record("more", ("s",), why="x" * 100_000),))))
    tell(outcome(lambda: engine.store((Item("large", b"x" * 2 * MEGABYTE, 100.0),))))
    tell([found.data.decode() if found else None for found in engine.fetch(("small", "large"))])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    engine.append((Record("last", ("after",)),))
    engine.close()


def unprivileged(path: str) -> None:
    """Use a cache as somebody who may read its file and nothing more."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    engine = SQLiteEngine(path)
    tell(
        {
            "fetch": [found.data.decode() if found else None for found in engine.fetch(("key",))],
            "marks": dict(engine.read_marks(("scope",)).marks),
            "append": outcome(lambda: engine.append((Record("new", ("scope",)),))),
            "store": outcome(lambda: engine.store((Item("key", b"other", 9.0),))),
            "poll": outcome(lambda: engine.poll(member(engine.read_head(), 1), 1, 10, 0.0)),
        }
    )


def forker(path: str) -> None:
    """Use a cache, fork, and use it on both sides; the child must not lean on the locks of its parent."""
    import threading

    engine = SQLiteEngine(path)
    engine.append((Record("before", ("s",)),))
    identity = engine.read_head()
    tail = threading.Thread(target=lambda: engine.poll(member(identity, 1), 1, 10, 30.0), daemon=True)
    tail.start()  # it waits while we fork, as a node's tail thread does
    ask, answer = os.pipe(), os.pipe()
    if not os.fork():
        engine.append((Record("child", ("s",)),))
        os.write(answer[1], b".")
        os.read(ask[0], 1)
        batch = engine.poll(member(identity, 0), 0, 10, 0.0)
        tell([logged.id for logged in batch.records])
        engine.append((Record("child again", ("s",)),))
        os.write(answer[1], b".")
        os._exit(0)
    os.read(answer[0], 1)
    engine.append((Record("parent", ("s",)),))
    tail.join(20.0)
    engine.close()
    # Whoever closes last removes the -wal: it is there as long as the child's lock on the file is its own.
    tell([not tail.is_alive(), stat.S_ISREG(os.stat(path + "-wal").st_mode)])  # noqa: PTH116 - as the engine does
    second = SQLiteEngine(path)
    second.append((Record("parent again", ("s",)),))
    second.close()
    os.write(ask[1], b".")
    os.read(answer[0], 1)
    os.wait()
    third = SQLiteEngine(path)
    tell([logged.id for logged in third.poll(member(identity, 0), 0, 10, 0.0).records])


if __name__ == "__main__":
    roles: tuple[Callable[..., None], ...] = (writer, tailer, holder, limited, unprivileged, forker)
    {role.__name__: role for role in roles}[sys.argv[1]](*sys.argv[2:])
