"""What other processes do in the tests of whole caches; run as a script, it plays the role named first.

The source of truth is a file with one number, the version of product 1.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unstale import Cache
from unstale.clock import boottime

KEY = "product:1"


def tell(value: object) -> None:
    """Say something, at once."""
    print(json.dumps(value), flush=True)  # noqa: T201 - the way back


def told() -> Any:
    """Wait for the next line; nothing when there will be none."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def appended(path: str, text: str) -> None:
    """Append to a file, atomically among processes."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, text.encode())
    os.close(file)


class Shop:
    """One node: a cache, the functions that read through it, and the source of truth."""

    def __init__(self, path: str, truth: str, bound: str) -> None:
        self.cache = Cache(f"sqlite:///{path}", max_staleness=bound)
        self.truth = Path(truth)
        self.last: dict[int, float] = {}
        self.reads = 0
        self.child: Callable[..., Any] | None = None

        @self.cache.cached("product:{number}", ttl="1h", shared=True)
        def product(number: int) -> int:
            return int(self.truth.read_text()) // number

        @self.cache.cached("product:{number}", ttl="1h", shared=True)
        async def product_later(number: int) -> int:
            return int(self.truth.read_text()) // number

        self.product = product
        self.product_later = product_later

    def read(self) -> int:
        """Read through the cache."""
        return self.product(1)

    def look(self) -> int | None:
        """Look into the cache."""
        return self.product.peek(1)

    def write(self, version: int) -> list[Any]:
        """Commit a version, then invalidate: the ticket, and the moment at which that had returned."""
        return self._write(version, wait=False)

    def write_and_wait(self, version: int) -> list[Any]:
        """Commit a version, then invalidate and wait until no node serves what was before."""
        return self._write(version, wait=True)

    def _write(self, version: int, *, wait: bool) -> list[Any]:
        new = self.truth.with_suffix(f".{os.getpid()}")
        new.write_text(str(version))
        new.replace(self.truth)
        receipt = self.cache.invalidate(KEY, wait=wait)
        return [str(receipt.stamp), boottime()]

    def after(self, ticket: str) -> int:
        """Read with a ticket."""
        value: int = self.cache.get_or_load(KEY, lambda: int(self.truth.read_text()), type=int, after=ticket)
        return value

    def spin(self, colour: str) -> None:
        """Read all the time from now on, in a thread, and note for each version when a read that saw it last began."""
        spin = self._spin if colour == "blocking" else lambda: asyncio.run(self._spin_later())
        threading.Thread(target=spin, daemon=True).start()

    def _spin(self) -> None:
        while True:
            began = boottime()
            self.last[self.product(1)] = began
            self.reads += 1

    async def _spin_later(self) -> None:
        while True:
            began = boottime()
            self.last[await self.product_later(1)] = began
            self.reads += 1

    def seen(self) -> list[Any]:
        """Tell what was read while spinning: how often, and the last begin of a read for each version."""
        return [self.reads, list(self.last.items())]

    def about(self) -> dict[str, Any]:
        """Tell who this node is, what it follows, and whether something follows it in this process."""
        node = self.cache.node
        tails = [thread for thread in threading.enumerate() if thread.name.startswith("unstale: tail")]
        return {
            "node": node.id,
            "generation": node.generation,
            "tails": len(tails),
            "members": sorted(member.node for member in self.cache.ports.log.read_members().members),
        }

    def serve(self) -> None:
        """Do what one is told, until nothing more is said."""
        while (line := told()) is not None:
            name, *args = line
            tell(getattr(self, name)(*args))


def node(path: str, truth: str, bound: str) -> None:
    """Be a node that does what it is told."""
    Shop(path, truth, bound).serve()


def herd(path: str, arrived: str, loaded: str, threads: str, everyone: str) -> None:
    """Miss one key in many threads at once; the load ends when all of them, of all processes, are there."""
    cache = Cache(f"sqlite:///{path}")
    go = threading.Barrier(int(threads) + 1)
    values: list[str] = []

    def load() -> str:
        appended(loaded, "x")
        pause = threading.Event()
        while os.stat(arrived).st_size < int(everyone):  # noqa: PTH116 - a size, again and again
            pause.wait(0.001)
        return f"loaded by {os.getpid()}"

    def read() -> None:
        go.wait()
        appended(arrived, "x")
        values.append(cache.get_or_load(KEY, load, coalesce="cluster", lock_ttl="1m"))

    readers = [threading.Thread(target=read) for _ in range(int(threads))]
    for reader in readers:
        reader.start()
    tell("ready")
    told()
    go.wait()
    for reader in readers:
        reader.join()
    tell(values)


def forker(path: str, truth: str, bound: str, how: str) -> None:
    """Use a cache, fork, and go on with it on both sides; the child tells what it is asked to through its parent."""
    shop = Shop(path, truth, bound)
    shop.read()
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe()

    def child() -> None:
        mine.close()
        while True:
            try:
                name, *args = its.recv()
            except EOFError:  # the parent is gone
                os._exit(0)
            its.send(getattr(shop, name)(*args))

    if how == "os.fork":
        if not os.fork():
            child()
    else:
        context.Process(target=child, daemon=True).start()

    def ask(*line: Any) -> Any:
        mine.send(line)
        assert mine.poll(60.0), "the child does not answer"
        return mine.recv()

    shop.child = ask
    shop.serve()


if __name__ == "__main__":
    roles: tuple[Callable[..., None], ...] = (node, herd, forker)
    {role.__name__: role for role in roles}[sys.argv[1]](*sys.argv[2:])
