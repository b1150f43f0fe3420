"""What other processes do in the fault tests upon Redis; run as a script, it is one node, which does what it is told.

The source of truth is a file that all map into their memory: for each item a version, which a commit raises.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import multiprocessing
import os
import random
import sys
import threading
from collections import Counter
from typing import Any

from unstale import Cache
from unstale.clock import boottime
from unstale.errors import EngineError

PAUSE_S = 0.001  # after all items have been read: two readers would leave the servers of a small machine nothing


def tell(value: object) -> None:
    """Say something, at once."""
    print(json.dumps(value), flush=True)  # noqa: T201 - the way back


def told() -> Any:
    """Wait for the next line; nothing when there will be none."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def truth_of(path: str) -> memoryview:
    """Map the source of truth."""
    file = os.open(path, os.O_RDWR)
    view = memoryview(mmap.mmap(file, 0)).cast("q")
    os.close(file)
    return view


class Shop:
    """One node, and the source of truth.

    Args:
        url: Of its engine.
        truth: Path of the truth.
        settings: `cache`: arguments of the cache; `how`: arguments of the cached functions.
    """

    def __init__(self, url: str, truth: str, settings: dict[str, Any]) -> None:
        self.truth = truth_of(truth)
        self.troubles: Counter[str] = Counter()
        self.cache = Cache(url, on_trouble=self._trouble, **settings.get("cache", {}))
        self.commits: list[tuple[int, int, float]] = []
        self.refused: Counter[str] = Counter()
        self.writing = threading.Event()
        self.child: Any = None
        self._anew()
        how = {"ttl": "1h", "shared": True} | settings.get("how", {})

        @self.cache.cached("product:{number}", **how)
        def product(number: int) -> int:
            self.loads += 1
            return self.truth[number]

        @self.cache.cached("product:{number}", **how)
        async def product_later(number: int) -> int:
            self.loads += 1
            return self.truth[number]

        self.product = product
        self.product_later = product_later

    def _anew(self) -> None:
        self.reads = self.stale = self.loads = 0
        self.slowest_s = 0.0
        self.last: dict[tuple[int, int], float] = {}
        self.errors: Counter[str] = Counter()
        self.round = [0, 0]  # rounds through all items; how many of the latest one were stale or failed

    def _trouble(self, what: str, error: BaseException) -> None:
        self.troubles[f"{what}: {type(error).__name__}"] += 1

    # Reading --------------------------------------------------------------------------------------------------

    def spin(self, colour: str) -> None:
        """Read all the time from now on, in a thread."""
        spin = self._spin if colour == "blocking" else lambda: asyncio.run(self._spin_later())
        threading.Thread(target=spin, daemon=True).start()

    def _note(self, number: int, current: int, began: float, value: int | None) -> bool:
        """Note a read that began, when the truth was `current`: was it what it should be?"""
        self.slowest_s = max(self.slowest_s, boottime() - began)
        self.reads += 1
        if value is None:
            return False
        if value < current:
            self.stale += 1
            self.last[number, value] = began
        return value >= current

    def _spin(self) -> None:
        pause = threading.Event()
        while True:
            bad = 0
            for number, _item in enumerate(self.truth):
                current, began = self.truth[number], boottime()
                value: int | None = None
                try:
                    value = self.product(number)
                except Exception as error:  # noqa: BLE001 - counted: no read may fail
                    self.errors[type(error).__name__] += 1
                bad += not self._note(number, current, began, value)
            self.round = [self.round[0] + 1, bad]
            pause.wait(PAUSE_S)

    async def _spin_later(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            bad = 0
            for number, _item in enumerate(self.truth):
                current, began = self.truth[number], boottime()
                value: int | None = None
                try:
                    value = await self.product_later(number)
                except Exception as error:  # noqa: BLE001 - counted: no read may fail
                    self.errors[type(error).__name__] += 1
                bad += not self._note(number, current, began, value)
            self.round = [self.round[0] + 1, bad]
            pause = loop.create_future()
            loop.call_later(PAUSE_S, pause.set_result, None)
            await pause

    def seen(self) -> dict[str, Any]:
        """Tell what was read while spinning."""
        return {
            "reads": self.reads,
            "stale": self.stale,
            "last": [[*what, began] for what, began in self.last.copy().items()],
            "errors": dict(self.errors),
            "slowest_s": self.slowest_s,
        }

    def state(self) -> dict[str, Any]:
        """Tell how it goes now."""
        node, engine = self.cache.node, self.cache.ports.log
        return {
            "reads": self.reads,
            "loads": self.loads,
            "round": self.round,
            "commits": len(self.commits),
            "proven": node.lease.proves(boottime(), node.bound_s),
            "pulsed": node.lease.pulsed,
            "generation": node.generation,
            "discontinuities": node.counts["discontinuities"],
            "open": bool(engine.breakers.open),  # type: ignore[attr-defined] # the engine of these tests
            "refused": engine.breakers.refused,  # type: ignore[attr-defined] # as above
            "troubles": dict(self.troubles),
            "unpublished": dict(self.refused),
        }

    def read(self, number: int) -> int:
        """Read once."""
        return self.product(number)

    # Writing --------------------------------------------------------------------------------------------------

    def write(self, pause_s: float) -> None:
        """Commit and invalidate all the time from now on, in a thread, with a pause after each commit."""
        self.writing.set()
        threading.Thread(target=self._write, args=(pause_s,), daemon=True).start()

    def _write(self, pause_s: float) -> None:
        pause = threading.Event()
        while self.writing.is_set():
            self.commit(random.randrange(len(self.truth)))
            pause.wait(pause_s)

    def commit(self, number: int) -> None:
        """Commit a version, then invalidate, again and again until that is acknowledged."""
        version = self.truth[number] + 1
        self.truth[number] = version
        while True:
            try:
                self.cache.invalidate(f"product:{number}")
            except EngineError as error:
                self.refused[type(error.__cause__).__name__] += 1
            else:
                self.commits.append((number, version, boottime()))
                return

    def rest(self) -> None:
        """Write no more."""
        self.writing.clear()

    def written(self) -> list[Any]:
        """Tell all commits, and when the invalidation of each had been acknowledged."""
        return self.commits.copy()

    # Being two processes --------------------------------------------------------------------------------------

    def fork(self, colour: str) -> int:
        """Fork; the child reads all the time, too, and answers through its parent: see `of_child`."""
        mine, its = multiprocessing.get_context("fork").Pipe()
        child = os.fork()
        if not child:
            mine.close()
            self._anew()
            self.spin(colour)
            while True:
                try:
                    its.send(getattr(self, its.recv())())
                except EOFError:  # the parent is gone
                    os._exit(0)
        its.close()
        self.child = mine
        return child

    def of_child(self, name: str) -> Any:
        """Ask the child."""
        self.child.send(name)
        assert self.child.poll(60.0), "the child does not answer"
        return self.child.recv()

    def serve(self) -> None:
        """Do what one is told, until nothing more is said."""
        while (line := told()) is not None:
            name, *args = line
            tell(getattr(self, name)(*args))


if __name__ == "__main__":
    Shop(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])).serve()
