from __future__ import annotations

import secrets

import pytest

pytest.register_assert_rewrite("unstale.testing.conformance")

from unstale.engines.memory import MemoryEngine, MemoryServer  # noqa: E402 - asserts are rewritten first
from unstale.testing.conformance import OneEngineConformance, Suite  # noqa: E402 - as above


class TestMemory(OneEngineConformance):
    keeps_bytes = False
    slack_s = 1e-6
    now = 1000.0
    server: MemoryServer

    def engine(self) -> MemoryEngine:
        self.server = MemoryServer(lambda: self.now, secrets.token_hex(8), max_ttl_s=self.max_ttl_s)
        return MemoryEngine(self.server)

    def second(self) -> MemoryEngine:
        return MemoryEngine(self.server)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def trim(self, keep: int) -> None:
        self.server.trim(keep)

    def wipe(self) -> None:
        self.server.begin(secrets.token_hex(8))

    def foreign(self) -> MemoryEngine:
        self.engine()
        return MemoryEngine(self.server, own=False)


def test_no_test_of_the_suites_hides_another() -> None:
    """A name used by two groups of tests would silently leave one of them out."""
    groups = [group for group in OneEngineConformance.__mro__ if issubclass(group, Suite) and group is not Suite]
    names = [name for group in groups for name in vars(group) if not name.startswith("__")]
    assert len(names) == len(set(names)) > 80
    assert not set(names) & set(vars(Suite)) - {"__doc__"}
