"""From the arguments of Django's methods to what the core understands: names, lives, reads, writes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from unstale.core.keytext import escape
from unstale.core.policy import Policy
from unstale.core.record import Record
from unstale.core.register import Written
from unstale.core.served import Want, stored_key
from unstale.django.shared import Shared
from unstale.django.transactions import GONE
from unstale.requests import record_of

LONG: Final = 200  # characters of a key that stands in the log as it is; a longer one is known by its digest
UNFIT: Final = re.compile(r"[*\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Keys:
    """The keys of one KEY_PREFIX.

    Args:
        shared: What all backends of the alias share.
        prefix: KEY_PREFIX.

    Attributes:
        space: The scope on which all of them depend.
    """

    __slots__ = ("_bound_s", "_scopes", "_shared", "space")

    def __init__(self, shared: Shared, prefix: str) -> None:
        self._shared = shared
        self.space = f"django:{escape(prefix)}"
        self._scopes = (self.space,)
        self._bound_s = shared.cache.node.bound_s

    def name(self, text: str) -> str:
        """Give the name of a key that Django has made: no key of another prefix has it."""
        if len(text) <= LONG and not UNFIT.search(text):
            return f"{self.space}|k{text}"
        return f"{self.space}|h{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"

    def want(self, name: str, policy: Policy, call: Callable[[], Any] | None = None, *, blocking: bool = True) -> Want:
        """Give the read of a key."""
        codec = self._shared.codec
        return Want(
            key=name, stored_key=stored_key(codec.shape, name), scopes=self._scopes, policy=policy, codec=codec,
            bound_s=self._bound_s, call=call, blocking=blocking,
        )  # fmt: skip

    def written(self, name: str, value: Any, life_s: float) -> Written:
        """Give what is written under a key.

        Args:
            name: The key's name.
            value: The value.
            life_s: Its life in seconds; without any, it is deleted.
        """
        want = self.want(name, self._shared.change_policy)
        if life_s <= 0:
            return Written(want, GONE, b"", 0.0)
        held, data = self._shared.codec.hold(value)
        return Written(want, held, data, life_s)

    def record(self, names: Iterable[str], why: str) -> Record:
        """Give the record that announces a write."""
        return record_of(self._shared.cache.node, tuple(names), reason=why)

    def record_of_all(self) -> Record:
        """Give the record that ends all of them."""
        return self.record(self._scopes, "clear")

    def life_s(self, timeout: float | None) -> float:
        """Give the seconds of a timeout; there is always an end: that of `max_ttl`."""
        max_s = self._shared.max_ttl_s
        return max_s if timeout is None else min(float(timeout), max_s)


def last_of(values: list[Any], key: Any) -> Any:
    """Give the sum that was written last; there is none where the cache is disabled.

    Raises:
        ValueError: As if there were no such key.
    """
    if not values:
        raise ValueError(f"Key {key!r} not found")
    return values[-1]
