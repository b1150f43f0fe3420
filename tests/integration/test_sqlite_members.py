"""What members tell about themselves, as it stands in files: also in those that an older version made, or shares."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unstale.core.ops import Member
from unstale.engines.sqlite import SQLiteEngine
from unstale.engines.sqlite_schema import SCHEMA


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the place of the file."""
    return tmp_path / "shop.cache"


@pytest.fixture
def engine(path: Path) -> Iterator[SQLiteEngine]:
    """Give an engine upon the file."""
    with contextlib.closing(SQLiteEngine(str(path))) as engine:
        yield engine


def poll(engine: SQLiteEngine, about: bytes = b"told", node: str = "n", applied: int = 0) -> None:
    """Poll as a member that tells about itself."""
    engine.poll(Member(node, engine.read_head().generation, applied, 2.0, about=about), applied, 10, 0.0)


def query(path: Path, sql: str) -> Any:
    """Ask the file behind the engine's back, as a process of another version would."""
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as db, db:
        return db.execute(sql).fetchall()


def test_a_file_of_the_first_format_is_the_same_without(path: Path, engine: SQLiteEngine) -> None:
    """What nobody has told anything in is a file as the first version makes it, and that reads what we add to it."""
    engine.read_head()
    names = set(query(path, "SELECT name FROM sqlite_master WHERE sql IS NOT NULL"))
    poll(engine)
    added = set(query(path, "SELECT name FROM sqlite_master WHERE sql IS NOT NULL")) - names
    assert added == {("about",), ("about_gone",)}
    (table,) = (statement for statement in SCHEMA if statement.startswith("CREATE TABLE member"))
    columns = table.partition(", PRIMARY KEY")[0].count(",") + 1
    row = "SELECT cache, 'old', generation, applied, bound, until FROM member"
    assert row.count(",") + 1 == columns
    query(path, f"INSERT INTO member {row}")  # so an older version writes: without naming columns
    assert sorted(one.node for one in engine.read_members().members) == ["n", "old"]
    assert engine.read_about(("n", "old")) == (b"told", b"")


def test_what_was_told_goes_with_its_member_whoever_takes_it_off(path: Path, engine: SQLiteEngine) -> None:
    """A process of an older version, which knows nothing of what was told, takes it away with the member."""
    poll(engine)
    poll(engine, node="other")
    query(path, "DELETE FROM member WHERE node = 'n'")
    assert query(path, "SELECT node, told FROM about") == [("other", b"told")]
    poll(engine)
    assert engine.read_about(("n", "other")) == (b"told", b"told")


def test_polls_write_what_is_known_already_no_more(path: Path, engine: SQLiteEngine) -> None:
    """What a member tells about itself is written once, and when it has changed; polls alone write nothing."""
    poll(engine)
    with contextlib.closing(sqlite3.connect(path)) as db:
        version = db.execute("PRAGMA data_version").fetchone()
        poll(engine)
        assert db.execute("PRAGMA data_version").fetchone() == version
        poll(engine, b"more")
        assert db.execute("PRAGMA data_version").fetchone() != version
    assert engine.read_about(("n",)) == (b"more",)


@pytest.mark.parametrize("damaged", ["1", "'text'", "1.5"])
def test_h29_what_is_no_bytes_was_not_told(path: Path, engine: SQLiteEngine, damaged: str) -> None:
    """What another program wrote in place of bytes counts for nothing told."""
    poll(engine)
    query(path, f"UPDATE about SET told = {damaged}")
    assert engine.read_about(("n",)) == (b"",)
