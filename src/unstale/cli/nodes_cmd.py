"""The command `nodes`: who uses a cache, and how far each has come."""

from __future__ import annotations

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from unstale.cli.inspect_cmds import Json, Name, Url
from unstale.cli.look import opened
from unstale.cli.measures import span
from unstale.core.ops import Identity, Member


def nodes(url: Url, name: Name = "default", json: Json = False) -> None:
    """List the processes that use a cache: what each has applied, how far that is behind the head, and its bound.

    On a Redis it listens until each has spoken, for as long as its bound at most: who says nothing has ended or is
    stopped. Nothing is joined.
    """
    with opened(url, name) as look:
        silent = look.silent()
        told = look.read_members()
    members = sorted(told.members, key=lambda member: member.node)
    if json:
        typer.echo(msgspec.json.encode([_as_json(one, told.identity, silent) for one in members]).decode())
        return
    console = Console(highlight=False)
    if members:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("node")
        for title in ("applied", "behind", "bound"):
            table.add_column(title, justify="right")
        table.add_column("")
        for one in members:
            applied, behind = f"{one.applied:,}", f"{told.identity.head - one.applied:,}"
            table.add_row(one.node, applied, behind, span(one.max_staleness_s), _state(one, told.identity, silent))
        console.print(table)
    count = f"{len(members)} {'node' if len(members) == 1 else 'nodes'}"
    head = f"generation {told.identity.generation}, head at position {told.identity.head:,}"
    console.print(f"[dim]{count}; {head}[/]", soft_wrap=True)


def _state(member: Member, head: Identity, silent: frozenset[str]) -> str:
    if member.node in silent:
        return "[yellow]silent: ended, or stopped[/]"
    if member.generation != head.generation:
        return "[yellow]of another generation[/]"
    return ""


def _as_json(member: Member, head: Identity, silent: frozenset[str]) -> dict[str, object]:
    return {
        "node": member.node,
        "generation": member.generation,
        "applied": member.applied,
        "behind": head.head - member.applied if member.generation == head.generation else None,
        "max_staleness_s": member.max_staleness_s,
        "silent": member.node in silent,
    }
