"""A tracked shop in each database, on one server for all tests of this folder: none harms it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.postgres_servers import PostgresServer
from tests.support.tracked_shop import TrackedShop, databases, filled


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """Give a server, which knows two phases."""
    with PostgresServer(max_prepared_transactions=5) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Give a shop in each database."""
    server = request.getfixturevalue("server") if request.param == "postgresql" else None
    with databases(request.param, tmp_path, server) as engine:
        filled(engine)
        yield engine


@pytest.fixture
def shop(engine: Engine) -> Iterator[TrackedShop]:
    """Give a tracked shop."""
    with contextlib.closing(TrackedShop(engine)) as shop:
        shop.track()
        yield shop


@pytest.fixture
def on_postgres(server: PostgresServer, tmp_path: Path) -> Iterator[TrackedShop]:
    """Give a tracked shop on PostgreSQL."""
    with databases("postgresql", tmp_path, server) as engine, contextlib.closing(TrackedShop(engine)) as shop:
        filled(engine)
        shop.track()
        yield shop
