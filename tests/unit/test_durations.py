"""Durations: what is read, what is refused, and that what is written is read back."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unstale.core.durations import SECONDS_MAX, Duration, format_seconds, seconds
from unstale.errors import DurationError


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        ("250ms", 0.25),
        ("2s", 2.0),
        ("5m", 300.0),
        ("1h", 3_600.0),
        ("7d", 604_800.0),
        ("1h30m", 5_400.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("5m5ms", 300.005),
        ("1.5s", 1.5),
        ("0.1s", 0.1),
        ("0s", 0.0),
        ("36525d", SECONDS_MAX),
        (timedelta(minutes=5), 300.0),
        (timedelta(microseconds=1), 1e-6),
        (2, 2.0),
        (0, 0.0),
        (0.25, 0.25),
    ],
)
def test_durations_are_read(given_as: Duration, expected: float) -> None:
    """Texts, timedeltas and numbers are all read as seconds, in a float."""
    assert seconds(given_as, "ttl") == expected
    assert type(seconds(given_as, "ttl")) is float


@pytest.mark.parametrize(
    ("given_as", "problem"),
    [
        ("", "cannot be read"),
        ("5", "cannot be read"),
        ("m", "cannot be read"),
        ("5 m", "cannot be read"),
        (" 5m", "cannot be read"),
        ("5m\n", "cannot be read"),
        ("5min", "cannot be read"),
        ("5M", "cannot be read"),
        ("5w", "cannot be read"),
        ("-5m", "cannot be read"),
        ("1e3s", "cannot be read"),
        (".5s", "cannot be read"),
        ("1_000s", "cannot be read"),
        ("\u0665m", "cannot be read"),
        ("30m1h", "cannot be read"),
        ("1m1m", "cannot be read"),
        ("9" * 1_000_000 + "s", "cannot be read"),
        ("36526d", "longer than 100 years"),
        ("9" * 60 + "d", "longer than 100 years"),
        (timedelta(days=36_526), "longer than 100 years"),
        (10**400, "longer than 100 years"),
        (float("inf"), "longer than 100 years"),
        (-(10**400), "is negative"),
        (-0.001, "is negative"),
        (float("-inf"), "is negative"),
        (timedelta(seconds=-1), "is negative"),
        (float("nan"), "is not a number"),
        (True, "not bool"),
        (None, "not NoneType"),
        (b"5m", "not bytes"),
        ([5], "not list"),
    ],
    ids=lambda case: repr(case)[:20],
)
def test_other_durations_are_refused(given_as: Any, problem: str) -> None:
    """What is no duration is refused with the argument's name, the reason and what to write instead."""
    with pytest.raises(DurationError) as refusal:
        seconds(given_as, "max_staleness")
    assert refusal.value.message.startswith("max_staleness ")
    assert problem in refusal.value.message
    assert len(refusal.value.message) < 200
    assert '"250ms"' in refusal.value.hint
    assert refusal.value.fields == {"argument": "max_staleness", "value": given_as} or given_as != given_as  # noqa: PLR0124


@pytest.mark.parametrize(
    ("s", "expected"),
    [
        (0, "0s"),
        (-0.0, "0s"),
        (1e-9, "0s"),
        (-1e-9, "0s"),
        (0.000_4, "0.4ms"),
        (0.25, "250ms"),
        (0.999_999_9, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (60, "1m"),
        (90, "1m30s"),
        (3_600, "1h"),
        (3_601.05, "1h1.05s"),
        (86_400, "1d"),
        (93_784.005, "1d2h3m4.005s"),
        (-90, "-1m30s"),
        (-0.25, "-250ms"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_durations_are_written_for_people(s: float, expected: str) -> None:
    """A duration is written with the units that people use, without empty ones."""
    assert format_seconds(s) == expected


@given(st.integers(0, SECONDS_MAX * 1_000_000))
@example(SECONDS_MAX * 1_000_000)
@example(999_999)
def test_what_is_written_is_read_back(micros: int) -> None:
    """Every duration in whole microseconds survives being written and read."""
    assert seconds(format_seconds(micros / 1_000_000), "ttl") == micros / 1_000_000


@given(st.timedeltas(timedelta(0), timedelta(days=36_525)))
def test_timedeltas_and_numbers_agree(duration: timedelta) -> None:
    """A timedelta means its total seconds, and so does that number."""
    assert seconds(duration, "ttl") == seconds(duration.total_seconds(), "ttl") == duration.total_seconds()


@given(st.lists(st.decimals(0, 1_000, places=3), min_size=5, max_size=5), st.sets(st.integers(0, 4), min_size=1))
def test_units_add_up_exactly(numbers: list[Any], used: set[int]) -> None:
    """A text of several units is their sum, rounded once."""
    units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    text = "".join(f"{numbers[i]}{units[i][0]}" for i in sorted(used))
    assert seconds(text, "ttl") == float(sum(Fraction(numbers[i]) * units[i][1] for i in used) / 1_000)


@given(st.text(st.sampled_from("0123456789.dhms -"), max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """A text is a duration within the bounds, or a `DurationError`, and nothing else."""
    try:
        assert 0 <= seconds(text, "ttl") <= SECONDS_MAX
    except DurationError as refusal:
        assert refusal.fields["value"] == text  # noqa: PT017
