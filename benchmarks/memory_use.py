"""Memory: what a resident entry and a mark cost, and whether a million invalidations keep process and file bounded."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import random
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import growth
from unstale import Cache, tag
from unstale.core.marks import MARKS_MAX, Marks
from unstale.core.publish import append
from unstale.core.record import Record
from unstale.engines.memory import RECORDS_MAX
from unstale.engines.ports import Ports
from unstale.engines.sqlite import SQLiteEngine

GROUP = "memory"
ENTRY_BYTES_MAX = 700.0
MARK_BYTES_MAX = 200.0
GROWTH_PERCENT_MAX = 5.0
SAMPLES = 40
SOAK = 1_000_000
BATCH = 250
PATIENCE_S = 60.0
STORED_MARKS_MAX = 200_000

SPAWN = multiprocessing.get_context("spawn")

_names = itertools.count()


def allocated(work: Callable[[], object]) -> int:
    """Give the bytes that Python's allocators hold more after a piece of work than before."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _peak = tracemalloc.get_traced_memory()
        kept = work()
        gc.collect()
        after, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del kept
    return after - before


def entry_bytes(count: int, *, tagged: bool = False, turns: int = 1) -> float:
    """Fill L1 through a cached function; the values are there before, and the memory engine's copies are dropped.

    With several turns the table is full after the first and evicts in the others: what it remembers of that counts too.
    """
    values = [bytes(20) for _ in range(count)]

    def load(number: int) -> bytes:
        if tagged:
            tag(f"row:{number}")
        return values[number % count]

    with Cache("memory://", name=f"memory {next(_names)}", entries_max=count) as cache:
        function = cache.cached("entry:{number}", ttl="1h")(load)
        function(0)
        cache.invalidate("*")
        server: Any = cache.ports.store

        def fill() -> None:
            for number in range(count * turns):
                function(number)
            server.server.entries.clear()

        held = allocated(fill)
        if len(cache.node.table) != count:
            msg = f"{len(cache.node.table)} entries are resident, not {count}"
            raise RuntimeError(msg)
    return held / count


def mark_bytes(count: int) -> float:
    """Fill a node's marks with distinct scopes; positions and names count in full."""

    def fill() -> Marks:
        marks = Marks(count)
        for position in range(1, count + 1):
            marks.apply(position + 1_000_000, Record(f"{position:020x}", (f"product:{position:07d}",)))
        return marks

    return allocated(fill) / count


def sizes(options: Options) -> list[Figure]:
    """Measure entries and marks at several numbers of them, just after dictionaries have grown and long after."""
    counts = (5_500, 8_000) if options.quick else (11_000, 16_000, 22_000)
    note = "the most of " + ", ".join(f"{count:,}" for count in counts)
    plain = max(entry_bytes(count) for count in counts)
    evicting = max(entry_bytes(count, turns=4) for count in counts[:2])
    tagged = max(entry_bytes(count, tagged=True) for count in counts)
    marks = max(mark_bytes(count) for count in counts)
    return [
        figure(GROUP, "a resident entry, over its value", [plain], "bytes", target=ENTRY_BYTES_MAX, note=note),
        figure(
            GROUP, "a resident entry of a table that evicts", [evicting], "bytes", target=ENTRY_BYTES_MAX, note=note
        ),
        figure(GROUP, "a resident entry with a tag of its own", [tagged], "bytes", target=ENTRY_BYTES_MAX, note=note),
        figure(GROUP, "a mark", [marks], "bytes", target=MARK_BYTES_MAX, note=note),
    ]


def resident_mb() -> float:
    """Give the memory of this process that is resident, in MB."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def soak(options: Options, name: str, folder: Path) -> list[Figure]:
    """Invalidate a million scopes of random names, hardly one of them twice, and watch process, marks and file.

    The records go the way of those of a relay, many in one append; the tail of the node applies them. A short run does
    not come to where the bounds are: then the figures have no targets.
    """
    batches = SOAK // BATCH // SAMPLES // (20 if options.quick else 1)
    receiving, sending = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_soak, args=(name, folder, batches, sending))
    process.start()
    sending.close()
    rss_mb, file_mb, marks, took_s = receiving.recv()
    process.join()
    limit = None if options.quick else GROWTH_PERCENT_MAX
    what = f"{batches * BATCH * SAMPLES:,} invalidations, {name}"
    figures = [
        figure(
            GROUP, f"{what}: growth of the process in the second half", [growth(rss_mb) * 100], "%",
            target=limit, note=f"{_points(rss_mb)}; {took_s:.0f} s",
        ),
        figure(GROUP, f"{what}: marks that the node keeps", [marks], "marks", target=MARKS_MAX),
    ]  # fmt: skip
    if any(file_mb):
        figures.append(
            figure(
                GROUP, f"{what}: growth of the file in the second half", [growth(file_mb) * 100], "%",
                target=limit, note=f"{_points(file_mb)}; at most {STORED_MARKS_MAX:,} marks, {RECORDS_MAX:,} records",
            )
        )  # fmt: skip
    return figures


def _soak(name: str, folder: Path, batches: int, answer: Connection) -> None:
    chance = random.Random(1)
    ports = None
    if name == "SQLite":
        engine = SQLiteEngine(str(folder / "soak.cache"), marks_max=STORED_MARKS_MAX)
        ports = Ports(engine, engine)
    rss_mb, file_mb = [], []
    began = time.perf_counter()
    with Cache("memory://", ports=ports) as cache:
        for _ in range(SAMPLES):
            for _ in range(batches):
                scopes = [f"row:{chance.getrandbits(48):x}" for _ in range(BATCH)]
                cache.run(append(cache.node, tuple(Record(cache.node.new_id(), (scope,)) for scope in scopes)))
            _catch_up(cache, cache.ports.log.read_head().head)
            rss_mb.append(resident_mb())
            file_mb.append(sum(one.stat().st_size for one in folder.iterdir()) / 1e6)
        marks = cache.stats()["marks"]
    answer.send((rss_mb, file_mb, marks, time.perf_counter() - began))


def _catch_up(cache: Cache, head: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while cache.stats()["applied"] < head:
        if time.monotonic() > until:
            msg = "the tail does not keep up"
            raise RuntimeError(msg)
        time.sleep(0.002)


def _points(curve_mb: list[float]) -> str:
    return f"{curve_mb[0]:.0f}, {curve_mb[len(curve_mb) // 2]:.0f}, {curve_mb[-1]:.0f} MB at its start, half and end"


def measure(options: Options) -> list[Figure]:
    """Measure what entries and marks cost, and that invalidations leave nothing behind without end."""
    figures = sizes(options)
    for name in ("memory", "SQLite"):
        with tempfile.TemporaryDirectory(prefix="unstale-bench-") as folder:
            figures += soak(options, name, Path(folder))
    return figures
