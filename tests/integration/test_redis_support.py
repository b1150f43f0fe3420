"""The servers and networks of the other tests do what those rely on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.ports import HOST
from tests.support.proxy import Direction, Proxy
from tests.support.redis_cluster import NODES, RedisCluster
from tests.support.redis_sentinel import SentinelTrio
from tests.support.redis_servers import RedisServer, require_redis
from tests.support.waiting import until

pytestmark = pytest.mark.real

SHORT_S = 0.2  # for what must not come
PING = b"PING\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """Give a proxy in front of the server."""
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], socket.socket]]:
    """Give plain connections through the proxy."""
    opened: list[socket.socket] = []

    def one() -> socket.socket:
        opened.append(socket.create_connection((HOST, proxy.port), timeout=5.0))
        return opened[-1]

    yield one
    for connection in opened:
        connection.close()


def hears(connection: socket.socket, within_s: float = 5.0) -> bytes:
    """Give what comes within a while, nothing if nothing does."""
    connection.settimeout(within_s)
    try:
        return connection.recv(4096)
    except TimeoutError:
        return b""


def test_server_is_private_and_new() -> None:
    """A server is on a port of its own, answers its own client and redis-py alike, and knows no key."""
    with RedisServer() as server:
        assert server.port != 6379
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.cli("DBSIZE") == "0"
        assert server.cli("CONFIG", "GET", "dir").endswith(str(server.folder))
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()


def test_server_forgets_or_keeps() -> None:
    """A restarted server has its port again, and its data if it was to write them down."""
    with RedisServer() as forgets, RedisServer(appendonly=True) as keeps:
        for server, left in ((forgets, None), (keeps, b"1")):
            client, port, pid = server.client(), server.port, server.pid
            client.set("key", "1")
            server.restart()
            assert server.pid != pid
            assert (server.port, client.get("key")) == (port, left)


def test_server_killed_and_stopped() -> None:
    """A killed server refuses, a stopped one is silent until it goes on, and one that has ended leaves nothing."""
    with RedisServer() as server:
        server.stop()
        with pytest.raises(redis.TimeoutError):
            server.client(socket_timeout=SHORT_S).ping()
        server.go_on()
        assert server.client().ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.client().ping()
        assert (server.role(), server.is_up) == ("", False)
        server.start()
        server.stop()
    assert not server.folder.exists()


def test_server_takes_options() -> None:
    """A server has the options, users and passwords that a test gives it."""
    users = ["default off", "app on >secret ~* &* +@all"]
    with RedisServer(maxmemory="12mb", maxmemory_policy="allkeys-lru", requirepass="p@ss/word") as server:
        options = server.client().config_get("maxmemory*")
        assert (options["maxmemory"], options["maxmemory-policy"]) == ("12582912", "allkeys-lru")
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    with RedisServer(user=users, login=("app", "secret")) as server:
        assert server.client().acl_whoami() == "app"
        assert server.cli("PING") == "PONG"


def test_server_says_why_it_did_not_come() -> None:
    """A server that does not come up shows what it has logged."""
    with pytest.raises(pytest.fail.Exception, match="nonsense"):
        RedisServer(nonsense="yes")


def test_server_speaks_tls() -> None:
    """A server with TLS is known by its authority, also to its replica."""
    with RedisServer(tls=True) as server, RedisServer(tls=True) as replica:
        assert server.url.startswith("rediss://")
        server.client().set("key", "1")
        assert server.cli("GET", "key") == "1"
        with redis.Redis.from_url(server.url) as stranger, pytest.raises(redis.ConnectionError, match="certificate"):
            stranger.ping()
        replica.replica_of(server)
        assert replica.client().get("key") == b"1"


def test_replica_follows_and_is_promoted() -> None:
    """A replica has what the primary has, lets it write where one is required, and takes writes when promoted."""
    with RedisServer(min_replicas_to_write=1) as primary, RedisServer() as replica:
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            primary.client().set("key", "1")
        replica.replica_of(primary)
        primary.client().set("key", "1")
        replica.caught_up_with(primary)
        assert replica.client().get("key") == b"1"
        with pytest.raises(redis.ReadOnlyError):
            replica.client().set("key", "2")
        primary.kill()
        replica.promote()
        assert replica.client().set("key", "2")


def test_replica_loses_what_a_proxy_swallows() -> None:
    """A replica behind a cut misses what the primary has acknowledged, and has it again after the cut."""
    with RedisServer() as primary, RedisServer() as replica, Proxy(primary.port) as between:
        replica.replica_of(primary, between.port)
        between.cut("to_client")
        primary.client().set("key", "1")
        until(lambda: between.swallowed["to_client"])
        assert replica.client().get("key") is None
        between.heal()
        until(lambda: replica.client().get("key") == b"1")


def test_cluster_spreads_and_moves() -> None:
    """A cluster spreads keys over its primaries, and a slot moves with its keys while clients go on."""
    with RedisCluster() as cluster, redis.RedisCluster.from_url(cluster.url.replace("+cluster", "")) as client:
        keys = [f"key-{number}" for number in range(50)]
        for key in keys:
            client.set(key, key)
        assert len({cluster.owner_of(key).port for key in keys}) == NODES
        slot, source = cluster.slot_of("{tag}"), cluster.owner_of("{tag}")
        target = next(node for node in cluster.nodes if node is not source)
        for number in range(10):
            client.set(f"{{tag}}{number}", number)
        cluster.open_slot(slot, source, target)
        assert cluster.move_keys(slot, source, target, at_most=4) == 4
        with pytest.raises(redis.exceptions.AskError):
            source.client().get("{tag}new")
        assert [client.get(f"{{tag}}{number}") for number in range(10)] == [b"%d" % number for number in range(10)]
        assert cluster.move_keys(slot, source, target) == 6
        cluster.close_slot(slot, target)
        assert cluster.owner_of("{tag}") is target
        assert client.get("{tag}5") == b"5"
        cluster.migrate_slot(slot, target, source)
        assert source.client().get("{tag}5") == b"5"


def test_sentinels_fail_over() -> None:
    """Sentinels turn the replica into the primary when that is killed, and the killed one into its replica."""
    with SentinelTrio() as trio:
        old, replica = trio.primary(), trio.replica()
        old.client().set("key", "1")
        replica.caught_up_with(old)
        old.kill()
        new = trio.wait_for_failover(old)
        assert new is replica
        assert new.client().get("key") == b"1"
        trio.wait_for_return(old)
        assert trio.replica() is old


@pytest.mark.parametrize("direction", ["both", "to_server", "to_client"])
def test_proxy_cuts(
    proxy: Proxy, connect: Callable[[], socket.socket], redis_server: RedisServer, direction: Direction
) -> None:
    """A cut swallows bytes in its direction and closes nothing; what had lost some is reset when it heals."""
    cut, idle = connect(), connect()
    cut.sendall(PING)
    assert hears(cut) == PONG
    proxy.cut(direction)
    cut.sendall(b"INCR cut-%s\r\n" % direction.encode())
    late = connect()
    late.sendall(PING)
    assert (hears(cut, SHORT_S), hears(late, SHORT_S)) == (b"", b"")
    until(lambda: proxy.swallowed["to_client" if direction == "to_client" else "to_server"])
    assert redis_server.call("GET", f"cut-{direction}") == (b"1" if direction == "to_client" else None)
    proxy.heal()
    for holed in (cut, late):
        with pytest.raises(ConnectionResetError):
            hears(holed)
    idle.sendall(PING)
    assert hears(idle) == PONG


def test_proxy_delays(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    """What is slow or held comes later, whole and in order."""
    slow = connect()
    proxy.slow(0.001)
    slow.sendall(PING)
    assert hears(slow) == PONG
    laters: tuple[Callable[[], None], ...] = (lambda: proxy.slow(3600.0), lambda: proxy.hold("to_client"))
    for later in laters:
        later()
        slow.sendall(PING)
        assert hears(slow, SHORT_S) == b""
        proxy.heal()
        assert hears(slow) == PONG


def test_proxy_refuses_and_resets(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    """A proxy refuses new connections while open ones go on, resets open ones, and heals on the same port."""
    first = connect()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    first.sendall(PING)
    assert hears(first) == PONG
    proxy.close_all()
    with pytest.raises(ConnectionResetError):
        hears(first)
    proxy.heal()
    second = connect()
    second.sendall(PING)
    assert hears(second) == PONG
    assert (proxy.connections, proxy.open) == (2, 1)
    assert proxy.bytes == {"to_server": 2 * len(PING), "to_client": 2 * len(PONG)}
    second.close()
    until(lambda: proxy.open == 0)


def test_proxy_without_a_server(proxy: Proxy) -> None:
    """A proxy whose server is down resets whoever comes, and works when the server does."""
    with RedisServer() as server, Proxy(server.port) as between:
        server.kill()
        client = server.client(port=between.port)
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.ping()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_missing_server(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    """Without a server's program a test is skipped with the cure, and fails where CI=true."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt install redis-server"):
        require_redis()
