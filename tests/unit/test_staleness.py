from __future__ import annotations

from tests.support.staleness import Commit, Seen, judge

BOUND_S = 0.5


def seen(*stale: tuple[int, int, float]) -> Seen:
    """Give a reader that served, stale, versions of items, and when."""
    return Seen(100, len(stale), {(number, version): began for number, version, began in stale}, {"E": 1}, 0.25)


def test_what_was_replaced_long_ago_is_beyond_the_bound() -> None:
    """A read that began later than the bound after the acknowledgement is named, with its age; none before is."""
    commits = [Commit(1, 1, 10.0), Commit(1, 2, 20.0), Commit(2, 1, 10.0)]
    verdict = judge(commits, [seen((1, 0, 10.4), (1, 1, 20.75), (2, 0, 10.5))], BOUND_S)
    assert verdict.beyond == {(1, 1): 0.75}
    assert (verdict.reads, verdict.stale, verdict.oldest_s) == (100, 3, 0.75)


def test_before_the_acknowledgement_nothing_is_old() -> None:
    """What is served before the invalidation has returned, or when none ever did, is within the bound."""
    verdict = judge([Commit(1, 1, 10.0)], [seen((1, 0, 9.0), (1, 1, 99.0), (3, 0, 99.0))], BOUND_S)
    assert (verdict.beyond, verdict.oldest_s) == ({}, 0.0)


def test_a_later_invalidation_speaks_for_an_earlier_one() -> None:
    """A version whose own invalidation was never acknowledged is over with the next one's, and with the first told."""
    commits = [Commit(1, 3, 30.0), Commit(1, 2, 31.0)]
    assert judge(commits, [seen((1, 0, 30.75))], BOUND_S).beyond == {(1, 0): 0.75}
    assert judge(commits, [seen((1, 1, 30.25))], BOUND_S).beyond == {}


def test_all_readers_count() -> None:
    """Reads, errors and the slowest read are those of all readers together."""
    verdict = judge([Commit(1, 1, 10.0)], [seen((1, 0, 11.0)), seen((1, 0, 12.0)), seen()], BOUND_S)
    assert (verdict.reads, verdict.stale, verdict.errors, verdict.slowest_s) == (300, 2, {"E": 3}, 0.25)
    assert verdict.beyond == {(1, 0): 2.0}
