"""A private primary with a replica and three Sentinels that watch over them, on this machine alone."""

from __future__ import annotations

import redis

from tests.support.ports import HOST
from tests.support.private_server import Ended
from tests.support.redis_servers import START_S, RedisServer
from tests.support.waiting import until

NAME = "shop"
SENTINELS = 3
QUORUM = 2
DOWN_MS = 1000
FAILOVER_MS = 2000  # Sentinels that could not agree try again after twice that
PERIOD_MS = 100  # how often a Sentinel asks and tells; by default 1, 2 and 10 s, which is long for a test


class SentinelTrio(Ended):
    """A primary and its replica, which three Sentinels know by the name `shop`.

    Args:
        config: Lines of the configuration of primary and replica, as `min_replicas_to_write=1`.
    """

    def __init__(self, **config: object) -> None:
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []
        try:
            for _ in range(2):
                self.servers.append(RedisServer(**config))  # type: ignore[arg-type] # lines of any kind
            first, second = self.servers
            second.replica_of(first)
            for _ in range(SENTINELS):
                self.sentinels.append(self._sentinel(first))
            until(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels), START_S)
        except BaseException:  # a skip too
            self.end()
            raise

    @staticmethod
    def _sentinel(primary: RedisServer) -> RedisServer:
        sentinel = RedisServer(
            sentinel=[
                f"monitor {NAME} {HOST} {primary.port} {QUORUM}",
                f"down-after-milliseconds {NAME} {DOWN_MS}",
                f"failover-timeout {NAME} {FAILOVER_MS}",
                *([f"auth-pass {NAME} {primary.login[1]}"] if primary.login[1] else []),
                *([f"auth-user {NAME} {primary.login[0]}"] if primary.login[0] else []),
            ]
        )
        for period in ("info-period", "publish-period", "ask-period"):
            sentinel.cli("SENTINEL", "DEBUG", period, PERIOD_MS)  # older ones do not know it, and take longer
        return sentinel

    def _knows_all(self, sentinel: RedisServer) -> bool:
        """Whether a Sentinel has found the replica and the other Sentinels, and all is well."""
        seen = sentinel.cli("SENTINEL", "CKQUORUM", NAME)
        replicas = sentinel.cli("--raw", "SENTINEL", "REPLICAS", NAME)
        others = sentinel.cli("--raw", "SENTINEL", "SENTINELS", NAME)
        return (
            seen.startswith(f"OK {SENTINELS} usable") and "master-link-status\nok" in replicas
            and others.count("\nrunid\n") == SENTINELS - 1
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where the Sentinels are, for a client, and the name they know the primary by."""
        login, at, _ = self.servers[0].url.removeprefix("redis://").rpartition("@")
        return f"redis+sentinel://{login}{at}{','.join(f'{HOST}:{node.port}' for node in self.sentinels)}/{NAME}/0"

    def _told_by(self, sentinel: RedisServer) -> int:
        """Give the primary's port that a Sentinel tells, 0 if it is down."""
        try:
            _host, port = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        except (redis.ConnectionError, redis.TimeoutError):
            return 0
        return int(port)

    def primary(self) -> RedisServer:
        """Give the primary that the first Sentinel which is up tells of."""
        port = next(port for sentinel in self.sentinels if (port := self._told_by(sentinel)))
        return next(server for server in self.servers if server.port == port)

    def replica(self) -> RedisServer:
        """Give the server that is not the primary."""
        primary = self.primary()
        return next(server for server in self.servers if server is not primary)

    def wait_for_failover(self, old: RedisServer) -> RedisServer:
        """Wait until every Sentinel that is up tells of another primary, which takes writes; give that."""
        until(lambda: old.port not in {self._told_by(sentinel) for sentinel in self.sentinels})
        new = self.primary()
        until(lambda: new.role() == "master")
        return new

    def wait_for_return(self, old: RedisServer) -> None:
        """Start a former primary where it is down, and wait until the Sentinels have made it a replica."""
        if not old.is_up:
            old.start()
        until(lambda: old.role() == "slave")
        old.caught_up_with(self.primary())

    def end(self) -> None:
        """End the Sentinels, then the servers."""
        for server in (*self.sentinels, *self.servers):
            server.end()
