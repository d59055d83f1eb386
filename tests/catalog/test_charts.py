"""Charts are well-formed SVG whose marks lie where the numbers say; checked by reading them back."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import charts
from catalog.charts import Bound, Scale


def marks(svg: str, kind: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter() if e.get("class") == kind]


@given(st.lists(st.integers(0, 10**7), max_size=300), st.integers(1, 10**6))
@settings(max_examples=60, deadline=None)
def test_any_counts_give_well_formed_charts_inside_their_frame(counts: list[int], bound: int) -> None:
    x = np.array(counts, dtype=np.float64)
    genes = np.minimum(x, 30_000)
    for svg in (
        charts.knee(x, Bound(bound, "a < b")),
        charts.density(x, genes, (Bound(bound, "c"), None)),
        charts.histogram(x, "counts", (0.0, 1e6), [Bound(bound, "b")]),
    ):
        ET.fromstring(svg)
        assert "nan" not in svg
        numbers = re.findall(r'(?:x1|x2|y1|y2|x|y)="(-?[\d.]+)"', svg)
        assert all(0 <= float(v) <= charts.WIDTH for v in numbers)


def test_the_knee_falls_and_ends_at_the_last_cell() -> None:
    counts = np.random.default_rng(0).lognormal(8, 1, 5_000).round()
    points = marks(charts.knee(counts), "line")[0].get("points", "").split()
    x, y = np.array([[float(v) for v in p.split(",")] for p in points]).T
    assert np.all(np.diff(x) > 0)
    assert np.all(np.diff(y) >= 0)  # pixels grow downwards
    assert (x[0], x[-1]) == (charts._LEFT, charts._RIGHT)


def test_histogram_bars_are_the_numbers_numpy_counts() -> None:
    values = np.random.default_rng(1).uniform(0, 30, 4_000)
    svg = charts.histogram(np.append(values, np.nan), "percent", (0.0, 20.0))
    path = marks(svg, "fill")[0].get("d", "")
    heights = np.array([charts._BOTTOM - float(v) for v in re.findall(r"M[\d.]+ 208V([\d.]+)H", path)])
    want, _ = np.histogram(np.minimum(values, 20), bins=47, range=(0, 20))
    np.testing.assert_allclose(heights / heights.max(), want / want.max(), atol=2e-3)


def test_density_draws_one_square_per_filled_place() -> None:
    counts, genes = np.array([1e3, 1e3, 1e5]), np.array([500.0, 500.0, 9e3])
    svg = charts.density(counts, genes)
    squares = re.findall(r"M(\d+) (\d+)h4v4h-4z", svg)
    assert len(squares) == 2
    assert "the darkest square holds 2 cells" in svg
    (left, low), (right, high) = sorted((int(a), int(b)) for a, b in squares)
    assert left < right
    assert low > high


@pytest.mark.parametrize("log", [False, True])
@given(low=st.floats(0.8, 1e6), span=st.floats(1.01, 1e6))
@settings(max_examples=80, deadline=None)
def test_ticks_lie_on_the_axis(log: bool, low: float, span: float) -> None:
    scale = Scale(low, low * span, 0.0, 100.0, log)
    ticks = scale.ticks()
    assert len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert all(low - 1e-9 * low <= t <= low * span * (1 + 1e-9) for t in ticks)
    assert scale.at(low) == pytest.approx(0.0)
    assert scale.at(low * span) == pytest.approx(100.0)


def test_bars_say_their_cells_and_escape_their_names() -> None:
    svg = charts.bars([("<b>", 25, "good"), ("none", 0, "warn"), ("rare", 1, "warn")], 1_000_000)
    texts = [e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("text")]
    assert texts == ["<b>", "25 · <0.1 %", "none", "0 · 0 %", "rare", "1 · <0.1 %"]
    widths = [float(e.get("width", "0")) for e in marks(svg, "good") + marks(svg, "warn")]
    assert widths == [1.0, 0.0, 1.0]  # one cell in a million still shows, none does not


def test_a_strip_is_split_by_share() -> None:
    svg = charts.strip([("mapped & more", 75, "good"), ("unmapped", 25, "bad")])
    assert [float(e.get("width", "")) for e in ET.fromstring(svg)] == [150.0, 50.0]
    assert charts.strip([("none", 0, "good")]) == ""


def test_a_bound_far_off_is_not_drawn_and_one_nearby_is() -> None:
    counts = np.full(50, 2_000.0)
    assert not marks(charts.knee(counts, Bound(10, "far")), "bound")
    assert len(marks(charts.knee(counts, Bound(500, "near")), "bound")) == 2
