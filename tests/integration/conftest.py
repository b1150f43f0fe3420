"""What several files of real tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_servers import RedisServer
from unstale.engines.sqlite import SQLiteEngine


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give one private server for all tests that neither harm nor empty it, each under a name of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the place of a cache's file."""
    return tmp_path / "shop.cache"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., SQLiteEngine]]:
    """Make engines upon the file; all are closed at the end."""
    made: list[SQLiteEngine] = []

    def one(at: Path | None = None, **options: Any) -> SQLiteEngine:
        made.append(SQLiteEngine(str(at or path), **options))
        return made[-1]

    yield one
    for engine in made:
        engine.close()
