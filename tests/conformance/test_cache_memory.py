from __future__ import annotations

import secrets
from typing import Any

import pytest

pytest.register_assert_rewrite("unstale.testing.conformance")

from unstale.cache import Cache  # noqa: E402 - asserts are rewritten first
from unstale.clock import boottime  # noqa: E402 - as above
from unstale.engines.memory import MemoryEngine, MemoryServer  # noqa: E402 - as above
from unstale.engines.ports import Ports  # noqa: E402 - as above
from unstale.testing.conformance.cache import CacheConformance  # noqa: E402 - as above


class TestMemory(CacheConformance):
    engine: MemoryEngine

    def cache(self, **settings: Any) -> Cache:
        self.engine = MemoryEngine(MemoryServer(settings.get("clock", boottime), secrets.token_hex(8)))
        return self.other(**settings)

    def other(self, **settings: Any) -> Cache:
        return Cache(ports=Ports(self.engine, self.engine), **settings)
