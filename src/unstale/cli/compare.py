"""Does the same work by several strategies, one after the other, and tells how they compare."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from unstale.cli.checker import ImpossibleReadError
from unstale.cli.html import write_report
from unstale.cli.measures import Measures, measure
from unstale.cli.plan import STRATEGIES, Name, Plan, Settings
from unstale.cli.runner import Progress as OnProgress
from unstale.cli.runner import RunError, run_strategy, save_plan
from unstale.cli.table import print_table, print_troubles, sentences
from unstale.cli.target import shown
from unstale.errors import UsageError

BROKEN = 1


def compare(
    names: Sequence[Name],
    plan: Plan,
    sizes: list[int],
    folder: Path,
    settings: Settings,
    *,
    seed: int,
    title: str,
    setting: Sequence[tuple[str, str]],
    report: Path,
    console: Console,
) -> int:
    """Run the strategies, print the table and write the report: the exit code.

    Args:
        names: The strategies.
        plan: The work.
        sizes: For a trace, the bytes of each entry.
        folder: A folder for everything that is needed meanwhile.
        settings: How it is done.
        seed: For what is drawn.
        title: What is done.
        setting: How it is done, for people: names and texts.
        report: Where the report goes.
        console: Where the table goes.

    Raises:
        RunError: A process failed, or its logs contradict the database.
        UsageError: The report cannot be written.
    """
    if not os.access(report.parent, os.W_OK):
        msg = f"the report cannot be written: {report.parent.resolve()} is no folder that this user may write to"
        raise UsageError(msg, hint="make it, or name another file with --report")
    console.print(f"[bold]{title}[/]", highlight=False)
    for name, text in setting:
        console.print(f"  [dim]{name}:[/] {text}", highlight=False, soft_wrap=True)
    save_plan(plan, folder, seed, sizes)
    measures = []
    length = sum(map(len, plan.requests)) if plan.kind == "trace" else 0
    for name in names:
        with _shown(STRATEGIES[name], settings.seconds) as progress:
            run = run_strategy(name, plan, folder, settings, progress)
            try:
                measures.append(measure(run, settings.bound_s, length))
            except ImpossibleReadError as error:
                msg = f"the run of {STRATEGIES[name]!r} contradicts its database: {error}"
                raise RunError(msg, hint="this is a defect of the harness or of the cache: please report it") from error
    print_table(console, measures, settings.bound)
    summary = list(sentences(measures, settings.bound))
    for sentence in summary:
        console.print(sentence, highlight=False)
    print_troubles(console, measures)
    _write(report, measures, title, settings, summary, setting)
    console.print(f"\n[dim]Plots:[/] {report.resolve()}", highlight=False, soft_wrap=True)
    return BROKEN if any(one.broken for one in measures) else 0


def _write(  # noqa: PLR0917 - the parts of a report
    report: Path,
    measures: Sequence[Measures],
    title: str,
    settings: Settings,
    summary: Sequence[str],
    setting: Sequence[tuple[str, str]],
) -> None:
    command = shown(shlex.join(["unstale", *sys.argv[1:]]))
    try:
        write_report(
            report,
            measures,
            title=title,
            bound=settings.bound,
            bound_s=settings.bound_s,
            summary=summary,
            setting=[*setting, *DEFINITIONS, ("Command", command)],
        )
    except OSError as error:
        msg = f"the report {report} cannot be written: {error.strerror or error}"
        raise UsageError(msg, hint="name another file with --report") from error


@contextmanager
def _shown(title: str, seconds: float) -> Iterator[OnProgress]:
    """Show how far a run is, on the error output if that is a terminal."""
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn(f"{title:<16}"),
        BarColumn(),
        TextColumn("{task.fields[reads]:>12,} reads"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=seconds, reads=0)
        yield lambda gone_s, reads: bar.update(task, completed=gone_s, reads=reads)


DEFINITIONS = (
    (
        "Stale",
        (
            "A read that returned a version older than one whose commit had returned before the read began. The "
            "judgement is made afterwards from the versions in the database and from times of one clock that all "
            "processes share; no cache is asked."
        ),
    ),
    (
        "Oldest value",
        "The longest time from such a commit to the begin of a read that still returned the version before it.",
    ),
    (
        "Stale for over ...",
        (
            "Stale reads that began longer than that after the change had been announced: after its invalidation, or "
            "deletion, had returned. unstale promises that there are none. TTL only may serve a value for its whole "
            "life after it was replaced; delete on write for both its lives, if a reader fills the store late."
        ),
    ),
    (
        "Propagation",
        (
            "From a commit to the begin of the first read in another process that returned the new version, 0 if its "
            "first read after the commit already did; taken where that process read the entry at least every 10 ms "
            "around both moments."
        ),
    ),
)
