"""The commands that look at one key: `get` and `explain`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unstale.cli.look import Opaque, Stored, explain_nothing, find, opened, value_of
from unstale.cli.measures import long_span, span
from unstale.core.explain import Explanation
from unstale.errors import UnstaleError

Url = Annotated[str, typer.Argument(help="Such as sqlite:///shop.cache.", show_default=False)]
Key = Annotated[str, typer.Argument(help="Such as product:17.", show_default=False)]
Name = Annotated[str, typer.Option(help="The name of the cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class NothingStoredError(UnstaleError):
    """There is nothing that could be shown."""

    culprit = "caller"


def get(url: Url, key: Key, name: Name = "default", json: Json = False) -> None:
    """Print the value that is stored under a key, if it may be served.

    Exits with 1 if there is none. `explain` also shows what may not be served.
    """
    with opened(url, name) as look:
        found = find(look, key)
    good = [stored for stored in found if stored.explanation.servable and stored.entry is not None]
    if json:
        typer.echo(_json([_as_json(stored) for stored in good]))
        raise typer.Exit(0 if good else 1)
    if not good:
        why = f"what is stored under {key!r} may not be served" if found else f"nothing is stored under {key!r}"
        reasons = "; ".join(stored.explanation.why for stored in found)
        msg = f"{why}: {reasons}" if reasons else why
        raise NothingStoredError(msg, hint="see `unstale explain` for stamps, scopes and marks")
    for stored in good:
        assert stored.entry is not None
        if len(good) > 1:
            Console(stderr=True).print(f"[dim]shape {stored.shape}:[/]")
        value = value_of(stored.entry)
        if isinstance(value, Opaque):
            typer.echo(f"{value.opaque_bytes:,} bytes that only the application can read", err=True)
        else:
            typer.echo(_json(value))


def explain(url: Url, key: Key, name: Name = "default", json: Json = False) -> None:
    """Tell what is stored under a key, and whether and why it may be served.

    Shows its stamp, its scopes and when each was invalidated last. A node that is cut off from the log may still refuse
    to serve what this says can be served, since it lacks the proof. Exits with 1 if nothing can be served.
    """
    with opened(url, name) as look:
        found = find(look, key)
        bare = explain_nothing(look, key)
    if json:
        typer.echo(_json([_as_json(stored) for stored in found]))
    else:
        console = Console()
        for stored in found:
            _print(console, stored)
        if not found:
            console.print(f"[bold]{escape(key)}[/]  [yellow]nothing is stored[/]")
            console.print(_marks(bare, None))
    raise typer.Exit(0 if any(stored.explanation.servable for stored in found) else 1)


def _print(console: Console, stored: Stored) -> None:
    known, entry = stored.explanation, stored.entry
    verdict = "[green]may be served[/]" if known.servable else "[red]may not be served[/]"
    console.print(f"[bold]{escape(known.key)}[/]  {verdict}: {escape(known.why)}", soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    facts.add_row("stored as", f"{escape(stored.stored_key)}, {known.size:,} bytes")
    if known.stamp is not None:
        behind = known.log.head - known.stamp.position
        facts.add_row("stamp", f"position {known.stamp.position:,}, {behind:,} before the head of the log")
        facts.add_row("generation", known.stamp.generation)
    facts.add_row("life", _life(known, entry.kept_s if entry else 0.0))
    if known.version is not None:
        timeline = f" in timeline {known.version.timeline}" if known.version.timeline else ""
        facts.add_row("version", f"{known.version.value}{escape(timeline)}")
    if entry is not None:
        if entry.cost_s:
            facts.add_row("load", f"took {span(entry.cost_s)}")
        value = value_of(entry)
        facts.add_row("value", escape(_short(value)))
    console.print(facts)
    console.print(_marks(known, known.stamp.position if known.stamp else None))


def _life(known: Explanation, kept_s: float) -> str:
    if known.remaining_s is None:
        return "unknown"
    grace = f", then {long_span(kept_s)} of grace" if kept_s else ""
    if known.remaining_s > 0:
        return f"{long_span(known.remaining_s)} left{grace}"
    return f"over since {long_span(-known.remaining_s)}{', within its grace' if kept_s + known.remaining_s > 0 else ''}"


def _marks(known: Explanation, position: int | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("scope")
    table.add_column("last hard", justify="right")
    table.add_column("last soft", justify="right")
    table.add_column("")
    for scope, (hard, soft) in known.marks.items():
        after = position is not None and max(hard, soft) > position
        table.add_row(
            escape(scope),
            f"{hard:,}" if hard else "[dim]never[/]",
            f"{soft:,}" if soft else "[dim]never[/]",
            "[yellow]after the stamp[/]" if after else "",
        )
    return table


def _short(value: object) -> str:
    text = _json(value)
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - a few lines


def _as_json(stored: Stored) -> dict[str, Any]:
    known, entry = stored.explanation, stored.entry
    return {
        "key": known.key,
        "shape": stored.shape,
        "servable": known.servable,
        "why": known.why,
        "bytes": known.size,
        "stamp": None
        if known.stamp is None
        else {"generation": known.stamp.generation, "position": known.stamp.position},
        "log": {"generation": known.log.generation, "head": known.log.head},
        "version": None
        if known.version is None
        else {"value": known.version.value, "timeline": known.version.timeline},
        "remaining_s": known.remaining_s,
        "kept_s": None if entry is None else entry.kept_s,
        "scopes": {scope: {"hard": hard, "soft": soft} for scope, (hard, soft) in known.marks.items()},
        "value": None if entry is None else value_of(entry),
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode()
