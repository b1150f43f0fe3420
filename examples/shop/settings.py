"""What can be set, by the environment: `make shop` and `python -m shop` set it for their workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HERE = Path(os.environ.get("SHOP_FOLDER", ".shop")).resolve()  # where the two SQLite files lie by default


@dataclass(frozen=True)
class Settings:
    """The settings of one worker.

    database: `sqlite:///path` or `postgresql+psycopg://user@host/name`.
    cache: `sqlite:///path`, `redis://host:port/0`, or `none`: the same application without a cache.
    max_staleness: nothing is served that was changed longer ago than this.
    secret: signs the cookie that lets visitors see their own changes; 16 bytes or more, the same for all workers.
    products: how many the shop is seeded with, when its database is new.
    """

    database: str
    cache: str
    max_staleness: str
    secret: str | None
    products: int

    @property
    def cached(self) -> bool:
        return self.cache != "none"

    @property
    def async_database(self) -> str:
        """The database for asynchronous sessions; psycopg needs no other name for them."""
        return self.database.replace("sqlite://", "sqlite+aiosqlite://", 1)

    @property
    def plain_database(self) -> str:
        """The database for those who know nothing of SQLAlchemy's drivers: the outbox and its relay."""
        return self.database.replace("postgresql+psycopg://", "postgresql://", 1)


def read_settings() -> Settings:
    """Read them once: each worker imports this module anew."""
    return Settings(
        database=os.environ.get("SHOP_DATABASE") or f"sqlite:///{HERE}/shop.db",
        cache=os.environ.get("SHOP_CACHE") or f"sqlite:///{HERE}/shop.cache",
        max_staleness=os.environ.get("SHOP_MAX_STALENESS") or "2s",
        secret=os.environ.get("SHOP_SECRET") or None,
        products=int(os.environ.get("SHOP_PRODUCTS") or 10_000),
    )


settings = read_settings()
