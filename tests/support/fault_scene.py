"""The nodes of one cell of the fault matrix: readers of both colours, a writer, and what may be said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from tests.support.processes import Process
from tests.support.staleness import Commit, Seen, Verdict, judge
from tests.support.waiting import until
from unstale.clock import boottime

ROLES: Final = Path(__file__).parents[1] / "integration" / "redis_roles.py"
COLOURS: Final = ("blocking", "asynchronous")
BOUND_S: Final = 0.5
FAULT_S: Final = 2.0
ITEMS: Final = 150
TIMEOUT: Final = "300ms"  # of any answer: less than the bound, so that short faults show what long ones do
PAUSE_S: Final = 0.01  # between two commits
WARM: Final = 3000  # reads before the fault, of each reader
SOME: Final = 10  # acknowledged commits, before the fault and after it


class Scene:
    """The nodes of one cell.

    Args:
        folder: For the truth.
        fault_s: How long the fault lasts, in seconds.
        bound_s: The bound, in seconds.
    """

    def __init__(self, folder: Path, fault_s: float = FAULT_S, bound_s: float = BOUND_S) -> None:
        self.fault_s = fault_s
        self.bound_s = bound_s
        self.cache: dict[str, Any] = {"name": "shop", "max_staleness": f"{bound_s}s"}
        self.how: dict[str, Any] = {}  # of the cached functions
        self.readers: list[Process] = []
        self.children: list[Process] = []  # readers with a forked child that reads too
        self._truth = folder / "truth"
        self._truth.write_bytes(bytes(8 * ITEMS))
        self._nodes: list[Process] = []

    def node(self, url: str, **settings: Any) -> Process:
        """Start a node."""
        url += f"{'&' if '?' in url else '?'}timeout={TIMEOUT}"
        self._nodes.append(
            Process(ROLES, url, self._truth, json.dumps({"cache": self.cache, "how": self.how} | settings))
        )
        return self._nodes[-1]

    def begin(self, readers: str, writer: str = "", **settings: Any) -> None:
        """Start readers and the writer, and wait until all are at work, and hold leases.

        Args:
            readers: The URL of the readers.
            writer: The URL of the writer, if it is another one.
            settings: Of the readers.
        """
        self.writer = self.node(writer or readers)
        for colour in COLOURS:
            self.read(readers, colour, **settings)
        self.writer.ask("write", PAUSE_S)
        self.at_work()

    def read(self, url: str, colour: str, **settings: Any) -> Process:
        """Start another reader."""
        self.readers.append(self.node(url, **settings))
        self.readers[-1].ask("spin", colour)
        return self.readers[-1]

    def at_work(self) -> None:
        """Wait until all have done something, and hold leases."""
        until(lambda: all(self.of(reader)["reads"] > WARM and self.of(reader)["proven"] for reader in self.readers))
        self.some_commits()

    @staticmethod
    def of(node: Process) -> dict[str, Any]:
        """Give the state of a node."""
        return cast("dict[str, Any]", node.ask("state"))

    def some_commits(self, number: int = SOME) -> None:
        """Wait until some more commits are acknowledged."""
        before = self.of(self.writer)["commits"]
        until(lambda: self.of(self.writer)["commits"] >= before + number)

    def last(self) -> None:
        """Let the fault last; reads go on meanwhile."""
        over = boottime() + self.fault_s
        before = [self.of(reader)["reads"] for reader in self.readers]
        until(lambda: boottime() > over)
        after = [self.of(reader)["reads"] for reader in self.readers]
        assert all(now > then for now, then in zip(after, before, strict=True)), "a reader stood still"

    def again_and_again(self, what: Callable[[], object], every_s: float = 0.2) -> None:
        """Do something every while, for as long as the fault lasts."""
        over = boottime() + self.fault_s
        while boottime() < over:
            what()
            then = boottime() + every_s
            until(lambda then=then: boottime() > then)  # type: ignore[misc] # mypy knows no lambda's defaults

    def end(self, *, without_lease: tuple[Process, ...] = ()) -> Verdict:
        """Wait until all is well again, and give the oracle's verdict.

        Args:
            without_lease: Readers that cannot have a lease any more: they load whatever they serve.
        """
        self.some_commits()
        self.writer.ask("rest")
        done = {id(reader): self.of(reader)["round"][0] + 1 for reader in self.readers}
        for reader in self.readers:
            until(lambda: self._well(self.of(reader), done[id(reader)]))  # noqa: B023 - it is called at once
            if reader not in without_lease:
                until(lambda: self.of(reader)["proven"])  # noqa: B023 - as above
        for reader in self.children:
            until(lambda: self._well(reader.ask("of_child", "state"), 1))  # noqa: B023 - as above
        seen = [reader.ask("seen") for reader in self.readers]
        seen += [reader.ask("of_child", "seen") for reader in self.children]
        return judge(map(Commit._make, self.writer.ask("written")), map(seen_by, seen), self.bound_s)

    @staticmethod
    def _well(state: dict[str, Any], rounds: int) -> bool:
        done, bad = state["round"]
        return done > rounds and not bad

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes:
            node.end()


def seen_by(told: dict[str, Any]) -> Seen:
    """Read what a reader tells."""
    last = {(number, version): began for number, version, began in told.pop("last")}
    return Seen(last=last, **told)
