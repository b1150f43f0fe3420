from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres_servers import PostgresServer
from tests.support.postgres_shop import MEMBER, Engines, open_engines, whole_log
from tests.support.processes import Process
from tests.support.redis_shop import Shops, open_shops
from tests.support.waiting import until
from unstale.core.ops import Batch, Item, Member
from unstale.core.record import Record
from unstale.engines.postgres import PostgresEngine
from unstale.engines.postgres_url import parse_url
from unstale.errors import EngineError, UnavailableError
from unstale.testing.conformance.suite import InThread, assert_chained, record

pytestmark = pytest.mark.real

ROLES = Path(__file__).with_name("postgres_roles.py")
SHORT = "?timeout=500ms"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Give a server that a test may harm."""
    with PostgresServer() as server:
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


@contextlib.contextmanager
def appending(url: str, processes: int, count: int) -> Iterator[list[Process]]:
    """Start processes that all append at once."""
    writers = [Process(ROLES, "append", url, "crowd", count) for _ in range(processes)]
    try:
        for writer in writers:
            assert writer.hear() == "ready"
        for writer in writers:
            writer.tell("go")
        yield writers
    finally:
        for writer in writers:
            writer.end()


def acknowledged(writer: Process) -> dict[str, int]:
    """Give what a writer was told, when it is done: positions by the ids of the records."""
    told: dict[str, int] = {}
    while (line := writer.hear()) != "done":
        if line[0] != "error":
            told[line[0]] = line[1]
    return told


def test_h21_processes_append_at_once(server: PostgresServer) -> None:
    """Whatever eight processes append at once lies without a hole, in a chain, where each of them was told."""
    with appending(server.url, 8, 60) as writers:
        told = [acknowledged(writer) for writer in writers]
    engine = PostgresEngine(parse_url(server.url), name="crowd")
    with contextlib.closing(engine):
        log = whole_log(engine)
    assert_chained(log)
    assert {logged.id: logged.position for logged in log} == {name: at for one in told for name, at in one.items()}
    assert len(log) >= 8 * 60


def test_h21_a_tailer_misses_no_commit(server: PostgresServer, engines: Engines) -> None:
    """Whoever follows the log while many append applies every record, each after the one before it."""
    with appending(server.url, 4, 60) as writers:
        follower = engines(server.url, name="crowd")
        seen: list[Any] = []
        told = {}
        done = InThread(lambda: [told.update(acknowledged(writer)) for writer in writers])
        while done.running or len(seen) < follower.read_head().head:
            generation = follower.read_head().generation
            batch = follower.poll(Member("f", generation, len(seen), 2.0), len(seen), 500, 0.05)
            assert batch.at_id == (seen[-1].id if seen else "")
            seen.extend(batch.records)
    assert_chained(seen)
    assert {logged.id for logged in seen} == set(told)


def test_h10_what_was_acknowledged_survives_a_crash(server: PostgresServer, engines: Engines) -> None:
    """Of a server killed amid appends all that it acknowledged is there, dense, in the same generation.

    Also where its users are told not to wait for the disk: then the log of the last ten seconds would be lost.
    """
    server.sql(
        "ALTER ROLE app SET synchronous_commit = off",
        "ALTER SYSTEM SET wal_writer_delay = '10s'",
        "ALTER SYSTEM SET wal_writer_flush_after = '1GB'",
        "SELECT pg_reload_conf()",
    )
    first = engines(server.url, name="crowd").read_head()
    for life in range(3):
        chance = random.Random(life)
        with appending(server.url, 3, 100_000) as writers:
            for _ in range(chance.randint(5, 40)):
                assert writers[0].hear()
            server.restart()
            told = [acknowledged(writer) for writer in writers]
        engine = engines(server.url, name="crowd")
        log = whole_log(engine)
        assert_chained(log)
        there = {logged.id: logged.position for logged in log}
        for one in told:
            assert one.items() <= there.items()
        assert engine.read_head().generation == first.generation


def test_h36_a_crash_leaves_a_young_list_and_no_entries(server: PostgresServer, engines: Engines) -> None:
    """A crash empties members and entries: the list is a young one, and what a member knows is told again."""
    engine = engines(server.url)
    engine.store((Item("k", b"x", 60.0),))
    engine.append((record("a"),))
    engine.poll(MEMBER, 0, 10, 0.0)
    until(lambda: engine.read_members().age_s > 0.05)
    server.restart()
    after = engine.read_members()
    assert (after.members, after.bound_s) == ((), 2.0)
    assert after.age_s < 0.05
    assert engine.fetch(("k",)) == (None,)
    assert engine.read_marks(("a",)).marks == {"a": 1}
    engine.poll(MEMBER, 0, 10, 0.0)  # the engine remembers that it has told, but the list does not
    assert [one.node for one in engine.read_members().members] == ["n"]


@pytest.mark.parametrize("unlogged", ["yes", "no"])
def test_entries_survive_what_they_are_said_to(server: PostgresServer, engines: Engines, unlogged: str) -> None:
    """Entries survive a shutdown in order; a crash only when they are logged."""
    engine = engines(f"{server.url}?unlogged={unlogged}")
    engine.store((Item("k", b"x", 60.0),))
    server.stop_in_order()
    server.start()
    assert engine.fetch(("k",))[0] is not None
    engine.append((record("a"),))  # on the disk, and with it all that was written before
    server.restart()
    assert (engine.fetch(("k",))[0] is not None) is (unlogged == "no")


def test_a_frozen_server_costs_one_timeout(server: PostgresServer, engines: Engines) -> None:
    """Calls of a server that stands still fail in time, then at once; when it goes on, so do they."""
    engine = engines(server.url + SHORT)
    engine.append((record("a"),))
    server.stop()
    refused = False
    while not refused:
        with pytest.raises(UnavailableError) as caught:
            engine.read_head()
        refused = "refused" in caught.value.fields
    server.go_on()

    def answers() -> bool:
        with contextlib.suppress(EngineError):
            return engine.read_head().head == 1
        return False

    until(answers)


@pytest.mark.parametrize("fault", ["stopped", "killed"])
def test_h26_readers_do_without_a_server(server: PostgresServer, shops: Shops, fault: str) -> None:
    """While the server is out, reads of both colours load; when it is back, all is well, without a restart."""
    shop = shops(server.url + SHORT)
    shop.well()
    if fault == "stopped":
        server.stop()
    else:
        server.kill()
    until(lambda: not shop.proven)
    shop.truth += 1  # no invalidation could be published
    shop.reads_fresh()
    if fault == "stopped":
        server.go_on()
    else:
        server.start()
    shop.well()


def test_h12_the_tables_are_dropped_under_running_nodes(server: PostgresServer, shops: Shops) -> None:
    """When somebody drops the schema, nodes make it anew: a new generation, and nothing from before is served."""
    shop, other = shops(server.url), shops(server.url)
    shop.well()
    other.truth = shop.truth
    until(lambda: other.product(1) == shop.truth and other.proven)
    before = shop.cache.node.generation
    server.sql("DROP SCHEMA unstale CASCADE")
    until(lambda: shop.cache.node.generation not in {None, before})
    until(lambda: other.cache.node.generation == shop.cache.node.generation)
    shop.truth = other.truth = 100  # no invalidation of this was published
    for one in (shop, other):
        one.reads_fresh()
    shop.well()


def test_a_waiting_poll_ends_with_its_node(server: PostgresServer, engines: Engines) -> None:
    """`leave` ends the poll of its node at once, `close` those of all nodes."""
    engine = engines(server.url)
    generation = engine.read_head().generation
    ends: tuple[Callable[[], None], ...] = (lambda: engine.leave("w"), engine.close)
    for end in ends:
        waiting = Member("w", generation, 0, 2.0)
        call = InThread(lambda w=waiting: engine.poll(w, 0, 10, 600.0))  # type: ignore[misc]
        until(lambda: "w" in engine._link._hearing)
        end()
        assert call.result(Batch).records == ()


def test_h23_a_forked_child_has_connections_of_its_own(server: PostgresServer, engines: Engines) -> None:
    """Parent and child of a fork both go on, and neither ends or answers for the other's connections."""
    engine = engines(server.url)
    engine.append((record("a"),))
    stop = threading.Event()

    def read() -> list[Any]:
        heads = []
        while not stop.is_set():
            heads.append(engine.read_head())
        return heads

    busy = InThread(read)
    mine = "SELECT pid FROM pg_stat_activity WHERE application_name = 'unstale'"
    for _ in range(3):
        before = set(server.sql(mine))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with contextlib.suppress(BaseException):
                    for number in range(30):
                        engine.append((Record(f"{os.getpid()} {number}", ("a",)),))
                        assert engine.read_marks(("a",)).marks["a"] == engine.read_head().head
                    engine.close()
                    code = 0
            finally:
                os._exit(code)
        _pid, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert before <= set(server.sql(mine)), "the child has ended none of our connections"
        engine.append((record("b"),))
    stop.set()
    assert busy.result(list)
    assert engine.read_head().head == 1 + 3 * 31
    assert_chained(whole_log(engine))


def test_h22_marks_that_a_clock_has_swept_are_unknown(server: PostgresServer, engines: Engines) -> None:
    """Marks that a step of the server's clock makes seem old are forgotten, and then what they judged is a miss."""
    engine = engines(server.url)
    engine.append((record("a"),))
    assert engine.read_marks(("a",)).start == 1
    server.sql("UPDATE unstale.mark SET expires = 0")  # as after a step forward
    for _ in range(20):
        engine.append((record("b"),))
    reply = engine.read_marks(("a", "b"))
    assert "a" not in reply.marks
    assert reply.start > 1, "whatever is stamped below it is not judged"


def test_h27_the_oldest_marks_make_room(server: PostgresServer, engines: Engines) -> None:
    """Marks are bounded by number: the oldest go, and raise the position from which they are complete."""
    engine = engines(server.url, marks_max=100)
    for number in range(300):
        engine.append((record(f"s{number}"),))
    ((count,),) = server.sql("SELECT count(*) FROM unstale.mark")
    assert count <= 100 + 16
    assert server.sql("SELECT marks FROM unstale.cache") == [(count,)]
    reply = engine.read_marks(tuple(f"s{number}" for number in range(300)))
    assert set(reply.marks.values()) >= set(range(reply.start, 301))


def test_h27_what_has_expired_is_swept(server: PostgresServer, engines: Engines) -> None:
    """Ordinary writes remove entries that have expired, and records beyond the limit of the log."""
    engine = engines(server.url, records_max=50)
    for number in range(40):
        engine.store(tuple(Item(f"{number} {one}", b"x", 0.001) for one in range(10)))
    until(lambda: server.sql("SELECT count(*) FROM unstale.entry WHERE until > clock_timestamp()") == [(0,)])
    for number in range(130):
        engine.store((Item(f"k{number}", b"x", 60.0),))
    assert server.sql("SELECT count(*) FROM unstale.entry") == [(130,)]
    for _ in range(200):
        engine.append((record("a"),))
    ((count,),) = server.sql("SELECT count(*) FROM unstale.log")
    assert 50 <= count <= 50 + 16


def test_h27_entries_are_bounded_by_number(server: PostgresServer, engines: Engines) -> None:
    """When autovacuum counts more entries than there may be, those that end soonest make room for what is written."""
    engine = engines(server.url, entries_max=200)
    engine.store(tuple(Item(f"old {number}", b"x", 60.0) for number in range(600)))
    for turn in range(8):
        server.sql("ANALYZE unstale.entry")
        engine.store(tuple(Item(f"new {turn} {number}", b"x", 600.0) for number in range(64)))
    server.sql("ANALYZE unstale.entry")
    ((count,),) = server.sql("SELECT count(*) FROM unstale.entry")
    assert 100 < count <= 200 + 64
    assert server.sql("SELECT count(*) FROM unstale.entry WHERE convert_from(key, 'UTF8') LIKE 'old%'") == [(0,)]
    (last,) = engine.fetch(("new 7 63",))
    assert last is not None


def test_h24_an_interrupted_call_leaves_no_answer_behind(server: PostgresServer) -> None:
    """After a Ctrl-C in the middle of calls, no later call is given the answer of another."""
    process = Process(ROLES, "read", server.url, "crowd", 30)
    try:
        assert process.hear() == "ready"
        assert process.hear() == []
    finally:
        process.end()
