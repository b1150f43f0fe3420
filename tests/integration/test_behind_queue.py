from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale.behind import open_queue
from unstale.behind.queue_file import settle
from unstale.behind.queue_redis import RedisQueue
from unstale.behind.writes import DeposedError, Queue, Row
from unstale.errors import CorruptError, EngineError, EngineUrlError, UnavailableError, UsageError

pytestmark = pytest.mark.real
Open = Callable[..., Queue]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a server that syncs before it answers."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty queue."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/writes.queue"
    server: RedisServer = request.getfixturevalue("server")
    server.call("FLUSHALL")
    return f"{server.url}?queue=writes"


@pytest.fixture(name="opened")
def opener(url: str) -> Iterator[Open]:
    """Give what opens the queue once more, as another process does."""
    made: list[Queue] = []

    def opened(**how: int) -> Queue:
        made.append(open_queue(url, **how))  # type: ignore[arg-type]
        return made[-1]

    yield opened
    for queue in made:
        queue.close()


def put(queue: Queue, call: int, **items: bytes) -> list[int]:
    """Put one group, for which there is room."""
    (versions,) = queue.put([list(items.items())], call)
    assert versions is not None
    return versions


def test_versions_grow_and_the_newest_is_kept(opened: Open) -> None:
    """A later write of a key takes the place of the one before, with a greater version, whoever reads it."""
    queue, other = opened(), opened()
    (one,), (two,) = put(queue, 1, a=b"1"), put(other, 1, a=b"2")
    assert one < two
    assert opened().newest("a") == Row("a", b"2", two)
    assert queue.newest("b") is None
    assert queue.status().queued == 1
    assert queue.id_of(two) == other.id_of(two) != other.id_of(one)


def test_a_group_has_the_versions_of_its_order(opened: Open) -> None:
    """Two writes of one key in one put are queued in their order."""
    queue = opened()
    (versions,) = queue.put([[("a", b"1"), ("b", b"1"), ("a", b"2")]], 1)
    assert versions == sorted(versions or [])
    assert queue.newest("a") == Row("a", b"2", versions[2])


def test_versions_go_on_above_those_of_a_queue_that_was_lost(tmp_path: Path) -> None:
    """A queue that is made anew does not begin below what the sink has seen."""
    with closing(open_queue(f"sqlite:///{tmp_path}/one.queue")) as queue:
        (before,) = put(queue, 1, a=b"1")
    with closing(open_queue(f"sqlite:///{tmp_path}/two.queue")) as queue:
        assert put(queue, 1, a=b"1")[0] > before


def test_one_leads_and_what_it_took_is_handed_over(opened: Open) -> None:
    """While one flusher leads, no other does; who leads after it is given what it had, also if that is newer now."""
    one, two = opened(), opened()
    put(one, 1, a=b"1", b=b"1")
    token = one.lead()
    assert token
    assert not two.lead()
    assert [row.key for row in one.take(token, 10, ())] == ["a", "b"]
    (newer,) = put(two, 1, a=b"2")
    one.resign(token)
    later = two.lead()
    assert later > token
    assert {row.key: row.data for row in two.take(later, 10, ())} == {"a": b"2", "b": b"1"}
    assert newer


def test_a_deposed_flusher_changes_nothing(opened: Open) -> None:
    """A flusher that was stopped while another took over removes, counts and puts aside nothing."""
    one, two = opened(), opened()
    put(one, 1, a=b"1")
    token = one.lead()
    (row,) = one.take(token, 10, ())
    one.resign(token)
    assert two.lead()
    for step in (
        lambda: one.done(token, [row]),
        lambda: one.failed(token, row),
        lambda: one.bury(token, [(row, "why")]),
        lambda: one.take(token, 10, ()),
    ):
        with pytest.raises(DeposedError):
            step()
    assert not one.renew(token)
    assert two.newest("a") == row
    assert two.status().dead == 0


def test_what_is_newer_than_what_was_flushed_stays(opened: Open) -> None:
    """Removing what was flushed leaves a write that came meanwhile, behind the others."""
    queue = opened()
    put(queue, 1, a=b"1", b=b"1")
    token = queue.lead()
    rows = queue.take(token, 1, ())
    put(queue, 2, a=b"2")
    queue.done(token, rows)
    assert queue.status().queued == 2
    assert [row.key for row in queue.take(token, 10, ())] == ["b", "a"]
    queue.done(token, queue.take(token, 10, ()))
    assert queue.status().queued == 0
    assert queue.take(token, 10, ()) == []


def test_what_rests_is_left_out(opened: Open) -> None:
    """A key that rests is not taken, and the others are; later it is."""
    queue = opened()
    put(queue, 1, a=b"1", b=b"1", c=b"1")
    token = queue.lead()
    assert [row.key for row in queue.take(token, 2, {"a"})][:2] in (["b"], ["b", "c"])
    queue.done(token, [row for row in queue.take(token, 5, {"a"}) if row.key != "a"])
    assert [row.key for row in queue.take(token, 5, {"a"})] == []
    assert [row.key for row in queue.take(token, 5, ())] == ["a"]


def test_a_full_queue_takes_a_put_wholly_or_not_at_all(opened: Open) -> None:
    """A put for which there is no room leaves nothing behind; one of keys that are there, or a smaller one, passes."""
    queue = opened(rows_max=3)
    put(queue, 1, a=b"1", b=b"1")
    answers = queue.put([[("c", b"1"), ("d", b"1")], [("a", b"2"), ("b", b"2")], [("c", b"3")], [("e", b"1")]], 2)
    assert [answer is None for answer in answers] == [True, False, False, True]
    assert queue.newest("d") is queue.newest("e") is None
    assert queue.newest("c") == Row("c", b"3", (answers[2] or [0])[0])
    assert queue.status().queued == 3


def test_what_was_put_aside_is_replayed_with_its_version_or_replaced(opened: Open) -> None:
    """What was put aside is seen by no reader, counts for the room, and is queued again as it was, or replaced."""
    queue = opened(rows_max=2)
    versions = put(queue, 1, a=b"1", b=b"1")
    token = queue.lead()
    rows = queue.take(token, 10, ())
    assert [queue.failed(token, rows[0]) for _ in range(3)] == [1, 2, 3]
    queue.bury(token, [(row, "why") for row in rows])
    assert queue.newest("a") is None
    assert queue.status().dead == 2
    assert queue.put([[("c", b"1")]], 2) == [None]
    assert [(one.key, one.version, one.data, one.error) for one in queue.dead()] == [
        ("a", versions[0], b"1", "why"),
        ("b", versions[1], b"1", "why"),
    ]
    (newer,) = put(queue, 3, b=b"2")
    assert queue.replay(["a", "b", "c"]) == 1
    assert queue.newest("a") == Row("a", b"1", versions[0])
    assert queue.newest("b") == Row("b", b"2", newer)
    assert [row.key for row in queue.take(token, 10, ())] in (["a", "b"], ["b", "a"])
    queue.bury(token, [(row, "again") for row in queue.take(token, 10, ())])
    assert queue.discard(["a"]) == 1
    assert [one.key for one in queue.dead()] == ["b"]


def test_a_put_of_unknown_outcome_is_queued_once(server: RedisServer) -> None:
    """A call that is repeated is answered as before; one that comes too late is refused."""
    server.call("FLUSHALL")
    with closing(open_queue(f"{server.url}?queue=once")) as queue:
        first = queue.put([[("a", b"1"), ("b", b"1")]], 1)
        assert queue.put([[("a", b"1"), ("b", b"1")]], 1) == first
        (newer,) = put(queue, 2, a=b"2")
        with pytest.raises(EngineError, match="LATE"):
            queue.put([[("a", b"1")]], 1)
        assert queue.newest("a") == Row("a", b"2", newer)


def test_consumers_that_died_leave_nothing_behind(server: RedisServer) -> None:
    """What dead flushers were given is claimed, and they are forgotten."""
    server.call("FLUSHALL")
    with closing(open_queue(f"{server.url}?queue=dying")) as queue:
        put(queue, 1, **{f"k{number}": b"1" for number in range(9)})
        for _ in range(4):
            token = queue.lead()
            assert len(queue.take(token, 3, ())) == 3
            queue.resign(token)
        token = queue.lead()
        for _ in range(5):
            if rows := queue.take(token, 4, ()):
                queue.done(token, rows)
        assert queue.status().queued == 0
        consumers = server.call("XINFO", "CONSUMERS", "unstale:{behind:dying}:stream", "flushers")
        assert len(consumers) <= 1
        assert server.call("XLEN", "unstale:{behind:dying}:stream") == 0


def test_a_server_that_would_lose_writes_is_refused() -> None:
    """Durable against power needs a server that syncs before it answers; who asks for less may have another."""
    with RedisServer(appendonly=True, appendfsync="everysec") as server:
        with pytest.raises(EngineError, match="would lose acknowledged writes"):
            open_queue(server.url)
        with closing(open_queue(server.url, durable="process")) as queue:
            assert put(queue, 1, a=b"1")


def test_a_write_that_has_not_reached_its_replicas_is_not_acknowledged(server: RedisServer) -> None:
    """Without a replica, a put that asks for one is an error; repeated, it is queued once all the same."""
    server.call("FLUSHALL")
    with closing(open_queue(f"{server.url}?queue=copies", replicas=1)) as queue:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="0 of 1 replicas"):
                queue.put([[("a", b"1")]], 1)
        assert isinstance(queue, RedisQueue)
        with RedisServer() as replica:
            replica.replica_of(server)
            until(lambda: acknowledged(queue))


def acknowledged(queue: Queue) -> bool:
    """Whether a put has reached its replicas in time."""
    try:
        return queue.put([[("a", b"1")]], 1) != [None]
    except UnavailableError:
        return False


def test_a_file_that_is_deleted_under_a_put_is_noticed(tmp_path: Path) -> None:
    """What was committed to a file that has no name any more is not acknowledged; the next put makes a new one."""
    path = tmp_path / "writes.queue"
    with closing(open_queue(f"sqlite:///{path}")) as queue:
        put(queue, 1, a=b"1")
        for file in tmp_path.iterdir():
            file.unlink()
        with pytest.raises(UnavailableError, match="was replaced"):
            queue.put([[("a", b"2")]], 2)
        assert put(queue, 3, a=b"3")
        with closing(open_queue(f"sqlite:///{path}")) as other:
            assert other.newest("a") == queue.newest("a")


def test_foreign_files_and_urls_are_refused(tmp_path: Path) -> None:
    """A database of another program is left alone, and a URL that names no queue is told with what to write."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(CorruptError, match="something else than a queue"):
        open_queue(f"sqlite:///{tmp_path}/shop.db")
    for url in ("memory://", "sqlite://", "redis+cluster://h", "redis://h?queue=", "redis://h?queue=a{b"):
        with pytest.raises(EngineUrlError):
            open_queue(url)
    with pytest.raises(UsageError):
        open_queue(17)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="replicas"):
        open_queue(f"sqlite:///{tmp_path}/a.queue", replicas=1)


def test_writers_of_many_threads_do_not_block_readers(opened: Open) -> None:
    """Puts of several connections at once all arrive, each version once."""
    queues = [opened() for _ in range(3)]
    found: list[int] = []

    def work(number: int) -> None:
        for call in range(1, 21):
            found.extend(put(queues[number], call, **{f"k{number}-{call % 5}": b"%d" % call}))
            queues[number].newest("k0-0")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 60
    assert queues[0].status().queued == 15
    assert max(found) < time.time_ns()


class Found(list[Any]):
    """Rows that have been read."""

    def fetchone(self) -> Any:
        """Give the first."""
        return self[0]


@pytest.mark.parametrize("steps", range(1, 6))
def test_h21_two_processes_make_a_queue_at_once(steps: int, tmp_path: Path) -> None:
    """Whatever one of them has seen of the empty file when the other one makes its tables: both have the same queue."""
    path, made = str(tmp_path / "writes.queue"), []

    class Interrupted(sqlite3.Connection):
        done = 0

        def execute(self, *statement: Any) -> Any:
            found = super().execute(*statement).fetchall()
            self.done += 1
            if self.done == steps and not self.in_transaction:
                with closing(sqlite3.connect(path, isolation_level=None)) as other:
                    made.append(settle(other, path))
            return Found(found)

    with closing(sqlite3.connect(path, isolation_level=None, factory=Interrupted)) as one:
        name = settle(one, path)
    assert made in ([name], [])


def test_a_queue_whose_server_comes_up_later() -> None:
    """A producer that is there before its server gets errors, and is served when the server has come."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        server.kill()
        with closing(open_queue(f"{server.url}?queue=writes", rows_max=10, durable="process")) as queue:
            for _ in range(2):
                with pytest.raises(UnavailableError):
                    queue.put([[("a", b"1")]], 1)
            server.start()
            (versions,) = queue.put([[("a", b"1")]], 1)
            assert versions is not None
            assert queue.newest("a") is not None
