"""A TCP proxy that does to connections what networks do: cuts, slows, resets and refuses them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeVar

from tests.support.ports import HOST, Port
from tests.support.waiting import DEADLINE_S

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)  # closing sends a reset, and nothing that still waits

Way = Literal["to_server", "to_client"]
Direction = Literal["both", "to_server", "to_client"]
WAYS: tuple[Way, Way] = ("to_server", "to_client")

T = TypeVar("T")


def _ways(direction: Direction) -> Iterable[Way]:
    return WAYS if direction == "both" else (direction,)


class _Link:
    """One client's connection and the one that goes on to the server."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server = socket.socket()
        self.server.setblocking(False)  # noqa: FBT003 - the name of the method says it
        self.task: asyncio.Task[None] | None = None
        self.holed = False  # it has lost bytes: TCP would never deliver what came after them

    def close(self, *, reset: bool) -> None:
        """Close both."""
        for end in (self.client, self.server):
            if reset and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()


class Proxy:
    """A proxy in front of a server, in a thread of its own; its methods return when they have taken effect.

    Args:
        port: The server's port.
        host: The server's host.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        self.connections = 0  # that were ever accepted
        self.bytes: dict[Way, int] = dict.fromkeys(WAYS, 0)  # that were passed on
        self.swallowed: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self._server = (host, port)
        self._port = Port()
        self.port = self._port.number
        self._delays_s: dict[Way, float] = dict.fromkeys(WAYS, 0.0)
        self._cut: set[Way] = set()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._healed = asyncio.Event()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen)

    def _do(self, step: Callable[[], T]) -> T:
        """Take a step in the proxy's thread."""

        async def taken() -> T:
            return step()

        return asyncio.run_coroutine_threadsafe(taken(), self._loop).result(DEADLINE_S)

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def cut(self, direction: Direction = "both") -> None:
        """Swallow what is sent, and leave the connections open; new ones are accepted, and reach nobody."""
        self._do(lambda: self._cut.update(_ways(direction)))

    def slow(self, seconds: float, direction: Direction = "both") -> None:
        """Delay every chunk: what follows it has to wait, and is delayed then."""
        self._do(lambda: self._delays_s.update(dict.fromkeys(_ways(direction), seconds)))

    def hold(self, direction: Direction = "both") -> None:
        """Keep what is sent and deliver it after `heal`, as TCP does when a short cut ends."""
        self.slow(math.inf, direction)

    def close_all(self) -> None:
        """Reset every connection; new ones are accepted."""
        self._do(self._reset_all)

    def refuse(self) -> None:
        """Refuse new connections; the open ones stay."""
        self._do(self._stop_listening)

    def heal(self) -> None:
        """Be a good network again: connections that lost bytes are reset, what was delayed is delivered at once."""
        self._do(self._heal)

    def close(self) -> None:
        """Reset every connection and end the thread; a second time, nothing."""
        if not self._loop.is_closed():
            self._do(self._stop_listening)
            self._do(self._reset_all)
            ended = asyncio.run_coroutine_threadsafe(self._all_ended(), self._loop)
            ended.result(DEADLINE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(DEADLINE_S)
            self._loop.close()
            self._port.free()

    async def _all_ended(self) -> None:
        """Wait for all other tasks, which have been cancelled."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._port.listener()
            self._listener.setblocking(False)  # noqa: FBT003 - the name of the method says it
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _reset_all(self) -> None:
        for link in tuple(self._links):
            self._reset(link)

    def _reset(self, link: _Link) -> None:
        """Reset a connection now, not when its task gets to know."""
        if link.task is not None:
            link.task.cancel()
        for end in (link.client, link.server):
            if end.fileno() >= 0:
                self._loop.remove_reader(end)
                self._loop.remove_writer(end)
        link.close(reset=True)
        self._links.discard(link)

    def _heal(self) -> None:
        self._cut.clear()
        self._delays_s = dict.fromkeys(WAYS, 0.0)
        self._healed.set()
        self._healed = asyncio.Event()
        for link in tuple(self._links):
            if link.holed:
                self._reset(link)
        self._listen()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _address = listener.accept()
        except OSError:  # it has gone again
            return
        client.setblocking(False)  # noqa: FBT003 - the name of the method says it
        self.connections += 1
        link = _Link(client)
        self._links.add(link)
        link.task = self._loop.create_task(self._serve(link))

    async def _serve(self, link: _Link) -> None:
        """Carry both ways until both have ended, or one has failed."""
        failed = True
        try:
            if self._cut:
                await self._swallow(link, link.client, "to_server")
            await self._loop.sock_connect(link.server, self._server)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(link, link.client, link.server, "to_server"))
                both.create_task(self._carry(link, link.server, link.client, "to_client"))
            failed = False
        except* OSError:
            pass  # one end was reset or is not there, so the other is reset
        finally:
            link.close(reset=failed)
            self._links.discard(link)

    async def _carry(self, link: _Link, source: socket.socket, target: socket.socket, way: Way) -> None:
        """Pass on what one end sends, and how it ends."""
        while True:
            try:
                chunk = await self._loop.sock_recv(source, CHUNK)
            except OSError:
                if way not in self._cut:
                    raise
                chunk = b""
            if self._delays_s[way]:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._healed.wait(), self._delays_s[way])
            if way in self._cut:
                self.swallowed[way] += len(chunk)
                await self._swallow(link, source, way)
            if not chunk:
                break
            self.bytes[way] += len(chunk)  # first, so that who has heard something finds it counted
            await self._loop.sock_sendall(target, chunk)
        target.shutdown(socket.SHUT_WR)

    async def _swallow(self, link: _Link, source: socket.socket, way: Way) -> NoReturn:
        """Read and forget, and tell nobody when it ends, until the connection is reset."""
        link.holed = True
        with contextlib.suppress(OSError):
            while chunk := await self._loop.sock_recv(source, CHUNK):
                self.swallowed[way] += len(chunk)
        await self._loop.create_future()
        raise AssertionError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
