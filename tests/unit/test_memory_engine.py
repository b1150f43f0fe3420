from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.waiting import DEADLINE_S, until
from unstale.core.ops import Batch, Item, Member
from unstale.core.record import Record
from unstale.engines import memory
from unstale.engines.memory import MEMBER_LIFE, SWEEP, MemoryEngine, MemoryServer


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def item(key: str, size: int = 1, ttl_s: float = 60.0) -> Item:
    """Give an item."""
    return Item(key, b"x" * size, ttl_s)


def test_h12_a_new_generation_begins_empty() -> None:
    """A wiped log has no records, marks, members or covered range; entries stay, and their stamps tell them apart."""
    clock = Clock()
    server = MemoryServer(clock, "g1")
    server.append((Record("r1", ("a",)),))
    server.extend_marks("f", 1, 2, {"b": 2})
    server.renew(Member("n", "g1", 1, 9.0, about=b"told"))
    assert server.read_about(("n", "m")) == (b"told", b"")
    server.store((item("k"),))
    clock.now += 7.0
    server.begin("g2")
    assert server.identity().generation == "g2"
    assert (server.identity().head, server.identity().head_id) == (0, "")
    assert server.after(0, 9).records == ()
    assert server.read_marks(("a", "b")).marks == {}
    assert server.read_marks(("b",), own=False).upto < server.read_marks(("b",), own=False).start
    members = server.read_members()
    assert (members.members, members.age_s, members.bound_s) == ((), 0.0, 0.0)
    assert server.read_about(("n",)) == (b"",)
    assert server.fetch(("k",)) != (None,)
    (logged,) = server.append((Record("r1", ("a",)),)).records
    assert (logged.position, logged.prev) == (1, "")


def test_h11_a_deposed_server_proves_nothing() -> None:
    """What the simulator says of the server travels with every answer: leadership, and certainty of the marks."""
    server = MemoryServer(Clock(), "g")
    server.proven = server.certain = False
    assert not server.identity().proven
    assert not server.append(()).identity.proven
    assert not server.after(0, 1).identity.proven
    assert not server.read_members().identity.proven
    assert (server.read_marks(("a",)).identity.proven, server.read_marks(("a",)).certain) == (False, False)
    assert not server.read_marks(("a",), own=False).certain


def test_a_log_whose_store_is_elsewhere_raises_no_marks() -> None:
    """As the log of a two-engine cache it leaves the marks to the nodes."""
    server = MemoryServer(Clock(), "g")
    server.append((Record("r", ("a",)),), marks=False)
    assert server.read_marks(("a",)).marks == {}
    assert server.identity().head == 1


def test_h27_the_log_is_bounded() -> None:
    """Records beyond the limit are forgotten, their ids too; positions go on."""
    server = MemoryServer(Clock(), "g", records_max=3)
    for number in range(10):
        server.append((Record(f"r{number}", ("a",)),))
        assert len(server.log) == len(server.ids) <= 3
    assert [logged.position for logged in server.after(0, 9).records] == [8, 9, 10]
    assert server.append((Record("r0", ("a",)),)).records[0].position == 11  # so long ago that it is new again


def test_h27_entries_are_bounded_by_number() -> None:
    """Beyond the limit the oldest writes go first, also when many come at once."""
    server = MemoryServer(Clock(), "g", entries_max=5)
    for number in range(20):
        server.store((item(f"k{number}"),))
        assert len(server.entries) <= 5
    assert list(server.entries) == [f"k{number}" for number in range(15, 20)]
    server.store((item("k15"), item("k99")))
    assert list(server.entries) == ["k17", "k18", "k19", "k15", "k99"]
    server.store(tuple(item(f"m{number}") for number in range(50)))
    assert list(server.entries) == [f"m{number}" for number in range(45, 50)]


def test_h27_entries_are_bounded_by_bytes() -> None:
    """Beyond the limit of bytes the oldest writes go first, as many as it takes; what is too large goes itself."""
    server = MemoryServer(Clock(), "g", bytes_max=100)
    server.store(tuple(item(f"k{number}", 10) for number in range(10)))
    assert (len(server.entries), server.bytes) == (10, 100)
    server.store((item("large", 95),))
    assert (list(server.entries), server.bytes) == (["large"], 95)
    server.store((item("too large", 101),))
    assert (list(server.entries), server.bytes) == ([], 0)


def test_h27_expired_entries_are_swept() -> None:
    """Each write removes some of the oldest entries if they have expired."""
    clock = Clock()
    server = MemoryServer(clock, "g")
    server.store(tuple(item(f"k{number}", ttl_s=1.0) for number in range(SWEEP + 2)))
    clock.now += 2.0
    server.store((item("new"),))
    server.store((item("newer"),))
    assert list(server.entries) == ["new", "newer"]
    assert server.bytes == 2
    clock.now += 99.0
    server.store((item("gone", ttl_s=-1.0),))
    assert list(server.entries) == []


def test_h27_h35_expired_marks_are_swept() -> None:
    """Marks go when they have lived for twice the longest life of an entry, by appends and by extensions alike."""
    clock = Clock()
    server = MemoryServer(clock, "g", max_ttl_s=10.0)
    server.append(tuple(Record(f"r{number}", (f"s{number}",)) for number in range(SWEEP - 1)))
    clock.now += 19.9
    server.append((Record("late", ("late",)),))
    assert len(server.marks) == SWEEP
    clock.now += 0.2
    assert server.read_marks(("s0", "late")).marks == {"late": SWEEP}
    server.append((Record("later", ("later",)),))
    assert list(server.marks) == ["late", "later"]
    clock.now += 99.0
    server.extend_marks("g", 1, 1, {})
    assert list(server.marks) == []


def test_h27_locks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among very many locks those that have expired are forgotten, and no others."""
    clock = Clock()
    server = MemoryServer(clock, "g")
    monkeypatch.setattr(memory, "ENTRIES_MAX", 3)
    for number in range(4):
        assert server.lock(f"k{number}", 1.0 if number % 2 else 9.0) is not None
    clock.now += 2.0
    assert server.lock("k", 1.0) is not None
    assert set(server.locks) == {"k0", "k2", "k"}
    assert server.lock("k0", 1.0) is None


def test_h27_members_are_bounded() -> None:
    """Nodes that came and went are forgotten, also when nobody asks for the list."""
    clock = Clock()
    server = MemoryServer(clock, "g")
    for number in range(1000):
        server.renew(Member(f"n{number}", "g", 0, 1.0))
        clock.now += 1.0
    assert len(server.members) <= 2 * MEMBER_LIFE


def test_two_engines_on_one_server_exclude_one_another() -> None:
    """Several engines may share one server: its state is guarded by one lock."""
    server = MemoryServer(Clock(), "g")
    assert MemoryEngine(server)._waiting is MemoryEngine(server)._waiting


def test_a_poll_need_not_end_for_what_its_own_node_applies() -> None:
    """Its node appends, and it goes on waiting; the append of another ends it, and it gives both, in their order."""
    engine = MemoryEngine(MemoryServer(Clock(), "g"))
    polled: list[Batch] = []
    poll = threading.Thread(target=lambda: polled.append(engine.poll(Member("n", "g", 0, 2.0), 0, 9, DEADLINE_S)))
    poll.start()
    until(lambda: engine._waiting.nodes == ["n"])
    own = engine.append((Record("own", ("a",)),), "n")
    changed: Any = engine._waiting.changed
    assert len(changed._waiters) == 1  # who was woken waits no more, whether it has run since or not
    other = MemoryEngine(engine.server).append((Record("other", ("a",)),), "m")
    poll.join(DEADLINE_S)
    assert [batch.records for batch in polled] == [(*own.records, *other.records)]
    assert engine._waiting.nodes == []
