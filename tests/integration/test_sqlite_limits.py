from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unstale.core.marks import judge
from unstale.core.ops import Batch, Identity, Item, Member
from unstale.core.record import Logged, Record
from unstale.engines import sqlite_open
from unstale.engines.sqlite import SQLiteEngine
from unstale.engines.sqlite_schema import APPLICATION_ID
from unstale.errors import CorruptError, EngineUrlError, FullError, UnavailableError

DEADLINE_S = 30.0


def record(name: str, *scopes: str, **fields: Any) -> Record:
    """Give a record by its id."""
    return Record(name, scopes or ("scope",), **fields)


def follower(identity: Identity, applied: int, *, urgent: bool = False) -> Member:
    """Give what a node tells of itself."""
    return Member("test", identity.generation, applied, 2.0, urgent)


def poll(engine: SQLiteEngine, identity: Identity, position: int, wait_s: float = 0.0, limit: int = 1000) -> Batch:
    """Poll as a node that has applied all up to a position."""
    return engine.poll(follower(identity, position), position, limit, wait_s)


def query(path: Path, sql: str) -> Any:
    """Ask the file behind the engine's back."""
    with contextlib.closing(sqlite3.connect(path, timeout=DEADLINE_S)) as db, db:
        return db.execute(sql).fetchall()


# Bounds -----------------------------------------------------------------------------------------------------------


def test_h09_a_log_trimmed_past_a_position_says_so(make: Callable[..., SQLiteEngine]) -> None:
    """Where the log no longer reaches back to a position, it names no record there; numbers are never used twice."""
    engine = make(records_max=10)
    for number in range(50):
        engine.append((record(f"r{number}"),))
    identity = engine.read_head()
    batch = poll(engine, identity, 39)
    assert batch.at_id is None
    assert [logged.position for logged in batch.records] == list(range(41, 51))
    assert poll(engine, identity, 40).at_id == "r39"
    engine.close()
    narrow = make(records_max=0)
    assert narrow.append((record("next"),)).records == (Logged(51, "r49", record("next")),)
    assert poll(narrow, identity, 50).records == ()
    assert narrow.append((record("next"),)).records[0].position == 52  # forgotten: nobody can know it was there


def test_h27_the_file_is_bounded(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """Over 200,000 records with as many scopes, and entries that expire, the file does not grow beyond its limits."""
    now = 1000.0
    engine = make(records_max=1000, marks_max=2000, entries_max=500, max_ttl_s=60.0, clock=lambda: now)
    sizes = []
    for turn in range(1000):
        now += 1.0
        start = turn * 200
        engine.append(tuple(record(f"r{number}", f"s{number}") for number in range(start, start + 200)))
        engine.store(tuple(Item(f"k{number}", b"x" * 200, 30.0) for number in range(start, start + 20)))
        if turn % 100 == 0:
            engine.lock(f"l{turn}", 1.0)
        sizes.append(path.stat().st_size)
    assert engine.read_head().head == 200_000
    assert sizes[-1] <= 1.25 * sizes[299]
    assert Path(f"{path}-wal").stat().st_size <= 32 * 1024 * 1024
    counts = [query(path, f"SELECT count(*) FROM {table}")[0][0] for table in ("log", "mark", "entry", "lock")]
    assert counts == [1000, 2000, 500, 0]
    kept = query(path, "SELECT marks, entries, bytes FROM cache")
    assert kept == [(2000, 500, 500 * 200)]
    now += 1000.0
    for _ in range(2000):
        engine.delete(("nothing",))  # any write sweeps
    counts = [query(path, f"SELECT count(*) FROM {table}")[0][0] for table in ("mark", "entry", "lock")]
    assert counts == [0, 0, 0]
    assert query(path, "SELECT marks, entries, bytes FROM cache") == [(0, 0, 0)]


def test_h14_forgotten_marks_are_not_taken_for_never(make: Callable[..., SQLiteEngine]) -> None:
    """Beyond `marks_max` the oldest marks go, and the reply says from which position on it knows all."""
    now = 1000.0
    engine = make(marks_max=3, max_ttl_s=10.0, clock=lambda: now)
    for number in range(1, 6):
        now += 1.0
        engine.append((record(f"r{number}", f"s{number}"),))
    reply = engine.read_marks(("s1", "s2", "s3", "s4", "s5"))
    assert reply.upto == 5
    missing = [number for number in range(1, 6) if f"s{number}" not in reply.marks]
    assert missing == [1, 2]
    assert reply.start == 3


def test_h35_marks_outlive_the_entries_of_every_process(make: Callable[..., SQLiteEngine]) -> None:
    """A process with a short `max_ttl` keeps its marks for those with a longer one."""
    now = 1000.0
    patient = make(max_ttl_s=1000.0, clock=lambda: now)
    hasty = make(max_ttl_s=10.0, clock=lambda: now)
    identity = patient.read_head()
    poll(patient, identity, 0)
    hasty.append((record("a"),))
    now += 1999.0
    assert hasty.read_marks(("scope",)).marks == {"scope": 1}
    now += 3.0
    assert hasty.read_marks(("scope",)).marks == {}


def test_a_damaged_mark_or_record_ends_everything(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """What cannot be read is taken for an invalidation, never for none."""
    engine = make()
    engine.append((record("a", "x", soft=True), record("b", "y"), record("c", "z")))
    query(path, "UPDATE mark SET mark = x'c1' WHERE scope = 'x'")
    query(path, "UPDATE log SET data = x'c1' WHERE position = 2")
    marks = engine.read_marks(("x",)).marks
    assert judge(marks, ("x",), 2, "key", None).name == "DEAD"
    batch = poll(engine, engine.read_head(), 0)
    assert [logged.record.scopes for logged in batch.records] == [("x",), ("*",), ("z",)]
    engine.append((record("d", "x", soft=True),))
    assert judge(engine.read_marks(("x",)).marks, ("x",), 2, "key", None).name == "DEAD"


# Members ----------------------------------------------------------------------------------------------------------


def test_h36_a_poll_puts_back_a_member_that_was_lost(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """A member whose row vanishes while it waits is on the list again before it gets the head that renews its lease."""
    engine = make()
    identity = engine.read_head()
    poll(engine, identity, 0)
    answers: list[Batch] = []
    thread = threading.Thread(target=lambda: answers.append(poll(engine, identity, 0, DEADLINE_S)))
    thread.start()
    assert query(path, "DELETE FROM member") == []
    engine.append((record("a"),))
    thread.join(DEADLINE_S)
    assert answers[0].identity.head == 1
    assert [member.node for member in engine.read_members().members] == ["test"]


def test_a_membership_is_written_only_when_it_must_be(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """Polls write nothing, unless half of a member's life is over, or its progress is old, or waited for."""
    now = 1000.0
    engine = make(clock=lambda: now)
    identity = engine.read_head()
    engine.append(tuple(record(f"r{number}") for number in range(9)))

    def written(applied: int, *, urgent: bool = False) -> bool:
        with contextlib.closing(sqlite3.connect(path)) as db:
            before = db.execute("PRAGMA data_version").fetchone()
            engine.poll(follower(identity, applied, urgent=urgent), 9, 10, 0.0)
            changed: bool = db.execute("PRAGMA data_version").fetchone() != before
            return changed

    assert written(1)  # it was not there
    assert not written(1, urgent=True)
    now += 0.4
    assert not written(2)
    assert written(2, urgent=True)  # somebody waits for it
    now += 0.6
    assert written(3)  # a quarter of its bound has passed since it told
    now += 3.9
    assert not written(3)
    now += 0.2
    assert written(3)  # half of its life is over
    assert [member.applied for member in engine.read_members().members] == [3]


# Threads, names -----------------------------------------------------------------------------------------------------


def test_many_short_lived_threads_share_few_connections(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """Two hundred threads that come and go read and write correctly, and leave no connection behind."""
    engine = make()
    engine.store((Item("key", b"value", 100.0),))
    failures: list[object] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                engine.append((record(f"{number}-{turn}", f"s{number}"),))
                found = engine.fetch(("key",))[0]
                assert found is not None
                assert found.data == b"value"
                assert engine.read_marks((f"s{number}",)).marks
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=work, args=(random.randrange(10**9),)) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert failures == []
    assert engine.read_head().head == 1000
    life = engine._database.pool._life
    assert life is not None
    assert len(life.readers) <= 32
    assert len(life.writers) == 1
    assert engine._database.pool._busy == 0
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        links = [str(descriptor.resolve()) for descriptor in descriptors.iterdir()]
        assert sum(link.startswith(str(path)) for link in links) <= 2 * 33 + 1


def test_caches_of_two_names_share_a_file(make: Callable[..., SQLiteEngine]) -> None:
    """Each name has its own log, marks, entries, members and locks."""
    one, other = make(name="one"), make(name="other")
    one.append((record("a", "s"),))
    one.store((Item("key", b"one", 10.0),))
    assert one.lock("key", 10.0) is not None
    poll(one, one.read_head(), 1)
    assert other.read_head().generation != one.read_head().generation
    assert other.read_head().head == 0
    assert other.fetch(("key",)) == (None,)
    assert other.read_marks(("s",)).marks == {}
    assert other.read_members().members == ()
    assert other.lock("key", 10.0) is not None
    assert other.append((record("a", "s"),)).records[0].position == 1


# A fresh file ---------------------------------------------------------------------------------------------------------


def test_h12_another_life_of_the_machine_is_a_new_generation(make: Callable[..., SQLiteEngine]) -> None:
    """After a restart of the machine nothing from before is served: clocks began anew, and commits may be lost."""
    before = make(boot="one")
    identity = before.append((record("a"),)).identity
    before.store((Item("key", b"old", 1e6),))
    before.close()
    same = make(boot="one")
    assert same.read_head() == identity
    same.close()
    after = make(boot="two")
    assert after.read_head().generation != identity.generation
    assert after.fetch(("key",)) == (None,)
    assert after.read_marks(("scope",)).marks == {}


def test_h12_a_lock_in_a_deleted_file_is_not_granted(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """Tokens grow on in the file that takes the place of a deleted one."""
    engine = make()
    first = engine.lock("key", 100.0)
    path.unlink()
    second = engine.lock("key", 100.0)
    assert first is not None
    assert second is not None
    assert second > first


# What is not a file of ours -----------------------------------------------------------------------------------------


def test_a_full_file_keeps_what_it_has(
    path: Path, make: Callable[..., SQLiteEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the database may not grow, writes are refused as a whole, reads go on, and what expires makes room again."""
    now = 1000.0
    monkeypatch.setattr(sqlite_open, "PRAGMAS", (*sqlite_open.PRAGMAS, "PRAGMA max_page_count = 60"))
    engine = make(clock=lambda: now)
    engine.store((Item("key", b"x" * 50_000, 10.0),))
    kept = []
    with pytest.raises(FullError) as caught:  # noqa: PT012 - until it is full
        for number in range(10_000):
            engine.append((record(f"{number}-0", f"s{number}"), record(f"{number}-1", "t" * 1000)))
            kept += [f"{number}-0", f"{number}-1"]
    assert "space" in caught.value.hint
    assert [name for (name,) in query(path, "SELECT id FROM log ORDER BY position")] == kept
    assert engine.fetch(("key",))[0] is not None
    now += 20.0
    for _ in range(8):
        engine.delete(("nothing",))  # an ordinary write sweeps
    engine.append((record("after"),))
    assert engine.read_head().head == len(kept) + 1


def test_what_is_not_ours_is_left_alone(path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """A text, a database of another program and one of another version are refused with a hint, and not touched."""
    text = b"These are my notes, not a database. " * 200
    path.write_bytes(text)
    with pytest.raises(CorruptError, match="not a database"):
        make().read_head()
    assert path.read_bytes() == text
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE cache (id, name)")
    foreign = path.read_bytes()
    with pytest.raises(CorruptError, match="another program") as caught:
        make().append((record("a"),))
    assert caught.value.hint
    assert path.read_bytes() == foreign
    path.unlink()
    make().read_head()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
        assert db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    with pytest.raises(CorruptError, match="another version"):
        make().read_head()


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_file_at_rest_is_refused(path: Path, make: Callable[..., SQLiteEngine], damage: str) -> None:
    """A file that was damaged while nobody had it open is an error with a hint; deleted, it begins anew."""
    engine = make()
    engine.append((record("a"),))
    engine.store((Item("key", b"x" * 20_000, 100.0),))
    engine.close()
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    engine = make()
    for _ in range(2):
        with pytest.raises(CorruptError) as caught:
            engine.append((record("b"),))
        assert "delete" in caught.value.hint
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert engine.append((record("b"),)).records[0].position == 1


def test_where_no_file_can_be(tmp_path: Path, make: Callable[..., SQLiteEngine]) -> None:
    """A missing directory, a directory in place of the file and a closed engine are told apart from a miss."""
    for place in (tmp_path / "missing" / "cache", tmp_path):
        with pytest.raises(UnavailableError) as caught:
            make(place).fetch(("key",))
        assert "directory" in caught.value.hint
    for unfit in ("", ":memory:", "file:cache?mode=memory"):
        with pytest.raises(EngineUrlError):
            SQLiteEngine(unfit)
    engine = make()
    engine.close()
    engine.close()
    with pytest.raises(UnavailableError, match="closed"):
        engine.read_head()
