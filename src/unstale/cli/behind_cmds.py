"""The commands `unstale behind`: what waits in the queue of a write-behind, and what was put aside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from unstale.behind import Dead, open_queue
from unstale.behind.writes import Queue
from unstale.cli.inspect_cmds import Json
from unstale.cli.measures import span
from unstale.errors import UsageError

behind = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The queue of a write-behind: writes that are acknowledged, and not yet in the database.",
)

QueueUrl = Annotated[str, typer.Argument(metavar="URL", help="Such as sqlite:///orders.queue.", show_default=False)]
Keys = Annotated[list[str] | None, typer.Argument(metavar="KEY...", help="Of writes.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All that was put aside.")]


@behind.callback()
def group() -> None:
    """The queue of a write-behind: writes that are acknowledged, and not yet in the database."""


@contextmanager
def opened(url: str) -> Iterator[Queue]:
    """Open a queue for a command; how durable it is, its own processes say."""
    with closing(open_queue(url, durable="process")) as queue:
        yield queue


@behind.command()
def status(url: QueueUrl, json: Json = False) -> None:
    """Tell how many keys have a write that waits, and how many writes were put aside.

    Exits with 1 if any was put aside.
    """
    with opened(url) as queue:
        found = queue.status()
    if json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        typer.echo(f"{found.queued:,} wait, {found.dead:,} were put aside.")
    if found.dead:
        raise typer.Exit(1)


@behind.command("list")
def list_dead(url: QueueUrl, json: Json = False) -> None:
    """List the writes that were put aside, and what the sink said of them."""
    with opened(url) as queue:
        aside = queue.dead()
    if json:
        typer.echo(msgspec.json.encode([_as_json(one) for one in aside]).decode())
        return
    console = Console(highlight=False)
    for one in aside:
        ago = span(max(0.0, time.time() - one.at))
        told = f"[bold]{escape(one.key)}[/]  version {one.version}  [dim]{ago} ago[/]  {escape(one.error)}"
        console.print(told, soft_wrap=True)
    if not aside:
        console.print("[dim]Nothing was put aside.[/]")


@behind.command()
def replay(url: QueueUrl, keys: Keys = None, all_: All = False) -> None:
    """Queue again what was put aside, after what refused it was put right; its version and id stay the same."""
    with opened(url) as queue:
        count = queue.replay(_chosen(queue, keys, all_=all_))
    typer.echo(f"{count:,} of them wait again.")


@behind.command()
def discard(url: QueueUrl, keys: Keys = None, all_: All = False) -> None:
    """Forget writes that were put aside. They were acknowledged: nobody else knows of them."""
    with opened(url) as queue:
        count = queue.discard(_chosen(queue, keys, all_=all_))
    typer.echo(f"{count:,} of them are gone.")


def _chosen(queue: Queue, keys: list[str] | None, *, all_: bool) -> list[str]:
    if bool(keys) == all_:
        msg = "which writes are meant is not said" if not keys else "--all and single keys say two different things"
        raise UsageError(msg, hint="name their keys, as `unstale behind list` shows them, or write --all")
    there = [one.key for one in queue.dead()]
    unknown = sorted({*(keys or ())} - {*there})
    if unknown:
        raise UsageError(f"nothing was put aside under {', '.join(unknown)}", hint="see `unstale behind list`")
    return list(keys or there)


def _as_json(one: Dead) -> dict[str, object]:
    return {
        "key": one.key, "version": one.version, "tries": one.tries, "error": one.error, "at": one.at,
        "data": one.data.hex(),
    }  # fmt: skip
