from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ports import HOST
from tests.support.postgres_servers import USER, PostgresServer, run
from tests.support.postgres_shop import MEMBER, Engines, open_engines
from tests.support.redis_shop import Shops, open_shops
from tests.support.waiting import until
from unstale.core.ops import Item
from unstale.core.record import Record
from unstale.errors import EngineError, ReadOnlyError, UnavailableError
from unstale.testing.conformance.suite import InThread, record

pytestmark = pytest.mark.real


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """Give a server that a test may harm."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def replica(primary: PostgresServer) -> Iterator[PostgresServer]:
    """Give its replica, which follows it."""
    with PostgresServer(of=primary) as server:
        server.caught_up_with(primary)
        yield server


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Make engines, and close them."""
    with open_engines() as engines:
        yield engines


@pytest.fixture
def shops() -> Iterator[Shops]:
    """Make nodes, and close their caches."""
    with open_shops() as shops:
        yield shops


def either(primary: PostgresServer, replica: PostgresServer, options: str = "") -> str:
    """Give a URL that names both servers."""
    return f"postgresql://{USER}@{HOST}:{primary.port},{HOST}:{replica.port}/postgres?timeout=1s{options}"


def cut_off(replica: PostgresServer) -> None:
    """Let a replica follow nobody: what is acknowledged from now on will be lost."""
    replica.sql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
    until(lambda: replica.sql("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])


def test_h10_a_promotion_is_a_new_generation(
    primary: PostgresServer, replica: PostgresServer, engines: Engines
) -> None:
    """A promoted replica is another generation at its very first answer, also where its history ends at our head."""
    old = engines(primary.url)
    old.append((record("a"),))
    head = old.read_head()
    replica.caught_up_with(primary)
    cut_off(replica)
    lost = old.append((record("b"),)).identity
    primary.kill()
    replica.promote()
    new = engines(replica.url)
    appended = new.append((record("c"),)).identity
    assert (appended.head, lost.head) == (head.head + 1, lost.head), "the same position, for another record"
    assert appended.generation != lost.generation
    assert new.read_marks(("a", "b")).marks == {"a": 1}


def test_h10_nodes_move_on_and_serve_nothing_from_before(
    primary: PostgresServer, replica: PostgresServer, shops: Shops
) -> None:
    """Entries that were replicated while their invalidation was not are never served after a failover."""
    url = either(primary, replica, "&unlogged=no")
    shop, other = shops(url), shops(url)
    shop.well()
    other.truth = shop.truth
    until(lambda: other.product(1) == shop.truth and other.proven)
    before = shop.cache.node.generation
    replica.caught_up_with(primary)
    cut_off(replica)
    shop.change()  # this is lost
    other.truth = shop.truth
    primary.kill()
    replica.promote()
    assert replica.sql("SELECT count(*) FROM unstale.entry") == [(1,)], "an entry of before has survived"
    for one in (shop, other):
        until(lambda one=one: one.cache.node.generation not in {None, before})  # type: ignore[misc]
        one.reads_fresh()
    late = shops(url)
    late.truth = shop.truth
    late.reads_fresh()
    shop.well()


def test_h08_a_frozen_server_does_not_hide_the_other(
    primary: PostgresServer, replica: PostgresServer, engines: Engines
) -> None:
    """Where the first server of the URL stands still, and another one takes writes, that one is found."""
    engine = engines(either(primary, replica))
    before = engine.read_head().generation
    primary.stop()
    replica.promote()

    def moved() -> bool:
        try:
            return engine.read_head().generation != before
        except UnavailableError:
            return False

    until(moved)


def test_a_replica_is_refused(primary: PostgresServer, replica: PostgresServer, engines: Engines) -> None:
    """Whoever names a replica in the URL is told to name the primary, by every call."""
    first = engines(primary.url)
    first.store((Item("k", b"x", 60.0),))
    replica.caught_up_with(primary)
    engine = engines(replica.url)
    for call in (
        engine.read_head, lambda: engine.fetch(("k",)), lambda: engine.store((Item("k", b"x", 1.0),)),
        lambda: engine.append((record("a"),)), lambda: engine.poll(MEMBER, 0, 1, 0.0),
        lambda: engine.read_marks(("a",)), engine.read_members,
    ):  # fmt: skip
        with pytest.raises(ReadOnlyError, match="takes no writes") as caught:
            call()
        assert "primary" in caught.value.hint


def test_h11_without_its_synchronous_standby_nothing_is_acknowledged(
    primary: PostgresServer, replica: PostgresServer, engines: Engines
) -> None:
    """Where a standby has to acknowledge, appends, heads and marks fail without it, and so prove nothing."""
    engine = engines(f"{primary.url}?timeout=1s")
    assert not engine.read_head().pulsed
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    until(lambda: engine.read_head().pulsed)
    engine.append((record("a"),))
    batch = engine.poll(MEMBER, 0, 1, 0.0)
    assert batch.identity.pulsed
    replica.kill()
    late = Record("late", ("b",))
    for call in (engine.read_head, lambda: engine.read_marks(("a",)), lambda: engine.append((late,))):
        with pytest.raises(EngineError):
            call()
        engine.breaker.succeeded()
    assert engine.poll(MEMBER, 1, 1, 0.0).identity.pulsed, "a poll waits for nobody, and proves nothing"
    with pytest.raises(EngineError):  # it is in the log by now, which nobody has acknowledged
        engine.append((late,))
    engine.breaker.succeeded()
    engine.breaker.succeeded()
    stuck = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    until(lambda: primary.sql(stuck) == [])  # who was given up does not keep its connection for ever
    patient = engines(f"{primary.url}?timeout=1m")
    waiting = InThread(lambda: patient.append((late,)))
    until(lambda: primary.sql(stuck))
    primary.sql(f"SELECT pg_cancel_backend(pid) FROM ({stuck}) AS waiting")
    with pytest.raises(UnavailableError, match="no synchronous standby has acknowledged"):
        waiting.result(object)
    replica.start()
    until(lambda: primary.sql("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
    assert engine.append((late,)).identity.head == 2


@pytest.mark.parametrize("way", ["dropped first", "into the same tables"])
def test_h10_a_restored_dump_is_a_new_generation(primary: PostgresServer, engines: Engines, way: str) -> None:
    """Rows that a dump has brought back are not taken for the ones that were written here."""
    engine = engines(primary.url)
    engine.append((record("a"),))
    before = engine.read_head()
    dump = primary.folder / "dump"
    link = ("-h", HOST, "-p", primary.port, "-U", USER, "-d", "postgres")
    run("pg_dump", *link, "-n", "unstale", "-Fc", "-f", dump)
    engine.append((record("b"),))
    if way == "dropped first":
        primary.sql("DROP SCHEMA unstale CASCADE")
        run("pg_restore", *link, dump)
    else:
        primary.sql("TRUNCATE unstale.cache, unstale.log, unstale.mark, unstale.member, unstale.list")
        run("pg_restore", *link, "--data-only", "-t", "cache", "-t", "log", "-t", "mark", dump)
    after = engine.read_head()
    assert (after.head, after.head_id) == (before.head, before.head_id)
    assert after.generation != before.generation
    assert engines(primary.url).read_head() == after


def test_h10_a_copied_database_is_a_new_generation(primary: PostgresServer, engines: Engines) -> None:
    """A copy of a database within its server is not the database that it was copied from."""
    engine = engines(primary.url)
    engine.append((record("a"),))
    engine.close()
    primary.sql("SELECT 1")
    with primary.client(dbname="template1") as client:
        until(lambda: not client.execute("SELECT FROM pg_stat_activity WHERE datname = 'postgres'").fetchall())
        client.execute("CREATE DATABASE copied TEMPLATE postgres")
    copy = engines(primary.url.replace("/postgres", "/copied")).read_head()
    assert copy.head == 1
    assert copy.generation != engines(primary.url).read_head().generation
