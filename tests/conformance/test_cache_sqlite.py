from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("unstale.testing.conformance")

from unstale.cache import Cache  # noqa: E402 - asserts are rewritten first
from unstale.engines.ports import Ports  # noqa: E402 - as above
from unstale.engines.sqlite import SQLiteEngine  # noqa: E402 - as above
from unstale.engines.sqlite_open import boot_clock  # noqa: E402 - as above
from unstale.testing.conformance.cache import CacheConformance  # noqa: E402 - as above

_numbers = itertools.count()


class TestSQLite(CacheConformance):
    folder: Path
    path: Path

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def cache(self, **settings: Any) -> Cache:
        self.path = self.folder / f"{next(_numbers)}.cache"
        return self.other(**settings)

    def other(self, **settings: Any) -> Cache:
        engine = SQLiteEngine(str(self.path), clock=settings.get("clock", boot_clock))
        return Cache(ports=Ports(engine, engine), **settings)
