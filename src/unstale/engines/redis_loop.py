"""Connections for event loops: one to each server and loop, made by the first who needs it."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import get_running_loop
from collections.abc import AsyncGenerator, Callable
from os import getpid
from typing import Any

from unstale.engines.redis_calls import Ask, Refresh, Steps, T, follow
from unstale.engines.redis_commands import joined
from unstale.engines.redis_errors import ErrorReply
from unstale.engines.redis_places import Places, unreached
from unstale.engines.redis_stream import Stream
from unstale.engines.redis_url import Address, RedisUrl
from unstale.engines.redis_wire import BREAKS
from unstale.errors import EngineError

Place = tuple[Address, bool]  # a server; and whether the connection is one for calls that wait for its replicas


class Lane:
    """The connections of one loop: to each server one, made by the first who needs it."""

    def __init__(self) -> None:
        self.streams: dict[Place, Stream | asyncio.Task[Stream]] = {}
        self._life = self._live()
        self._lives = False

    async def _live(self) -> AsyncGenerator[None]:
        """Last as long as the loop: at its end a loop closes all asynchronous generators, and this the connections."""
        try:
            yield
        finally:
            self.close()
            await asyncio.sleep(0)  # transports close in the next turn

    def at(self, place: Place) -> Stream | None:
        """Give the connection to a server, if there is one that seems to be alive."""
        stream = self.streams.get(place)
        return stream if isinstance(stream, Stream) and stream.broken is None else None

    async def to(self, url: RedisUrl, place: Place) -> Stream:
        """Give the connection to a server."""
        alive = self.at(place)
        if alive is not None:
            return alive
        stream = self.streams.get(place)
        if not isinstance(stream, asyncio.Task):
            stream = get_running_loop().create_task(self._open(url, place))
            self.streams[place] = stream
        return await asyncio.shield(stream)  # others wait for it too, when one of them is cancelled

    async def _open(self, url: RedisUrl, place: Place) -> Stream:
        try:
            if not self._lives:
                self._lives = True
                await anext(self._life)
            stream = Stream(get_running_loop(), url.timeout_s)
            await stream.open(url, place[0])
        except BaseException:
            self.streams.pop(place, None)
            raise
        self.streams[place] = stream
        return stream

    def close(self) -> None:
        """Close all."""
        for stream in self.streams.values():
            if isinstance(stream, Stream):
                stream.close()
        self.streams.clear()


class LoopLink:
    """Makes the calls of one engine in event loops; each loop has connections of its own.

    Args:
        places: Where the keys lie.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child: the connections are its parent's."""
        self._pid = getpid()
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Lane] = weakref.WeakKeyDictionary()
        self._near: Callable[[], Stream | None] = lambda: None  # to the only server, of the loop that asked last
        self._breaker = self._places.breakers.at(self._places.only)

    async def run(self, steps: Steps[T]) -> T:
        """Make the calls of a method.

        Raises:
            EngineError: One of them failed.
        """
        if getpid() != self._pid:
            self._places.reborn()
            self.reborn()
        try:
            call = next(steps)
            while True:
                try:
                    replies = None if call.slow else await self.ask_at_hand(joined(call.bytes()), len(call.commands))
                except EngineError as error:
                    call = steps.throw(error)
                    continue
                if replies is None or ErrorReply in map(type, replies):
                    break  # what was refused is sent once more, and its error dealt with
                call = steps.send(replies)
            moves = follow(steps, call, self._places)
            move = next(moves)
            while True:
                try:
                    answer = await (self._ask(move) if isinstance(move, Ask) else self._refresh(move))
                except EngineError as error:
                    move = moves.throw(error)
                else:
                    move = moves.send(answer)
        except StopIteration as done:
            value: T = done.value
            return value

    def at_hand(self) -> Stream | None:
        """Give the connection to the one server that there is, if it can be asked without any detour."""
        if self._breaker.failures or getpid() != self._pid:
            return None
        stream = self._near()
        if stream is not None and stream.loop is get_running_loop() and stream.broken is None:
            return stream
        address = self._places.only
        stream = None if address is None else self._lane().at((address, False))
        if stream is not None:
            self._near = weakref.ref(stream)  # a loop that is over is not kept
        return stream

    async def ask_at_hand(self, data: bytes, count: int) -> list[Any] | None:
        """Ask the one server that there is, by the connection at hand: see `Link.ask_at_hand`."""
        stream = self.at_hand()
        if stream is None:
            return None
        try:
            return await stream.ask(data, count)
        except BREAKS as error:
            self.note(error)
            return None

    def note(self, error: BaseException) -> None:
        """Take note of what broke the connection at hand; raise `UnavailableError` if its server gave no answer."""
        address = self._places.only
        if address is not None and isinstance(error, TimeoutError):
            self._breaker.failed()
            raise unreached(address, self._places.url, error) from error

    async def _refresh(self, move: Refresh) -> list[Any]:
        try:
            await asyncio.to_thread(self._places.refresh)
        except EngineError:
            if move.needed:
                raise
        return []

    async def _ask(self, ask: Ask) -> list[Any]:
        """Ask one server; once more by a new connection, if the one at hand turns out to be dead."""
        lane, url = self._lane(), self._places.url
        place = (ask.address, ask.call.slow)
        stream = lane.at(place)
        while True:
            kept = stream is not None
            try:
                if stream is None:
                    stream = await lane.to(url, place)
                return await stream.ask(joined(ask.data), ask.replies)
            except BREAKS as error:
                if not kept or isinstance(error, TimeoutError):
                    raise unreached(ask.address, url, error) from error
                stream = None

    def _lane(self) -> Lane:
        loop = get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            lane = self._lanes[loop] = Lane()
        return lane

    def close(self) -> None:
        """Close all connections, each in its own loop. Idempotent."""
        for loop, lane in list(self._lanes.items()):
            if loop.is_closed():
                continue
            try:
                loop.call_soon_threadsafe(lane.close)
            except RuntimeError:  # it was closed meanwhile
                continue
