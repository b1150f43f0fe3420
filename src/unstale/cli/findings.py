"""What `doctor` reports: a finding, with what it weakens and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "note", "problem"]
UNITS: Final = ("bytes", "KiB", "MiB", "GiB")
STEP: Final = 1024


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `note` (worth knowing), or `problem`.
        subject: What was looked at.
        text: What was found.
        weakens: What suffers from it.
        mend: The command, or the deed, that mends it.
    """

    level: Level
    subject: str
    text: str
    weakens: str = ""
    mend: str = ""


def ok(subject: str, text: str) -> Finding:
    """Give a finding that is as it should be."""
    return Finding("ok", subject, text)


def size(count: float) -> str:
    """Write a number of bytes."""
    for unit in UNITS:
        if count < STEP:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= STEP
    return f"{count:,.1f} TiB"
