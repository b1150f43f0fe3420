from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import until
from unstale.engines import sqlite_wait, sqlite_watch
from unstale.engines.sqlite_pool import Pool
from unstale.engines.sqlite_wait import Version
from unstale.engines.sqlite_watch import Heard, Nap, Watch, listen

NEVER_S = 600.0
told = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Give the connections to a file that is open."""
    made = Pool(str(tmp_path / "shop.cache"), "this boot", lambda _db: 1, 5.0)
    made.give_back(*made.take())
    yield made
    made.close()


@pytest.fixture
def never_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who waits look at the file only when told."""
    for name in ("TICK_S", "QUIET_TICK_S", "TOLD_TICK_S", "PLACE_S"):
        monkeypatch.setattr(sqlite_wait, name, NEVER_S)
    monkeypatch.setattr(sqlite_wait, "SETTLE_S", 0.05)


def commit(pool: Pool) -> None:
    """Commit as another process does: by a connection that the pool knows nothing of."""
    with contextlib.closing(sqlite3.connect(pool.path)) as db:
        db.execute("UPDATE file SET token = token + 1")
        db.commit()


def version(pool: Pool) -> Version:
    """Give what is compared with."""
    found = pool.version()
    assert found is not None
    return found


@contextlib.contextmanager
def waiting(pool: Pool, seconds: float = NEVER_S) -> Iterator[threading.Thread]:
    """Wait in another thread, which listens already; it must have ended at the end of the block."""
    seen = version(pool)
    until_s = time.monotonic() + seconds
    thread = threading.Thread(target=pool.waiting.wait, args=(pool.waiting.changes, seen, until_s), daemon=True)
    thread.start()
    until(lambda: pool.waiting._waiting)
    yield thread
    thread.join(60.0)
    assert not thread.is_alive()


def descriptors() -> int:
    """Count the descriptors of this process that belong to watches."""
    count = 0
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += "inotify" in str(one.readlink()) or "eventfd" in str(one.readlink())
    return count


@told
@pytest.mark.usefixtures("never_look")
def test_a_commit_of_others_ends_a_wait_without_looking(pool: Pool) -> None:
    """Where the kernel tells of writes, who waits need not look for commits."""
    for _ in range(3):
        with waiting(pool):
            commit(pool)


@told
@pytest.mark.usefixtures("never_look")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_h12_a_deleted_file_ends_a_wait_without_looking(pool: Pool, suffix: str) -> None:
    """Each of the names is watched, although the file behind it is held open."""
    with waiting(pool):
        Path(f"{pool.path}{suffix}").unlink()


@pytest.mark.usefixtures("never_look")
@pytest.mark.parametrize("ear", [Watch, lambda _names: Nap()])
def test_who_waits_is_woken_by_its_own_process(
    pool: Pool, ear: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append of this process, and closing, end a wait at once."""
    if ear is Watch and sys.platform != "linux":
        pytest.skip("only Linux tells of writes")
    monkeypatch.setattr(sqlite_wait, "listen", ear)
    with waiting(pool), waiting(pool):
        pool.waiting.announce()
    with waiting(pool):
        pool.close()


@pytest.mark.parametrize("told_s", [0.004, 0.25])
def test_a_commit_that_nobody_tells_is_seen(pool: Pool, told_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that tells nothing of others' writes costs some milliseconds, and no commit."""
    monkeypatch.setattr(sqlite_watch, "EVENTS", sqlite_watch.IN_MOVE_SELF)
    monkeypatch.setattr(sqlite_wait, "TOLD_TICK_S", told_s)
    for _ in range(3):
        with waiting(pool):
            commit(pool)


@told
def test_an_ear_that_missed_a_commit_is_not_used_again(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After that the file is looked at as often as where nothing tells."""
    monkeypatch.setattr(sqlite_watch, "EVENTS", sqlite_watch.IN_MOVE_SELF)
    monkeypatch.setattr(sqlite_wait, "TOLD_TICK_S", sqlite_wait.TICK_S)  # no tick counts as too short to tell
    with waiting(pool):
        commit(pool)
    monkeypatch.setattr(sqlite_wait, "TOLD_TICK_S", NEVER_S)
    with waiting(pool):
        commit(pool)
    assert descriptors() == 0


@told
def test_without_instances_left_it_looks(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has a limited number of inotify instances; without one, the file is looked at."""

    def none_left(_names: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(sqlite_watch, "_inotify", none_left)
    with waiting(pool):
        commit(pool)


@told
def test_what_is_gone_cannot_be_watched(tmp_path: Path) -> None:
    """A file that was deleted before anybody listened lends no descriptor for ever."""
    before = descriptors()
    assert isinstance(listen([str(tmp_path / "none")]), Nap)
    assert descriptors() == before


@told
def test_h23_a_forked_child_keeps_no_ear_of_its_parent(pool: Pool) -> None:
    """It gives back what it inherited, and its parent goes on hearing."""
    with waiting(pool):
        assert descriptors() == 2
        child = os.fork()
        if not child:
            os._exit(descriptors())
        assert os.waitpid(child, 0)[1] == 0
        assert descriptors() == 2
        commit(pool)


@told
def test_h27_ears_are_shared_in_turn_and_given_back(pool: Pool) -> None:
    """One after the other uses the same; a new life of the file, and closing, give back the old ones."""
    for _ in range(10):
        with waiting(pool):
            commit(pool)
    assert descriptors() == 2
    with waiting(pool):
        Path(pool.path).unlink()
    assert pool.version() is None or not pool.intact(version(pool)[0])
    pool.give_back(*pool.take())
    with waiting(pool):
        commit(pool)
    assert descriptors() == 2
    pool.close()
    assert descriptors() == 0


@told
def test_a_wake_is_forgotten_before_the_next_wait(tmp_path: Path) -> None:
    """What woke one wait does not end the next."""
    file = tmp_path / "file"
    file.touch()
    for ear in (listen([str(file)]), Nap()):
        ear.forget()
        ear.wake()
        assert ear.wait(NEVER_S) is Heard.WOKEN
        ear.forget()
        assert ear.wait(0.01) is Heard.NOTHING
        ear.close()
        ear.close()
