from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import unstale
from tests.support.stage import Stage
from unstale import Cache
from unstale.core.table import Cell
from unstale.errors import ClosedError

READERS = 8
CHANGES = 1500


@pytest.fixture
def make() -> Iterator[Callable[..., Stage]]:
    """Make nodes whose time and tail stand still."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(contextlib.closing(Stage(**settings)))


@pytest.fixture
def stage(make: Callable[..., Stage]) -> Stage:
    """Give one."""
    return make()


Form = tuple[Any, Callable[[int], tuple[Any, ...]]]


def forms(stage: Stage) -> list[Form]:
    """Give functions with a hit path of each form, and how each is called for a number."""
    cached = stage.cache.cached

    @cached("one:{x}", stale_if_error="1h")
    def one(x: int) -> int:
        return stage.loaded(x)

    @cached("later:{x}", stale_if_error="1h")
    async def later(x: int) -> int:
        return stage.loaded(x)

    @cached("two:{x}:{y}", stale_if_error="1h")
    def two(x: int, y: str) -> int:
        return stage.loaded(x, y)

    class Shop:
        @cached("method:{x}", stale_if_error="1h")
        async def method(self, x: int) -> int:
            return stage.loaded(x)

    single: Callable[[int], tuple[Any, ...]] = lambda x: (x,)  # noqa: E731 - shorter than a function
    return [(one, single), (later, single), (two, lambda x: (x, "y")), (Shop().method, single)]


def test_whatever_ends_an_entry_ends_its_hits(stage: Stage) -> None:
    """Records by key, namespace, of everything, soft or of a version, from here or there: the next call is no hit."""
    for function, args in forms(stage):
        key = function.key(*args(1))
        namespace = key.partition(":")[0]
        for end in (
            lambda key=key: stage.cache.invalidate(key),
            lambda namespace=namespace: stage.cache.invalidate(namespace),
            lambda: stage.cache.invalidate("*"),
            lambda key=key: stage.cache.invalidate(key, version=7),
            lambda key=key: stage.hear_of(key),
            lambda key=key: stage.hear_of(key, soft=True),
            lambda function=function, args=args: stage.call(function.invalidate, *args(1)),
            lambda function=function, args=args: stage.call(function.refresh, *args(1)),
            lambda key=key: stage.cache.delete(key, type=int),
            lambda key=key: stage.cache.set(key, 7, type=int),
        ):
            stage.call(function, *args(1))
            stage.call(function, *args(1))
            assert stage.source(function, *args(1)) == "hit"
            end()
            assert stage.source(function, *args(1)) != "hit"


def test_neighbours_keep_their_hits(stage: Stage) -> None:
    """What ends one entry leaves the hits of others alone."""
    for function, args in forms(stage):
        for x in (1, 2):
            stage.call(function, *args(x))
        stage.call(function.invalidate, *args(1))
        assert [stage.source(function, *args(x)) for x in (2, 1)] == ["hit", "load"]


def test_the_end_of_a_life_ends_its_hits(stage: Stage) -> None:
    """An entry whose life is over is no hit, although it is still there to be served stale."""
    for function, args in forms(stage):
        stage.call(function, *args(1))
        assert stage.source(function, *args(1)) == "hit"
        stage.clock.advance("1h")
        stage.hear()
        assert stage.source(function, *args(1)) != "hit"


def test_h27_an_evicted_entry_leaves_no_alias(make: Callable[..., Stage]) -> None:
    """The names by which entries are found are bounded as the entries are, and lead to resident entries alone."""
    stage = make(entries_max=10)
    for function, args in forms(stage):
        for x in range(100):
            stage.call(function, *args(x))
        assert [stage.source(function, *args(x)) for x in (99, 0, 0)] == ["hit", "store", "hit"]
    cells = stage.cache.node.table.cells
    assert len(cells) == 10
    for cell in cells.values():
        assert cell.aliases[cell.alias] is cell
    tables = {id(cell.aliases): cell.aliases for cell in cells.values()}
    assert sum(map(len, tables.values())) == 10


def test_a_hit_keeps_its_entry(make: Callable[..., Stage]) -> None:
    """What is hit between the coming of others stays resident: a hit sets the bit that eviction looks at."""
    stage = make(entries_max=10)
    for function, args in forms(stage):
        stage.call(function, *args(0))
        for x in range(1, 50):
            assert stage.source(function, *args(0)) == "hit"
            stage.call(function, *args(x))


def test_a_failure_is_no_hit(stage: Stage) -> None:
    """A failure that is remembered is raised again, and never given as a value."""

    @stage.cache.cached("k:{x}", not_found=(LookupError,))
    def one(x: int) -> int:
        stage.loaded(x)
        raise LookupError(x)

    for _ in range(3):
        with pytest.raises(LookupError):
            one(1)
    assert stage.loads == [1]


def test_h12_a_discontinuity_ends_all_hits(stage: Stage) -> None:
    """When the log begins anew, nothing of before is a hit."""
    functions = forms(stage)
    for function, args in functions:
        stage.call(function, *args(1))
    stage.engine.server.begin("another generation")
    node = stage.cache.node
    node.reset(stage.engine.read_head(), stage.clock())
    assert [stage.source(function, *args(1)) for function, args in functions] == ["load"] * 4


def test_a_closed_cache_has_no_hits(stage: Stage) -> None:
    """After its close a cached function raises, although its entry was resident."""
    functions = forms(stage)
    for function, args in functions:
        stage.call(function, *args(1))
    stage.close()
    for function, args in functions:
        with pytest.raises(ClosedError):
            stage.call(function, *args(1))


def test_a_disabled_cache_has_no_hits(stage: Stage) -> None:
    """While a cache is disabled no call is a hit, nor is the first one after it."""
    for function, args in forms(stage):
        stage.call(function, *args(1))
        with unstale.testing.disabled(stage.cache):
            assert [stage.source(function, *args(1)) for _ in range(2)] == ["load", "load"]
        assert [stage.source(function, *args(1)) for _ in range(2)] == ["store", "hit"]


# Who looks on -------------------------------------------------------------------------------------------------------


def test_hits_are_observed(stage: Stage) -> None:
    """Inside `observe` a resident entry is told as any read is, however its function is called."""
    for function, args in forms(stage):
        stage.call(function, *args(1))
        with unstale.observe() as reads:
            assert [stage.source(function, *args(1)) for _ in range(2)] == ["l1", "l1"]
        assert [read.source for read in reads] == ["l1", "l1"]
        assert {read.key for read in reads} == {function.key(*args(1))}
        assert stage.source(function, *args(1)) == "hit"


def test_what_is_made_of_hits_depends_on_them(stage: Stage) -> None:
    """A load that reads resident entries inherits their scopes."""
    for number, (function, args) in enumerate(forms(stage)):
        stage.call(function, *args(1))

        def load(function: Any = function, args: Any = args) -> list[int]:
            return [stage.call(function, *args(1)) for _ in range(2)]

        key = f"whole:{number}"
        assert stage.cache.get_or_load(key, load) == [1, 1]
        stage.cache.invalidate(function.key(*args(1)))
        assert stage.cache.get(key) is None


# Threads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _restless() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Hammer:
    """Many threads read while one commits and invalidates: none may see what was over before its read began."""

    def __init__(self) -> None:
        self.committed = 0
        self.ended = 0
        self.over = False
        self.reads = 0
        self.late: list[tuple[int, int]] = []

    def load(self) -> int:
        """Load what is committed."""
        return self.committed

    def read(self, call: Callable[[], int]) -> None:
        """Read until it is over: no value is older than the last invalidation that had returned when the read began."""
        for number in itertools.count():
            due = self.ended
            found = call()
            if found < due:
                self.late.append((found, due))
            if self.over:
                self.reads += number
                return

    async def read_later(self, call: Callable[[], Any]) -> None:
        """Read until it is over, as a coroutine does."""
        for number in itertools.count():
            due = self.ended
            found = await call()
            if found < due:
                self.late.append((found, due))
            if self.over:
                self.reads += number
                return

    def strike(self, readers: list[Callable[[], None]], end: Callable[[int], object], changes: int) -> None:
        """Run readers against a writer of so many changes."""
        threads = [threading.Thread(target=reader) for reader in readers]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, changes + 1):
                self.committed = number
                end(number)
                self.ended = number
        finally:
            self.over = True
            for thread in threads:
                thread.join()


@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize("ending", ["key", "tag", "everything", "soft", "write"])
def test_h03_h05_no_thread_reads_what_was_over_before(ending: str) -> None:
    """Eight threads read while another invalidates: no read is older than what had returned before it began."""
    hammer = Hammer()
    with Cache(f"memory://{uuid.uuid4()}") as cache:

        @cache.cached("a:{x}", tags=["t"])
        def one(x: int) -> int:
            return hammer.load() * x

        @cache.cached("b:{x}:{y}", tags=["t"])
        def two(x: int, y: int) -> int:
            return hammer.load() * x * y

        @cache.cached("c:{x}", tags=["t"])
        async def later(x: int) -> int:
            return hammer.load() * x

        @cache.cached("d", tags=["t"])
        def none() -> int:
            return hammer.load()

        def write(key: str, number: int) -> None:
            cache.set(key, number, type=int)

        ends: dict[str, Callable[[int], object]] = {
            "key": lambda _number: cache.invalidate("a:1", "b:1:1", "c:1", "d"),
            "tag": lambda _number: cache.invalidate("t"),
            "everything": lambda _number: cache.invalidate("*"),
            "soft": lambda _number: cache.invalidate("t", soft=True),
            "write": lambda number: list(map(write, ("a:1", "b:1:1", "c:1", "d"), [number] * 4)),
        }
        readers: list[Callable[[], None]] = [
            lambda: hammer.read(lambda: one(1)),
            lambda: hammer.read(lambda: two(1, 1)),
            lambda: asyncio.run(hammer.read_later(lambda: later(1))),
            lambda: hammer.read(none),
        ] * (READERS // 4)
        hammer.strike(readers, ends[ending], CHANGES // 5 if ending == "write" else CHANGES)
        assert hammer.late == []
        assert hammer.reads > READERS


def test_hammering_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that forgets to take back the name of an entry that has ended is found out by reading once."""
    hammer = Hammer()
    with Cache(f"memory://{uuid.uuid4()}") as cache:

        @cache.cached("a:{x}")
        def one(x: int) -> int:
            return hammer.load() * x

        assert one(1) == 0
        hammer.committed = 1
        cell: Cell = cache.node.table.cells["a:1"]
        kept = dict(cell.aliases)
        cache.invalidate("a:1")
        cell.aliases.update(kept)
        hammer.ended, hammer.over = 1, True
        hammer.read(lambda: one(1))
    assert hammer.late == [(0, 1)]
