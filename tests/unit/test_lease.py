from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.core.lease import POLLS_MAX, Lease

moments = st.floats(0, 100, allow_nan=False)


def test_nothing_is_proven_at_first() -> None:
    """A new lease proves nothing, however wide the bound."""
    assert not Lease().proves(0.0, 1e9)


def test_h08_a_lease_ends_with_its_bound() -> None:
    """A poll proves freshness for as long as the bound, counted from when it was sent, and no moment longer."""
    lease = Lease()
    lease.polled(10.0, 5)
    assert lease.proves(10.0, 2.0)
    assert lease.proves(math.nextafter(12.0, 0), 2.0)
    assert not lease.proves(12.0, 2.0)
    assert not lease.proves(10.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.tuples(moments, st.integers(0, 9)), min_size=1))
def test_polls_of_a_single_server_prove_as_of_the_latest(polls: list[tuple[float, int]]) -> None:
    """Where a poll proves by itself, answers that come in another order take nothing back."""
    lease = Lease()
    for sent, head in polls:
        lease.polled(sent, head)
        lease.pulse(head)  # pulses may be there, and say nothing more
    assert lease.proven == max(sent for sent, _head in polls)


def test_dropped_proof_is_gone() -> None:
    """After a discontinuity neither a poll nor a pulse of before proves anything."""
    for pulsed in (False, True):
        lease = Lease(pulsed=pulsed)
        lease.polled(10.0, 3)
        lease.pulse(4)
        assert lease.proven == 10.0
        lease.polled(11.0, 3)
        lease.drop()
        lease.pulse(9)
        assert lease.proven == -math.inf


def test_h11_polls_alone_do_not_prove_where_pulses_are_needed() -> None:
    """An old leader answers polls as well as the new one does: without a pulse nothing is proven."""
    lease = Lease(pulsed=True)
    for sent in range(100):
        lease.polled(float(sent), 7)
    assert lease.proven == -math.inf


def test_h19_a_lease_lapses_when_the_pulses_stop() -> None:
    """With the relay dead, polls go on without renewing anything."""
    lease = Lease(pulsed=True)
    lease.polled(1.0, 4)
    lease.pulse(5)
    for sent in range(2, 9):
        lease.polled(float(sent), 6)
        lease.pulse(5)
    assert lease.proven == 1.0


def test_h11_a_pulse_proves_only_the_polls_below_what_it_covers() -> None:
    """A poll that ended at the covered position, or above it, may have been sent after the source was read."""
    lease = Lease(pulsed=True)
    lease.polled(1.0, 3)
    lease.polled(2.0, 4)
    lease.polled(3.0, 5)
    lease.pulse(3)
    assert lease.proven == -math.inf
    lease.pulse(5)
    assert lease.proven == 2.0
    lease.pulse(4)  # an older pulse that comes late takes nothing back
    assert lease.proven == 2.0
    lease.pulse(6)
    assert lease.proven == 3.0


def test_the_latest_poll_at_a_head_counts() -> None:
    """Of several polls that ended at one head, only the latest is remembered, in whatever order they are told."""
    lease = Lease(pulsed=True)
    for sent in (1.0, 3.0, 2.0):
        lease.polled(sent, 4)
    lease.pulse(5)
    assert lease.proven == 3.0


def test_h11_a_poll_below_the_latest_head_is_not_counted() -> None:
    """A late answer from below what was already seen is left out: it may be an old leader's."""
    lease = Lease(pulsed=True)
    lease.polled(1.0, 4)
    lease.polled(5.0, 3)
    lease.pulse(4)
    assert lease.proven == -math.inf
    lease.pulse(5)
    assert lease.proven == 1.0


steps = st.lists(
    st.tuples(st.floats(0, 5, allow_nan=False), st.integers(0, 2), st.none() | st.integers(-3, 3)), max_size=30
)


@settings(deadline=None)
@given(steps)
def test_pulses_prove_what_the_protocol_says(steps: list[tuple[float, int, int | None]]) -> None:
    """Having applied a pulse that covers h, a node is proven as of the latest of its polls that ended below h."""
    lease = Lease(pulsed=True)
    polls: list[tuple[float, int]] = []
    now, head, proven = 0.0, 5, -math.inf
    for passed_s, grown, covers in steps:
        now, head = now + passed_s, head + grown
        lease.polled(now, head)
        polls.append((now, head))
        if covers is not None:
            lease.pulse(head + covers)
            proven = max([proven, *(sent for sent, ended in polls if ended < head + covers)])
        assert lease.proven == proven


def test_h27_polls_are_remembered_in_a_bounded_number() -> None:
    """Without pulses the oldest polls are forgotten, which proves less and never more."""
    lease = Lease(pulsed=True)
    for head in range(POLLS_MAX + 10):
        lease.polled(float(head), head)
    lease.pulse(10)
    assert lease.proven == -math.inf
    lease.pulse(12)
    assert lease.proven == 11.0
    lease.pulse(POLLS_MAX + 10)
    assert lease.proven == POLLS_MAX + 9


def test_h27_waiting_at_one_head_forgets_no_poll() -> None:
    """However long nothing is published, the polls of before are remembered."""
    lease = Lease(pulsed=True)
    lease.polled(1.0, 4)
    for sent in range(2, POLLS_MAX + 10):
        lease.polled(float(sent), 5)
    lease.pulse(5)
    assert lease.proven == 1.0
