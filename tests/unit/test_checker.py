"""The harness's own judgement: on histories made by hand, and on caches that are coherent or broken on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.cli.checker import (
    NEVER,
    Delay,
    ImpossibleReadError,
    ReadLog,
    Staleness,
    WriteLog,
    delay_percentile,
    ends,
    find_delays,
    find_stale,
    percentile,
)

Read = tuple[int, int, float]
Write = tuple[int, int, float]


def reads(*lines: Read, process: str = "reader") -> ReadLog:
    """Make a log of (object, version, begin)."""
    columns: list[list[float]] = [list(column) for column in zip(*lines, strict=True)] if lines else [[], [], []]
    return ReadLog(process, *columns)  # type: ignore[arg-type]


def writes(*lines: Write, process: str = "writer", late_s: float = 0.0) -> WriteLog:
    """Make a log of (object, version, committed); the announcement comes `late_s` seconds later."""
    columns: list[list[float]] = [list(column) for column in zip(*lines, strict=True)] if lines else [[], [], []]
    objects, versions, committed = columns
    announced = [moment + late_s for moment in committed]
    return WriteLog(process, [int(one) for one in objects], [int(one) for one in versions], committed, announced)


def stale(read: ReadLog, write: WriteLog, bound_s: float = math.inf) -> Staleness:
    """Judge one reader and one writer."""
    return find_stale([read], [write], bound_s)


def test_read_of_the_newest_version_is_not_stale() -> None:
    """What serves the newest committed version is fresh, and so is what serves one whose record is not written yet."""
    found = stale(reads((7, 1, 1.0), (7, 2, 3.0)), writes((7, 2, 2.0)))
    assert (found.reads, found.stale, found.oldest_s) == (2, 0, 0.0)


def test_read_of_a_replaced_version_is_stale() -> None:
    """What serves an older version than one committed before its begin is stale, by the time since that commit."""
    found = stale(reads((7, 1, 2.5)), writes((7, 2, 2.0), (7, 3, 2.25)))
    assert (found.stale, found.oldest_s) == (1, 0.5)
    assert list(found.times) == [2.5]


@pytest.mark.parametrize(("begin", "count"), [(1.999, 0), (2.0, 1), (2.001, 1)])
def test_boundary_is_the_begin_of_the_read(begin: float, count: int) -> None:
    """What began before the commit had returned may serve either version; from that moment on, only the new one."""
    assert stale(reads((7, 1, begin)), writes((7, 2, 2.0))).stale == count


def test_newer_version_ends_what_was_not_written_down_in_time() -> None:
    """A writer held up between its commit and its clock does not hide that a later version was there already."""
    found = stale(reads((7, 1, 2.5)), writes((7, 2, 9.0), (7, 3, 2.0)))
    assert (found.stale, found.oldest_s) == (1, 0.5)


def test_objects_do_not_mix() -> None:
    """A change of one object says nothing of another, or of one that never changes."""
    assert stale(reads((1, 1, 5.0), (2, 1, 5.0)), writes((3, 2, 1.0))).stale == 0


def test_going_back_is_stale() -> None:
    """Serving the new version once does not excuse the old one later, as after a late fill."""
    assert stale(reads((7, 1, 1.0), (7, 2, 3.0), (7, 1, 4.0)), writes((7, 2, 2.0))).stale == 1


def test_bound_counts_from_the_announcement() -> None:
    """Beyond the bound is what began longer after the announcement, not the commit, than was promised."""
    log = reads((7, 1, 3.0), (7, 1, 3.1), (7, 1, 3.3))
    found = stale(log, writes((7, 2, 2.0), late_s=0.2), bound_s=1.0)
    assert (found.stale, found.beyond) == (3, 1)
    assert found.oldest_s == pytest.approx(1.3)


def test_versions_out_of_nowhere_are_an_error() -> None:
    """A version that nobody committed means that the logs are incomplete: no verdict is given."""
    with pytest.raises(ImpossibleReadError, match="version 3 of object 7"):
        stale(reads((7, 3, 9.0)), writes((7, 2, 2.0)))


def test_logs_of_many_processes_are_one_history() -> None:
    """It does not matter who read and who wrote."""
    found = find_stale(
        [reads((1, 1, 3.0)), reads((1, 2, 3.0)), reads((2, 1, 3.0))],
        [writes((1, 2, 1.0)), writes((2, 2, 2.0))],
    )
    assert (found.reads, found.stale, found.oldest_s) == (3, 2, 2.0)


def test_ends_hold_the_first_later_commit() -> None:
    """For each version, the earliest moment at which any later one was there."""
    assert ends([writes((7, 2, 2.0), (7, 3, 5.0), (7, 4, 4.0))], "committed") == {7: [2.0, 2.0, 4.0, 4.0, NEVER]}


@given(
    st.lists(st.floats(0, 100), max_size=12), st.lists(st.tuples(st.integers(1, 13), st.floats(0, 100)), max_size=12)
)
def test_agrees_with_the_definition(moments: list[float], asked: list[tuple[int, float]]) -> None:
    """The quick check says the same as the definition, read by read."""
    log = writes(*((1, version, moment) for version, moment in enumerate(moments, start=2)))
    lines = [(1, version, begin) for version, begin in asked if version <= len(moments) + 1]
    expected = [
        begin - min(over)
        for _object, version, begin in lines
        if (over := [moment for later, moment in enumerate(moments, start=2) if later > version and moment <= begin])
    ]
    found = stale(reads(*lines), log)
    assert list(found.ages) == pytest.approx(expected)


# Caches, coherent and broken on purpose, in a small world with a clock of its own -----------------------------------


class World:
    """A truth, a clock that moves with every step, and the logs of what happens."""

    def __init__(self) -> None:
        self.now = 0.0
        self.version = 1
        self.cached: dict[str, int] = {}
        self.read_lines: list[Read] = []
        self.write_lines: list[Write] = []

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def change(self, invalidate: Callable[[], None]) -> None:
        self.version += 1
        self.write_lines.append((0, self.version, self.tick()))
        invalidate()

    def read(self, node: str) -> None:
        begin = self.tick()
        self.read_lines.append((0, self.cached.setdefault(node, self.version), begin))

    def late_fill(self, node: str, invalidate: Callable[[], None]) -> None:
        """A reader loads; a writer commits and invalidates; the reader stores what it has."""
        loaded = self.version
        self.change(invalidate)
        self.cached[node] = loaded

    def judged(self) -> Staleness:
        return stale(reads(*self.read_lines), writes(*self.write_lines))


def test_coherent_cache_passes() -> None:
    """A cache that forgets everywhere what changed serves nothing stale."""
    world = World()
    for _ in range(5):
        world.read("a")
        world.read("b")
        world.change(world.cached.clear)
    world.read("a")
    assert world.judged().stale == 0


def test_cache_without_invalidation_is_caught() -> None:
    """A cache that is not told of a change is caught with the first read after it."""
    world = World()
    world.read("a")
    world.change(lambda: None)
    world.read("a")
    world.read("a")
    assert (world.judged().stale, world.judged().oldest_s) == (2, 2.0)


def test_copy_in_another_process_is_caught() -> None:
    """An invalidation that reaches one process only leaves the other's copy, and that is seen."""
    world = World()
    world.read("a")
    world.read("b")
    world.change(lambda: world.cached.update(a=world.version))
    world.read("a")
    world.read("b")
    assert world.judged().stale == 1


def test_h03_late_fill_is_caught() -> None:
    """A reader that stores what it loaded before the commit, after the invalidation, is caught."""
    world = World()
    world.late_fill("a", world.cached.clear)
    world.read("a")
    assert world.judged().stale == 1


# Propagation --------------------------------------------------------------------------------------------------------


def steadily(*versions: int, start: float = 0.0, step: float = 0.001) -> list[Read]:
    """Make reads of object 1, one each millisecond."""
    return [(1, version, start + place * step) for place, version in enumerate(versions)]


def test_delay_is_from_the_commit_to_the_first_new_read() -> None:
    """The old version was read at 0, 1 and 2 ms, the new one at 3 ms; the commit was at 0.5 ms."""
    (delay,) = find_delays([reads(*steadily(1, 1, 1, 2))], [writes((1, 2, 0.0005))])
    assert (round(delay.seconds, 6), delay.reached) == (0.0025, True)


def test_delay_is_nothing_if_the_next_read_is_new() -> None:
    """Where the first read after the commit serves the new version, or a newer one, there was no delay."""
    assert find_delays([reads(*steadily(1, 2, 3))], [writes((1, 2, 0.0005))]) == [Delay(0.0)]
    assert find_delays([reads(*steadily(1, 3, 3))], [writes((1, 2, 0.0005))]) == [Delay(0.0)]


def test_pauses_between_reads_are_no_delay() -> None:
    """What is not read around the commit gives no sample; what is not read until the new version shows, half of one."""
    at = writes((1, 2, 1.0))
    assert find_delays([reads((1, 1, 0.5), (1, 2, 1.001))], [at]) == []
    assert find_delays([reads((1, 1, 0.999), (1, 2, 1.5))], [at]) == []
    (delay,) = find_delays([reads((1, 1, 0.999), (1, 1, 1.001), (1, 2, 1.5))], [at])
    assert (round(delay.seconds, 6), delay.reached) == (0.001, False)
    assert find_delays([reads((1, 1, 0.5))], [at]) == find_delays([reads((1, 2, 1.5))], [at]) == []
    assert find_delays([reads((2, 1, 0.999), (2, 1, 1.001))], [at]) == find_delays([reads()], [at]) == []


def test_delay_may_outlast_the_run() -> None:
    """A change that had not arrived at the end counts as longer than was seen."""
    (delay,) = find_delays([reads(*steadily(1, 1, 1, 1, 1))], [writes((1, 2, 0.0005))])
    assert (round(delay.seconds, 6), delay.reached) == (0.0035, False)


def test_own_changes_do_not_spread() -> None:
    """A process that makes a change is no other process."""
    assert find_delays([reads(*steadily(1, 2), process="one")], [writes((1, 2, 0.0005), process="one")]) == []


def test_percentiles() -> None:
    """The share of all values lies at or below the percentile; without values it is 0."""
    assert percentile([float(n) for n in range(100)], 0.5) == 50.0
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([], 0.5) == 0.0


def test_delay_percentiles_weigh_what_was_not_reached() -> None:
    """Without such values it is the plain percentile; with many of them, only a lower limit is known."""
    plain = [Delay(n / 100) for n in range(1, 101)]
    median, last = delay_percentile(plain, 0.5), delay_percentile(plain, 0.99)
    assert median is not None
    assert last is not None
    assert (median.seconds, last.seconds) == (0.5, 0.99)
    assert delay_percentile([], 0.5) is None
    assert delay_percentile([Delay(1.0, reached=False), Delay(3.0, reached=False)], 0.5) == Delay(3.0, reached=False)
    # Kaplan and Meier by hand: 1 of 4 arrived at 1 s; one was last seen at 2 s; of the 2 left, one arrived at 3 s.
    mixed = [Delay(1.0), Delay(2.0, reached=False), Delay(3.0), Delay(4.0, reached=False)]
    assert delay_percentile(mixed, 0.5) == Delay(3.0)
    assert delay_percentile(mixed, 0.9) == Delay(4.0, reached=False)
