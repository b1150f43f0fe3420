"""Starts the shop: makes its database, then the workers, and starts anew those that die.

python -m shop [--port 8000] [--workers 3] [--database URL] [--cache URL]
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

HOST = "127.0.0.1"


def main() -> int:
    given = arguments()
    for name in ("database", "cache"):
        if value := getattr(given, name):
            os.environ[f"SHOP_{name.upper()}"] = value  # the workers are new processes, and read it there
    if complaint := refused(given.port):
        sys.stderr.write(complaint)
        return 1

    import uvicorn

    from shop.seeding import make_database
    from shop.settings import HERE, settings

    HERE.mkdir(parents=True, exist_ok=True)
    if made := make_database():
        print(f"A new shop with {made:,} products.", flush=True)
    print(f"Database: {shown(settings.database)}\nCache:    {shown(settings.cache)}", flush=True)
    print(f"Open http://{HOST}:{given.port}/ and end it with Ctrl-C.", flush=True)
    # uvicorn starts the workers, looks after them, starts those anew that die, and ends all when it is told to.
    uvicorn.run(
        "shop.app:app", host=HOST, port=given.port, workers=given.workers, access_log=False,
        timeout_graceful_shutdown=3,
    )  # fmt: skip
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shop", description="A shop that keeps its cache coherent.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("SHOP_PORT") or 8000))
    parser.add_argument("--workers", type=int, default=int(os.environ.get("SHOP_WORKERS") or 3))
    parser.add_argument("--database", help="sqlite:///path or postgresql+psycopg://user@host/name")
    parser.add_argument("--cache", help="sqlite:///path, redis://host:port/0, or none")
    return parser.parse_args()


def refused(port: int) -> str:
    """Say what to do where somebody else has the port: uvicorn would say it once the database is made."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            return f"Port {port} cannot be used ({error.strerror}). Take another one: make shop PORT={port + 1}\n"
    return ""


def shown(url: str) -> str:
    """A URL without what nobody should read over a shoulder."""
    scheme, _, rest = url.partition("://")
    path = Path(rest.removeprefix("/"))
    if scheme == "sqlite" and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return f"{scheme}://{rest.rpartition('@')[2]}" if rest else url


if __name__ == "__main__":
    sys.exit(main())
