from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.binlogs import TABLES, logging_server, reading
from tests.support.mariadb_servers import MariaDBServer
from tests.support.slots import drained
from tests.support.waiting import until
from unstale.errors import SourceError, UsageError
from unstale.sources.binlog import BinlogFeed
from unstale.sources.capture_config import parse_config

pytestmark = pytest.mark.real

ALL = ("product", "tenant", "table:product")
REVIEWS = ("review", "table:review")


@pytest.fixture(scope="module")
def own_server() -> Iterator[MariaDBServer]:
    """Give a server that tests share."""
    with logging_server() as server:
        yield server


@pytest.fixture
def server(own_server: MariaDBServer) -> MariaDBServer:
    """Give it with a shop."""
    own_server.sql(*TABLES)
    return own_server


def shop(server: MariaDBServer, *statements: str) -> None:
    """Run statements in the shop's database."""
    server.sql("USE shop", *statements)


def test_h31_every_write_is_told(server: MariaDBServer) -> None:
    """Whoever writes, and however: the row that was and the row that is end; a rollback ends nothing."""
    with reading(server) as feed:
        assert drained(feed) == []
        shop(
            server,
            "UPDATE product SET price = 2 WHERE id = 17",
            "UPDATE product SET tenant = 'a:b' WHERE id = 3",
            "BEGIN", "DELETE FROM product WHERE id = 1", "ROLLBACK",
            "BEGIN", "INSERT INTO product VALUES (100, NULL, 1)", "SAVEPOINT a", "DELETE FROM product WHERE id = 2",
            "ROLLBACK TO SAVEPOINT a", "INSERT INTO review VALUES (100, 1)", "COMMIT",
            "CREATE TABLE other (x integer)", "INSERT INTO other VALUES (1)",
            "REPLACE INTO review VALUES (100, 1), (3, 2)",
        )  # fmt: skip
        assert drained(feed) == [
            ("product:17", "tenant:acme", "table:product"),
            ("product:3", "tenant:acme", "table:product", "tenant:a%3Ab"),
            ("product:100", "tenant:None", "table:product", "review:100:1", "table:review"),
            ("review:3:2", "table:review"),
        ]
        assert drained(feed) == []


def test_h31_what_a_foreign_key_hands_on_is_not_in_the_log(server: MariaDBServer) -> None:
    """Rows that the engine itself deletes or changes are told by nobody: with their parent's key all of them end."""
    shop(server, "INSERT INTO review VALUES (3, 1), (4, 1)")
    with reading(server) as feed:
        drained(feed)
        shop(server, "UPDATE product SET price = 2 WHERE id = 3", "DELETE FROM product WHERE id = 3",
             "UPDATE product SET id = 400 WHERE id = 4")  # fmt: skip
        row, deleted, moved = drained(feed)
    assert not set(REVIEWS) & set(row), "nothing was handed on"
    assert set(REVIEWS) < set(deleted)
    assert set(REVIEWS) < set(moved)
    assert server.sql("SELECT product FROM shop.review") == [(400,)]


def test_what_is_no_row_ends_the_whole_table(server: MariaDBServer) -> None:
    """TRUNCATE, ALTER, DROP, statements in place of rows, XA and many rows end all that they may have touched."""
    said: list[str] = []
    with reading(server, trouble=lambda what, error: said.append(str(error))) as feed:
        drained(feed)
        shop(server, "TRUNCATE review", "ALTER TABLE product ADD COLUMN more integer",
             "INSERT INTO product (id) SELECT seq FROM seq_100_to_2000")  # fmt: skip
        assert drained(feed, 2) == [REVIEWS, ALL, ALL]
        assert said == []
        shop(server, "XA START 'x'", "DELETE FROM product WHERE id = 1", "XA END 'x'", "XA PREPARE 'x'")
        assert drained(feed) == []
        shop(server, "XA COMMIT 'x'")
        assert drained(feed) == [ALL + REVIEWS]
        shop(server, "SET SESSION binlog_format = 'STATEMENT'", "DELETE FROM product WHERE id = 2")
        assert drained(feed) == [ALL + REVIEWS]
        shop(server, "DROP TABLE review")
        assert drained(feed) == [REVIEWS]
        with pytest.raises(SourceError, match="no table review"):
            drained(feed)
    assert ["two phases" in said[0], "STATEMENT" in said[1]] == [True, True]


def test_h02_what_is_not_settled_is_told_again_under_the_same_id(server: MariaDBServer) -> None:
    """Until the log has acknowledged it, a change is told again, also by another process, and known as a repetition."""
    with reading(server) as feed:
        drained(feed)
        drained(feed)
        shop(server, "UPDATE product SET price = 2 WHERE id = 17", "UPDATE product SET price = 3 WHERE id = 17")
        first = feed.read(500, first=True).rows
        assert feed.read(500, first=True).rows == first
    with reading(server) as feed:
        part = feed.read(1, first=True)
        assert (part.rows, part.more) == (first[:1], True)
        feed.settle([first[0].id], {})
        assert feed.read(1, first=False).rows == first[1:]
        feed.settle([first[1].id], {})
        assert drained(feed) == []
        assert drained(feed) == []
    with reading(server) as feed:
        assert drained(feed) == [], "where it was read to is noted"
    assert len({row.id for row in first}) == 2


def test_a_reading_in_parts_has_an_end_while_others_write(server: MariaDBServer) -> None:
    """A backlog comes in parts; what is committed after the reading began does not prolong it."""
    with reading(server) as feed:
        drained(feed)
        shop(server, *(f"UPDATE product SET price = 5 WHERE id = {number}" for number in range(1, 11)))
        seen, first, more = [], True, True
        while more:
            part, first = feed.read(3, first=first), False
            seen += [row.id for row in part.rows]
            feed.settle([row.id for row in part.rows], {})
            shop(server, "UPDATE product SET price = price + 1 WHERE id = 11")
            more = part.more
        assert len(seen) == 10
        assert len(drained(feed)) == 4


def test_two_caches_of_one_name(server: MariaDBServer) -> None:
    """Two relays that note how far they have read in one place: whoever reads notices, and all ends, loudly."""
    said: list[str] = []
    with reading(server, trouble=lambda what, error: said.append(str(error))) as one, reading(server) as other:
        drained(one)
        drained(one)
        drained(other)
        with pytest.raises(SourceError, match="two relays"):
            drained(one)
        with pytest.raises(SourceError, match="another relay has begun"):
            other.timeline()
    assert "another relay at the same time" in said[0]


def test_h18_a_commit_that_is_not_visible_yet(server: MariaDBServer) -> None:
    """A commit that waits for a replica is in the log and not seen: what a reading gives a fresh read sees."""
    wait = "SET GLOBAL rpl_semi_sync_master_enabled = "
    with reading(server) as feed:
        drained(feed)
        server.sql("SET GLOBAL rpl_semi_sync_master_timeout = 1500",
                   "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC", f"{wait}ON")  # fmt: skip
        try:
            writer = threading.Thread(target=shop, args=(server, "UPDATE product SET price = 9 WHERE id = 17"))
            writer.start()
            assert feed.wait(30.0), "the log tells it"
            assert server.sql("SELECT price FROM shop.product WHERE id = 17") == [(1,)], (
                "nothing waits: it shows nothing"
            )
            part = feed.read(500, first=True)
            assert server.sql("SELECT price FROM shop.product WHERE id = 17") == [(9,)]
            assert len(part.rows) == 1
            writer.join()
        finally:
            server.sql(f"{wait}OFF")


def test_the_relay_is_woken(server: MariaDBServer) -> None:
    """A commit to a captured table wakes; one to another table does not."""
    with reading(server) as feed:
        drained(feed)
        assert not feed.wait(0.05)
        shop(server, "CREATE TABLE other (x integer)", "INSERT INTO other VALUES (1)")
        assert not feed.wait(0.05)
        shop(server, "UPDATE product SET price = 2")
        assert feed.wait(30.0)


@pytest.mark.parametrize(
    ("setting", "value", "good"),
    [
        ("binlog_format", "MIXED", "ROW"),
        ("binlog_row_image", "MINIMAL", "FULL"),
        ("binlog_row_metadata", "MINIMAL", "FULL"),
        ("log_bin_compress", "ON", "OFF"),
    ],
)
def test_servers_whose_log_tells_too_little(server: MariaDBServer, setting: str, value: str, good: str) -> None:
    """A setting that would leave something out is refused at the start, with what sets it right."""
    server.sql(f"SET GLOBAL {setting} = {value}")
    try:
        with pytest.raises(SourceError, match=f"{setting} is {value}") as refused, reading(server):
            pass
    finally:
        server.sql(f"SET GLOBAL {setting} = {good}")
    assert setting in refused.value.hint


def test_servers_without_a_log() -> None:
    """A server that writes no log, and a database of another kind, are refused."""
    with MariaDBServer() as server, pytest.raises(SourceError, match="log_bin is OFF"):
        BinlogFeed(server.url, "shop", parse_config("[tables.product]"))


def test_databases_of_another_kind(tmp_path: object) -> None:
    """A file has no binary log."""
    import sqlite3

    with closing(sqlite3.connect(f"{tmp_path}/shop.db")), pytest.raises(UsageError, match="no binary log"):
        BinlogFeed(f"sqlite:///{tmp_path}/shop.db", "shop", parse_config("[tables.product]"))


@pytest.mark.parametrize(
    ("table", "why", "cure"),
    [
        ("id integer", "no primary key", "[] ends all"),
        ("id varchar(20) PRIMARY KEY", "no column id", "binary collation"),
        ("id timestamp PRIMARY KEY", "no column id", "name a column"),
        ("id integer PRIMARY KEY) ENGINE = MyISAM COMMENT = (''", "MyISAM", "InnoDB"),
    ],
)
def test_tables_that_cannot_be_captured(server: MariaDBServer, table: str, why: str, cure: str) -> None:
    """What could not be told truly is refused before anything is relayed, with the cure."""
    shop(server, f"CREATE TABLE odd ({table})".replace(" COMMENT = ('')", ""))
    with pytest.raises(SourceError, match=why) as refused, reading(server, parse_config("[tables.odd]")):
        pass
    assert cure in refused.value.hint


def lose(server: MariaDBServer) -> None:
    """Begin the log anew, as after a restore."""
    server.sql("RESET MASTER")


def purge(server: MariaDBServer) -> None:
    """Remove what was not read."""
    server.sql("FLUSH BINARY LOGS")
    last = server.sql("SHOW BINARY LOGS")[-1][0]
    until(lambda: server.sql(f"PURGE BINARY LOGS TO '{last}'", "SHOW BINARY LOGS")[0][0] == last)


def move(server: MariaDBServer) -> None:
    """Put the note of where the log was read to upon another place, as a restored dump may."""
    ((file, position, *_),) = server.sql("SHOW MASTER STATUS")
    server.sql(f"UPDATE shop.unstale_capture SET file = '{file}', position = {position}")


@pytest.mark.parametrize("accident", [lose, purge, move])
def test_h20_a_log_that_does_not_hold_the_mark(server: MariaDBServer, accident: object) -> None:
    """Purged, begun anew or another one than was read: another life begins, loudly, and so another timeline."""
    assert callable(accident)
    said: list[str] = []
    with reading(server) as feed:
        drained(feed)
        before = feed.timeline()
    with reading(server) as feed:
        drained(feed)
        assert feed.timeline() == before
        drained(feed)
    accident(server)
    with (
        reading(server, trouble=lambda what, error: said.append(str(error))) as feed,
        pytest.raises(SourceError, match=r"does not hold|does not reach"),
    ):
        drained(feed)
    assert len(said) == 1
    assert "everything is invalidated" in said[0]
    with reading(server) as feed:
        shop(server, "UPDATE product SET price = 2 WHERE id = 17")
        assert drained(feed) == [("product:17", "tenant:acme", "table:product")]
        assert feed.timeline() != before
