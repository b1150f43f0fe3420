"""Ports of this machine alone, kept for a server also while it is down."""

from __future__ import annotations

import socket
import sys

HOST = "127.0.0.1"
BUS = 10_000  # a Redis Cluster's nodes talk to each other on a second port, that much higher
PORT_MAX = 65_535
TRIES_MAX = 100


class Port:
    """A free port and the one `BUS` higher, which nobody else is given before `free`.

    A socket that is bound, but does not listen, lets Redis listen beside it (both ask for SO_REUSEADDR), and makes the
    kernel give the port to nobody else: a server can be killed and restarted on its port. Only Linux allows that;
    elsewhere the port was free a moment ago.
    """

    def __init__(self) -> None:
        self._kept: list[socket.socket] = []
        for _ in range(TRIES_MAX):
            self.number = self._keep(0)
            if self.number + BUS <= PORT_MAX:
                try:
                    self._keep(self.number + BUS)
                except OSError:
                    self.free()
                else:
                    break
            self.free()
        assert self._kept, "no port is free: end other servers"
        if sys.platform != "linux":
            self.free()

    def _keep(self, number: int) -> int:
        kept = socket.socket()
        self._kept.append(kept)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((HOST, number))
        found: int = kept.getsockname()[1]
        return found

    def listener(self) -> socket.socket:
        """Give a socket that listens here."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, self.number))
            listening.listen()
        except OSError:
            listening.close()
            raise
        return listening

    def free(self) -> None:
        """Let others have it."""
        while self._kept:
            self._kept.pop().close()
