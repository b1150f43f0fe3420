from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from unstale.core.record import EVERYTHING
from unstale.core.table import NO_ALIASES, Cell, Table

ENTRIES_MAX = 5
BYTES_MAX = 40
KEYS = ("a", "b", "c", "d", "e", "f", "g", "t")  # "t" is a key and a tag
SHARED = ((), ("t",), ("t", "u"), ("u", "v", "t"))  # entries of one function share their tuple
ALIASES = (1, True, 1.0, "a", (1, "a"))


def cell(key: str, scopes: tuple[str, ...] = (), *, size: int = 1, failed: bool = False) -> Cell:
    """Give an entry that is fresh until 10 and kept until 15."""
    return Cell(key, "s", scopes, key, position=1, deadline=8.0, fresh_until=10.0, until=15.0, size=size, failed=failed)


class Name(NamedTuple):
    """The name that a cached function has for an entry."""

    function: int
    alias: object


class S3Fifo:
    """S3-FIFO with one bit, on lists: oldest first."""

    def __init__(self) -> None:
        self.small: list[str] = []
        self.main: list[str] = []
        self.visited: set[str] = set()
        self.ghosts: list[str] = []

    def insert(self, key: str) -> None:
        known = key in self.ghosts
        if known:
            self.ghosts.remove(key)
        (self.main if known else self.small).append(key)

    def remove(self, key: str) -> None:
        (self.small if key in self.small else self.main).remove(key)
        self.visited.discard(key)

    def evict(self) -> str:
        while True:
            resident = len(self.small) + len(self.main)
            queue = self.small if self.small and (5 * len(self.small) >= resident or not self.main) else self.main
            key = queue[0]
            if key not in self.visited:
                break
            self.visited.discard(key)
            queue.remove(key)
            self.main.append(key)
        if queue is self.small:
            self.ghosts.append(key)
            if 2 * len(self.ghosts) > resident:
                del self.ghosts[: 1 + resident // 32]
        self.remove(key)
        return key

    def clear(self) -> None:
        self.small.clear()
        self.main.clear()
        self.visited.clear()


class TableMachine(RuleBasedStateMachine):
    """The table against plain dictionaries and a plain S3-FIFO."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(ENTRIES_MAX, BYTES_MAX)
        self.functions: list[dict[Any, Cell]] = [{}, {}]
        self.cells: dict[str, Cell] = {}
        self.names: dict[str, Name] = {}
        self.model = S3Fifo()
        self.evicted = 0

    def forget(self, key: str) -> None:
        del self.cells[key]
        self.names.pop(key, None)
        self.model.remove(key)

    def depending(self, scope: str) -> list[str]:
        return [key for key, one in self.cells.items() if scope in (EVERYTHING, key, *one.scopes)]

    @rule(
        key=st.sampled_from(KEYS),
        scopes=st.sampled_from(SHARED) | st.lists(st.sampled_from("tuv"), max_size=3).map(tuple),
        size=st.sampled_from([0, 1, 5, 12, 30, BYTES_MAX, BYTES_MAX + 1]),
        failed=st.booleans(),
    )
    def put(self, key: str, scopes: tuple[str, ...], size: int, *, failed: bool) -> None:
        new = cell(key, scopes if key not in scopes else ("u",), size=size, failed=failed)
        taken = self.table.put(new)
        if size > BYTES_MAX:
            if key in self.cells:
                self.forget(key)
        elif key in self.cells:
            self.cells[key] = new  # where the old one stood, with its bit
            self.names.pop(key, None)
            self.evict_down_to(BYTES_MAX)
        else:
            while len(self.cells) >= ENTRIES_MAX:
                self.evict()
            self.evict_down_to(BYTES_MAX - size)
            self.cells[key] = new
            self.model.insert(key)
        assert taken is (key in self.cells)

    def evict(self) -> None:
        victim = self.model.evict()
        del self.cells[victim]
        self.names.pop(victim, None)
        self.evicted += 1

    def evict_down_to(self, size: int) -> None:
        while sum(one.size for one in self.cells.values()) > size:
            self.evict()

    @precondition(lambda self: self.cells)
    @rule(data=st.data())
    def hit(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.cells)))
        self.table.cells[key].visited = True
        self.model.visited.add(key)

    @precondition(lambda self: self.cells)
    @rule(data=st.data(), function=st.integers(0, 1), alias=st.sampled_from(ALIASES))
    def name(self, data: st.DataObject, function: int, alias: object) -> None:
        key = data.draw(st.sampled_from(sorted(self.cells)))
        one = self.cells[key]
        for _ in range(2):  # a name that it has already changes nothing
            self.table.name(one, self.functions[function], alias, type(alias))
        if not one.failed:
            self.names = {k: n for k, n in self.names.items() if k != key and n != Name(function, alias)}
            self.names[key] = Name(function, alias)
            assert self.functions[function][alias].kind is type(alias)

    @rule(alias=st.sampled_from(ALIASES))
    def name_a_stranger(self, alias: object) -> None:
        self.table.name(cell("a"), self.functions[0], alias, type(alias))

    @precondition(lambda self: self.cells)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.cells)))
        self.table.drop(self.cells[key])
        self.forget(key)

    @precondition(lambda self: self.cells)
    @rule(data=st.data(), now=st.sampled_from([3.0, 12.0]))
    def soften(self, data: st.DataObject, now: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.cells)))
        self.table.soften(self.cells[key], now)
        self.names.pop(key, None)

    @rule(scope=st.sampled_from(["a", "b", "t", "t", "u", "u", "v", "nobody", EVERYTHING]))
    def end(self, scope: str) -> None:
        ended = self.depending(scope)
        assert self.table.end(scope) == len(ended)
        for key in ended:
            self.forget(key)

    @rule()
    def clear(self) -> None:
        assert self.table.clear() == len(self.cells)
        for key in list(self.cells):
            self.forget(key)

    @invariant()
    def the_same_entries_are_resident(self) -> None:
        assert self.table.cells == self.cells
        assert len(self.table) == len(self.cells)
        assert self.table.evicted == self.evicted

    @invariant()
    def h27_the_bounds_hold(self) -> None:
        assert len(self.table) <= ENTRIES_MAX
        assert self.table.bytes == sum(one.size for one in self.cells.values()) <= BYTES_MAX
        assert len(self.table) + len(self.table._ended) <= ENTRIES_MAX

    @invariant()
    def the_index_names_what_is_resident_and_else_only_what_is_noted_as_ended(self) -> None:
        index = {scope: {p} if isinstance(p, str) else set(p) for scope, p in self.table.dependents.items()}
        ended = self.table._ended
        assert self.cells.keys().isdisjoint(ended)
        assert all(index.values())
        for scope in index.keys() | {scope for one in self.cells.values() for scope in one.scopes}:
            resident = {key for key, one in self.cells.items() if scope in one.scopes}
            assert resident <= index[scope] <= resident | {key for key, scopes in ended.items() if scope in scopes}

    @invariant()
    def what_is_found_is_what_depends(self) -> None:
        for scope in ("a", "t", "u", "nobody", EVERYTHING):
            found = [one.key for one in self.table.find(scope)]
            assert sorted(found) == sorted(self.depending(scope))

    @invariant()
    def no_alias_dangles(self) -> None:
        for number, function in enumerate(self.functions):
            named = {name.alias: self.cells[key] for key, name in self.names.items() if name.function == number}
            assert function == named
        assert NO_ALIASES == {}

    @invariant()
    def the_links_are_in_the_order_of_arrival(self) -> None:
        for queue, model in ((self.table._small, self.model.small), (self.table._main, self.model.main)):
            older: Cell | None = None
            at = queue.oldest
            order = []
            while at is not None:
                assert at.older is older
                assert at.queue is queue
                order.append(at.key)
                older, at = at, at.newer
            assert queue.newest is older
            assert order == model
            assert queue.count == len(model)

    @invariant()
    def the_bits_and_the_ghosts_are_the_models(self) -> None:
        assert {key for key, one in self.table.cells.items() if one.visited} == self.model.visited
        assert list(self.table._ghosts) == [hash(key) for key in self.model.ghosts]


TableMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_h27_the_table_is_its_model = TableMachine.TestCase
