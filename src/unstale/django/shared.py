"""What all backends of one alias share: Django makes a backend for each thread and each task, and they are one node."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.cache import caches

from unstale.cache import Cache
from unstale.core.calls import publish_record
from unstale.core.durations import seconds
from unstale.core.policy import Policy
from unstale.core.record import Record
from unstale.django.values import SignedValues
from unstale.errors import UsageError

MAX_TTL: Final = "30d"  # what has no timeout lives so long; Django's sessions, two weeks by default, must fit
NAME: Final = "django"
USUAL_TTL_S: Final = 300.0
OWN: Final = frozenset({"on_commit"})
OF_CACHE: Final = frozenset(inspect.signature(Cache).parameters) - {"url", "policy", "ports", "clock"}
CULLING: Final = frozenset({"MAX_ENTRIES", "CULL_FREQUENCY"})


class Shared:
    """What the backends of one LOCATION and OPTIONS share.

    Args:
        location: LOCATION, the URL of the cache.
        options: OPTIONS.

    Attributes:
        cache: The cache.
        codec: What signs values.
        policy: How single entries are kept; their lives are given with each.
        change_policy: The same for reads on which a write depends: there a failing store is an error, not a miss.
        on_commit: Writes within a transaction wait for its commit.
        max_ttl_s: The longest life.
        secrets: Those of OPTIONS, which sign records and entries too.
        atomic: A value and its record are written in one step.
    """

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        given = {name: value for name, value in options.items() if name not in CULLING}
        if unknown := sorted(given.keys() - OF_CACHE - OWN):
            known = ", ".join(sorted(OF_CACHE | OWN | CULLING))
            msg = f"OPTIONS of the cache backend has {', '.join(unknown)}, which is unknown"
            raise UsageError(msg, hint=f"the options are: {known}", unknown=unknown)
        self.on_commit = given.pop("on_commit", True)
        if not isinstance(self.on_commit, bool):
            raise UsageError(f"on_commit cannot be {self.on_commit!r}", hint='write "on_commit": True or False')
        max_ttl = given.setdefault("max_ttl", MAX_TTL)
        self.max_ttl_s = seconds(max_ttl, "max_ttl")
        self.policy = Policy(ttl=self.max_ttl_s, jitter=0.0)
        self.change_policy = self.policy.but(store_out="refuse")
        secret = given.get("secret")
        secrets = [secret] if isinstance(secret, str | bytes) else list(secret or ())
        self.secrets = [text for text in secrets if isinstance(text, str)]
        self.codec = SignedValues(secrets or [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS])
        usual = Policy(ttl=min(USUAL_TTL_S, self.max_ttl_s))  # of functions that are cached through `cache_of`
        self.cache = Cache(location, policy=usual, **{"name": NAME, **given})
        self.atomic = self.cache.ports.puts

    def publish(self, record: Record) -> None:
        """Publish a record."""
        self.cache.run(publish_record(self.cache.active, record, wait=False))


_shared: dict[bytes, Shared] = {}
_lock = threading.Lock()


def _reborn() -> None:
    global _lock  # noqa: PLW0603 - in a forked child it may be held for ever (H23)
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reborn)


def shared_of(location: Any, options: Mapping[str, Any]) -> Shared:
    """Give what the backends of a LOCATION and OPTIONS share; the first to ask makes it.

    Raises:
        UsageError: A LOCATION that is no URL, or an option that is none.
    """
    if not isinstance(location, str) or "://" not in location:
        hint = 'write "LOCATION": "redis://localhost:6379/0", "sqlite:////var/cache/shop.cache" or "memory://"'
        raise UsageError(f"LOCATION is the URL of a cache, not {location!r}", hint=hint)
    key = msgspec.json.encode([location, sorted(options.items(), key=lambda item: item[0])], enc_hook=repr)
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            shared = _shared[key] = Shared(location, options)
        return shared


def cache_of(alias: str = "default") -> Cache:
    """Give the cache behind an alias of CACHES, for `@cache_of("default").cached(...)` and `invalidate`.

    Functions cached by it and what `django.core.cache` holds share one log, one memory and one bound.

    Args:
        alias: The alias.

    Raises:
        UsageError: Its backend is another one.
        InvalidCacheBackendError: There is no such alias.
    """
    backend = caches[alias]
    shared: object = getattr(backend, "shared", None)
    if not isinstance(shared, Shared):
        msg = f"the cache {alias!r} is a {type(backend).__module__}.{type(backend).__qualname__}"
        raise UsageError(msg, hint='write "BACKEND": "unstale.django.Cache"')
    return shared.cache
