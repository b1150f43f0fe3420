"""Line plots as inline SVG: time on a linear scale, values on a logarithmic one, since strategies lie far apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from unstale.cli.measures import Measures
from unstale.cli.plan import Name

WIDTH, HEIGHT = 880, 330
LEFT, RIGHT, TOP, BOTTOM = 64, 128, 14, 36
NOTHING: Final = 0.1  # the part at the bottom that is kept for zero, which has no place on a logarithmic scale
LABEL_GAP: Final = 17
LAST_POINTS: Final = 10
TICKS_S: Final = (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
TICKS_MAX: Final = 10
DASHES: Final[dict[Name, str]] = {"none": "2 4", "ttl": "7 4", "delete": "10 3 2 3", "unstale": ""}


@dataclass(frozen=True)
class Scale:
    """From moments and values to places in the picture.

    Attributes:
        seconds: The length of the run.
        lowest: The smallest value but zero that has a place, a power of ten.
        highest: The greatest, a power of ten.
    """

    seconds: float
    lowest: float
    highest: float

    @classmethod
    def around(cls, values: Sequence[float], smallest: float, seconds: float) -> Scale:
        """Give the scale on which all values have a place."""
        positive = [value for value in values if value > 0]
        lowest = 10 ** math.floor(math.log10(max(smallest, min(positive, default=smallest))))
        highest = 10 ** math.ceil(math.log10(max([*positive, lowest * 10]) * 1.05))
        return cls(seconds, lowest, highest)

    def x(self, moment_s: float) -> float:
        """Give the place of a moment."""
        return LEFT + moment_s / self.seconds * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Give the place of a value."""
        part = 0.0
        if value > 0:
            decades = math.log10(self.highest / self.lowest)
            part = NOTHING + (1 - NOTHING) * max(0.0, math.log10(value / self.lowest)) / decades
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def plot(
    series: Sequence[tuple[Measures, Sequence[float]]],
    written: Callable[[float], str],
    *,
    smallest: float,
    bound: float | None = None,
    bound_text: str = "",
) -> str:
    """Draw one line for each strategy.

    Args:
        series: The strategies and their values, one for each interval.
        written: Writes a value, with its unit.
        smallest: Values below it stand at the bottom.
        bound: Where to draw a line of its own.
        bound_text: What is written at it.
    """
    values = [value for _one, line in series for value in line]
    scale = Scale.around([*values, bound or 0.0], smallest, max(one.seconds for one, _line in series))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', *_grid(scale, written)]
    for one, line in series:
        points = (f"{scale.x((place + 0.5) * one.step_s):.1f},{scale.y(value):.1f}" for place, value in enumerate(line))
        parts.append(
            f'<polyline class="{one.strategy}" stroke-dasharray="{DASHES[one.strategy]}" points="{" ".join(points)}">'
            f"<title>{escape(one.title)}: at most {escape(written(max(line, default=0.0)))}</title></polyline>"
        )
    if bound is not None:
        height = scale.y(bound)
        parts.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="bound" x="{LEFT + 6}" y="{height - 5:.1f}">{escape(bound_text)}</text>')
    parts += _labels([(scale.y(_middle(line[-LAST_POINTS:])), one) for one, line in series])
    return f'<div class="wide">{"".join(parts)}</svg></div>'


def _grid(scale: Scale, written: Callable[[float], str]) -> Iterator[str]:
    decades = round(math.log10(scale.highest / scale.lowest))
    for value in (0.0, *(scale.lowest * 10**power for power in range(decades + 1))):
        height = scale.y(value)
        text = escape(written(value)) if value else "0"
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        yield f'<text class="axis" x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{text}</text>'
    step = next((step for step in TICKS_S if scale.seconds / step <= TICKS_MAX), TICKS_S[-1])
    for number in range(int(scale.seconds / step + 1e-6) + 1):
        place, text = scale.x(number * step), f"{number * step:g}{'' if number else ' s'}"
        yield f'<text class="axis" x="{place:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{text}</text>'


def _labels(labels: Sequence[tuple[float, Measures]]) -> Iterator[str]:
    """Write the names at the ends of the lines, moved apart where they would cover each other."""
    lowest = -math.inf
    for height, one in sorted(labels, key=lambda label: label[0]):
        lowest = max(height, lowest + LABEL_GAP)
        yield f'<text class="{one.strategy}" x="{WIDTH - RIGHT + 10}" y="{lowest + 4:.1f}">{escape(one.title)}</text>'


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
