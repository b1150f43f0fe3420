"""A small shop in a database, its mapped classes, and a cache that its sessions tell of what they commit."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Engine, ForeignKey, String, Table, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, mapped_column, relationship, sessionmaker

from tests.support.postgres_servers import PostgresServer
from unstale import Cache
from unstale.core.ops import Member
from unstale.core.record import Record
from unstale.sqlalchemy import track

_names = itertools.count()


class Base(DeclarativeBase):
    pass


product_tag = Table(
    "product_tag",
    Base.metadata,
    Column("product_id", ForeignKey("product.id"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id"), primary_key=True),
)
bundle = Table(
    "bundle",
    Base.metadata,
    Column("whole_id", ForeignKey("product.id")),
    Column("part_id", ForeignKey("product.id")),
)


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    products: Mapped[list[Product]] = relationship(back_populates="owner")


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int]
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner | None] = relationship(back_populates="products")
    tags: Mapped[list[Tag]] = relationship(secondary=product_tag)


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(default="")


class Line(Base):
    """A class whose key has two parts, and that says itself what its rows are called."""

    __tablename__ = "order_line"
    __unstale_scope__ = "order:{order}:line:{number}"
    order: Mapped[int] = mapped_column("order_id", primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int] = mapped_column(default=1)


class Coupon(Base):
    """A class whose key is a text."""

    __tablename__ = "coupon"
    code: Mapped[str] = mapped_column(String(40), primary_key=True)
    worth: Mapped[int]


class Staff(Base):
    """A class whose rows are spread over two tables."""

    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "staff"}  # noqa: RUF012 - as it is written


class Buyer(Staff):
    __tablename__ = "buyer"
    id: Mapped[int] = mapped_column(ForeignKey("staff.id"), primary_key=True)
    budget: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "buyer"}  # noqa: RUF012 - as it is written


class Box(Base):
    __tablename__ = "box"
    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelf.id", ondelete="CASCADE"))


class Shelf(Base):
    """A class whose rows the database takes boxes with, and that counts them."""

    __tablename__ = "shelf"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    boxes: Mapped[int] = column_property(
        select(func.count(Box.id)).where(Box.shelf_id == number).correlate_except(Box).scalar_subquery()
    )


class TrackedShop:
    """A database, its sessions, and a cache that is told of them.

    Args:
        engine: The database.
        url: The cache's.
        how: Settings of the cache.
    """

    def __init__(self, engine: Engine, url: str = "memory://", **how: Any) -> None:
        self.engine = engine
        self.troubles: list[tuple[str, BaseException]] = []
        settings: dict[str, Any] = {"name": f"tracked {next(_names)}"} | how
        self.cache = Cache(url, on_trouble=lambda what, error: self.troubles.append((what, error)), **settings)
        self.cache.ticket()  # the log has answered: stamps can be taken
        self.sessions = sessionmaker(engine)

    def track(self, **how: Any) -> sessionmaker[Session]:
        """Track the sessions."""
        track(self.sessions, self.cache, **how)
        return self.sessions

    def log(self) -> list[Record]:
        """Give all records of the cache."""
        records: list[Record] = []
        while True:
            batch = self.cache.ports.log.poll(Member("reader", "", 0, 2.0), len(records), 500, 0.0)
            records.extend(logged.record for logged in batch.records)
            if len(records) >= batch.identity.head:
                return records

    def published(self, before: int = 0) -> list[set[str]]:
        """Give the scopes of all records but the first ones."""
        return [set(record.scopes) for record in self.log()[before:]]

    def close(self) -> None:
        """Close the cache, and the connections of the database."""
        self.cache.close()
        self.engine.dispose()


@contextlib.contextmanager
def databases(kind: str, folder: Path, server: PostgresServer | None = None) -> Iterator[Engine]:
    """Give an empty shop in a database, which is gone afterwards.

    Args:
        kind: `sqlite` or `postgresql`.
        folder: For the files.
        server: For PostgreSQL.
    """
    url = f"sqlite:///{folder}/shop.db"
    if kind == "postgresql":
        assert server is not None
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    try:
        yield engine
    finally:
        Base.metadata.drop_all(engine)
        engine.dispose()


def filled(engine: Engine) -> None:
    """Put into an empty shop what tests read and change."""
    with Session(engine) as session, session.begin():
        session.add_all([Owner(name="acme"), Owner(name="zenith")])  # the database gives the keys 1 and 2
        session.flush()
        session.add_all([Product(id=n, price=10 * n, owner_id=1) for n in (1, 2, 3)])
        session.add_all([Tag(id=1), Tag(id=2), Coupon(code="ten", worth=10), Shelf(number=1), Buyer(id=7)])
        session.add_all([Line(order=5, number=1), Line(order=5, number=2)])
        session.flush()
        session.add_all([Box(id=1, shelf_id=1), Box(id=2, shelf_id=1)])
        session.execute(product_tag.insert(), [{"product_id": 1, "tag_id": 1}])
