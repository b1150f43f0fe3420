"""The result of a demo or a replay on the terminal: one table, and a few sentences that say what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unstale.cli.measures import BEYOND, Measures, rows, share, span

STYLES: Final = {"none": "", "ttl": "yellow", "delete": "magenta", "unstale": "bold green"}
RULED_OFF: Final = ("a read, p99", "hit ratio", BEYOND)


def print_table(console: Console, measures: Sequence[Measures], bound: str) -> None:
    """Print the figures, one column for each strategy."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    for one in measures:
        table.add_column(one.title, justify="right", style=STYLES[one.strategy], no_wrap=True)
    for name, texts in rows(measures, bound):
        cells = [_highlighted(name, text, one) for text, one in zip(texts, measures, strict=True)]
        table.add_row(name, *cells, end_section=name.startswith(RULED_OFF))
    console.print(table)


def _highlighted(name: str, text: str, one: Measures) -> Text:
    wrong = name.startswith(BEYOND) and one.broken
    return Text(text, style="bold red" if wrong else "dim" if text == "-" else "")


def sentences(measures: Sequence[Measures], bound: str) -> Iterator[str]:
    """Say in plain words what the table shows."""
    ours = next((one for one in measures if one.strategy == "unstale"), None)
    others = [one for one in measures if one is not ours]
    caches = [one for one in others if one.strategy != "none"]
    if caches:
        shares = [f"{one.title} {_share(one)}" for one in caches]
        ages = [f"{span(one.oldest_s)} ({one.title})" for one in caches]
        yield f"Of the reads, {_listed(shares)} returned what had been replaced already, for up to {_listed(ages)}."
    if ours is None:
        return
    if ours.stale:
        yield (
            f"unstale {_share(ours)}, for up to {span(ours.oldest_s)}: the moment that a change needs to reach the "
            "other processes."
        )
    else:
        yield "With unstale no read did."
    if ours.broken:
        yield f"It broke its bound of {bound} in {ours.beyond:,} reads. That must never happen: this run has failed."
    else:
        times = [f"{one.title} {_times(one.beyond)}" for one in caches]
        rest = f" ({_listed(times)})" if times else ""
        yield f"It served nothing that had been announced as replaced for longer than its bound of {bound}{rest}."
    loads = [f"{one.loads:,} ({one.title})" for one in others]
    if loads:
        yield f"It asked the database {ours.loads:,} times for {ours.reads:,} reads, instead of {_listed(loads)}."


def _times(count: int) -> str:
    return ("never", "once")[count] if count <= 1 else f"{count:,} times"


def _share(one: Measures) -> str:
    return share(one.stale_share)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def print_troubles(console: Console, measures: Sequence[Measures]) -> None:
    """Print what failed in the processes without any caller seeing it."""
    for one in measures:
        for what, count in sorted(one.troubles.items()):
            console.print(f"[yellow]{one.title}: {count} x trouble with {what}[/]")
