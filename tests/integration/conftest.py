"""What several files of real tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give one private server for all tests that neither harm nor empty it, each under a name of its own."""
    with RedisServer() as server:
        yield server
