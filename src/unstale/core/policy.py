"""Policies: how long an entry lives, what may be served in its place, and how loads are bounded."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, get_args

from unstale.core.durations import Duration, format_seconds, seconds
from unstale.core.lease import DRIFT
from unstale.core.origin import Origin
from unstale.errors import PolicyError

Coalesce = Literal["off", "process", "cluster"]
Fallback = Literal["load", "stale", "refuse"]
Consistency = Literal["bounded", "eventual", "strong"]

Measure = Callable[[], float | Awaitable[float | None] | None]

JITTER_MAX: Final = 0.5
PRESETS: Final = frozenset({"derived", "owned", "reference", "shared"})
UNAUTHORIZED: Final = frozenset({401, 403})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How the entries of a function, or of a whole cache, are kept. Durations: `"5m"`, `timedelta` or seconds.

    Args:
        ttl: Time to live: the backstop behind every invalidation. There is always one.
        jitter: Share (0 to 0.5) by which each life is shortened at random, so that entries do not expire together.
        grace: After its life, or a soft invalidation, an entry may be served for so long, flagged stale, while a
            refresh runs in the background.
        stale_if_error: After its life an entry may for so long be served when its load fails. Default: `grace`.
        soft_timeout: A load slower than this goes on in the background, and a stale value is served if there is one.
        hard_timeout: A load slower than this raises `LoadTimeoutError`.
        early: Eagerness (XFetch's beta) of refreshing before the end of a life; 0 is off, 1 the optimum of the paper.
        none_ttl: The life of a `None` (default: `ttl`, since `None` is a value).
        not_found: Exception classes that mean "there is no such thing", remembered for `not_found_ttl`.
        not_found_ttl: The life of such a failure.
        errors: Exception classes that are remembered, each with its own life. Authorization errors never are.
        coalesce: Loads of one key at once: one a process, one a cluster, or uncoordinated (`off`).
        lock_ttl: `cluster`: a loader that takes longer than this is taken for dead.
        origin: The bound on concurrent loads that this policy shares with others.
        max_staleness: A tighter or looser bound than the cache's own for these reads.
        revalidate: With a lapsed lease, ask the store's marks before anything else.
        unproven: With a lapsed lease and nothing to revalidate with: load, serve stale within grace, or refuse.
        store_out: When the store fails: load, serve stale within grace, or refuse.
        replica_lag: The loader reads replicas at most so far behind: stamps are backdated by it.
        replica: Measures, before each load, the seconds that the replica is behind at most; None where nobody knows.
            The loader asks `unstale.needs_primary()`, and reads a replica only where that says no.
        ticket_wait: A read with a ticket waits so long for this node to catch up before it loads past the cache.
        copy: Give every caller a value of its own, decoded anew, so that none can mutate another's.

    Raises:
        PolicyError: A combination that cannot work; the message says what to write instead.
        DurationError: A duration that cannot be read.
    """

    ttl: Duration = "5m"
    jitter: float = 0.05
    grace: Duration = 0
    stale_if_error: Duration | None = None
    soft_timeout: Duration | None = None
    hard_timeout: Duration | None = None
    early: float = 0.0
    none_ttl: Duration | None = None
    not_found: tuple[type[Exception], ...] = ()
    not_found_ttl: Duration = "10s"
    errors: Mapping[type[Exception], Duration] = dataclasses.field(default_factory=dict)
    coalesce: Coalesce = "process"
    lock_ttl: Duration = "10s"
    origin: Origin | None = None
    max_staleness: Duration | None = None
    revalidate: bool = True
    unproven: Fallback = "load"
    store_out: Fallback = "load"
    replica_lag: Duration = 0
    replica: Measure | None = None
    ticket_wait: Duration = "100ms"
    copy: bool = False

    # The same in seconds, read once, at the edge.
    ttl_s: float = dataclasses.field(init=False)
    grace_s: float = dataclasses.field(init=False)
    error_grace_s: float = dataclasses.field(init=False)
    soft_timeout_s: float | None = dataclasses.field(init=False)
    hard_timeout_s: float | None = dataclasses.field(init=False)
    none_ttl_s: float = dataclasses.field(init=False)
    lock_ttl_s: float = dataclasses.field(init=False)
    bound_s: float | None = dataclasses.field(init=False)
    lag_s: float = dataclasses.field(init=False)
    ticket_wait_s: float = dataclasses.field(init=False)
    failures: tuple[tuple[type[Exception], float], ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Parse the durations and refuse what cannot work."""
        _check_types(self)
        ttl = seconds(self.ttl, "ttl")
        grace = seconds(self.grace, "grace")
        error_grace = _optional(self.stale_if_error, "stale_if_error")
        soft, hard = _optional(self.soft_timeout, "soft_timeout"), _optional(self.hard_timeout, "hard_timeout")
        none_ttl = _optional(self.none_ttl, "none_ttl")
        staleness = _optional(self.max_staleness, "max_staleness")
        parsed = {
            "ttl_s": ttl,
            "grace_s": grace,
            "error_grace_s": grace if error_grace is None else error_grace,
            "soft_timeout_s": soft,
            "hard_timeout_s": hard,
            "none_ttl_s": ttl if none_ttl is None else none_ttl,
            "lock_ttl_s": seconds(self.lock_ttl, "lock_ttl"),
            "bound_s": None if staleness is None else staleness * (1 - DRIFT),
            "lag_s": seconds(self.replica_lag, "replica_lag"),
            "ticket_wait_s": seconds(self.ticket_wait, "ticket_wait"),
            "failures": _failures(self),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        _check(self)

    @property
    def kept_s(self) -> float:
        """Seconds beyond its life that an entry is kept to be served stale."""
        return max(self.grace_s, self.error_grace_s)

    @property
    def timed(self) -> bool:
        """A reader waits for a load only for some time: the load runs in the background."""
        return self.soft_timeout_s is not None or self.hard_timeout_s is not None

    def but(self, **changes: Any) -> Policy:
        """Give this policy with some fields changed.

        Raises:
            PolicyError: A name that is no field, or a combination that cannot work.
        """
        known = {field.name for field in dataclasses.fields(self) if field.init}
        if unknown := sorted(changes.keys() - known):
            msg = f"a policy has no field {', '.join(unknown)}"
            raise PolicyError(msg, hint=f"the fields are: {', '.join(sorted(known))}", unknown=unknown)
        return dataclasses.replace(self, **changes)

    def failure_ttl_s(self, error: Exception) -> float | None:
        """Give the seconds for which a failure is remembered, None for not at all. Authorization errors never are."""
        status = getattr(error, "status_code", getattr(error, "status", None))
        if isinstance(error, PermissionError) or status in UNAUTHORIZED:
            return None
        return next((ttl for kind, ttl in self.failures if isinstance(error, kind)), None)

    @classmethod
    def reference(cls, **changes: Any) -> Policy:
        """Give the policy for reference data that seldom changes: a long life, and a long grace behind it."""
        return cls(ttl="1h", grace="24h", early=1.0).but(**changes)

    @classmethod
    def owned(cls, **changes: Any) -> Policy:
        """Give the policy for data that this service alone writes, through the cache: fresh, no grace, one load."""
        return cls(ttl="10m", coalesce="cluster").but(**changes)

    @classmethod
    def shared(cls, **changes: Any) -> Policy:
        """Give the policy for data that others write too: ended by events and versions, a short life as backstop."""
        return cls(ttl="1m", stale_if_error="10m").but(**changes)

    @classmethod
    def derived(cls, **changes: Any) -> Policy:
        """Give the policy for costly views of other data: tags, one load a cluster, stale while it is refreshed."""
        return cls(ttl="5m", grace="1h", coalesce="cluster", early=1.0).but(**changes)


def check_policy(policy: object) -> Policy:
    """Check what was given for `policy=`.

    Raises:
        PolicyError: It is no policy.
    """
    if isinstance(policy, Policy):
        return policy
    named = isinstance(policy, str) and policy in PRESETS
    hint = f"write policy=Policy.{policy}()" if named else 'write policy=Policy(ttl="5m"), or one of its presets'
    raise PolicyError(f"policy= takes a Policy, not {reprlib.repr(policy)}", hint=hint, given=policy)


def check_consistency(consistency: object) -> None:
    """Check what was given for `consistency=`.

    Raises:
        PolicyError: It is none.
    """
    if consistency not in get_args(Consistency):
        msg = f"consistency={consistency!r} is unknown"
        raise PolicyError(msg, hint='write "bounded", "eventual" or "strong"')


def check_lag(policy: Policy, bound_s: float) -> float:
    """Refuse a source that lags by more than a read may be stale: what is loaded would be too old already.

    Returns:
        How far back a stamp may have to be dated, in seconds.

    Raises:
        PolicyError: It does.
    """
    if policy.lag_s >= bound_s:
        msg = f"replica_lag={policy.replica_lag!r} is not shorter than max_staleness"
        raise PolicyError(msg, hint="raise max_staleness above the lag of the replicas, or load from the primary")
    return policy.lag_s if policy.replica is None else bound_s


def check_lives(policy: Policy, max_ttl_s: float) -> None:
    """Check that no entry of a policy lives longer than a cache allows: its marks are kept for twice as long.

    Raises:
        PolicyError: One would.
    """
    if policy.ttl_s + policy.kept_s > max_ttl_s:
        grace = f" with {format_seconds(policy.kept_s)} of grace" if policy.kept_s else ""
        most = format_seconds(max_ttl_s)
        raise PolicyError(
            f"the policy's ttl of {format_seconds(policy.ttl_s)}{grace} is longer than the cache's max_ttl={most}",
            hint=f'shorten it, as policy=Policy(ttl="{most}") does, or give Cache(...) a larger max_ttl',
        )


def _check_types(policy: Policy) -> None:
    """Refuse values of other types than the fields', each with what to write instead."""
    for name, kinds, hint in (
        ("jitter", (int, float), "write jitter=0.1 for lives up to 10 % shorter"),
        ("early", (int, float), "write early=1.0, or 0 for none"),
        ("revalidate", bool, "write revalidate=True or revalidate=False"),
        ("copy", bool, "write copy=True or copy=False"),
        ("not_found", (tuple, list, set, frozenset), "write not_found=(KeyError,)"),
        ("errors", Mapping, 'write errors={ConnectionError: "2s"}'),
    ):
        value = getattr(policy, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise PolicyError(f"{name} cannot be {reprlib.repr(value)}", hint=hint, given=value)


def _optional(value: Duration | None, name: str) -> float | None:
    return None if value is None else seconds(value, name)


def _failures(policy: Policy) -> tuple[tuple[type[Exception], float], ...]:
    """Give the failures that are remembered, the most derived class first, so that the nearest one decides."""
    given = dict.fromkeys(policy.not_found, policy.not_found_ttl) | dict(policy.errors)
    for kind in given:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            msg = f"{kind!r} is not an exception class"
            raise PolicyError(msg, hint='write not_found=(KeyError,) or errors={ConnectionError: "2s"}', given=kind)
        if issubclass(kind, PermissionError):
            msg = f"{kind.__name__} is an authorization error, and those are never cached"
            raise PolicyError(msg, hint="leave it out: each caller must be refused or admitted anew", given=kind)
    ordered = sorted(given, key=lambda kind: -len(kind.__mro__))
    return tuple((kind, seconds(given[kind], f"errors[{kind.__name__}]")) for kind in ordered)


def _check(policy: Policy) -> None:
    """Refuse impossible combinations, each with what to write instead."""
    soft, hard = policy.soft_timeout_s, policy.hard_timeout_s
    stale = next((name for name in ("unproven", "store_out") if getattr(policy, name) == "stale"), None)
    for wrong, message, hint in (
        (policy.ttl_s <= 0, "ttl must be longer than nothing",
         'write ttl="5m"; what must not be kept is not cached at all: use skip() in the loader'),
        (not 0 <= policy.jitter <= JITTER_MAX, f"jitter is a share of the ttl, from 0 to 0.5, not {policy.jitter!r}",
         "write jitter=0.1 for lives up to 10 % shorter"),
        (not 0 <= policy.early < math.inf, f"early is 0 or greater, not {policy.early!r}",
         "write early=1.0, or 0 for none"),
        (soft is not None and not policy.kept_s, "soft_timeout serves a stale value, but no grace keeps one",
         'add grace="1h", or use hard_timeout'),
        (soft is not None and hard is not None and soft >= hard, "soft_timeout must be shorter than hard_timeout",
         f"write soft_timeout below {policy.hard_timeout!r}"),
        (stale and not policy.kept_s, f'{stale}="stale" needs something stale to serve, but no grace keeps it',
         'add grace="1h", or write "load"'),
        (policy.coalesce not in get_args(Coalesce), f"coalesce={policy.coalesce!r} is unknown",
         'write "off", "process" or "cluster"'),
        (policy.coalesce == "cluster" and policy.lock_ttl_s <= 0, "coalesce by cluster needs a lock_ttl",
         'write lock_ttl="10s": longer than a load takes'),
        (policy.unproven not in get_args(Fallback), f"unproven={policy.unproven!r} is unknown",
         'write "load", "stale" or "refuse"'),
        (policy.store_out not in get_args(Fallback), f"store_out={policy.store_out!r} is unknown",
         'write "load", "stale" or "refuse"'),
        (policy.bound_s is not None and policy.bound_s <= 0, "max_staleness must be longer than nothing",
         'write max_staleness="2s", or read with consistency="strong"'),
        (policy.replica is not None and not callable(policy.replica), f"replica cannot be {policy.replica!r}",
         "pass a function that gives the seconds that the replica is behind, such as PostgresReplica(...), or None"),
        (policy.replica is not None and policy.lag_s > 0, "replica= measures the lag, and replica_lag= declares it",
         "leave one of them out; replica=lambda: 1.0 declares it for a loader that asks needs_primary()"),
        (policy.origin is not None and not isinstance(policy.origin, Origin), "origin must be an unstale.Origin",
         "write origin=Origin(limit=20)"),
    ):  # fmt: skip
        if wrong:
            raise PolicyError(message, hint=hint)
