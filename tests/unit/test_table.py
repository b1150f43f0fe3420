from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest

from tests.unit.test_table_model import cell
from unstale.core.record import Version
from unstale.core.table import NO_ALIASES, Cell, Table


def test_a_new_cell_has_no_links_and_no_name() -> None:
    """A cell holds what it was made of, and belongs to no table yet."""
    made = Cell(
        "k", "s", ("t",), 1, position=7, deadline=1.0, fresh_until=2.0, until=3.0, size=9, version=Version(4),
        failed=True, soft=True,
    )  # fmt: skip
    assert (made.key, made.shape, made.scopes, made.value, made.position) == ("k", "s", ("t",), 1, 7)
    assert (made.deadline, made.fresh_until, made.until, made.size, made.version) == (1.0, 2.0, 3.0, 9, Version(4))
    assert (made.failed, made.soft) == (True, True)
    assert (made.visited, made.newer, made.older, made.aliases, made.alias, made.kind) == (
        False, None, None, NO_ALIASES, None, None,
    )  # fmt: skip


def test_a_table_without_places_takes_nothing() -> None:
    """With no entries, or no bytes, allowed, nothing becomes resident."""
    assert not Table(0).put(cell("a"))
    assert not Table(5, 0).put(cell("a"))
    assert Table(5, 1).put(cell("a"))


def test_an_entry_too_large_ends_the_one_it_was_to_replace() -> None:
    """What would have been replaced is not served any longer, although its successor finds no place."""
    table = Table(5, 10)
    table.put(cell("a", ("t",)))
    assert not table.put(cell("a", size=11))
    assert (table.cells, table.dependents, table.bytes) == ({}, {}, 0)


@pytest.mark.parametrize(("now", "fresh_until", "until"), [(4.0, 4.0, 9.0), (12.0, 10.0, 15.0)])
def test_h34_a_softened_entry_keeps_its_grace_from_now(now: float, fresh_until: float, until: float) -> None:
    """A soft record ends the life at once, and the grace follows it; a life that is over does not begin again."""
    table, one = Table(), cell("a")
    table.put(one)
    table.soften(one, now)
    table.soften(one, now + 1.0)  # a second one prolongs nothing
    assert (one.soft, one.deadline, one.fresh_until, one.until) == (True, -math.inf, fresh_until, until)


def test_h25_a_tag_ends_all_its_entries_and_no_others() -> None:
    """A scope ends the entries of several functions, whose other scopes know them no more."""
    table, products, offers = Table(), ("product", "catalog"), ("offer", "catalog", "shop")
    for number in range(20):
        table.put(cell(f"product:{number}", products))
        table.put(cell(f"offer:{number}", offers))
        table.put(cell(f"order:{number}", ("order", "shop")))
    assert table.end("catalog") == 40
    assert not [one for scope in ("product", "offer") for one in table.find(scope)]
    assert sorted(table.cells) == sorted(one.key for one in table.find("shop"))
    assert table.end("order:7") == 1
    assert table.end("shop") == 19
    assert (len(table), table.bytes, table.dependents) == (0, 0, {})


def test_h27_what_has_ended_is_taken_out_of_the_index_by_what_comes() -> None:
    """Ended entries are named by their other scopes until others come: one for one, and at once if none is resident."""
    table = Table()
    table.put(cell("other", ("o",)))
    for number in range(10):
        table.put(cell(str(number), ("t", f"row:{number}", "owner")))
    assert table.end("t") == 10
    assert table.end("row:3") == table.end("owner") == 0
    assert "row:4" in table.dependents
    table.put(cell("4"))  # one of them: it is taken out, and one more
    assert "row:4" not in table.dependents
    assert len(table._ended) == 8
    for number in range(8):
        table.put(cell(f"new {number}", ("o",)))
    assert (set(table.dependents), table._ended) == ({"o"}, {})
    table.put(cell("last", ("u", "v")))
    table.end("4")
    table.end("u")
    assert table.end("o") == 9
    assert (table.cells, table.dependents, table._ended) == ({}, {}, {})


def test_h27_an_entry_that_has_ended_keeps_no_value_alive() -> None:
    """What the index still names of an ended entry is its key, not its value."""

    class Value:
        pass

    table, value = Table(), Value()
    ended = weakref.ref(value)
    table.put(cell("other"))
    one = cell("a", ("t", "u"))
    one.value = value
    table.put(one)
    del one, value
    table.end("t")
    gc.collect()
    assert list(table._ended) == ["a"]
    assert ended() is None


@pytest.mark.parametrize("visited", [True, False])
def test_a_refreshed_entry_is_no_newcomer(visited: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """What replaces an entry stands where that one stood, in its queue, with its bit."""
    table = Table(10)
    for key in ("a", "b", "c"):
        table.put(cell(key))
    table.cells["b"].visited = visited
    table.put(cell("b", ("t",), size=3))
    order, at = [], table._small.oldest
    while at is not None:
        order.append(at.key)
        at = at.newer
    assert order == ["a", "b", "c"]
    assert (table.cells["b"].visited, table.bytes, table.dependents) == (visited, 5, {"t": "b"})


def test_a_hot_entry_stays_in_the_main_queue_when_it_is_refreshed() -> None:
    """A refresh neither sends an entry of the main queue back to the small one, nor lets it pass for one just hit."""
    table = Table(5)
    table.put(cell("hot"))
    table.cells["hot"].visited = True
    for number in range(10):
        table.put(cell(str(number)))
    assert table.cells["hot"].queue is table._main
    table.put(cell("hot"))
    refreshed = table.cells["hot"]
    assert refreshed.queue is table._main
    assert not refreshed.visited
    assert table._main.oldest is table._main.newest is refreshed


def test_an_entry_of_the_main_queue_that_was_hit_has_another_turn() -> None:
    """When the main queue has to give, the oldest goes that was not hit since its last turn."""
    table = Table(5, 10)
    for key in "abcde":
        table.put(cell(key))
        table.cells[key].visited = True
    table.put(cell("f"))  # the first five move to the main queue, and one of them goes
    table.end("f")
    table.cells["b"].visited = True
    table.put(cell("large", size=7))
    assert list(table.cells) == ["b", "d", "e", "large"]
    assert table._main.newest is table.cells["b"]


def test_a_refreshed_entry_that_has_grown_may_be_the_first_to_go() -> None:
    """An entry that no longer fits beside the others is evicted in its turn, be it its own."""
    table = Table(5, 10)
    table.put(cell("a", ("t",), size=5))
    table.put(cell("b", size=5))
    assert not table.put(cell("a", ("t",), size=6))
    assert (list(table.cells), table.bytes, table.dependents, table.evicted) == (["b"], 5, {}, 1)


def test_an_entry_is_shown_without_its_neighbours() -> None:
    """What a debugger prints of one entry is not the whole queue."""
    table = Table()
    for number in range(5000):
        table.put(cell(f"k{number}"))
    assert repr(table.cells["k7"]) == "Cell('k7')"


def test_a_name_for_each_of_1_and_true() -> None:
    """1 and True are one key of a dictionary and two entries: the later call has the place, with its type."""
    table, function = Table(), dict[Any, Cell]()
    one, true = cell("f:1"), cell("f:True")
    table.put(one)
    table.put(true)
    table.name(one, function, 1, int)
    table.name(true, function, True, bool)  # noqa: FBT003 - the point of this test
    assert (function, true.kind) == ({True: true}, bool)
    table.drop(one)
    assert function == {True: true}
    table.name(true, function, 1, int)
    assert (function, true.kind) == ({1: true}, int)


def test_names_that_a_function_has_dropped_itself_are_no_trouble() -> None:
    """A function may empty its own names at any time."""
    table, function, one = Table(), dict[Any, Cell](), cell("a")
    table.put(one)
    table.name(one, function, 1, int)
    function.clear()
    table.soften(one, 0.0)
    table.name(one, function, 1, int)
    function.clear()
    table.drop(one)
    assert (function, table.cells) == ({}, {})


def test_an_empty_table_has_nothing_to_evict() -> None:
    """Evicting from an empty table is harmless."""
    table = Table()
    table._evict()
    assert (len(table), table.evicted) == (0, 0)


def test_h27_an_entry_that_is_gone_keeps_no_other_alive() -> None:
    """A reader that holds on to an entry does not hold on to all that was evicted after it."""
    table = Table(2)
    held = cell("held")
    table.put(held)
    for number in range(5):
        table.put(cell(str(number)))
    assert held.key not in table.cells
    assert not [other for other in gc.get_referents(held) if isinstance(other, Cell)]


def test_h27_one_hit_wonders_do_not_push_out_what_is_used() -> None:
    """An entry that is hit again and again stays, however many others pass by."""
    table = Table(3)
    used = cell("used")
    table.put(used)
    for number in range(100):
        table.cells["used"].visited = True
        table.put(cell(str(number)))
        assert table.cells["used"] is used
    assert (len(table), table.evicted) == (3, 98)
