from __future__ import annotations

import asyncio
import threading

import pytest

from unstale.core.ops import Appended
from unstale.core.record import Record, Version
from unstale.engines.linger import Linger, LoopLinger
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.errors import UnavailableError


class Log:
    """A log that notes what is appended at once."""

    def __init__(self) -> None:
        self.engine = MemoryEngine(MemoryServer(lambda: 0.0, "g"))
        self.requests: list[tuple[str, ...]] = []
        self.broken = False

    def append(self, records: tuple[Record, ...]) -> Appended:
        """Append."""
        self.requests.append(tuple(record.id for record in records))
        if self.broken:
            raise UnavailableError("down")
        return self.engine.append(records)

    async def aappend(self, records: tuple[Record, ...]) -> Appended:
        """Append."""
        return self.append(records)


def together(linger: Linger, *records: Record) -> dict[str, Appended | BaseException]:
    """Append records from a thread each, at the same time."""
    answers: dict[str, Appended | BaseException] = {}
    ready = threading.Barrier(len(records))

    def one(record: Record) -> None:
        ready.wait()
        try:
            answers[record.id] = linger.append((record,))
        except UnavailableError as error:
            answers[record.id] = error

    threads = [threading.Thread(target=one, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def test_what_comes_within_a_moment_goes_together() -> None:
    """Several appends are one request; each has its own answer."""
    log = Log()
    linger = Linger(0.2, log.append)
    answers = together(linger, *(Record(f"r{number}", (f"s{number}",)) for number in range(8)))
    assert len(log.requests) == 1
    for name, answer in answers.items():
        assert isinstance(answer, Appended)
        assert [logged.id for logged in answer.records] == [name]
        assert answer.identity.head == 8


def test_records_that_say_the_same_become_one() -> None:
    """Of the same scopes and as hard; but not where a version, or somebody who waits, hangs on it."""
    log = Log()
    linger = Linger(0.2, log.append)
    same = [Record("r1", ("a",)), Record("r2", ("a",)), Record("r3", ("a",))]
    others = [
        Record("r4", ("a",), soft=True), Record("r5", ("a", "b")), Record("r6", ("a",), version=Version(1)),
        Record("r7", ("a",), ack=True),
    ]  # fmt: skip
    answers = together(linger, *same, *others)
    assert len(log.requests) == 1
    assert len(log.requests[0]) == 5
    places = [answer.records[0].position for answer in answers.values() if isinstance(answer, Appended)]
    assert len(places) == 7
    assert len(set(places)) == 5


def test_a_failure_reaches_all_who_went_together() -> None:
    """And the next append is a new one."""
    log = Log()
    log.broken = True
    linger = Linger(0.1, log.append)
    answers = together(linger, Record("r1", ("a",)), Record("r2", ("b",)))
    assert all(isinstance(answer, UnavailableError) for answer in answers.values())
    log.broken = False
    assert linger.append((Record("r1", ("a",)),)).identity.head == 1


def test_whoever_is_interrupted_strands_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first one is interrupted while it waits, those who joined it are told to repeat."""
    log = Log()
    linger = Linger(0.1, log.append)
    waiting = threading.Event()

    def interrupted(_seconds: float) -> None:
        waiting.set()
        until = threading.Event()
        while linger._burst is None or len(linger._burst.records) < 2:
            until.wait(0.001)
        raise KeyboardInterrupt

    monkeypatch.setattr("unstale.engines.linger.time.sleep", interrupted)
    second: dict[str, Appended | BaseException] = {}

    def join() -> None:
        waiting.wait(30)
        second.update(together(linger, Record("r2", ("b",))))

    thread = threading.Thread(target=join)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        linger.append((Record("r1", ("a",)),))
    thread.join(30)
    assert isinstance(second["r2"], UnavailableError)
    assert log.requests == []


async def test_in_a_loop_too() -> None:
    """Tasks go together as threads do; whoever is cancelled has appended all the same."""
    log = Log()
    linger = LoopLinger(0.05, log.aappend)
    tasks = [asyncio.ensure_future(linger.append((Record(f"r{number}", ("a", f"{number}")),))) for number in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [type(answer) for answer in answers[1:]] == [Appended] * 4
    assert [len(request) for request in log.requests] == [5]
    log.broken = True
    with pytest.raises(UnavailableError):
        await linger.append((Record("r9", ("a",)),))
