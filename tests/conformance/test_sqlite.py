from __future__ import annotations

import contextlib
import itertools
import sqlite3
from pathlib import Path

import pytest

pytest.register_assert_rewrite("unstale.testing.conformance")

from unstale.engines.sqlite import SQLiteEngine  # noqa: E402 - asserts are rewritten first
from unstale.testing.conformance import OneEngineConformance  # noqa: E402 - as above

_numbers = itertools.count()


class TestSQLite(OneEngineConformance):
    slack_s = 1e-3
    now = 1000.0
    folder: Path
    path: Path

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def engine(self) -> SQLiteEngine:
        self.path = self.folder / f"{next(_numbers)}.cache"
        return self.second()

    def second(self) -> SQLiteEngine:
        return SQLiteEngine(str(self.path), name="shop", max_ttl_s=self.max_ttl_s, clock=lambda: self.now)

    def foreign(self) -> SQLiteEngine:
        return self.engine()

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def wipe(self) -> None:
        self.path.unlink()

    def trim(self, keep: int) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            db.execute("DELETE FROM log WHERE position <= (SELECT head FROM cache) - ?", (keep,))
            db.execute("UPDATE cache SET trimmed = max(trimmed, head - ?)", (keep,))
