"""Write docs/internals/hazards.md: hazard, defence, the test that shows it, the mutant that fails without it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = 4
PAGE = ROOT / "docs" / "internals" / "hazards.md"

HAZARDS = {
    1: "A record is published before its change is committed",
    2: "A crash between commit and publish loses the invalidation",
    3: "A slow fill stores what was read before the change",
    4: "A background refresh that began before the change ends after it",
    5: "A reader that comes after the change joins a load from before it",
    6: "A tag is learnt at the end of a load during which its record came",
    7: "Records arrive twice, late, or in another order",
    8: "A node is cut off from the log and goes on serving from memory",
    9: "The log is trimmed past a slow node's position",
    10: "Failover, restart or failback loses records or uses positions again",
    11: "A deposed leader still answers, and its readers look caught up",
    12: "Log and store are wiped together",
    13: "A new node cannot judge entries that are older than itself",
    14: "Marks are evicted, or the store of a two-engine cache is wiped",
    15: "A value and its stamp are torn apart",
    16: "Two write-throughs cross, and the older value is cached",
    17: "The load reads a lagging replica or an old snapshot",
    18: "Change capture runs ahead of visibility",
    19: "The relay is dead while the log looks healthy",
    20: "The database is restored: the cache is newer than the truth",
    21: "Sequences commit out of order",
    22: "Clocks step, differ, or stand still while the machine sleeps",
    23: "The process forks after the tail has started",
    24: "The leader of a flight is cancelled, dies, or waits for itself",
    25: "A herd of readers misses one key, or a whole namespace, at once",
    26: "All leases lapse together and the fleet falls on the origin",
    27: "Memory grows without bound",
    28: "An old node meets a new record or entry format",
    29: "Forged or damaged input; keys that imitate others",
    30: "One value is shared by many callers and mutated by one",
    31: "A write goes round the hooks",
    32: "A CDN is refilled from a node that had not applied yet",
    33: "A load or a reply outlives a discontinuity, or a record, on its way",
    34: "A soft record after a hard one makes a dead value servable again",
    35: "An old fill outlives the mark that would end it",
    36: "The member list is lost: a receipt comes too early",
    37: "A ticket survives a wipe, or a lagging replica answers it",
}
LATER = {
    32: "needs HTTP and CDN support: not part of this version",
}


def tests() -> dict[int, list[str]]:
    """Give the tests that carry a hazard's number in their name, by hazard."""
    found: dict[int, list[str]] = {}
    folders = (ROOT / "tests", ROOT / "src" / "unstale" / "testing" / "conformance")
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for number in re.findall(r"(?<=_)h(\d\d)(?=_)", node.name):
                    found.setdefault(int(number), []).append(f"`{path.stem}::{node.name}`")
    return found


def mutants() -> tuple[dict[int, list[tuple[str, str]]], list[tuple[str, str]]]:
    """Give the mutants by hazard, and those of the protocol's other sentences."""
    sys.path.insert(0, str(ROOT))
    from tests.sim.mutants import MUTANTS

    by_hazard: dict[int, list[tuple[str, str]]] = {}
    others = []
    for mutant in MUTANTS:
        numbers = [int(hazard[1:]) for hazard in mutant.hazards]
        for number in numbers:
            by_hazard.setdefault(number, []).append((mutant.name, mutant.defence))
        if not numbers:
            others.append((mutant.name, mutant.defence))
    return by_hazard, others


def page() -> str:
    """Give the page."""
    shown, (by_hazard, others) = tests(), mutants()
    lines = [
        "# Hazards, tests, mutants",
        "",
        "Written by `docs/generate_hazards.py`; a test fails when it is out of date.",
        "",
        "Each row is a way in which caches come to serve stale data, lose invalidations or fall over. A test that",
        "carries the row's number shows that it cannot happen here. A mutant takes one defence out of the code; the",
        "simulator has to fail without it, within 2,000 seeds or in a schedule directed at it",
        "(`tests/sim/test_mutants.py`).",
        "",
        "| # | hazard | mutants: the defence that is taken out | tests that carry its number |",
        "|---|---|---|---|",
    ]
    for number, title in HAZARDS.items():
        cut = "<br>".join(f"`{name}`: {defence}" for name, defence in by_hazard.get(number, ()))
        names = shown.get(number, [])
        more = f"<br>and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        seen = "<br>".join(names[:SHOWN]) + more or LATER.get(number, "-")
        lines.append(f"| H{number} | {title} | {cut or '-'} | {seen} |")
    lines += ["", "## Other sentences of the protocol", "", "| mutant | defence that is taken out |", "|---|---|"]
    lines += [f"| `{name}` | {defence} |" for name, defence in others]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or say that it is out of date (`--check`)."""
    text = page()
    if "--check" in sys.argv:
        return int(not PAGE.exists() or PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
