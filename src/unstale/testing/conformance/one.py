"""The conformance of engines that are store and log in one: marks are raised by the append itself."""

from __future__ import annotations

from unstale.core.marks import Mark, full, raised
from unstale.core.ops import MarksReply
from unstale.core.record import EVERYTHING, Record, Version
from unstale.testing.conformance.suite import TRICKY_NAMES, InThread, Suite, record

DAY_S = 24 * 3600.0


class AtomicMarksTests(Suite):
    """Marks that an engine raises in the same step in which it appends.

    Attributes:
        max_ttl_s: No entry lives longer, as the engine was told: its marks live twice as long.
    """

    max_ttl_s = 7 * DAY_S

    def own_marks(self, *scopes: str) -> MarksReply:
        """Read marks."""
        return self.other_store.read_marks(scopes)

    def history(self, *records: Record) -> dict[str, int | Mark]:
        """Append records one by one, and give the marks that the model makes of them."""
        marks: dict[str, int | Mark] = {}
        for one in records:
            (logged,) = self.log.append((one,)).records
            for scope in one.scopes:
                marks[scope] = raised(marks.get(scope), logged.position, one)
        return marks

    def test_the_same_engine_is_both(self) -> None:
        """An engine with both ports says so, and says how append and marks are one step."""
        assert id(self.store) == id(self.log)
        assert self.store.guarantees.store
        assert self.store.guarantees.log
        assert self.store.guarantees.atomic_marks

    def test_what_was_never_named_has_no_mark(self) -> None:
        """A scope without an invalidation is missing from the reply; the marks are complete up to the head."""
        reply = self.own_marks("a", EVERYTHING)
        assert (reply.marks, reply.upto) == ({}, 0)
        self.log.append((record("b"),))
        reply = self.own_marks("a", "b", EVERYTHING)
        assert reply.marks == {"b": 1}
        assert (reply.identity, reply.upto) == (self.log.read_head(), 1)
        assert reply.start <= 1
        assert self.own_marks().identity == reply.identity

    def test_an_append_raises_the_marks_of_all_its_scopes(self) -> None:
        """Each scope has the position of the last record that named it, whichever handle appended it."""
        self.log.append((record("a", "b"), record("b", EVERYTHING), Record("pulse", ())))
        self.other_log.append((record("c", "c"),))
        assert self.own_marks("a", "b", "c", "d", EVERYTHING).marks == {"a": 1, "b": 2, "c": 4, EVERYTHING: 2}

    def test_h34_hard_soft_and_versions_are_kept_apart(self) -> None:
        """The marks are those of the model, whatever kinds of records have named a scope, and in what order."""
        kinds = [
            record("a"),
            record("a", soft=True),
            record("a", version=Version(7)),
            record("a", version=Version(5), soft=True),
            record("a", version=Version(9, "tl-2")),
            record("a", version=Version(-(2**63), "tl-2")),
        ]
        expected = self.history(
            record("b"),
            record("b"),
            *kinds,
            record("d", soft=True),
            record("e", version=Version(2**63 - 1, "\u8336")),
            *(record("c", soft=one.soft, version=one.version) for one in reversed(kinds)),
        )
        found = self.own_marks("a", "b", "c", "d", "e").marks
        assert {scope: full(mark) for scope, mark in found.items()} == {s: full(m) for s, m in expected.items()}
        assert found["b"] == 2

    def test_h29_scopes_are_compared_exactly(self) -> None:
        """Names that look alike have marks of their own."""
        expected = self.history(*(record(name) for name in TRICKY_NAMES))
        assert self.own_marks(*TRICKY_NAMES).marks == expected
        assert self.own_marks(*(f"{name}!" for name in TRICKY_NAMES)).marks == {}

    def test_many_scopes_at_once(self) -> None:
        """The marks of thousands of scopes are raised and read at once."""
        scopes = tuple(f"scope:{number}" for number in range(5000))
        self.log.append((record(*scopes), record(*scopes[2000:])))
        assert self.own_marks(*scopes, *scopes[:10]).marks == {
            scope: 1 if number < 2000 else 2 for number, scope in enumerate(scopes)
        }

    def test_repeating_an_append_raises_no_mark(self) -> None:
        """A record that the log has already invalidates nothing a second time."""
        first = record("a")
        self.log.append((first, record("b")))
        self.log.append((first,))
        self.log.append((first, record("c")))
        assert self.own_marks("a", "b", "c").marks == {"a": 1, "b": 2, "c": 3}

    def test_h13_marks_outlive_their_records(self) -> None:
        """What was trimmed from the log is still known to have invalidated its scopes."""
        self.log.append((record("a"), record("b"), record("c", soft=True)))
        self.trim(0)
        reply = self.own_marks("a", "b", "c")
        assert (set(reply.marks), reply.marks["a"], reply.marks["b"], reply.upto) == ({"a", "b", "c"}, 1, 2, 3)

    def test_h35_marks_outlive_every_entry_that_they_end(self) -> None:
        """A mark lives for twice the longest life of an entry, and is renewed by the next record of its scope."""
        self.log.append((record("a", "b"),))
        self.advance(1.5 * self.max_ttl_s)
        self.log.append((record("b", soft=True),))
        self.advance(0.49 * self.max_ttl_s)
        assert set(self.own_marks("a", "b").marks) == {"a", "b"}
        self.advance(1.5 * self.max_ttl_s)
        assert full(self.own_marks("b").marks["b"]) == full(raised(1, 2, record("b", soft=True)))

    def test_marks_and_head_are_read_in_one_step(self) -> None:
        """While others append to one scope, its mark is always the head that is told with it."""

        def write() -> int:
            for _ in range(100):
                self.log.append((record("a"), record("a", "b")))
            return 0

        assert self.own_marks("a").upto == 0
        call, upto = InThread(write), 0
        while call.running or upto < 200:
            assert call.running or self.log.read_head().head == 200
            reply = self.own_marks("a", "b", "c")
            assert upto <= reply.upto == reply.identity.head
            upto = reply.upto
            assert upto % 2 == 0  # a batch is appended whole or not at all
            assert reply.marks == ({"a": upto, "b": upto} if upto else {})
        call.result(int)

    def test_entries_and_marks_of_one_name_are_apart(self) -> None:
        """An entry, a lock, a mark and a member of one name have nothing to do with one another."""
        assert self.store.lock("a", 60.0) is not None
        self.log.append((record("a"),))
        assert self.store.fetch(("a",)) == (None,)
        self.store.delete(("a",))
        assert self.own_marks("a").marks == {"a": 1}
        assert self.log.read_members().members == ()
