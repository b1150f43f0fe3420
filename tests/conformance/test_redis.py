from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("unstale.testing.conformance")

from tests.support.redis_cluster import RedisCluster  # noqa: E402 - asserts are rewritten first
from tests.support.redis_sentinel import SentinelTrio  # noqa: E402 - as above
from tests.support.redis_servers import RedisServer  # noqa: E402 - as above
from unstale.cache import Cache  # noqa: E402 - as above
from unstale.engines.ports import Ports  # noqa: E402 - as above
from unstale.engines.redis import RedisEngine  # noqa: E402 - as above
from unstale.engines.redis_url import parse_url  # noqa: E402 - as above
from unstale.testing.conformance import OneEngineConformance  # noqa: E402 - as above
from unstale.testing.conformance.cache import CacheConformance  # noqa: E402 - as above
from unstale.testing.conformance.cache_flights import FlightTests  # noqa: E402 - as above
from unstale.testing.conformance.cache_nodes import ConsistencyTests, InvalidationTests  # noqa: E402 - as above
from unstale.testing.conformance.cache_writes import WriteTests  # noqa: E402 - as above

pytestmark = pytest.mark.real
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a server of our own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Give three primaries."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def trio() -> Iterator[SentinelTrio]:
    """Give three sentinels that watch a primary and its replica."""
    with SentinelTrio() as trio:
        yield trio


class Engines(OneEngineConformance):
    """Engines of fresh names upon servers that last."""

    slack_s = 0.05
    url: str
    name: str
    servers: Any

    def engine(self) -> RedisEngine:
        self.name = f"shop {next(_numbers)}"
        return self.second()

    def second(self) -> RedisEngine:
        return RedisEngine(parse_url(self.url), name=self.name, max_ttl_s=self.max_ttl_s)

    def foreign(self) -> RedisEngine:
        self.name = f"shop {next(_numbers)}"
        return RedisEngine(parse_url(self.url), name=self.name, max_ttl_s=self.max_ttl_s, own=False)

    @property
    def log_key(self) -> str:
        return f"{{unstale:{self.name}}}:log"

    def log_server(self) -> RedisServer:
        """Give the server of the log."""
        raise NotImplementedError

    def trim(self, keep: int) -> None:
        self.log_server().client().xtrim(self.log_key, maxlen=keep, approximate=False)

    def wipe(self) -> None:
        client = self.log_server().client()
        client.delete(*client.scan_iter(f"{{unstale:{self.name}}}:*"))


class TestRedis(Engines):
    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: RedisServer) -> None:
        self.url, self.servers = server.url, server

    def log_server(self) -> RedisServer:
        server: RedisServer = self.servers
        return server


class TestRedisCluster(Engines):
    @pytest.fixture(autouse=True)
    def _on_a_cluster(self, cluster: RedisCluster) -> None:
        self.url, self.servers = cluster.url, cluster

    def log_server(self) -> RedisServer:
        server: RedisServer = self.servers.owner_of(self.log_key)
        return server


class TestRedisSentinel(Engines):
    @pytest.fixture(autouse=True)
    def _behind_sentinels(self, trio: SentinelTrio) -> None:
        self.url, self.servers = trio.url, trio

    def log_server(self) -> RedisServer:
        server: RedisServer = self.servers.primary()
        return server


class Caches:
    """Caches of fresh names upon servers that last. Lives are counted by the server, on its own clock."""

    has_clock = False
    url: str
    name: str

    def cache(self, **settings: Any) -> Cache:
        self.name = f"cache {next(_numbers)}"
        return self.other(**settings)

    def other(self, **settings: Any) -> Cache:
        engine = RedisEngine(parse_url(self.url), name=self.name)
        return Cache(ports=Ports(engine, engine), **settings)


class TestCacheOnRedis(Caches, CacheConformance):
    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: RedisServer) -> None:
        self.url = server.url


class TestCacheOnRedisCluster(Caches, CacheConformance):
    @pytest.fixture(autouse=True)
    def _on_a_cluster(self, cluster: RedisCluster) -> None:
        self.url = cluster.url


class TestCacheBehindSentinels(Caches, InvalidationTests, ConsistencyTests, WriteTests, FlightTests):
    """What a quorum and pulses make different; each node is waited for until two pulses have proven its lease."""

    pulsed = True

    def other(self, **settings: Any) -> Cache:
        return super().other(**{"max_staleness": "1s"} | settings)

    @pytest.fixture(autouse=True)
    def _behind_sentinels(self, trio: SentinelTrio) -> None:
        self.url = trio.url
