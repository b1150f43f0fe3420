from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from tests.support.tracked_shop import Owner, Product, TrackedShop, databases, filled
from unstale import observe
from unstale.core.context import surroundings
from unstale.sources.outbox import Outbox
from unstale.sqlalchemy import touched, track

pytestmark = pytest.mark.real

ONE = {"table:product", "product:1"}


class AsyncShop(TrackedShop):
    """A shop that is read and changed by asynchronous sessions."""

    makers: async_sessionmaker[AsyncSession]


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+psycopg"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """Give a shop in each database."""
    kind = request.param.partition("+")[0]
    server = request.getfixturevalue("server") if kind == "postgresql" else None
    with databases(kind, tmp_path, server) as blocking:
        filled(blocking)
        blocking.dispose()
        engine = create_async_engine(blocking.url.set(drivername=request.param))
        yield engine
        await engine.dispose()


@pytest.fixture(params=["memory://", "sqlite"])
async def shop(request: pytest.FixtureRequest, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[AsyncShop]:
    """Give a tracked shop, with a cache of each kind."""
    url = request.param if "://" in request.param else f"sqlite:///{tmp_path}/cache"
    with contextlib.closing(AsyncShop(engine.sync_engine, url)) as shop:
        shop.makers = async_sessionmaker(engine)
        track(shop.makers, shop.cache)
        yield shop
        await engine.dispose()


async def price_by(shop: AsyncShop, session: AsyncSession | None = None) -> int:
    """Give the cached price of product 1: loaded by a session, or by one of its own."""

    async def load() -> int:
        if session is not None:
            return (await session.get_one(Product, 1)).price
        async with shop.makers() as own:
            return (await own.get_one(Product, 1)).price

    price: int = await shop.cache.aget_or_load("product:1", load, type=int)
    return price


async def change(session: AsyncSession) -> None:
    """Change a product, and tell the database."""
    (await session.get_one(Product, 1)).price += 1
    await session.flush()


async def test_h01_the_committer_reads_what_it_has_committed(shop: AsyncShop) -> None:
    """When the commit has returned, the next read sees it; before it nothing was published."""
    assert await price_by(shop) == 10
    async with shop.makers() as session:
        for turn in range(1, 6):
            await change(session)
            assert len(shop.log()) == turn - 1
            await session.commit()
            assert await price_by(shop) == 10 + turn
    assert shop.published() == [ONE] * 5


async def test_h01_savepoints_and_rollbacks_are_honoured(shop: AsyncShop) -> None:
    """What was rolled back, to a savepoint or to the begin, is not published."""
    async with shop.makers() as session:
        await change(session)
        await session.rollback()
        with contextlib.suppress(ZeroDivisionError):
            async with session.begin_nested():
                await change(session)
                raise ZeroDivisionError
        async with session.begin_nested():
            (await session.get_one(Owner, 1)).name = "other"
        touched(session, "by:hand")
        await session.commit()
    assert shop.published() == [{"table:owner", "owner:1", "by:hand"}]


async def test_h17_own_changes_are_seen_by_nobody_else(shop: AsyncShop) -> None:
    """Who has changed a row reads past the cache until the commit, in its own task and those that it starts."""
    assert await price_by(shop) == 10
    async with shop.makers() as session:
        await change(session)
        with observe() as reads:
            assert await price_by(shop, session) == 11
        assert reads[0].why == "loaded past the cache: a transaction here has changed it"
        assert await asyncio.create_task(price_by(shop, session)) == 11
        await session.rollback()
        assert surroundings.get() is None
        assert await price_by(shop, session) == 10
    assert await price_by(shop) == 10


async def test_h17_a_stamp_is_taken_at_the_begin(shop: AsyncShop) -> None:
    """What a transaction loads that began before a commit is not kept."""
    async with shop.makers() as old:
        await old.scalar(select(Owner.name))
        async with shop.makers() as session:
            await change(session)
            await session.commit()
        await price_by(shop, old)
        assert not (await shop.cache.aexplain("product:1", type=int)).servable
    assert await price_by(shop) == 11


async def test_h06_what_is_read_is_tagged(shop: AsyncShop) -> None:
    """What cached coroutines read is tagged, whether it is asked for or found in the session."""

    async def load() -> int:
        async with shop.makers() as session:
            await session.get_one(Product, 1)
            await session.get_one(Product, 1)
            return len((await session.scalars(select(Owner))).all())

    async with shop.makers() as session:
        held = await session.get_one(Product, 1)
        assert held.price == 10
        await price_by(shop, session)
    await shop.cache.aget_or_load("view", load, type=int)
    marks = (await shop.cache.aexplain("view", type=int)).marks
    assert set(marks) == {"view", "*", "product:1", "product", "table:owner", "owner"}
    assert "product:1" in (await shop.cache.aexplain("product:1", type=int)).marks


async def test_a_cancelled_commit_is_published(shop: AsyncShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the task is cancelled while it publishes what it has committed, that is published all the same."""
    publishing = asyncio.Event()
    arun = shop.cache.arun

    async def stuck(flow: Any) -> Any:
        monkeypatch.setattr(shop.cache, "arun", arun)
        flow.close()
        publishing.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with shop.makers() as session:
            await change(session)
            monkeypatch.setattr(shop.cache, "arun", stuck)
            await session.commit()

    task = asyncio.create_task(work())
    await publishing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not shop.published():  # noqa: ASYNC110 - there is nothing to wait for but the loop itself
        await asyncio.sleep(0)
    assert shop.published() == [ONE]


async def test_what_can_be_tracked(engine: AsyncEngine) -> None:
    """Makers of asynchronous sessions, scoped ones and single sessions can be tracked, and others stay as they are."""
    scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    maker = async_sessionmaker(engine)
    single = AsyncSession(engine)
    with contextlib.closing(TrackedShop(engine.sync_engine)) as shop:
        for target in (scoped, maker, single):
            track(target, shop.cache)
        for session in (scoped(), maker(), single, AsyncSession(engine), async_sessionmaker(engine)()):
            async with session:
                await change(session)
                await session.commit()
        await scoped.remove()
        assert shop.published() == [ONE] * 3
        await engine.dispose()


async def test_h02_the_record_is_part_of_the_transaction(engine: AsyncEngine) -> None:
    """What an asynchronous session commits lies in the outbox, and is published under the same id."""
    name = engine.dialect.name
    url = engine.url.set(drivername=name).render_as_string(hide_password=False)
    with Outbox(url) as outbox:
        outbox.create()
    with contextlib.closing(TrackedShop(engine.sync_engine)) as shop:
        makers = async_sessionmaker(engine)
        track(makers, shop.cache, outbox=True)
        async with makers() as session:
            await change(session)
            await session.rollback()
            await change(session)
            await session.commit()
            connection = await session.connection()
            rows = (await connection.exec_driver_sql("select id from unstale_outbox")).all()
            assert [row[0] for row in rows] == [record.id for record in shop.log()]
            for table in ("unstale_outbox", "unstale_outbox_dead", "unstale_outbox_life"):
                await connection.exec_driver_sql(f"drop table if exists {table}")
            await session.commit()
        assert shop.published() == [ONE]
        await engine.dispose()
