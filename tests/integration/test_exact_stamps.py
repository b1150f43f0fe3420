"""Stamps from the snapshot of the load itself, on a real primary and a real replica that lags."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from unstale import Cache
from unstale.errors import OutsideLoadError, UsageError
from unstale.sqlalchemy import track

pytestmark = pytest.mark.real

_names = itertools.count()


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server that is truth and log, for all tests of this file."""
    with PostgresServer() as server:
        server.sql("CREATE TABLE item (id int PRIMARY KEY, price int NOT NULL)", "INSERT INTO item VALUES (1, 0)")
        yield server


@pytest.fixture(scope="module")
def replica(server: PostgresServer) -> Iterator[PostgresServer]:
    """Give a replica that follows an hour late, once it is told to."""
    with PostgresServer(of=server) as replica:
        yield replica


@pytest.fixture
def shop(server: PostgresServer) -> Iterator[Cache]:
    """Give a cache of its own, which has joined, and an item whose price is 1."""
    server.sql("UPDATE item SET price = 1")
    with Cache(server.url, name=f"exact {next(_names)}") as cache:
        cache.invalidate("item:1")
        until(lambda: cache.node.lease.proven > 0)
        yield cache


def raise_price(server: PostgresServer, cache: Cache) -> int:
    """Commit another price, and publish it: the price."""
    ((price,),) = server.sql("UPDATE item SET price = price + 1 RETURNING price")
    cache.invalidate("item:1")
    return int(price)


def lag(server: PostgresServer, replica: PostgresServer, delay: str) -> None:
    """Let a replica apply all that there is, and then what comes after a delay."""
    replica.sql("ALTER SYSTEM SET recovery_min_apply_delay = 0", "SELECT pg_reload_conf()")
    replica.caught_up_with(server)
    replica.sql(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'", "SELECT pg_reload_conf()")


@pytest.mark.parametrize("exact", [True, False])
def test_h17_a_transaction_that_began_before(server: PostgresServer, shop: Cache, *, exact: bool) -> None:
    """What a load reads in an old view ends by the record that the view does not show; without the stamp it stays."""
    with psycopg.connect(server.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1 FROM item").fetchall()
        newest = raise_price(server, shop)

        def load() -> int:
            if exact:
                shop.exact(connection)
            ((price,),) = connection.execute("SELECT price FROM item").fetchall()
            return int(price)

        assert shop.get_or_load("item:1", load) == newest - 1, "its own transaction shows no other"
    assert (shop.get("item:1", default=newest) == newest) == exact


@pytest.mark.parametrize("exact", [True, False])
def test_h17_a_replica_that_lags(server: PostgresServer, replica: PostgresServer, shop: Cache, *, exact: bool) -> None:
    """The same for a load from a physical replica whose applying is held up."""
    lag(server, replica, "1h")
    newest = raise_price(server, shop)

    async def read() -> int:
        async with await psycopg.AsyncConnection.connect(replica.url) as connection:

            async def load() -> int:
                if exact:
                    await shop.aexact(connection)
                cursor = await connection.execute("SELECT price FROM item")
                ((price,),) = await cursor.fetchall()
                return int(price)

            found: int = await shop.aget_or_load("item:1", load)
            return found

    assert asyncio.run(read()) == newest - 1
    assert (shop.get("item:1", default=newest) == newest) == exact


def test_what_is_as_new_as_this_node_is_kept(server: PostgresServer, shop: Cache) -> None:
    """A load whose view shows all that was published is kept, in READ COMMITTED and in REPEATABLE READ."""
    newest = raise_price(server, shop)
    for level in (psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ):
        with psycopg.connect(server.url) as connection:
            connection.isolation_level = level

            def load(connection: Any = connection) -> int:
                shop.exact(connection)
                return int(connection.execute("SELECT price FROM item").fetchall()[0][0])

            key = f"item:{level.name}"
            assert shop.get_or_load(key, load) == newest
            assert shop.get(key) == newest


def test_h17_what_an_inner_load_shows_the_outer_one_shows_too(server: PostgresServer, shop: Cache) -> None:
    """A view of an hour ago that an inner load reads dates the outer one back as well."""
    with psycopg.connect(server.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1 FROM item").fetchall()
        newest = raise_price(server, shop)

        def inner() -> int:
            shop.exact(connection)
            return int(connection.execute("SELECT price FROM item").fetchall()[0][0])

        assert shop.get_or_load("page:1", lambda: shop.get_or_load("item:1", inner)) == newest - 1
    assert shop.get("page:1", default="none") == "none"


@pytest.mark.parametrize("exact", [True, False])
def test_h17_sessions_on_a_replica(
    server: PostgresServer, replica: PostgresServer, shop: Cache, *, exact: bool
) -> None:
    """A tracked session asks at the begin of its transaction, so that no loader has to."""
    lag(server, replica, "1h")
    engine = create_engine(replica.url.replace("postgresql://", "postgresql+psycopg://"))
    sessions: sessionmaker[Session] = sessionmaker(engine)
    track(sessions, shop, exact=exact)
    newest = raise_price(server, shop)

    def load() -> int:
        with sessions() as session:
            return session.get_one(Item, 1).price

    assert shop.get_or_load("item:1", load) == newest - 1
    assert (shop.get("item:1", default=newest) == newest) == exact
    engine.dispose()


def test_a_view_from_before_the_cache_goes_to_its_reader_alone(server: PostgresServer) -> None:
    """A snapshot that shows no log of this cache cannot be judged: its reader has the value, nobody keeps it."""
    with psycopg.connect(server.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1 FROM item").fetchall()
        with Cache(server.url, name=f"later {next(_names)}") as cache:
            cache.invalidate("item:1")

            def load() -> int:
                cache.exact(connection)
                return int(connection.execute("SELECT price FROM item").fetchall()[0][0])

            assert cache.get_or_load("item:1", load) > 0
            assert cache.get("item:1", default="none") == "none"


def test_it_costs_one_query(server: PostgresServer, shop: Cache) -> None:
    """An exact stamp is one more round trip of the load."""
    engine = create_engine(server.url.replace("postgresql://", "postgresql+psycopg://"))
    asked: list[str] = []
    with engine.connect() as connection:
        execute = connection.execute

        def counted(statement: Any, *given: Any) -> Any:
            asked.append(str(statement))
            return execute(statement, *given)

        connection.execute = counted  # type: ignore[assignment,method-assign]

        def load() -> int:
            shop.exact(connection)
            return int(connection.execute(text("SELECT price FROM item")).scalar_one())

        shop.get_or_load("item:1", load)
    engine.dispose()
    assert len(asked) == 2


def test_wrong_use(server: PostgresServer, shop: Cache) -> None:
    """Outside of a load, on another engine, or with a connection of the other colour, the error says what to write."""
    with psycopg.connect(server.url) as connection:
        with pytest.raises(OutsideLoadError, match="inside a cached function"):
            shop.exact(connection)

        def refused(cache: Cache, call: Callable[[], object], hint: str) -> None:
            with pytest.raises(UsageError, match=hint):
                cache.get_or_load("item:wrong", call)

        with Cache("memory://") as other:
            refused(other, lambda: other.exact(connection), "postgresql://")
    connection_of = psycopg.AsyncConnection.connect

    async def asynchronous() -> None:
        async with await connection_of(server.url) as connection:
            refused(shop, lambda: shop.exact(connection), "await cache.aexact")

    asyncio.run(asynchronous())
