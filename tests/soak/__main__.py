"""Runs a soak: is the memory of nodes and server flat, however long, and is nothing served beyond the bound?

make soak                                      an hour, on a private Redis of its own
make soak SECONDS=60                           or so long
make soak URL=sqlite:////tmp/soak.cache        or on an engine that serves nothing else
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from rich.console import Console

from tests.soak.run import enough, show, soak
from tests.support.redis_servers import RedisServer, missing

WIDTH = 120  # of the table, where it goes into a file


def main() -> int:
    """Run it: 0 where all is flat, 1 where anything has grown, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long")
    parser.add_argument("--url", default="", help="an engine that serves nothing else; default: a private Redis")
    asked = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if refusal := enough(asked.seconds) or ("" if asked.url else missing()):
        sys.stderr.write(f"{refusal}\n")
        return 2
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(RedisServer()).url
        told, whole = soak(url, asked.seconds, console.print)
    show(told, console)
    for finding in told.findings:
        console.print(finding, style="bold red")
    if not whole:
        console.print("Interrupted: nothing is judged.")
        return 130
    if not told.findings:
        console.print("Flat: nothing grew, and nothing was served beyond the bound.", style="green")
    return int(bool(told.findings))


if __name__ == "__main__":
    sys.exit(main())
