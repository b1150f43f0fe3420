"""Kills producers, flushers and Redis: is any acknowledged write of a write-behind lost, doubled or out of order?

make torture-behind                              200 kills: half with the queue in a file, half in a Redis
make torture-behind KILLS=20                     or so many
make torture-behind ARGS="--without durability"  or without one of the defences, which has to show
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.support.redis_servers import missing
from tests.torture_behind.check import show
from tests.torture_behind.mutants import MUTANTS
from tests.torture_behind.run import torture


def main() -> int:
    """Run it: 0 where all is well, 1 where anything was lost, applied twice, out of order or invented."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture_behind", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how often, in all")
    parser.add_argument("--queue", choices=["both", "sqlite", "redis"], default="both")
    told = "; ".join(f"{name}: {one.without}" for name, one in MUTANTS.items())
    parser.add_argument("--without", default="", choices=["", *MUTANTS], metavar="DEFENCE", help=told)
    parser.add_argument("--seed", type=int, default=None, help="of who is killed when")
    asked = parser.parse_args()
    queues = ["sqlite", "redis"] if asked.queue == "both" else [asked.queue]
    if "redis" in queues and (refusal := missing()):
        sys.stderr.write(f"{refusal}\n")
        return 2
    clean, lines = True, []
    for queue in queues:
        began = time.monotonic()
        kills = asked.kills // len(queues)
        verdict, killed = torture(kills, redis=queue == "redis", without=asked.without, seed=asked.seed)
        clean = clean and verdict.clean
        who = ", ".join(f"{name} {count}" for name, count in sorted(killed.items()))
        took = f"{time.monotonic() - began:.0f} s"
        lines.append(f"{queue}: {killed.total()} kills with SIGKILL ({who}), {took}\n{show(verdict)}\n")
    sys.stdout.write("\n" + "\n".join(lines) + ("\nNothing was lost, doubled or out of order.\n" if clean else ""))
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
