from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from unstale import Cache
from unstale.core.record import EVERYTHING, Record, Stamp, encode_record
from unstale.errors import PolicyError, UsageError
from unstale.sources import dialects
from unstale.sources.connections import connect
from unstale.sources.feed import Part, Row
from unstale.sources.links import link_of
from unstale.sources.outbox import Outbox, ddl
from unstale.sources.relay import Relay, records_of


@pytest.fixture
def cache() -> Iterator[Cache]:
    """Give a cache that waits for a relay."""
    with Cache(name="an outbox", truth="outbox") as cache:
        yield cache


def test_h28_what_no_version_can_read_ends_everything() -> None:
    """A row that is damaged, or holds another record than it says, or a pulse, is put aside, and everything ends."""
    good = Record("a", ("s",), soft=True)
    rows = (
        Row("a", encode_record(good)),
        Row("b", encode_record(good)),
        Row("c", b"\xc1"),
        Row("d", encode_record(Record("d", (), covers=Stamp("g", 1)))),
    )
    records, unreadable = records_of(Part(rows))
    assert records[0] == good
    assert [(one.id, one.scopes) for one in records[1:]] == [(f"{one}.unreadable", (EVERYTHING,)) for one in "bcd"]
    assert sorted(unreadable) == ["b", "c", "d"]


@pytest.mark.parametrize("name", ["", "x; DROP TABLE y", "a.b.c", "ü", "1a", "x" * 41, 7, None, "a b", 'a"b'])
def test_only_plain_names_are_names_of_tables(name: Any) -> None:
    """Nothing that is given as a table's name can be another statement."""
    with pytest.raises(UsageError, match="no plain name"):
        ddl("sqlite", table=name)


@pytest.mark.parametrize("name", ["postgresql", "mysql", "mariadb", "sqlite"])
def test_every_dialect_makes_three_tables(name: str) -> None:
    """The outbox, what was put aside, and the row that names the database's life, with the name that was asked for."""
    made = ddl(name, table="app.told")
    assert made.count("CREATE TABLE IF NOT EXISTS app.told") == 3
    assert "{" not in made
    assert [one.rpartition(" ")[2] for one in dialects.dialect_of(name).drop("app.told")] == [
        "app.told",
        "app.told_dead",
        "app.told_life",
    ]
    with pytest.raises(UsageError, match="no outbox for 'oracle'"):
        dialects.dialect_of("oracle")


def test_channels_differ_by_table_and_cache() -> None:
    """A relay is woken by rows of its own cache and table alone."""
    assert len({dialects.channel(table, cache) for table in ("a", "b") for cache in ("c", "d")}) == 4


def test_a_relay_needs_a_cache_that_waits_for_it(cache: Cache) -> None:
    """A cache that would be proven without a relay, and an interval that is too long for its bound, are refused."""
    with Cache(name="plain") as plain, pytest.raises(UsageError, match="proves its freshness without it"):
        Relay(plain, "sqlite:///x.db")
    with pytest.raises(PolicyError, match="leaves reads unproven"):
        Relay(cache, "sqlite:///x.db", interval="1s")
    with pytest.raises(UsageError, match="no plain name"):
        Relay(cache, "sqlite:///x.db", table="x y")
    with pytest.raises(UsageError, match="no kind of source"):
        Cache(truth="inbox")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["postgresql://x", None, 7, object()])
def test_what_is_no_connection_is_refused(cache: Cache, given: Any) -> None:
    """An engine, a URL, or anything else that has no transaction is refused, with what to give instead."""
    with pytest.raises(UsageError, match="no record can be written over"):
        cache.in_transaction(given)


@pytest.mark.parametrize("url", ["redis://localhost", "shop.db", None])
def test_what_is_no_database_is_refused(url: Any) -> None:
    """A URL that names no database is refused, with what to write instead."""
    with pytest.raises(UsageError, match="names no database"):
        connect(url)


def test_a_disabled_cache_writes_no_record(cache: Cache, tmp_path: Path) -> None:
    """In tests of its users, where the cache is disabled, no outbox is needed."""
    cache.disabled = True
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db, cache.transaction(db) as tx:
        tx.invalidate("product:17")


def test_what_is_committed_looks_committed_also_when_the_cache_is_closed(tmp_path: Path) -> None:
    """Publishing after the commit raises nothing: the relay does it, from wherever that runs."""
    told: list[str] = []
    cache = Cache(name="closed", on_trouble=lambda what, _error: told.append(what))
    path = tmp_path / "shop.db"
    path.touch()
    with Outbox(f"sqlite:///{path}") as outbox:
        outbox.create()
        cache.close()
        with closing(sqlite3.connect(path)) as db, cache.transaction(db) as tx:
            tx.invalidate("product:17")
        assert (told, [one.rows for one in outbox.status()]) == (["publish"], [1])


def test_links_know_what_is_under_way() -> None:
    """A link says whether a transaction is open, begins one where nothing else does, and ends it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        link = link_of(db)
        assert not link.open()
        link.begin()
        link.begin()
        assert link.open()
        link.execute("CREATE TABLE t (x)", ())
        link.rollback()
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        link.begin()
        link.execute("CREATE TABLE t (x)", ())
        link.commit()
        assert not link.open()
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
