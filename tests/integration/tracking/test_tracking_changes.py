from __future__ import annotations

import contextlib
from typing import Any

import pytest
from sqlalchemy import Engine, String, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from tests.support.tracked_shop import (
    Buyer,
    Coupon,
    Line,
    Owner,
    Product,
    Shelf,
    Tag,
    TrackedShop,
    bundle,
    product_tag,
)
from unstale.errors import KeyTemplateError, ScopeError, UsageError
from unstale.sqlalchemy import touched, track
from unstale.sqlalchemy.changes import SCOPES_MAX
from unstale.testing.disabled import disabled

pytestmark = pytest.mark.real


def one_of(shop: TrackedShop) -> set[str]:
    """Give the scopes of the only record."""
    (scopes,) = shop.published()
    return scopes


# Rows -----------------------------------------------------------------------------------------------------------------


def test_a_flush_publishes_rows_and_tables(shop: TrackedShop) -> None:
    """Rows that are inserted, changed and deleted are published by their keys, once, and a clean one is not."""
    with shop.sessions.begin() as session:
        session.add(Product(id=17, price=1))
        session.get_one(Product, 1).price = 11
        session.delete(session.get_one(Product, 3))
        product = session.get_one(Product, 2)
        product.price = 99
        product.price = 20  # as it was
    assert one_of(shop) == {"table:product", "product:1", "product:3", "product:17"}


def test_a_key_of_the_database_is_published(shop: TrackedShop) -> None:
    """A key that the database gives is known when its row is published."""
    with shop.sessions.begin() as session:
        owner = Owner(name="new")
        session.add(owner)
        session.flush()
        number = owner.id
    assert one_of(shop) == {"table:owner", f"owner:{number}"}


def test_reads_and_empty_transactions_publish_nothing(shop: TrackedShop) -> None:
    """Nothing is published where nothing was changed."""
    with shop.sessions.begin() as session:
        assert session.get_one(Product, 1).price == 10
    with shop.sessions.begin():
        pass
    with shop.sessions() as session:
        session.execute(text("select 1"))
        session.commit()
    assert shop.published() == []


def test_a_changed_key_ends_the_old_row_and_the_new(shop: TrackedShop) -> None:
    """When a row gets another key, what was read under either of them ends."""
    with shop.sessions.begin() as session:
        session.get_one(Product, 3).id = 33
    with shop.sessions.begin() as session:
        session.execute(update(Product).where(Product.id == 33).values(id=34))
    with shop.sessions.begin() as session:
        session.execute(update(Product).where(Product.id == 34).values(id=Product.id + 1))
    assert shop.published() == [
        {"table:product", "product:3", "product:33"},
        {"table:product", "product:33", "product:34"},
        {"table:product", "product"},  # computed by the database: nobody knows it
    ]


def test_templates_name_rows(shop: TrackedShop) -> None:
    """A class says what its rows are called; a key of two parts, and a text, are written as in a function's key."""

    @shop.cache.cached("coupon:{code}")
    def coupon(code: str) -> int:
        return 0

    with shop.sessions.begin() as session:
        session.add(Line(order=5, number=3))
        session.add(Coupon(code="a:b %", worth=1))
    assert one_of(shop) == {"table:order_line", "order:5:line:3", "table:coupon", coupon.key("a:b %")}


def test_templates_can_be_given(engine: Engine) -> None:
    """Scopes that are given to `track` count more than what a class says; their namespace ends all rows."""
    with contextlib.closing(TrackedShop(engine)) as shop:
        shop.track(scopes={Product: "shop:item:{id}", Line: "order:{order}"})
        with shop.sessions.begin() as session:
            session.get_one(Product, 1).price = 0
            session.get_one(Line, (5, 1)).amount = 9
        with shop.sessions.begin() as session:
            session.execute(update(Product).values(price=0))
        rows, bulk = shop.published()
        assert rows == {"table:product", "shop:item:1", "table:order_line", "order:5"}
        assert bulk == {"table:product", "shop:item"}


@pytest.mark.parametrize(
    ("scopes", "says"),
    [
        ({Product: "product:{price}"}, 'write "product:{id}"'),
        ({Product: "product"}, 'write "product:{id}"'),
        ({Product: "product:{id}:{"}, "cannot stand in the template"),
        ({Product: "{id}"}, "does not begin with a namespace"),
        ({Line: "line:{order}{number}"}, "put a colon between them"),
        ({Product: 7}, '__unstale_scope__ = "product:{id}"'),
        ({Buyer: "buyer:{id}"}, "write scopes={Staff:"),
        ({int: "int:{id}"}, "no mapped class"),
    ],
)
def test_templates_are_checked_at_once(engine: Engine, scopes: Any, says: str) -> None:
    """A template that cannot name rows is refused when sessions are tracked, with what to write."""
    with contextlib.closing(TrackedShop(engine)) as shop:
        with pytest.raises((KeyTemplateError, ScopeError), match=r"(?s).*") as refused:
            shop.track(scopes=scopes)
        assert says in str(refused.value)


# Relations ------------------------------------------------------------------------------------------------------------


def test_an_association_ends_what_it_joins(shop: TrackedShop) -> None:
    """A row of an association is published with its table, and the rows on both its sides."""
    ends = {"table:product_tag", "product_tag:1:2", "table:product", "product:1", "table:tag", "tag:2"}
    with shop.sessions.begin() as session:
        product = session.get_one(Product, 1)
        product.tags.append(session.get_one(Tag, 2))
    with shop.sessions.begin() as session:
        product = session.get_one(Product, 1)
        product.tags.remove(session.get_one(Tag, 2))
    with shop.sessions.begin() as session:
        session.execute(product_tag.insert(), [{"product_id": 1, "tag_id": 2}])
    assert shop.published() == [ends] * 3


def test_an_association_without_a_key_is_told_by_what_it_joins(shop: TrackedShop) -> None:
    """The rows of an association without a primary key are known by its foreign keys."""
    with shop.sessions.begin() as session:
        session.execute(bundle.insert().values(whole_id=1, part_id=2))
        session.execute(bundle.delete().where(bundle.c.whole_id == 1))
    scopes = one_of(shop)
    assert {"bundle:1:2", "product:1", "product:2"} < scopes
    assert {"bundle", "product"} < scopes  # of the rows that were deleted one side is known only


def test_a_row_in_two_tables_has_one_name(shop: TrackedShop) -> None:
    """Where a row is spread over the tables of its class and its base, the base names it."""
    with shop.sessions.begin() as session:
        session.get_one(Buyer, 7).budget = 5
    assert one_of(shop) == {"table:buyer", "buyer:7", "table:staff", "staff:7"}


def test_h31_what_the_database_deletes_by_itself_is_published(shop: TrackedShop) -> None:
    """Rows that go with others, by ON DELETE, are rows that nobody has named: all of their table."""
    with shop.sessions.begin() as session:
        session.delete(session.get_one(Shelf, 1))
    assert one_of(shop) == {"table:shelf", "shelf:1", "table:box", "box"}


def test_h31_a_row_ends_however_a_function_declares_its_key(shop: TrackedShop) -> None:
    """Where a parameter declares several types the key of a text like '17' carries its type: that entry ends too."""
    known = {"17": 5}

    @shop.cache.cached("coupon:{code}")
    def worth(code: str | None) -> int:
        return known[str(code)]

    with shop.sessions.begin() as session:
        session.add(Coupon(code="17", worth=5))
    assert one_of(shop) == {"table:coupon", "coupon:17", "coupon:str!17"}
    assert worth("17") == 5
    with shop.sessions.begin() as session:
        session.execute(update(Coupon).where(Coupon.code == "17").values(worth=6))
        known["17"] = 6
        assert worth("17") == 6, "the transaction sees its own change"
    assert worth("17") == 6


# Bulk -----------------------------------------------------------------------------------------------------------------


def test_h31_bulk_statements_end_all_rows(shop: TrackedShop) -> None:
    """A statement that changes rows whose keys it does not name ends all that depends on any row of the table."""
    dialect: Any = postgresql if shop.engine.dialect.name == "postgresql" else sqlite
    upsert = dialect.insert(Product).values(id=1, price=1)
    statements = [
        upsert.on_conflict_do_update(index_elements=["id"], set_={"price": 7}),
        upsert.on_conflict_do_nothing(),
        update(Product).where(Product.price > 10).values(price=0),
        update(Product.__table__).values(price=1),  # type: ignore[arg-type]
        delete(Product).where(Product.owner_id == 2),
        insert(Product).values([{"id": 50, "price": 1}, {"id": 51, "price": 1}]),
        insert(Product).from_select(["id", "price"], select(Product.id + 100, Product.price)),
    ]
    for statement in statements:
        with shop.sessions.begin() as session:
            session.execute(statement)
    assert shop.published() == [{"table:product", "product"}] * len(statements)


def test_h31_bulk_statements_with_keys_end_those_rows(shop: TrackedShop) -> None:
    """A statement that names keys ends their rows and no others, whichever way it is issued."""
    with shop.sessions.begin() as session:
        session.execute(update(Product).where(Product.id == 1, Product.price > 0).values(price=0))
        session.execute(delete(Product).where(Product.id.in_([2, 3])))
        session.connection().execute(update(Product.__table__).where(Product.id == 4).values(price=0))  # type: ignore[arg-type]
        session.execute(update(Product), [{"id": 1, "price": 2}])
        session.execute(insert(Product), [{"id": 5, "price": 5}, {"id": 6, "price": 6}])
        session.bulk_insert_mappings(Product, [{"id": 7, "price": 5}])
        session.bulk_update_mappings(Product, [{"id": 5, "price": 6}])
        session.bulk_save_objects([Product(id=8, price=8)])
    assert one_of(shop) == {"table:product", *(f"product:{n}" for n in range(1, 9))}


def test_h31_a_statement_that_fails_may_have_changed_something(shop: TrackedShop) -> None:
    """Where a statement failed in part and its transaction is committed all the same, what it may have done is told."""
    with shop.sessions.begin() as session, contextlib.suppress(IntegrityError):
        session.execute(insert(Product), [{"id": 9, "price": 1}, {"id": 1, "price": 1}])
    if shop.engine.dialect.name == "sqlite":
        assert one_of(shop) == {"table:product", "product"}


def test_h27_many_rows_are_published_in_parts(shop: TrackedShop) -> None:
    """A transaction that changes very many rows publishes several records: none grows without bound, no row is left."""
    with shop.sessions.begin() as session:
        session.add_all([Product(id=1000 + n, price=n) for n in range(SCOPES_MAX)])
    first, second = shop.published()
    assert len(first) == SCOPES_MAX
    assert first | second == {"table:product", *(f"product:{1000 + n}" for n in range(SCOPES_MAX))}


def test_h31_what_a_text_changes_is_told_by_hand(shop: TrackedShop) -> None:
    """A text is not understood: `touched` names what it changes, and that is published at the commit or not at all."""
    with shop.sessions.begin() as session:
        session.execute(text("update product set price = 0 where id = 1"))
        touched(session, "product:1", Coupon)
        assert shop.published() == []
    with shop.sessions() as session:
        touched(session, "product:2")
        session.rollback()
    assert one_of(shop) == {"product:1", "table:coupon", "coupon"}


# What can be tracked --------------------------------------------------------------------------------------------------


def test_what_can_be_tracked(engine: Engine) -> None:
    """Makers, scoped sessions, classes and single sessions can be tracked, and no others tell the cache anything."""

    class Mine(Session):
        pass

    maker = sessionmaker(engine)
    scoped = scoped_session(sessionmaker(engine))
    single = Session(engine)
    with contextlib.closing(TrackedShop(engine)) as shop:
        for target in (maker, scoped, Mine, single):
            track(target, shop.cache)
            with pytest.raises(UsageError, match="tracked for this cache already"):
                track(target, shop.cache)
        for session in (maker(), scoped(), Mine(engine), single, Session(engine), sessionmaker(engine)()):
            with session:
                session.get_one(Product, 1).price += 1
                session.commit()
        touched(scoped, "by:hand")
        scoped.commit()
        scoped.remove()
        assert shop.published() == [{"table:product", "product:1"}] * 4 + [{"by:hand"}]
        with pytest.raises(UsageError, match="makes no sessions"):
            track(engine, shop.cache)
        with pytest.raises(UsageError, match="is not tracked"):
            touched(Session(engine), "product:1")
        with pytest.raises(ScopeError):
            touched(single, int)


def test_two_caches_are_told_of_one_session(engine: Engine) -> None:
    """A session that is tracked for two caches tells both."""
    with contextlib.closing(TrackedShop(engine)) as one, contextlib.closing(TrackedShop(engine)) as other:
        one.track()
        track(one.sessions, other.cache)
        with one.sessions.begin() as session:
            session.get_one(Product, 1).price = 0
        assert one.published() == other.published() == [{"table:product", "product:1"}]


def test_h01_a_session_within_a_foreign_transaction_is_refused(shop: TrackedShop) -> None:
    """A session that cannot see the end of its transaction must not change anything unseen, but in tests."""
    connected = shop.engine.connect()
    with connected as connection, connection.begin(), shop.sessions(bind=connection) as session:
        session.get_one(Product, 1).price = 0
        with pytest.raises(UsageError, match=r"(?s)connection's own transaction.*bind sessions to the engine"):
            session.flush()
    with shop.engine.connect() as connection, connection.begin() as foreign:
        with disabled(shop.cache), shop.sessions(bind=connection) as session:
            session.get_one(Product, 1).price = 0
            session.commit()
        foreign.rollback()
    assert shop.published() == []


def test_classes_that_are_mapped_later_are_known(engine: Engine) -> None:
    """A class that is mapped after its sessions were tracked names its rows all the same, and is checked then."""
    with contextlib.closing(TrackedShop(engine)) as shop:
        shop.track()

        class Other(DeclarativeBase):
            pass

        class Late(Other):
            __tablename__ = "coupon"
            __unstale_scope__ = "latest:{key}"
            key: Mapped[str] = mapped_column("code", String(40), primary_key=True)
            worth: Mapped[int]

        class Wrong(Other):
            __tablename__ = "tag"
            __unstale_scope__ = "tag:{label}"
            id: Mapped[int] = mapped_column(primary_key=True)
            label: Mapped[str]

        with shop.sessions.begin() as session:
            session.get_one(Late, "ten").worth = 11
        assert one_of(shop) == {"table:coupon", "latest:ten"}
        with shop.sessions() as session, pytest.raises(KeyTemplateError, match="no attribute of its primary key"):
            session.get(Wrong, 1)
        Other.registry.dispose()
