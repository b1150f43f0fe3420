"""One process of a run: it reads or changes until the time is over, and writes down what it saw.

The parent hands it a job as the first line of its standard input, and the moment of the start as the second; the end
of that input means that the parent is gone, and ends the process at once. Times are seconds on the boot-time clock,
which all processes of the machine share.
"""

from __future__ import annotations

import gc
import mmap
import os
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from struct import Struct
from typing import Final, Literal

import msgspec

from unstale.cli.plan import Job, Plan
from unstale.cli.strategies import Strategy, open_strategy
from unstale.cli.truth import Change, ShopTruth, TraceTruth, Truth, View
from unstale.clock import boottime

COUNTER: Final = Struct("=Q")
Column = Literal["objects", "versions", "begins", "tooks", "committed", "announced", "loads"]
COLUMNS: Final[dict[Column, str]] = {
    "objects": "l", "versions": "l", "begins": "d", "tooks": "f", "committed": "d", "announced": "d", "loads": "d",
}  # fmt: skip


class Reads:
    """What a process read: object, version served, moment of the begin, seconds taken; one line for each read."""

    columns: tuple[Column, ...] = ("objects", "versions", "begins", "tooks")

    def __init__(self) -> None:
        self.objects, self.versions = array("l"), array("l")
        self.begins, self.tooks = array("d"), array("f")


class Writes:
    """What a process changed: object, version, moments after the commit and after the strategy's part was done."""

    columns: tuple[Column, ...] = ("objects", "versions", "committed", "announced")

    def __init__(self) -> None:
        self.objects, self.versions = array("l"), array("l")
        self.committed, self.announced = array("d"), array("d")


class Summary(msgspec.Struct, frozen=True):
    """What a process tells at its end: when it began and ended, and the troubles that nobody saw."""

    began: float
    ended: float
    troubles: dict[str, int]


class Counted:
    """A truth whose loads are written down: the count is the harness's own, not a cache's."""

    def __init__(self, truth: Truth, loads: array[float]) -> None:
        self._load = truth.load
        self._loads = loads
        self.change = truth.change
        self.versions = truth.versions
        self.kind = truth.kind

    def load(self, entry: int) -> View:
        """Load an entry."""
        self._loads.append(boottime())
        return self._load(entry)


class Process:
    """The state of a working process.

    Args:
        job: What it has to do.
        plan: The work.
    """

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job = job
        self.settings = job.settings
        self.plan = plan
        self.reads, self.writes, self.loads = Reads(), Writes(), array("d")
        self.troubles: Counter[str] = Counter()
        folder = Path(job.folder)
        origin_s = job.settings.origin_s
        truth = ShopTruth(folder / "truth") if plan.kind == "shop" else TraceTruth(folder / "truth", origin_s)
        self.truth = Counted(truth, self.loads)
        self.strategy: Strategy = open_strategy(
            job.strategy,
            self.truth,
            plan,
            job.settings,
            folder=folder,
            seed=job.slot,
            on_trouble=self.note_trouble,
        )

    def note_trouble(self, what: str, error: BaseException) -> None:
        """Count what failed without any caller seeing it."""
        self.troubles[f"{what}: {type(error).__name__}"] += 1

    def work(self, until: float, progress: Callable[[int], None]) -> None:
        """Handle requests: read a batch of entries, pause, and so on; changes are made where the trace has them."""
        reads, object_of, read, change = self.reads, self.plan.object_of, self.strategy.read, self.change
        objects, versions = reads.objects.append, reads.versions.append
        begins, tooks = reads.begins.append, reads.tooks.append
        requests = cycle(self.plan.requests[self.job.index])
        pause_s, batch, clock = self.settings.pause_s, self.settings.batch, boottime
        while clock() < until:
            for entry in islice(requests, batch):
                if entry < 0:
                    change(~entry)
                    continue
                begin = clock()
                version = read(entry)
                tooks(clock() - begin)
                objects(object_of[entry])
                versions(version)
                begins(begin)
            progress(len(reads.begins))
            time.sleep(pause_s)

    def write(self, until: float, progress: Callable[[int], None]) -> None:
        """Change one object after the other, evenly spread over time."""
        every_s = 1 / self.settings.changes_per_s
        due = boottime()
        for number in cycle(self.plan.changes[self.job.index]):
            due += every_s
            time.sleep(max(0.0, min(due, until) - boottime()))
            if boottime() >= until:
                return
            self.change(number)
            progress(len(self.writes.objects))

    def change(self, number: int) -> None:
        """Change an object, and do what the strategy does after a commit."""
        changes = self.truth.change(number)
        committed = boottime()
        self.strategy.changed(changes)
        self.note_change(changes, committed, boottime())

    def note_change(self, changes: list[Change], committed: float, announced: float) -> None:
        """Write down what one commit changed."""
        for change in changes:
            self.writes.objects.append(change.object)
            self.writes.versions.append(change.version)
            self.writes.committed.append(committed)
            self.writes.announced.append(announced)

    def save(self) -> None:
        """Write the logs into the folder of the run."""
        folder = Path(self.job.folder)
        logs: dict[str, array[float] | array[int]] = {
            **{f"reads-{name}": getattr(self.reads, name) for name in Reads.columns},
            **{f"writes-{name}": getattr(self.writes, name) for name in Writes.columns},
            "loads": self.loads,
        }
        for name, column in logs.items():
            with (folder / f"{self.job.process}-{name}").open("wb") as file:
                column.tofile(file)


def _end_with_parent(inputs: Iterator[str]) -> None:
    """Wait for the end of the input: the parent has gone, or wants us to."""
    for _line in inputs:
        pass
    os._exit(1)


def main() -> None:
    """Do the job that stands on the standard input."""
    inputs = iter(sys.stdin)
    job = msgspec.json.decode(next(inputs), type=Job)
    folder = Path(job.folder)
    plan = msgspec.msgpack.decode((folder.parent / "plan").read_bytes(), type=Plan)
    process = Process(job, plan)
    gc.collect()
    gc.freeze()  # the plan is large, and none of it will ever be garbage
    with (folder / "progress").open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:

        def progress(count: int) -> None:
            COUNTER.pack_into(shared, COUNTER.size * job.slot, count)

        print("ready", flush=True)  # noqa: T201 - the parent reads it
        start = float(next(inputs))
        threading.Thread(target=_end_with_parent, args=(inputs,), name="end with parent", daemon=True).start()
        time.sleep(max(0.0, start - boottime()))
        began = boottime()
        (process.work if job.role == "worker" else process.write)(start + process.settings.seconds, progress)
        ended = boottime()
    process.save()
    summary = Summary(began, ended, dict(process.troubles))
    print(msgspec.json.encode(summary).decode(), flush=True)  # noqa: T201 - the parent reads it
    process.strategy.close()


if __name__ == "__main__":
    main()
