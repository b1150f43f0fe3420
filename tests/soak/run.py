"""Runs a soak: nodes that work, some of which come and go, samples of what all hold, and the verdict."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from rich.console import Console
from rich.table import Table

from tests.soak.places import BOUND_S, ENTRIES_MAX, MARKS_MAX, RECORDS_MAX, SLOTS, place_of
from tests.soak.verdict import SAMPLES_MIN, Limit, judge, merged, rows
from tests.support.processes import Process
from tests.support.waiting import until
from unstale.clock import boottime

ROLE: Final = Path(__file__).with_name("node.py")
COLOURS: Final = ("blocking", "asynchronous")
LASTING: Final = len(COLOURS)  # the first slots: these nodes are there from the beginning to the end
EVERY_S: Final = 0.5  # a sample, at most; an hour has no more of them than ten minutes
CHANGE_S: Final = 5.0  # so long a passing node lives
TELL_S: Final = 10.0
SAMPLES_MAX: Final = 1200
SECONDS_MIN: Final = 30  # what expires lives up to 8 s; a third must be longer
TRIMMED: Final = 3  # times as many records as the log keeps: else it was not shown that it is trimmed
HEADER: Final = ("series", "middle third", "last third", "growth", "allowed", "highest", "bound", "verdict")

NODE_LIMITS: Final = {
    "memory": Limit("MB", share=0.05),
    "blocks": Limit(share=0.005),
    "L1 entries": Limit(bound=ENTRIES_MAX, share=0.1, slack=40),
    "L1 index": Limit(bound=6 * ENTRIES_MAX, share=0.1, slack=150),
    "L1 ghosts": Limit(bound=ENTRIES_MAX, share=0.1, slack=40),
    "aliases": Limit(bound=ENTRIES_MAX, slack=40),
    "marks": Limit(bound=MARKS_MAX, share=0.05, slack=50),
    "flights": Limit(bound=40, slack=3),
    "refreshing": Limit(bound=150, slack=10),
    "intents": Limit(bound=10, slack=1),
    "expected": Limit(bound=10, slack=1),
    "threads": Limit(bound=60, slack=4),
    "descriptors": Limit(bound=100, slack=5),
}


class Told(NamedTuple):
    """How a soak went.

    Attributes:
        seconds: How long it ran.
        limits: What each series may do.
        samples: The series.
        seen: Sums of what all nodes have done and seen.
        findings: A sentence for each thing that is not as it should be.
    """

    seconds: float
    limits: dict[str, Limit]
    samples: dict[str, list[float]]
    seen: Counter[str]
    findings: list[str]


class Soak:
    """The nodes of a soak, and what is known of them.

    Args:
        url: Of an engine that serves nothing else.
        folder: For the source of truth.
        say: Prints a line.
    """

    def __init__(self, url: str, folder: Path, say: Callable[[str], None]) -> None:
        self._url = url
        self._truth = folder / "truth"
        self._say = say
        self._place = place_of(url)
        self._nodes: dict[int, Process] = {}
        self._samples: list[dict[str, float]] = []
        self._seen: Counter[str] = Counter()
        self._oldest_s = 0.0
        self._applied = 0
        self._errors: Counter[str] = Counter()
        self._began = boottime()
        self.limits = self._place.limits | {
            f"{colour} node: {name}": limit for colour in COLOURS for name, limit in NODE_LIMITS.items()
        }

    def begin(self) -> None:
        """Start all nodes."""
        for slot in range(SLOTS):
            self._start(slot)
        self._began = boottime()

    def _start(self, slot: int) -> None:
        self._nodes[slot] = Process(ROLE, self._url, self._truth, slot, COLOURS[slot % len(COLOURS)])
        self._nodes[slot].tell(["work"])
        self._seen["nodes"] += 1

    def last(self, seconds: float) -> None:
        """Let it go on for so long."""
        every_s = max(EVERY_S, seconds / SAMPLES_MAX)
        over = self._began + seconds
        look = change = tell = boottime()
        turns = itertools.cycle((slot, kill) for kill in (False, True) for slot in range(LASTING, SLOTS))
        for slot in range(SLOTS):
            self._nodes[slot].hear()  # it works
        while (now := boottime()) < over:
            if now >= look:
                self._look()
                look = now + every_s
            if now >= change + CHANGE_S:
                self._change(*next(turns))
                change = now
            if now >= tell + TELL_S:
                self._tell()
                tell = now
            until(lambda: boottime() >= min(look, over))  # noqa: B023 - it is called at once

    def _look(self) -> None:
        sample = self._place.look()
        for slot in range(LASTING):
            counts = self._nodes[slot].ask("counts")
            sample |= {f"{COLOURS[slot]} node: {name}": value for name, value in counts.items()}
        self._samples.append(sample)

    def _change(self, slot: int, kill: bool) -> None:  # noqa: FBT001 - how the node ends
        node = self._nodes[slot]
        if kill:
            self._count(node.ask("seen"))
            self._seen["killed"] += 1
        else:
            self._count(node.ask("end"))
        node.end()
        self._start(slot)
        self._nodes[slot].hear()

    def _tell(self) -> None:
        last = self._samples[-1]
        state = [f"{name} {last[name]:,.1f}" for name in self._place.limits if name in last][:2]
        memory = " and ".join(f"{last[f'{colour} node: memory']:.1f}" for colour in COLOURS)
        self._say(f"{boottime() - self._began:6.0f} s  nodes {memory} MB, {', '.join(state)}")

    def _count(self, told: dict[str, Any]) -> None:
        """Add up what a node has done and seen."""
        self._seen.update({name: told[name] for name in ("reads", "stale", "beyond")})
        self._seen.update(told["done"])
        self._errors.update(told["errors"])
        self._oldest_s = max(self._oldest_s, told["oldest_s"])
        self._applied = max(self._applied, told["applied"])

    def verdict(self, *, whole: bool = True) -> Told:
        """End all nodes, and judge.

        Args:
            whole: It was not interrupted: else there is nothing to be judged by trends.
        """
        for node in self._nodes.values() if whole else ():
            self._count(node.ask("end"))
        seen, samples = self._seen | Counter(records=self._applied), merged(self._samples)
        findings = []
        if seen["beyond"]:
            findings.append(
                f"{seen['beyond']:,} reads were staler than the bound of {BOUND_S:g} s: "
                f"the stalest was told of {self._oldest_s:.3f} s before"
            )
        findings += [f"{count} times {error}" for error, count in self._errors.items()]
        if whole:
            findings += judge(self.limits, samples)
            if self._applied < TRIMMED * RECORDS_MAX:
                findings.append(
                    f"only {self._applied:,} records were published, and {TRIMMED * RECORDS_MAX:,} are needed to show "
                    "that the log is trimmed: let it run longer"
                )
        return Told(boottime() - self._began, self.limits, samples, seen, findings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes.values():
            node.end()
        self._place.__exit__(kind, error, trace)


def soak(url: str, seconds: float, say: Callable[[str], None]) -> tuple[Told, bool]:
    """Run a soak; give how it went, and whether it ran to its end. Ctrl-C ends it, with what there is so far.

    Args:
        url: Of an engine that serves nothing else.
        seconds: How long.
        say: Prints a line.
    """
    with tempfile.TemporaryDirectory(prefix="unstale-soak-") as folder, Soak(url, Path(folder), say) as running:
        try:
            running.begin()
            running.last(seconds)
            return running.verdict(), True
        except KeyboardInterrupt:
            return running.verdict(whole=False), False


def show(told: Told, console: Console) -> None:
    """Print the table."""
    table = Table(title_justify="left", title=f"{told.seconds:,.0f} s of soak")
    for title in HEADER:
        table.add_column(
            title, justify="left" if title in {"series", "verdict"} else "right", no_wrap=title == "series"
        )
    for row in rows(told.limits, told.samples):
        table.add_row(*row, style="bold red" if row[-1] == "GREW" else None)
    console.print(table)
    names = ("reads", "stale", "beyond", "records", "nodes", "killed", "failed", "timed out")
    console.print(", ".join(f"{name} {told.seen[name]:,}" for name in names))
    troubles = {name: count for name, count in told.seen.items() if name.startswith(("trouble", "refused"))}
    if troubles:
        console.print(json.dumps(troubles), style="dim")


def enough(seconds: float) -> str:
    """Say why a time is too short; nothing, if it is not."""
    shortest = max(SECONDS_MIN, math.ceil(SAMPLES_MIN * EVERY_S))
    return "" if seconds >= shortest else f"{seconds:g} s are too few to see a trend: write SECONDS={shortest} or more"
