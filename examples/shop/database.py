"""The engine and its sessions, as any application has them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from shop.settings import settings

WAIT_S = 15  # of one writer of SQLite for another one: there is one at a time

engine = create_async_engine(
    settings.async_database,
    connect_args={"timeout": WAIT_S} if settings.database.startswith("sqlite") else {},
)
sessions = async_sessionmaker(engine)


if settings.database.startswith("sqlite"):

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        """Let readers of SQLite go on while somebody writes, and do not wait for the disk at each commit."""
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()
