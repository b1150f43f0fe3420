"""One connection for event loops: any number of requests are on their way at once.

Replies come in the order of the requests, so a queue of futures is all that it takes. Requests of one turn of the loop
leave in one write. redis-py makes the connection; then its transport is handed over to our protocol, with hiredis as
the parser.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from unstale.engines.redis_errors import ErrorReply
from unstale.engines.redis_url import Address, RedisUrl
from unstale.engines.redis_wire import AWAY, LOOK_AGAIN, NEAR

TURNS: Final = 32  # of the loop, in which it does not sleep while a lone request waits: about what a sleep costs
Waiter = tuple[float, int, list[Any], "asyncio.Future[list[Any]]"]  # until when it waits, for how many replies


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
        self._near = NEAR  # as of a `Wire`
        self._unseen = 0
        self._turns = 0  # that the loop is still kept from sleeping
        self._stirring = False
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
            self._unseen += 1
            if self._near or self._unseen >= LOOK_AGAIN:
                self._unseen, self._turns = 0, TURNS
                if not self._stirring:
                    self._stirring = True
                    loop.call_soon(self._stir)
            return future
        if not self._outgoing:
            loop.call_soon(self._flush)
        self._outgoing.append(data)
        return future

    def _stir(self) -> None:
        """Keep the loop from sleeping for a few turns, while a request is alone and its server is near: see `Wire`.

        Nobody waits for that: each turn serves whatever else the loop has to do.
        """
        if self._turns and len(self._waiters) == 1:
            self._turns -= 1
            if self._turns:
                self.loop.call_soon(self._stir)
                return
            self._near = max(self._near - AWAY, 0)
        self._stirring, self._turns = False, 0

    def _flush(self) -> None:
        data, self._outgoing = self._outgoing, []
        self._alone = len(self._waiters) == 1
        if self._transport is not None and self.broken is None:
            self._transport.write(b"".join(data))

    def data_received(self, data: bytes) -> None:
        """Hand the replies to those who wait for them."""
        if self._turns:  # it came while the loop was kept from sleeping
            self._turns, self._near = 0, min(self._near + 1, NEAR) if self._near else NEAR // 2
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
