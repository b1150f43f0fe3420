"""Marks against the whole history that they stand for.

What an entry stamped s, of key k and source version w (if any), suffers from a record at position p, with version v (if
any), that names one of its scopes, or `*`:

* Versions order the two if both have one, of one timeline of the source, and the scope is k itself: then the record
  ends the entry if and only if v > w, wherever it lies in the log.
* Else positions do: it ends the entry if and only if p > s.

The entry is dead if a hard record ends it; else soft if a soft one does; else fresh. No order of records plays a part.

A mark remembers the versions of one timeline: the one of its latest record with a version. Records with versions of
an earlier timeline (of an earlier stretch of the same one, too) count by their positions from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.core.marks import NEVER, Mark, Marks, Severity, Verdict, full, judge, merged, raised
from unstale.core.record import EVERYTHING, Record, Stamp, Version

KEY = "k"
SCOPES = (KEY, "t", "u", EVERYTHING)
Logged = tuple[int, Record]


class Entry(NamedTuple):
    """What counts of an entry."""

    scopes: tuple[str, ...]
    position: int
    version: Version | None


def record(*scopes: str, soft: bool = False, version: Version | None = None) -> Record:
    """Give a record."""
    return Record("r", scopes or (KEY,), soft=soft, version=version)


def ends(entry: Entry, scope: str, position: int, version: Version | None, timeline: str | None) -> bool:
    """Say whether one record ends an entry; versions count in the timeline only."""
    own = entry.version if scope == KEY else None
    if own is not None and version is not None and own.timeline == version.timeline == timeline:
        return version.value > own.value
    return position > entry.position


def truth(history: Sequence[Logged], entry: Entry) -> Verdict:
    """Judge an entry by all records that ever named a scope of it."""
    verdict = Verdict.FRESH
    for scope in {*entry.scopes, EVERYTHING}:
        for soft in (False, True):
            named = [(p, r.version) for p, r in history if scope in r.scopes and r.soft is soft]
            timeline, since = None, 0
            for index, (_position, version) in enumerate(named):
                if version is not None and version.timeline != timeline:
                    timeline, since = version.timeline, index
            counts = [timeline if index >= since else None for index in range(len(named))]
            if any(ends(entry, scope, *one, name) for one, name in zip(named, counts, strict=True)):
                verdict = max(verdict, Verdict.SOFT if soft else Verdict.DEAD)
    return verdict


def fold(history: Iterable[Logged]) -> dict[str, int | Mark]:
    """Give the marks of a history."""
    marks: dict[str, int | Mark] = {}
    for position, one in history:
        for scope in one.scopes:
            marks[scope] = raised(marks.get(scope), position, one)
    return marks


def expanded(marks: dict[str, int | Mark]) -> dict[str, Mark]:
    """Give marks in their full form."""
    return {scope: full(mark) for scope, mark in marks.items()}


def verdict_of(marks: dict[str, int | Mark], entry: Entry) -> Verdict:
    """Judge an entry of the key."""
    return judge(marks, entry.scopes, entry.position, KEY, entry.version)


def versions(*timelines: str) -> st.SearchStrategy[Version]:
    """Give versions, close enough together to meet."""
    return st.builds(Version, st.integers(-1, 3), st.sampled_from(timelines))


def histories(*timelines: str, records_max: int = 6) -> st.SearchStrategy[list[Logged]]:
    """Give histories, their records at dense positions from 1 on; versions of the timelines given."""
    version = st.none() | versions(*timelines) if timelines else st.none()
    scopes = st.just((KEY,)) | st.lists(st.sampled_from(SCOPES), max_size=3).map(tuple)
    one = st.builds(Record, st.just("r"), scopes, st.booleans(), version)
    return st.lists(one, max_size=records_max).map(lambda records: list(enumerate(records, start=1)))


def entries(*timelines: str) -> st.SearchStrategy[Entry]:
    """Give entries, their scopes in any order."""
    scopes = st.permutations([KEY, "t"]).flatmap(lambda both: st.sampled_from([(KEY,), tuple(both)]))
    version = st.none() | versions(*timelines) if timelines else st.none()
    return st.builds(Entry, scopes, st.integers(0, 6), version)


@settings(max_examples=400, deadline=None)
@given(histories(), entries())
def test_marks_say_what_positions_say(history: list[Logged], entry: Entry) -> None:
    """Without versions the marks judge as the whole history does."""
    assert verdict_of(fold(history), entry) == truth(history, entry)


@settings(max_examples=400, deadline=None)
@given(histories("a"), entries("a", "b"))
def test_h07_marks_say_what_versions_say(history: list[Logged], entry: Entry) -> None:
    """With versions of one timeline the marks judge as the whole history does."""
    assert verdict_of(fold(history), entry) == truth(history, entry)


@settings(max_examples=400, deadline=None)
@given(histories("a", "b", "c"), entries("a", "b", "c"))
def test_h20_versions_of_an_earlier_timeline_count_by_position(history: list[Logged], entry: Entry) -> None:
    """With versions of several timelines the marks judge as the whole history does, by the latest timeline's."""
    assert verdict_of(fold(history), entry) == truth(history, entry)


@settings(deadline=None)
@given(histories("a"), st.randoms(use_true_random=False))
def test_h07_the_order_of_records_plays_no_part(history: list[Logged], random: Random) -> None:
    """Records applied in another order leave marks that judge alike."""
    shuffled = random.sample(history, len(history))
    assert expanded(fold(shuffled)) == expanded(fold(history))


@settings(deadline=None)
@given(histories("a"), st.integers(0, 6), st.integers(0, 6))
def test_merged_is_both_histories(history: list[Logged], upto: int, start: int) -> None:
    """The marks of two stretches of a history, whether they overlap or not, merge into the marks of both together."""
    both = fold(logged for logged in history if logged[0] <= upto)
    for scope, mark in fold(logged for logged in history if logged[0] > start).items():
        both[scope] = merged(both.get(scope), mark)
    assert expanded(both) == expanded(fold(logged for logged in history if logged[0] <= upto or logged[0] > start))


@settings(max_examples=400, deadline=None)
@given(histories("a", "b"), histories("a", "b"), entries("a", "b"), entries("c"))
def test_h20_merged_keeps_the_versions_of_its_second_mark(
    one: list[Logged], two: list[Logged], entry: Entry, stranger: Entry
) -> None:
    """Of several timelines, merging keeps all that the second mark ends, and all that the first ends by positions."""
    first, second = fold(one), fold(two)
    both = dict(first)
    for scope, mark in second.items():
        both[scope] = merged(both.get(scope), mark)
    assert verdict_of(both, entry) >= verdict_of(second, entry)
    assert verdict_of(both, stranger) == max(verdict_of(first, stranger), verdict_of(second, stranger))


def test_h34_soft_after_hard_leaves_it_dead() -> None:
    """What a hard record has ended, a later soft one does not make servable within its grace again."""
    marks = fold([(5, record()), (6, record(soft=True))])
    assert [verdict_of(marks, Entry((KEY,), position, None)) for position in (4, 5, 6)] == [
        Verdict.DEAD,
        Verdict.SOFT,
        Verdict.FRESH,
    ]
    assert full(marks[KEY]).last == 6


def test_h34_versions_of_hard_and_soft_are_kept_apart() -> None:
    """The version of a soft record neither hides nor replaces that of a hard one."""
    marks = fold([(5, record(version=Version(2))), (6, record(version=Version(3), soft=True))])
    verdicts = [verdict_of(marks, Entry((KEY,), 9, Version(value))) for value in (1, 2, 3)]
    assert verdicts == [Verdict.DEAD, Verdict.SOFT, Verdict.FRESH]


def test_h07_a_late_record_of_an_old_version_ends_nothing_newer() -> None:
    """A record that arrives after that of a later version leaves the entry of the later version alone."""
    marks = fold([(10, record(version=Version(2))), (11, record(version=Version(1)))])
    assert verdict_of(marks, Entry((KEY,), 10, Version(2))) is Verdict.FRESH
    assert verdict_of(marks, Entry((KEY,), 11, Version(1))) is Verdict.DEAD  # H16: v1's own record came last
    assert verdict_of(marks, Entry((KEY,), 10, None)) is Verdict.DEAD


def test_h07_a_record_without_a_version_ends_every_version() -> None:
    """Of a record that names no version positions decide, whatever versions others named."""
    for marks in (
        fold([(5, record(version=Version(1))), (6, record())]),
        fold([(6, record()), (7, record(version=Version(1)))]),
    ):
        assert verdict_of(marks, Entry((KEY,), 5, Version(9))) is Verdict.DEAD
        assert verdict_of(marks, Entry((KEY,), 6, Version(9))) is Verdict.FRESH
        assert verdict_of(marks, Entry((KEY,), 9, Version(0))) is Verdict.DEAD


def test_h07_a_tags_version_says_nothing_of_an_entry() -> None:
    """A version speaks only for entries whose own key it names: a tag's version is another row's."""
    marks = fold([(5, record("t", version=Version(1)))])
    assert verdict_of(marks, Entry((KEY, "t"), 4, Version(9))) is Verdict.DEAD
    assert verdict_of(marks, Entry((KEY, "t"), 5, Version(0))) is Verdict.FRESH


def test_h20_versions_of_another_timeline_cannot_be_compared() -> None:
    """Between a record and an entry of two timelines of the source, positions decide."""
    marks = fold([(5, record(version=Version(7, "a")))])
    assert verdict_of(marks, Entry((KEY,), 4, Version(9, "b"))) is Verdict.DEAD
    assert verdict_of(marks, Entry((KEY,), 5, Version(1, "b"))) is Verdict.FRESH


def test_h20_the_timelines_of_before_count_by_their_positions() -> None:
    """After a record of a new timeline, those of the old one end what is stamped below them, of either timeline."""
    marks = fold([(5, record(version=Version(7, "a"))), (6, record(version=Version(1, "b")))])
    assert verdict_of(marks, Entry((KEY,), 4, Version(9, "b"))) is Verdict.DEAD
    assert verdict_of(marks, Entry((KEY,), 5, Version(1, "b"))) is Verdict.FRESH
    assert verdict_of(marks, Entry((KEY,), 9, Version(0, "b"))) is Verdict.DEAD
    assert verdict_of(marks, Entry((KEY,), 5, Version(9, "a"))) is Verdict.DEAD
    assert verdict_of(marks, Entry((KEY,), 6, Version(9, "a"))) is Verdict.FRESH


@settings(deadline=None)
@given(histories("a", "b"))
def test_the_short_form_says_all(history: list[Logged]) -> None:
    """A mark is an integer exactly as long as no soft record and no version has named its scope."""
    for scope, mark in fold(history).items():
        special = any(scope in one.scopes and (one.soft or one.version is not None) for _position, one in history)
        assert isinstance(mark, int) is not special
        assert full(mark).last == max(position for position, one in history if scope in one.scopes)


def test_the_forms_of_marks() -> None:
    """No mark, the short form and the full form are merged in every pairing."""
    soft = Mark(soft=Severity(4, 4))
    assert full(3) == Mark(Severity(3, 3), NEVER)
    assert full(soft) is soft
    assert merged(None, 3) == 3
    assert merged(None, soft) is soft
    assert (merged(3, 2), merged(2, 3)) == (3, 3)
    assert merged(3, soft) == merged(soft, 3) == Mark(Severity(3, 3), Severity(4, 4))
    assert (raised(3, 2, record()), raised(3, 4, record()), raised(None, 4, record())) == (3, 4, 4)


@settings(deadline=None)
@given(histories("a", "b"))
def test_a_mark_survives_the_wire(history: list[Logged]) -> None:
    """Both forms of a mark can be stored as MessagePack and read back."""
    for mark in fold(history).values():
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(mark), type=int | Mark) == mark


# A node's own marks ---------------------------------------------------------------------------------------------------


def applied(history: Iterable[Logged], marks_max: int) -> Marks:
    """Give a node's marks after a history."""
    marks = Marks(marks_max)
    for position, one in history:
        marks.apply(position, one)
    return marks


@settings(max_examples=400, deadline=None)
@given(histories(), entries(), st.integers(0, 4))
def test_h27_what_is_judged_above_the_floor_is_judged_rightly(
    history: list[Logged], entry: Entry, marks_max: int
) -> None:
    """However few marks are kept: an entry stamped at the floor or above it gets the verdict of the whole history."""
    marks = applied(history, marks_max)
    if entry.position >= marks.floor:
        assert marks.judge(entry.scopes, entry.position, KEY, None) == truth(history, entry)


@settings(max_examples=400, deadline=None)
@given(histories("a", "b"), entries("a", "b"), st.integers(0, 4))
def test_h27_forgotten_versions_are_above_no_floor(history: list[Logged], entry: Entry, marks_max: int) -> None:
    """With versions, all records above the floor are judged, and none is made up."""
    marks = applied(history, marks_max)
    if entry.position >= marks.floor:
        verdict = marks.judge(entry.scopes, entry.position, KEY, entry.version)
        assert verdict >= truth([(p, one) for p, one in history if p > marks.floor], entry)
        assert verdict <= verdict_of(fold(history), entry)


@settings(deadline=None)
@given(histories("a", "b"), st.integers(0, 4))
def test_h27_marks_are_bounded(history: list[Logged], marks_max: int) -> None:
    """Never more marks are kept than allowed; the latest raised stay, and the floor is the last of the forgotten."""
    marks = applied(history, marks_max)
    order = [scope for _position, one in history for scope in one.scopes]
    latest = sorted(set(order), key=lambda scope: len(order) - order[::-1].index(scope))
    kept = latest[len(latest) - marks_max :] if len(latest) > marks_max else latest
    assert list(marks.by_scope) == kept
    lasts = [position for position, one in history if set(one.scopes) - set(kept)]
    assert marks.floor <= max(lasts, default=0)
    assert marks.floor >= max((full(fold(history)[scope]).last for scope in set(order) - set(kept)), default=0)


def test_h27_forgetting_the_oldest_mark_raises_the_floor_to_it() -> None:
    """The mark that was raised longest ago goes, and entries stamped below it can no longer be judged."""
    marks = applied([(1, record("a")), (2, record("b")), (3, record("a")), (4, record("c"))], 2)
    assert (marks.by_scope, marks.floor) == ({"a": 3, "c": 4}, 2)
    marks.apply(5, record("x", "y", "z"))  # more than may be kept at all
    assert (marks.by_scope, marks.floor) == ({"y": 5, "z": 5}, 5)


def test_reset_forgets_all() -> None:
    """Crossing a discontinuity leaves no mark, and a floor that may be lower than the one of before."""
    marks = applied([(7, record("a"))], 0)
    assert marks.floor == 7
    marks.reset(3)
    assert (marks.by_scope, marks.floor) == ({}, 3)
    assert marks.judge(("a",), 3, "a", None) is Verdict.FRESH


def test_a_pulse_leaves_no_mark() -> None:
    """A record without scopes names nothing, so it ends nothing."""
    marks = applied([(1, Record("p", (), covers=Stamp("g", 0)))], 2)
    assert (marks.by_scope, marks.floor) == ({}, 0)
