"""Conformance suites for engines: what every clause of the ports' contracts asks for, as tests to be inherited.

A store, a log, or an engine that is both has its suite. Derive a test class from it, say how the engine is made, and
let pytest collect it:

    class TestMyEngine(OneEngineConformance):
        def engine(self):
            self.path = next(paths)
            return MyEngine(self.path)

        def second(self):
            return MyEngine(self.path)

`Suite` lists what else can be told of an engine; a test that needs what was not told is skipped. To see the values of a
failed comparison, call `pytest.register_assert_rewrite("unstale.testing.conformance")` before the import.
"""

from __future__ import annotations

from unstale.testing.conformance.append import AppendTests
from unstale.testing.conformance.foreign import ForeignMarksTests
from unstale.testing.conformance.model import ModelTests
from unstale.testing.conformance.one import AtomicMarksTests
from unstale.testing.conformance.polling import MemberTests, PollTests
from unstale.testing.conformance.put import PutTests
from unstale.testing.conformance.store import EntryTests, LockTests
from unstale.testing.conformance.suite import OneEngine, Suite

__all__ = ["LogConformance", "OneEngine", "OneEngineConformance", "StoreConformance", "Suite"]


class StoreConformance(EntryTests, LockTests, ForeignMarksTests):
    """What every store must do: entries, locks, and the marks of a log that is another engine's."""


class LogConformance(AppendTests, PollTests, MemberTests):
    """What every log must do: append, poll, and keep the list of members."""


class OneEngineConformance(StoreConformance, LogConformance, AtomicMarksTests, PutTests, ModelTests):
    """What an engine that is store and log in one must do: both, and raise the marks in the step that appends."""
