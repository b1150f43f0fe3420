"""The result of a demo or a replay as one HTML file: the table and two plots, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from unstale.cli.measures import BEYOND, Measures, rows, span
from unstale.cli.plot import plot

AGES: Final = (
    "The oldest value served in each interval, as the time since its replacement was committed. At the bottom line, "
    "nothing stale was served."
)
LOADS: Final = "Reads of the source of truth in a second, by all processes together."


def write_report(
    path: Path,
    measures: Sequence[Measures],
    *,
    title: str,
    bound: str,
    bound_s: float,
    summary: Sequence[str],
    setting: Sequence[tuple[str, str]],
) -> None:
    """Write the report.

    Args:
        path: Where.
        measures: The figures of all strategies.
        title: What was done.
        bound: The bound that unstale has to keep, as written.
        bound_s: The same in seconds; it is a line in the first plot.
        summary: What the table shows, in sentences.
        setting: How it was done: names and texts.

    Raises:
        OSError: It cannot be written.
    """
    ages = plot(
        [(one, one.ages) for one in measures],
        span,
        smallest=1e-4,
        bound=bound_s,
        bound_text=f"the bound of unstale, {span(bound_s)}",
    )
    loads = plot([(one, one.load_rates) for one in measures], lambda value: f"{value:,.0f}/s", smallest=1.0)
    parts = (
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>unstale: {escape(title)}</title><style>{STYLE}</style></head><body><main>",
        f'<p class="over">unstale, compared</p><h1>{escape(title)}</h1>',
        "".join(f"<p>{escape(sentence)}</p>" for sentence in summary),
        _table(measures, bound),
        f'<h2>Staleness over time</h2><p class="note">{AGES}</p>{ages}',
        f'<h2>Loads from the origin over time</h2><p class="note">{LOADS}</p>{loads}',
        "<h2>How it was done</h2><dl>",
        "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in setting),
        "</dl></main></body></html>\n",
    )
    path.write_text("\n".join(parts), encoding="utf-8")


def _table(measures: Sequence[Measures], bound: str) -> str:
    head = "".join(f'<th class="{one.strategy}">{escape(one.title)}</th>' for one in measures)
    lines = []
    for name, texts in rows(measures, bound):
        cells = []
        for text, one in zip(texts, measures, strict=True):
            bad = " bad" if one.broken and name.startswith(BEYOND) else ""
            cells.append(f'<td class="{one.strategy}{bad}">{escape(text)}</td>')
        lines.append(f"<tr><th>{escape(name.strip())}</th>{''.join(cells)}</tr>")
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2430; --quiet: #5b6675; --rule: #dfe4ea; --bad: #c62828;
  --none: #6b7684; --ttl: #b26a00; --delete: #a33aa8; --unstale: #00796b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e4e9ef; --quiet: #98a4b3; --rule: #2b333d; --bad: #ff7b72;
    --none: #9aa6b4; --ttl: #f0a83c; --delete: #d98ade; --unstale: #4fd1bd;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
}
main { max-width: 940px; margin: 0 auto; padding: 40px 24px 64px; }
.over { margin: 0 0 2px; color: var(--unstale); font-weight: 650; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 18px; }
h2 { font-size: 19px; margin: 40px 0 4px; }
p { margin: 6px 0; max-width: 72ch; }
.note, dd { color: var(--quiet); }
.wide { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; margin: 26px 0 8px;
  white-space: nowrap; font-variant-numeric: tabular-nums;
}
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); text-align: right; font-weight: 400; }
tbody th { text-align: left; color: var(--quiet); }
thead th, thead td { border-bottom-width: 2px; }
thead th, td.unstale { font-weight: 650; }
th.none { color: var(--none); } th.ttl { color: var(--ttl); }
th.delete { color: var(--delete); } th.unstale { color: var(--unstale); } td.bad { color: var(--bad); }
svg { display: block; width: 100%; min-width: 620px; height: auto; margin-top: 10px; font-size: 13px; }
.grid { stroke: var(--rule); } .axis { fill: var(--quiet); }
line.bound { stroke: var(--bad); stroke-dasharray: 3 3; }
text.bound { fill: var(--bad); paint-order: stroke; stroke: var(--paper); stroke-width: 5px; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.none { stroke: var(--none); } polyline.ttl { stroke: var(--ttl); }
polyline.delete { stroke: var(--delete); } polyline.unstale { stroke: var(--unstale); stroke-width: 2.6; }
text.none { fill: var(--none); } text.ttl { fill: var(--ttl); }
text.delete { fill: var(--delete); } text.unstale { fill: var(--unstale); font-weight: 650; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 620px) { dl { display: block; } dd { margin-bottom: 10px; } }
"""
