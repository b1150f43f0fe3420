"""A small client that keeps its connection: in a load on few cores it must not be what is measured."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Final, NamedTuple

HOST: Final = "127.0.0.1"
ANSWER_S: Final = 30.0


class Answer(NamedTuple):
    """What came back: the status, the headers by their lower-case names, cookies with their lives, and the body."""

    status: int
    headers: dict[str, str]
    cookies: dict[str, tuple[str, float]]
    body: bytes


class Cookies:
    """What a client keeps for the server, as long as it was told to."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, float]] = {}

    def take(self, answer: Answer) -> None:
        """Keep what an answer brings."""
        now = time.monotonic()
        self._kept.update({name: (value, now + life_s) for name, (value, life_s) in answer.cookies.items()})

    def now(self) -> dict[str, str]:
        """Give what a request takes along."""
        if self._kept:
            now = time.monotonic()
            self._kept = {name: kept for name, kept in self._kept.items() if kept[1] > now}
        return {name: value for name, (value, _until) in self._kept.items()}


def write_request(method: str, path: str, cookies: dict[str, str], body: bytes = b"") -> bytes:
    """Write a request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}"]
    if cookies:
        lines.append("cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()))
    if method == "POST":
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def read_answer(data: bytes) -> Answer | None:
    """Read an answer; None, while it is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    cookies: dict[str, tuple[str, float]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name.lower() == "set-cookie":
            (cookie, told), *attributes = [part.strip().partition("=")[::2] for part in value.split(";")]
            life = {key.lower(): what for key, what in attributes}.get("max-age", "inf")
            cookies[cookie] = (told, float(life))
        else:
            headers[name.lower()] = value
    body = data[end + 4 :]
    if len(body) < int(headers.get("content-length", "0")):
        return None
    return Answer(int(first.split(" ", 2)[1]), headers, cookies, body)


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._data = b""

    @property
    def lost(self) -> bool:
        """It has to be opened anew."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and wait for its answer.

        Raises:
            ConnectionError: The connection was lost: nobody knows what became of the request.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._data = b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        answer = read_answer(self._data)
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error if isinstance(error, ConnectionError) else ConnectionResetError())


async def connect(port: int) -> Connection:
    """Open a connection."""
    _transport, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, port)
    return connection


def ask(port: int, method: str, path: str, cookies: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    """Ask once, on a connection of its own.

    Raises:
        OSError: There is nobody, or no answer comes.
    """
    with socket.create_connection((HOST, port), timeout=ANSWER_S) as stream:
        stream.sendall(write_request(method, path, cookies or {}, body))
        data = b""
        while (answer := read_answer(data)) is None:
            more = stream.recv(65536)
            if not more:
                raise ConnectionResetError
            data += more
    return answer
