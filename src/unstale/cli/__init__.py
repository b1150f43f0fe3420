"""The command line, `unstale`: needs `pip install "unstale[cli]"`."""

from __future__ import annotations

import importlib.util
import sys

NEEDED = ("typer", "rich")
WRONG_USE = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        message = f'unstale: the command line needs {" and ".join(missing)}. Install it by: pip install "unstale[cli]"'
        print(message, file=sys.stderr)  # noqa: T201 - there is no console yet
        sys.exit(WRONG_USE)
    try:
        from unstale.cli.app import app
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app(prog_name="unstale")
