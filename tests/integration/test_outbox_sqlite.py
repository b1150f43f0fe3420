from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.outboxes import behind_an_outbox, proven, relaying, scopes_told, told
from tests.support.waiting import until
from unstale import Cache
from unstale.errors import SourceError, UsageError
from unstale.sources.outbox import Outbox, OutboxFeed
from unstale.sources.relay import Relay

pytestmark = pytest.mark.real


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Give the URL of a database with a table of products and an outbox."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE product (id integer PRIMARY KEY, price integer)")
        db.execute("INSERT INTO product VALUES (17, 1)")
        db.commit()
    with Outbox(f"sqlite:///{path}") as outbox:
        outbox.create()
        outbox.create()  # a second time it finds all there
    return f"sqlite:///{path}"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with behind_an_outbox(f"sqlite:///{tmp_path}/shop.cache") as cache:
        yield cache


@pytest.fixture
def db(database: str) -> Iterator[sqlite3.Connection]:
    """Give the application's own connection."""
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as db:
        yield db


def waiting(database: str) -> int:
    """Count the rows that wait for the relay."""
    with Outbox(database) as outbox:
        return sum(one.rows for one in outbox.status())


def test_h01_rolled_back_it_never_was(cache: Cache, db: sqlite3.Connection, database: str) -> None:
    """A record is written in the caller's transaction: nothing is published before the commit, or after a rollback."""
    tx = cache.in_transaction(db)
    tx.invalidate("product:17")
    with pytest.raises(UsageError, match="not committed yet"):
        tx.publish()
    Relay(cache, database).once()
    assert [one for one in scopes_told(cache) if one != "*"] == []
    db.rollback()
    Relay(cache, database).once()
    block = cache.transaction(db)
    tx = block.__enter__()
    tx.invalidate("product:18")
    block.__exit__(ZeroDivisionError, None, None)
    tx.publish()
    Relay(cache, database).once()
    assert [one for one in scopes_told(cache) if one != "*"] == []
    assert waiting(database) == 0


def test_h02_committed_it_is_published(cache: Cache, db: sqlite3.Connection, database: str) -> None:
    """The process that commits publishes at once; the relay publishes what nobody did, by the same ids, and deletes."""
    with cache.transaction(db) as tx:
        db.execute("UPDATE product SET price = 2")
        tx.invalidate("product:17", "catalog", reason="a sale")
    (record,) = told(cache)
    assert (record.scopes, record.why, waiting(database)) == (("product:17", "catalog"), "a sale", 1)
    cache.in_transaction(db).invalidate("product:18", soft=True, version=4)
    db.commit()
    assert Relay(cache, database).once() == 2
    published = [one for one in told(cache) if one.scopes != ("*",)]
    assert [one.scopes for one in published] == [("product:17", "catalog"), ("product:18",)]
    assert published[1].soft
    assert published[1].version is not None
    assert waiting(database) == 0


@pytest.mark.parametrize("mode", ["isolation_level", "autocommit"])
def test_a_connection_that_commits_by_itself_is_refused(cache: Cache, database: str, mode: str) -> None:
    """Outside of a transaction a record would not belong to its change; a block begins a transaction by itself."""
    path = database.removeprefix("sqlite:///")
    if mode == "autocommit" and not hasattr(sqlite3.Connection, "autocommit"):
        pytest.skip("needs Python 3.12 or newer")
    options: Any = {"isolation_level": None} if mode == "isolation_level" else {"autocommit": True}
    with closing(sqlite3.connect(path, **options)) as db:
        with pytest.raises(UsageError, match="commits each statement"):
            cache.in_transaction(db).invalidate("product:17")
        assert waiting(database) == 0
        with cache.transaction(db) as tx:
            tx.invalidate("product:17")
        assert (scopes_told(cache), waiting(database)) == (["product:17"], 1)
        db.execute("BEGIN")
        cache.in_transaction(db).invalidate("product:18")
        db.execute("COMMIT")
        assert waiting(database) == 2


def test_h01_a_connection_that_is_always_in_a_transaction(cache: Cache, database: str) -> None:
    """With `autocommit=False` nobody can see whether a commit came: a block publishes, and `publish()` is refused."""
    if not hasattr(sqlite3.Connection, "autocommit"):
        pytest.skip("needs Python 3.12 or newer")
    options: Any = {"autocommit": False}
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"), **options)) as db:
        with cache.transaction(db) as tx:
            tx.invalidate("one")
        assert (scopes_told(cache), waiting(database)) == (["one"], 1)
        tx = cache.in_transaction(db)
        tx.invalidate("two")
        db.commit()
        with pytest.raises(UsageError, match="not committed yet"):
            tx.publish()
    assert Relay(cache, database).once() == 2
    assert "two" in scopes_told(cache)


def test_h19_the_lease_rests_on_the_relay(cache: Cache, db: sqlite3.Connection, database: str) -> None:
    """Without a relay nothing is proven, while the log is well; with one reads hit; when it ends they load again."""
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return len(loads)

    def read() -> object:
        return cache.get_or_load("product:17", load, ttl="1h")

    assert (read(), read()) == (1, 2)
    with relaying(cache, database) as relay:
        until(lambda: proven(cache))
        until(lambda: read() == read())
        with cache.transaction(db) as tx:
            tx.invalidate("product:17")
        known = len(loads)
        assert read() == known + 1
        until(lambda: waiting(database) == 0)
        assert relay.pulses > 1
    until(lambda: not proven(cache))
    known = len(loads)
    assert (read(), read()) == (known + 1, known + 2)


def test_h20_another_database_ends_everything(cache: Cache, database: str, tmp_path: Path) -> None:
    """A file put in place of the database, a restored one say, is noticed by a relay at work: all entries end."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(truncate)")
    copy = path.read_bytes()
    with relaying(cache, database):
        until(lambda: proven(cache))
        timeline = cache.node.timeline
        until(lambda: cache.node.timeline != "")
        before = scopes_told(cache).count("*")
        (tmp_path / "restored.db").write_bytes(copy)
        (tmp_path / "restored.db").replace(path)
        until(lambda: scopes_told(cache).count("*") > before)
        until(lambda: cache.node.timeline not in {"", timeline})


def test_a_backlog_is_read_in_parts_and_to_an_end(cache: Cache, db: sqlite3.Connection, database: str) -> None:
    """What is committed while a backlog is read does not keep the pulse from coming, and is published by the next."""
    for number in range(25):
        cache.in_transaction(db).invalidate(f"p:{number}")
    db.commit()
    feed = OutboxFeed(database, cache.name)
    with closing(feed):
        seen: list[str] = []
        first, parts = True, 0
        while True:
            part = feed.read(5, first=first)
            first, parts = False, parts + 1
            seen += [row.id for row in part.rows]
            for late in range(5):  # others go on: as many as are read
                cache.in_transaction(db).invalidate(f"late:{parts}:{late}")
            db.commit()
            feed.settle([row.id for row in part.rows], {})
            if not part.more:
                break
            assert parts < 10, "it follows the writers for ever"
        assert (len(seen), parts) == (25, 6)
        assert part.rows == ()
        assert len(feed.read(500, first=True).rows) == 30


def test_a_broken_reading_sets_no_end_to_the_next(cache: Cache, db: sqlite3.Connection, database: str) -> None:
    """A reading that was broken off leaves nothing behind: the next one reads to the end as of its own beginning."""
    for number in range(10):
        cache.in_transaction(db).invalidate(f"p:{number}")
    db.commit()
    with closing(OutboxFeed(database, cache.name)) as feed:
        assert feed.read(5, first=True).more
        cache.in_transaction(db).invalidate("late")
        db.commit()
        assert len(feed.read(500, first=True).rows) == 11


def test_what_cannot_be_read_is_put_aside_loudly(tmp_path: Path, db: sqlite3.Connection, database: str) -> None:
    """A row that is no record blocks nobody: everything ends in its place, and it is reported until it is seen to."""
    troubles: list[str] = []
    url = f"sqlite:///{tmp_path}/shop.cache"
    with behind_an_outbox(url, on_trouble=lambda what, _error: troubles.append(what)) as cache:
        db.execute("INSERT INTO unstale_outbox (id, cache, data) VALUES ('bad', 'shop', x'c1')")
        cache.in_transaction(db).invalidate("product:17")
        db.commit()
        relay = Relay(cache, database)
        assert relay.once() == 2
        assert "product:17" in scopes_told(cache)
        assert "bad.unreadable" in [record.id for record in told(cache)]
        assert "relaying all records" in troubles
        with Outbox(database) as outbox:
            ((one,),) = [outbox.dead()]
            assert (one.id, one.cache, one.data) == ("bad", "shop", b"\xc1")
            assert (outbox.status()[0].dead, outbox.replay(["bad", "no such"])) == (1, 1)
            assert (outbox.status()[0].rows, outbox.dead()) == (1, [])
            relay.once()
            assert outbox.discard([one.id for one in outbox.dead()]) == 1
            assert outbox.status() == []


def test_a_database_without_an_outbox_says_what_to_do(cache: Cache, tmp_path: Path) -> None:
    """Where the tables are missing the error says how they are made; where there is no file, that the path is wrong."""
    with closing(sqlite3.connect(tmp_path / "empty.db")) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(SourceError, match="unstale outbox ddl --dialect sqlite"):
        Relay(cache, f"sqlite:///{tmp_path}/empty.db").once()
    with pytest.raises(SourceError, match="there is no file"):
        Relay(cache, f"sqlite:///{tmp_path}/none.db").once()
