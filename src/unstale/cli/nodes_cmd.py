"""The command `nodes`: who uses a cache, how far each has come, and by which policies it keeps entries."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unstale.cli.inspect_cmds import Json, Name, Url
from unstale.cli.look import opened
from unstale.cli.measures import span
from unstale.cli.nodes_told import Node, by_policy, nodes_of, titles, written
from unstale.core.ops import Identity

Policies = Annotated[bool, typer.Option("--policies", help="List the policies too, and which nodes have which.")]


def nodes(url: Url, name: Name = "default", policies: Policies = False, json: Json = False) -> None:
    """List the processes that use a cache: name, version, what each has applied, how far that is behind, its bound.

    On a Redis it listens until each has spoken, for as long as its bound at most: who says nothing has ended or is
    stopped. Nothing is joined.
    """
    with opened(url, name) as look:
        silent = look.silent()
        told = look.read_members()
        members = nodes_of(look, told, silent)
    if json:
        typer.echo(msgspec.json.encode([_as_json(one, told.identity) for one in members]).decode())
        return
    console = Console(highlight=False)
    if members:
        console.print(_table(members, told.identity))
    count = f"{len(members)} {'node' if len(members) == 1 else 'nodes'}"
    head = f"generation {told.identity.generation}, head at position {told.identity.head:,}"
    console.print(f"[dim]{count}; {head}[/]", soft_wrap=True)
    if policies:
        _print_policies(console, members)


def _table(members: list[Node], head: Identity) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("node", "name", "version"):
        table.add_column(title)
    for title in ("applied", "behind", "bound"):
        table.add_column(title, justify="right")
    table.add_column("")
    for one in members:
        behind = _behind(one, head)
        table.add_row(
            one.member.node,
            escape(one.about.title or "-"),
            escape(one.about.version or "-"),
            f"{one.member.applied:,}",
            "-" if behind is None else f"{behind:,}",
            span(one.member.max_staleness_s),
            _state(one, head),
        )
    return table


def _behind(one: Node, head: Identity) -> int | None:
    """Give how far a node is behind the head; positions of another generation say nothing."""
    return head.head - one.member.applied if one.member.generation == head.generation else None


def _state(one: Node, head: Identity) -> str:
    if one.silent:
        return "[yellow]silent: ended, or stopped[/]"
    if one.member.generation != head.generation:
        return "[yellow]of another generation[/]"
    return ""


def _print_policies(console: Console, members: list[Node]) -> None:
    """Print each policy once, with who has it where that is not everybody."""
    for pattern, policies in sorted(by_policy(members).items()):
        console.print(f"\n[bold]{escape(pattern)}[/]", soft_wrap=True)
        for policy, having in policies.items():
            who = f"   [yellow]{escape(titles(having))}[/]" if len(policies) > 1 else ""
            console.print(f"  {escape(written(policy))}{who}", soft_wrap=True)
    for one in members:
        if one.about.left_out:
            console.print(f"\n[dim]{escape(one.title)} has {one.about.left_out:,} more[/]", soft_wrap=True)


def _as_json(one: Node, head: Identity) -> dict[str, object]:
    return {
        "node": one.member.node,
        "name": one.about.name,
        "place": one.about.place,
        "version": one.about.version,
        "generation": one.member.generation,
        "applied": one.member.applied,
        "behind": _behind(one, head),
        "max_staleness_s": one.member.max_staleness_s,
        "silent": one.silent,
        "policies": one.about.policies,
    }
