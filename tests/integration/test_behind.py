from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import unstale
from tests.support.behinds import Sink, behind, drained, own_cache
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale.behind import Write, open_queue
from unstale.core.record import Stamp
from unstale.errors import (
    ClosedError,
    NotPublishedError,
    QueueFullError,
    ScopeError,
    UsageError,
    ValueTypeError,
    WriteRefusedError,
)

pytestmark = pytest.mark.real


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


@pytest.fixture
def sink() -> Sink:
    """Give a sink."""
    return Sink()


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Give the URL of a queue in a file."""
    return f"sqlite:///{tmp_path}/file.queue"


async def test_what_is_put_reaches_the_sink(url: str, sink: Sink) -> None:
    """Puts, one or many, blocking or awaited, are acknowledged with growing versions and reach the sink with them."""
    with behind(url, sink) as made:
        one = made.put("a:1", 1)
        two = await made.aput("a:1", 2)
        many = made.put_many({"a:2": 1, "a:3": 2})
        more = await made.aput_many([("a:4", 1), ("a:4", 3)])
        versions = [told.version for told in (one, two, *many, *more)]
        assert versions == sorted(set(versions))
        drained(made)
        assert sink.values() == {"a:1": 2, "a:2": 1, "a:3": 2, "a:4": 3}
        assert sink.rows["a:1"] == Write("a:1", 2, two.version, two.id)
        assert one.ticket is not None
        assert made.put_many({}) == []


def test_what_waits_is_merged(url: str, sink: Sink) -> None:
    """While the sink has an older write of a key, later ones are merged: the sink is given the newest alone."""
    sink.open.clear()
    with behind(url, sink) as made:
        first = made.put("a:1", 0)
        until(sink.waiting.is_set)
        last = [made.put("a:1", number) for number in range(1, 50)][-1]
        sink.open.set()
        drained(made)
        assert [write.version for write in sink.given("a:1")] == [first.version, last.version]
        assert sink.values() == {"a:1": 49}


def test_single_puts_share_a_commit(file: str, sink: Sink) -> None:
    """Puts of many threads at once are made durable by fewer commits than there are puts."""
    with behind(file, sink) as made:
        threads = [threading.Thread(target=made.put, args=(f"a:{number}", number)) for number in range(64)]
        commits = []
        put = made._queue.put
        made._queue.put = lambda groups, call: commits.append(len(groups)) or put(groups, call)  # type: ignore[method-assign,func-returns-value]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(commits) == 64 > len(commits)


def test_a_full_queue_holds_puts_back_and_then_refuses(url: str, sink: Sink) -> None:
    """A put waits for room, and is refused as a whole when none comes in time; one that was waiting gets the room."""
    sink.open.clear()
    with behind(url, sink, max_queued=2, timeout="50ms") as made:
        made.put_many({"a:1": 1, "a:2": 1})
        until(sink.waiting.is_set)
        with pytest.raises(QueueFullError, match="nothing of this put was queued"):
            made.put_many({"a:1": 2, "a:3": 1})
        assert made.put("a:1", 3).version
        with pytest.raises(UsageError, match="never fit"):
            made.put_many({f"a:{number}": 1 for number in range(3)})
    sink.waiting.clear()
    with behind(url, sink, max_queued=2, timeout="60s") as made:
        until(sink.waiting.is_set)
        thread = threading.Thread(target=made.put, args=("a:9", 9))
        thread.start()
        sink.open.set()
        thread.join()
        drained(made)
        assert sink.values() == {"a:1": 3, "a:2": 1, "a:9": 9}


def test_poison_is_put_aside_and_blocks_nobody(url: str, sink: Sink) -> None:
    """A write that the sink never takes is found among others, and put aside after so many tries; the others go on."""
    sink.fail = lambda writes: ValueError("bad") if any(write.key == "a:7" for write in writes) else None
    with behind(url, sink, tries=3) as made:
        made.put_many({f"a:{number}": number for number in range(20)})
        until(lambda: len(sink.rows) == 19)
        numbers = iter(range(1000))
        until(lambda: made.put("b:1", next(numbers)).version and made.status().dead)
        (dead,) = made._queue.dead()
        assert (dead.key, dead.error) == ("a:7", "ValueError: bad")
        assert dead.tries >= 3  # until something else has been taken, which shows that the sink is well
        sink.fail = lambda _writes: None
        assert made._queue.replay(["a:7"]) == 1
        drained(made)
        assert sink.rows["a:7"] == Write("a:7", 7, dead.version, made._queue.id_of(dead.version))


def test_an_outage_of_the_sink_fills_no_dead_letters(url: str, sink: Sink) -> None:
    """While the sink takes nothing, nothing is put aside, however often it is tried; afterwards all arrives."""
    sink.fail = lambda _writes: ConnectionError("down")
    with behind(url, sink, tries=2) as made:
        made.put_many({"a:1": 1, "a:2": 2, "a:3": 3})
        until(lambda: len(sink.batches) > 20)
        assert (made.status().queued, made.status().dead) == (3, 0)
        sink.fail = lambda _writes: None
        drained(made)
        assert sink.values() == {"a:1": 1, "a:2": 2, "a:3": 3}


def test_what_the_sink_refuses_is_put_aside_at_once(url: str, sink: Sink) -> None:
    """A sink that names what it will never take is not asked again for that, and is for the others."""
    sink.fail = lambda writes: (
        WriteRefusedError("negative", keys=[write.key for write in writes if write.value < 0])
        if any(write.value < 0 for write in writes)
        else None
    )
    with behind(url, sink) as made:
        made.put_many({"a:1": 1, "a:2": -2, "a:3": 3})
        drained(made)
        assert sink.values() == {"a:1": 1, "a:3": 3}
        assert [(one.key, one.error) for one in made._queue.dead()] == [("a:2", "negative")]


def test_what_cannot_be_read_is_put_aside(url: str, sink: Sink) -> None:
    """Bytes that are no value of the type are given to no sink; readers get an error, and not another value."""
    with closing(open_queue(url)) as queue:
        queue.put([[("a:1", b"\xc1"), ("a:2", b"\x02")]], 1)
    with behind(url, sink) as made:
        drained(made)
        assert sink.values() == {"a:2": 2}
        assert made.status().dead == 1


def test_a_batch_of_unknown_outcome_is_handed_over_with_the_same_ids(url: str, sink: Sink) -> None:
    """A sink that fails after its commit is given the same versions and ids once more, and can refuse them."""
    failures = iter([ConnectionError("lost the answer")])
    sink.fail_after = lambda _writes: next(failures, None)
    with behind(url, sink) as made:
        made.put("a:1", 1)
        drained(made)
        one, two = sink.given("a:1")
        assert one == two == sink.rows["a:1"]


@pytest.mark.parametrize("own", [True, False])
async def test_a_sink_may_be_awaited(file: str, *, own: bool) -> None:
    """A coroutine function runs in the loop that it was given, or in one of the flusher's."""
    loops = []

    async def save(writes: list[Write]) -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    here = asyncio.get_running_loop()
    with behind(file, save, loop=None if own else here) as made:
        await made.aput("a:1", 1)
        assert await asyncio.to_thread(made.drain) == 0
        assert (loops == [here]) is not own


def test_closing_drains(url: str, sink: Sink) -> None:
    """Closing flushes what is queued, or leaves it to the next, as it is told; nothing is put afterwards."""
    sink.fail = lambda _writes: ConnectionError("down")
    with behind(url, sink) as made:
        made.put("a:1", 1)
        assert made.close(timeout="50ms") == 1
        with pytest.raises(ClosedError):
            made.put("a:1", 2)
    sink.fail = lambda _writes: None
    with behind(url, sink) as made:
        made.put("a:2", 1)
        assert made.close() == 0
    assert sink.values() == {"a:1": 1, "a:2": 1}


# Readers ----------------------------------------------------------------------------------------------------------


def test_h03_readers_see_what_is_queued(url: str, sink: Sink) -> None:
    """From the acknowledgement on, functions and keys see the new value, before and after it is flushed."""
    sink.open.clear()
    table: dict[str, int] = {"a:1": 0}
    sink.fail_after = lambda writes: table.update({write.key: write.value for write in writes})
    with own_cache() as cache, behind(url, sink, cache) as made:

        @cache.cached("a:{number}")
        def read(number: int) -> int:
            write = made.queued(f"a:{number}")
            return table[f"a:{number}"] if write is None else write.value

        @cache.cached("list:{number}")
        def view(number: int) -> list[int]:
            return [read(number)]

        @cache.cached("report", tags=["a:1"])
        def report() -> int:
            return table["a:1"]  # past the queue: it shows what is flushed

        assert (read(1), view(1), report(), made.get("a:1", lambda: table["a:1"])) == (0, [0], 0, 0)
        made.put("a:1", 5)
        assert (read(1), view(1), report(), made.get("a:1", lambda: table["a:1"])) == (5, [5], 0, 5)
        sink.open.set()
        drained(made)
        assert (read(1), view(1), report(), made.get("a:1", lambda: table["a:1"])) == (5, [5], 5, 5)


async def test_h03_awaited_readers_see_what_is_queued(url: str, sink: Sink) -> None:
    """The same for readers that await, and for those that ask for a ticket."""
    sink.open.clear()
    with own_cache() as cache, behind(url, sink, cache) as made:

        async def load() -> int:
            return 0

        assert await made.aget("a:1", load) == 0
        told = await made.aput("a:1", 5)
        assert await made.aget("a:1", load, after=told.ticket) == 5
        found = await made.aqueued("a:1")
        assert found is not None
        assert found.id == told.id
        sink.open.set()


def test_h03_a_load_that_began_before_the_put_is_not_kept(url: str, sink: Sink) -> None:
    """A load that asked the queue before the put, and the database afterwards, is served to nobody who comes later."""
    sink.open.clear()
    with own_cache() as cache, behind(url, sink, cache) as made:

        def late() -> int:
            made.put("a:1", 5)
            return 0

        assert made.get("a:1", late) == 0
        assert made.get("a:1", lambda: 1) == 5
        sink.open.set()


def test_h01_h02_nothing_leaves_the_queue_untold(url: str, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes are told after the sink has committed and before the write is removed; without a log nothing is."""
    events: list[str] = []
    down = threading.Event()
    with own_cache() as cache, behind(url, sink, cache) as made:
        invalidate, done = cache.invalidate, made._queue.done

        def told(*scopes: str, **how: Any) -> Any:
            if down.is_set():
                raise NotPublishedError("the log is away")
            events.append(f"told {len(sink.batches)}")
            return invalidate(*scopes, **how)

        monkeypatch.setattr(cache, "invalidate", told)
        monkeypatch.setattr(made._queue, "done", lambda *how: events.append("removed") or done(*how))  # type: ignore[func-returns-value]
        sink.fail_after = lambda _writes: events.append("flushed")
        sink.open.clear()
        made.put("a:1", 1)
        sink.open.set()
        drained(made)
        assert events == ["told 0", "flushed", "told 1", "removed"]
        sink.open.clear()
        made.put("a:2", 1)
        down.set()
        sink.open.set()
        with pytest.raises(NotPublishedError):
            made.put("a:3", 1)
        until(lambda: "a:2" in sink.rows)
        assert made.status().queued == 2
        assert made._newest("a:2") is not None
        down.clear()
        drained(made)
        assert len(sink.given("a:2")) == 1
        assert sink.values() == {"a:1": 1, "a:2": 1, "a:3": 1}


def test_h02_what_was_put_aside_is_told(url: str, sink: Sink) -> None:
    """Readers have seen the value of a write that is put aside: they are told, by the next leader at the latest."""
    sink.fail = lambda writes: WriteRefusedError("no", keys=[write.key for write in writes])
    with own_cache() as cache, behind(url, sink, cache) as made:
        sink.open.clear()
        made.put("a:1", 5)
        assert made.get("a:1", lambda: 0) == 5
        sink.open.set()
        until(lambda: made.get("a:1", lambda: 0) == 0)
        assert made.status().dead == 1
    told: list[str] = []
    with own_cache() as cache:
        invalidate = cache.invalidate
        cache.invalidate = lambda *scopes, **how: told.extend(scopes) or invalidate(*scopes, **how)  # type: ignore[method-assign,func-returns-value]
        with behind(url, sink, cache):
            until(lambda: told == ["a:1"])


# Mistakes, and forks ----------------------------------------------------------------------------------------------


def test_mistakes_are_told_at_once(file: str, sink: Sink) -> None:
    """What cannot be is refused where it is written, with what to write instead."""
    refused: list[dict[str, Any]] = [{"batch": 0}, {"tries": -1}, {"max_queued": "1"}, {"durable": "maybe"}]
    for how in refused:
        with pytest.raises(UsageError), behind(file, sink, **how):
            pass
    with pytest.raises(UsageError, match="not a function"), behind(file, "sink"):
        pass
    with behind(file, sink) as made:
        with pytest.raises(ValueTypeError, match="put under"):
            made.put("a:1", "text")
        with pytest.raises(ScopeError):
            made.put(":x", 1)
        assert made.status().queued == 0


def test_h23_a_forked_child_puts_and_flushes(url: str, sink: Sink) -> None:
    """A child of a process that has a write-behind puts by connections and threads of its own."""
    with behind(url, sink) as made:
        made.put("a:1", 1)
        drained(made)
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if made.put("a:2", 2).version else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        made.put("a:3", 3)
        until(lambda: {"a:1", "a:3"} <= sink.rows.keys() and made.status().queued == 0)
        assert made.status().dead == 0


def test_stamps_are_of_the_cache(file: str, sink: Sink) -> None:
    """The ticket of a put is one of the cache's log."""
    with own_cache() as cache, behind(file, sink, cache) as made:
        told = made.put("a:1", 1)
        assert isinstance(told.ticket, Stamp)
        now = cache.ticket()
        assert now is not None
        assert now.generation == told.ticket.generation
        assert unstale.errors.QueueFullError.culprit == "engine"
