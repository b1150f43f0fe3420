"""The lag of a real physical replica, as `PostgresReplica` measures it, and loads that go by it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from random import Random

import pytest

import unstale
from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from unstale import Cache
from unstale.clock import boottime
from unstale.errors import SourceError, UnprovenError, UsageError
from unstale.sources.replicas import Life, PostgresReplica, Shown, end_of_records

pytestmark = pytest.mark.real

DELAY_S = 0.2
_names = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give the primary."""
    with PostgresServer() as server:
        server.sql("CREATE TABLE item (id int PRIMARY KEY, price int NOT NULL)", "INSERT INTO item VALUES (1, 0)")
        yield server


@pytest.fixture(scope="module")
def replica(server: PostgresServer) -> Iterator[PostgresServer]:
    """Give a replica that shows each commit a while later."""
    with PostgresServer(of=server, recovery_min_apply_delay=f"{DELAY_S * 1000:.0f}ms") as replica:
        yield replica


@pytest.fixture
def measure(server: PostgresServer, replica: PostgresServer) -> Iterator[PostgresReplica]:
    """Measure it, and wait until something is known."""
    with PostgresReplica(server.url, replica.url, every="20ms") as measure:
        until(lambda: measure() is not None)
        yield measure


def test_h17_what_was_committed_before_the_lag_is_there(
    server: PostgresServer, replica: PostgresServer, measure: PostgresReplica
) -> None:
    """Whenever the replica is asked, it shows all that was committed as long ago as the lag that was told before."""
    random = Random(7)
    commits: list[tuple[float, int]] = []
    told: list[float] = []
    with server.client() as writing, replica.client() as reading:
        until_s = boottime() + 10 * DELAY_S
        while boottime() < until_s:
            for _ in range(random.randrange(3)):
                price = writing.execute("UPDATE item SET price = price + 1 RETURNING price").fetchall()[0][0]
                commits.append((boottime(), price))
            lag_s = measure()
            asked = boottime()
            assert lag_s is not None
            told.append(lag_s)
            shown = reading.execute("SELECT price FROM item").fetchall()[0][0]
            assert shown >= max((price for at, price in commits if at <= asked - lag_s), default=0)
    assert max(told) >= DELAY_S, "it is as late as it was told to be"
    until(lambda: (measure() or 1.0) < DELAY_S)  # nothing is written: it has caught up, and that is seen


def test_h17_a_replica_that_replays_nothing(
    server: PostgresServer, replica: PostgresServer, measure: PostgresReplica
) -> None:
    """While it is held up the lag grows, and it is small again afterwards."""
    replica.sql("SELECT pg_wal_replay_pause()")
    server.sql("UPDATE item SET price = price + 1")
    began = boottime()
    until(lambda: (measure() or 0.0) > 1.0)
    assert (measure() or 0.0) <= boottime() - began + 1.0
    replica.sql("SELECT pg_wal_replay_resume()")
    until(lambda: (measure() or 1.0) < 0.5)


def test_loads_go_where_the_lag_allows(
    server: PostgresServer, replica: PostgresServer, measure: PostgresReplica
) -> None:
    """Loads read the replica, tickets and what has changed since the primary, and all where the lag is too large."""
    with Cache(f"memory://replica{next(_names)}", max_staleness="1s") as cache:
        read: list[str] = []

        @cache.cached("item:{item}", replica=measure)
        def price(item: int) -> int:
            read.append("primary" if unstale.needs_primary() else "replica")
            there = server if read[-1] == "primary" else replica
            return int(there.sql(f"SELECT price FROM item WHERE id = {item}")[0][0])

        def follows() -> bool:
            cache.invalidate("other")
            return price.refresh(1) >= 0 and read[-1] == "replica"

        until(follows)
        price(1)
        server.sql("UPDATE item SET price = price + 1")
        receipt = price.invalidate(1)
        now = server.sql("SELECT price FROM item")[0][0]
        assert (price.reading(after=receipt)(1), read[-1]) == (now, "primary")
        until(lambda: price.refresh(1) == now and read[-1] == "replica")
        replica.sql("SELECT pg_wal_replay_pause()")
        server.sql("UPDATE item SET price = price + 1")
        until(lambda: (measure() or 0.0) > 1.0)
        assert (price.refresh(1), read[-1]) == (now + 1, "primary")
        with pytest.raises(UnprovenError, match="s behind, which max_staleness does not allow"):
            cache.get_or_load("item:1", lambda: 1, replica=measure, after=cache.ticket(), ttl="1s", tags=["another"])
        replica.sql("SELECT pg_wal_replay_resume()")


def test_h10_a_restarted_replica_is_measured_anew(server: PostgresServer, measure: PostgresReplica) -> None:
    """When the connection is lost nothing is known, and that is told; the next measuring counts."""
    with PostgresServer(of=server) as other, PostgresReplica(server.url, other.url, every="20ms") as mine:
        until(lambda: mine() is not None)
        other.kill()
        refused: list[str] = []

        def unknown() -> bool:
            try:
                mine()
            except SourceError as error:
                refused.append(str(error))
            return bool(refused)

        until(unknown)
        assert "the lag of a replica is not known" in refused[0]
        other.start()
        until(lambda: _lag(mine) is not None)
        other.promote()
        until(lambda: "is no physical replica of" in _refusal(mine))
    mine.close()


def _lag(measure: PostgresReplica) -> float | None:
    try:
        return measure()
    except SourceError:
        return None


def _refusal(measure: PostgresReplica) -> str:
    try:
        measure()
    except SourceError as error:
        return str(error)
    return ""


def test_what_is_no_pair_is_told(server: PostgresServer, replica: PostgresServer) -> None:
    """Two primaries, or two replicas, are no pair; nor is anything but PostgreSQL."""
    for primary, other, problem in (
        (server, server, "is no physical replica"),
        (replica, replica, "is no primary"),
    ):
        with PostgresReplica(primary.url, other.url, every="10ms") as measure:
            until(lambda measure=measure, problem=problem: problem in _refusal(measure))  # type: ignore[misc]
    for url in ("mysql://shop", "", 3):
        with pytest.raises(UsageError, match="two servers of PostgreSQL"):
            PostgresReplica(server.url, url)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="longer than nothing"):
        PostgresReplica(server.url, replica.url, every=0)


def test_h23_a_forked_child_measures_for_itself(measure: PostgresReplica) -> None:
    """The thread of the parent does not live in a child: its first call starts one."""
    child = os.fork()
    if not child:
        code = 1
        try:
            first = measure()
            until(lambda: measure() is not None)
            code = 0 if first is None else 2
        finally:
            os._exit(code)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert measure() is not None


def test_positions_of_two_lives_do_not_compare() -> None:
    """After a promotion, what was noted says nothing, and a replica that follows the old life shows nothing known."""
    shown, one, two = Shown(), Life("s", 1), Life("s", 2)
    shown.note(1.0, one, 100)
    shown.note(2.0, one, 200)
    shown.replayed(one, 199)
    assert shown.moment == 1.0
    shown.note(3.0, one, 200)
    shown.replayed(one, 200)
    assert shown.moment == 3.0
    shown.note(4.0, two, 150)
    assert shown.moment is None
    shown.replayed(one, 300)
    assert shown.moment is None
    shown.replayed(two, 150)
    assert shown.moment == 4.0
    shown.replayed(one, 400)
    assert shown.moment is None


def test_the_header_of_a_page_is_no_record() -> None:
    """At the start of a page or segment the next record would begin behind the header; what is written ends before."""
    segment, block = 16 * 2**20, 8192
    assert end_of_records(3 * block + 24, segment, block) == 3 * block
    assert end_of_records(3 * block + 40, segment, block) == 3 * block + 40
    assert end_of_records(2 * segment + 40, segment, block) == 2 * segment
    assert end_of_records(5 * block + 120, segment, block) == 5 * block + 120
