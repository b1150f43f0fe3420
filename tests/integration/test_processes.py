from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import Process
from tests.support.waiting import until
from unstale.clock import boottime

pytestmark = pytest.mark.real

ROLES = Path(__file__).with_name("process_roles.py")
BOUND_S = 0.5
BOUND = f"{BOUND_S}s"
COLOURS = ("blocking", "asynchronous")

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start nodes upon one file and one source of truth; none outlives its test."""
    started: list[Process] = []
    (tmp_path / "truth").write_text("1")

    def one(role: str, *args: object) -> Process:
        started.append(Process(ROLES, role, *(args or (tmp_path / "shop.cache", tmp_path / "truth", BOUND))))
        return started[-1]

    yield one
    for process in started:
        process.end()


def last_begins(node: Process) -> dict[int, float]:
    """Give, for each version that a spinning node has served, the moment at which a read that saw it last began."""
    _reads, last = node.ask("seen")
    return {version: began for version, began in last}  # noqa: C416 - pairs, as JSON has them


def served(node: Process, version: int) -> None:
    """Wait until a spinning node has served a version."""
    until(lambda: version in last_begins(node))


def past(moment: float) -> None:
    """Wait until a moment is over."""
    until(lambda: boottime() > moment)


def spinning(node: Process, colour: str) -> None:
    """Let a node read all the time."""
    node.ask("spin", colour)
    until(lambda: node.ask("seen")[0] > 1000)


def stop(node: Process, file: Path) -> None:
    """Stop a node while it holds no lock of the file: nobody could write to that until the node goes on."""

    def stopped() -> bool:
        node.stop()
        try:
            with closing(sqlite3.connect(file, timeout=0.0, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
        except sqlite3.OperationalError:
            node.go_on()
            return False
        return True

    until(stopped)


@pytest.mark.parametrize("colour", COLOURS)
def test_h08_h22_the_first_read_after_a_stop_is_not_stale(start: Start, tmp_path: Path, colour: str) -> None:
    """A process that was stopped for longer than the bound serves nothing that changed meanwhile, when it wakes."""
    reader, writer = start("node"), start("node")
    spinning(reader, colour)
    for version in range(2, 8):
        stop(reader, tmp_path / "shop.cache")
        _ticket, acknowledged = writer.ask("write", version)
        past(acknowledged + BOUND_S * 1.1)
        reader.go_on()
        served(reader, version)
        assert last_begins(reader)[version - 1] < acknowledged + BOUND_S


@pytest.mark.parametrize("colour", COLOURS)
def test_h08_after_a_waiting_invalidation_no_process_serves_the_old(start: Start, colour: str) -> None:
    """No read that begins after a waiting invalidation has returned, in whatever process, sees the value of before."""
    readers, writer = [start("node"), start("node")], start("node")
    for reader in readers:
        spinning(reader, colour)
    returned: dict[int, float] = {}
    for version in range(2, 40):
        _ticket, returned[version] = writer.ask("write_and_wait", version)
    for reader in readers:
        served(reader, 39)
        last = last_begins(reader)
        late = {version: began for version, began in last.items() if began > returned.get(version + 1, began)}
        assert late == {}
        assert len(last) > 30, "they were all read"


def test_h36_a_stopped_process_is_waited_for(start: Start, tmp_path: Path) -> None:
    """While a process is stopped its lease may still hold: a waiting invalidation returns when it has lapsed."""
    reader, writer = start("node"), start("node")
    spinning(reader, "blocking")
    stop(reader, tmp_path / "shop.cache")
    _ticket, returned = writer.ask("write_and_wait", 2)
    reader.go_on()
    served(reader, 2)
    assert last_begins(reader)[1] < returned


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_h23_a_forked_child_follows_the_log_itself(start: Start, tmp_path: Path, how: str) -> None:
    """After a fork parent and child are two members, each with a tail of its own, and see each other's writes."""
    parent = start("forker", tmp_path / "shop.cache", tmp_path / "truth", BOUND, how)
    assert parent.ask("read") == parent.ask("child", "read") == 1
    us, it = parent.ask("about"), parent.ask("child", "about")
    assert us["node"] != it["node"]
    assert (us["tails"], it["tails"], it["generation"]) == (1, 1, us["generation"])
    until(lambda: parent.ask("about")["members"] == sorted((us["node"], it["node"])))
    for version in range(2, 12):
        ticket, _when = parent.ask("write", version)
        assert parent.ask("child", "after", ticket) == version
        parent.ask("write_and_wait", version * 100)
        assert parent.ask("child", "read") == version * 100
        ticket, _when = parent.ask("child", "write", version)
        assert parent.ask("after", ticket) == version
    ticket, _when = parent.ask("write", 1000)
    until(lambda: parent.ask("child", "read") == 1000)


def test_h25_a_herd_of_processes_loads_once(start: Start, tmp_path: Path) -> None:
    """Eight processes of 25 threads that miss one key at once load it once, and all get that value."""
    arrived, loaded = tmp_path / "arrived", tmp_path / "loaded"
    herd = [start("herd", tmp_path / "shop.cache", arrived, loaded, 25, 200) for _ in range(8)]
    assert [process.hear() for process in herd] == ["ready"] * 8
    for process in herd:
        process.tell("go")
    values = [value for process in herd for value in process.hear()]
    assert loaded.read_text() == "x"
    assert (len(values), len(set(values))) == (200, 1)


@pytest.mark.parametrize("names", [("",), ("", "-wal", "-shm"), ("-wal",), ("-shm",)])
def test_h12_a_file_deleted_under_two_caches(start: Start, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Whatever of the file is deleted under live caches, nothing of before is served, and both meet in a new one."""
    one, two = start("node"), start("node")
    version = 1
    for _ in range(3):
        assert one.ask("read") == two.ask("read") == version
        before = one.ask("about")["generation"]
        for name in names:
            (tmp_path / f"shop.cache{name}").unlink(missing_ok=True)
        version += 1
        one.ask("write_and_wait", version)
        assert two.ask("read") == version
        assert one.ask("read") == version
        version += 1
        two.ask("write_and_wait", version)
        assert one.ask("read") == version
        until(lambda: one.ask("about")["generation"] == two.ask("about")["generation"])
        assert two.ask("about")["generation"] != before
        assert len(two.ask("about")["members"]) == 2
        assert two.ask("read") == version
