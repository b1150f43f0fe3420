"""unstale: caches that cannot serve what was invalidated longer ago than a bound that they prove."""

from unstale import errors
from unstale._version import __version__
from unstale.cache import Cache, Ticket
from unstale.cached import AsyncCached, Cached
from unstale.core.codec import Codec, SignedPickle
from unstale.core.context import Read
from unstale.core.explain import Explanation
from unstale.core.keys import escape
from unstale.core.origin import Origin
from unstale.core.policy import Policy
from unstale.core.write import Receipt
from unstale.errors import UnstaleError
from unstale.loading import needs_primary, observe, skip, tag, ttl, version
from unstale.session import Session, session

__all__ = [
    "AsyncCached",
    "Cache",
    "Cached",
    "Codec",
    "Explanation",
    "Origin",
    "Policy",
    "Read",
    "Receipt",
    "Session",
    "SignedPickle",
    "Ticket",
    "UnstaleError",
    "__version__",
    "errors",
    "escape",
    "needs_primary",
    "observe",
    "session",
    "skip",
    "tag",
    "ttl",
    "version",
]
