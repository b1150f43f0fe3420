"""The commands for programs in other languages: the scripts by which they publish."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unstale.errors import UsageError

wire = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What programs in other languages need to invalidate by themselves.",
)


class ScriptName(StrEnum):
    """The scripts that publish."""

    invalidate = "invalidate"
    append = "append"


@wire.callback()
def group() -> None:
    """Print what programs in other languages need to invalidate by themselves."""


@wire.command()
def script(
    name: Annotated[ScriptName, typer.Argument(help="The script.", show_default=False)],
    sha: Annotated[
        bool, typer.Option("--sha", help="Print its SHA-1 only, the name that EVALSHA knows it by.")
    ] = False,
) -> None:
    """Print a publishing script for Redis, byte for byte as `SCRIPT LOAD` wants it.

    A node runs the same scripts. Load what this prints with each deploy, or send it by EVAL on NOSCRIPT.
    """
    try:
        from unstale.engines import redis_append_scripts
    except ImportError as error:
        msg = f"the scripts of Redis need {error.name}"
        raise UsageError(msg, hint='install it by: pip install "unstale[redis]"') from error
    found = {ScriptName.invalidate: redis_append_scripts.INVALIDATE, ScriptName.append: redis_append_scripts.APPEND}[
        name
    ]
    if sha:
        typer.echo(found.sha)
    else:
        typer.echo(found.text, nl=False)
