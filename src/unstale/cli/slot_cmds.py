"""The commands `unstale capture slot`: PostgreSQL's replication slot from which a relay reads changes."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import msgspec
import typer

from unstale.cli.inspect_cmds import Json, Name
from unstale.cli.outbox_cmds import DatabaseUrl
from unstale.sources.capture_config import read_config
from unstale.sources.connections import connect
from unstale.sources.slot_admin import checked_slot, create_slot, drop_slot, require_postgres, slot_of, slot_status
from unstale.sources.slot_tables import captured

slot = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The slot of PostgreSQL from which `unstale relay --source slot` reads what was committed.",
)

Config = Annotated[
    str, typer.Option("--config", help="What is captured, and what it ends: capture.toml.", show_default=False)
]
Slot = Annotated[str, typer.Option("--slot", help="Its name; by default that of the cache.", show_default=False)]


@slot.command()
def create(database: DatabaseUrl, config: Config, name: Name = "default", slot: Slot = "") -> None:
    """Make the publication and the slot: what is committed from then on is told."""
    chosen = checked_slot(slot or slot_of(name))
    said = read_config(config)
    with closing(connect(database)) as link:
        require_postgres(link)
        tables = captured(link, said)
        create_slot(link, chosen, tables)
    typer.echo(f"Made the slot {chosen}: it tells of {', '.join(one.rule.name for one in tables)}.")


@slot.command()
def drop(database: DatabaseUrl, name: Name = "default", slot: Slot = "") -> None:
    """Remove the slot and its publication: PostgreSQL keeps nothing for it any more."""
    chosen = checked_slot(slot or slot_of(name))
    with closing(connect(database)) as link:
        there = drop_slot(link, chosen)
    typer.echo(f"The slot {chosen} is gone." if there else f"There was no slot {chosen}.")


@slot.command()
def status(database: DatabaseUrl, name: Name = "default", slot: Slot = "", json: Json = False) -> None:
    """Tell how far the slot lags, and how much PostgreSQL keeps for it.

    Exits with 1 if it is not there, was lost, or is not the one that the relay reads.
    """
    with closing(connect(database)) as link:
        found = slot_status(link, checked_slot(slot or slot_of(name)))
    if json:
        typer.echo(msgspec.json.encode(found).decode())
    elif not found.exists:
        typer.echo(f"There is no slot {found.slot}.")
    else:
        behind, kept = found.behind_bytes / 1e6, found.retained_bytes / 1e6
        typer.echo(f"{found.slot}: {found.wal_status}, {'read now' if found.active else 'not read now'}")
        typer.echo(f"  {behind:,.1f} MB were written since it was read, {kept:,.1f} MB are kept for it")
        typer.echo(f"  it tells of {', '.join(found.tables) or 'nothing'}")
        if not found.sound:
            typer.echo("  it was made anew, or moved on by others: the relay will invalidate everything once")
    if not found.sound or found.wal_status == "lost":
        raise typer.Exit(1)
