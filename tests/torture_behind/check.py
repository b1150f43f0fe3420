"""The checker: what the sink holds and in which order it came there, against what was tried and acknowledged."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

SHOWN_MAX = 5


@dataclass
class Verdict:
    """What was found; examples are for people."""

    acknowledged: int
    tried: int
    applied: int
    lost: list[str]
    twice: list[str]
    disordered: list[str]
    invented: list[str]

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost or self.twice or self.disordered or self.invented)


def check(folder: Path) -> Verdict:
    """Judge a run whose queue was drained.

    Lost: an acknowledged write, where the sink ends with an older one of its key. A later write may have taken its
    place: of a key that one thread writes, by the thread's own count, and of any key, by the version that the put was
    given. Twice: one id, or one value (each is written once), was taken more than once. Out of order: a key was given
    an older version, or an older count of its one writer, after a newer one. Invented: nobody has tried to write that.
    """
    tried: set[tuple[str, str]] = set()
    acknowledged: list[tuple[str, str, int]] = []
    for file in folder.glob("told-*"):
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:  # a killed process may leave half a line
            kind, *row = json.loads(line)
            if kind == "tried":
                tried.add((row[0], row[1]))
            else:
                acknowledged.append((row[0], row[1], row[2]))
    with closing(sqlite3.connect(folder / "truth.db")) as db:
        ends = {key: (value, version) for key, value, version in db.execute("SELECT key, value, version FROM item")}
        applied = db.execute("SELECT key, value, version, id FROM applied ORDER BY seq").fetchall()
    lost = [f"{key} = {value} as {version}" for key, value, version in acknowledged if lacks(ends, key, value, version)]
    ids, values = Counter(row[3] for row in applied), Counter(row[1] for row in applied)
    twice = [one for counts in (ids, values) for one, count in counts.items() if count > 1]
    return Verdict(
        len(acknowledged), len(tried), len(applied), lost, twice, disordered(applied),
        [f"{key} = {value}" for key, value, *_ in applied if (key, value) not in tried],
    )  # fmt: skip


def count_of(value: str) -> int:
    """Give the count of its writer that a value carries."""
    return int(value.rpartition("/")[2])


def lacks(ends: dict[str, tuple[str, int]], key: str, value: str, version: int) -> bool:
    """Say whether an acknowledged write is neither there nor replaced by a later one."""
    end = ends.get(key)
    if end is None or end[1] < version:
        return True
    return key.startswith("own:") and count_of(end[0]) < count_of(value)


def disordered(applied: list[tuple[str, str, int, str]]) -> list[str]:
    """Give what was applied after something newer of its key."""
    newest: dict[str, int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    found = []
    for key, value, version, _id in applied:
        own = key.startswith("own:")
        if version < newest[key] or (own and count_of(value) < counts[key]):
            found.append(f"{key} = {value} as {version} after {newest[key]}")
        newest[key] = max(newest[key], version)
        if own:
            counts[key] = max(counts[key], count_of(value))
    return found


def show(verdict: Verdict) -> str:
    """Say it in lines."""
    counts = f"tried {verdict.tried:,}, acknowledged {verdict.acknowledged:,}, handed to the sink and taken "
    lines = [f"{counts}{verdict.applied:,} (the others were merged into later ones)"]
    for name, found in (
        ("lost", verdict.lost), ("applied twice", verdict.twice), ("out of order", verdict.disordered),
        ("invented", verdict.invented),
    ):  # fmt: skip
        lines.append(f"{name:>14} {len(found):,}" + "".join(f"\n{'':17}{one}" for one in found[:SHOWN_MAX]))
    return "\n".join(lines)
