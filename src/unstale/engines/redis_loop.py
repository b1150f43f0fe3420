"""Connections for event loops: one to each server and loop, with any number of requests on their way at once.

Replies come in the order of the requests, so a queue of futures is all that it takes. Requests of one turn of the loop
leave in one write. redis-py makes the connection; then its transport is handed over to our protocol, with hiredis as
the parser.
"""

from __future__ import annotations

import asyncio
import weakref
from asyncio import get_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Callable
from os import getpid
from typing import Any, cast

import hiredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from unstale.engines.redis_calls import Ask, Refresh, Steps, T, follow
from unstale.engines.redis_commands import joined
from unstale.engines.redis_errors import ErrorReply
from unstale.engines.redis_places import Places, unreached
from unstale.engines.redis_url import Address, RedisUrl
from unstale.engines.redis_wire import BREAKS
from unstale.errors import EngineError

Waiter = tuple[float, int, list[Any], "asyncio.Future[list[Any]]"]  # until when it waits, for how many replies
Place = tuple[Address, bool]  # a server; and whether the connection is one for calls that wait for its replicas


class Stream(asyncio.Protocol):
    """One connection of one loop.

    Args:
        loop: The loop.
        timeout_s: What an answer may take, in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.loop = loop
        self._timeout_s = timeout_s
        self._reader = hiredis.Reader(replyError=ErrorReply)
        self._waiters: deque[Waiter] = deque()
        self._outgoing: list[bytes] = []
        self._alone = True
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.broken: BaseException | None = None

    async def open(self, url: RedisUrl, address: Address) -> None:
        """Connect, and take the transport over."""
        kind = SSLConnection if url.tls else Connection
        host, port = address
        connection = kind(host=host, port=port, retry=Retry(NoBackoff(), 0), **url.settings)
        await connection.connect()  # type: ignore[no-untyped-call]
        # There is no public way to these. The writer is kept: it closes its transport when it is gone.
        self._writer = cast("asyncio.StreamWriter", connection._writer)  # noqa: SLF001
        connection._reader = connection._writer = None  # noqa: SLF001
        self._transport = cast("asyncio.Transport", self._writer.transport)
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def ask(self, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send bytes, and give the future of so many replies.

        Requests that come together leave together, at the end of the loop's turn. A single task that asks again and
        again need not wait for that: while the last turn had one request, the next one leaves at once.
        """
        loop = self.loop
        future: asyncio.Future[list[Any]] = loop.create_future()
        if self._transport is None:
            future.set_exception(self.broken or ConnectionResetError("not connected"))
            return future
        until = loop.time() + self._timeout_s
        at_once = self._alone and not self._waiters
        self._waiters.append((until, count, [], future))
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)
        if at_once:
            self._transport.write(data)
            return future
        if not self._outgoing:
            loop.call_soon(self._flush)
        self._outgoing.append(data)
        return future

    def _flush(self) -> None:
        data, self._outgoing = self._outgoing, []
        self._alone = len(self._waiters) == 1
        if self._transport is not None and self.broken is None:
            self._transport.write(b"".join(data))

    def data_received(self, data: bytes) -> None:
        """Hand the replies to those who wait for them."""
        self._reader.feed(data)
        waiters, take = self._waiters, self._reader.gets
        try:
            while waiters:
                _until, count, replies, future = waiters[0]
                while len(replies) < count:
                    reply = take()
                    if reply is False:
                        return
                    replies.append(reply)
                waiters.popleft()
                if not future.done():  # who was cancelled meanwhile does not want them
                    future.set_result(replies)
        except hiredis.HiredisError as error:
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait."""
        self._break(exc or ConnectionResetError("the server has closed the connection"))

    def _look(self) -> None:
        """Break when the oldest request has waited too long: one timer for all of them."""
        self._timer = None
        if not self._waiters:
            return
        until = self._waiters[0][0]
        if self.loop.time() >= until:
            self._break(TimeoutError(f"no answer within {self._timeout_s:g} s"))
        else:
            self._timer = self.loop.call_at(until, self._look)

    def _break(self, error: BaseException) -> None:
        if self.broken is None:
            self.broken = error
        waiters, self._waiters = self._waiters, deque()
        for _until, _count, _replies, future in waiters:
            if not future.done():
                future.set_exception(error)
        self.close()

    def close(self) -> None:
        """Close it."""
        self.broken = self.broken or ConnectionResetError("closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


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
