from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unstale.core.ops import Batch, Identity, Item, Member
from unstale.core.record import Logged, Record
from unstale.engines.sqlite import SQLiteEngine
from unstale.errors import BusyError, UnavailableError

pytestmark = pytest.mark.real

ROLES = Path(__file__).with_name("sqlite_roles.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"
DEADLINE_S = 30.0


class Process:
    """Another process, in a role of `sqlite_roles`."""

    def __init__(self, *role: object) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(ROLES), *map(str, role)], env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)  # so that nobody waits for a full pipe
        self.reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.put(line)
        self.lines.put("")

    def tell(self, text: str = "go") -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def hear(self) -> Any:
        line = self.lines.get(timeout=DEADLINE_S)
        assert line, f"ended with {self.popen.wait(DEADLINE_S)} instead of an answer"
        return json.loads(line)

    def rest(self) -> list[Any]:
        """Give all that it still says; the last line of a killed one may be torn."""
        said = []
        while line := self.lines.get(timeout=DEADLINE_S):
            with contextlib.suppress(json.JSONDecodeError):
                said.append(json.loads(line))
        self.popen.wait(DEADLINE_S)
        return said

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)  # with its children
        self.popen.wait(DEADLINE_S)
        self.reader.join(DEADLINE_S)
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start other processes; none outlives its test."""
    started: list[Process] = []

    def one(*role: object) -> Process:
        started.append(Process(*role))
        return started[-1]

    yield one
    for process in started:
        process.end()


def record(name: str, *scopes: str) -> Record:
    """Give a record by its id."""
    return Record(name, scopes or ("scope",))


def poll(engine: SQLiteEngine, identity: Identity, position: int, wait_s: float = 0.0, limit: int = 1000) -> Batch:
    """Poll as a node that has applied all up to a position."""
    return engine.poll(Member("test", identity.generation, position, 2.0), position, limit, wait_s)


def whole_log(engine: SQLiteEngine) -> list[Logged]:
    """Read the log from its begin, and check that it is dense and chained."""
    identity, found = engine.read_head(), [Logged(0, "", record(""))]
    while batch := poll(engine, identity, found[-1].position).records:
        found.extend(batch)
    for before, after in itertools.pairwise(found):
        assert (after.position, after.prev) == (before.position + 1, before.id)
    assert (found[-1].position, found[-1].id) == (identity.head, identity.head_id)
    return found[1:]


def leftovers(path: Path, *suffixes: str) -> None:
    """Delete what is there of the file's names."""
    for suffix in suffixes:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


# Many writers, and killed ones --------------------------------------------------------------------------------------


def test_h21_eight_processes_append_dense_positions(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process]
) -> None:
    """Eight processes that append at once make one dense, chained log of all they were told, and none starves."""
    writers = [start("writer", path, f"w{number}", 4000, 1) for number in range(8)]
    for process in writers:
        assert process.hear() == "ready"
    for process in writers:
        process.tell()
    acknowledged = {}
    for process in writers:
        for _generation, records in process.rest():
            acknowledged.update(dict(records))
        assert process.popen.returncode == 0
    log = whole_log(make())
    assert len(log) >= 4000
    assert acknowledged == {logged.position: logged.id for logged in log}
    turns = Counter(logged.id.split("-")[0] for logged in log)
    assert len(turns) == 8
    assert min(turns.values()) > len(log) / 8 / 10


def test_what_was_acknowledged_survives_twenty_killed_writers(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process]
) -> None:
    """Writers killed in the middle of appends lose nothing acknowledged, break no chain and leave no half batch."""
    engine = make()
    acknowledged = {}
    waiting = [start("writer", path, f"w{number}", 10**9, 3) for number in range(3)]
    for number in range(20):
        process = waiting.pop(0)
        waiting.append(start("writer", path, f"w{number + 3}", 10**9, 3))
        assert process.hear() == "ready"
        process.tell()
        told = [process.hear() for _ in range(random.randint(1, 60))]
        process.popen.kill()
        for _generation, records in told + process.rest():
            assert len(records) == 3
            acknowledged.update(dict(records))
    log = {logged.position: logged.id for logged in whole_log(engine)}
    assert acknowledged.items() <= log.items()
    assert len(log) % 3 == 0
    assert engine.read_marks(("scope-0",)).marks["scope-0"] == max(log) - 2


def test_a_commit_is_seen_in_another_process(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process]
) -> None:
    """A poll that waits in one process gets the records of another, and of all threads of its own."""
    engine = make()
    process = start("tailer", path)
    identity = engine.read_head()
    assert process.hear() == identity.generation
    seen: list[Batch] = []
    thread = threading.Thread(target=lambda: seen.append(poll(engine, identity, 0, DEADLINE_S)))
    thread.start()
    engine.append((record("a"), record("b")))
    assert [process.hear(), process.hear()] == [[1, "a"], [2, "b"]]
    thread.join(DEADLINE_S)
    assert [logged.id for logged in seen[0].records] == ["a", "b"]


# Deleted, replaced, truncated -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffixes",
    [("",), ("-wal",), ("-shm",), ("-wal", "-shm"), ("", "-wal", "-shm")],
    ids=["database", "wal", "shm", "wal and shm", "all"],
)
def test_h12_a_deleted_file_is_a_new_generation(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process], suffixes: tuple[str, ...]
) -> None:
    """Processes under which the file, or a part of it, is deleted meet in a new one, where nothing old is served."""
    engine = make()
    process = start("tailer", path)
    first = engine.append((record("a"),)).identity
    engine.store((Item("key", b"old", 100.0),))
    assert [process.hear(), process.hear()] == [first.generation, [1, "a"]]
    answers: list[Batch] = []
    thread = threading.Thread(target=lambda: answers.append(poll(engine, first, 1, DEADLINE_S)))
    thread.start()
    leftovers(path, *suffixes)
    thread.join(DEADLINE_S)
    second = answers[0].identity
    assert second.generation != first.generation
    assert process.hear() == second.generation
    assert engine.fetch(("key",)) == (None,)
    assert engine.read_members().bound_s == 2.0
    engine.append((record("b"),))
    assert process.hear() == [1, "b"]
    assert make().read_head().generation == second.generation


def test_h12_an_append_to_a_deleted_file_is_not_acknowledged(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """Who commits to a file that others have given up is told so; repeated, the record is in the file that all read."""
    one, other = make(), make()
    before = one.append((record("a"),)).identity
    leftovers(path, "")
    after = other.append((record("b"),)).identity
    assert after.generation != before.generation
    with pytest.raises(UnavailableError):
        one.append((record("c"),))
    assert one.append((record("c"),)).identity == other.read_head()
    assert [logged.id for logged in whole_log(other)] == ["b", "c"]


def test_h12_every_acknowledgement_counts_while_files_vanish(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process]
) -> None:
    """While parts of the file are deleted again and again, what the last file acknowledged is in it."""
    writers = [start("writer", path, f"w{number}", 10**9, 2) for number in range(3)]
    for process in writers:
        process.hear()
        process.tell()
    for suffixes in (("",), ("-wal",), ("", "-wal", "-shm"), ("-shm",), ("-wal", "-shm"), ("",)):
        generation = writers[0].hear()[0]
        leftovers(path, *suffixes)
        while writers[0].hear()[0] == generation:
            pass
    for process in writers:
        process.popen.kill()
    said = [process.rest() for process in writers]
    engine = make()
    log = {logged.position: logged.id for logged in whole_log(engine)}
    last = engine.read_head().generation
    for generation, records in (answer for answers in said for answer in answers):
        if generation == last:
            assert dict(records).items() <= log.items()


@pytest.mark.parametrize("live", [True, False], ids=["in use", "closed"])
def test_h10_an_older_copy_is_noticed(
    path: Path,
    tmp_path: Path,
    make: Callable[..., SQLiteEngine],
    live: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A copy put in place of the file is a new generation: it lacks records, so nothing in it may be judged."""
    engine = make()
    engine.append((record("a"),))
    engine.store((Item("key", b"old", 100.0),))
    copy = tmp_path / "copy"
    with contextlib.closing(sqlite3.connect(path)) as db, contextlib.closing(sqlite3.connect(copy)) as target:
        db.backup(target)
    identity = engine.append((record("b", "key"),)).identity
    if not live:
        engine.close()
        engine = make()
    copy.replace(path)
    batch = poll(engine, identity, 2, DEADLINE_S if live else 0.0)
    assert batch.identity.generation != identity.generation
    assert engine.fetch(("key",)) == (None,)


@pytest.mark.parametrize("left", [0, 8192])
def test_a_truncated_file_is_a_new_generation(path: Path, make: Callable[..., SQLiteEngine], left: int) -> None:
    """A file that is cut under its users is replaced by a fresh one; an empty one is a fresh one."""
    engine = make()
    first = engine.append((record("a"),)).identity
    engine.store((Item("key", b"x" * 100_000, 100.0),))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint")
    engine.read_head()
    os.truncate(path, left)
    second = poll(engine, first, 1, DEADLINE_S).identity
    engine.append((record("b"),))
    engine.close()
    os.truncate(path, 0)
    third = make().read_head()
    assert len({first.generation, second.generation, third.generation}) == 3
    assert third.head == 0


# No space, no right, no lock ------------------------------------------------------------------------------------------


def test_a_file_size_limit_is_a_full_disk(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process]
) -> None:
    """When a file may not grow, writes fail clearly, what was acknowledged stays, and more space ends the trouble."""
    process = start("limited", path)
    acknowledged = process.hear()
    assert [process.hear() for _ in range(3)] == ["FullError", "FullError", ["kept", None]]
    assert process.rest() == []
    assert process.popen.returncode == 0
    names = [logged.id for logged in whole_log(make())]
    assert names == ["first", *acknowledged, "last"]


@pytest.mark.skipif(os.name == "nt", reason="rights are other there")
@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "at rest"])
def test_a_file_that_may_only_be_read(
    make: Callable[..., SQLiteEngine],
    start: Callable[..., Process],
    in_use: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Who may not write gets entries and marks, and a clear error for the rest: a node off the list has no lease."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = make(folder / "cache")
        engine.append((record("a"),))
        engine.store((Item("key", b"value", 100.0),))
        if not in_use:
            # Without a -wal to share, SQLite would have to make one, and may not; so it is left there.
            for suffix in ("", "-wal", "-shm"):
                shutil.copy(folder / f"cache{suffix}", folder / f"kept{suffix}")
            engine.close()
            for suffix in ("-wal", "-shm"):
                (folder / f"kept{suffix}").rename(folder / f"cache{suffix}")
        for one in folder.iterdir():
            one.chmod(0o444)
        folder.chmod(0o555)
        try:
            said = start("unprivileged", folder / "cache").hear()
        finally:
            folder.chmod(0o755)
            engine.close()
    refused = "ReadOnlyError"
    assert said == {"fetch": ["value"], "marks": {"scope": 1}, "append": refused, "store": refused, "poll": refused}


def test_locked_by_another_process_for_too_long(
    path: Path, make: Callable[..., SQLiteEngine], start: Callable[..., Process]
) -> None:
    """A write that cannot get its turn in time says so and has done nothing; reads do not wait for writers."""
    engine = make(patience_s=0.2)
    engine.append((record("a"),))
    engine.store((Item("key", b"value", 100.0),))
    process = start("holder", path)
    assert process.hear() == "held"
    with pytest.raises(BusyError) as caught:
        engine.append((record("b"),))
    assert "locked" in caught.value.message
    assert engine.fetch(("key",))[0] is not None
    assert engine.read_marks(("scope",)).marks == {"scope": 1}
    process.tell()
    assert process.hear() == "released"
    assert engine.append((record("b"),)).records[0].position == 2


def test_h23_a_child_uses_connections_and_locks_of_its_own(path: Path, start: Callable[..., Process]) -> None:
    """After a fork both sides append, and the child's locks hold even when its parent closes the file."""
    process = start("forker", path)
    assert process.hear() == [True, True]
    assert process.hear() == ["before", "child", "parent", "parent again"]
    assert process.hear() == ["before", "child", "parent", "parent again", "child again"]
