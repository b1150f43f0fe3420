"""The checker of the shop: it reads the database by a connection of its own, and asks no cache.

All the time it notes which versions of which products are committed, and when it saw that. What was served is judged
by that: it must be a state that was in the database, and one that was in force at some moment between the bound before
the request began and the request's end.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psycopg

from tests.support.staleness import Commit, Seen, Verdict, judge

PAUSE_S: Final = 0.02
BACK: Final = 300  # numbers that transactions have taken and not committed yet: looked at again
CHANGES: Final = "SELECT id, product_id, version, price, stock FROM change WHERE id > {} ORDER BY id"

State = tuple[int, int]
"""A price and a stock."""


class Told(NamedTuple):
    """What the checker says.

    Attributes:
        verdict: How old what was served was.
        invented: Served states that the database never had.
        unwritten: Reads that showed their own client less than it had written.
        commits: How many changes were committed.
    """

    verdict: Verdict
    invented: set[tuple[int, int, State]]
    unwritten: int
    commits: int


class Served:
    """What one client was served.

    Attributes:
        last: The begin of the latest request, by product and version.
        states: Products, their versions, and the state that was shown of them.
        own: The versions that this client has written, by product: nothing older may be shown to it.
        unwritten: How often something older was.
    """

    def __init__(self) -> None:
        self.last: dict[tuple[int, int], float] = {}
        self.states: set[tuple[int, int, State]] = set()
        self.own: dict[int, int] = {}
        self.unwritten = 0
        self.responses = 0

    def note(self, began: float, product: int, version: int, state: State) -> None:
        """Note what was served to a request that began then."""
        self.last[product, version] = began
        self.states.add((product, version, state))
        self.unwritten += version < self.own.get(product, 0)

    def wrote(self, product: int, version: int) -> None:
        """Note that a change of this client was acknowledged to it."""
        self.own[product] = max(version, self.own.get(product, 0))


class Checker:
    """The checker.

    Args:
        database: URL of the shop's database.
    """

    def __init__(self, database: str) -> None:
        self._database = database.replace("postgresql+psycopg://", "postgresql://")
        self._seen: dict[int, tuple[int, int, State, float]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        connection = self.connect()
        self.tenants = dict(self.rows(connection, "SELECT id, tenant FROM product"))
        connection.close()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def connect(self) -> Any:
        """Open a connection that sees what is committed, statement by statement."""
        if self._database.startswith("sqlite"):
            path = self._database.removeprefix("sqlite:///")
            return sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
        return psycopg.connect(self._database, autocommit=True)

    @staticmethod
    def rows(connection: Any, statement: str) -> list[Any]:
        """Give the rows of a query."""
        return list(connection.execute(statement).fetchall())

    def _watch(self) -> None:
        try:
            connection = self.connect()
            while not self._stopped.wait(PAUSE_S):
                self._look(connection)
            connection.close()
        except BaseException as error:  # noqa: BLE001 - raised where the verdict is asked for
            self._failed = error

    def _look(self, connection: Any) -> None:
        """Note what is committed by now."""
        first = max(self._seen, default=0) - BACK if self._seen else 0
        found = self.rows(connection, CHANGES.format(first))
        now = time.monotonic()
        for number, product, version, price, stock in found:
            self._seen.setdefault(number, (product, version, (price, stock), now))

    def judge(self, clients: Iterable[Served], bound_s: float) -> Told:
        """Judge what was served; the load must be over.

        Args:
            clients: What was served to each.
            bound_s: The bound that was promised, in seconds.
        """
        self._stopped.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        connection = self.connect()
        self._look(connection)
        everything = self.rows(connection, CHANGES.format(0))
        known = {(product, version): (price, stock) for _id, product, version, price, stock in everything}
        connection.close()
        clients = tuple(clients)
        commits = [Commit(product, version, at) for product, version, _state, at in self._seen.values()]
        seen = [Seen(client.responses, 0, client.last, {}, 0.0) for client in clients]
        invented = {
            (product, version, state)
            for client in clients
            for product, version, state in client.states
            if known.get((product, version)) != state
        }
        return Told(judge(commits, seen, bound_s), invented, sum(client.unwritten for client in clients), len(commits))
