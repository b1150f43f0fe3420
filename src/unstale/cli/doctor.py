"""The command `doctor`: what weakens a cache, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from unstale.cli.examine import examine
from unstale.cli.findings import Finding, Level
from unstale.cli.inspect_cmds import Json, Name, Url

MARKS: Final[dict[Level, str]] = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[bold red]problem[/]"}


def doctor(url: Url, name: Name = "default", json: Json = False) -> None:
    """Examine a cache: its file, log, members, marks and limits.

    Each problem comes with what it weakens and the command that mends it. Nothing is changed, and nothing is joined.
    Exits with 1 if there are problems.
    """
    findings = examine(url, name)
    if json:
        typer.echo(msgspec.json.encode([asdict(finding) for finding in findings]).decode())
    else:
        _print(Console(highlight=False), findings)
    raise typer.Exit(1 if any(finding.level == "problem" for finding in findings) else 0)


def _print(console: Console, findings: Sequence[Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(style="bold")
    table.add_column()
    for finding in findings:
        table.add_row(MARKS[finding.level], finding.subject, "\n".join(_told(finding)))
    console.print(table)
    console.print(Padding(_verdict(findings), (1, 0, 0, 0)))


def _told(finding: Finding) -> Iterable[str]:
    yield escape(finding.text)
    if finding.weakens:
        yield f"[dim]weakens:[/] {escape(finding.weakens)}"
    if finding.mend:
        yield f"[dim]do this:[/] [cyan]{escape(finding.mend)}[/]"


def _verdict(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        return f"[bold red]{problems} {'problem' if problems == 1 else 'problems'}.[/]"
    return "[green]No problems.[/]"
