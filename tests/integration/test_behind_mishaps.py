from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import unstale
from tests.support.behinds import Sink, behind, drained, own_cache
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale.behind import Write
from unstale.errors import UnavailableError, WriteRefusedError

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a server that syncs before it answers."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        yield server


@pytest.fixture
def sink() -> Sink:
    """Give a sink."""
    return Sink()


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Give the URL of a queue in a file."""
    return f"sqlite:///{tmp_path}/file.queue"


async def test_who_gives_up_waiting_harms_nobody(file: str, sink: Sink) -> None:
    """A task that is cancelled while its put is under way: that of others is acknowledged, and so are later ones."""
    with behind(file, sink) as made:
        tasks = [asyncio.create_task(made.aput(f"a:{number}", number)) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [one for one in done[1::2] if isinstance(one, BaseException)]
        assert (await asyncio.wait_for(made.aput("a:99", 1), 10)).key == "a:99"
        drained(made)
        assert sink.values()["a:99"] == 1


def test_a_sink_whose_task_was_cancelled_is_tried_again(file: str) -> None:
    """Whatever a sink raises, what it was given is still queued, and the flusher lives."""
    given: list[str] = []

    async def sink(writes: list[Write]) -> None:
        given.extend(write.key for write in writes)
        if len(given) == 1:
            raise asyncio.CancelledError

    with behind(file, sink) as made:
        made.put("a:1", 1)
        drained(made)
    assert given == ["a:1", "a:1"]


def test_h05_a_put_raises_the_ticket_of_its_session(file: str, sink: Sink) -> None:
    """The next read of the client that has put sees it on whatever node."""
    with behind(file, sink) as made, unstale.session() as session:
        made.put("a:1", 1)
        assert session.raised
        assert session.token


def test_h02_a_lost_answer_of_the_queue_leaves_nothing_behind(server: RedisServer, sink: Sink) -> None:
    """The queue has given us writes, and its answer was lost: they are claimed again."""
    server.call("FLUSHALL")
    with behind(f"{server.url}?queue=writes", sink) as made:
        queue: Any = made._queue
        take = queue._take
        lost: list[Any] = []

        def losing(*args: Any) -> Any:
            rows = take(*args)
            if rows and not lost:
                lost.append(rows)
                queue._held.clear()
                raise UnavailableError("the answer was lost")
            return rows

        queue._take = losing
        made.put("a:1", 1)
        drained(made)
    assert lost
    assert sink.values() == {"a:1": 1}


def test_h02_what_was_put_aside_is_told_although_the_answer_was_lost(file: str, sink: Sink) -> None:
    """1. readers hold what is queued 2. it is put aside, and the queue's answer is lost: they are told all the same."""
    sink.fail = lambda writes: WriteRefusedError("never", keys=[write.key for write in writes])
    with own_cache() as cache, behind(file, sink, cache) as made:
        bury = made._queue.bury

        def losing(*args: Any) -> None:
            bury(*args)
            vars(made._queue).pop("bury")
            raise UnavailableError("the answer was lost")

        vars(made._queue)["bury"] = losing

        def load() -> int:
            write = made.queued("a:1")
            return 0 if write is None else write.value

        sink.open.clear()
        made.put("a:1", 1)
        assert cache.get_or_load("a:1", load) == 1
        sink.open.set()
        until(lambda: cache.get_or_load("a:1", load) == 0)
        assert "bury" not in vars(made._queue)
