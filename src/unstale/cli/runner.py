"""Runs one strategy: starts the processes, watches them, collects their logs, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

import unstale
from unstale.cli.checker import ReadLog, WriteLog
from unstale.cli.plan import Job, Name, Plan, Settings
from unstale.cli.truth import ShopTruth, TraceTruth
from unstale.cli.worker import COLUMNS, COUNTER, Reads, Summary, Writes
from unstale.clock import boottime
from unstale.errors import UnstaleError

START_S: Final = 60.0
STOP_S: Final = 30.0
LEAD_S: Final = 0.05
TICK_S: Final = 0.1

Progress = Callable[[float, int], None]


class RunError(UnstaleError):
    """A run of the demo or a replay failed: one of its processes did, or its logs are not complete."""

    culprit = "harness"


@dataclass
class Run:
    """What a run left: logs, and a few facts.

    Attributes:
        strategy: The strategy.
        began: When the work began, on the boot-time clock.
        seconds: How long it went on.
        reads: What each worker read.
        tooks: How long each of its reads took, in seconds.
        writes: What each process changed.
        loads: When the truth was read.
        troubles: What failed in the processes without any caller seeing it.
    """

    strategy: Name
    began: float
    seconds: float
    reads: list[ReadLog]
    tooks: list[array[float]]
    writes: list[WriteLog]
    loads: array[float]
    troubles: Counter[str]


@contextmanager
def workspace(what: str) -> Iterator[Path]:
    """Give a folder that is gone afterwards, also if this process is told to terminate."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before: Any = None
    with contextlib.suppress(ValueError):  # only the main thread may; others are ended by somebody who cleans up
        before = signal.signal(signal.SIGTERM, terminate)
    folder = Path(tempfile.mkdtemp(prefix=f"unstale-{what}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def save_plan(plan: Plan, folder: Path, seed: int, sizes: list[int]) -> None:
    """Write the work, and the truth as it is at the beginning, into the folder of all runs."""
    (folder / "plan").write_bytes(msgspec.msgpack.encode(plan))
    if plan.kind == "shop":
        ShopTruth.create(folder / "truth", seed)
    else:
        TraceTruth.create(folder / "truth", plan.object_of, sizes, len(plan.objects))


def run_strategy(strategy: Name, plan: Plan, folder: Path, settings: Settings, progress: Progress) -> Run:
    """Do the work by one strategy, each process from a cold start.

    Args:
        strategy: The strategy.
        plan: The work, which `save_plan` has written into the folder.
        folder: The folder of all runs.
        settings: How it is done.
        progress: Called about ten times a second with the seconds gone by and the requests done.

    Raises:
        RunError: A process failed.
    """
    own = folder / strategy
    own.mkdir()
    shutil.copyfile(folder / "truth", own / "truth")
    roles = [("worker", index) for index in range(len(plan.requests))]
    roles += [("writer", index) for index in range(len(plan.changes))]
    jobs = [
        Job(strategy, "worker" if role == "worker" else "writer", index, slot, str(own), settings)
        for slot, (role, index) in enumerate(roles)
    ]
    (own / "progress").write_bytes(bytes(COUNTER.size * len(jobs)))
    with ExitStack() as stack:
        children = [stack.enter_context(_child(job)) for job in jobs]
        start = _start(children)
        summaries = _watch(children, own, start, settings.seconds, progress)
        run = _collect(strategy, jobs, own, summaries)
    _check_complete(run, plan, own)
    shutil.rmtree(own, ignore_errors=True)
    return run


@dataclass
class _Child:
    job: Job
    process: subprocess.Popen[str]
    errors: Path
    summary: Summary | None = None

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self.failure() from error

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self.failure()
        return line

    def failure(self) -> RunError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        lines = self.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = next(
            (line for line in reversed(lines) if line and not line.startswith((" ", "\t"))), "it left no word"
        )
        msg = f"{self.job.process} of the strategy {self.job.strategy!r} ended early: {reason}"
        return RunError(msg, hint="if the folder for temporary files is full, set TMPDIR; if not, please report this")


@contextmanager
def _child(job: Job) -> Iterator[_Child]:
    """Start a process in a session of its own: Ctrl-C reaches the parent alone, which then ends its children."""
    paths = [str(Path(unstale.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    errors = Path(job.folder) / f"{job.process}-errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "unstale.cli.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,
        )
    try:
        child = _Child(job, process, errors)
        child.say(msgspec.json.encode(job).decode())
        yield child
        process.wait(STOP_S)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def _start(children: list[_Child]) -> float:
    """Wait until all are ready, and let them begin at one moment."""
    with selectors.DefaultSelector() as selector:
        for child in children:
            assert child.process.stdout is not None
            selector.register(child.process.stdout, selectors.EVENT_READ, child)
        waiting, until = len(children), boottime() + START_S
        while waiting:
            ready = selector.select(TICK_S)
            for key, _events in ready:
                key.data.hear()
                selector.unregister(key.fileobj)
                waiting -= 1
            if not ready and boottime() > until:
                msg = f"{waiting} of {len(children)} processes did not start within {START_S:g} s"
                raise RunError(msg, hint="the machine is very busy: try again later, or with fewer --workers")
    start = boottime() + LEAD_S
    for child in children:
        child.say(repr(start))
    return start


def _watch(children: list[_Child], own: Path, start: float, seconds: float, progress: Progress) -> list[Summary]:
    """Wait for the summaries, showing how far all are."""
    workers = sum(child.job.role == "worker" for child in children)
    with (
        selectors.DefaultSelector() as selector,
        (own / "progress").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as shared,
    ):
        for child in children:
            assert child.process.stdout is not None
            selector.register(child.process.stdout, selectors.EVENT_READ, child)
        summaries: list[Summary] = []
        while len(summaries) < len(children):
            for key, _events in selector.select(TICK_S):
                summaries.append(msgspec.json.decode(key.data.hear(), type=Summary))
                selector.unregister(key.fileobj)
            gone = boottime() - start
            count = sum(COUNTER.unpack_from(shared, COUNTER.size * slot)[0] for slot in range(workers))
            progress(min(max(gone, 0.0), seconds), count)
            if gone > seconds + STOP_S:
                late = len(children) - len(summaries)
                msg = f"{late} of {len(children)} processes were not through {STOP_S:g} s after the end"
                raise RunError(msg, hint="the machine or its disk is very busy: try again later")
    return summaries


def _collect(strategy: Name, jobs: list[Job], own: Path, summaries: list[Summary]) -> Run:
    """Read the logs."""

    def column(job: Job, name: str, kind: str) -> array[Any]:
        path = own / f"{job.process}-{name}"
        values = array(kind)
        with path.open("rb") as file:
            values.fromfile(file, path.stat().st_size // values.itemsize)
        return values

    reads, tooks, writes, loads = [], [], [], array("d")
    troubles: Counter[str] = Counter()
    for job in jobs:
        objects, versions, begins, took = (column(job, f"reads-{name}", COLUMNS[name]) for name in Reads.columns)
        if job.role == "worker":
            reads.append(ReadLog(job.process, objects, versions, begins))
            tooks.append(took)
        writes.append(WriteLog(job.process, *(column(job, f"writes-{name}", COLUMNS[name]) for name in Writes.columns)))
        loads.extend(column(job, "loads", COLUMNS["loads"]))
    for summary in summaries:
        troubles.update(summary.troubles)
    began, ended = min(summary.began for summary in summaries), max(summary.ended for summary in summaries)
    return Run(strategy, began, ended - began, reads, tooks, writes, loads, troubles)


def _check_complete(run: Run, plan: Plan, own: Path) -> None:
    """Make sure that the logs hold every change that the database holds: else a stale read could go unseen.

    Raises:
        RunError: They do not.
    """
    truth = ShopTruth(own / "truth") if plan.kind == "shop" else TraceTruth(own / "truth", 0.0)
    newest = dict(enumerate(truth.versions()))
    logged = Counter(number for log in run.writes for number in log.objects)
    wrong = [number for number, version in newest.items() if version != 1 + logged[number]]
    if wrong:
        msg = (
            f"{len(wrong)} objects changed more often in the database than in the logs, {plan.objects[wrong[0]]} first"
        )
        raise RunError(msg, hint="this is a defect of the harness: please report it")
