"""Runs all tests in three processes at once: most of them wait for a server, a process or a clock.

python -m tests.halves [what pytest takes ...]

The first half is shown while it runs, the rest when all are over. Each half writes coverage data of its own. The
mutants of the simulator never wait, so they have the lowest priority: they take what the others leave.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import IO

HALVES = (("tests/unit", "tests/conformance", "tests/e2e"), ("tests/integration",))
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")
COVERED = (sys.executable, "-m", "coverage", "run", *PYTEST, "-m", "not sim")
PATIENT = ("-o", "faulthandler_timeout=1200")  # who is seldom let run does not hang
MUTANTS = ("nice", "-n", "19", sys.executable, *PYTEST, *PATIENT, "-m", "sim", "-n", "auto", "--no-header", "-q")


def main(options: list[str]) -> int:
    """Run all: 0 when all tests have passed."""
    began = time.monotonic()
    first, second = ((*COVERED, *options, *half) for half in HALVES)
    with tempfile.TemporaryFile() as half, tempfile.TemporaryFile() as mutants:
        beside = [
            subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            for command, output in ((second, half), (MUTANTS, mutants))
        ]
        try:
            failed = subprocess.call(first)
            failed = max(failed, *(abs(one.wait()) for one in beside))
        except KeyboardInterrupt:  # it has reached all of them
            for one in beside:
                one.wait()
            failed = 130
        _show(half)
        print("Each defence taken out in turn, which the simulator must notice:", flush=True)  # noqa: T201 - to be read
        _show(mutants)
    print(f"All of these took {time.monotonic() - began:.0f} s.", flush=True)  # noqa: T201 - for whoever waits for it
    return failed


def _show(output: IO[bytes]) -> None:
    output.seek(0)
    sys.stdout.buffer.write(output.read())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
