from __future__ import annotations

import pytest
from rich.console import Console

from tests.soak.run import show, soak
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.real
SECONDS = 60  # `make soak` runs an hour


def test_h27_a_minute_of_soak_on_redis() -> None:
    """While nodes come and go, and every scope is a new one, nothing grows: neither in nodes nor in the server."""
    with RedisServer() as server:
        told, whole = soak(server.url, SECONDS, print)
    show(told, Console(width=120))  # shown when it fails
    assert told.findings == []
    assert whole
    assert told.seen["reads"] > 10_000
    assert told.seen["stale"] > 0, "readers and writers meet"
    assert min(told.seen[name] for name in ("killed", "failed", "timed out", "come_and_go", "herd")) > 0
