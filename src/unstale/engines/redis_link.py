"""Connections for blocking code: one for each call under way, kept for the next.

redis-py makes a connection (TLS, password, database); after that its socket is read and written here, with hiredis as
the parser, since redis-py's own layers cost more than the server's answer does.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections import deque
from typing import Any, Final

import hiredis
import redis
from redis.connection import Connection

from unstale.engines.redis_calls import Ask, Refresh, Steps, T, follow
from unstale.engines.redis_commands import Data
from unstale.engines.redis_errors import ErrorReply
from unstale.engines.redis_places import Places, connection_to, unreached
from unstale.engines.redis_url import Address
from unstale.errors import EngineError

IDLE_MAX: Final = 32  # connections to a server that are kept for later
READ_BYTES: Final = 1 << 16
BREAKS: Final = (OSError, redis.RedisError, hiredis.HiredisError)
TIMEVAL: Final = struct.Struct("ll")  # of 64-bit Linux
KERNEL_TIMES: Final = sys.platform == "linux" and sys.maxsize > 2**32


class Wire:
    """One connection to one server.

    Args:
        connection: As redis-py made it.
        timeout_s: What an answer may take, in seconds.
    """

    __slots__ = ("_connection", "_kernel", "_limit_s", "_reader", "_socket", "_timeout_s", "used")

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        connection.connect()  # type: ignore[no-untyped-call]
        self._connection = connection
        sock = connection._get_socket()  # noqa: SLF001 - there is no public way to it
        assert sock is not None, "it is connected"
        self._socket = sock
        self._reader = hiredis.Reader(replyError=ErrorReply)
        self._timeout_s = timeout_s
        # Python asks before each read and write whether it can be done in time: two system calls more than if the
        # kernel keeps the time itself.
        self._kernel = KERNEL_TIMES and type(sock) is socket.socket
        if self._kernel:
            sock.settimeout(None)
            self._limit(socket.SO_SNDTIMEO, timeout_s)
            self._limit(socket.SO_RCVTIMEO, timeout_s)
        self._limit_s = timeout_s  # what the next answer may take
        self.used = False

    def _limit(self, option: int, seconds: float) -> None:
        """Limit how long the socket may take to receive, and unless the kernel can be told, to send."""
        if self._kernel:
            microseconds = max(1, int(seconds * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, option, TIMEVAL.pack(*divmod(microseconds, 1_000_000)))
        else:
            self._socket.settimeout(seconds)

    def ask(self, data: Data, count: int, wait_s: float) -> list[Any]:
        """Send bytes, and give so many replies."""
        sock, reader = self._socket, self._reader
        limit_s = self._timeout_s + wait_s
        if limit_s != self._limit_s:  # most often it has answered the same before: that is a system call less
            self._limit(socket.SO_RCVTIMEO, limit_s)
            self._limit_s = limit_s
        replies: list[Any] = []
        try:
            if isinstance(data, bytes):
                sock.sendall(data)
            else:
                for piece in data:
                    sock.sendall(piece())
            while len(replies) < count:
                received = sock.recv(READ_BYTES)
                if not received:
                    raise ConnectionResetError("the server has closed the connection")
                reader.feed(received)
                while len(replies) < count and (reply := reader.gets()) is not False:
                    replies.append(reply)
        except BlockingIOError as error:  # so the kernel says that the time is over
            raise TimeoutError("timed out") from error
        self.used = True
        return replies

    def cut(self) -> None:
        """End what waits on it, from another thread; it is not asked again."""
        self.used = False
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]


class Link:
    """Makes the calls of one engine in threads.

    Args:
        places: Where the keys lie.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child: the connections are its parent's."""
        self._pid = os.getpid()
        self._idle: dict[Address, deque[Wire]] = {}
        self._polls: dict[str, Wire] = {}
        self.closed = False

    def run(self, steps: Steps[T]) -> T:
        """Make the calls of a method.

        Raises:
            EngineError: One of them failed.
        """
        if os.getpid() != self._pid:
            self._places.reborn()
            self.reborn()
        moves = follow(steps, self._places)
        try:
            move = next(moves)
            while True:
                try:
                    answer = self._ask(move) if isinstance(move, Ask) else self._refresh(move)
                except EngineError as error:
                    move = moves.throw(error)
                else:
                    move = moves.send(answer)
        except StopIteration as done:
            value: T = done.value
            return value

    def ask_at_hand(self, data: bytes, count: int) -> list[Any] | None:
        """Ask the one server that there is, by a connection that is at hand: the usual case, without any detour.

        Returns:
            The replies; None where the case is not so usual, or the connection had died: then `run` sees to it.

        Raises:
            EngineError: The server does not answer in time.
        """
        places = self._places
        address = places.only
        if address is None or places.breakers.failures(address) or os.getpid() != self._pid:
            return None
        try:
            wire = self._idle[address].pop()
        except LookupError:
            return None
        try:
            replies = wire.ask(data, count, 0.0)
        except BREAKS as error:
            self._drop(address, wire)
            if not isinstance(error, TimeoutError):
                return None
            places.breakers.at(address).failed()
            raise unreached(address, places.url, error) from error
        except BaseException:  # interrupted: its reply may still come
            self._drop(address, wire)
            raise
        self._give_back(address, wire)
        return None if ErrorReply in map(type, replies) else replies

    def _refresh(self, move: Refresh) -> list[Any]:
        try:
            self._places.refresh()
        except EngineError:
            if move.needed:
                raise
        return []

    def _ask(self, ask: Ask) -> list[Any]:
        """Ask one server. A connection that was kept may have died meanwhile: then once more, by a new one.

        That is harmless: nothing that we send does anything else when it is done twice.
        """
        address, node = ask.address, ask.call.node if ask.call.wait_s else ""
        while True:
            wire: Wire | None = None
            try:
                wire = self._take(address)
                if node:
                    self._polls[node] = wire
                replies = wire.ask(ask.data, ask.replies, ask.call.wait_s)
            except BREAKS as error:
                dead = wire is not None and wire.used and not isinstance(error, TimeoutError) and not self.closed
                self._drop(address, wire)
                if not dead:
                    raise unreached(address, self._places.url, error) from error
            except BaseException:  # interrupted: its reply may still come
                self._drop(address, wire)
                raise
            else:
                self._give_back(address, wire)
                return replies
            finally:
                if node:
                    self._polls.pop(node, None)

    def _take(self, address: Address) -> Wire:
        idle = self._idle.get(address)
        if idle:
            try:
                return idle.pop()
            except IndexError:  # another thread was quicker
                pass
        return Wire(connection_to(self._places.url, address), self._places.url.timeout_s)

    def _give_back(self, address: Address, wire: Wire) -> None:
        idle = self._idle.get(address)
        if idle is None:
            idle = self._idle.setdefault(address, deque())
        if self.closed or len(idle) >= IDLE_MAX:
            wire.close()
        else:
            idle.append(wire)

    def _drop(self, address: Address, wire: Wire | None = None) -> None:
        """Close all idle connections to a server: if one has died, so have the others."""
        if wire is not None:
            wire.close()
        idle = self._idle.pop(address, None)
        while idle:
            idle.pop().close()

    def end_poll(self, node: str) -> None:
        """End the poll of a node that is under way."""
        wire = self._polls.get(node)
        if wire is not None:
            wire.cut()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.closed = True
        for address in list(self._idle):
            self._drop(address)
