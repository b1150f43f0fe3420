"""The command `unstale`: its commands, and how errors are shown."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from unstale._version import __version__
from unstale.cli import (
    behind_cmds,
    capture_cmds,
    demo,
    doctor,
    inspect_cmds,
    log_cmds,
    nodes_cmd,
    outbox_cmds,
    relay_cmd,
    replay,
    slot_cmds,
    wire_cmds,
)
from unstale.errors import UnstaleError, UsageError

WRONG_USE, FAILED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141


class Commands(TyperGroup):
    """All commands: an error of unstale is shown as what went wrong and what to do, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except UnstaleError as error:
            show_error(error)
            raise typer.Exit(WRONG_USE if isinstance(error, UsageError) else FAILED) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("Stopped.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has enough; Python would complain once more when it flushes at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from None


def show_error(error: UnstaleError) -> None:
    """Print what went wrong and what to do."""
    console = Console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        console.print(Text.assemble(("hint:  ", "bold"), error.hint), soft_wrap=True)


def show_version(*, asked: bool) -> None:
    """Print the version, and leave."""
    if asked:
        typer.echo(f"unstale {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="unstale",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def unstale(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            is_eager=True,
            callback=lambda value: show_version(asked=value),
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Caches that cannot serve what was invalidated longer ago than a bound that they prove."""


SEE = "See it work"
app.command(rich_help_panel=SEE)(demo.demo)
app.command(rich_help_panel=SEE)(replay.replay)

LOOK = "Look at a cache, and act on it"
app.command(rich_help_panel=LOOK)(inspect_cmds.get)
app.command(rich_help_panel=LOOK)(inspect_cmds.explain)
app.command(rich_help_panel=LOOK)(log_cmds.tail)
app.command(rich_help_panel=LOOK)(nodes_cmd.nodes)
app.command(rich_help_panel=LOOK)(doctor.doctor)
app.command(rich_help_panel=LOOK)(log_cmds.invalidate)

SOURCE = "Relay what a database tells"
app.command(rich_help_panel=SOURCE)(relay_cmd.relay)
app.add_typer(outbox_cmds.outbox, name="outbox", rich_help_panel=SOURCE)
capture_cmds.capture.add_typer(slot_cmds.slot, name="slot")
app.add_typer(capture_cmds.capture, name="capture", rich_help_panel=SOURCE)

app.add_typer(behind_cmds.behind, name="behind", rich_help_panel="Write behind")

app.add_typer(wire_cmds.wire, name="wire", rich_help_panel="For other languages")
