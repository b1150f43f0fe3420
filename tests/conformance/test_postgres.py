from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("unstale.testing.conformance")

from tests.support.postgres_servers import PostgresServer  # noqa: E402 - asserts are rewritten first
from unstale.cache import Cache  # noqa: E402 - as above
from unstale.engines.ports import Ports  # noqa: E402 - as above
from unstale.engines.postgres import PostgresEngine  # noqa: E402 - as above
from unstale.engines.postgres_url import parse_url  # noqa: E402 - as above
from unstale.testing.conformance import OneEngineConformance  # noqa: E402 - as above
from unstale.testing.conformance.cache import CacheConformance  # noqa: E402 - as above
from unstale.testing.conformance.cache_nodes import ConsistencyTests, InvalidationTests  # noqa: E402 - as above
from unstale.testing.conformance.cache_writes import WriteTests  # noqa: E402 - as above

pytestmark = pytest.mark.real
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server of our own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def quorum() -> Iterator[PostgresServer]:
    """Give a primary whose commits wait for its replica."""
    with PostgresServer(wal_level="replica") as primary, PostgresServer(of=primary) as replica:
        replica.caught_up_with(primary)
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        yield primary


class TestPostgres(OneEngineConformance):
    slack_s = 0.05
    server: PostgresServer
    name: str

    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: PostgresServer) -> None:
        self.server = server

    def engine(self) -> PostgresEngine:
        self.name = f"shop {next(_numbers)}"
        return self.second()

    def second(self) -> PostgresEngine:
        return PostgresEngine(parse_url(self.server.url), name=self.name, max_ttl_s=self.max_ttl_s)

    def foreign(self) -> PostgresEngine:
        return self.engine()

    @property
    def _mine(self) -> str:
        return f"cache = (SELECT id FROM unstale.cache WHERE name = '{self.name}')"

    def trim(self, keep: int) -> None:
        head = f"(SELECT head FROM unstale.cache WHERE name = '{self.name}')"
        self.server.sql(f"DELETE FROM unstale.log WHERE {self._mine} AND position <= {head} - {keep}")

    def wipe(self) -> None:
        tables = ("log", "mark", "member", "list")
        self.server.sql(
            *(f"DELETE FROM unstale.{table} WHERE {self._mine}" for table in tables),
            f"DELETE FROM unstale.cache WHERE name = '{self.name}'",
        )


class Caches:
    """Caches of fresh names upon a server that lasts. Lives are counted by the server, on its own clock."""

    has_clock = False
    url: str
    name: str

    def cache(self, **settings: Any) -> Cache:
        self.name = f"cache {next(_numbers)}"
        return self.other(**settings)

    def other(self, **settings: Any) -> Cache:
        engine = PostgresEngine(parse_url(self.url), name=self.name)
        return Cache(ports=Ports(engine, engine), **settings)


class TestCacheOnPostgres(Caches, CacheConformance):
    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: PostgresServer) -> None:
        self.url = server.url


class TestCacheOnSynchronousPostgres(Caches, InvalidationTests, ConsistencyTests, WriteTests):
    """What a synchronous standby and pulses make different."""

    pulsed = True

    def other(self, **settings: Any) -> Cache:
        return super().other(**{"max_staleness": "1s"} | settings)

    @pytest.fixture(autouse=True)
    def _behind_a_standby(self, quorum: PostgresServer) -> None:
        self.url = quorum.url
