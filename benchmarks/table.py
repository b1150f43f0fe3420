"""Renders figures: as plain text for a terminal, and as the table between two marks of the documentation.

Usage: python -m benchmarks.table [--json FILE] [--page FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks.figures import APART, RESULTS, Figure, Run, results_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
SCALE_PAGE = DOCS / "guides" / "scale.md"
BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"
SCALE_MARKS = ("<!-- fan-out:begin -->", "<!-- fan-out:end -->")
FAN_OUT = "redis fan-out"
HEADER = ("figure", "target", "measured", "spread", "verdict")
GROUPS = {
    "hits": "Hits, next to peers",
    "misses": "Misses and records, on `memory://`",
    "sqlite": "SQLite, many processes",
    "memory": "Memory",
    "hit ratio": "Hit ratio of L1 on real traces",
    "redis hits": "Hits in Redis, with nothing in memory",
    "redis log": "Publishing to Redis, and following",
    "redis fleet": "Many processes on one Redis",
    "decoding": "Change capture from the database's own log",
    FAN_OUT: "What one Redis carries",
    "outbox": "The outbox on PostgreSQL, its log on Redis",
    "tracking": "Sessions of SQLAlchemy, tracked by untracked",
    "shop": "The example application under load",
    "capture": "Change capture on PostgreSQL, its log on Redis",
    "django": "Django's cache, on one Redis with Django's own backend",
    "behind": "Acknowledged writes of a write-behind",
}


def number(value: float) -> str:
    """Write a number with as many digits as can be trusted."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def quantity(value: float, unit: str) -> str:
    """Write a number with its unit."""
    return f"{number(value)} {unit}" if unit else number(value)


def cells(figure: Figure) -> tuple[str, ...]:
    """Write one figure as the cells of a row."""
    target = "" if figure.target is None else f"{figure.sense} {quantity(figure.target, figure.unit)}"
    spread = "" if figure.low == figure.high else f"{number(figure.low)} to {number(figure.high)}"
    measured = quantity(figure.measured, figure.unit)
    return figure.name, target, "" if figure.verdict == "failed" else measured, spread, figure.verdict


def plain(figures: Iterable[Figure]) -> str:
    """Give the table for a terminal, notes under their figures."""
    rows = [(cells(figure), figure.note) for figure in figures]
    widths = [max([len(HEADER[i]), *(len(row[i]) for row, _note in rows)]) for i in range(len(HEADER))]
    lines = [_line(HEADER, widths), _line(["-" * width for width in widths], widths)]
    for row, note in rows:
        lines.append(_line(row, widths))
        if note:
            lines.append(f"    {note}")
    return "\n".join(lines)


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
    return " | ".join([first, *others]).rstrip()


def markdown(run: Run) -> str:
    """Give the tables for the documentation, one a group, and what they were measured with."""
    made = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    when = f" on {run.date}" if run.date else ""
    kind = "A quick run" if run.quick else "A full run"
    lines = [f"{kind}{when}: Python {run.python}, {run.system}, {run.cpus} processors; {made}.", ""]
    for group in dict.fromkeys(figure.group for figure in run.figures):
        lines += [f"### {GROUPS.get(group, group)}", "", _row([*HEADER, "notes"]), _row(["---"] * 6)]
        for figure in run.figures:
            if figure.group == group:
                name, target, measured, spread, verdict = cells(figure)
                lines.append(_row([name, target, measured, spread, f"**{verdict}**" if verdict else "", figure.note]))
        lines.append("")
    return "\n".join(lines)


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def between(page: str, begin: str, end: str, text: str) -> str:
    """Give a page with what stands between two marks replaced.

    Raises:
        ValueError: The marks do not stand there once each, in their order.
    """
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        msg = f"the page needs one {begin} and, after it, one {end}"
        raise ValueError(msg)
    before, _begin, rest = page.partition(begin)
    _old, _end, after = rest.partition(end)
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def marks_of(run: Run) -> tuple[str, str]:
    """Give the two marks between which the figures of a run stand."""
    parts = {figure.group.partition(" ")[0] for figure in run.figures}
    name = next(iter(parts)) if len(parts) == 1 else ""
    return (f"<!-- {name}:begin -->", f"<!-- {name}:end -->") if name in APART else (BEGIN, END)


def main(argv: list[str]) -> int:
    """Put the figures of a run, or of all that were written down, into the documentation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=main.__doc__)
    parser.add_argument("--json", type=Path, help="default: all of results/")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(argv)
    known = (RESULTS, *map(results_of, APART))
    files = [file for file in known if file.exists()] if given.json is None else [given.json]
    for file in files:
        run = msgspec.json.decode(file.read_bytes(), type=Run)
        page = given.page.read_text(encoding="utf-8")
        given.page.write_text(between(page, *marks_of(run), markdown(run)), encoding="utf-8")
        fan_out = [figure for figure in run.figures if figure.group == FAN_OUT]
        if fan_out and given.page == PAGE:  # the guide stands upon them
            guide, part = SCALE_PAGE.read_text(encoding="utf-8"), msgspec.structs.replace(run, figures=fan_out)
            SCALE_PAGE.write_text(between(guide, *SCALE_MARKS, markdown(part)), encoding="utf-8")
        print(f"{file.name}: {len(run.figures)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
