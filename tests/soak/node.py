"""A node of a soak; run as a script it reads, fills, invalidates and fails as it is told, until its input ends.

Whatever it does is written once, as coroutines: in a blocking node they never wait, and so end at their first step.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import resource
import secrets
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import unstale
from tests.soak.places import BOUND_S, ENTRIES_MAX, HISTORY_MAX, MARKS_MAX, MAX_TTL_S, NAME, SLOTS, ports_of
from tests.soak.truth import ITEMS, Oracle, Truth
from unstale import Cache, Policy
from unstale.clock import boottime
from unstale.core.marks import Marks
from unstale.errors import EngineError, LoadTimeoutError

WORKERS: Final = 3
PAUSE_S: Final = 0.02  # of a worker, after each step: four nodes leave a small machine half of its time
SLOW_S: Final = 0.05
HOT: Final = 8  # reads of one step
POLICY: Final = Policy(ttl="2s", grace="1s")
RARE: Final = 0.03


class BrokenError(Exception):
    """What some loaders raise."""


def fresh(kind: str) -> str:
    """Give a scope that nobody has ever seen."""
    return f"{kind}:{secrets.token_hex(8)}"


class Node:
    """One node.

    Args:
        url: Of the engine.
        truth: Path of the truth.
        slot: Its place: only it writes the items of that place.
        blocking: Whether it has threads, or an event loop.
    """

    def __init__(self, url: str, truth: Path, slot: int, *, blocking: bool) -> None:
        self.url = url
        self.truth = Truth(truth)
        self.oracle = Oracle(self.truth, BOUND_S)
        self.slot = slot
        self.blocking = blocking
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.over = threading.Event()
        self.cache = self.open()
        early: dict[str, Any] = {"early": 1.0, "tags": ["item:{number}"], "shared": True}

        @self.cache.cached("product:{number}", **early)
        def product(number: int) -> int:
            return self.truth.current(number)

        @self.cache.cached("product:{number}", **early)
        async def product_later(number: int) -> int:
            return self.truth.current(number)

        @self.cache.cached("thing:{name}", shared=True)
        def thing(name: str) -> str:
            unstale.tag(f"kind:{name}")
            return name

        @self.cache.cached("thing:{name}", shared=True)
        async def thing_later(name: str) -> str:
            unstale.tag(f"kind:{name}")
            return name

        self.product: Any
        self.thing: Any
        self.product, self.thing = (product, thing) if self.blocking else (product_later, thing_later)
        self.steps: dict[Callable[[], Coroutine[Any, Any, None]], int] = {
            self.read: 40, self.commit: 10, self.write: 4, self.fill: 10, self.call_anew: 8, self.fill_many: 4,
            self.herd: 10, self.soften: 4, self.fail: 4, self.time_out: 3, self.ask_strongly: 3, self.come_and_go: 1,
        }  # fmt: skip

    def open(self) -> Cache:
        """Open the cache, with small limits: what is bounded is full within seconds."""
        cache = Cache(
            self.url, name=NAME, ports=ports_of(self.url), max_staleness=BOUND_S, max_ttl=MAX_TTL_S, policy=POLICY,
            entries_max=ENTRIES_MAX, on_trouble=self.trouble,
        )  # fmt: skip
        cache.node.marks = Marks(MARKS_MAX)
        cache.node._history = deque(maxlen=HISTORY_MAX)
        return cache

    def trouble(self, what: str, error: BaseException) -> None:
        """Count what no caller sees."""
        self.done[f"trouble {what}: {type(error).__name__}"] += 1

    async def do(self, name: str, *args: Any, cache: Cache | None = None, **how: Any) -> Any:
        """Call a method of the cache, in the colour of this node."""
        cache = cache or self.cache
        if self.blocking:
            return getattr(cache, name)(*args, **how)
        return await getattr(cache, f"a{name}")(*args, **how)

    # What it does ---------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Read some items."""
        with unstale.observe() if random.random() < RARE else contextlib.nullcontext():
            for item in random.sample(range(ITEMS), HOT):
                judge = self.oracle.before(item)
                judge(await self.call(self.product, item))

    async def call(self, function: Any, arg: object) -> Any:
        """Call a cached function."""
        return function(arg) if self.blocking else await function(arg)

    async def call_anew(self) -> None:
        """Call a function with arguments that nobody has ever used, twice, and end some of what that has cached."""
        name = secrets.token_hex(8)
        for _ in range(2):
            await self.call(self.thing, name)
        if random.random() < 0.5:
            await self.do("invalidate", random.choice((f"thing:{name}", f"kind:{name}")))

    def mine(self) -> int:
        """Choose an item that only this node may write."""
        return random.randrange(self.slot, ITEMS, SLOTS)

    async def commit(self) -> None:
        """Commit, and invalidate by one name or another; sometimes wait for all nodes."""
        item = self.mine()
        version = self.truth.commit(item)
        scopes = random.choices(([f"product:{item}"], [f"item:{item}"], ["product"]), (60, 37, 3))[0]
        await self.do("invalidate", *scopes, wait=random.random() < RARE)
        self.truth.acknowledge(item, version)

    async def write(self) -> None:
        """Write through."""
        item = self.mine()
        version = await self.do("write", f"product:{item}", lambda: self.truth.commit(item), type=int)
        self.truth.acknowledge(item, version)

    async def fill(self) -> None:
        """Fill a new key with a new tag, end it by one of its names, and read it again with the ticket."""
        key, tag = fresh("fresh"), fresh("tag")
        await self.do("get_or_load", key, lambda: key, type=str, tags=[tag])
        if random.random() < RARE:
            await self.do("delete", key, type=str)
            return
        receipt = await self.do("invalidate", random.choice((key, tag)))
        await self.do("get_or_load", key, lambda: key, type=str, tags=[tag], after=receipt.stamp)

    async def fill_many(self) -> None:
        """Fill many new keys at once."""
        keys = [fresh("many") for _ in range(HOT)]
        await self.do("get_or_load_many", keys, lambda missing: dict.fromkeys(missing, 1), type=int)

    async def herd(self) -> None:
        """Load what all others load as well, one of them for all."""
        key = f"herd:{int(boottime() * 5)}"
        await self.do("get_or_load", key, lambda: 1, type=int, coalesce="cluster")

    async def soften(self) -> None:
        """End a new key softly, and read what is stale while it is refreshed."""
        key = fresh("soft")
        for _ in range(2):
            await self.do("get_or_load", key, lambda: 1, type=int)
            await self.do("invalidate", key, soft=True)
        await self.do("get_or_load", key, lambda: 1, type=int)

    async def fail(self) -> None:
        """Load what cannot be loaded: some of it is remembered."""

        def broken() -> None:
            raise BrokenError

        errors = {BrokenError: "1s"} if random.random() < 0.5 else {}
        try:
            await self.do("get_or_load", fresh("broken"), broken, type=int, errors=errors)
        except BrokenError:
            self.done["failed"] += 1

    async def time_out(self) -> None:
        """Load what takes too long."""
        pause = threading.Event()
        how: dict[str, Any] = {"type": bool, "hard_timeout": SLOW_S / 5}
        try:
            load = (lambda: pause.wait(SLOW_S)) if self.blocking else (lambda: paused(SLOW_S))
            await self.do("get_or_load", fresh("slow"), load, **how)
        except LoadTimeoutError:
            self.done["timed out"] += 1

    async def ask_strongly(self) -> None:
        """Read with one round trip for the head."""
        key = fresh("strong")
        await self.do("get_or_load", key, lambda: 1, type=int, consistency="strong")

    async def come_and_go(self) -> None:
        """Open the cache once more in this process, use it, and close it."""
        cache = self.open()
        try:
            await self.do("get_or_load", fresh("fresh"), lambda: 1, cache=cache, type=int)
        finally:
            await self.do("close", cache=cache)

    # Doing it -------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Do one of these things."""
        (what,) = random.choices(tuple(self.steps), tuple(self.steps.values()))
        try:
            await what()
        except EngineError as error:  # the machine is busy: nothing was acknowledged
            self.done[f"refused: {type(error).__name__}"] += 1
        except Exception as error:  # noqa: BLE001 - counted: nothing else may fail
            self.errors[f"{what.__name__}: {error!r}"[:200]] += 1
        self.done[what.__name__] += 1

    def work(self) -> None:
        """Begin."""
        gc.freeze()  # the modules: a collection for each sample then costs little
        for _ in range(WORKERS if self.blocking else 1):
            target = self._work if self.blocking else lambda: asyncio.run(self._work_later())
            threading.Thread(target=target, daemon=True).start()

    def _work(self) -> None:
        while not self.over.wait(PAUSE_S):
            try:
                self.step().send(None)
            except StopIteration:
                continue
            raise AssertionError("a blocking node has nothing to wait for")

    async def _work_later(self) -> None:
        async def worker() -> None:
            while not self.over.is_set():
                await self.step()
                await paused(PAUSE_S)

        await asyncio.gather(*(worker() for _ in range(WORKERS)))

    def counts(self) -> dict[str, float]:
        """Tell what this process holds."""
        gc.collect()  # what is garbage is no growth
        node, table = self.cache.node, self.cache.node.table
        return {
            "memory": resident_mb(),
            "blocks": sys.getallocatedblocks(),
            "L1 entries": len(table.cells),
            "L1 index": len(table.dependents),
            "L1 ghosts": len(table._ghosts),
            "aliases": sum(len(function.key.__self__._plan.aliases) for function in (self.product, self.thing)),
            "marks": len(node.marks.by_scope),
            "flights": len(node.flights),
            "refreshing": len(node.refreshing),
            "intents": len(node.intents),
            "expected": node.expected,
            "threads": threading.active_count(),
            "descriptors": descriptors(),
        }

    def seen(self) -> dict[str, Any]:
        """Tell what it has done, and what the oracle says."""
        told = {name: getattr(self.oracle, name) for name in ("reads", "stale", "beyond", "oldest_s")}
        return told | {"applied": self.cache.node.applied, "done": dict(self.done), "errors": dict(self.errors)}

    def end(self) -> dict[str, Any]:
        """Do no more, leave, and tell what was seen."""
        self.over.set()
        told = self.seen()
        self.cache.close()
        return told

    def serve(self) -> None:
        """Do what one is told, until nothing more is said."""
        while line := sys.stdin.readline():
            name, *args = json.loads(line)
            print(json.dumps(getattr(self, name)(*args)), flush=True)  # noqa: T201 - the way back


async def paused(seconds: float) -> bool:
    """Let others run for so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)
    return True


def resident_mb() -> float:
    """Give the memory of this process that is resident."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def descriptors() -> int:
    """Give the number of open files and sockets of this process."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).exists():
            return sum(1 for _ in Path(folder).iterdir())
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that tells it what to do
    Node(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), blocking=sys.argv[4] == "blocking").serve()
