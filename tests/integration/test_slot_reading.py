from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.postgres_servers import PostgresServer
from tests.support.slots import CONFIG, SLOT, TABLES, drained, forget_slot, make_slot, reading
from tests.support.waiting import until
from unstale.errors import SourceError
from unstale.sources.capture_config import parse_config

pytestmark = pytest.mark.real

ALL = ("product", "tenant", "table:product")


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """Give a server that tests share."""
    with PostgresServer(wal_level="logical", wal_writer_delay="10s", bgwriter_delay="10s") as server:
        yield server


@pytest.fixture
def server(own_server: PostgresServer) -> PostgresServer:
    """Give it with a shop whose tables are captured."""
    forget_slot(own_server)
    own_server.sql(*TABLES)
    make_slot(own_server)
    return own_server


def confirmed(server: PostgresServer) -> str:
    """Give the position of the slot."""
    return str(server.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots")[0][0])


def test_h31_every_write_is_told(server: PostgresServer) -> None:
    """Whoever writes, and however: the row that was and the row that is end; a rollback ends nothing."""
    with reading(server) as feed:
        assert drained(feed) == []
        server.sql(
            "UPDATE product SET price = 2 WHERE id = 17",
            "UPDATE product SET tenant = 'a:b' WHERE id = 3",
            "BEGIN; DELETE FROM product WHERE id = 1; ROLLBACK",
            "BEGIN; INSERT INTO product VALUES (100, NULL); SAVEPOINT a; DELETE FROM product WHERE id = 2;"
            " ROLLBACK TO a; UPDATE product SET id = 101 WHERE id = 100; COMMIT",
            "INSERT INTO review VALUES (3, 1), (3, 2)",
            "CREATE TABLE IF NOT EXISTS other (x integer); INSERT INTO other VALUES (1)",
        )
        with server.client() as client, client.cursor().copy("COPY review FROM STDIN") as copy:
            copy.write_row((4, 1))
        assert drained(feed) == [
            ("product:17", "tenant:acme", "table:product"),
            ("product:3", "tenant:acme", "table:product", "tenant:a%3Ab"),
            ("product:100", "tenant:None", "table:product", "product:101"),
            ("review:3:1", "table:review", "review:3:2"),
            ("review:4:1", "table:review"),
        ]
        assert drained(feed) == []


def test_many_rows_and_all_rows_end_the_whole_table(server: PostgresServer) -> None:
    """A transaction over more rows than `bulk`, and a TRUNCATE, end all of the table: records are bounded."""
    with reading(server) as feed:
        server.sql("INSERT INTO product SELECT n, 'x' FROM generate_series(100, 2000) n")
        server.sql("BEGIN; INSERT INTO review VALUES (1, 1); TRUNCATE product; COMMIT")
        assert drained(feed, 10) == [ALL, (*ALL, "review:1:1", "table:review")]
        server.sql("INSERT INTO review SELECT 1, n FROM generate_series(2, 501) n")
        assert sorted(map(len, drained(feed))) == [1, 500], "a record has a bounded number of scopes"


def test_h02_what_is_not_settled_is_told_again_under_the_same_id(server: PostgresServer) -> None:
    """Until the log has acknowledged it, a change is told again, also by another process, and known as a repetition."""
    server.sql("UPDATE product SET price = 2 WHERE id = 17", "UPDATE product SET price = 3 WHERE id = 17")
    with reading(server) as feed:
        first = feed.read(500, first=True)
    with reading(server) as feed:
        assert feed.read(500, first=True).rows == first.rows
        feed.settle([row.id for row in first.rows], {})
        assert feed.read(500, first=True).rows == ()
    assert len({row.id for row in first.rows}) == 2
    assert 0.0 <= first.lag_s < 60.0


def test_a_reading_in_parts_has_an_end_while_others_write(server: PostgresServer) -> None:
    """A backlog comes in parts of whole transactions; what is committed after the reading began does not prolong it."""
    for number in range(1, 11):
        server.sql(f"UPDATE product SET price = 5 WHERE id = {number}")
    with reading(server) as feed:
        seen, first, more = [], True, True
        while more:
            part, first = feed.read(4, first=first), False
            seen += [row.id for row in part.rows]
            feed.settle([row.id for row in part.rows], {})
            server.sql("UPDATE product SET price = 6 WHERE id = 11", "UPDATE product SET price = 7 WHERE id = 11")
            more = part.more
            assert len(seen) < 25, "the reading has no end"
        assert len(seen) >= 10
        assert len(set(seen)) == len(seen)


def test_h18_a_commit_that_is_not_visible_yet(server: PostgresServer) -> None:
    """A commit that waits for a standby is in the log and not seen: it is told, and a pulse possible, when it is."""
    with reading(server) as feed:
        drained(feed)
        server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
        until(lambda: server.sql("SHOW synchronous_standby_names") == [("nobody",)])
        writer = threading.Thread(target=server.sql, args=("UPDATE product SET price = 9 WHERE id = 17",))
        writer.start()
        try:
            until(lambda: server.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
            assert server.sql(
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes("
                f"'{SLOT}', NULL, NULL, 'proto_version', '1', 'publication_names', '{SLOT}')"
            ) != [(0,)]
            assert server.sql("SELECT price FROM product WHERE id = 17") == [(1,)]
            with pytest.raises(SourceError, match="not visible yet"):
                feed.read(500, first=True)
        finally:
            server.sql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
            writer.join()
        assert server.sql("SELECT price FROM product WHERE id = 17") == [(9,)]
        assert drained(feed) == [("product:17", "tenant:acme", "table:product")]


def test_h18_a_commit_that_is_visible_and_not_flushed_yet(server: PostgresServer) -> None:
    """With `synchronous_commit = off` a commit is seen before the slot can tell it: a reading's end lies behind it."""
    with reading(server) as feed, server.client() as client:
        drained(feed)
        client.execute("SET synchronous_commit = off")
        client.execute("UPDATE product SET price = 8 WHERE id = 17")
        ((ahead,),) = server.sql("SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()")
        assert ahead, "the commit was flushed already: this shows nothing"
        assert server.sql("SELECT price FROM product WHERE id = 17") == [(8,)]
        assert drained(feed) == [("product:17", "tenant:acme", "table:product")]


def test_a_slot_that_tells_nothing_is_read_to_its_end_and_moves_on(server: PostgresServer) -> None:
    """Where only other tables are written, a reading ends at once, and the server need not keep its log for ever."""
    with reading(server) as feed:
        assert drained(feed) == []
        before = confirmed(server)
        server.sql("CREATE TABLE IF NOT EXISTS other (x integer)",
                   "INSERT INTO other SELECT n FROM generate_series(1, 40000) n")  # fmt: skip
        assert feed.wait(30.0)
        assert drained(feed) == []
        assert confirmed(server) != before
        drained(feed)
        feed.wait(0.0)
        assert not feed.wait(0.05)
        server.sql("UPDATE product SET price = 2")
        assert feed.wait(30.0)


@pytest.mark.parametrize(
    ("table", "text", "why", "cure"),
    [
        ("id integer", "", "no primary key", "REPLICA IDENTITY FULL"),
        ("id integer PRIMARY KEY, tenant text", 'scopes = ["tenant:{tenant}"]', "what tenant", "REPLICA IDENTITY FULL"),
        ("id integer PRIMARY KEY", 'scopes = ["x:{nothing}"]', "no column nothing", "name a column"),
        ("id jsonb PRIMARY KEY", "", "no column id", "name a column"),
        ("id timestamptz PRIMARY KEY", "", "no column id", "name a column"),
        ("id text COLLATE ignoring PRIMARY KEY", "", "no column id", "binary collation"),
        ("id integer PRIMARY KEY) PARTITION BY RANGE (id", "", "no plain table", "name each of these"),
    ],
)
def test_tables_that_cannot_be_captured(server: PostgresServer, table: str, text: str, why: str, cure: str) -> None:
    """What could not be told truly is refused before anything is relayed, with the cure."""
    server.sql(
        "CREATE COLLATION IF NOT EXISTS ignoring (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "DROP TABLE IF EXISTS odd",
        f"CREATE TABLE odd ({table})",
    )
    with pytest.raises(SourceError, match=why) as refused, reading(server, parse_config(f"[tables.odd]\n{text}")):
        pass
    assert cure in refused.value.hint


def test_a_changed_table_ends_all_of_it_and_is_told(server: PostgresServer) -> None:
    """When a column that a scope names is gone, or the log tells no old values more, all of the table ends, loudly."""
    said: list[str] = []
    with reading(server, trouble=lambda what, error: said.append(str(error))) as feed:
        server.sql("ALTER TABLE product ADD COLUMN more integer", "UPDATE product SET more = 1 WHERE id = 17")
        assert drained(feed) == [("product:17", "tenant:acme", "table:product")]
        assert said == []
        server.sql("ALTER TABLE product REPLICA IDENTITY DEFAULT", "UPDATE product SET tenant = 'b' WHERE id = 17")
        assert drained(feed) == [ALL]
        server.sql("ALTER TABLE product DROP COLUMN tenant", "DELETE FROM product WHERE id = 17",
                   "DELETE FROM product WHERE id = 16")  # fmt: skip
        assert drained(feed) == [ALL, ALL]
    assert ["replica identity" in said[0], "no column tenant" in said[1]] == [True, True]
    assert len(said) == 2, "each trouble is told once"


def test_h20_a_table_made_anew_or_left_out_is_another_timeline(server: PostgresServer) -> None:
    """What DROP TABLE took away no log tells: nothing is proven until the new table is published, and then all ends."""
    with reading(server) as feed:
        before = feed.timeline()
        assert feed.timeline() == before
        server.sql("DROP TABLE review", "CREATE TABLE review (product integer, number integer PRIMARY KEY)")
        with pytest.raises(SourceError, match="review: not in the publication"):
            feed.timeline()
    server.sql(f"ALTER PUBLICATION {SLOT} ADD TABLE review")
    with reading(server) as feed:
        assert feed.timeline() != before
        between = feed.timeline()
        server.sql(f"ALTER PUBLICATION {SLOT} SET (publish = 'insert, update, delete')")
        with pytest.raises(SourceError, match="only some of its changes"):
            feed.timeline()
        server.sql(f"ALTER PUBLICATION {SLOT} SET (publish = 'insert, update, delete, truncate')")
        assert feed.timeline() == between
        server.sql(f"ALTER PUBLICATION {SLOT} SET TABLE review, product WHERE (id > 5)")
        with pytest.raises(SourceError, match="product: not in the publication"):
            feed.timeline()
        server.sql(f"ALTER PUBLICATION {SLOT} SET TABLE review, product")
    with closing(server.client()), reading(server, parse_config("[tables.product]\nscopes = []")) as feed:
        assert feed.timeline() != between, "other scopes, other records: what was told before is not enough"


def test_a_capture_that_was_never_made(server: PostgresServer) -> None:
    """Without its slot the relay says what makes it."""
    forget_slot(server)
    with reading(server, CONFIG) as feed, pytest.raises(SourceError) as refused:
        feed.read(1, first=True)
    assert "unstale capture slot create" in refused.value.hint
