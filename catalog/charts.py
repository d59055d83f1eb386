"""Small SVG charts for the report: knee, density, histogram, bars. Numbers in, one `<svg>` string out.

Drawn here rather than by a plotting library so that a report is text: self-contained, the same bytes for the same
cells, sharp in print, and quick to import. Every text that comes from data is escaped here. No pandas, no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 440, 250  # px of one chart; two fit a laptop's width
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 428, 12, 208  # px of the plotting area
_SHADES = ("#dbe7ee", "#b7cfdc", "#8fb4c8", "#6697b1", "#417a98", "#245d7c", "#0f4159")  # light is few cells


@dataclass(frozen=True)
class Bound:
    """A threshold to draw over a chart."""

    value: float
    """Where, in data units."""
    text: str
    """What it is, in a few words."""


@dataclass(frozen=True)
class Scale:
    """One axis: data units to pixels."""

    low: float
    """Data value at `start`; above 0 on a logarithmic axis."""
    high: float
    """Data value at `end`."""
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    log: bool = False
    """True for a logarithmic axis."""

    def at(self, values: np.ndarray | float) -> np.ndarray:
        """Return the pixels of data values, clipped to the axis."""
        low, high, x = (np.log10(v) if self.log else np.asarray(v) for v in (self.low, self.high, values))
        return self.start + np.clip((x - low) / ((high - low) or 1.0), 0, 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values along the axis: powers of ten, or steps of 1, 2 and 5."""
        if self.log:
            first, last = int(np.ceil(np.log10(self.low) - 1e-9)), int(np.floor(np.log10(self.high) + 1e-9))
            fine = (1, 2, 5) if np.log10(self.high / self.low) < 2.5 else (1,)  # few decades: steps within them
            values = [m * 10.0**p for p in range(first - 1, last + 1) for m in fine]
            return [v for v in values if self.low <= v <= self.high]
        span = (self.high - self.low) or 1.0
        power = 10.0 ** np.floor(np.log10(span / 5))
        step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 6)
        return [float(v) for v in np.arange(np.ceil(self.low / step), np.floor(self.high / step + 1e-9) + 1) * step]


def short(value: float) -> str:
    """Return a number as an axis shows it.

    Examples
    --------
    >>> [short(v) for v in (0, 0.25, 7, 1_000, 12_500, 3_000_000)]
    ['0', '0.25', '7', '1k', '12.5k', '3M']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def knee(counts: np.ndarray, bound: Bound | None = None) -> str:
    """Return the cells' counts in falling order, both axes logarithmic."""
    falling = np.sort(counts[counts > 0])[::-1]
    if not len(falling):
        return absent("no cell has counts")
    x, y = _x(1, max(len(falling), 2), log=True), _y(*_decades(falling, bound), log=True)
    rank = np.unique(np.geomspace(1, len(falling), 220).astype(np.int64))  # 220 points: finer than the pixels
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.at(rank), y.at(falling[rank - 1]), strict=True))
    body = f'<polyline class="line" points="{points}"/>'
    return _plot(x, y, ("cells, by rank", "counts per cell"), body + _across(y, bound), "Counts per cell by rank")


def density(counts: np.ndarray, genes: np.ndarray, bounds: tuple[Bound | None, Bound | None] = (None, None)) -> str:
    """Return counts against genes per cell as a shaded grid, both axes logarithmic; `bounds` are (counts, genes)."""
    held = (counts > 0) & (genes > 0)
    if not held.any():
        return absent("no cell has counts")
    x, y = _x(*_decades(counts[held], bounds[0]), log=True), _y(*_decades(genes[held], bounds[1]), log=True)
    step = 4  # px of one square
    columns, rows = (_RIGHT - _LEFT) // step, (_BOTTOM - _TOP) // step
    column = np.minimum((x.at(counts[held]) - _LEFT) // step, columns - 1).astype(np.int64)
    row = np.minimum((y.at(genes[held]) - _TOP) // step, rows - 1).astype(np.int64)
    cells = np.bincount(row * columns + column, minlength=rows * columns)
    filled = np.flatnonzero(cells)
    level = np.floor(np.log1p(cells[filled] - 1) / np.log1p(max(cells.max() - 1, 1)) * (len(_SHADES) - 1)).astype(int)
    paths = []
    for shade, colour in enumerate(_SHADES):
        where = filled[level == shade]
        if len(where):
            squares = "".join(
                f"M{_LEFT + c * step} {_TOP + r * step}h4v4h-4z" for r, c in zip(*divmod(where, columns), strict=True)
            )
            paths.append(f'<path fill="{colour}" d="{squares}"/>')
    body = "".join(paths) + _upright(x, bounds[0]) + _across(y, bounds[1])
    what = f"Counts against genes per cell; the darkest square holds {int(cells.max())} cells"
    return _plot(x, y, ("counts per cell", "genes per cell"), body, what)


def histogram(values: np.ndarray, label: str, span: tuple[float, float], bounds: Sequence[Bound] = ()) -> str:
    """Return a histogram of finite values over `span`; what lies beyond is counted in the last bar."""
    values = values[np.isfinite(values)]
    if not len(values):
        return absent("not measurable: no cell has a value")
    x = _x(*span)
    bins = 47  # 8 px a bar
    cells, edges = np.histogram(np.clip(values, *span), bins=bins, range=span)
    y = _y(0, max(int(cells.max()), 1) * 1.05)
    left, top = x.at(edges), y.at(cells)
    bars = "".join(
        f"M{a:.1f} {_BOTTOM}V{t:.1f}H{b - 1:.1f}V{_BOTTOM}z"
        for a, b, t, n in zip(left[:-1], left[1:], top, cells, strict=True)
        if n
    )
    body = f'<path class="fill" d="{bars}"/>' + "".join(_upright(x, b, drop=12 * i) for i, b in enumerate(bounds))
    return _plot(x, y, (label, "cells"), body, f"Cells by {label}")


def bars(rows: Sequence[tuple[str, int, str]], total: int) -> str:
    """Return horizontal bars: (name, cells, CSS class) against a common total."""
    if not rows:
        return absent("nothing to show")
    lines, width = [], 180
    for i, (name, cells, kind) in enumerate(rows):
        top = 10 + i * 24
        share = cells / total if total else 0.0
        length = max(share * width, 1 if cells else 0)  # one cell in a million still shows
        lines.append(
            f'<text class="name" x="132" y="{top + 12}">{escape(name)}</text>'
            f'<rect class="rail" x="140" y="{top}" width="{width}" height="16" rx="2"/>'
            f'<rect class="{kind}" x="140" y="{top}" width="{length:.1f}" height="16" rx="2"/>'
            f'<text x="{148 + width}" y="{top + 12}">{cells:,} · {escape(percent(share))}</text>'
        )
    return _svg(20 + 24 * len(rows), "".join(lines), "Cells per reason")


def strip(parts: Sequence[tuple[str, int, str]]) -> str:
    """Return one bar split into (name, amount, CSS class), without axes; names show on hover."""
    total = sum(amount for _, amount, _ in parts)
    if not total:
        return ""
    left, pieces = 0.0, []
    for name, amount, kind in parts:
        width = 200 * amount / total
        tip = f"<title>{escape(name)}: {amount:,}</title>"
        pieces.append(f'<rect class="{kind}" x="{left:.2f}" y="0" width="{width:.2f}" height="12">{tip}</rect>')
        left += width
    inner = "".join(pieces)
    return f'<svg class="strip" viewBox="0 0 200 12" preserveAspectRatio="none" role="img">{inner}</svg>'


def absent(why: str) -> str:
    """Return an empty chart that says why it is empty."""
    text = f'<text class="absent" x="{WIDTH / 2}" y="{HEIGHT / 2}">{escape(why)}</text>'
    return _svg(HEIGHT, f'<rect class="void" x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="6"/>{text}', why)


def percent(share: float) -> str:
    """Return a share of 1 as percent, honest about what is nearly nothing or nearly all.

    Examples
    --------
    >>> [percent(s) for s in (0.0, 0.0001, 0.123, 0.99999, 1.0)]
    ['0 %', '<0.1 %', '12.3 %', '>99.9 %', '100 %']
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return "<0.1 %" if share < 0.001 else ">99.9 %" if share > 0.999 else f"{100 * share:.1f} %"


def _decades(values: np.ndarray, bound: Bound | None = None) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that holds positive values, and a bound unless it is a decade away."""
    low, high = float(values.min()), float(values.max())
    if bound is not None and low / 10 < bound.value < high * 10:
        low, high = min(low, bound.value), max(high, bound.value)
    return max(low / 1.25, 0.8), max(high * 1.25, 2.0)


def _x(low: float, high: float, *, log: bool = False) -> Scale:
    return Scale(low, high, _LEFT, _RIGHT, log)


def _y(low: float, high: float, *, log: bool = False) -> Scale:
    return Scale(low, high, _BOTTOM, _TOP, log)


def _across(y: Scale, bound: Bound | None) -> str:
    """Return a level threshold, or nothing where it lies off the axis."""
    if bound is None or not y.low <= bound.value <= y.high:
        return ""
    at = float(y.at(bound.value))
    text = f'<text class="bound" x="{_RIGHT}" y="{at - 4:.1f}" text-anchor="end">{escape(bound.text)}</text>'
    return f'<line class="bound" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>{text}'


def _upright(x: Scale, bound: Bound | None, drop: int = 0) -> str:
    """Return an upright threshold, or nothing where it lies off the axis; its text keeps clear of the edge."""
    if bound is None or not x.low <= bound.value <= x.high:
        return ""
    at = float(x.at(bound.value))
    side, anchor = (at - 4, "end") if at > (_LEFT + _RIGHT) / 2 else (at + 4, "start")
    text = (
        f'<text class="bound" x="{side:.1f}" y="{_TOP + 10 + drop}" text-anchor="{anchor}">{escape(bound.text)}</text>'
    )
    return f'<line class="bound" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>{text}'


def _plot(x: Scale, y: Scale, labels: tuple[str, str], body: str, what: str) -> str:
    """Return a chart with grid, ticks and axis names."""
    grid = []
    for value in x.ticks():
        at = float(x.at(value))
        grid.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>')
        grid.append(f'<text x="{at:.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{short(value)}</text>')
    for value in y.ticks():
        at = float(y.at(value))
        grid.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        grid.append(f'<text x="{_LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{short(value)}</text>')
    middle_x, middle_y = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    names = (
        f'<text class="axis" x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">{escape(labels[0])}</text>'
        f'<text class="axis" transform="translate(12 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{escape(labels[1])}</text>"
    )
    base = f'<path class="base" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>'
    return _svg(HEIGHT, "".join(grid) + body + base + names, what)


def _svg(height: int, inner: str, what: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(what)}">{inner}</svg>'
