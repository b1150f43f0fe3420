from __future__ import annotations

import contextvars
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session as OrmSession

import unstale
from tests.support.outboxes import behind_an_outbox, relaying
from tests.support.tracked_shop import Product, TrackedShop, databases, filled
from tests.support.waiting import until
from unstale import Cache
from unstale.sources.outbox import Outbox


class Prices:
    """A price in a database with an outbox, and a cached function that reads it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/shop.db"
        self.db = sqlite3.connect(folder / "shop.db")
        with self.db:
            self.db.execute("create table product (id integer primary key, price integer)")
            self.db.execute("insert into product values (17, 1)")
        with Outbox(self.url) as outbox:
            outbox.create()
        self.cache = Cache(f"sqlite:///{folder}/shop.cache", name="shop", on_trouble=lambda *_trouble: None)

        @self.cache.cached("price:{product}")
        def price(product: int) -> int:
            return int(self.db.execute("select price from product where id = ?", [product]).fetchone()[0])

        self.price = price

    def change(self, price: int) -> Any:
        """Change the price, and write what it ends into the outbox: the transaction is open still."""
        self.db.execute("update product set price = ?", [price])
        transaction = self.cache.in_transaction(self.db)
        transaction.invalidate("price:17")
        return transaction

    def close(self) -> None:
        """Close all."""
        self.cache.close()
        self.db.close()


@pytest.fixture
def prices(tmp_path: Path) -> Iterator[Prices]:
    """Give a price."""
    one = Prices(tmp_path)
    yield one
    one.close()


def test_h02_what_was_left_to_a_relay_is_read_past_the_cache(prices: Prices) -> None:
    """Committed and not published: a session reads what is there, others what is cached; the relay ends both."""
    assert prices.price(17) == 1
    with unstale.session() as session:
        prices.change(2)
        prices.db.commit()
        assert prices.price(17) == 2
        assert not session.raised
        assert unstale_elsewhere(prices) == 1
        with behind_an_outbox(prices.cache.url) as other, relaying(other, prices.url):
            until(lambda: session.raised)
        with unstale.observe() as reads:
            assert [prices.price(17) for _ in range(2)] == [2, 2]
        assert reads[1].source == "l1"


def unstale_elsewhere(prices: Prices) -> int:
    """Read the price outside of the session."""
    return contextvars.Context().run(prices.price, 17)


def test_h05_what_was_published_after_the_commit_raises_the_ticket(prices: Prices) -> None:
    """A call of `publish()`, or the end of a block, gives the session its ticket."""
    with unstale.session() as session:
        transaction = prices.change(2)
        prices.db.commit()
        transaction.publish()
        assert session.raised
        before = session.token
        with prices.cache.transaction(prices.db) as block:
            prices.db.execute("update product set price = 3")
            block.invalidate("price:17")
        assert session.token != before
        assert [prices.price(17) for _ in range(2)] == [3, 3]


def test_h02_what_was_rolled_back_is_forgotten(prices: Prices) -> None:
    """After `forget()` the session's reads are hits again; until then they load."""
    assert prices.price(17) == 1
    with unstale.session() as session, unstale.observe() as reads:
        transaction = prices.change(2)
        prices.db.rollback()
        prices.price(17)
        transaction.forget()
        prices.price(17)
        assert not session.raised
    assert [read.source for read in reads] == ["load", "l1"]


def test_a_session_of_sqlalchemy_that_rolls_back_is_forgotten(prices: Prices) -> None:
    """A rollback of a followed session of SQLAlchemy says by itself that nothing will come; a commit publishes."""
    engine = create_engine(prices.url)
    prices.price(17)
    with unstale.session() as session, OrmSession(engine) as orm:
        prices.cache.in_transaction(orm).invalidate("price:17")
        orm.rollback()
        with unstale.observe() as reads:
            prices.price(17)
        assert (reads[0].source, session.raised) == ("l1", False)
        orm.execute(text("update product set price = 2"))
        prices.cache.in_transaction(orm).invalidate("price:17")
        orm.commit()
        assert session.raised
        assert prices.price(17) == 2
    engine.dispose()


def test_h05_a_tracked_session_raises_the_ticket(tmp_path: Path) -> None:
    """What a tracked session of SQLAlchemy commits raises the ticket; a read-only one does not."""
    with databases("sqlite", tmp_path) as engine:
        filled(engine)
        shop = TrackedShop(engine)
        sessions = shop.track()
        with unstale.session() as session:
            with sessions() as orm:
                assert orm.get_one(Product, 1).price
            assert not session.raised
            with sessions.begin() as orm:
                orm.get_one(Product, 1).price = 99
            assert session.raised
            assert session.life_s == shop.cache.node.max_staleness_s
        shop.close()


def test_h02_another_record_of_the_same_scope_does_not_stand_for_an_open_transaction(prices: Prices) -> None:
    """What is written and not committed stays noted when other code of the session ends the same scope."""
    with unstale.session():
        assert prices.price(17) == 1
        transaction = prices.change(2)
        prices.cache.invalidate("price:17")
        other = contextvars.Context()
        reader = sqlite3.connect(prices.url.removeprefix("sqlite:///"))
        other.run(prices.cache.get_or_load, prices.price.key(17), lambda: 1, type=int)  # the old row, stamped late
        reader.close()
        prices.db.commit()
        assert prices.price(17) == 2
        transaction.forget()
