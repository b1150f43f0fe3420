"""Connections for event loops: each loop has a few of its own, and each call has one of them until it is answered.

They are made in a thread, since libpq looks host names up while everybody waits; from then on they never block.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeVar

from unstale.engines.postgres_errors import STALE, ServerError
from unstale.engines.postgres_home import Home
from unstale.engines.postgres_store import Ask, Steps
from unstale.engines.postgres_wire import BREAKS, Param, Row, Statement, Wire
from unstale.errors import BusyError, EngineError

T = TypeVar("T")
LANES_MAX: Final = 8  # connections of one loop


class Lane:
    """The connections of one loop."""

    def __init__(self) -> None:
        self.idle: deque[Wire] = deque()
        self.free = asyncio.Semaphore(LANES_MAX)

    def drop(self) -> None:
        """Close those that are idle."""
        while self.idle:
            self.idle.pop().close()


class LoopLink:
    """Makes the calls of one engine in event loops.

    Args:
        home: The server.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self.closed = False
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child: the connections are its parent's."""
        self._pid = os.getpid()
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Lane] = weakref.WeakKeyDictionary()

    async def run(self, steps: Steps[T]) -> T:
        """Make the calls of a method.

        Raises:
            EngineError: One of them failed.
        """
        if os.getpid() != self._pid:
            self._home.reborn()
            self.reborn()
        moves = self._home.follow(steps)
        try:
            ask = next(moves)
            while True:
                try:
                    rows = await self._ask(ask)
                except (ServerError, EngineError) as error:
                    ask = moves.throw(error)
                else:
                    ask = moves.send(rows)
        except StopIteration as done:
            answer: T = done.value
            return answer

    async def _ask(self, ask: Ask) -> list[Row]:
        lane, timeout_s = self._lane(), self._home.url.timeout_s
        if lane.free.locked():
            try:
                async with asyncio.timeout(timeout_s):
                    await lane.free.acquire()
            except TimeoutError as error:
                msg = f"all {LANES_MAX} connections of this loop to {self._home.url.place} are in use"
                raise BusyError(msg, hint="the server is slow, or too many tasks use one cache at once") from error
        else:
            await lane.free.acquire()
        try:
            return await self._ask_by(lane, ask)
        finally:
            lane.free.release()

    async def _ask_by(self, lane: Lane, ask: Ask) -> list[Row]:
        """Ask the server; once more by a new connection, if the one at hand turns out to be dead."""
        while True:
            wire: Wire | None = None
            kept = False
            try:
                wire = lane.idle.pop() if lane.idle else await asyncio.to_thread(self._home.connected)
                kept = wire.used
                rows = await asked(wire, ask.statement, ask.params, self._home.url.timeout_s)
            except ServerError as error:
                if wire is None:
                    raise
                if not (error.broken or error.code in STALE):
                    self._give_back(lane, wire)
                    raise
                wire.close()
                if not kept or self.closed:
                    raise
            except BREAKS as error:
                lane.drop()
                if wire is not None:
                    wire.abandon()
                if not kept or isinstance(error, TimeoutError) or self.closed:
                    raise self._home.lost(error) from error
            except BaseException:  # cancelled: its answer may still come
                if wire is not None:
                    wire.abandon()
                raise
            else:
                self._give_back(lane, wire)
                return rows

    def _give_back(self, lane: Lane, wire: Wire) -> None:
        if self.closed:
            wire.close()
        else:
            lane.idle.append(wire)

    def _lane(self) -> Lane:
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            lane = self._lanes[loop] = Lane()
        return lane

    def close(self) -> None:
        """Close all connections, each in its own loop. Idempotent."""
        self.closed = True
        for loop, lane in list(self._lanes.items()):
            if loop.is_closed():
                continue
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(lane.drop)


async def asked(wire: Wire, statement: Statement, params: Sequence[Param], timeout_s: float) -> list[Row]:
    """Run a statement, and await its answer.

    Raises:
        TimeoutError: It did not come in time.
    """
    loop, number = asyncio.get_running_loop(), wire.socket
    moves = wire.moves(statement, params)
    ready: asyncio.Future[None] | None = None

    def go_on() -> None:
        if ready is not None and not ready.done():
            ready.set_result(None)

    def give_up() -> None:
        if ready is not None and not ready.done():
            ready.set_exception(TimeoutError("no answer in time"))

    try:
        write = next(moves)
        timer = loop.call_later(timeout_s, give_up)
        loop.add_reader(number, go_on)
        try:
            while True:
                ready = loop.create_future()
                if write:
                    loop.add_writer(number, go_on)
                try:
                    await ready
                finally:
                    if write:
                        loop.remove_writer(number)
                write = next(moves)
        finally:
            timer.cancel()
            loop.remove_reader(number)
    except StopIteration as done:
        rows: list[Row] = done.value
        return rows
