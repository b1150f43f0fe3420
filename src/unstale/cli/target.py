"""Where a demo or a replay keeps the cache of unstale: in a file of its own, or where a URL leads."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from unstale.cache import Cache
from unstale.cli.plan import Settings
from unstale.errors import UsageError

PASSWORD: Final = re.compile(r"(?<=://)([^/@]*):[^/@]*@|(?<=password=)[^&\s\"']+")


def usable(url: str) -> str:
    """Make sure that other processes can reach the cache.

    Raises:
        UsageError: They cannot.
    """
    if urlsplit(url).scheme == "memory":
        msg = f"{url} lives in one process, and the workers are several"
        raise UsageError(msg, hint="leave out --url, or write --url sqlite:////tmp/replay.cache")
    return url


def shown(text: str) -> str:
    """Give a text without the passwords in its URLs."""
    return PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", text)


def end_all(settings: Settings, reason: str) -> None:
    """End what an earlier run left in the cache: the versions of this one's truth begin at 1 again.

    Raises:
        EngineError: The cache cannot be reached.
    """
    with Cache(
        settings.url, name=settings.name, max_staleness=settings.bound, on_trouble=lambda _what, _error: None
    ) as cache:
        cache.ports.log.read_head()  # what is wrong shows here, and at once
        cache.invalidate("*", reason=reason)
