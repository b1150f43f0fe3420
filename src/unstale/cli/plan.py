"""What a run consists of: its requests and changes, drawn from a seed beforehand: the same work for every strategy."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Final, Literal

import msgspec

from unstale.cli.trace import Trace
from unstale.cli.truth import CATEGORIES, PRODUCTS

Name = Literal["none", "ttl", "delete", "unstale"]
STRATEGIES: Final[dict[Name, str]] = {
    "none": "no cache",
    "ttl": "TTL only",
    "delete": "delete on write",
    "unstale": "unstale",
}

SKEW: Final = 1.0  # Zipf's exponent: the first key is read twice as often as the second, three times as the third
LIST_SHARE: Final = 0.25
DRAWN_REQUESTS: Final = 100_000  # a process begins anew when it is through
DRAWN_CHANGES: Final = 20_000


class Plan(msgspec.Struct, frozen=True):
    """The work.

    Attributes:
        kind: Whose truth it is: the shop's, or a trace's.
        names: The name of each entry.
        objects: The name of each object.
        object_of: For each entry, its object.
        requests: For each worker: entries to be read, and `~` objects to be changed.
        changes: For each writer: objects to be changed.
        tagged: Objects are tags, not the entries themselves.
    """

    kind: Literal["shop", "trace"]
    names: list[str]
    objects: list[str]
    object_of: list[int]
    requests: list[list[int]]
    changes: list[list[int]]
    tagged: bool = False


class Settings(msgspec.Struct, frozen=True):
    """How it is done; the same for each strategy.

    Attributes:
        seconds: How long the work goes on.
        bound: The bound that unstale has to keep, as written.
        bound_s: The same in seconds.
        url: The cache of unstale.
        name: The name of that cache.
        policy: A preset of its policy, or `default`.
        entries_max: Entries kept in the memory of one worker, whatever the strategy.
        ttl_s: TTL only: the life of an entry.
        copy_ttl_s: Delete on write: the life of the copy in a worker's memory.
        shared_ttl_s: Delete on write: the life in the shared store.
        origin_s: Traces: how much longer a load takes than the query itself.
        pause_s: A worker's pause after each request, that is, after `batch` reads.
        batch: Reads of one request.
        changes_per_s: Changes that each writer commits in a second.
    """

    seconds: float
    bound: str
    bound_s: float
    url: str
    name: str
    policy: str = "default"
    entries_max: int = 100_000
    ttl_s: float = 2.0
    copy_ttl_s: float = 1.0
    shared_ttl_s: float = 60.0
    origin_s: float = 0.0
    pause_s: float = 0.0005
    batch: int = 20
    changes_per_s: float = 60.0


class Job(msgspec.Struct, frozen=True):
    """What one process of a run has to do.

    Attributes:
        strategy: The strategy.
        role: Whether it reads or only changes the truth.
        index: Which of its role it is.
        slot: Its place in the file of progress.
        folder: The folder of the run: truth, plan, logs.
        settings: How it is done.
    """

    strategy: Name
    role: Literal["worker", "writer"]
    index: int
    slot: int
    folder: str
    settings: Settings

    @property
    def process(self) -> str:
        """The name of the process, and of its logs."""
        return f"{self.role}-{self.index}"


def shop_plan(workers: int, writers: int, seed: int) -> Plan:
    """Draw the work of the demo: a skewed choice of products and lists, read by workers, changed by writers."""
    products = _zipf(PRODUCTS)
    lists = _zipf(CATEGORIES)

    def requests(random: Random) -> list[int]:
        pages = random.choices(range(PRODUCTS), cum_weights=products, k=DRAWN_REQUESTS)
        listings = random.choices(range(PRODUCTS, PRODUCTS + CATEGORIES), cum_weights=lists, k=DRAWN_REQUESTS)
        return [
            listing if random.random() < LIST_SHARE else page for page, listing in zip(pages, listings, strict=True)
        ]

    def changes(random: Random) -> list[int]:
        return random.choices(range(PRODUCTS), cum_weights=products, k=DRAWN_CHANGES)

    names = [f"product:{number}" for number in range(PRODUCTS)] + [f"list:{number}" for number in range(CATEGORIES)]
    objects = names[:PRODUCTS] + [f"category:{number}" for number in range(CATEGORIES)]
    return Plan(
        "shop",
        names,
        objects,
        list(range(len(names))),
        [requests(Random(f"{seed} worker {index}")) for index in range(workers)],
        [changes(Random(f"{seed} writer {index}")) for index in range(writers)],
    )


def trace_plan(trace: Trace, workers: int) -> Plan:
    """Deal a trace out: worker k of n takes the requests k, k + n, k + 2n ... in their order."""
    return Plan(
        "trace",
        trace.keys,
        trace.objects,
        list(trace.object_of),
        [list(trace.requests[index::workers]) for index in range(workers)],
        [],
        trace.tagged,
    )


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / (rank**SKEW) for rank in range(1, count + 1)))
