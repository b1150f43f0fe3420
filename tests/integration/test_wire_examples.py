"""Services in other languages invalidate by one EVALSHA: the examples as they stand, and the bytes that they write."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.private_server import unavailable
from tests.support.redis_servers import RedisServer
from tests.support.waiting import DEADLINE_S, until
from unstale import Cache, Ticket
from unstale.core.marks import full
from unstale.core.record import Record, decode_record, encode_record
from unstale.engines.redis_append_scripts import APPEND, INVALIDATE
from unstale.errors import NotPublishedError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
_numbers = itertools.count()
Invalidate = Callable[..., str]

pytestmark = pytest.mark.real


def environment() -> dict[str, str]:
    """Give what the processes find around them."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


def need(program: str, cure: str) -> str:
    """Give the path of a program; without it skip, or fail where CI=true."""
    found = shutil.which(program)
    if found is None:
        unavailable(cure)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the script, as a deploy would put it there."""
    place = tmp_path_factory.mktemp("deployed")
    command = [sys.executable, "-m", "unstale.cli", "wire", "script", "invalidate"]
    with (place / "invalidate.lua").open("wb") as file:
        subprocess.run(command, env=environment(), stdout=file, check=True)
    return place


@pytest.fixture(scope="module")
def node_command(folder: Path) -> list[str]:
    """Give the command of the example in Node.js, installed as its lock file says."""
    node, npm = need("node", "install Node.js: apt install nodejs"), need("npm", "install npm: apt install npm")
    for name in ("package.json", "package-lock.json", "invalidate.mjs"):
        shutil.copy(EXAMPLES / "node-ioredis" / name, folder)
    done = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        unavailable(f"npm could not install ioredis; is its registry reachable? {done.stderr[-300:]}")
    return [node, "invalidate.mjs"]


@pytest.fixture(scope="module")
def shell_command(folder: Path) -> list[str]:
    """Give the command of the example for shells."""
    need("redis-cli", "install redis-cli: apt install redis-tools")
    shutil.copy(EXAMPLES / "redis-cli" / "invalidate.sh", folder)
    return ["sh", "invalidate.sh"]


@pytest.fixture(params=["node_command", "shell_command"])
def invalidate(request: pytest.FixtureRequest, folder: Path) -> Invalidate:
    """Give each example as a function."""
    command: list[str] = request.getfixturevalue(request.param)

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [*command, *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture
def name() -> str:
    """Give the name of a cache that nobody else uses."""
    return f"shop {next(_numbers)}"


@pytest.fixture
def cache(redis_server: RedisServer, name: str) -> Iterator[Cache]:
    """Give a cache that follows the log of a server."""
    with Cache(redis_server.url, name=name) as cache:
        yield cache


def test_examples_end_entries_on_a_node(
    invalidate: Invalidate, redis_server: RedisServer, cache: Cache, name: str
) -> None:
    """What a stranger invalidates is ended in a running process: its own memory, and the store, by key and by tag."""
    loads = itertools.count()
    for key in ("product:17", "product:18", "view:1"):
        cache.get_or_load(key, lambda: next(loads), type=int, tags=["a tag, with Käse"] if key == "view:1" else [])
    assert cache.get("product:17", type=int) == 0
    invalidate(redis_server.url, name, "product:17", "a tag, with Käse")
    until(lambda: cache.get("product:17", type=int) is None)
    assert cache.get("view:1", type=int) is None
    assert cache.get("product:18", type=int) == 1
    with Cache(redis_server.url, name=name) as newcomer:  # knows it from the marks and the log alone
        assert newcomer.get("product:17", type=int) is None
        assert newcomer.get("product:18", type=int) == 1
    (logged,) = cache.ports.log.poll(cache.node.member(), 0, 10, 0.0).records
    assert logged.record.scopes == ("product:17", "a tag, with Käse")
    assert logged.record.why.startswith("told by ")
    assert ":" in logged.record.who


def test_examples_begin_a_log(invalidate: Invalidate, redis_server: RedisServer, name: str) -> None:
    """The first to publish may be a stranger, or one after the server was emptied: the script begins the log itself."""
    invalidate(redis_server.url, name, "product:17")
    with Cache(redis_server.url, name=name) as cache:
        assert cache.ports.log.read_head().head == 1
        cache.invalidate("product:18")
        assert cache.ports.log.read_head().head == 2
        invalidate(redis_server.url, name, "product:19")
        assert cache.ports.log.read_head().head == 3


def test_examples_tell_what_went_wrong(invalidate: Invalidate, redis_server: RedisServer) -> None:
    """Without scopes they explain themselves; without a server they fail, and say so."""
    assert "usage" in invalidate(redis_server.url, "shop", code=2)
    assert invalidate("redis://127.0.0.1:1", "shop", "product:17", code=1)


def test_node_gives_a_ticket(node_command: list[str], folder: Path, redis_server: RedisServer, cache: Cache) -> None:
    """What the example prints is a ticket, with which a client reads its own write on any node."""
    done = subprocess.run(
        [*node_command, redis_server.url, cache.name, "product:17"], cwd=folder, capture_output=True, text=True,
        check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    ticket = Ticket.parse(done.stdout.strip())
    assert ticket.position == 1
    assert cache.get_or_load("product:17", lambda: 7, type=int, after=ticket) == 7


# The scripts, as docs/reference/wire.md has them -----------------------------------------------------------------


def send(server: RedisServer, script: Any, name: str, scopes: tuple[str, ...], *rest: object) -> list[Any]:
    """Publish as a stranger does."""
    tag = f"{{unstale:{name}}}"
    keys = [f"{tag}:{kind}" for kind in ("meta", "log", "ids", "members")] + [f"{tag}:m:{scope}" for scope in scopes]
    client: Any = server.client()
    answer: list[Any] = client.eval(script.text, len(keys), *keys, *map(_bytes, rest))
    return answer


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


LIFE_MS = 1_209_600_000
# Never edit a line: strangers' records of today must still be read by later versions.
INVALIDATE_WROTE = {
    "h": "9301a169 99 a27237 92 a3613a31 a3623a32 c2 c0 c0 a0 c2 a57765622d31 a6707269636573",
    "s": "9301a169 99 a27237 92 a3613a31 a3623a32 c3 c0 c0 a0 c2 a57765622d31 a6707269636573",
}


@pytest.mark.parametrize("how", ["h", "s"])
def test_invalidate_writes_the_wire_form(how: str, redis_server: RedisServer, name: str) -> None:
    """The record that INVALIDATE packs is, byte for byte, the documented wire form, and reads as meant."""
    prefix = f"{{unstale:{name}}}:m:"
    scopes = ("a:1", "b:2")
    answer = send(redis_server, INVALIDATE, name, scopes, "g-1", 100_000, LIFE_MS, "r7", how, "web-1", "prices", prefix)
    assert answer == [b"g-1", 1, b"", 1, b"r7"]
    client: Any = redis_server.client()
    ((entry_id, fields),) = client.xrange(f"{{unstale:{name}}}:log")
    assert entry_id == b"1-0"
    assert list(fields) == [b"i", b"p", b"d"]
    assert (fields[b"i"], fields[b"p"]) == (b"r7", b"")
    assert fields[b"d"] == bytes.fromhex(INVALIDATE_WROTE[how])
    assert decode_record(fields[b"d"], "r7") == Record("r7", scopes, soft=how == "s", who="web-1", why="prices")
    with Cache(redis_server.url, name=name) as cache:
        marks = cache.ports.store.read_marks(scopes).marks
    assert [(full(mark).hard.last, full(mark).soft.last) for mark in marks.values()] == [
        (1, 0) if how == "h" else (0, 1)
    ] * 2


def test_repeating_is_harmless(redis_server: RedisServer, name: str) -> None:
    """A record of one id is published once, however often it is sent: its place is told again."""
    rest = ("g-1", 100_000, LIFE_MS, "r7", "h", "", "", f"{{unstale:{name}}}:m:")
    first = send(redis_server, INVALIDATE, name, ("a:1",), *rest)
    send(redis_server, INVALIDATE, name, ("b:2",), *rest[:3], "r8", *rest[4:])
    assert send(redis_server, INVALIDATE, name, ("a:1",), *rest)[:3] == first[:3]
    assert redis_server.client().xlen(f"{{unstale:{name}}}:log") == 2


def test_invalidate_refuses_no_scopes(redis_server: RedisServer, name: str) -> None:
    """An invalidation of nothing is an error, and leaves no record."""
    with pytest.raises(redis.ResponseError, match="at least one scope"):
        send(redis_server, INVALIDATE, name, (), "g-1", 100_000, LIFE_MS, "r7", "h", "", "", "")
    assert redis_server.client().xlen(f"{{unstale:{name}}}:log") == 0


def test_append_takes_records_of_strangers(redis_server: RedisServer, cache: Cache, name: str) -> None:
    """APPEND publishes several records at once, with bytes that a stranger has packed, versions among them."""
    cache.get_or_load("a:1", lambda: 1, type=int)
    cache.get_or_load("b:2", lambda: 2, type=int)
    hard, soft = Record("s1", ("a:1",), who="go"), Record("s2", ("a:1", "b:2"), soft=True)
    answer = send(
        redis_server, APPEND, name, ("a:1", "b:2"), "g-1", 100_000, LIFE_MS,
        "s1", encode_record(hard), "h", "", "", 1, 5, "s2", encode_record(soft), "s", "", "", 2, 5, 6,
    )  # fmt: skip
    assert answer[1:] == [1, b"", 2, b"s1", 2, b"s2"]
    until(lambda: cache.get("b:2", type=int) is None)
    assert cache.get("a:1", type=int) is None


def test_unreadable_records_end_everything(redis_server: RedisServer, cache: Cache, name: str) -> None:
    """A record that no node can read ends everything: the one reading that serves nothing stale."""
    cache.get_or_load("a:1", lambda: 1, type=int)
    send(redis_server, APPEND, name, ("b:2",), "g-1", 100_000, LIFE_MS, "s1", b"\xc1", "h", "", "", 1, 5)
    until(lambda: cache.get("a:1", type=int) is None)


def _published(cache: Cache) -> bool:
    try:
        cache.invalidate("a:1")
    except NotPublishedError:
        return False
    return True


def test_others_go_on_after_a_strangers_mistake(redis_server: RedisServer, cache: Cache, name: str) -> None:
    """A call with arguments that cannot be is refused before anything is written: the services publish as before."""
    with pytest.raises(redis.ResponseError):
        send(redis_server, INVALIDATE, name, ("a:1",), "g-1", 100_000, "no number", "r7", "h", "", "", "x")
    with pytest.raises(redis.ResponseError):
        send(redis_server, INVALIDATE, name, ("a:1",), "g-1", 100_000)
    assert _published(cache)
