"""The conformance of stores whose log is another engine's: the marks that nodes write, and the range they cover."""

from __future__ import annotations

import random

from unstale.core.marks import Mark, Marks, Severity, judge, merged
from unstale.core.ops import MarksReply
from unstale.core.record import EVERYTHING
from unstale.testing.conformance.suite import TRICKY_NAMES, InThread, Suite, record

FULL = Mark(Severity(5, 3, 7, "tl"), Severity(6, 6, None, ""))


class ForeignMarksTests(Suite):
    """Merging marks, and extending the range of positions within which they are complete."""

    def foreign_marks(self, *scopes: str) -> MarksReply:
        """Read marks."""
        return self.foreign_store.read_marks(scopes)

    def covered(self) -> tuple[str, int, int]:
        """Give the generation and the range that the marks cover."""
        reply = self.foreign_marks("a")
        return reply.identity.generation, reply.start, reply.upto

    def test_nothing_is_covered_at_first(self) -> None:
        """Before any node has written marks, they are complete for no position."""
        reply = self.foreign_marks("a")
        assert reply.upto < reply.start
        assert reply.marks == {}

    def test_the_first_marks_cover_their_range(self) -> None:
        """The first marks written are complete for their range, and for their generation."""
        self.foreign_store.extend_marks("g", 4, 6, {"a": 4, "b": 6})
        assert self.covered() == ("g", 4, 6)
        assert self.foreign_marks("a", "b", "c").marks == {"a": 4, "b": 6}

    def test_marks_of_both_forms_come_back(self) -> None:
        """Hard and soft, positions, versions and timelines come back as they were written, for every name."""
        marks = {name: FULL if number % 2 else number for number, name in enumerate(TRICKY_NAMES)}
        self.foreign_store.extend_marks("g", 1, 99, marks)
        assert self.foreign_marks(*TRICKY_NAMES).marks == marks

    def test_adjacent_and_overlapping_ranges_are_joined(self) -> None:
        """A range that begins right after the covered one, within it, or ends right before it, extends it."""
        self.foreign_store.extend_marks("g", 5, 6, {"a": 5})
        self.foreign_store.extend_marks("g", 7, 8, {"b": 7})
        assert self.covered() == ("g", 5, 8)
        self.foreign_store.extend_marks("g", 6, 9, {"c": 9})
        assert self.covered() == ("g", 5, 9)
        self.foreign_store.extend_marks("g", 2, 4, {"d": 3})
        assert self.covered() == ("g", 2, 9)
        assert self.foreign_marks("a", "b", "c", "d").marks == {"a": 5, "b": 7, "c": 9, "d": 3}

    def test_marks_are_merged(self) -> None:
        """A mark written twice ends what either of the two ended; a late node lowers none."""
        store = self.foreign_store
        store.extend_marks("g", 1, 6, {"a": 5, "b": FULL, "c": 2})
        store.extend_marks("g", 1, 4, {"a": 3, "b": 4, "c": Mark(soft=Severity(4, 4))})
        assert self.covered() == ("g", 1, 6)
        expected = {"a": 5, "b": merged(FULL, 4), "c": merged(2, Mark(soft=Severity(4, 4)))}
        assert self.foreign_marks("a", "b", "c").marks == expected

    def test_repeating_changes_nothing(self) -> None:
        """Marks whose writing had an unknown outcome may be written again."""
        for _ in range(3):
            self.foreign_store.extend_marks("g", 1, 6, {"a": 5, "b": FULL})
            assert self.covered() == ("g", 1, 6)
            assert self.foreign_marks("a", "b").marks == {"a": 5, "b": FULL}

    def test_no_marks_extend_the_range_too(self) -> None:
        """Positions whose records named nothing are covered without a mark."""
        self.foreign_store.extend_marks("g", 1, 2, {"a": 1})
        self.foreign_store.extend_marks("g", 3, 8, {})
        assert self.covered() == ("g", 1, 8)

    def test_h09_a_hole_begins_a_new_range(self) -> None:
        """Between the covered range and a later one records are unknown: only the later one is complete any more."""
        self.foreign_store.extend_marks("g", 1, 5, {"a": 4})
        self.foreign_store.extend_marks("g", 7, 8, {"b": 7})
        assert self.covered() == ("g", 7, 8)
        assert self.foreign_marks("a", "b").marks == {"a": 4, "b": 7}

    def test_h09_a_hole_behind_never_joins(self) -> None:
        """A late node whose range ends below the covered one does not make the positions between them known."""
        self.foreign_store.extend_marks("g", 7, 8, {"b": 7})
        self.foreign_store.extend_marks("g", 1, 5, {"a": 4, "b": 2})
        assert self.covered() in {("g", 7, 8), ("g", 1, 5)}
        assert self.foreign_marks("b").marks == {"b": 7}

    def test_h10_another_generation_begins_a_new_range(self) -> None:
        """Marks of another generation are complete for their own range alone, wherever it lies."""
        for generation, start, upto in (("g", 1, 9), ("h", 10, 12), ("i", 3, 5), ("g", 10, 11)):
            self.foreign_store.extend_marks(generation, start, upto, {"a": upto})
            assert self.covered() == (generation, start, upto)
            found = self.foreign_marks("a").marks["a"]
            assert merged(found, upto) == found

    def test_h12_the_marks_prove_no_leadership(self) -> None:
        """A store knows nothing of the log's leader, so with a lapsed lease its marks do not prove freshness."""
        self.foreign_store.extend_marks("g", 1, 5, {})
        assert not self.foreign_marks("a").identity.proven

    def test_two_nodes_extend_at_once(self) -> None:
        """However the writing of two nodes interleaves, the range has no hole and no mark is lost."""
        steps = range(1, 101)

        def write() -> int:
            for position in steps:
                self.foreign_store.extend_marks("g", position, position, {f"s{position}": position, "all": position})
            return 0

        assert self.covered()
        calls = [InThread(write), InThread(write)]
        for call in calls:
            call.result(int)
        assert self.covered() == ("g", 1, 100)
        names = [f"s{position}" for position in steps]
        assert self.foreign_marks(*names, "all").marks == {**{name: at for at, name in enumerate(names, 1)}, "all": 100}

    def test_h13_no_verdict_within_the_range_is_too_good(self) -> None:
        """Whatever nodes at different positions write, no entry within the range is judged better than it deserves."""
        for seed in range(20):
            chance = random.Random(f"{type(self).__name__}{seed}")
            generation = f"g{seed}"
            scopes = ["a", "b", "c", EVERYTHING]
            log = [record(*chance.sample(scopes, chance.randint(0, 2)), soft=chance.random() < 0.3) for _ in range(30)]
            nodes = [(Marks(), [joined, joined]) for joined in (0, 0, chance.randint(0, 20), 25)]
            for marks, (joined, _extended) in nodes:
                marks.reset(joined)
            for _ in range(40):
                marks, progress = chance.choice(nodes)
                applied = min(len(log), progress[0] + chance.randint(0, 6))
                for position in range(progress[0] + 1, applied + 1):
                    marks.apply(position, log[position - 1])
                progress[0] = applied
                if progress[1] < applied and chance.random() < 0.7:
                    self.foreign_store.extend_marks(generation, progress[1] + 1, applied, dict(marks.by_scope))
                    progress[1] = applied
                reply = self.foreign_marks(*scopes)
                if reply.identity.generation != generation:
                    continue
                known = Marks()
                for position in range(1, reply.upto + 1):
                    known.apply(position, log[position - 1])
                for stamp in range(max(0, reply.start - 1), reply.upto + 1):
                    for scope in "abc":
                        verdict = judge(reply.marks, (scope,), stamp, scope, None)
                        assert verdict >= known.judge((scope,), stamp, scope, None), (seed, stamp, scope, reply)
