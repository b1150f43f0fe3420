from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator

import pytest

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_servers import START_S, RedisServer
from tests.support.redis_shop import BOUND_S, ENTRY, TAG, Engines, Shops, open_engines, open_shops
from tests.support.waiting import until
from unstale.clock import boottime
from unstale.core.ops import Fetched, Item, Member
from unstale.core.record import Record
from unstale.errors import CorruptError, UnavailableError

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


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a server, wiped before each use."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _wiped(server: RedisServer) -> None:
    server.call("FLUSHALL")


# Servers that come, and come late ---------------------------------------------------------------------------------


def test_a_server_that_comes_later_is_joined(shops: Shops) -> None:
    """A process that starts while the server is down serves, and needs no restart when it comes."""
    with RedisServer() as late:
        late.kill()
        shop = shops(late.url)
        shop.reads_fresh()
        assert shop.loads == 40
        late.start()
        shop.well()


def test_a_server_that_loads_its_data_is_waited_for(shops: Shops) -> None:
    """While a server answers LOADING readers load, and when it is done all is well."""
    with RedisServer(key_load_delay=3000, loading_process_events_interval_bytes=1024) as slow:
        shop = shops(slow.url)
        shop.well()
        with slow.client() as client, client.pipeline() as many:
            for number in range(500):
                many.set(f"other:{number}", b"x" * 1000)
            many.execute()
        slow.call("SAVE")
        slow.kill()
        starting = threading.Thread(target=slow.start)
        starting.start()
        until(lambda: any("LOADING" in str(error) for error in shop.troubles) or not shop.product(1))
        assert starting.is_alive(), "it loads"
        shop.truth += 1
        until(lambda: not shop.proven)
        shop.reads_fresh()
        starting.join(START_S)
        shop.well()


def test_a_server_without_room_for_a_connection_is_named(engines: Engines, shops: Shops) -> None:
    """Where maxclients is reached the error says so, readers load, and all is well when there is room again."""
    with RedisServer() as server:
        crowd = [server.client() for _ in range(20)]
        for client in crowd:
            client.ping()
        crowd[0].config_set("maxclients", 20)
        with pytest.raises(UnavailableError) as refused:
            engines(server.url).read_head()
        assert "raise maxclients" in refused.value.hint
        shop = shops(server.url)
        shop.reads_fresh()
        crowd[0].config_set("maxclients", 1000)
        shop.well()


# A cluster on the move --------------------------------------------------------------------------------------------


def test_slots_move_under_readers_and_writers(shops: Shops) -> None:
    """While the slots of log and entries move to other servers no read or change fails, and tickets hold."""
    with RedisCluster() as cluster:
        shop = shops(cluster.url)
        shop.well()
        over, failed, changes = threading.Event(), [], [0]

        def change() -> None:
            while not over.is_set():
                try:
                    shop.truth += 1
                    ticket = shop.cache.invalidate("product:1").stamp
                    assert shop.read(ticket) == shop.truth
                    assert asyncio.run(shop.read_later(ticket)) == shop.truth
                    changes[0] += 1
                except BaseException as error:  # noqa: BLE001 - shown below
                    failed.append(error)

        worker = threading.Thread(target=change)
        worker.start()
        try:
            (entry,) = (key for node in cluster.nodes for key in node.call("KEYS", f"{ENTRY}*"))
            for key in (f"{TAG}:log", entry, f"{TAG}:log"):
                source = cluster.owner_of(key)
                target = next(node for node in cluster.nodes if node is not source)
                before = changes[0]
                until(lambda before=before: changes[0] > before + 5 or failed)  # type: ignore[misc] # a lambda's default
                cluster.migrate_slot(cluster.slot_of(key), source, target)
                assert cluster.owner_of(key) is target
        finally:
            over.set()
            worker.join()
        assert failed == []
        assert not [error for error in shop.troubles if not isinstance(error, UnavailableError)]
        shop.well()


# A server that stands still ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"unproven": "stale", "store_out": "stale", "grace": "1h"}])
def test_h08_h26_readers_do_not_wait_for_a_frozen_server(shops: Shops, how: dict[str, str]) -> None:
    """Once the breaker is open no read asks a frozen server, and it closes by itself when the server goes on."""
    with RedisServer() as frozen:
        shop = shops(f"{frozen.url}?timeout=200ms", **how)
        shop.well()
        engine = shop.cache.ports.log
        asked: list[int] = []
        ask = engine._link._ask  # type: ignore[attr-defined] # the engine of these tests

        def counted(what: object) -> object:
            if threading.current_thread() is threading.main_thread():
                asked.append(1)
            return ask(what)

        engine._link._ask = counted  # type: ignore[attr-defined] # as above
        frozen.stop()
        until(lambda: not shop.proven)
        until(lambda: shop.product(1) == shop.truth and engine.breakers.open)  # type: ignore[attr-defined] # as above
        first = len(asked)
        over, reads = boottime() + 1.5, 0
        while boottime() < over:
            assert shop.product(1) == shop.truth
            reads += 1
        assert len(asked) == first
        assert reads > 50  # with a timeout each there would be seven
        frozen.go_on()
        until(lambda: not engine.breakers.open)  # type: ignore[attr-defined] # as above
        shop.well()
        assert len(asked) > first


def test_a_breaker_closes_by_a_probe_of_its_own(engines: Engines) -> None:
    """Where nobody follows the log, and so polls, a probe beside the calls finds out that the server is back."""
    with RedisServer() as server:
        engine = engines(f"{server.url}?timeout=200ms")
        engine.store((Item("a", b"x", 60.0),))
        server.kill()
        while not engine.breakers.open:
            with pytest.raises(UnavailableError):
                engine.fetch(("a",))
        with pytest.raises(UnavailableError, match="it was not asked"):
            engine.fetch(("a",))
        server.start()

        def back() -> bool:
            try:
                return asyncio.run(engine.afetch(("a",))) == engine.fetch(("a",)) == (None,)
            except UnavailableError:
                return False

        until(back)
        assert not engine.breakers.open


# Damage -----------------------------------------------------------------------------------------------------------


def test_h29_damaged_entries_are_misses(server: RedisServer, shops: Shops) -> None:
    """Whatever bytes lie at an entry's key, a read loads, and puts what is right there."""
    shop = shops(server.url)
    shop.well()
    (key,) = server.call("KEYS", f"{ENTRY}*")
    right = server.call("GET", key)
    source = random.Random(7)
    for number in range(30):
        damaged = bytearray(right)
        damaged[source.randrange(len(right))] ^= 1 << source.randrange(8)
        bad = (b"", b"x", source.randbytes(100), right[:number], bytes(damaged))[number % 5]
        server.call("SET", key, bad, "PX", 60_000)
        other = shops(server.url)
        other.truth = shop.truth
        assert other.product(1) == shop.truth
    assert server.call("PTTL", key) > 0


def test_an_entry_without_a_lifetime_is_a_miss(server: RedisServer, engines: Engines) -> None:
    """Bytes without a time to live, which none of us writes, are not there."""
    engine = engines(server.url)
    engine.store((Item("a", b"x", 60.0),))
    server.call("PERSIST", f"{ENTRY}a")
    assert engine.fetch(("a",)) == (None,)
    assert asyncio.run(engine.afetch(("a",))) == (None,)


def test_h28_h29_a_record_that_nobody_can_read_ends_everything(server: RedisServer, shops: Shops) -> None:
    """Damaged bytes in a record of the log end all that is cached, since they may have named anything."""
    shop = shops(server.url)
    shop.well()
    generation = server.call("HGET", f"{TAG}:meta", "gen")
    position, last = server.call("HMGET", f"{TAG}:meta", "pos", "id")
    shop.truth += 1  # not announced, but by the record that says nothing
    at = int(position) + 1
    with server.client() as client, client.pipeline(transaction=True) as both:
        both.xadd(f"{TAG}:log", {"i": "strange", "p": last, "d": b"\xc1garbage"}, id=f"{at}-0")
        both.hset(f"{TAG}:meta", mapping={"pos": at, "id": "strange"})
        both.execute()
    until(lambda: shop.product(1) == shop.truth)
    assert server.call("HGET", f"{TAG}:meta", "gen") == generation
    assert shop.cache.stats()["discontinuities"] == 1
    shop.well()


def test_h29_a_record_of_a_stranger_breaks_the_chain(server: RedisServer, engines: Engines, shops: Shops) -> None:
    """A record that was not published by the script stops the log with an error that names the cure, which works."""
    shop = shops(server.url)
    shop.well()
    server.call("XADD", f"{TAG}:log", "*", "hello", "world")
    with pytest.raises(CorruptError) as stopped:
        engines(server.url).append((Record("r1", ("a",)),))
    assert ":meta" in stopped.value.hint
    shop.reads_fresh()
    server.call("DEL", f"{TAG}:meta")
    until(lambda: shop.cache.stats()["discontinuities"] > 1)
    shop.well()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, None) for field in ("pos", "id", "start", "gen", "server")),
        *((field, value) for field in ("pos", "start", "server") for value in ("x", "")),
    ],
)
def test_h29_damage_to_the_head_is_another_generation(
    server: RedisServer, shops: Shops, field: str, value: str | None
) -> None:
    """A head that says nothing sensible any more begins a new generation; nothing of before is served."""
    shop = shops(server.url)
    shop.well()
    if value is None:
        server.call("HDEL", f"{TAG}:meta", field)
    else:
        server.call("HSET", f"{TAG}:meta", field, value)
    until(lambda: shop.product(1) and shop.cache.stats()["discontinuities"] == 2)
    shop.well()


@pytest.mark.parametrize("bad", [b"", b"x", b"%s:", b"%s:x", b"%s;", b"%s;\x93\x01\x02\x03", b"%s;\xc1"])
def test_h29_a_damaged_mark_is_raised_all_the_same(server: RedisServer, engines: Engines, bad: bytes) -> None:
    """Whatever bytes lie at a mark, the next record of its scope is published, and ends all before it."""
    engine = engines(server.url)
    generation = engine.append((Record("r1", ("a",)),)).identity.generation.encode()
    for number, soft in enumerate((True, False)):
        server.call("SET", f"{TAG}:m:a", bad % generation if b"%" in bad else bad)
        engine.append((Record(f"s{number}", ("a",), soft=soft),))
        mark = engine.read_marks(("a",)).marks["a"]
        last = mark if isinstance(mark, int) else max(mark.hard.last, mark.soft.last)
        assert last == 2 + number


def test_h29_damaged_members_are_ignored(server: RedisServer, shops: Shops) -> None:
    """What no member wrote into the list is nobody, and is swept away; a waiting invalidation returns."""
    shop = shops(server.url)
    shop.well()
    for name in ("nx", "", "n", "other"):
        server.call("HSET", f"{TAG}:members", name, b"\xc1garbage")
    members = shop.cache.ports.log.read_members().members
    assert [member.node for member in members] == [shop.cache.node.id]
    assert set(server.call("HKEYS", f"{TAG}:members")) == {b"list", f"n{shop.cache.node.id}".encode()}
    assert shop.cache.invalidate("product:1", wait=True).complete


def test_h14_marks_that_were_evicted_judge_nothing(engines: Engines) -> None:
    """When memory was short and marks may be gone, the range that the marks cover begins anew, above the head."""
    with RedisServer() as server, server.client() as client:
        engine = engines(server.url)
        for number in range(50):
            engine.append((Record(f"r{number}", (f"a{number}",)),))
        scopes = tuple(f"a{number}" for number in range(50))
        assert engine.read_marks(scopes).start == 1
        client.config_set("maxmemory-policy", "volatile-lru")
        client.config_set("maxmemory", server.info("memory")["used_memory"] + 500_000)
        numbers = iter(range(100_000))
        while len(engine.read_marks(scopes).marks) == 50:
            for _ in range(200):
                client.set(f"other:{next(numbers)}", b"x" * 1000, px=600_000)
        reply = engine.read_marks(scopes)
        assert (reply.identity.head, reply.start, reply.upto) == (50, 51, 50)


# Time, in short -----------------------------------------------------------------------------------------------------


def test_h22_lifetimes_are_the_servers(server: RedisServer, engines: Engines) -> None:
    """What remains of a life becomes less for all that ask, until nothing is there; asking prolongs nothing."""
    engine, other = engines(server.url), engines(server.url)
    engine.store((Item("a", b"x", 0.5), Item("b", b"y", 60.0)))
    heard = [60.0]

    def gone() -> bool:
        (found,) = (engine, other)[len(heard) % 2].fetch(("a",))
        if isinstance(found, Fetched):
            heard.append(found.remaining_s)
        return found is None

    until(gone)
    assert len(heard) > 10
    assert heard == sorted(heard, reverse=True)
    assert 0.0 < heard[-1] < heard[1] <= 0.5
    assert engine.fetch(("b",)) != (None,)
    engine.store((Item("a", b"z", 60.0),))
    (again,) = other.fetch(("a",))
    assert isinstance(again, Fetched)
    assert (again.data, again.remaining_s > 50.0) == (b"z", True)


def test_h24_locks_expire(server: RedisServer, engines: Engines) -> None:
    """The lock of a process that died is free after its time; its token is old, and releases no successor's."""
    engine, other = engines(server.url), engines(server.url)
    old = engine.lock("k", 0.2)
    assert old is not None
    assert other.lock("k", 60.0) is None
    taken: list[int | None] = [None]

    def free() -> bool:
        taken[0] = other.lock("k", 60.0)
        return taken[0] is not None

    until(free)
    assert (taken[0] or 0) > old
    engine.unlock("k", old)
    assert engine.lock("k", 1.0) is None


def test_h36_members_vanish_at_last(server: RedisServer, engines: Engines) -> None:
    """A member that polls stays on the list, one that died does not, and the list tells how old it is."""
    engine = engines(server.url)
    dead, alive = Member("dead", "", 0, 0.1, urgent=False), Member("alive", "", 0, 0.1, urgent=False)
    engine.poll(dead, 0, 10, 0.0)
    ages = []

    def alone() -> bool:
        engine.poll(alive, 0, 10, 0.0)
        members = engine.read_members()
        ages.append(members.age_s)
        assert "alive" in {member.node for member in members.members}
        return {member.node for member in members.members} == {"alive"}

    until(alone)
    assert ages == sorted(ages)
    assert ages[-1] >= 0.1, "it held a lease for so long"
    assert server.call("HEXISTS", f"{TAG}:members", "ndead") == 0


def test_h08_a_lease_on_an_idle_server_does_not_lapse(server: RedisServer, shops: Shops) -> None:
    """An idle server is late to say that there is nothing new, and leases live on nevertheless."""
    shop = shops(server.url)
    shop.well()
    over = boottime() + 5 * BOUND_S
    pause = threading.Event()
    while boottime() < over:
        assert shop.proven, shop.troubles
        pause.wait(0.005)
