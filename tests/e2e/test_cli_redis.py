"""The commands that look at a cache and act on it, on real Redis servers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import SentinelTrio
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale import Cache
from unstale.cli import log_cmds
from unstale.cli.app import app
from unstale.core.record import Record, Stamp
from unstale.errors import NotPublishedError

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
_numbers = itertools.count()

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a server of our own."""
    with RedisServer() as server:
        yield server


class Shop:
    """A cache in use, of a fresh name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"shop {next(_numbers)}"
        self.cache = Cache(url, name=self.name)
        self.product: Any = self.cache.cached("product:{number}", tags=["catalog"], ttl="10m", grace="1h")(self.load)
        self.product(17)

    @staticmethod
    def load(number: int) -> dict[str, int]:
        return {"number": number}

    def call(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """Run a command on this cache."""
        return call(command, self.url, *arguments, "--name", self.name)


@pytest.fixture
def shop(server: RedisServer) -> Iterator[Shop]:
    """Give a cache that is in use."""
    place = Shop(server.url)
    yield place
    place.cache.close()


def call(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, output, error output."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def state(server: RedisServer) -> list[tuple[str, str]]:
    """Give all keys of a server with their values, but what members tell, and how often they were asked."""
    client = server.client(decode_responses=False)
    keys = [key for key in client.scan_iter() if not key.endswith(b":members")]
    return sorted((repr(key), repr(client.dump(key))) for key in keys)


def test_get_and_explain(shop: Shop) -> None:
    """What may be served is printed, what was ended is told, in all shapes, as the library itself says."""
    assert shop.call("get", "product:17") == (0, '{"number":17}\n', "")
    shop.cache.get_or_load("product:17", lambda: "seventeen", type=str, tags=["catalog"])
    assert len(json.loads(shop.call("get", "product:17", "--json")[1])) == 2
    shop.cache.invalidate("catalog")
    code, output, errors = shop.call("explain", "product:17")
    assert (code, errors) == (1, "")
    known = shop.product.explain(17)
    assert known.why == "ended by catalog after its stamp"
    assert f"may not be served: {known.why}" in output
    assert "position 0, 1 before the head of the log" in output
    assert "nothing is stored" in shop.call("get", "product:99")[2]
    assert shop.call("explain", "product:99")[0] == 1


def test_wildcards_in_keys_are_letters(shop: Shop) -> None:
    """A key with the letters of a pattern finds itself and nothing else."""
    for key in ("product:[1]", "product:?", "product:\\1", "product:^-"):
        shop.cache.get_or_load(key, lambda: 1, type=int)
        assert shop.call("get", key)[1] == "1\n"
    assert shop.call("get", "product:1?")[0] == 1


@pytest.mark.parametrize(
    "command", [["get", "a:1"], ["explain", "a:1"], ["tail", "--no-follow"], ["nodes"], ["doctor"]], ids=lambda c: c[0]
)
def test_looking_leaves_no_trace(command: list[str], shop: Shop, server: RedisServer) -> None:
    """Commands that only look join nothing, write nothing, and make no cache that is not there."""
    name, *rest = command
    members, before = len(shop.cache.ports.log.read_members().members), state(server)
    shop.call(name, *rest)
    assert len(shop.cache.ports.log.read_members().members) == members
    code, output, errors = call(name, shop.url, *rest, "--name", "never made")
    assert code == 1
    assert "holds no cache named 'never made'; it holds " in (output + errors).replace("\n", " ")
    assert repr(shop.name) in output + errors
    assert [one for one in state(server) if "beat" not in one[1]] == before


def test_invalidate_tail_and_nodes(shop: Shop) -> None:
    """What is invalidated by hand ends in a running service; the log shows it, and who has applied it."""
    code, output, errors = shop.call("invalidate", "catalog", "x:1", "--wait", "--reason", "[bold]prices[/]")
    assert (code, errors) == (0, "")
    assert "Invalidated catalog, x:1 at position 1." in output
    assert shop.product.peek(17) is None
    shop.cache.invalidate("c:3", soft=True)
    shop.cache.ports.log.append((Record("p1", (), covers=Stamp("g", 1)),))
    first, second, third = shop.call("tail", "--no-follow")[1].splitlines()
    assert [first.split()[0], *first.split()[2:5]] == ["1", "catalog", "x:1", "[bold]prices[/]"]
    assert second.split()[2:4] == ["c:3", "soft"]
    assert "pulse that covers 1" in third
    mine = shop.cache.node.id
    until(lambda: {one["node"]: one for one in json.loads(shop.call("nodes", "--json")[1])}[mine]["applied"] == 3)
    assert "0    2 s" in next(line for line in shop.call("nodes")[1].splitlines() if line.startswith(mine))


def test_nodes_that_ended_are_silent(server: RedisServer) -> None:
    """A process that was killed stays on the list for a while, as one that says nothing."""
    name = f"shop {next(_numbers)}"
    script = f"from unstale import Cache; c = Cache({server.url!r}, name={name!r}, max_staleness='300ms')"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script}; c.get('a:1'); print(c.node.id, flush=True); input()"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        node = process.stdout.readline().strip()
        (alive,) = json.loads(call("nodes", server.url, "--name", name, "--json")[1])
        process.kill()
        process.wait(DEADLINE_S)
    assert (alive["node"], alive["silent"]) == (node, False)
    (dead,) = json.loads(call("nodes", server.url, "--name", name, "--json")[1])
    assert (dead["node"], dead["silent"]) == (node, True)
    assert "silent: ended, or stopped" in call("nodes", server.url, "--name", name)[1]


def test_tail_goes_on_after_a_restart() -> None:
    """What comes is printed as it comes, also after the server was restarted; Ctrl-C ends it without a traceback."""
    with RedisServer() as server, Cache(server.url, name="shop") as cache:
        cache.invalidate("zero:0")
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "unstale.cli", "tail", server.url, "--name", "shop", "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                assert json.loads(process.stdout.readline())["scopes"] == ["zero:0"]
                server.restart()
                until(lambda: _published(cache, "one:1"))
                assert json.loads(process.stdout.readline())["scopes"] == ["one:1"]
                process.send_signal(signal.SIGINT)
                _output, errors = process.communicate(timeout=DEADLINE_S)
            finally:
                process.kill()
    assert process.returncode == log_cmds.INTERRUPTED
    assert "the log began anew" in errors
    assert "Traceback" not in errors


def _published(cache: Cache, scope: str) -> bool:
    try:
        cache.invalidate(scope)
    except NotPublishedError:  # it is not back yet
        return False
    return True


def test_restarted_servers_are_told_apart() -> None:
    """After a restart nothing that is stored may be served, and a look says so instead of judging by old marks."""
    with RedisServer(appendonly=True) as server:
        with Cache(server.url, name="shop") as cache:
            cache.get_or_load("product:17", lambda: 1, type=int)
        server.restart()
        code, _output, errors = call("get", server.url, "product:17", "--name", "shop")
        assert code == 1
        assert "was restarted or promoted, and no process has used 'shop' since" in errors
        code, output, _errors = call("doctor", server.url, "--name", "shop")
        assert code == 0
        assert "was restarted or promoted" in output


def test_signed_caches(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed cache is invalidated with its secret only; with it, a look tells what was forged."""
    secret, name = "0123456789abcdef" * 2, f"shop {next(_numbers)}"
    with Cache(server.url, name=name, secret=secret) as cache:
        cache.get_or_load("product:17", lambda: 1, type=int, tags=["catalog"])
        cache.invalidate("x:1")
        assert call("get", server.url, "product:17", "--name", name)[1] == "1\n"
        code, _output, errors = call("invalidate", server.url, "catalog", "--name", name)
        assert code == 2
        assert "UNSTALE_SECRET" in errors
        monkeypatch.setenv("UNSTALE_SECRET", f"{secret[::-1]} {secret}")
        assert call("get", server.url, "product:17", "--name", name)[1] == "1\n"
        assert "x:1" in call("tail", server.url, "--name", name, "--no-follow")[1]
        monkeypatch.setenv("UNSTALE_SECRET", secret)
        assert call("invalidate", server.url, "catalog", "--name", name)[0] == 0
        until(lambda: cache.get("product:17", type=int) is None)
        monkeypatch.setenv("UNSTALE_SECRET", secret[::-1])
        assert "no valid signature" in call("tail", server.url, "--name", name, "--no-follow")[1]
        assert "nothing is stored" in call("get", server.url, "product:18", "--name", name)[2]


def test_on_a_cluster() -> None:
    """All commands find what is spread over a cluster."""
    with RedisCluster() as cluster:
        shop = Shop(cluster.url)
        try:
            for number in range(20):
                shop.product(number)
            for number in range(20):
                assert shop.call("get", f"product:{number}") == (0, f'{{"number":{number}}}\n', "")
            assert shop.call("invalidate", "product")[0] == 0
            assert "product" in shop.call("tail", "--no-follow")[1]
            assert shop.cache.node.id in shop.call("nodes")[1]
            code, output, _errors = shop.call("doctor")
            assert code == 0
            for node in cluster.nodes:
                assert f"127.0.0.1:{node.port}, " in output
        finally:
            shop.cache.close()


def test_behind_sentinels() -> None:
    """All commands find the primary that sentinels name, and doctor tells what its replica proves."""
    with SentinelTrio() as trio:
        shop = Shop(trio.url)
        try:
            assert shop.call("get", "product:17")[1] == '{"number":17}\n'
            assert shop.call("invalidate", "product:17")[0] == 0
            assert "1 online, and 1 acknowledge; leases rest on pulses" in shop.call("doctor")[1]
            code, output, _errors = call("doctor", f"{trio.url}?quorum=0", "--name", shop.name)
            assert code == 1
            assert "a primary that was cut off and deposed is believed until it is told" in output
        finally:
            shop.cache.close()


def test_scripts_are_printed_as_the_server_knows_them(server: RedisServer) -> None:
    """What `wire script` prints is what the server loads under the SHA-1 that it prints."""
    for name in ("invalidate", "append"):
        code, text, errors = call("wire", "script", name)
        assert (code, errors) == (0, "")
        assert server.client().script_load(text) == call("wire", "script", name, "--sha")[1].strip()
    assert call("wire", "script", "other")[0] == 2
