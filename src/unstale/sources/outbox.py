"""The outbox: a table of the database in which changes are made, into which they write their records.

A record is written in the transaction of its change: rolled back, it never was; committed, it is there, whatever then
happens to the process (H1, H2). The relay reads what is committed, publishes it, and deletes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import msgspec

from unstale.errors import SourceError
from unstale.sources.capture import life_of
from unstale.sources.connections import Database, connect
from unstale.sources.dialects import SEQ_MAX, TABLE, channel, checked, dialect_of
from unstale.sources.feed import Part, Row

REASON_CHARS_MAX: Final = 2000
DEAD_SHOWN_MAX: Final = 1000


class Status(msgspec.Struct, frozen=True):
    """What lies in the outbox of one cache.

    Attributes:
        cache: The cache.
        rows: How many records wait for the relay.
        lag_s: The age of the oldest of them, in seconds by the database's clock.
        dead: How many were put aside.
    """

    cache: str
    rows: int
    lag_s: float
    dead: int


class Dead(msgspec.Struct, frozen=True):
    """A record that was put aside: its id, its cache, why, how long ago in seconds, and its bytes."""

    id: str
    cache: str
    reason: str
    age_s: float
    data: bytes


class Outbox:
    """The outbox of a database, as its keeper sees it.

    Args:
        url: The database: `postgresql://`, `mysql://` or `sqlite:///`.
        table: The name of its table.

    Raises:
        UsageError: The URL names no database, or the table's name is none.
        SourceError: The database cannot be reached.
    """

    def __init__(self, url: str, *, table: str = TABLE) -> None:
        self.table = checked(table)
        self.database = connect(url)

    def create(self) -> None:
        """Make the tables where they are missing."""
        for statement in self.database.dialect.create(self.table):
            self.database.rows(statement)

    def status(self) -> list[Status]:
        """Give what lies in it, by cache."""
        age = self.database.dialect.age
        waiting = self.database.rows(f"SELECT cache, count(*), max({age}) FROM {self.table} GROUP BY cache")
        dead = dict(self.database.rows(f"SELECT cache, count(*) FROM {self.table}_dead GROUP BY cache"))
        by_cache = {str(cache): (int(rows), float(lag_s)) for cache, rows, lag_s in waiting}
        return [Status(one, *by_cache.get(one, (0, 0.0)), dead.get(one, 0)) for one in sorted({*by_cache, *dead})]

    def dead(self) -> list[Dead]:
        """Give what was put aside, the oldest first, and not more than 1,000 of it."""
        columns = f"id, cache, reason, {self.database.dialect.age}, data"
        found = self.database.rows(f"SELECT {columns} FROM {self.table}_dead ORDER BY seq LIMIT {DEAD_SHOWN_MAX}")
        return [Dead(one, cache, reason, float(age_s), bytes(data)) for one, cache, reason, age_s, data in found]

    def replay(self, ids: Sequence[str]) -> int:
        """Give what was put aside to the relay once more: how many records that were."""
        return self._take(ids, again=True)

    def discard(self, ids: Sequence[str]) -> int:
        """Forget what was put aside: how many records that were."""
        return self._take(ids, again=False)

    def _take(self, ids: Sequence[str], *, again: bool) -> int:
        chosen = sorted({*ids} & {one.id for one in self.dead()})
        if not chosen:
            return 0
        condition, values = self.database.dialect.among("id", chosen)
        copy = f"INSERT INTO {self.table} (id, cache, data) SELECT id, cache, data FROM {self.table}_dead"
        put = [(f"{copy} WHERE {condition} ORDER BY seq", values)] if again else []
        self.database.together([*put, (f"DELETE FROM {self.table}_dead WHERE {condition}", values)])
        return len(chosen)

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class OutboxFeed:
    """The outbox of one cache, as the relay reads it.

    Args:
        url: The database.
        cache: The cache's name.
        table: The name of the table.

    Raises:
        UsageError: The URL names no database, or the table's name is none.
        SourceError: The database cannot be reached.
    """

    def __init__(self, url: str, cache: str, *, table: str = TABLE, open_: Callable[[str], Database] = connect) -> None:
        self._table = checked(table)
        self._cache = cache
        self._database = open_(url)
        self._upto: int | None = None
        dialect = self._database.dialect
        schema, _, plain = table.rpartition(".")
        self._timeline = dialect.timeline.format(t=table, schema=schema, plain=plain)
        self._read = f"SELECT id, data, {dialect.age} FROM {table} WHERE cache = ? AND seq <= ? ORDER BY seq LIMIT ?"
        try:
            self._database.listen(channel(table, cache))
        except SourceError:
            self._database.close()
            raise

    def read(self, limit: int, *, first: bool) -> Part:
        """Give up to `limit` records that are committed, the first of a reading or the next.

        Nothing is passed over by its number: 1. a transaction draws 5, another one 6 2. 6 is committed, read, published
        and deleted 3. 5 is committed: the next read finds it, since what is there is what was not published (H21).

        Reading to the end has an end also while others write: what is there when the first part is full, and what is
        committed under the numbers that were drawn until then.
        """
        self._database.look()
        if first:  # one that was broken off had an end that is too early for this one
            self._upto = None
        found = self._database.rows(self._read, (self._cache, SEQ_MAX if self._upto is None else self._upto, limit))
        more = len(found) == limit
        if more and self._upto is None:
            newest = f"SELECT coalesce(max(seq), 0) FROM {self._table} WHERE cache = ?"
            ((self._upto,),) = self._database.rows(newest, (self._cache,))
        rows = tuple(Row(str(one), bytes(data)) for one, data, _age in found)
        return Part(rows, more, max((float(age) for _id, _data, age in found), default=0.0))

    def settle(self, ids: Sequence[str], dead: Mapping[str, str]) -> None:
        """Delete what is published; what could not be read is put aside, in the same transaction."""
        condition, values = self._database.dialect.among("id", ids)
        delete = (f"DELETE FROM {self._table} WHERE {condition}", values)
        if not dead:
            self._database.rows(*delete)
            return
        # Another relay may have put it aside meanwhile.
        missing = f"NOT EXISTS (SELECT 1 FROM {self._table}_dead d WHERE d.id = o.id)"
        there = f"SELECT o.id, o.cache, o.data, ? FROM {self._table} o WHERE o.id = ? AND {missing}"
        copy = f"INSERT INTO {self._table}_dead (id, cache, data, reason) {there}"
        aside = [(copy, (reason[:REASON_CHARS_MAX], one)) for one, reason in dead.items()]
        self._database.together([*aside, delete])

    def timeline(self) -> str:
        """Name the life of the database, and of the triggers that capture what goes round the application.

        Raises:
            SourceError: It has none: its tables are not whole.
            CaptureError: Triggers are not as they were installed: this cannot say that all was read.
        """
        found = self._database.rows(self._timeline)
        if len(found) != 1 or not found[0][0]:
            raise SourceError(
                f"{self._table}_life does not hold its one row", hint="run what `unstale outbox ddl` prints"
            )
        captured = life_of(self._database, self._table)
        return "/".join(filter(None, (str(found[0][0]), self._database.look(), captured)))

    def dead(self) -> int:
        """Count what was put aside."""
        ((count,),) = self._database.rows(f"SELECT count(*) FROM {self._table}_dead WHERE cache = ?", (self._cache,))
        return int(count)

    def wait(self, seconds: float) -> bool:
        """Wait until there may be something to read."""
        return self._database.wait(seconds, self._any)

    def _any(self) -> bool:
        return bool(self._database.rows(f"SELECT 1 FROM {self._table} WHERE cache = ? LIMIT 1", (self._cache,)))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


def ddl(dialect: str, *, table: str = TABLE) -> str:
    """Give the statements that make the tables, to be run by whoever may.

    Args:
        dialect: `postgresql`, `mysql` (also for MariaDB) or `sqlite`.
        table: The name of the table.

    Raises:
        UsageError: There is no such dialect, or the name is none.
    """
    return "".join(f"{statement};\n" for statement in dialect_of(dialect).create(table))
