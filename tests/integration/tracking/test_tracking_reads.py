from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, exists, func, literal_column, select, text, union_all, update
from sqlalchemy.orm import Session, aliased, joinedload, selectinload

from tests.support.tracked_shop import (
    Buyer,
    Coupon,
    Line,
    Owner,
    Product,
    Shelf,
    Staff,
    Tag,
    TrackedShop,
    product_tag,
)
from unstale.errors import ScopeError
from unstale.sqlalchemy import narrowed

pytestmark = pytest.mark.real

_views = itertools.count()
_other = aliased(Product)


def tags(shop: TrackedShop, read: Callable[[Session], Any], session: Session | None = None) -> set[str]:
    """Give the scopes of an entry that is loaded by a session, as `explain` shows them."""

    def load() -> str:
        if session is not None:
            return repr(read(session))
        with shop.sessions() as own:
            return repr(read(own))

    key = f"view:{next(_views)}"
    shop.cache.get_or_load(key, load)
    explained = shop.cache.explain(key)
    assert explained.servable, "it was not kept"
    return set(explained.marks) - {key, "view", "*"}


TABLE = {"table:product", "product"}


@pytest.mark.parametrize(
    ("read", "scopes"),
    [
        (lambda s: s.get(Product, 1), {"product:1", "product"}),
        (lambda s: s.get(Product, 99), {"product:99", "product"}),
        (lambda s: s.scalar(select(Product).where(Product.id == 1)), {"product:1", "product"}),
        (lambda s: s.scalar(select(Product.price).where(Product.price > 0, Product.id == 1)), {"product:1", "product"}),
        (lambda s: s.query(Product).filter_by(id=1).one(), {"product:1", "product"}),
        (
            lambda s: s.scalars(select(Product).where(Product.id.in_([1, 2]))).all(),
            {"product:1", "product:2", "product"},
        ),
        (lambda s: s.scalars(select(Product).where(Product.id.in_(range(200)))).all(), TABLE),
        (lambda s: s.get(Line, (5, 1)), {"order:5:line:1", "order"}),
        (lambda s: s.scalars(select(Line).where(Line.order == 5)).all(), {"table:order_line", "order"}),
        (lambda s: s.get(Coupon, "ten"), {"coupon:ten", "coupon"}),
        (lambda s: s.get(Buyer, 7), {"staff:7", "staff", "buyer:7", "buyer"}),
        (lambda s: s.get_one(Staff, 7).budget, {"staff:7", "staff", "buyer:7", "buyer"}),
        (lambda s: s.connection().execute(Product.__table__.select()).all(), TABLE),
        (lambda s: s.scalars(select(Product)).all(), TABLE),
        (lambda s: s.scalar(select(func.count()).select_from(Product)), TABLE),
        (lambda s: s.scalars(select(Product).where((Product.id == 1) | (Product.id == 2))).all(), TABLE),
        (lambda s: s.scalars(select(Product).where(Product.id > 1)).all(), TABLE),
        (lambda s: s.scalars(select(Product).where(Product.id == Product.price)).all(), TABLE),
        (lambda s: s.scalars(select(_other).where(_other.id == 1)).all(), TABLE),
        (lambda s: s.scalars(select(Product).where(Product.id == 1).union_all(select(Product))).all(), TABLE),
        (lambda s: s.scalar(select(select(Product.id).where(Product.id == 1).subquery())), TABLE),
        (lambda s: s.scalar(select(select(Product.id).cte())), TABLE),
        (lambda s: s.execute(union_all(select(Product.id), select(Tag.id))).all(), {*TABLE, "table:tag", "tag"}),
        (lambda s: s.scalar(select(exists().where(Product.id == 1))), TABLE),
        (
            lambda s: s.scalars(select(Owner).where(Owner.id == 1, exists().where(Product.owner_id == 1))).all(),
            {"owner:1", "owner", *TABLE},
        ),
        (lambda s: s.scalar(select(Product).join(Product.owner).where(Owner.id == 1)), {"owner:1", "owner", *TABLE}),
        (lambda s: s.get_one(Product, 1).owner, {"product:1", "product", "owner:1", "owner"}),
        (lambda s: len(s.get_one(Owner, 1).products), {"owner:1", "owner", *TABLE}),
        (lambda s: s.get(Owner, 1, options=[joinedload(Owner.products)]), {"owner:1", "owner", *TABLE}),
        (lambda s: s.get(Owner, 1, options=[selectinload(Owner.products)]), {"owner:1", "owner", *TABLE}),
        (
            lambda s: s.get_one(Product, 1).tags,
            {"product:1", "product", "table:tag", "tag", "table:product_tag", "product_tag"},
        ),
        (
            lambda s: s.get_one(Shelf, 1).boxes,
            {"table:shelf", "shelf", "table:box", "box"},
        ),  # correlated: in two places
        (lambda s: s.scalar(select(Product.price).where(Product.id == 1, text("price > 0"))), {"product:1", "product"}),
    ],
    ids=(f"read {number}" for number in itertools.count()),
)
def test_h06_what_is_read_is_tagged(shop: TrackedShop, read: Callable[[Session], Any], scopes: set[str]) -> None:
    """Rows that are asked for by their keys are tagged as rows, and every other query by all tables that it reads."""
    assert tags(shop, read) == scopes


def test_h06_what_a_session_holds_is_tagged(shop: TrackedShop) -> None:
    """An object that the session held already is tagged, though nothing is executed for it; so is what hangs on it."""
    with shop.sessions() as session:
        product = session.get_one(Product, 1)
        assert tags(shop, lambda s: s.get(Product, 1), session) == {"product:1", "product"}
        owner = session.get_one(Owner, 1)  # by key, and it is what a lazy load finds
        assert tags(shop, lambda s: s.get_one(Product, 1).owner, session) > {"product:1", "owner:1"}
        assert owner is product.owner
        assert tags(shop, lambda s: s.get(Product, 1), session) == {"product:1", "product", "table:owner"}
        assert len(owner.products) == 3
        read = tags(shop, lambda s: s.scalars(select(Owner).where(Owner.id == 1)).one().products, session)
        assert read == {"owner:1", "owner", "table:owner", "table:product"}


def test_h06_a_session_that_holds_much_tags_all_that_it_has_read(shop: TrackedShop) -> None:
    """Where a session holds very many objects, a load depends on all tables that it has read before."""
    with shop.sessions() as session:
        session.add_all([Tag(id=100 + n) for n in range(200)])
        session.commit()
        held = session.scalars(select(Tag)).all()
        session.scalars(select(Coupon)).all()
        assert tags(shop, lambda s: s.get(Owner, 1), session) == {"owner:1", "owner", "table:tag", "table:coupon"}
        assert len(held) == 202


def test_h06_loads_around_a_load_are_tagged(shop: TrackedShop) -> None:
    """What a load within a load reads is tagged in both, also where the inner one fails."""

    def inner() -> int:
        with shop.sessions() as session:
            return session.get_one(Product, 99).price

    def outer(_session: Session) -> None:
        with contextlib.suppress(Exception):
            shop.cache.get_or_load("inner", inner)

    assert tags(shop, outer) == {"product:99", "product"}


def test_h06_columns_that_are_queries_hang_on_their_object(shop: TrackedShop) -> None:
    """A column that is computed from another table was read when its object was: an object held tags that table."""
    with shop.sessions() as session:
        shelf = session.get_one(Shelf, 1)
        assert tags(shop, lambda s: s.get(Shelf, 1), session) == {"shelf:1", "shelf", "table:box", "table:shelf"}
        assert shelf.boxes == 2


def test_narrowed_queries_depend_on_what_they_are_narrowed_to(shop: TrackedShop) -> None:
    """In a block that narrows them, queries depend on the given scopes, and on changes of unknown rows."""

    def read(session: Session) -> Any:
        with narrowed("owner:1:products"):
            session.get(Product, 1)
            return session.scalars(select(Product).where(Product.owner_id == 1)).all()

    assert tags(shop, read) == {"owner:1:products", "product:1", "product"}
    with pytest.raises(ScopeError), narrowed():
        pass
    with pytest.raises(ScopeError), narrowed(""):
        pass


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s.execute(text("select price from product")).all(),
        lambda s: s.scalars(select(Product).from_statement(text("select * from product"))).all(),
        lambda s: s.connection().exec_driver_sql("select price from product").fetchall(),
        lambda s: s.execute(select(literal_column("(select max(price) from product)"))).all(),
        lambda s: s.scalars(select(Tag).where(text("id in (select tag_id from product_tag)"))).all(),
    ],
    ids=["text", "from_statement", "driver", "literal", "condition"],
)
def test_h06_a_text_has_to_be_narrowed(shop: TrackedShop, read: Callable[[Session], Any]) -> None:
    """What reads by text is not kept, and it is said why; narrowed, it depends on what it is narrowed to."""

    def load(*scopes: str) -> None:
        with shop.sessions() as session, narrowed(*scopes) if scopes else contextlib.nullcontext():
            read(session)

    shop.cache.get_or_load("view", load)
    assert shop.cache.get("view", "nothing") == "nothing"
    assert {what for what, _error in shop.troubles} == {"tag"}
    assert "narrowed(" in str(shop.troubles[0][1])
    shop.cache.get_or_load("view", lambda: load("prices"))
    assert "prices" in shop.cache.explain("view").marks


def test_keys_that_need_not_be_equal_as_texts_are_tables(shop: TrackedShop) -> None:
    """A key of another type than the column's may be the same row under another text: it counts as the table."""
    if shop.engine.dialect.name == "sqlite":  # the other one refuses it
        assert tags(shop, lambda s: s.scalar(select(Product.price).where(Product.id == "1"))) == TABLE
        assert tags(shop, lambda s: s.get(Product, 1.0)) == TABLE


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_h31_an_entry_ends_with_what_it_was_made_of(engine: Engine, tmp_path: Path, url: str) -> None:
    """Whatever way a row is changed, the entries made of it are loaded anew, and those of other rows are not."""
    with contextlib.closing(TrackedShop(engine, url if "://" in url else f"sqlite:///{tmp_path}/cache")) as shop:
        shop.track()
        loads: list[object] = []

        @shop.cache.cached("price:{product_id}")
        def price(product_id: int) -> int:
            loads.append(product_id)
            with shop.sessions() as session:
                return session.get_one(Product, product_id).price

        @shop.cache.cached("total")
        def total() -> int:
            loads.append("total")
            with shop.sessions() as session:
                return session.scalar(select(func.sum(Product.price))) or 0

        def read() -> tuple[list[int], list[object]]:
            loads.clear()
            return [price(1), price(2), total()], [*loads]

        assert read() == ([10, 20, 60], [1, 2, "total"])
        assert read() == ([10, 20, 60], [])
        with shop.sessions.begin() as session:
            session.get_one(Product, 1).price = 11
        assert read() == ([11, 20, 61], [1, "total"])
        with shop.sessions.begin() as session:
            session.get_one(Tag, 1).label = "other"
        assert read() == ([11, 20, 61], [])
        with shop.sessions.begin() as session:
            session.execute(update(Product).values(price=Product.price + 1))
        assert read() == ([12, 21, 64], [1, 2, "total"])


def test_an_association_ends_views_of_both_sides(shop: TrackedShop) -> None:
    """A view of one row with all that is joined to it ends when a row of the association comes or goes."""

    @shop.cache.cached("labels:{product_id}")
    def labels(product_id: int) -> int:
        with shop.sessions() as session:
            return len(session.get_one(Product, product_id).tags)

    assert [labels(1), labels(2)] == [1, 0]
    with shop.sessions.begin() as session:
        session.execute(product_tag.insert().values(product_id=2, tag_id=1))
    assert [labels(1), labels(2)] == [1, 1]
