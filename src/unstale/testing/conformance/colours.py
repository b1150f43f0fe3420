"""The two colours of the cache's interface: a scenario is written once, and played in both.

A scenario is an `async def` function that awaits whatever it calls. In the blocking colour nothing of that ever
suspends: `shop.get` calls `Cache.get` and has its answer. In the asynchronous one `shop.get` awaits `Cache.aget`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeVar, cast

from unstale.testing.conformance.suite import DEADLINE_S, PAUSE_S, InThread, eventually

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
Finish = Callable[[], Awaitable[Any]]


async def settled(value: Any) -> Any:
    """Give a value, awaited if it has to be."""
    return await value if inspect.isawaitable(value) else value


def drive(flow: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine all of whose calls are blocking ones."""
    try:
        flow.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    flow.close()
    raise AssertionError("blocking code was suspended")


async def raised(kind: type[E], attempt: Awaitable[object]) -> E:
    """Give the exception that an attempt ends with; any other is let out."""
    try:
        await attempt
    except kind as error:
        return error
    raise AssertionError(f"there was no {kind.__name__}")


class Colour(ABC):
    """How code of one colour is written, run, and waited for.

    Attributes:
        name: Its name.
        prefix: What stands before the names of the cache's methods.
    """

    name: ClassVar[str]
    prefix: ClassVar[str]

    @abstractmethod
    def play(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario to its end."""

    @abstractmethod
    def function(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """Give an `async def` function in this colour."""

    @abstractmethod
    def start(self, flow: Coroutine[Any, Any, Any]) -> Finish:
        """Run a coroutine at the same time; what is returned gives its outcome, or raises it."""

    @abstractmethod
    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition, with a deadline."""


class Blocking(Colour):
    """Plain functions and threads."""

    name = "blocking"
    prefix = ""

    def play(self, scenario: Coroutine[Any, Any, None]) -> None:
        """See `Colour.play`."""
        drive(scenario)

    def function(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """See `Colour.function`."""

        @functools.wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return drive(function(*args, **kwargs))

        return plain

    def start(self, flow: Coroutine[Any, Any, Any]) -> Finish:
        """See `Colour.start`."""
        context = contextvars.copy_context()
        thread = InThread(lambda: context.run(drive, flow))

        async def finish() -> Any:
            return thread.result(object)

        return finish

    async def until(self, condition: Callable[[], object]) -> None:
        """See `Colour.until`."""
        eventually(condition)


class Asynchronous(Colour):
    """Coroutine functions and tasks."""

    name = "asynchronous"
    prefix = "a"

    def play(self, scenario: Coroutine[Any, Any, None]) -> None:
        """See `Colour.play`."""
        asyncio.run(scenario)

    def function(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """See `Colour.function`."""
        return function

    def start(self, flow: Coroutine[Any, Any, Any]) -> Finish:
        """See `Colour.start`."""
        task = asyncio.get_running_loop().create_task(flow)

        async def finish() -> Any:
            return await asyncio.wait_for(task, DEADLINE_S)

        return finish

    async def until(self, condition: Callable[[], object]) -> None:
        """See `Colour.until`."""
        until = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until, "it did not come in time"
            await asyncio.sleep(PAUSE_S)


COLOURS: dict[str, type[Colour]] = {colour.name: colour for colour in (Blocking, Asynchronous)}
