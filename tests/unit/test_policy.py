from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from unstale.core.origin import Origin
from unstale.core.policy import Policy, check_policy
from unstale.errors import DurationError, PolicyError


class ReplyError(Exception):
    """A reply of an HTTP service."""

    def __init__(self, **fields: int) -> None:
        super().__init__(fields)
        self.__dict__.update(fields)


IMPOSSIBLE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"ttl": 0}, "ttl must be longer than nothing"),
    ({"jitter": -0.1}, "jitter is a share"),
    ({"jitter": 0.6}, "jitter is a share"),
    ({"jitter": float("nan")}, "jitter is a share"),
    ({"early": -1}, "early is 0 or greater"),
    ({"early": float("inf")}, "early is 0 or greater"),
    ({"soft_timeout": "1s"}, "no grace keeps one"),
    ({"grace": "1h", "soft_timeout": "1s", "hard_timeout": "1s"}, "shorter than hard_timeout"),
    ({"unproven": "stale"}, 'unproven="stale" needs something stale'),
    ({"store_out": "stale"}, 'store_out="stale" needs something stale'),
    ({"coalesce": "all"}, "coalesce='all' is unknown"),
    ({"coalesce": "cluster", "lock_ttl": 0}, "needs a lock_ttl"),
    ({"unproven": "maybe"}, "unproven='maybe' is unknown"),
    ({"store_out": "maybe"}, "store_out='maybe' is unknown"),
    ({"max_staleness": 0}, "max_staleness must be longer than nothing"),
    ({"origin": 20}, "origin must be an unstale.Origin"),
    ({"replica": "1s"}, "replica cannot be '1s'"),
    ({"replica": float, "replica_lag": "1s"}, "replica= measures the lag, and replica_lag= declares it"),
    ({"not_found": ("LookupError",)}, "is not an exception class"),
    ({"not_found": (KeyboardInterrupt,)}, "is not an exception class"),
    ({"errors": {int: "1s"}}, "is not an exception class"),
    ({"errors": {PermissionError: "1s"}}, "authorization error"),
)


@pytest.mark.parametrize(("fields", "problem"), IMPOSSIBLE)
def test_what_cannot_work_is_refused(fields: dict[str, Any], problem: str) -> None:
    """An impossible combination is an error that says what to write instead, made at once or from another policy."""
    for make in (Policy, Policy().but):
        with pytest.raises(PolicyError) as caught:
            make(**fields)
        assert problem in caught.value.message
        assert caught.value.hint


DURATIONS = (
    "ttl", "grace", "stale_if_error", "soft_timeout", "hard_timeout", "none_ttl", "not_found_ttl", "lock_ttl",
    "max_staleness", "replica_lag", "ticket_wait",
)  # fmt: skip


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_are_read_where_they_are_written(name: str) -> None:
    """A duration that cannot be read is refused by its name."""
    how: dict[str, Any] = {"grace": "1h", "not_found": (KeyError,), name: "soon"}
    with pytest.raises(DurationError) as caught:
        Policy(**how)
    assert caught.value.fields["argument"] in {name, "errors[KeyError]"}


def test_durations_in_all_their_forms() -> None:
    """Texts, timedeltas and numbers of seconds mean the same; they are kept as they were written."""
    for ttl in ("1m30s", timedelta(seconds=90), 90):
        policy = Policy(ttl=ttl)
        assert (policy.ttl_s, policy.none_ttl_s, policy.ttl) == (90.0, 90.0, ttl)
    policy = Policy(grace="1h")
    assert (policy.error_grace_s, policy.kept_s) == (3600.0, 3600.0)
    policy = policy.but(stale_if_error="2h", none_ttl="1s")
    assert (policy.grace_s, policy.error_grace_s, policy.kept_s, policy.none_ttl_s) == (3600.0, 7200.0, 7200.0, 1.0)


def test_a_change_of_what_is_no_field_is_refused() -> None:
    """A name that is no field is refused, and the fields are listed; what is derived cannot be changed."""
    for name in ("colour", "ttl_s", "failures"):
        with pytest.raises(PolicyError) as caught:
            Policy().but(**{name: 1})
        assert "stale_if_error" in caught.value.hint


def test_the_presets_are_policies_and_take_changes() -> None:
    """Each preset can be made, and changed in any field."""
    for preset in (Policy.reference, Policy.owned, Policy.shared, Policy.derived):
        assert preset().ttl_s > 0
        assert preset(ttl="7s", jitter=0).but(jitter=0.1) == preset(ttl=7, jitter=0.1).but(ttl="7s")
    assert Policy.reference().grace_s > Policy.reference().ttl_s
    assert Policy.owned().coalesce == Policy.derived().coalesce == "cluster"
    assert Policy.shared().error_grace_s > Policy.shared().grace_s == 0


def test_the_nearest_class_decides_how_long_a_failure_is_remembered() -> None:
    """Of the classes that a policy names, the most derived one that a failure is of gives its life."""
    policy = Policy(not_found=(LookupError,), not_found_ttl="1s", errors={OSError: "2s", ConnectionError: "3s"})
    for error, life_s in (
        (KeyError(1), 1.0), (OSError(1), 2.0), (ConnectionResetError(1), 3.0), (ValueError(1), None),
    ):  # fmt: skip
        assert policy.failure_ttl_s(error) == life_s


@pytest.mark.parametrize(
    "error",
    [PermissionError(), ReplyError(status=401), ReplyError(status=403), ReplyError(status_code=401),
     ReplyError(status_code=403, status=200)],
)  # fmt: skip
def test_authorization_errors_are_never_remembered(error: Exception) -> None:
    """No policy remembers a refusal, by whatever class or status it is told."""
    policy = Policy(not_found=(Exception,), errors={OSError: "1h", ReplyError: "1h"})
    assert policy.failure_ttl_s(error) is None
    assert policy.failure_ttl_s(ReplyError(status=404)) == 3600.0


def test_a_policy_is_taken_as_it_is() -> None:
    """What is given for `policy=` is a policy, and nothing that only names one."""
    policy = Policy.shared()
    assert check_policy(policy) is policy
    for wrong, hint in (("shared", "Policy.shared()"), ({"ttl": 5}, "Policy(ttl=")):
        with pytest.raises(PolicyError) as caught:
            check_policy(wrong)
        assert hint in caught.value.hint


def test_an_origin_is_shared_by_the_policies_that_name_it() -> None:
    """Changing a policy keeps its origin."""
    origin = Origin(2)
    assert Policy(origin=origin).but(ttl="1s").origin is origin
