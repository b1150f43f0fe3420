"""The commands `unstale capture`: triggers that tell the outbox what goes round the application."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from unstale.cli.inspect_cmds import Json
from unstale.cli.outbox_cmds import DatabaseUrl, TableName
from unstale.cli.target import shown
from unstale.sources.capture import Capture
from unstale.sources.capture_config import read_config
from unstale.sources.capture_plan import Captured
from unstale.sources.dialects import TABLE

capture = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Triggers that write into the outbox what is changed, by whomever: psql, a script, another service.",
)

Tables = Annotated[
    str, typer.Option("--tables", metavar="NAMES", help="Such as product,price; else those of --config.")
]
File = Annotated[
    Path | None, typer.Option("--config", help="What is captured, and what it ends: capture.toml.", show_default=False)
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="A cache that is told, again for another; else those of --config.", show_default=False),
]


@capture.callback()
def group() -> None:
    """Triggers that write into the outbox what is changed, by whomever: psql, a script, another service."""


def _names(tables: str) -> list[str]:
    return [name.strip() for name in tables.split(",") if name.strip()]


def _caches(names: Sequence[str] | None, configured: Sequence[str]) -> list[str]:
    return list(names or configured or ["default"])


@capture.command()
def install(
    database: DatabaseUrl,
    *,
    tables: Tables = "",
    config: File = None,
    name: Names = None,
    table: TableName = TABLE,
    only_print: Annotated[bool, typer.Option("--print", help="Print the statements, and run none.")] = False,
) -> None:
    """Capture the changes of tables by triggers; those that are captured so already are left alone.

    When the relay next pulses, all entries end once: nobody has seen what was changed before.
    """
    read = read_config(config)
    with Capture(database, table=table) as found:
        planned = found.plan(_names(tables), read, _caches(name, read.caches))
        if only_print:
            typer.echo("".join(f"{statement};\n" for statement in _delimited(found, planned)), nl=False)
            return
        changed = {one.name for one in found.install(planned)}
    console = Console(highlight=False)
    for one in planned:
        did = "Captured" if one.name in changed else "Was captured"
        rows = ", ".join((*one.scopes, *one.ends)) or "nothing"
        console.print(f"{did}: [bold]{escape(one.name)}[/], for {escape(', '.join(one.caches))}", soft_wrap=True)
        console.print(f"  a row ends {escape(rows)}; unknown rows end {escape(', '.join(one.unknown))}", soft_wrap=True)


def _delimited(found: Capture, planned: Sequence[Captured]) -> list[str]:
    """Give statements as the database's own client takes them."""
    if found.database.dialect.name != "mysql":
        return ["BEGIN", *found.statements(planned), "COMMIT"]
    return [f"DELIMITER $$\n{one}$$\nDELIMITER " if "BEGIN" in one else one for one in found.statements(planned)]


@capture.command()
def check(
    database: DatabaseUrl, config: File = None, name: Names = None, table: TableName = TABLE, json: Json = False
) -> None:
    """Find triggers that are missing, disabled or not as the file says, and columns that are gone.

    Exits with 1 if anything is wrong, and names what mends it. A relay looks with each pulse, and writes none while
    changes may go unseen.
    """
    read = read_config(config) if config is not None else None
    with Capture(database, table=table) as found:
        captured = found.captured()
        findings = found.check(read, name or ())
    if json:
        typer.echo(msgspec.json.encode({"tables": [one.name for one in captured], "findings": findings}).decode())
    else:
        console = Console(highlight=False)
        for one in findings:
            mark = "[bold red]unseen[/]" if one.unseen else "[yellow]note[/]"
            console.print(f"{mark}  [bold]{escape(one.table)}[/]: {escape(one.text)}", soft_wrap=True)
            mend = one.mend.replace("DATABASE", shown(database))
            console.print(f"        mend: {escape(mend)}", soft_wrap=True)
        if not findings:
            told = ", ".join(one.name for one in captured)
            console.print(f"Captured, and well: {escape(told)}." if told else "[dim]Nothing is captured.[/]")
    if findings:
        raise typer.Exit(1)


@capture.command()
def remove(database: DatabaseUrl, tables: Tables = "", table: TableName = TABLE) -> None:
    """Take the triggers away again, of all tables or of some: what goes round the application is seen no more."""
    with Capture(database, table=table) as found:
        removed = found.remove(_names(tables))
    typer.echo(f"No longer captured: {', '.join(removed)}." if removed else "Nothing was captured.")
