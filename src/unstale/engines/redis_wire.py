"""One connection for blocking code: what goes through it, how long that may take, and how it is waited for.

redis-py makes it (TLS, password, database); after that its socket is read and written here, with hiredis as the parser,
since redis-py's own layers cost more than the server's answer does.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from typing import Any, Final

import hiredis
import redis
from redis.connection import Connection

from unstale.engines.redis_commands import Data
from unstale.engines.redis_errors import ErrorReply

READ_BYTES: Final = 1 << 16
BREAKS: Final = (OSError, redis.RedisError, hiredis.HiredisError)
TIMEVAL: Final = struct.Struct("ll")  # of 64-bit Linux
KERNEL_TIMES: Final = sys.platform == "linux" and sys.maxsize > 2**32
LOOKS: Final = 64  # for an answer, before the thread sleeps: to be put to sleep and woken costs about as much
NEAR: Final = 8  # an answer that was there by then brings a server nearer by one, up to this; one that was not,
AWAY: Final = 2  # takes it away by so many: looking pays while at least two in three are found
LOOK_AGAIN: Final = 256  # for one in so many answers of a server that is far, or busy


class Wire:
    """One connection to one server.

    Args:
        connection: As redis-py made it.
        timeout_s: What an answer may take, in seconds.
        asking: Has an item for each request that is under way by any of the connections together with this one.
    """

    __slots__ = (
        "_asking",
        "_connection",
        "_kernel",
        "_limit_s",
        "_near",
        "_reader",
        "_socket",
        "_timeout_s",
        "_unseen",
        "used",
    )

    def __init__(self, connection: Connection, timeout_s: float, asking: deque[None] | None = None) -> None:
        connection.connect()  # type: ignore[no-untyped-call]
        self._connection = connection
        self._asking: deque[None] = deque() if asking is None else asking  # its methods are atomic: no number's are
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
        self._near = NEAR
        self._unseen = 0  # answers that were not looked for, one after another
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
        limit_s = self._timeout_s + wait_s
        if limit_s != self._limit_s:  # most often it has answered the same before: that is a system call less
            self._limit(socket.SO_RCVTIMEO, limit_s)
            self._limit_s = limit_s
        replies: list[Any] = []
        if wait_s:
            self._exchange(data, count, replies, near=False)
        else:
            self._asking.append(None)
            try:
                self._exchange(data, count, replies, near=self._kernel)
            finally:
                self._asking.pop()
        self.used = True
        return replies

    def _exchange(self, data: Data, count: int, replies: list[Any], *, near: bool) -> None:
        sock = self._socket
        try:
            if not isinstance(data, bytes):
                *before, last = data
                for piece in before:
                    sock.sendall(piece())
                data, near = last(), near and not before
            sock.sendall(data)
            if near:
                self._look(count, replies)
            while len(replies) < count:
                self._take(sock.recv(READ_BYTES), count, replies)
        except BlockingIOError as error:  # so the kernel says that the time is over
            raise TimeoutError("timed out") from error

    def _look(self, count: int, replies: list[Any]) -> None:
        """Look a few times for an answer, before the thread is put to sleep until it comes.

        To look for as long as it would take to sleep and wake costs at most twice the best that could be done
        (Karlin, Li, Manasse, Owicki: "Empirical Studies of Competitive Spinning for a Shared-Memory Multiprocessor",
        SOSP 1991), and a server of the same machine answers sooner. It is for a request that is alone: where many are
        under way, there is other work to do meanwhile. And for a server that is near: of others, one answer in many is
        looked for, to see whether they are still far.
        """
        asking = self._asking
        if not self._near:
            self._unseen += 1
            if self._unseen < LOOK_AGAIN:
                return
        receive, flags = self._socket.recv, socket.MSG_DONTWAIT
        for _ in range(LOOKS):
            if len(asking) > 1:
                return
            try:
                received = receive(READ_BYTES, flags)
            except BlockingIOError:
                continue
            self._near = min(self._near + 1, NEAR) if self._near else NEAR // 2
            self._take(received, count, replies)
            return
        self._near, self._unseen = max(self._near - AWAY, 0), 0

    def _take(self, received: bytes, count: int, replies: list[Any]) -> None:
        """Add what was received to the replies."""
        if not received:
            raise ConnectionResetError("the server has closed the connection")
        reader = self._reader
        reader.feed(received)
        while len(replies) < count and (reply := reader.gets()) is not False:
            replies.append(reply)

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
