from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from tests.support.tracked_shop import Owner, Product, TrackedShop
from tests.support.waiting import until
from unstale import Cache, observe
from unstale.sqlalchemy import touched, track

pytestmark = pytest.mark.real


def price_by(shop: TrackedShop, session: Session | None = None) -> int:
    """Give the cached price of product 1: loaded by a session, or by one of its own."""

    def load() -> int:
        if session is not None:
            return session.get_one(Product, 1).price
        with shop.sessions() as own:
            return own.get_one(Product, 1).price

    price: int = shop.cache.get_or_load("product:1", load, type=int)
    return price


def elsewhere(shop: TrackedShop) -> int:
    """Give the cached price, as another thread reads it."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(price_by(shop)))
    thread.start()
    thread.join()
    return found[0]


def raise_price(shop: TrackedShop) -> None:
    """Change the price in a transaction of another session."""
    with shop.sessions.begin() as session:
        session.get_one(Product, 1).price += 1


def kept(shop: TrackedShop) -> bool:
    """Say whether there is an entry that would be served."""
    return shop.cache.explain("product:1", type=int).servable


# Old views ------------------------------------------------------------------------------------------------------------


def test_h17_what_an_old_snapshot_shows_is_never_served(on_postgres: TrackedShop) -> None:
    """A load in a transaction that began before a commit shows what was before it: nobody else is served that.

    1. a transaction takes its snapshot: 10 2. another one commits 11, and its record is applied 3. a cached function is
    called in the first, and loads 10 after that record 4. whoever reads next has 11
    """
    shop = on_postgres
    repeatable = shop.engine.execution_options(isolation_level="REPEATABLE READ")
    with shop.sessions(bind=repeatable) as old:
        assert old.get_one(Owner, 1).name == "acme"  # the snapshot is taken
        raise_price(shop)
        with observe() as reads:
            assert price_by(shop, old) == 10
        assert reads[0].why == "loaded, not kept: overtaken by a record"
        assert elsewhere(shop) == 11
        assert price_by(shop, old) == 11  # a cache knows no snapshots
    assert price_by(shop) == 11


def test_h17_the_stamp_is_taken_before_the_snapshot(on_postgres: TrackedShop) -> None:
    """A commit between the begin of a transaction and its first statement is seen by it, and counts as not seen."""
    shop = on_postgres
    with shop.sessions(bind=shop.engine.execution_options(isolation_level="REPEATABLE READ")) as old:
        old.connection()
        raise_price(shop)
        assert price_by(shop, old) == 11
        assert not kept(shop)


def test_h17_who_waits_for_an_old_view_loads_anew(on_postgres: TrackedShop) -> None:
    """A reader that comes after a commit does not share the load of a transaction from before it (H5)."""
    shop = on_postgres
    begun, go_on = threading.Event(), threading.Event()
    found: list[int] = []
    with shop.sessions(bind=shop.engine.execution_options(isolation_level="REPEATABLE READ")) as old:
        old.get_one(Owner, 1)
        raise_price(shop)

        def load() -> int:
            begun.set()
            go_on.wait()
            return old.get_one(Product, 1).price

        leader = threading.Thread(target=lambda: found.append(shop.cache.get_or_load("product:1", load, type=int)))
        leader.start()
        begun.wait()
        reader = threading.Thread(target=lambda: found.append(price_by(shop)))
        reader.start()
        try:
            until(lambda: any(flight.signal._callbacks for flight in [*shop.cache.node.flights.values()]))
        finally:
            go_on.set()
            leader.join()
            reader.join()
    assert sorted(found) == [10, 11]


def test_h17_what_a_session_kept_of_an_earlier_transaction_is_old(shop: TrackedShop) -> None:
    """With `expire_on_commit=False` a session holds values of before: loads that find them are dated back to then."""
    with shop.sessions(expire_on_commit=False) as session:
        product = session.get_one(Product, 1)
        session.commit()
        raise_price(shop)
        session.connection()  # another transaction, which begins after that commit
        assert price_by(shop, session) == 10
        assert not kept(shop)
        session.rollback()
        assert elsewhere(shop) == 11
        session.expunge(product)
        shop.cache.invalidate("product:1")
        assert price_by(shop, session) == 11  # it holds nothing any more
        assert kept(shop)


def test_h17_what_was_detached_is_of_an_unknown_view(shop: TrackedShop) -> None:
    """An object that was attached to a session brings values of nobody knows when: they are not kept."""
    with Session(shop.engine) as other:
        product = other.get_one(Product, 1)
    raise_price(shop)
    with shop.sessions() as session:
        session.add(product)
        assert price_by(shop, session) == 10
        assert not kept(shop)
        session.rollback()
        assert price_by(shop, session) == 11
        assert kept(shop)


def test_h17_in_a_foreign_transaction_nothing_is_kept(shop: TrackedShop) -> None:
    """A session within a connection's own transaction does not know when that began."""
    with shop.engine.connect() as connection, connection.begin(), shop.sessions(bind=connection) as session:
        assert price_by(shop, session) == 10
        assert not kept(shop)


# Own changes ----------------------------------------------------------------------------------------------------------


def test_h17_own_changes_are_seen_by_nobody_else(shop: TrackedShop) -> None:
    """Who has changed a row reads past the cache until the commit; others are served what is committed."""
    assert price_by(shop) == 10
    with shop.sessions() as session:
        session.get_one(Product, 1).price = 11
        session.flush()
        with observe() as reads:
            assert price_by(shop, session) == 11
        assert reads[0].why == "loaded past the cache: a transaction here has changed it"
        if shop.engine.dialect.name == "postgresql":  # the other one locks the whole file
            assert elsewhere(shop) == 10
        assert price_by(shop, session) == 11
        session.rollback()
        assert price_by(shop, session) == 10
        session.get_one(Product, 1).price = 12
        session.commit()
        with observe() as reads:
            assert price_by(shop, session) == 12
        assert reads[0].why == "loaded"
    assert price_by(shop) == 12


def test_h01_what_was_written_is_not_loaded_for_others(shop: TrackedShop) -> None:
    """While a session has changes that are not committed, or not even flushed, nothing that it loads is kept."""

    def loads(session: Session) -> bool:
        shop.cache.get_or_load("owner:1", lambda: session.get_one(Owner, 1).name)
        return bool(shop.cache.get("owner:1", default=False))

    with shop.sessions() as session:
        session.get_one(Product, 1).price = 11  # not flushed
        assert price_by(shop, session) == 11
        assert not kept(shop)
        assert not loads(session)
        session.flush()
        assert not loads(session)
        session.rollback()
        session.execute(text("update owner set name = 'other' where id = 1"))
        assert not loads(session)
        session.rollback()
        session.connection().exec_driver_sql("update owner set name = 'other' where id = 1")
        assert not loads(session)
        session.rollback()
        session.begin_nested().rollback()
        assert loads(session)


def test_h01_a_load_that_writes_is_not_kept(shop: TrackedShop) -> None:
    """A cached function that changes something itself gives what may be rolled back: nobody else has it."""

    def load() -> int:
        with shop.sessions() as session:
            product = session.get_one(Product, 1)
            product.price = 11
            session.flush()
            return product.price

    assert shop.cache.get_or_load("product:1", load, type=int) == 11
    assert not kept(shop)
    assert price_by(shop) == 10


def test_h16_what_is_written_through_is_cached_after_its_commit(shop: TrackedShop) -> None:
    """A writer that commits its session is cached; one whose transaction is still open is not."""
    with shop.sessions() as session:

        def write(*, commit: bool) -> int:
            product = session.get_one(Product, 1)
            product.price += 1
            session.flush()
            if commit:
                session.commit()
            return product.price

        assert shop.cache.write("product:1", lambda: write(commit=False), type=int) == 11
        assert not kept(shop)
        session.rollback()
        assert price_by(shop) == 10
        assert shop.cache.write("price:1", lambda: write(commit=True), type=int) == 11
    assert price_by(shop) == 11


def test_h17_what_is_told_by_hand_counts_as_written(shop: TrackedShop) -> None:
    """Scopes that `touched` names are read past the cache, whatever they end; `*` is everything."""
    assert price_by(shop) == 10
    for scope in ("product:1", "product", "*"):
        with shop.sessions() as session:
            touched(session, scope)
            with observe() as reads:
                price_by(shop, session)
            assert reads[0].source == "load"
        with observe() as reads:
            price_by(shop)
        assert reads[0].source == "l1"


def test_a_session_of_another_cache_does_not_concern_a_load(engine: Engine) -> None:
    """A cached function that reads through sessions that another cache tracks is kept, without any tag."""
    with contextlib.closing(TrackedShop(engine)) as shop, Cache() as other:
        sessions = sessionmaker(engine)
        track(sessions, shop.cache)
        with sessions() as session:
            other.get_or_load("product:1", lambda: session.get_one(Product, 1).price)
        assert set(other.explain("product:1").marks) == {"product:1", "product", "*"}
        assert other.get("product:1") == 10


def test_h20_a_transaction_that_outlives_the_log_keeps_nothing(shop: TrackedShop) -> None:
    """A stamp of a log that is gone says nothing in the next one: what is loaded under it is not kept (H10)."""
    with shop.sessions() as session:
        session.scalars(select(Owner)).all()
        node = shop.cache.node
        before = node.generation
        server: Any = shop.cache.ports.log
        server.server.begin("another")
        until(lambda: node.generation not in {before, None})
        assert price_by(shop, session) == 10
        assert not kept(shop)
        session.commit()
        assert price_by(shop, session) == 10
        assert kept(shop)
