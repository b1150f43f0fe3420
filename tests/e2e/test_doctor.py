"""The command `doctor`: sound caches, and each problem with what it weakens and what mends it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unstale import Cache
from unstale.cli import examine, examine_file
from unstale.cli.app import app
from unstale.cli.findings import Finding, size
from unstale.core.ops import Identity, Member, Members


class Shop:
    """A cache in a file that is in use."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.cache"
        self.url = f"sqlite:///{self.path}"
        self.cache = Cache(self.url)
        self.cache.get_or_load("product:17", lambda: 1, type=int)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give a cache that is in use."""
    place = Shop(tmp_path)
    yield place
    place.cache.close()


def call(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, output, error output."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def problems(*arguments: str) -> dict[str, dict[str, str]]:
    """Give the problems that doctor finds, by subject."""
    code, output, _errors = call("doctor", *arguments, "--json")
    found = {one["subject"]: one for one in json.loads(output) if one["level"] == "problem"}
    assert code == (1 if found else 0)
    assert all(one["weakens"] and one["mend"] for one in found.values())
    return found


def test_doctor_finds_nothing_wrong(shop: Shop) -> None:
    """A cache in use is sound, and doctor shows its members, marks, entries and limits."""
    shop.path.chmod(0o600)
    shop.cache.invalidate("a:1", wait=True)
    assert problems(shop.url) == {}
    code, output, errors = call("doctor", shop.url)
    assert (code, errors) == (0, "")
    assert "No problems." in output
    assert "applied 1, lag 0, bound 2 s" in output


def test_doctor_misses_the_file_or_the_cache(shop: Shop, tmp_path: Path) -> None:
    """A file that is not there, is no file, or holds no such cache is a problem."""
    assert set(problems(f"sqlite:///{tmp_path}/other.cache")) == {"file"}
    assert set(problems(f"sqlite:///{tmp_path}")) == {"file"}
    assert set(problems(shop.url, "--name", "other")) == {"cache"}


def test_doctor_looks_at_permissions(shop: Shop) -> None:
    """A file that anyone may write to is a problem; the command given mends it."""
    shop.path.chmod(0o666)
    mend = problems(shop.url)["permissions"]["mend"]
    subprocess.run(mend, shell=True, check=True)
    assert problems(shop.url) == {}


def test_doctor_knows_other_files(shop: Shop, tmp_path: Path) -> None:
    """Another program's database, and another format, are problems; a copy is worth a note."""
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    assert set(problems(f"sqlite:///{tmp_path}/other.db")) == {"contents"}
    shop.cache.close()
    (tmp_path / "copy.cache").write_bytes(shop.path.read_bytes())
    code, output, _errors = call("doctor", f"sqlite:///{tmp_path}/copy.cache")
    assert code == 0
    assert "is a copy of another one: nothing in it will be served" in output
    with sqlite3.connect(tmp_path / "copy.cache") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert set(problems(f"sqlite:///{tmp_path}/copy.cache")) == {"contents"}
    (tmp_path / "copy.cache").write_bytes(b"SQLite format 3\0" + bytes(4080))
    assert set(problems(f"sqlite:///{tmp_path}/copy.cache")) & {"file", "contents"}


def test_doctor_measures_what_grows(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long write-ahead log, a full disk, a network file system and nearly full tables are found."""
    monkeypatch.setattr(examine_file, "WAL_BYTES_MAX", 10)
    monkeypatch.setattr(examine_file, "FREE_BYTES_MIN", 1 << 60)
    monkeypatch.setattr(examine_file, "FREE_SHARE_MIN", 2.0)
    monkeypatch.setattr(examine_file, "_file_system", lambda _folder: "nfs4")
    monkeypatch.setattr(examine, "MARKS_MAX", 1)
    shop.cache.invalidate("a:1", "a:2")
    assert set(problems(shop.url)) >= {"write-ahead log", "disk", "file system", "marks"}


def test_doctor_looks_at_members() -> None:
    """A member far behind is a problem, one of another generation or a young list are worth a note."""
    head = Identity("g2", 10_000, "x")

    def levels(members: Members) -> list[str]:
        found: list[Finding] = list(examine._members(members, head, {"n1": "web-1 (host:17)"}))
        return [finding.level for finding in found]

    old = 100.0
    assert levels(Members(head, (Member("n1", "g2", 9_990, 2.0),), old, 2.0)) == ["ok"]
    assert levels(Members(head, (Member("n1", "g2", 10, 2.0),), old, 2.0)) == ["problem"]
    assert levels(Members(head, (Member("n1", "g1", 10, 2.0),), old, 2.0)) == ["note"]
    assert levels(Members(head, (Member("n1", "g2", 9_990, 2.0),), 0.5, 2.0)) == ["ok", "note"]
    assert levels(Members(head, (), old, 2.0)) == ["note"]


def test_sizes_have_units() -> None:
    """Bytes are written in the unit that people read."""
    assert [size(count) for count in (0, 1023, 2048, 3 << 20, 5 << 30, 7 << 40)] == [
        "0 bytes", "1,023 bytes", "2.0 KiB", "3.0 MiB", "5.0 GiB", "7.0 TiB",
    ]  # fmt: skip
