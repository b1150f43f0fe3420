"""Runs a command with a private Redis of its own, which is gone afterwards.

    python examples/private_redis.py unstale demo --url {url}

`{url}` stands for the server's URL. It listens on a free port of this machine alone, and keeps nothing on the disk.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import FrameType
from typing import NoReturn

HOST = "127.0.0.1"
PROGRAMS = ("redis-server", "valkey-server")
START_S = 30.0
INSTALL = (
    "There is no redis-server in PATH. Install one:\n"
    "  Debian, Ubuntu:  sudo apt install redis-server\n"
    "  Fedora:          sudo dnf install valkey\n"
    "  macOS:           brew install redis"
)


def free_port() -> int:
    """Give a port that nobody uses at this moment."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port: int = taken.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Say whether a server is there."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as stream:
            stream.sendall(b"PING\r\n")
            return stream.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does: what was started is ended too."""
    raise KeyboardInterrupt


def main(command: list[str]) -> int:
    """Run the command: its exit code."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if not command:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if program is None:
        sys.stderr.write(f"{INSTALL}\n")
        return 2
    signal.signal(signal.SIGTERM, stop)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="unstale-redis-") as folder:
        options = ["--port", str(port), "--bind", HOST, "--dir", folder, "--save", "", "--appendonly", "no"]
        server = subprocess.Popen(  # noqa: S603 - the program was found in PATH
            [program, *options, "--maxmemory", "256mb", "--maxmemory-policy", "volatile-ttl"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server
        )
        try:
            until = time.monotonic() + START_S
            while not answers(port):
                if server.poll() is not None or time.monotonic() > until:
                    sys.stderr.write(f"{program} did not start on port {port}: try it by hand\n")
                    return 1
                time.sleep(0.02)
            url = f"redis://{HOST}:{port}/0"
            words = [word.replace("{url}", url) for word in command]
            return subprocess.run(words, check=False).returncode  # noqa: S603 - what the caller asked for
        except KeyboardInterrupt:
            return 130
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
