"""What the suites share: how they come by engines, time and threads."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import unittest
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeVar, cast

from unstale.core.ops import Batch, Member
from unstale.core.record import EVERYTHING, Logged, Record, Version
from unstale.engines.ports import LogPort, StorePort

T = TypeVar("T")
DEADLINE_S = 20.0  # for what must come at once, however slow the machine
FOR_EVER_S = 120.0  # a wait that only the event waited for can end before the deadline
PAUSE_S = 0.002


class OneEngine(StorePort, LogPort, Protocol):
    """An engine that is store and log in one."""


class Suite:
    """Base of the suites: override `engine`, and of the others what the engine can do.

    pytest makes one object for each test. A fixture of the subclass may prepare what `engine` needs, such as a folder.

    Attributes:
        keeps_bytes: The log keeps records as bytes, so it can meet those of another version.
        slack_s: How much remaining lifetimes may be off, in seconds: the resolution of the server's clock.
    """

    keeps_bytes = True
    slack_s = 0.05

    def engine(self) -> object:
        """Make an engine, or a context manager that gives one, on fresh data with every call."""
        raise NotImplementedError

    def second(self) -> object:
        """Make another engine, or context manager, on the data of the latest `engine()`, as another process would."""
        raise unittest.SkipTest("this engine cannot be shared")

    def advance(self, seconds: float) -> None:  # noqa: ARG002 - for subclasses
        """Let time pass for the latest `engine()` and all that share its data, without waiting."""
        raise unittest.SkipTest("this engine has no clock that could be advanced")

    def trim(self, keep: int) -> None:  # noqa: ARG002 - for subclasses
        """Make the log of the latest `engine()` forget all records but the newest `keep`."""
        raise unittest.SkipTest("this engine's log cannot be trimmed at will")

    def wipe(self) -> None:
        """Lose the log of the latest `engine()` with its members, as a server does that somebody empties."""
        raise unittest.SkipTest("this engine's log cannot be wiped at will")

    def foreign(self) -> object:
        """Make an engine on fresh data, or a context manager, as the store of a log that is another engine's."""
        raise unittest.SkipTest("this engine cannot be the store of another engine's log")

    # What the tests use -------------------------------------------------------------------------------------------

    def teardown_method(self) -> None:
        """Close what the test has opened."""
        self._stack.close()

    @property
    def store(self) -> StorePort:
        """The engine, as a store."""
        return cast("StorePort", self._opened("engine"))

    @property
    def other_store(self) -> StorePort:
        """The same store through another handle."""
        self._opened("engine")
        return cast("StorePort", self._opened("second"))

    @property
    def foreign_store(self) -> StorePort:
        """The store of a log that is another engine's."""
        return cast("StorePort", self._opened("foreign"))

    @property
    def log(self) -> LogPort:
        """The engine, as a log."""
        return cast("LogPort", self._opened("engine"))

    @property
    def other_log(self) -> LogPort:
        """The same log through another handle."""
        self._opened("engine")
        return cast("LogPort", self._opened("second"))

    def begin_anew(self) -> OneEngine:
        """Close what is open, and give an engine on fresh data."""
        self._stack.close()
        self._state.clear()
        return cast("OneEngine", self._opened("engine"))

    @property
    def can_advance(self) -> bool:
        """The suite says how to advance the engine's clock."""
        return type(self).advance is not Suite.advance

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.__dict__.setdefault("_opened_engines", {})  # a test class has no __init__
        return state

    @property
    def _stack(self) -> ExitStack:
        stack: ExitStack = self.__dict__.setdefault("_open_stack", ExitStack())
        return stack

    def _opened(self, factory: str) -> object:
        if factory not in self._state:
            made = getattr(self, factory)()
            if not isinstance(made, AbstractContextManager):
                made = contextlib.closing(made)
            engine = self._stack.enter_context(made)
            assert isinstance(engine, StorePort | LogPort), "a port's method is missing"
            self._state[factory] = engine
        return self._state[factory]


_numbers = itertools.count(1)


def record(*scopes: str, soft: bool = False, version: Version | None = None, ack: bool = False) -> Record:
    """Give a record with an id of its own; without scopes given, of the scope `a`."""
    return Record(f"r{next(_numbers)}", scopes or ("a",), soft=soft, version=version, ack=ack)


def member(
    node: str = "n",
    generation: str = "",
    applied: int = 0,
    max_staleness_s: float = 2.0,
    *,
    urgent: bool = False,
    about: bytes = b"",
) -> Member:
    """Give what a node tells of itself."""
    return Member(node, generation, applied, max_staleness_s, urgent, about)


def poll(log: LogPort, position: int, limit: int = 1000, wait_s: float = 0.0, node: str = "n") -> Batch:
    """Poll as a node of the log's own generation that has applied all up to the position."""
    return log.poll(member(node, log.read_head().generation, position), position, limit, wait_s)


def read_all(log: LogPort, limit: int = 500) -> list[Logged]:
    """Read a log from its first position to its head."""
    logged: list[Logged] = []
    while True:
        batch = poll(log, len(logged), limit)
        logged.extend(batch.records)
        if len(logged) >= batch.identity.head:
            return logged


def assert_chained(logged: list[Logged], *, position: int = 0, prev: str = "") -> None:
    """Check that records follow upon a position without a hole, each naming the one before it."""
    for one in logged:
        position += 1
        assert (one.position, one.prev) == (position, prev)
        prev = one.id


def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a deadline."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(PAUSE_S)


class InThread:
    """A call in a thread of its own.

    Args:
        call: What is called; what it returns or raises is given by `result`.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._outcome: list[object] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    @property
    def running(self) -> bool:
        """The call has not returned yet."""
        return self._thread.is_alive()

    def result(self, kind: type[T]) -> T:
        """Give what the call returned, or raise what it raised; it must end before the deadline."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the call did not return in time"
        if self._error is not None:
            raise self._error
        (outcome,) = self._outcome
        assert isinstance(outcome, kind)
        return outcome


TRICKY_NAMES = (
    "a", "A", " a", "a ", "a\u0301", "\u00e1", EVERYTHING, "**", "%", "_", "a%", "?", "[a]", "'", '"', "a'; --", "\\",
    "/", "..", ":", "a:b", "a::b", "{a}", "k\u00e4se", "\u0447\u0430\u0439", "\u8336", "\U0001f375", "\ufeffa",
    "\u202ea", "a\u200bb", "1", "01", "1.0", "true", "null", "None", "\u0130", "\u0131", "\u00df", "ss", "x" * 2000,
)  # fmt: skip
EVERY_BYTE = bytes(range(256))
