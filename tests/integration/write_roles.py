"""A process that writes through; run as a script, it does what it is told. The truth is a SQLite file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections import Counter
from typing import Any

from unstale import Cache
from unstale.errors import NotPublishedError


class Shop:
    """One node, the truth, and all troubles that it was told of.

    Args:
        url: Of the caches' engine.
        path: Of the file that is the truth.
        ttl: Of what is cached.
        store: URLs of stores beside the log.
    """

    def __init__(self, url: str, path: str, ttl: str = "1h", store: tuple[str, ...] = ()) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.troubles: Counter[str] = Counter()
        self.cache = Cache(url, name="writes", max_staleness="500ms", store=store, on_trouble=self._trouble)
        self.loads = 0

        @self.cache.cached("product:{number}", ttl=ttl)
        def product(number: int) -> int:
            self.loads += 1
            return self.truth(number)

        @product.writer
        def save(number: int) -> int:
            price = self.db.execute("UPDATE product SET price = price + 1 WHERE id = ? RETURNING price", [number])
            ((now,),) = price.fetchall()
            self.committed()
            return int(now)

        self.product, self.save = product, save

    def committed(self) -> None:
        """Do what a test wants to befall the write between its commit and its record."""

    def _trouble(self, what: str, _error: BaseException) -> None:
        self.troubles[what] += 1
        with contextlib.suppress(sqlite3.ProgrammingError):  # the test is over
            self.db.execute("INSERT INTO trouble VALUES (?)", [what])  # so that a test sees it while a write goes on

    def truth(self, number: int) -> int:
        """Give the price that is in force."""
        return int(self.db.execute("SELECT price FROM product WHERE id = ?", [number]).fetchall()[0][0])

    def write(self, number: int) -> dict[str, Any]:
        """Write, and give what came of it, and the troubles so far."""
        try:
            value = self.save(number)
        except NotPublishedError as error:
            return {"unpublished": error.fields["value"]}
        return {"value": value, "troubles": dict(self.troubles)}

    def read(self, number: int) -> int:
        """Read."""
        return self.product(number)

    def serve(self) -> None:
        """Do what one is told, until nothing more is said."""
        for line in sys.stdin:
            name, *args = json.loads(line)
            print(json.dumps(getattr(self, name)(*args)), flush=True)  # noqa: T201 - the way back


def make_truth(path: str) -> None:
    """Make the file that is the truth."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, price INTEGER NOT NULL)")
        db.execute("INSERT INTO product VALUES (1, 1), (2, 1)")
        db.execute("CREATE TABLE trouble (what TEXT NOT NULL)")
    db.close()


if __name__ == "__main__":
    Shop(sys.argv[1], sys.argv[2]).serve()
