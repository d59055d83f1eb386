"""Dots with their intervals, one row a method, as SVG text: the plots of docs/benchmarks.md. The same bytes everywhere.

Drawn without a library, whose version would show in the file: a test compares the plots with the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, LABELS, RIGHT, ROW, TOP, BOTTOM = 760, 300, 40, 24, 34, 34
"""Pixels: of the whole, left for names, right of the axis; of a row, above and below the rows."""
OURS, THEIRS, FAINT = "#0b6e99", "#7a7a7a", "#c9c9c9"
FONT = 'font-family="system-ui, sans-serif"'
TICKS = 5


@dataclass(frozen=True)
class Dot:
    """One row of a chart."""

    name: str
    """What was measured."""
    value: float
    """Its mean."""
    half: float = 0.0
    """Half of its interval."""
    ours: bool = False
    """Whether it is this project's."""


def draw_dots(title: str, value: str, dots: list[Dot], *, more: bool) -> str:
    """Return a chart, the best row first.

    Parameters
    ----------
    title
        What is compared.
    value
        Name of the numbers.
    dots
        One a row, at least one.
    more
        Whether more is better.
    """
    ordered = sorted(dots, key=lambda dot: -dot.value if more else dot.value)
    low, high = min(d.value - d.half for d in dots), max(d.value + d.half for d in dots)
    ticks, digits = _ticks(low, high)
    start, end = min(low, ticks[0]), max(high, ticks[-1])
    height = TOP + ROW * len(dots) + BOTTOM

    def x(number: float) -> float:
        share = (number - start) / (end - start) if end > start else 0.5
        return round(LABELS + share * (WIDTH - LABELS - RIGHT), 1)

    said = f"{value}, {'more' if more else 'less'} is better"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {FONT} font-size="13">',
        f"<title>{escape(f'{title}: {said}')}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-weight="600">{escape(title)}</text>',
        f'<text x="{WIDTH - 8}" y="20" text-anchor="end" fill="{THEIRS}">{escape(said)}</text>',
    ]
    foot = height - BOTTOM
    for tick in ticks:
        lines.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{foot}" stroke="{FAINT}"/>')
        text = f"{tick:.{digits}f}"
        lines.append(f'<text x="{x(tick)}" y="{foot + 18}" text-anchor="middle" fill="{THEIRS}">{text}</text>')
    for place, dot in enumerate(ordered):
        y, colour = TOP + ROW * place + ROW // 2, OURS if dot.ours else THEIRS
        weight = ' font-weight="600"' if dot.ours else ""
        ends = f'x1="{x(dot.value - dot.half)}" x2="{x(dot.value + dot.half)}" y1="{y}" y2="{y}"'
        lines += [
            f'<text x="{LABELS - 12}" y="{y + 4}" text-anchor="end" fill="{colour}"{weight}>{escape(dot.name)}</text>',
            *([f'<line {ends} stroke="{colour}" stroke-width="2"/>'] if dot.half else []),
            f'<circle cx="{x(dot.value)}" cy="{y}" r="4.5" fill="{colour}"/>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _ticks(low: float, high: float) -> tuple[list[float], int]:
    """Return round numbers that span a range, and how many digits tell them apart."""
    span = high - low or abs(high) or 1.0
    raw = span / TICKS
    power = floor(log10(raw))
    lead = next(lead for lead in (1, 2, 2.5, 5, 10) if lead * 10.0**power >= raw * 0.999)
    step = lead * 10.0**power
    digits = max(0, (lead == 2.5) - floor(log10(step) + 1e-9))
    return [round(n * step, digits) for n in range(floor(low / step), ceil(high / step) + 1)], digits
