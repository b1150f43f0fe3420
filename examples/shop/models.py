"""The tables. Nothing here knows of a cache."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Tenant(Base):
    __tablename__ = "tenant"

    id: Mapped[str] = mapped_column(primary_key=True)  # as it stands in URLs
    title: Mapped[str]


class Product(Base):
    __tablename__ = "product"
    __table_args__ = (Index("product_of_tenant", "tenant", "category", "name"), CheckConstraint("stock >= 0"))

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenant.id"))
    category: Mapped[str]
    name: Mapped[str]
    description: Mapped[str]
    price: Mapped[int]  # in cents: money is no float
    stock: Mapped[int]
    version: Mapped[int] = mapped_column(default=1)  # raised by each change


class Change(Base):
    """What a product was worth, and how many there were, since each of its changes."""

    __tablename__ = "change"
    __table_args__ = (UniqueConstraint("product_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    version: Mapped[int]
    price: Mapped[int]
    stock: Mapped[int]


class Review(Base):
    __tablename__ = "review"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), index=True)
    stars: Mapped[int]
    text: Mapped[str]


class CartLine(Base):
    __tablename__ = "cart_line"

    cart_id: Mapped[str] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), primary_key=True)
    tenant: Mapped[str]
    quantity: Mapped[int]
