from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator

import pytest

from tests.support.ports import HOST
from tests.support.redis_servers import RedisServer
from tests.support.redis_shop import BOUND_S, ENTRY, MEMBER, TAG, Engines, Shops, open_engines, open_shops
from unstale.clock import boottime
from unstale.core.ops import Item
from unstale.core.record import Record
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_errors import DENIED
from unstale.errors import (
    CorruptError,
    DeniedError,
    EngineError,
    FullError,
    NotPublishedError,
    ReadOnlyError,
    UnavailableError,
)

pytestmark = pytest.mark.real


@pytest.fixture
def shops() -> Iterator[Shops]:
    """Make shops, and close their caches."""
    with open_shops() as shops:
        yield shops


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Make engines, and close them."""
    with open_engines() as engines:
        yield engines


def calls(engine: RedisEngine) -> dict[str, Callable[[], object]]:
    """Give one call of each method."""
    new = iter(range(1000))
    return {
        "fetch": lambda: engine.fetch(("a",)),
        "store": lambda: engine.store((Item("a", b"x", 10.0),)),
        "append": lambda: engine.append((Record(f"r{boottime()}{next(new)}", ("a",)),)),
        "poll": lambda: engine.poll(MEMBER, 0, 10, 0.0),
        "read_head": engine.read_head,
        "read_marks": lambda: engine.read_marks(("a",)),
        "read_members": engine.read_members,
        "lock": lambda: engine.lock("k", 1.0),
        "leave": lambda: engine.leave("n"),
        "delete": lambda: engine.delete(("a",)),
    }


def failing(engine: RedisEngine, kind: type[EngineError]) -> dict[str, EngineError]:
    """Make each call; give those that failed, all of the same kind."""
    failed: dict[str, EngineError] = {}
    for name, call in calls(engine).items():
        try:
            call()
        except kind as error:
            failed[name] = error
    return failed


# Who may not ------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_an_error_that_says_so(engines: Engines, shops: Shops) -> None:
    """A wrong password, or none, is denied by name and not taken for a server that is away; reads load."""
    with RedisServer(requirepass="secret") as server:
        for url in (server.url.replace("secret", "wrong"), f"redis://{HOST}:{server.port}"):
            engine = engines(url)
            denied = failing(engine, DeniedError)
            assert denied.keys() == calls(engine).keys()
            assert all("redis://user:password@host" in error.hint for error in denied.values())
            assert not engine.breakers.open
            with pytest.raises(DeniedError, match="denies"):
                asyncio.run(engine.afetch(("a",)))
            shop = shops(url)
            shop.reads_fresh()
            with pytest.raises(NotPublishedError, match="password"):
                shop.change()


@pytest.mark.parametrize(
    ("rules", "denied"),
    [
        ("~* +@all -info", {"append", "poll", "read_head", "read_marks", "read_members"}),
        ("~* +@all -@scripting", {"append", "poll", "read_head", "read_marks", "read_members", "lock"}),
        ("~other:* +@all", {"append", "poll", "read_head", "read_marks", "read_members", "lock", "fetch", "store"}),
    ],
)
def test_commands_that_are_denied_are_named(engines: Engines, shops: Shops, rules: str, denied: set[str]) -> None:
    """Without a command or the keys that the engine needs, the error tells how to allow them; reads load."""
    with RedisServer(user=["default off", f"app on >secret {rules}"], login=("app", "secret")) as server:
        failed = failing(engines(server.url), DeniedError)
        assert denied <= failed.keys()
        assert all("ACL SETUSER" in error.hint and "+info" in error.hint for error in failed.values())
        shop = shops(server.url)
        shop.reads_fresh()
        with pytest.raises(NotPublishedError, match="ACL SETUSER"):
            shop.change()


def test_what_the_error_says_is_enough(engines: Engines, shops: Shops) -> None:
    """A user who may do what the hint says may do all that the engine does."""
    hint = DENIED["NOPERM"].replace("{{", "{")
    rules = re.sub(r".*ACL SETUSER <user> ", "", hint)
    with RedisServer(user=["default off", f"app on >secret {rules}"], login=("app", "secret")) as server:
        assert failing(engines(server.url.replace("/0", "/3")), EngineError) == {}
        shops(server.url).well()


# What is there already --------------------------------------------------------------------------------------------

LOG = {"append", "poll"}
WRONG = {
    "meta": LOG | {"read_head", "read_marks", "read_members"},
    "log": LOG,
    "ids": {"append"},
    "members": {"poll", "read_members", "leave"},
    "m:a": set(),
    "lock:k": set(),
    "token": {"lock"},
}


@pytest.mark.parametrize("kind", [("SET", "x"), ("RPUSH", "x")])
@pytest.mark.parametrize("key", WRONG)
def test_a_key_of_another_type_is_an_error(engines: Engines, shops: Shops, key: str, kind: tuple[str, str]) -> None:
    """What another program wrote at our keys is an error that says so, harms no reader, and is mended by deleting."""
    with RedisServer() as server:
        engine = engines(server.url)
        for call in calls(engine).values():
            call()
        server.call("DEL", f"{TAG}:{key}", f"{TAG}:lock:k")
        command, value = kind
        server.call(command, f"{TAG}:{key}", value)
        failed = failing(engine, CorruptError)
        if not (command == "SET" and key in {"m:a", "token"}):  # these are strings
            assert failed.keys() == WRONG[key]
        assert all("delete what it wrote" in error.hint for error in failed.values())
        shop = shops(server.url)
        shop.reads_fresh()
        server.call("DEL", f"{TAG}:{key}")
        shop.well()


@pytest.mark.parametrize("count", [1, 3])
def test_records_that_a_strange_log_refuses_leave_no_ids(engines: Engines, shops: Shops, count: int) -> None:
    """Ids that were noted for records which could not be added are taken off again: they would never be trimmed."""
    with RedisServer() as server:
        engine = engines(server.url)
        engine.append((Record("first", ("a",)),))
        server.call("XADD", f"{TAG}:log", "900-0", "another", "program's")
        records = tuple(Record(f"late-{number}", ("a", f"b:{number}")) for number in range(count))
        with pytest.raises(CorruptError) as refused:
            engine.append(records)
        assert "delete its meta key" in refused.value.hint
        assert server.call("HKEYS", f"{TAG}:ids") == [b"first"]
        server.call("DEL", f"{TAG}:meta")
        assert [logged.position for logged in engine.append(records).records] == list(range(1, count + 1))
        shops(server.url).well()


def test_an_entry_of_another_type_is_replaced(shops: Shops) -> None:
    """Where the store holds something else at an entry's key, the value is loaded and replaces it."""
    with RedisServer() as server:
        shop = shops(server.url)
        shop.well()
        (key,) = server.call("KEYS", f"{ENTRY}*")
        server.call("DEL", key)
        server.call("RPUSH", key, "x")
        other = shops(server.url)
        other.truth = shop.truth
        other.reads_fresh()
        assert server.call("TYPE", key) == b"string"


# Where it cannot be written -----------------------------------------------------------------------------------------


def test_a_replica_is_told_from_a_primary(engines: Engines, shops: Shops) -> None:
    """A URL that names a replica is an error that names the cure; its readers load, and prove nothing by it."""
    with RedisServer() as primary, RedisServer() as replica:
        primary.call("HSET", f"{TAG}:meta", "gen", "g")
        replica.replica_of(primary)
        failed = failing(engines(replica.url), ReadOnlyError)
        assert {"append", "poll", "store", "lock"} <= failed.keys()
        assert all("redis+sentinel://" in error.hint for error in failed.values())
        shop = shops(replica.url)
        shop.reads_fresh()
        with pytest.raises(NotPublishedError, match="primary"):
            shop.change()
        assert not shop.proven


def test_a_full_memory_refuses_changes_and_keeps_leases(shops: Shops) -> None:
    """Without room for a record an invalidation fails with the cure; leases live on, and hits are hits."""
    with RedisServer() as server, server.client() as client:
        shop = shops(server.url)
        shop.well()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(NotPublishedError, match="maxmemory") as refused:
            shop.cache.invalidate("product:2")
        assert isinstance(refused.value.__cause__, FullError)
        loads, over = shop.loads, boottime() + 3 * BOUND_S
        while boottime() < over:
            assert shop.product(1) == shop.truth
            assert shop.proven, shop.troubles
        assert shop.loads == loads
        assert shop.cache.get_or_load("product:3", lambda: 3) == 3
        client.config_set("maxmemory", 0)
        shop.well()


def test_too_few_replicas_are_named(engines: Engines) -> None:
    """A server that wants more replicas than it has refuses records; it answers all else, so the breaker is closed."""
    with RedisServer() as server:
        engine = engines(server.url)
        engine.store((Item("a", b"x", 60.0),))
        engine.append((Record("r1", ("a",)),))
        server.call("CONFIG", "SET", "min-replicas-to-write", 1)
        for number in range(5):
            with pytest.raises(UnavailableError) as refused:
                engine.append((Record(f"s{number}", ("a",)),))
            assert "min-replicas-to-write" in refused.value.hint
        assert engine.fetch(("a",)) != (None,)
        assert engine.read_head().head == 1
        assert engine.breakers.refused == 0


def test_h11_a_quorum_that_is_not_there_proves_nothing(engines: Engines, shops: Shops) -> None:
    """With quorum=1 a server without replicas, such as an isolated primary after a restart, proves nothing at all."""
    with RedisServer() as server:
        engine = engines(f"{server.url}?quorum=1&timeout=400ms")
        assert engine.poll(MEMBER, 0, 10, 0.0).identity.pulsed
        assert not engine.read_head().proven
        assert not engine.read_marks(("a",)).identity.proven
        with pytest.raises(UnavailableError, match="0 of 1 replicas"):
            engine.append((Record("r1", ("a",)),))
        shop = shops(f"{server.url}?quorum=1&timeout=400ms")
        for _ in range(3):
            assert shop.product(1) == shop.truth
        assert not shop.proven
        assert shop.loads == 3
