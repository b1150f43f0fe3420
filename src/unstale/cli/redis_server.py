"""One Redis or Valkey server, asked directly: what it says about itself, and which keys it has."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final, Self

from unstale.engines.redis_commands import packed
from unstale.engines.redis_errors import ErrorReply, reply_error
from unstale.engines.redis_places import Places, connection_to, unreached
from unstale.engines.redis_store import Names
from unstale.engines.redis_url import Address, RedisUrl
from unstale.engines.redis_wire import BREAKS, Wire
from unstale.errors import EngineError, UnavailableError

SCAN_STEP: Final = 1000  # keys that a server looks at for one answer, so that it keeps nobody waiting
GLOB: Final = re.compile(rb"([\\*?\[\]^-])")


class Server:
    """One server, asked directly.

    Args:
        url: How it is reached.
        address: Where it is.

    Raises:
        UnavailableError: It does not answer.
    """

    def __init__(self, url: RedisUrl, address: Address) -> None:
        self.url = url
        self.address = address
        try:
            self._wire = Wire(connection_to(url, address), url.timeout_s)
        except BREAKS as error:
            raise unreached(address, url, error) from error

    @property
    def place(self) -> str:
        """Its name, for people."""
        return f"{self.address[0]}:{self.address[1]}"

    def ask(self, *command: bytes | str | float) -> Any:
        """Give the reply to one command.

        Raises:
            EngineError: It is an error, or there is none.
        """
        try:
            (reply,) = self._wire.ask(packed((command,)), 1, 0.0)
        except BREAKS as error:
            raise unreached(self.address, self.url, error) from error
        if isinstance(reply, ErrorReply):
            raise reply_error(reply, self.place)
        return reply

    def info(self, section: str) -> dict[str, str]:
        """Give one section of what the server says about itself."""
        return told_by(self.ask(b"INFO", section))

    def setting(self, name: str) -> str | None:
        """Give one line of its configuration; None where this user may not see it, or there is none."""
        try:
            reply = self.ask(b"CONFIG", b"GET", name)
        except UnavailableError:
            raise
        except EngineError:
            return None
        return reply[1].decode() if reply else None

    def scan(self, pattern: bytes) -> list[bytes]:
        """Give the keys that a pattern fits, found in small steps."""
        found: list[bytes] = []
        cursor = b"0"
        while True:
            cursor, keys = self.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_STEP)
            found += keys
            if cursor == b"0":
                return found

    def command(self, *words: str) -> str:
        """Write a command for the server's own client, for people."""
        tls = ["--tls"] if self.url.tls else []
        return shlex.join(["redis-cli", "-h", self.address[0], "-p", str(self.address[1]), *tls, *words])

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def told_by(text: bytes) -> dict[str, str]:
    """Read what INFO tells: names and values."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


def servers_of(places: Places, names: Names) -> tuple[Address, ...]:
    """Give the primaries that hold keys of a cache, the log's first.

    Raises:
        UnavailableError: Nobody tells.
    """
    places.refresh()
    first = places.find(names.log)
    if first is None:
        hint = "see CLUSTER INFO: every slot needs an owner"
        raise UnavailableError(f"{places.url.place} names no server for the log", hint=hint)
    others = places._nodes if places.spread else ()  # noqa: SLF001 - the package's own
    return tuple(dict.fromkeys((first, *others)))


def quoted(text: bytes) -> bytes:
    """Give a pattern that fits a text alone."""
    return GLOB.sub(rb"\\\1", text)
