"""What a torture run is about: three tables, whose rows have a version each, and the two caches of them.

The cache `torture` is told by its writers, by an outbox, and for one table by triggers. Nobody tells the cache
`captured` anything: its relay reads a replication slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.torture.ledger import ROWS
from unstale import Cache
from unstale.sources.capture_config import Config, parse_config

TOLD: Final = "torture"
CAPTURED: Final = "captured"
BOUND_S: Final = 1.0
DELAY_S: Final = 0.25  # how much later than the primary the replica applies what is committed
LAG_S: Final = 0.7  # the lag that is declared for it; loads that find it later read the primary
CONFIG: Final[Config] = parse_config("[tables.item]\n[tables.part]\n[tables.stock]\n")
# Each kind of writer has rows of its own: what one forgets to tell, no other one tells in its place.
KINDS: Final[dict[str, range]] = {
    "ORM": range(40),
    "raw SQL": range(40, 80),
    "killed after commit": range(80, 120),
    "late commit": range(120, 160),
    "write-through": range(160, 170),
    "all of them": range(170, 200),
    "bulk": range(200, 260),
    "psql": range(260, 270),
    "plain psycopg": range(270, 285),
    "waits for a standby": range(285, ROWS),
}
NO_LIMIT: Final = "1h"  # of a life: nothing that is stale ends by itself


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


TABLES: Final[tuple[tuple[Any, range], ...]] = (
    (Item, range(200)),
    (Part, KINDS["bulk"]),
    (Stock, range(260, ROWS)),
)


def table_of(row: int) -> Any:
    """Give the class of a row."""
    return next(table for table, rows in TABLES if row in rows)


def key_of(row: int) -> str:
    """Give the key, and so the scope, of a row."""
    return f"{table_of(row).__tablename__}:{row}"


def select_of(row: int) -> str:
    """Give the query for a row's version."""
    return f"SELECT version FROM {table_of(row).__tablename__} WHERE id = {row}"


def update_of(row: int) -> str:
    """Give the statement that raises a row's version, and gives it."""
    return f"UPDATE {table_of(row).__tablename__} SET version = version + 1 WHERE id = {row} RETURNING version"


def open_engine(url: str, **how: Any) -> Engine:
    """Give a database's engine."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"), **how)


def open_cache(url: str, name: str = TOLD, *, trouble: Callable[[str, BaseException], None], **how: Any) -> Cache:
    """Open one of the caches."""
    settings: dict[str, Any] = {"max_staleness": BOUND_S, "truth": "outbox", "on_trouble": trouble}
    return Cache(url, name=name, **settings | how)
