"""Runs the benchmarks, each in a process of its own, prints their figures, and writes them as JSON.

Usage: python -m benchmarks.run [--quick] [--only NAME...] [--json FILE] [--traces DIR] [--date YYYY-MM-DD]
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import platform
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from benchmarks.figures import APART, FORMAT, RESULTS, Figure, Options, Run, failed, results_of
from benchmarks.table import plain

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "hits": "benchmarks.hits",
    "misses": "benchmarks.misses",
    "sqlite": "benchmarks.sqlite_bench",
    "memory": "benchmarks.memory_use",
    "ratio": "benchmarks.hit_ratio",
    "redis": "benchmarks.redis_bench",
    "outbox": "benchmarks.outbox",
    "tracking": "benchmarks.tracking",
    "capture": "benchmarks.capture",
    "decoding": "benchmarks.decoding",
    "django": "benchmarks.django_bench",
    "behind": "benchmarks.behind",
    "shop": "benchmarks.shop",
}
PEERS = (
    "aiocache",
    "cachebox",
    "cachetools",
    "cashews",
    "django",
    "diskcache",
    "dogpile.cache",
    "hiredis",
    "redis",
    "theine",
)
OF_THE_SHOP = ("fastapi", "uvicorn", "sqlalchemy", "psycopg", "aiosqlite")
TIMEOUT_S = 900.0


def measured(name: str, options: Options) -> list[Figure]:
    """Run one benchmark in a fresh process: none finds what another has left in memory, and none ends the run."""
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure, args=(BENCHMARKS[name], options, sending))
    process.start()
    sending.close()
    try:
        if not receiving.poll(TIMEOUT_S):
            process.kill()
            return [failed(name, f"not done after {TIMEOUT_S:g} s")]
        answer: list[Figure] | str = receiving.recv()
    except EOFError:
        answer = "its process died"
    process.join()
    return [failed(name, answer)] if isinstance(answer, str) else answer


def _measure(module: str, options: Options, answer: Connection) -> None:
    try:
        answer.send(importlib.import_module(module).measure(options))
    except Exception as error:  # noqa: BLE001 - one that fails is a line of the table
        traceback.print_exc()
        answer.send(f"{type(error).__name__}: {error}")


def versions(only: list[str]) -> dict[str, str]:
    """Give the versions of this package, its dependency, and what it runs beside, as far as they are installed."""
    found = {}
    for name in ("unstale", "msgspec", *(OF_THE_SHOP if only == ["shop"] else PEERS)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure, next to other caches.")
    parser.add_argument("--quick", action="store_true", help="in less than a minute, and less precisely")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: of a full run, one of results/")
    parser.add_argument("--traces", type=Path, metavar="DIR", default=ROOT.parent / "shared" / "traces")
    parser.add_argument("--date", default="", help="the day of the run, to be written down")
    return parser.parse_args(argv)


def written_to(only: list[str]) -> Path | None:
    """Give the file of a full run: all that stand together, or one that stands apart."""
    if not only:
        return RESULTS
    return results_of(only[0]) if len(only) == 1 and only[0] in APART else None


def main(argv: list[str]) -> int:
    """Run what was asked for. A target that is missed is a verdict, not an error."""
    given = arguments(argv)
    options = Options(quick=given.quick, traces=given.traces)
    began = time.perf_counter()
    figures = []
    for name in given.only or [name for name in BENCHMARKS if name not in APART]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures += measured(name, options)
    run = Run(
        format=FORMAT,
        date=given.date,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpus=os.cpu_count() or 1,
        quick=given.quick,
        versions=versions(given.only or []),
        figures=figures,
    )
    print(plain(figures))
    print(f"{time.perf_counter() - began:.0f} s")
    file = given.json or (None if given.quick else written_to(given.only or []))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
        print(f"Written: {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
