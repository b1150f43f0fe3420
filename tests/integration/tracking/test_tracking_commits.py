from __future__ import annotations

import contextlib
import gc
import itertools
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tests.support.postgres_servers import PostgresServer
from tests.support.tracked_shop import Product, Tag, TrackedShop, databases, filled
from tests.support.waiting import until
from unstale.core.record import decode_record
from unstale.errors import CorruptError, UnavailableError
from unstale.sources.outbox import Outbox
from unstale.sqlalchemy import touched, track

pytestmark = pytest.mark.real

ONE = {"table:product", "product:1"}


def change(session: Session, number: int = 1) -> None:
    """Change a product, and tell the database."""
    session.get_one(Product, number).price += 1
    session.flush()


# After the outermost commit -------------------------------------------------------------------------------------------


def test_h01_nothing_is_published_before_the_commit(shop: TrackedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a record is appended, any other connection sees what it is about."""
    log: Any = shop.cache.ports.log
    append, seen = log.append, []

    def watched(records: Any, *how: Any) -> Any:
        with Session(shop.engine) as other:
            seen.append(other.get_one(Product, 1).price)
        return append(records, *how)

    monkeypatch.setattr(log, "append", watched)
    with shop.sessions() as session:
        change(session)
        assert seen == []
        session.commit()
        assert seen == [11]
    assert shop.published() == [ONE]


def test_h01_what_is_rolled_back_was_never_published(shop: TrackedShop) -> None:
    """A rollback, a close and an error publish nothing, nor does the next transaction of the session for them."""
    with shop.sessions() as session:
        change(session)
        session.rollback()
        change(session)
        session.close()
        with contextlib.suppress(ZeroDivisionError), session.begin():
            change(session)
            raise ZeroDivisionError
        session.commit()
    assert shop.published() == []


def test_h01_savepoints_are_honoured(shop: TrackedShop) -> None:
    """What was changed since a savepoint goes with it, or is published with all the rest at the outermost commit."""
    with shop.sessions() as session:
        change(session, 1)
        with session.begin_nested():
            change(session, 2)
            with contextlib.suppress(ZeroDivisionError), session.begin_nested():
                change(session, 3)
                raise ZeroDivisionError
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            with session.begin_nested():
                session.add(Tag(id=9))
            touched(session, "by:hand")
            raise ZeroDivisionError
        savepoint = session.begin_nested()
        session.add(Tag(id=10))
        savepoint.commit()
        session.begin_nested()  # left open: the commit takes it in
        session.add(Product(id=4, price=1))
        assert shop.published() == []
        session.commit()
    assert shop.published() == [{"table:product", "product:1", "product:2", "product:4", "table:tag", "tag:10"}]


def test_h01_autocommitted_changes_are_published_whatever_comes(shop: TrackedShop, server: PostgresServer) -> None:
    """Where each statement is committed by itself, a rollback takes nothing back, and nothing is left unpublished."""
    with shop.sessions(bind=shop.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        change(session)
        session.rollback()
    assert shop.published() == [ONE]


def test_h02_a_commit_of_unknown_outcome_is_published(on_postgres: TrackedShop, server: PostgresServer) -> None:
    """Where the connection is lost in the commit, it may have come about: what was changed is published."""
    shop = on_postgres
    with shop.sessions() as session:
        change(session)
        ((pid,),) = session.execute(text("select pg_backend_pid()"))

        @event.listens_for(shop.engine, "commit", once=True)
        def lost(_connection: Any) -> None:
            server.sql(f"select pg_terminate_backend({pid})")
            until(lambda: server.sql(f"select count(*) from pg_stat_activity where pid = {pid}") == [(0,)])

        with pytest.raises(OperationalError):
            session.commit()
    assert shop.published() == [ONE]


def test_h02_in_doubt_it_is_published_under_another_id_than_the_outbox_has(
    on_postgres: TrackedShop, server: PostgresServer
) -> None:
    """The commit may come about later: the log must take the relay's record then, although ours came before."""
    shop = on_postgres
    with Outbox(shop.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)) as outbox:
        outbox.create()
    sessions = sessionmaker(shop.engine)
    track(sessions, shop.cache, outbox=True)
    written: list[str] = []
    commit = shop.engine.dialect.do_commit

    def lost(driver: Any) -> None:  # beneath what the tracking does as a session of it connects
        written.extend(row[0] for row in driver.cursor().execute("select id from unstale_outbox").fetchall())
        commit(driver)
        raise OperationalError("COMMIT", {}, Exception("the answer was lost"))

    shop.engine.dialect.do_commit = lost  # type: ignore[method-assign,assignment]
    with sessions() as session:
        change(session)
        with pytest.raises(OperationalError):
            session.commit()
    shop.engine.dialect.do_commit = commit  # type: ignore[method-assign]
    server.sql("drop table unstale_outbox, unstale_outbox_dead, unstale_outbox_life")
    assert len(written) == 1
    assert shop.published()
    assert not {record.id for record in shop.log()} & set(written)


def test_h01_a_savepoint_alone_is_committed_by_its_release(tmp_path: Path) -> None:
    """SQLite's driver begins no transaction before a savepoint: its end commits, and a rollback takes nothing back."""
    with databases("sqlite", tmp_path) as engine, contextlib.closing(TrackedShop(engine)) as shop:
        filled(engine)
        shop.track()
        with shop.sessions() as session:
            with session.begin_nested():
                session.get_one(Product, 1).price = 99
            session.rollback()
        with engine.connect() as connection:
            ((price,),) = connection.execute(select(Product.price).where(Product.id == 1))
        assert bool(shop.published()) or price != 99


def test_h01_a_lost_connection_before_the_commit_publishes_nothing(
    on_postgres: TrackedShop, server: PostgresServer
) -> None:
    """Where no commit was sent, nothing can have come about."""
    with on_postgres.sessions() as session:
        change(session)
        ((pid,),) = session.execute(text("select pg_backend_pid()"))
        server.sql(f"select pg_terminate_backend({pid})")
        with pytest.raises(DBAPIError):
            session.execute(select(Product)).all()
    assert on_postgres.published() == []


def test_h27_a_session_that_nobody_ends_keeps_nothing(shop: TrackedShop) -> None:
    """A session that is forgotten gives its connection back, and what it changed is hidden from nobody any more."""

    def work() -> None:
        session = shop.sessions()
        change(session)
        assert shop.engine.pool.checkedout() == 1  # type: ignore[attr-defined]

    shop.cache.get_or_load("product:1", lambda: 10)
    work()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    assert shop.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert shop.cache.get("product:1") == 10
    assert shop.published() == []


# Two phases -----------------------------------------------------------------------------------------------------------


def test_h01_two_phases_publish_after_the_second(on_postgres: TrackedShop) -> None:
    """What is prepared is not published; committed, it is; rolled back, it never is."""
    shop = on_postgres
    with shop.sessions(twophase=True) as session:
        change(session)
        session.prepare()
        assert shop.published() == []
        session.commit()
        assert shop.published() == [ONE]
        change(session)
        session.prepare()
        session.rollback()
    assert shop.published() == [ONE]


def test_h02_a_prepared_transaction_that_is_left_is_published(on_postgres: TrackedShop, server: PostgresServer) -> None:
    """Who prepared a transaction and lost its connection does not know whether anybody will commit it."""
    shop = on_postgres
    with shop.sessions(twophase=True) as session:
        change(session)
        ((pid,),) = session.execute(text("select pg_backend_pid()"))
        session.prepare()
        server.sql(f"select pg_terminate_backend({pid})")
        until(lambda: server.sql(f"select count(*) from pg_stat_activity where pid = {pid}") == [(0,)])
        with pytest.raises(DBAPIError):
            session.rollback()
    ((gid,),) = server.sql("select gid from pg_prepared_xacts")
    server.sql(f"rollback prepared '{gid}'")
    assert shop.published() == [ONE]


# What fails -----------------------------------------------------------------------------------------------------------


def test_a_log_that_is_away_fails_no_commit(shop: TrackedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit returns, the trouble is reported, this node serves nothing old, and it is published when it can be."""
    log: Any = shop.cache.ports.log
    append, away = log.append, [True]

    def failing(records: Any, *how: Any) -> Any:
        if away[0]:
            raise UnavailableError("the log is away")
        return append(records, *how)

    @shop.cache.cached("product:{product_id}")
    def price(product_id: int) -> int:
        with shop.sessions() as own:
            return own.get_one(Product, product_id).price

    assert price(1) == 10
    monkeypatch.setattr(log, "append", failing)
    with shop.sessions.begin() as session:
        change(session)
    assert price(1) == 11
    assert "publish" in {what for what, _error in shop.troubles}
    with ThreadPoolExecutor(1) as other:  # a thread whose context knows nothing of the transaction
        assert other.submit(price, 1).result() == 11
    away[0] = False
    until(lambda: shop.published() == [ONE])
    until(lambda: price(1) == 11)


def test_a_log_that_refuses_is_reported(shop: TrackedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log will never take it, the commit returns all the same."""

    def refusing(_records: Any, *_how: Any) -> Any:
        raise CorruptError("not ours")

    monkeypatch.setattr(shop.cache.ports.log, "append", refusing)
    with shop.sessions.begin() as session:
        change(session)
    until(lambda: len([what for what, _error in shop.troubles if what == "publish"]) >= 2)


def test_a_closed_cache_fails_no_commit(shop: TrackedShop) -> None:
    """Who commits after the cache was closed is not kept from it."""
    shop.cache.close()
    with shop.sessions.begin() as session:
        change(session)
    assert {what for what, _error in shop.troubles} == {"publish"}


def test_an_interrupted_publisher_goes_on_elsewhere(shop: TrackedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the caller is interrupted while it publishes, what it has committed is published all the same."""
    log: Any = shop.cache.ports.log
    append, calls = log.append, itertools.count()

    def interrupted(records: Any, *how: Any) -> Any:
        if next(calls) == 0:
            raise KeyboardInterrupt
        return append(records, *how)

    monkeypatch.setattr(log, "append", interrupted)
    with pytest.raises(KeyboardInterrupt), shop.sessions.begin() as session:
        change(session)
    until(lambda: shop.published() == [ONE])


# With an outbox -------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_outbox(engine: Engine) -> Iterator[TrackedShop]:
    """Give a shop whose changes are written into an outbox."""
    url = engine.url.set(drivername=engine.dialect.name).render_as_string(hide_password=False)
    with Outbox(url) as outbox:
        outbox.create()
    with contextlib.closing(TrackedShop(engine)) as shop:
        shop.track(outbox=True)
        yield shop
    with engine.begin() as connection:
        for table in ("unstale_outbox", "unstale_outbox_dead", "unstale_outbox_life"):
            connection.execute(text(f"drop table if exists {table}"))


def waiting(shop: TrackedShop) -> list[Any]:
    """Give the records that wait in the outbox."""
    with shop.engine.connect() as connection:
        rows = connection.execute(text("select data, id from unstale_outbox order by seq")).all()
    return [decode_record(bytes(data), name) for data, name in rows]


def test_h02_the_record_is_part_of_the_transaction(with_outbox: TrackedShop) -> None:
    """What is committed lies in the outbox and is published at once, under one id; what is rolled back does neither."""
    shop = with_outbox
    with shop.sessions() as session:
        change(session, 2)
        session.rollback()
        change(session, 1)
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            change(session, 3)
            raise ZeroDivisionError
        session.commit()
        session.get(Product, 1)
        session.commit()  # of what only read
    (record,) = waiting(shop)
    assert set(record.scopes) == ONE
    assert [one.id for one in shop.log()] == [record.id]


def test_h02_with_an_outbox_a_log_that_is_away_loses_nothing(
    with_outbox: TrackedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the committing process cannot publish, the record waits for the relay."""

    def failing(_records: Any, *_how: Any) -> Any:
        raise UnavailableError("the log is away")

    monkeypatch.setattr(with_outbox.cache.ports.log, "append", failing)
    with with_outbox.sessions.begin() as session:
        change(session)
    assert [set(record.scopes) for record in waiting(with_outbox)] == [ONE]
    assert "publish" in {what for what, _error in with_outbox.troubles}


def test_h02_two_phases_write_before_the_first(server: PostgresServer, tmp_path: Path) -> None:
    """In two phases the record is written before the first: whoever commits the second finds it there."""
    with databases("postgresql", tmp_path, server) as engine:
        filled(engine)
        with Outbox(server.url) as outbox:
            outbox.create()
        with contextlib.closing(TrackedShop(engine)) as shop:
            sessions = sessionmaker(engine, twophase=True)
            track(sessions, shop.cache, outbox=True)
            with sessions() as session:
                change(session)
                session.prepare()
                assert waiting(shop) == shop.log() == []
                session.commit()
            assert [one.id for one in waiting(shop)] == [one.id for one in shop.log()]
            assert shop.published() == [ONE]
        server.sql("drop table unstale_outbox, unstale_outbox_dead, unstale_outbox_life")
