from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.support.mariadb_servers import USER, MariaDBServer
from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told
from tests.support.ports import HOST
from tests.support.waiting import until
from unstale import Cache
from unstale.errors import SourceError, UsageError
from unstale.sources.connections import connect
from unstale.sources.outbox import Outbox, OutboxFeed
from unstale.sources.relay import Relay

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    """Give a server that tests share."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def database(server: MariaDBServer) -> str:
    """Give the URL of a database with an empty outbox."""
    prepare(server)
    return server.url


def prepare(server: MariaDBServer) -> None:
    """Give a server an empty outbox."""
    with Outbox(server.url) as outbox:
        for statement in outbox.database.dialect.drop(outbox.table):
            outbox.database.rows(statement)
        outbox.create()
        outbox.create()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


def waiting(server: MariaDBServer) -> int:
    """Count the rows that wait for the relay."""
    return int(server.sql("SELECT count(*) FROM shop.unstale_outbox")[0][0])


def test_h01_pymysql(cache: Cache, server: MariaDBServer, database: str) -> None:
    """With PyMySQL: nothing without a commit, all with it; what commits by itself is refused, unless in a block."""
    with closing(server.client()) as db:
        tx = cache.in_transaction(db)
        tx.invalidate("one")
        with pytest.raises(UsageError, match="not committed yet"):
            tx.publish()
        db.rollback()
        assert waiting(server) == 0
        with cache.transaction(db) as block:
            block.invalidate("two")
        tx = cache.in_transaction(db)
        tx.invalidate("three", reason="100% sure?")
        db.commit()
        tx.publish()
    with closing(server.client(autocommit=True)) as db:
        with pytest.raises(UsageError, match="commits each statement"):
            cache.in_transaction(db).invalidate("four")
        with cache.transaction(db) as block:
            block.invalidate("five")
    assert (scopes_told(cache), waiting(server)) == (["two", "three", "five"], 3)
    assert Relay(cache, database).once() == 3
    assert waiting(server) == 0


def test_h01_sqlalchemy(cache: Cache, server: MariaDBServer, database: str) -> None:
    """A session of SQLAlchemy publishes when it has committed."""
    engine = sa.create_engine(f"mysql+pymysql://{USER}@{HOST}:{server.port}/shop")
    with Session(engine) as session:
        cache.in_transaction(session).invalidate("rolled back")
        session.rollback()
        cache.in_transaction(session).invalidate("one")
        session.commit()
    engine.dispose()
    assert (scopes_told(cache), waiting(server)) == (["one"], 1)


def test_h21_a_late_commit_with_a_low_number(cache: Cache, server: MariaDBServer, database: str) -> None:
    """A transaction that drew its number first and commits last is published: each read sees all that is committed."""
    with closing(server.client()) as slow, closing(server.client()) as quick, relaying(cache, database) as relay:
        cache.in_transaction(slow).invalidate("low")
        cache.in_transaction(quick).invalidate("high")
        quick.commit()
        until(lambda: "high" in scopes_told(cache))
        seen = relay.pulses
        until(lambda: relay.pulses > seen + 2)
        assert "low" not in scopes_told(cache)
        slow.commit()
        until(lambda: "low" in scopes_told(cache))


def test_h19_a_database_that_is_down_proves_nothing(cache: Cache, server: MariaDBServer, database: str) -> None:
    """While the database is down the lease lapses, though the log is well; when it is back the relay goes on."""
    with relaying(cache, database):
        until(lambda: proven(cache))
        server.kill()
        until(lambda: not proven(cache))
        server.start()
        until(lambda: proven(cache))
        with closing(server.client()) as db:
            cache.in_transaction(db).invalidate("after it")
            db.commit()
        until(lambda: "after it" in scopes_told(cache))


def test_h20_another_server_or_table_is_another_timeline(server: MariaDBServer, database: str) -> None:
    """The timeline is the same after a restart; another server, or a table that was made anew, has another one."""
    with closing(OutboxFeed(database, "shop")) as feed:
        before = feed.timeline()
        assert feed.timeline() == before
        ((life,),) = server.sql("SELECT id FROM shop.unstale_outbox_life")
    server.restart()
    with closing(OutboxFeed(database, "shop")) as feed:
        assert feed.timeline() == before
    with MariaDBServer(server_id=2) as other:
        prepare(other)
        other.sql(f"UPDATE shop.unstale_outbox_life SET id = '{life}'")
        with closing(OutboxFeed(other.url, "shop")) as feed:
            assert feed.timeline() != before
    ((made,),) = server.sql("SELECT unix_timestamp(create_time) FROM information_schema.tables "
                            "WHERE table_name = 'unstale_outbox_life'")  # fmt: skip
    until(lambda: server.sql("SELECT unix_timestamp()")[0][0] > made)  # a moment in it is a second
    server.sql("DROP TABLE shop.unstale_outbox_life")
    with Outbox(database) as outbox:
        outbox.create()
    server.sql(f"UPDATE shop.unstale_outbox_life SET id = '{life}'")
    with closing(OutboxFeed(database, "shop")) as feed:
        assert feed.timeline() != before


def test_what_cannot_be_read_is_put_aside(cache: Cache, server: MariaDBServer, database: str) -> None:
    """A row that is no record blocks nobody, and can be replayed or discarded."""
    server.sql("INSERT INTO shop.unstale_outbox (id, cache, data) VALUES ('bad', 'shop', x'c1')")
    relay = Relay(cache, database)
    assert relay.once() == 1
    with Outbox(database) as outbox:
        assert [(one.id, one.data) for one in outbox.dead()] == [("bad", b"\xc1")]
        assert outbox.replay(["bad"]) == 1
        assert outbox.status()[0].rows == 1
        relay.once()
        assert outbox.discard(["bad"]) == 1
        assert outbox.status() == []


def test_urls_of_mysql(server: MariaDBServer, database: str) -> None:
    """A socket's path is an option of the URL; another option, and a server that is not there, are told with a hint."""
    with closing(connect(f"mysql://root@localhost/shop?unix_socket={server.folder}/socket")) as found:
        assert found.rows("SELECT 1") == [(1,)]
    with pytest.raises(UsageError, match="unix_socket"):
        connect(f"{database}?ssl=yes")
    with pytest.raises(SourceError, match="look whether it runs"):
        connect(f"mysql://nobody@{HOST}:{server.port}/shop")
