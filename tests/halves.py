"""Runs all tests but the simulator's in two processes at once: most of them wait for a server, a process or a clock.

python -m tests.halves [what pytest takes ...]

The first half is shown while it runs, the second when both are over. Each writes coverage data of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

HALVES = (("tests/unit", "tests/conformance", "tests/e2e"), ("tests/integration",))
COMMAND = (sys.executable, "-m", "coverage", "run", "-m", "pytest", "-m", "not sim", "-p", "no:cacheprovider")


def main(options: list[str]) -> int:
    """Run both: 0 when all tests of both have passed."""
    began = time.monotonic()
    first, second = ((*COMMAND, *options, *half) for half in HALVES)
    with tempfile.TemporaryFile() as shown_later:
        beside = subprocess.Popen(second, stdout=shown_later, stderr=subprocess.STDOUT)
        try:
            failed = subprocess.call(first)
            failed = beside.wait() or failed
        except KeyboardInterrupt:  # it has reached both of them
            beside.wait()
            failed = 130
        shown_later.seek(0)
        sys.stdout.buffer.write(shown_later.read())
    print(f"Both halves took {time.monotonic() - began:.0f} s.", flush=True)  # noqa: T201 - for whoever waits for it
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
