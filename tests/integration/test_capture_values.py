from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.captures import Told, capturing
from tests.support.mariadb_servers import MariaDBServer
from tests.support.outboxes import behind_an_outbox
from tests.support.postgres_servers import PostgresServer
from unstale import Cache
from unstale.sources.capture_config import Asked
from unstale.sources.outbox import Outbox

pytestmark = pytest.mark.real

TEXTS = [
    "a:b",
    "100%",
    "Ünï©ode 漢字 🎈",
    "None",
    "17",
    "1e5",
    "True",
    "a\nb\t",
    "a!b,(c)*",
    "it's \"\\quoted",
    "{x}",
    "?%s",
]
VALUES: dict[Any, list[Any]] = {
    int: [17, -1, 0, 2**63 - 1],
    str: [*TEXTS, "", " padded"],
    bytes: [b"\x00\xff", b"x"],
    uuid.UUID: [uuid.UUID(int=0xA2345678123456781234567812345678)],
    date: [date(2026, 11, 21), date(1, 1, 1)],
    datetime: [datetime(2026, 11, 21, 10, 0, 0, 500000), datetime(2026, 11, 21, 10)],  # noqa: DTZ001 - it has none
    Decimal: [Decimal("1.50"), Decimal(-3), Decimal("0.000001"), Decimal("1e10")],
    bool: [True, False],
}
POSTGRES: dict[Any, str] = {
    int: "bigint", str: "text", bytes: "bytea", uuid.UUID: "uuid", date: "date", datetime: "timestamp",
    Decimal: "numeric", bool: "boolean",
}  # fmt: skip
MARIADB: dict[Any, str] = {
    int: "bigint", str: "varchar(90) COLLATE utf8mb4_bin", bytes: "varbinary(9)", uuid.UUID: "uuid", date: "date",
    datetime: "datetime(6)", Decimal: "decimal(30,6)",
}  # fmt: skip
SQLITE: dict[Any, str] = {
    int: "INTEGER", str: "TEXT", bytes: "BLOB", uuid.UUID: "CHAR(36)", date: "DATE", datetime: "TIMESTAMP",
    bool: "BOOLEAN",
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


def keys(cache: Cache, kind: type, value: object) -> set[str]:
    """Give the keys of two functions: one declares the type of its parameter, the other one that None may come."""

    def strict(v: Any) -> None: ...

    def loose(v: Any) -> None: ...

    strict.__annotations__["v"], loose.__annotations__["v"] = kind, kind | None
    how = cache.cached("strict:{v}", ttl="1h"), cache.cached("loose:{v}", ttl="1h")
    return {how[0](strict).key(value), how[1](loose).key(value)}


def check(cache: Cache, url: str, types: dict[Any, str], run: Callable[..., Any]) -> None:
    """Write a row for each value by a statement of another's, and compare what ends with the keys of functions."""
    with Outbox(url) as outbox:
        outbox.create()
    tables = {kind: f"of_{kind.__name__.lower()}" for kind in types}
    for kind, name in types.items():
        run(f"CREATE TABLE {tables[kind]} (id integer PRIMARY KEY, v {name})")
    held = {tables[kind]: {"v": "uuid"} for kind, name in types.items() if kind is uuid.UUID and name != "uuid"}
    asked = {one: Asked(scopes=("strict:{v}", "loose:{v}"), kinds=held.get(one, {})) for one in tables.values()}
    capturing(url, **asked)
    told = Told(cache, url)
    for kind, table in tables.items():
        for number, value in enumerate([*VALUES[kind], None]):
            run(f"INSERT INTO {table} VALUES ({number}, ?)", value)
            ended = told.scopes()
            if value is None:
                assert ended == {f"table:{table}", "strict:None", "loose:None"}
            else:
                assert keys(cache, kind, value) <= ended, (kind, value)
                assert table not in ended, "it was known which row it is"


@pytest.mark.parametrize("style", ["ISO, MDY", "German"])
def test_h31_values_of_postgresql_are_keys(cache: Cache, style: str) -> None:
    """Whatever value a column has, and however the session writes dates and bytes, what ends is the function's key."""
    with PostgresServer() as server, server.client() as client:
        client.execute(f"SET DateStyle = '{style}'; SET bytea_output = escape; SET extra_float_digits = -15")
        check(cache, server.url, POSTGRES, lambda sql, *v: client.execute(sql.replace("?", "%s"), v or None))


def test_h31_values_of_mariadb_are_keys(cache: Cache) -> None:
    """The same in MariaDB, over a connection of another character set."""
    with MariaDBServer() as server, closing(server.client(autocommit=True)) as client, client.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')")

        def run(sql: str, *values: Any) -> None:
            hexes: dict[Any, str] = {str: "CONVERT(x'%s' USING utf8mb4)", bytes: "x'%s'"}
            for value in values:
                raw = value.encode() if isinstance(value, str) else value
                told = hexes[type(value)] % raw.hex() if type(value) in hexes else f"'{value}'"
                sql = sql.replace("?", "NULL" if value is None else told)
            cursor.execute(sql)

        check(cache, server.url, MARIADB, run)


def test_h31_values_of_sqlite_are_keys(cache: Cache, tmp_path: Path) -> None:
    """The same in SQLite, which has texts for most types."""
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as db:

        def run(sql: str, *values: Any) -> None:
            plain = [str(one) if isinstance(one, uuid.UUID | date) else one for one in values]
            db.execute(sql, plain)

        db.execute("CREATE TABLE t (x)")
        check(cache, f"sqlite:///{tmp_path}/shop.db", SQLITE, run)
