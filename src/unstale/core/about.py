"""What a node tells people of itself: its name, where it runs, the version of its package, and its policies.

Nothing is decided by it. The log keeps it beside the member, as bytes that no engine looks into; it is sent when it has
changed or when the log has lost it, and costs the polls nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from unstale.core.durations import format_seconds
from unstale.core.lease import DRIFT
from unstale.core.policy import Policy

TEXT_CHARS_MAX: Final = 200
POLICIES_BYTES_MAX: Final = 16 * 1024  # every node of a cache may send so much, and every look reads it of all
PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")

Facts = Mapping[str, str]


class About(msgspec.Struct, array_like=True, frozen=True):
    """What a node tells of itself. Later versions add fields at the end, and older ones skip them.

    Attributes:
        name: The name that it was given, empty for none.
        place: Where it runs: `host:process`.
        version: The version of the package.
        policies: By the pattern of keys, as `product:{}`: what describes the policy of each function that has such
            keys. `*` stands for the cache's own policy.
        left_out: Patterns that were too many to be told.
    """

    name: str = ""
    place: str = ""
    version: str = ""
    policies: dict[str, list[dict[str, str]]] = {}
    left_out: int = 0

    @property
    def title(self) -> str:
        """Its name, for people, and where it runs."""
        return f"{self.name} ({self.place})" if self.name and self.place else self.name or self.place


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(About).decode


def decode_about(data: bytes) -> About:
    """Read what a node told of itself; nothing of what no node has written. All texts can be printed as they are."""
    try:
        told = _decode(data)
    except msgspec.MsgspecError:
        return About()
    policies = {
        _shown(pattern): [{_shown(name): _shown(text) for name, text in facts.items()} for facts in several]
        for pattern, several in told.policies.items()
    }
    return About(_shown(told.name), _shown(told.place), _shown(told.version), policies, told.left_out)


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:TEXT_CHARS_MAX])


class Profile:
    """What a node has to tell of itself by now, encoded anew only when it has changed. Changed under the node's lock.

    Args:
        name: The name that the node was given.
        version: The version of the package.
        place: Says where it runs.
    """

    def __init__(self, name: str = "", version: str = "", place: Callable[[], str] = str) -> None:
        self._name = name
        self._version = version
        self._place = place
        self._policies: dict[str, dict[str, Facts]] = {}
        self._data: bytes | None = None

    def tell(self, keys: str, who: str, facts: Facts) -> None:
        """Take in the policy of a function, in place of what the same one said before.

        Args:
            keys: The template of its keys; what its placeholders are called makes no difference.
            who: The function.
            facts: What describes its policy.
        """
        self._policies.setdefault(pattern_of(keys), {})[who] = facts
        self._data = None

    def forget_place(self) -> None:
        """Ask anew where it runs: a forked child is another process."""
        self._data = None

    @property
    def data(self) -> bytes:
        """All that, as bytes; empty when there is nothing."""
        if self._data is None:
            self._data = self._encoded()
        return self._data

    def _encoded(self) -> bytes:
        left_bytes, told = POLICIES_BYTES_MAX, {}
        for pattern, by_function in self._policies.items():
            several = [{name: _cut(text) for name, text in facts.items()} for facts in distinct(by_function.values())]
            left_bytes -= len(_encode((_cut(pattern), several)))
            if left_bytes < 0:
                break
            told[_cut(pattern)] = several
        about = About(_cut(self._name), _cut(self._place()), self._version, told, len(self._policies) - len(told))
        return b"" if about == About() else _encode(about)


def _cut(text: str) -> str:
    return text[:TEXT_CHARS_MAX]


def pattern_of(keys: str) -> str:
    """Give the pattern of the keys of a template: `product:{}` of `product:{product_id}`."""
    return PLACEHOLDER.sub("{}", keys)


def distinct(several: Iterable[Facts]) -> list[dict[str, str]]:
    """Give each description once, in an order of its own, whatever the order in which functions were decorated."""
    return [dict(items) for items in sorted({tuple(sorted(facts.items())) for facts in several})]


def describe(
    policy: Policy, *, consistency: str = "bounded", namespace: str = "", tags: Iterable[str] = ()
) -> dict[str, str]:
    """Describe a policy, and what goes with it, for people and to be compared.

    The time to live is always told; of all else, what is not as it is by default. So the texts stay short, and two
    nodes that say the same have the same policy as long as they run the same version, which is told as well.
    Durations are written in one way however they were given.
    """
    told = {name: text for name, text in _facts(policy).items() if name == "ttl" or text != _USUAL[name]}
    if consistency != "bounded":
        told["consistency"] = consistency
    if namespace:
        told["namespace"] = namespace
    patterns = sorted(map(pattern_of, tags))
    return told | ({"tags": " ".join(patterns)} if patterns else {})


def _facts(policy: Policy) -> dict[str, str]:
    """Give all fields of a policy as texts, empty for those that follow from another one."""
    own_error_grace = policy.error_grace_s != policy.grace_s
    own_none_ttl = policy.none_ttl_s != policy.ttl_s
    failures = sorted((kind.__name__, ttl_s) for kind, ttl_s in policy.failures)
    origin = policy.origin
    return {
        "ttl": format_seconds(policy.ttl_s),
        "jitter": f"{policy.jitter:g}",
        "grace": format_seconds(policy.grace_s),
        "stale_if_error": format_seconds(policy.error_grace_s) if own_error_grace else "",
        "soft_timeout": _optional(policy.soft_timeout_s),
        "hard_timeout": _optional(policy.hard_timeout_s),
        "early": f"{policy.early:g}",
        "none_ttl": format_seconds(policy.none_ttl_s) if own_none_ttl else "",
        "errors": " ".join(f"{name}:{format_seconds(ttl_s)}" for name, ttl_s in failures),
        "coalesce": policy.coalesce,
        "lock_ttl": format_seconds(policy.lock_ttl_s),
        "origin": "" if origin is None else f"{origin.limit}",
        "max_staleness": "" if policy.bound_s is None else format_seconds(policy.bound_s / (1 - DRIFT)),
        "revalidate": f"{policy.revalidate}",
        "unproven": policy.unproven,
        "store_out": policy.store_out,
        "replica_lag": format_seconds(policy.lag_s),
        "replica": "" if policy.replica is None else "measured",
        "ticket_wait": format_seconds(policy.ticket_wait_s),
        "copy": f"{policy.copy}",
    }


def _optional(duration_s: float | None) -> str:
    return "" if duration_s is None else format_seconds(duration_s)


_USUAL: Final = _facts(Policy())
