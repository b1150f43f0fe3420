"""The simulator's command: `python -m unstale.testing.sim --seeds 1000`."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from unstale.testing.mixes import MIXES
from unstale.testing.simulator import Outcome, Simulator

CHUNK = 10
BATCH = 400
TRACE_LINES = 120


def run_seed(job: tuple[int, str]) -> Outcome:
    """Run one seed of one mix."""
    seed, mix = job
    return Simulator(seed, mix).run()


def jobs(first: int, count: int | None, mixes: list[str]) -> Iterator[tuple[int, str]]:
    """Give seeds, each with the mixes in turn: seed s runs mix s modulo their number."""
    seed = first
    while count is None or seed < first + count:
        yield seed, mixes[seed % len(mixes)]
        seed += 1


def replay(seed: int, mix: str) -> int:
    """Run one seed again, and print its trace if it fails."""
    outcome = Simulator(seed, mix, trace=True).run()
    if outcome.failure is None:
        print(f"seed {seed} of mix {mix!r}: {outcome.reads} reads judged, nothing wrong")
        return 0
    for line in (outcome.trace or [])[-TRACE_LINES:]:
        print(line)
    print(f"\nseed {seed} of mix {mix!r} failed: {outcome.failure}")
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run many seeds in all cores; the first failure ends it with its command and its trace."""
    parser = argparse.ArgumentParser(prog="python -m unstale.testing.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--seconds", type=float, help="run for so many seconds instead")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one seed, with a trace if it fails")
    parser.add_argument("--mix", choices=sorted(MIXES), help="one mix of faults instead of all in turn")
    options = parser.parse_args(argv)
    mixes = [options.mix] if options.mix else list(MIXES)
    if options.seed is not None:
        return replay(options.seed, mixes[options.seed % len(mixes)])
    began = time.monotonic()
    totals: dict[str, int] = dict.fromkeys(("seeds", "reads", "cached", "commits"), 0)
    failed: Outcome | None = None
    seeds = jobs(options.first, None if options.seconds else options.seeds, mixes)
    with multiprocessing.Pool(os.cpu_count()) as pool:
        while failed is None and (batch := list(itertools.islice(seeds, BATCH))):
            for outcome in pool.imap_unordered(run_seed, batch, chunksize=CHUNK):
                _add(totals, outcome)
                if outcome.failure is not None and (failed is None or outcome.seed < failed.seed):
                    failed = outcome
            if options.seconds and time.monotonic() - began > options.seconds:
                break
    took_s = time.monotonic() - began
    rate = totals["seeds"] / took_s
    print(
        f"simulator: {totals['seeds']} seeds over {len(mixes)} mixes in {took_s:.0f} s ({rate:.0f}/s): "
        f"{totals['commits']} commits, {totals['reads']} reads judged, {totals['cached']} of them served from a cache"
    )
    if failed is None:
        print("no stale read, no lost ticket, no reader left waiting, all nodes converged")
        return 0
    replay(failed.seed, failed.mix)
    print(f"replay it: make sim SEED={failed.seed} MIX='{failed.mix}'")
    return 1


def _add(totals: dict[str, int], outcome: Any) -> None:
    totals["seeds"] += 1
    for name in ("reads", "cached", "commits"):
        totals[name] += getattr(outcome, name)


if __name__ == "__main__":
    sys.exit(main())
