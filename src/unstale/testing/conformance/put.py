"""The conformance of engines that append a record and put what it makes good in one atomic step."""

from __future__ import annotations

import unittest

from unstale.core.ops import Appended, Identity, Item
from unstale.core.record import Record, Stamp
from unstale.engines.ports import PutPort
from unstale.testing.conformance.suite import Suite, assert_chained, read_all, record


class PutTests(Suite):
    """Putting, where the engine says that it can."""

    def putting(self) -> PutPort:
        """Give the engine; a test of one that cannot put is skipped."""
        if not (isinstance(self.log, PutPort) and self.log.puts):
            raise unittest.SkipTest("this engine does not put")
        return self.log

    def after(self) -> Stamp:
        """Give the head of the log."""
        head = self.log.read_head()
        return Stamp(head.generation, head.head)

    def test_a_put_appends_and_stores(self) -> None:
        """The record has the next position, its marks are raised, and the items are there, each with its life."""
        engine = self.putting()
        self.log.append((record("a"),))
        one = record("b", "c")
        answer = engine.put(one, (Item("k", b"value", 60.0), Item("l", b"\x00", 30.0)), self.after())
        assert isinstance(answer, Appended)
        assert [(logged.position, logged.record) for logged in answer.records] == [(2, one)]
        assert (answer.identity.head, answer.identity.head_id) == (2, one.id)
        assert_chained(read_all(self.other_log))
        found = self.other_store.fetch(("k", "l"))
        assert [getattr(item, "data", None) for item in found] == [b"value", b"\x00"]
        assert all(
            0 < getattr(item, "remaining_s", 0.0) <= life_s for item, life_s in zip(found, (60, 30), strict=True)
        )
        assert self.other_store.read_marks(("b", "c")).marks == {"b": 2, "c": 2}

    def test_an_item_without_a_life_is_dropped(self) -> None:
        """A put can end what it names."""
        engine = self.putting()
        self.store.store((Item("k", b"old", 60.0),))
        assert isinstance(engine.put(record("a"), (Item("k", b"", 0.0),), self.after()), Appended)
        assert self.other_store.fetch(("k",)) == (None,)

    def test_h16_a_put_at_another_head_does_nothing(self) -> None:
        """Somebody was quicker, or the log is another one: the answer is who it is, and nothing has changed."""
        engine = self.putting()
        before = self.after()
        self.log.append((record("a"),))
        for after in (before, Stamp("another", 1), Stamp(before.generation, 2)):
            answer = engine.put(record("b"), (Item("k", b"value", 60.0),), after)
            assert isinstance(answer, Identity)
            assert (answer.generation, answer.head) == (before.generation, 1)
        assert self.log.read_head().head == 1
        assert self.store.fetch(("k",)) == (None,)
        assert "b" not in self.store.read_marks(("b",)).marks

    def test_h02_a_repeated_put_changes_nothing(self) -> None:
        """Its answer was lost: the record keeps its position, and what was put since is not put back."""
        engine = self.putting()
        one, before = record("a"), self.after()
        first = engine.put(one, (Item("k", b"old", 60.0),), before)
        engine.put(record("a"), (Item("k", b"new", 60.0),), self.after())
        again = engine.put(one, (Item("k", b"old", 60.0),), before)
        assert isinstance(first, Appended)
        assert isinstance(again, Appended)
        assert again.records == first.records
        (found,) = self.other_store.fetch(("k",))
        assert getattr(found, "data", None) == b"new"
        assert self.log.read_head().head == 2

    def test_a_put_may_name_many_keys(self) -> None:
        """Hundreds of scopes and items are one step."""
        engine = self.putting()
        names = tuple(f"k{number}" for number in range(500))
        answer = engine.put(
            Record("many", names), tuple(Item(name, name.encode(), 60.0) for name in names), self.after()
        )
        assert isinstance(answer, Appended)
        assert [getattr(one, "data", None) for one in self.other_store.fetch(names)] == [n.encode() for n in names]
