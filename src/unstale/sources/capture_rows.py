"""What row triggers tell, in databases that have no others: a text of JSON, put together of constants and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import md5
from typing import Final

import msgspec

from unstale.sources.capture_change import FORMAT
from unstale.sources.capture_plan import GONE, Captured, Finding

OPERATIONS: Final = {"insert": ("NEW",), "update": ("OLD", "NEW"), "delete": ("OLD",)}
PREFIX: Final = "unstale_capture_"


def trigger_of(table: Captured, outbox: str, what: str) -> str:
    """Give the name of a trigger: those of all tables lie in one place."""
    return f"{PREFIX}{digest(f'{outbox}|{table.name}')[:12]}_{what}"


def digest(text: str) -> str:
    """Give a short name of a text."""
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def digests(made: dict[str, str]) -> dict[str, str]:
    """Give the digests of triggers, by name."""
    return {name: digest(text) for name, text in made.items()}


def told(
    table: Captured, operation: str, rows: Sequence[str], array: Callable[[Captured, str, str], str]
) -> tuple[str | None, ...]:
    """Give the parts of what is told, constants and expressions in turn; None where who and when are to be put in.

    Args:
        table: How the table is captured.
        operation: What was done.
        rows: How the rows are called.
        array: Writes an expression that gives the values of a template's columns in a row, as JSON.
    """
    constant = {
        "unstale": FORMAT, "table": table.name, "op": operation.upper(), "ends": table.ends, "unknown": table.unknown,
        "kinds": table.kinds,
    }  # fmt: skip
    parts: list[str | None] = [msgspec.json.encode(constant).decode()[:-1], None, ',"ended":{']
    for number, template in enumerate(table.scopes):
        lead = f"{',' if number else ''}{msgspec.json.encode(template).decode()}:["
        for place, row in enumerate(rows):
            parts[-1] = f"{parts[-1]}{lead if not place else ','}"
            parts += [array(table, template, row), "]" if place == len(rows) - 1 else ""]
    parts[-1] = f"{parts[-1]}}}}}"
    return tuple(parts)


def wrong(table: Captured, *, there: bool, found: dict[str, str], body: str, wanted: dict[str, str]) -> list[Finding]:
    """Say what is wrong with a table.

    Args:
        table: How it is captured.
        there: The table is there.
        found: The texts of the triggers that are there, by name.
        body: The digests of those that were installed, as JSON.
        wanted: Those that this version would install.
    """
    again = f"unstale capture install DATABASE --tables {table.name}"
    if not there:
        return [Finding(table.name, GONE, f"unstale capture remove DATABASE --tables {table.name}")]
    findings = []
    installed = msgspec.json.decode(body, type=dict[str, str])
    for name, text in installed.items():
        if name not in found:
            findings.append(Finding(table.name, f"the trigger {name} is missing", again))
        elif digest(found[name]) != text:
            findings.append(Finding(table.name, f"the trigger {name} is not the one that was installed", again))
    if not findings and installed != digests(wanted):
        findings.append(Finding(table.name, "its triggers are of another version", again, unseen=False))
    return findings
