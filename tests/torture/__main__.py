"""Tortures the sources of truth: whatever befalls database, relays and writers, is anything served beyond the bound?

make torture                                   a minute, on a private Redis
make torture SECONDS=10                        or so long
make torture URL=postgresql                    or on the PostgreSQL that is the truth, with exact stamps
make torture ARGS="--without outbox"           or without one of the defences, which has to show stale reads
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from rich.console import Console

from tests.support.redis_servers import RedisServer, missing
from tests.torture.defences import DEFENCES
from tests.torture.run import show, torture

WIDTH = 140  # of the table, where it goes into a file
POSTGRES = "postgresql"


def main() -> int:
    """Run it: 0 where nothing was beyond the bound, 1 where anything was, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--url", default="", help="an engine that serves nothing else, or `postgresql` for the truth")
    told = "; ".join(f"{name}: {one.without} ({one.hazard})" for name, one in DEFENCES.items())
    parser.add_argument("--without", default="", choices=["", *DEFENCES], metavar="DEFENCE", help=told)
    asked = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if refusal := "" if asked.url else missing():
        sys.stderr.write(f"{refusal}\n")
        return 2
    try:
        with contextlib.ExitStack() as stack:
            url = asked.url or stack.enter_context(RedisServer()).url
            how = torture("" if url == POSTGRES else url, asked.seconds, console.print, asked.without)
    except KeyboardInterrupt:
        console.print("Interrupted: nothing is judged.")
        return 130
    show(how, console, asked.without)
    if how.beyond:
        console.print(f"{how.beyond:,} reads were staler than the bound.", style="bold red")
        return 1
    console.print("Nothing was served beyond the bound.", style="green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
