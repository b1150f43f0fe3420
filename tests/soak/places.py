"""Where a soak runs: the engines with small limits, what they may hold, and how that is looked at."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import redis

from tests.soak.verdict import Limit
from unstale.engines.ports import Ports
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_append_scripts import TRIM_STEP
from unstale.engines.redis_store import Names
from unstale.engines.redis_url import parse_url
from unstale.engines.sqlite import SQLiteEngine

NAME: Final = "soak"
SLOTS: Final = 4  # nodes at a time
BOUND_S: Final = 1.0
MAX_TTL_S: Final = 4.0  # marks live twice as long
ENTRIES_MAX: Final = 400
MARKS_MAX: Final = 2000
HISTORY_MAX: Final = 256
RECORDS_MAX: Final = 1000
STORED_MAX: Final = 20_000
MEMBERS_MAX: Final = 4 * SLOTS  # nodes, caches that come and go in them, and killed ones until they are noticed
SQLITE: Final = "sqlite:///"


def ports_of(url: str) -> Ports:
    """Give the engine of a URL, with small limits."""
    engine: Any
    if url.startswith(SQLITE):
        engine = SQLiteEngine(
            url.removeprefix(SQLITE), name=NAME, records_max=RECORDS_MAX, entries_max=STORED_MAX, marks_max=STORED_MAX,
            max_ttl_s=MAX_TTL_S,
        )  # fmt: skip
    else:
        engine = RedisEngine(parse_url(url), name=NAME, records_max=RECORDS_MAX, max_ttl_s=MAX_TTL_S)
    return Ports(engine, engine)


class Place(Protocol):
    """What can be looked at."""

    @property
    def limits(self) -> dict[str, Limit]:
        """What each series may do."""

    def look(self) -> dict[str, float]:
        """Measure."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RedisPlace:
    """A Redis server that serves nothing but the soak."""

    limits: Final[dict[str, Limit]] = {
        "server: used memory": Limit("MB", share=0.1, slack=0.3),
        "server: keys that expire": Limit(bound=STORED_MAX, share=0.25, slack=200),
        "server: keys that do not": Limit(bound=5),  # meta, log, ids, members, the last token
        "server: bytes in these": Limit("MB", share=0.05, slack=0.03),
        "server: records": Limit(bound=RECORDS_MAX + TRIM_STEP, slack=TRIM_STEP),
        "server: ids": Limit(bound=RECORDS_MAX + TRIM_STEP, slack=TRIM_STEP),
        "server: members": Limit(bound=MEMBERS_MAX, slack=2),
        "server: clients": Limit(bound=20 * SLOTS, slack=5),
    }

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url.partition("?")[0])
        names = Names("unstale", NAME)
        self._names = (*names.all, names.token)
        self._log, self._ids, self._members = names.log, names.ids, names.members

    def look(self) -> dict[str, float]:
        """Measure."""
        with self._client.pipeline(transaction=True) as asked:
            for section in ("memory", "keyspace", "clients"):
                asked.info(section)
            asked.xlen(self._log)
            asked.hlen(self._ids)
            asked.hlen(self._members)
            for name in self._names:
                asked.memory_usage(name, samples=0)
            memory, keys, clients, records, ids, members, *fixed = asked.execute()
        counted = keys.get("db0", {"keys": 0, "expires": 0})
        return {
            "server: used memory": memory["used_memory"] / 1e6,
            "server: keys that expire": counted["expires"],
            "server: keys that do not": counted["keys"] - counted["expires"],
            "server: bytes in these": sum(size or 0 for size in fixed) / 1e6,
            "server: records": records,
            "server: ids": ids,
            "server: members": max(0, members - 1),  # without the list's own id
            "server: clients": clients["connected_clients"],
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


class SqlitePlace:
    """A file that serves nothing but the soak."""

    limits: Final[dict[str, Limit]] = {
        "file: size": Limit("MB", share=0.1, slack=0.5),
        "file: entries": Limit(bound=STORED_MAX, share=0.25, slack=200),
        "file: marks": Limit(bound=STORED_MAX, share=0.25, slack=200),
        "file: records": Limit(bound=1.2 * RECORDS_MAX, slack=0.1 * RECORDS_MAX),
        "file: members": Limit(bound=MEMBERS_MAX, slack=2),
        "file: locks": Limit(bound=STORED_MAX, slack=20),
    }
    _tables: Final = {"entries": "entry", "marks": "mark", "records": "log", "members": "member", "locks": "lock"}

    def __init__(self, url: str) -> None:
        self._path = Path(url.removeprefix(SQLITE))
        self._db: sqlite3.Connection | None = None

    def look(self) -> dict[str, float]:
        """Measure."""
        if self._db is None:
            self._db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        seen: dict[str, float] = {}
        files = (self._path, *(self._path.with_name(self._path.name + end) for end in ("-wal", "-shm")))
        seen["file: size"] = sum(file.stat().st_size for file in files if file.exists()) / 1e6
        for name, table in self._tables.items():
            (seen[f"file: {name}"],) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._db is not None:
            self._db.close()


def place_of(url: str) -> Place:
    """Give what looks at the place of a URL."""
    return SqlitePlace(url) if url.startswith(SQLITE) else RedisPlace(url)
