from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told
from tests.support.ports import HOST
from tests.support.postgres_servers import USER, PostgresServer
from tests.support.waiting import until
from unstale import Cache
from unstale.errors import SourceError, UsageError
from unstale.sources.outbox import Outbox, OutboxFeed
from unstale.sources.relay import Relay

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer() as server:
        yield server


def prepare(server: PostgresServer) -> None:
    """Give a server one product and an empty outbox."""
    with Outbox(server.url) as outbox:
        drops = "; ".join((*outbox.database.dialect.drop(outbox.table), "DROP TABLE IF EXISTS product"))
        server.sql(drops)
        outbox.create()
        outbox.create()
    server.sql("CREATE TABLE product (id integer PRIMARY KEY, price integer)", "INSERT INTO product VALUES (17, 1)")


@pytest.fixture
def database(server: PostgresServer) -> str:
    """Give the URL of a database with one product and an empty outbox."""
    prepare(server)
    return server.url


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


def alchemy(server: PostgresServer) -> str:
    """Give the URL that SQLAlchemy wants."""
    return f"postgresql+psycopg://{USER}@{HOST}:{server.port}/postgres"


def waiting(server: PostgresServer) -> int:
    """Count the rows that wait for the relay."""
    return int(server.sql("SELECT count(*) FROM unstale_outbox")[0][0])


def test_h01_psycopg(cache: Cache, server: PostgresServer, database: str) -> None:
    """With psycopg: nothing without a commit, all with it; what commits by itself is refused, unless in a block."""
    with psycopg.connect(database) as db:
        tx = cache.in_transaction(db)
        tx.invalidate("one")
        with pytest.raises(UsageError, match="not committed yet"):
            tx.publish()
        db.rollback()
        assert waiting(server) == 0
        with cache.transaction(db) as block:
            block.invalidate("two")
        assert (scopes_told(cache), waiting(server)) == (["two"], 1)
    with psycopg.connect(database, autocommit=True) as db:
        with pytest.raises(UsageError, match="commits each statement"):
            cache.in_transaction(db).invalidate("three")
        with db.transaction():
            tx = cache.in_transaction(db)
            tx.invalidate("four")
        tx.publish()
        with cache.transaction(db) as block:
            block.invalidate("five")
        with pytest.raises(psycopg.errors.UndefinedTable), cache.transaction(db):
            db.execute("SELECT * FROM nowhere")
    assert scopes_told(cache) == ["two", "four", "five"]


async def test_h01_psycopg_to_be_awaited(cache: Cache, server: PostgresServer, database: str) -> None:
    """The same with a connection that has to be awaited; a call that forgets to is refused."""
    db = await psycopg.AsyncConnection.connect(database)
    async with db:
        with pytest.raises(UsageError, match="has to be awaited"):
            cache.in_transaction(db).invalidate("one")
        tx = cache.in_transaction(db)
        await tx.ainvalidate("one")
        await db.rollback()
        async with cache.transaction(db) as block:
            await block.ainvalidate("two")
        tx = cache.in_transaction(db)
        await tx.ainvalidate("three")
        await db.commit()
        await tx.apublish()
    assert (scopes_told(cache), waiting(server)) == (["two", "three"], 2)


def test_h01_sqlalchemy_sessions(cache: Cache, server: PostgresServer, database: str) -> None:
    """A session of SQLAlchemy publishes when it has committed its own transaction: no savepoint, and nobody else's."""
    engine = sa.create_engine(alchemy(server))
    with Session(engine) as session:
        cache.in_transaction(session).invalidate("rolled back")
        session.rollback()
        cache.in_transaction(session).invalidate("one")
        with session.begin_nested():
            cache.in_transaction(session).invalidate("in a savepoint")
        assert scopes_told(cache) == [], "a savepoint is no commit"
        session.commit()
        assert scopes_told(cache) == ["one", "in a savepoint"]
        with session.begin():
            cache.in_transaction(session).invalidate("two")
        assert scopes_told(cache)[2:] == ["two"]
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection) as session:
            cache.in_transaction(session).invalidate("within")
            session.commit()
        assert scopes_told(cache)[3:] == [], "the outer transaction is under way"
        outer.commit()
    assert waiting(server) == 4
    Relay(cache, database).once()
    assert "within" in scopes_told(cache)
    engine.dispose()
    engine = sa.create_engine(alchemy(server), isolation_level="AUTOCOMMIT")
    with Session(engine) as session, pytest.raises(UsageError, match="commits each statement"):
        cache.in_transaction(session).invalidate("by itself")
    engine.dispose()


def test_h01_sqlalchemy_connections(cache: Cache, server: PostgresServer, database: str) -> None:
    """A connection of SQLAlchemy is committed and published by a block, or by whoever commits it."""
    engine = sa.create_engine(alchemy(server))
    with engine.connect() as connection:
        with cache.transaction(connection) as block:
            connection.execute(sa.text("UPDATE product SET price = 3"))
            block.invalidate("one")
        assert (scopes_told(cache), server.sql("SELECT price FROM product")) == (["one"], [(3,)])
    with engine.begin() as connection:
        tx = cache.in_transaction(connection)
        tx.invalidate("two")
    tx.publish()
    assert scopes_told(cache) == ["one", "two"]
    autocommitting = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with autocommitting as connection, pytest.raises(UsageError, match="commits each statement"):
        cache.in_transaction(connection).invalidate("by itself")
    engine.dispose()
    assert waiting(server) == 2


async def test_h01_sqlalchemy_to_be_awaited(cache: Cache, server: PostgresServer, database: str) -> None:
    """An asynchronous session publishes in the background once it is committed."""
    engine = create_async_engine(alchemy(server))
    async with AsyncSession(engine) as session:
        await cache.in_transaction(session).ainvalidate("rolled back")
        await session.rollback()
        await cache.in_transaction(session).ainvalidate("one")
        await session.commit()
    until(lambda: scopes_told(cache) == ["one"])
    async with engine.connect() as connection, cache.transaction(connection) as block:
        await block.ainvalidate("two")
    assert scopes_told(cache) == ["one", "two"]
    await engine.dispose()


def test_h21_a_late_commit_with_a_low_number(cache: Cache, database: str) -> None:
    """A transaction that drew its number first and commits last is published: what was read after it hides nothing."""
    with psycopg.connect(database) as slow, psycopg.connect(database) as quick, relaying(cache, database) as relay:
        cache.in_transaction(slow).invalidate("low")
        cache.in_transaction(quick).invalidate("high")
        quick.commit()
        until(lambda: "high" in scopes_told(cache))
        seen = relay.pulses
        until(lambda: relay.pulses > seen + 2)
        assert "low" not in scopes_told(cache)
        slow.commit()
        until(lambda: "low" in scopes_told(cache))


def test_h21_nothing_is_lost_among_many_writers(cache: Cache, database: str, server: PostgresServer) -> None:
    """Of transactions that overlap, commit in any order or roll back, exactly those that commit are published."""
    committed: list[str] = []

    def write(writer: int) -> None:
        with psycopg.connect(database) as db:
            for number in range(40):
                cache.in_transaction(db).invalidate(f"s:{writer}:{number}")
                if (number + writer) % 3:
                    db.commit()
                    committed.append(f"s:{writer}:{number}")
                else:
                    db.rollback()

    with relaying(cache, database, batch=7):
        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: waiting(server) == 0)
    assert sorted(one for one in scopes_told(cache) if one != "*") == sorted(committed)


def test_h19_a_database_that_is_down_proves_nothing(cache: Cache) -> None:
    """While the database is down the lease lapses, though the log is well; when it is back the relay goes on."""
    with PostgresServer() as server:
        prepare(server)
        with relaying(cache, server.url):
            until(lambda: proven(cache))
            server.kill()
            until(lambda: not proven(cache))
            server.start()
            until(lambda: proven(cache))
            assert cache.stats()["trouble:relay"] > 0
            with psycopg.connect(server.url) as db:
                cache.in_transaction(db).invalidate("after it")
            until(lambda: "after it" in scopes_told(cache))


def test_h19_a_primary_that_is_cut_off_from_its_standbys_proves_nothing(cache: Cache) -> None:
    """Where standbys are named, a pulse waits for them: a primary that may have been deposed proves no lease."""
    with PostgresServer() as server:
        prepare(server)
        with relaying(cache, server.url):
            until(lambda: proven(cache))
            server.sql("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere'", "SELECT pg_reload_conf()")
            until(lambda: not proven(cache))
            server.sql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
            until(lambda: proven(cache))


def test_h20_a_promoted_replica_is_another_timeline(cache: Cache) -> None:
    """After a failover of the database all entries end, and leases rest on what the promoted server tells."""
    with PostgresServer() as primary:
        prepare(primary)
        with PostgresServer(of=primary) as replica:
            with relaying(cache, primary.url):
                until(lambda: proven(cache))
                until(lambda: cache.node.timeline)
                before, ended = cache.node.timeline, scopes_told(cache).count("*")
            replica.caught_up_with(primary)
            with pytest.raises(SourceError):
                Relay(cache, replica.url).once()
            replica.promote()
            with relaying(cache, replica.url):
                until(lambda: cache.node.timeline != before)
                assert scopes_told(cache).count("*") == ended + 1
                assert proven(cache)


def test_h20_a_restored_dump_is_another_timeline(cache: Cache, database: str, server: PostgresServer) -> None:
    """A table of the same content that a dump has brought back was written by another transaction, and that tells."""
    with closing(OutboxFeed(database, cache.name)) as feed:
        before = feed.timeline()
        assert feed.timeline() == before
        ((life,),) = server.sql("SELECT id FROM unstale_outbox_life")
        server.sql("TRUNCATE unstale_outbox_life", f"INSERT INTO unstale_outbox_life VALUES (1, '{life}')")
        assert feed.timeline() != before
        server.sql("TRUNCATE unstale_outbox_life")
        with pytest.raises(SourceError, match="does not hold its one row"):
            feed.timeline()


def test_the_relay_is_woken(cache: Cache, database: str, server: PostgresServer) -> None:
    """A commit announces its records, also to a relay whose next pulse is far away."""
    with closing(OutboxFeed(database, cache.name)) as feed, psycopg.connect(database) as db:
        assert not feed.wait(0.05)
        cache.in_transaction(db).invalidate("one")
        assert not feed.wait(0.05), "not before the commit"
        db.commit()
        assert feed.wait(30.0)
        assert len(feed.read(10, first=True).rows) == 1


def test_tables_may_be_made_by_alembic(server: PostgresServer) -> None:
    """A migration makes the tables under any name and schema, and takes them away again."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    import unstale.sources.migrations  # noqa: F401 - registers the operations

    engine = sa.create_engine(alchemy(server))
    server.sql("CREATE SCHEMA IF NOT EXISTS app")
    with engine.begin() as connection:
        op: Any = Operations(MigrationContext.configure(connection))
        op.create_unstale_outbox(table="app.told")
    with closing(OutboxFeed(server.url, "shop", table="app.told")) as feed:
        assert feed.timeline()
    with engine.begin() as connection:
        Operations(MigrationContext.configure(connection)).drop_unstale_outbox(table="app.told")  # type: ignore[attr-defined]
    engine.dispose()
    assert server.sql("SELECT to_regclass('app.told') IS NULL") == [(True,)]
