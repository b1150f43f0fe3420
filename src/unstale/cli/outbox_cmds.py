"""The commands `unstale outbox`: its tables, what waits in it, and what was put aside."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unstale.cli.inspect_cmds import Json
from unstale.cli.measures import span
from unstale.errors import UsageError
from unstale.sources.dialects import TABLE
from unstale.sources.outbox import Dead, Outbox, ddl

outbox = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The outbox: a table of your database, into which transactions write what their commit invalidates.",
)

DatabaseUrl = Annotated[
    str, typer.Argument(metavar="DATABASE", help="Such as postgresql://user@host/shop.", show_default=False)
]
TableName = Annotated[str, typer.Option("--table", help="The name of its table.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Of records.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All that was put aside.")]


class DialectName(StrEnum):
    """The databases that can hold an outbox."""

    postgresql = "postgresql"
    mysql = "mysql"
    sqlite = "sqlite"


@outbox.callback()
def group() -> None:
    """The outbox: a table of your database, into which transactions write what their commit invalidates."""


@outbox.command("ddl")
def print_ddl(
    dialect: Annotated[DialectName, typer.Option(help="The database; mysql is MariaDB too.", show_default=False)],
    table: TableName = TABLE,
) -> None:
    """Print the statements that make its tables; run once more, they do nothing."""
    typer.echo(ddl(dialect.value, table=table), nl=False)


@outbox.command()
def status(database: DatabaseUrl, table: TableName = TABLE, json: Json = False) -> None:
    """Tell how many records wait, how old the oldest is, and how many were put aside; for each cache.

    Exits with 1 if any was put aside.
    """
    with Outbox(database, table=table) as found:
        caches = found.status()
    if json:
        typer.echo(msgspec.json.encode(caches).decode())
    else:
        console = Console(highlight=False)
        shown = Table("cache", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("waiting", "oldest", "put aside"):
            shown.add_column(title, justify="right")
        for one in caches:
            dead = f"[yellow]{one.dead:,}[/]" if one.dead else "0"
            shown.add_row(escape(one.cache), f"{one.rows:,}", span(one.lag_s) if one.rows else "-", dead)
        console.print(shown if caches else "[dim]Nothing waits, and nothing was put aside.[/]")
    if any(one.dead for one in caches):
        raise typer.Exit(1)


@outbox.command()
def dead(database: DatabaseUrl, table: TableName = TABLE, json: Json = False) -> None:
    """List what was put aside: everything was invalidated in its place."""
    with Outbox(database, table=table) as found:
        aside = found.dead()
    if json:
        typer.echo(msgspec.json.encode([_as_json(one) for one in aside]).decode())
        return
    console = Console(highlight=False)
    for one in aside:
        told = f"[bold]{escape(one.id)}[/]  {escape(one.cache)}  [dim]{span(one.age_s)} ago[/]  {escape(one.reason)}"
        console.print(told, soft_wrap=True)
    if not aside:
        console.print("[dim]Nothing was put aside.[/]")


@outbox.command()
def replay(database: DatabaseUrl, ids: Ids = None, all_: All = False, table: TableName = TABLE) -> None:
    """Give records that were put aside to the relay once more, after what refused them was put right."""
    with Outbox(database, table=table) as found:
        count = found.replay(_chosen(found, ids, all_=all_))
    typer.echo(f"The relay reads {count:,} of them anew.")


@outbox.command()
def discard(database: DatabaseUrl, ids: Ids = None, all_: All = False, table: TableName = TABLE) -> None:
    """Forget records that were put aside; everything was invalidated in their place, so nothing stale is served."""
    with Outbox(database, table=table) as found:
        count = found.discard(_chosen(found, ids, all_=all_))
    typer.echo(f"{count:,} of them are gone.")


def _chosen(found: Outbox, ids: list[str] | None, *, all_: bool) -> list[str]:
    if bool(ids) == all_:
        msg = "which records are meant is not said" if not ids else "--all and single records say two different things"
        raise UsageError(msg, hint="name their ids, as `unstale outbox dead` lists them, or write --all")
    there = [one.id for one in found.dead()]
    unknown = sorted({*(ids or ())} - {*there})
    if unknown:
        raise UsageError(f"nothing was put aside under {', '.join(unknown)}", hint="see `unstale outbox dead`")
    return list(ids or there)


def _as_json(one: Dead) -> dict[str, object]:
    return {"id": one.id, "cache": one.cache, "reason": one.reason, "age_s": one.age_s, "data": one.data.hex()}
