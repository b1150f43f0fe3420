"""Shows that clients read their own writes through other workers, while the replica lags: with the ticket, and without.

make own-writes                     10,000 times each way, on a private Redis, primary and replica of its own
make own-writes TIMES=500           or so often
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from rich.console import Console

from tests.own_writes.run import DELAY_S, own_writes, show
from tests.support.redis_servers import RedisServer, missing

WIDTH = 150  # of the table, where it goes into a file


def main() -> int:
    """Run it: 0 where no read with the ticket was older than its client's write."""
    parser = argparse.ArgumentParser(prog="python -m tests.own_writes", description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=10_000, help="how often each way is gone")
    parser.add_argument("--url", default="", help="an engine that serves nothing else; default: a private Redis")
    parser.add_argument("--seed", type=int, default=1, help="of the client's choices")
    asked = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if asked.times < 1:
        parser.error("--times must be at least 1")
    if refusal := "" if asked.url else missing():
        sys.stderr.write(f"{refusal}\n")
        return 2
    with contextlib.ExitStack() as stack:
        url = asked.url or stack.enter_context(RedisServer()).url
        told = own_writes(asked.times, url=url, seed=asked.seed, say=console.print)
    show(told, console, DELAY_S)
    older = sum(one.older for one in told if one.way.token)
    if older:
        console.print(f"{older:,} reads with the ticket were older than their client's write.", style="bold red")
    else:
        console.print("With the ticket every client has read its own write.", style="green")
    return int(bool(older))


if __name__ == "__main__":
    sys.exit(main())
