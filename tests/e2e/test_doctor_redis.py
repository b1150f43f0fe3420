"""The command `doctor` on real Redis servers: each problem with what it weakens, and a command that mends it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale import Cache
from unstale.cli import examine_redis, examine_redis_log
from unstale.cli.app import app
from unstale.engines.redis_url import RedisUrl, parse_url
from unstale.errors import NotPublishedError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Give a server of our own, set up as the guide says."""
    with RedisServer(maxmemory="64mb", maxmemory_policy="volatile-ttl") as server:
        yield server


@pytest.fixture
def cache(server: RedisServer) -> Iterator[Cache]:
    """Give a cache that is in use."""
    with Cache(server.url, name="shop") as cache:
        cache.get_or_load("product:17", lambda: 1, type=int)
        yield cache


def found(url: str, name: str = "shop") -> dict[str, dict[str, str]]:
    """Give what doctor finds, but what is in order, by subject."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor", url, "--name", name, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    findings = [one for one in json.loads(result.stdout) if one["level"] != "ok"]
    problems = [one for one in findings if one["level"] == "problem"]
    assert result.exit_code == (1 if problems else 0)
    assert all(one["weakens"] and one["mend"] for one in problems)
    return {one["subject"]: one for one in findings}


def mend(finding: dict[str, str]) -> None:
    """Run the command that a finding names, as a reader would."""
    if shutil.which("redis-cli") is None:
        pytest.fail("install redis-cli: apt install redis-tools")
    assert finding["mend"].startswith("redis-cli ")
    subprocess.run(finding["mend"], shell=True, check=True, capture_output=True)


def test_nothing_is_wrong(server: RedisServer, cache: Cache) -> None:
    """A server that is set up as the guide says has no findings."""
    assert found(server.url) == {}


@pytest.mark.parametrize(
    ("setting", "value", "subject"),
    [
        ("maxmemory-policy", "noeviction", "eviction"),
        ("maxmemory-policy", "allkeys-lru", "eviction"),
        ("maxmemory-policy", "volatile-lru", "eviction"),
        ("maxmemory", "0", "memory"),
        ("min-replicas-to-write", "2", "replicas"),
    ],
)
def test_settings_are_mended(setting: str, value: str, subject: str, server: RedisServer, cache: Cache) -> None:
    """Each setting that weakens the cache is found, and the command that is given mends it."""
    server.call("CONFIG", "SET", setting, value)
    findings = found(server.url)
    assert set(findings) - {"silent"} == {subject}  # where nothing can be written, no member can speak
    mend(findings[subject])
    until(lambda: found(server.url) == {})


def test_memory_is_measured(server: RedisServer, cache: Cache) -> None:
    """A memory that is nearly full, and marks that an eviction may have cost, are found."""
    server.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    client = server.client()
    for number in range(200):
        client.set(f"filler:{number}", "x" * 10_000, ex=1000)
    used = int(server.info("memory")["used_memory"])
    server.call("CONFIG", "SET", "maxmemory", used - 500_000)
    client.set("filler:more", "x", ex=1000)
    findings = found(server.url)
    assert {"memory", "eviction", "marks"} <= set(findings)
    assert "evicted keys" in findings["marks"]["text"]


def test_replicas_and_quorum(server: RedisServer, cache: Cache) -> None:
    """Replicas without a quorum, a quorum that cannot be reached, and replicas that have gone are found."""
    assert "1 have to acknowledge" not in json.dumps(found(server.url))
    assert "quorum=1 have to acknowledge" in found(f"{server.url}?quorum=1")["replicas"]["text"]
    with RedisServer() as one, RedisServer() as two:
        one.replica_of(server)
        assert set(found(server.url)) <= {"min-replicas-to-write", "cache"}
        assert found(f"{server.url}?quorum=0")["replicas"]["level"] == "problem"
        until(lambda: _seen_replicas(one) == 1)  # what the primary notes of itself is on its replica too
        assert found(one.url)["replicas"]["text"] == f"127.0.0.1:{one.port} is a replica of 127.0.0.1:{server.port}"
        two.replica_of(server)
        assert found(server.url)["replicas"]["level"] == "note"
        mend(found(server.url)["min-replicas-to-write"])
        assert "min-replicas-to-write" not in found(server.url)
        until(lambda: _seen_replicas(server) == 2)
    until(lambda: server.info("replication")["connected_slaves"] == 0)
    server.call("CONFIG", "SET", "min-replicas-to-write", 0)
    assert "this generation was seen with 2" in found(server.url)["replicas"]["text"]


def _seen_replicas(server: RedisServer) -> int:
    return int(server.call("HGET", "{unstale:shop}:meta", "replicas") or 0)


def test_rights_are_asked_for() -> None:
    """A user who may not do all that the engine does is found, and the command given lets it."""
    users = ["default on nopass ~* &* +@all", "app on >secret ~* +@all -time -wait", "none on >secret -@all"]
    with RedisServer(maxmemory="64mb", maxmemory_policy="volatile-ttl", user=users) as server:
        app_url = server.url.replace("://", "://app:secret@")
        with Cache(server.url, name="shop") as cache:
            cache.invalidate("a:1")
            assert found(server.url) == {}
            denied = found(app_url)
            assert set(denied) == {"permissions", "cache"}  # marks are dated by TIME: nothing can be told of them
            assert denied["permissions"]["text"] == "'app' lacks +time +wait"
            mend(denied["permissions"])
            assert found(app_url) == {}
            server.call("ACL", "SETUSER", "app", "resetkeys", "~other:*")
            (permissions,) = (one for one in found(app_url).values() if one["subject"] == "permissions")
            assert permissions["text"] == "'app' lacks ~unstale:* ~{unstale:*"
            mend(permissions)
            assert found(app_url) == {}
            assert found(server.url.replace("://", "://none:secret@"))["server"]["level"] == "problem"


def test_rights_of_the_guide_suffice(server: RedisServer, cache: Cache) -> None:
    """The user that the guide makes may do all that the engine and doctor do."""
    guide = (ROOT / "docs" / "guides" / "redis.md").read_text(encoding="utf-8")
    (line,) = (line.split() for line in guide.splitlines() if line.startswith("    ACL SETUSER shop "))
    server.call(*line)
    url = server.url.replace("://", "://shop:password@")
    assert found(url) == {}
    with Cache(url, name="shop") as other:
        other.invalidate("a:1", wait=True)


def test_connections_are_counted(server: RedisServer, cache: Cache) -> None:
    """A server with hardly any room for another connection is found."""
    clients = [server.client() for _ in range(40)]
    pipes: list[Any] = [client.pubsub() for client in clients]  # type: ignore[no-untyped-call]
    for pipe in pipes:
        pipe.subscribe("x")
    server.call("CONFIG", "SET", "maxclients", int(server.info("clients")["connected_clients"]) + 3)
    try:
        mend(found(server.url)["connections"])
        assert "connections" not in found(server.url)
    finally:
        for pipe in pipes:
            pipe.close()


def test_disk_that_is_full(server: RedisServer, cache: Cache) -> None:
    """A server that could not save, and so refuses writes, is found."""
    server.call("CONFIG", "SET", "save", "3600 1")
    (server.folder / "dump.rdb").mkdir()
    server.call("BGSAVE")
    until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")
    findings = found(server.url)
    assert findings["persistence"]["level"] == "problem"
    mend(findings["persistence"])
    assert found(server.url) == {}


def test_log_is_examined(server: RedisServer, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that reaches back for a moment only, and one that another program wrote to, are found."""
    monkeypatch.setattr(examine_redis_log, "RECORDS_MAX", 1)
    cache.invalidate("a:1", "a:2")
    cache.invalidate("a:3")
    assert "they reach back" in found(server.url)["log"]["text"]
    monkeypatch.undo()
    server.call("XADD", "{unstale:shop}:log", "9-0", "x", "y")
    findings = found(server.url)
    assert "the stream goes on to 9" in findings["chain"]["text"]
    mend(findings["chain"])
    until(lambda: _published(cache))
    until(lambda: found(server.url) == {})


def _published(cache: Cache) -> bool:
    try:
        cache.invalidate("a:4")
    except NotPublishedError:  # the old log is not noticed yet
        return False
    return True


def test_members_that_differ(server: RedisServer, cache: Cache) -> None:
    """Members with other bounds, and a bound that nobody has any more, are found."""
    with Cache(server.url, name="shop", max_staleness="5s") as other:
        other.get("a:1")
        assert "2 s, 5 s" in found(server.url)["drift"]["text"]
        node = other.node.id
    server.call("HDEL", "{unstale:shop}:members", f"n{node}")
    until(lambda: "once told a bound of 5 s" in found(server.url).get("drift", {}).get("text", ""))


def test_what_is_no_server(server: RedisServer) -> None:
    """A server that does not answer, and a URL that is wrong, say what to do."""
    server.kill()
    assert "does not answer" in found(server.url)["server"]["text"]
    result = CliRunner().invoke(app, ["doctor", "redis://"])
    assert result.exit_code == 2
    assert "names no host" in result.stderr


class Sick:
    """Stands for a server with an old version, a clock of its own, and a slow network."""

    place = "there:1"
    address = ("there", 1)

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.ask = answer
        self.url: RedisUrl = parse_url("redis://there:1?timeout=20ms")

    def command(self, *words: str) -> str:
        return " ".join(words)


def test_what_no_server_here_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old version, a clock that is an hour ahead, slow answers, and an open server elsewhere are judged."""
    sick: Any = Sick(lambda *_words: (b"9999999999", b"0"))
    assert examine_redis._version(sick, {"redis_version": "6.2.1"}).level == "problem"
    assert examine_redis._version(sick, {"redis_version": "7.2.4", "valkey_version": "8.0.0"}).level == "ok"
    assert ["ahead of" in one.text for one in examine_redis._clock(sick)] == [True]
    assert [one.subject for one in examine_redis._secrecy(sick)] == ["password"]
    moments = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments) * 0.008)
    assert examine_redis._latency(sick).level == "note"
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments) * 0.015)
    assert examine_redis._latency(sick).level == "problem"
