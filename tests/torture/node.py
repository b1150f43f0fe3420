"""A node of a torture run: it reads rows through its cache, by several paths at once.

`torture` is read by tracked sessions in READ COMMITTED and in long transactions in REPEATABLE READ, and from a replica
that lags. `captured` is read by plain connections.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from sqlalchemy.orm import Session, sessionmaker

from tests.torture.ledger import ROWS, Oracle
from tests.torture.roles import Role, Scene
from tests.torture.shop import (
    BOUND_S,
    CAPTURED,
    LAG_S,
    NO_LIMIT,
    key_of,
    open_cache,
    open_engine,
    select_of,
    table_of,
)
from unstale.clock import boottime
from unstale.sqlalchemy import track

OTHERS: Final = range(200, ROWS)  # rows of which their writers tell the cache nothing, or only which they may be
PAUSE_S: Final = 0.01
TOGETHER: Final = 8  # reads of one step
LONG_S: Final = 1.5 * BOUND_S  # so old a view in REPEATABLE READ becomes
SLACK_S: Final = 0.1  # between the moment of a commit and its place in the log, on a busy machine
# What a reader has loaded itself may be as old as what it reads from. What others are served may not.
OWN_LAG_S: Final = {"replica": LAG_S, "REPEATABLE READ": math.inf}
BEHIND: Final = "SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"


class Node(Role):
    """A node.

    Args:
        scene: Where it takes place.
        name: Of the cache that it reads.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene)
        self.oracle = Oracle(self.ledger, BOUND_S)
        self.cache = open_cache(scene.url, name, trouble=self.trouble)
        self.cache.ticket()  # from its first call on it follows the log
        self.exact = scene.url.startswith("postgresql://")
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self._long: Session | None = None
        self._long_since = 0.0
        if name == CAPTURED:
            for path in ("captured", "captured, 2"):
                self.repeat(path, lambda path=path: self.read_plainly(path), PAUSE_S)  # type: ignore[misc]
            return
        self.sessions: sessionmaker[Session] = sessionmaker(open_engine(scene.database))
        track(self.sessions, self.cache)
        self.repeatable = open_engine(scene.database).execution_options(isolation_level="REPEATABLE READ")
        for path, step in (
            ("READ COMMITTED", self.read_committed),
            ("REPEATABLE READ", self.read_repeatably),
            ("replica", self.read_replica),
        ):
            self.repeat(path, step, PAUSE_S)

    def seen(self) -> dict[str, Any]:
        """Tell what it has read."""
        return super().seen() | self.oracle.told()

    def end(self) -> dict[str, Any]:
        """Stop reading, leave, and tell what it has read."""
        told = super().end()
        self.cache.close()
        return told

    def read(self, path: str, rows: Sequence[int], load: Callable[[int], int], **how: Any) -> None:
        """Read some rows through the cache, and judge each read."""
        for row in rows:
            mine: list[bool] = []

            def loaded(row: int = row, mine: list[bool] = mine) -> int:
                value = load(row)
                mine.append(True)
                return value

            began = boottime()
            version = self.cache.get_or_load(key_of(row), loaded, type=int, ttl=NO_LIMIT, **how)
            if mine:
                self.oracle.loaded(path)
            self.oracle.judge(path, row, version, began, OWN_LAG_S.get(path, 0.0) if mine else 0.0)

    def some(self) -> list[int]:
        """Choose rows."""
        return random.sample(range(ROWS), TOGETHER)

    def connection(self, path: str, url: str) -> psycopg.Connection[Any]:
        """Give the connection of a path; one that is gone is opened anew."""
        known = self._connections.get(path)
        if known is None or known.closed:
            known = self._connections[path] = psycopg.connect(url, autocommit=True)
        return known

    def read_plainly(self, path: str) -> None:
        """Read by a plain connection."""
        connection = self.connection(path, self.scene.database)

        def load(row: int) -> int:
            ((version,),) = connection.execute(select_of(row).encode()).fetchall()
            return int(version)

        self.read("captured", random.sample(OTHERS, TOGETHER), load)

    def read_committed(self) -> None:
        """Read by a session whose transaction sees what is committed."""
        with self.sessions() as session:
            self.read("READ COMMITTED", self.some(), lambda row: version_in(session, row))

    def read_repeatably(self) -> None:
        """Read within a long transaction, whose own loads show what was when it began: others never get that."""
        if self._long is None:
            self._long, self._long_since = self.sessions(bind=self.repeatable), boottime()
        session = self._long
        self.read("REPEATABLE READ", self.some(), lambda row: version_in(session, row))
        if boottime() - self._long_since > LONG_S:
            self._long = None
            session.close()

    def read_replica(self) -> None:
        """Read from the replica; where that is later than was declared, from the primary."""
        replica = self.connection("replica", self.scene.replica)
        primary = self.connection("primary", self.scene.database)

        def load(row: int) -> int:
            ((behind_s,),) = replica.execute(BEHIND).fetchall()
            late = behind_s is None or behind_s > LAG_S - SLACK_S
            with (primary if late else replica).transaction():
                if self.exact:
                    self.cache.exact(primary if late else replica)
                ((version,),) = (primary if late else replica).execute(select_of(row).encode()).fetchall()
            self.done["replica too late" if late else "replica in time"] += 1
            return int(version)

        self.read("replica", self.some(), load, **({} if self.exact else {"replica_lag": LAG_S}))


def version_in(session: Session, row: int) -> int:
    """Give a row's version as a session sees it."""
    version: int = session.get_one(table_of(row), row).version
    return version
