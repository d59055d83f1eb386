"""Figures: same bytes twice, every mark drawn, text of strangers shown as text, numbers those of numpy and sklearn."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
import scipy.sparse as sp
from matplotlib.image import imread
from scipy import stats
from sklearn.metrics import confusion_matrix
from statsmodels.stats.proportion import proportion_confint

from catalog import count_figures, figure_charts, figures, told_figures
from catalog.figures import UNKNOWN, file_name
from ontology import load_ontology, make_label_space

SAID = ("A title", "A note.")
HOSTILE = "<script>alert('x')</script>\"'&\x00\x1b\u202e</text>$\\frac{1}{2}$ \ud800 細胞"
RNG = np.random.default_rng(0)
PLACES = RNG.standard_normal((600, 2)) + np.repeat([[0, 0], [9, 0], [0, 9]], 200, axis=0)
WORDS = np.repeat(np.array(["T cell", "B cell", UNKNOWN], dtype=object), 200)


def draw(kind: str, word: str = "a word") -> figures.Plot:
    """Return a figure of each kind with a word of a stranger in it."""
    if kind == "scatter":
        return figures.scatter("x", SAID, PLACES, np.where(WORDS == "T cell", word, WORDS))
    if kind == "histograms":
        return figure_charts.histograms("x", SAID, {word: np.array([0.1, 0.9, np.nan, 1.0])}, "probability")
    if kind == "reliability":
        sure = RNG.random(50)
        return figure_charts.reliability("x", SAID, {word: (sure, sure > 0.5)})
    if kind == "confusion":
        right = np.array([[2, 0], [0, 1]], np.int8)
        return figure_charts.confusion("x", SAID, np.array([[9, 1], [0, 4]]), ([word, "b"], ["a", "b"]), right)
    if kind == "dots":
        share = np.array([[0.1, 0.9], [1.0, 0.0]])
        return figure_charts.dots("x", SAID, (share, share), ([word, "b"], ["g", "h"]), ("cells", "mean"))
    if kind == "before_after":
        return figure_charts.before_after("x", SAID, {word: (np.arange(9.0), np.arange(9.0) * 1.1)})
    if kind == "totals":
        return figure_charts.totals("x", SAID, np.arange(9.0), np.arange(9.0) + 1, (word, "after"))
    return figure_charts.ranges("x", SAID, [word], np.array([[0.0, 1.0, 2.0]]), "counts")


KINDS = ("scatter", "histograms", "reliability", "confusion", "dots", "before_after", "totals", "ranges")


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_a_picture_of_something_and_stays_what_it_was(kind):
    state = dict(mpl.rcParams)
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state
    one = draw(kind)
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.fonttype": "path"}):
        RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state
        other = draw(kind)
    assert (one.png, one.svg) == (other.png, other.svg), "whatever a user's settings are"
    assert dict(mpl.rcParams) == state
    pixels = imread(io.BytesIO(one.png))[..., :3]
    assert min(pixels.shape[:2]) > 80
    assert one.inches == pixels.shape[1] / figures.DPI
    assert 0.005 < (pixels.min(2) < 0.8).mean() < 0.9, "ink on paper"
    assert (pixels[[0, -1]] == 1).all(), "nothing is cut at the edge"
    assert (pixels[:, [0, -1]] == 1).all()
    assert not re.search(rb"20\d\d-\d\d-\d\d", one.svg)
    assert b"mathdefault" not in one.svg, "ticks are no markup either"
    assert one.marks > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_strangers_wrote_is_drawn_as_text(kind):
    plot = draw(kind, HOSTILE)
    tree = ET.fromstring(plot.svg)
    tags = {one.tag.rsplit("}", 1)[-1] for one in tree.iter()}
    assert "script" not in tags
    assert not [name for one in tree.iter() for name in one.keys() if name.lower().startswith("on")]  # noqa: SIM118
    texts = "".join(one.text or "" for one in tree.iter() if one.tag.endswith("text"))
    assert "<script>" in texts, "shown"
    assert not re.search("[\x00\x1b\u202e]", texts)
    links = [value for one in tree.iter() for name, value in one.attrib.items() if name.endswith("href")]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links), "nothing is fetched"


def test_points_are_the_cells_and_the_legend_counts_them():
    plot = figures.scatter("x", SAID, PLACES, WORDS)
    texts = [one.text for one in ET.fromstring(plot.svg).iter() if one.tag.endswith("text")]
    assert plot.marks == 600
    assert {"T cell  200", "B cell  200", "unknown  200", "T cell", "B cell"} <= set(texts)
    assert texts.count(UNKNOWN) == 0, "it is no group among the points"
    pixels = (imread(io.BytesIO(plot.png))[..., :3] * 255).round()
    for colour in (figures.COLOURS[0], figures.COLOURS[1], figures.GREY):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(2).sum() > 200, colour
    many = np.array([f"type {i % 30:02d}" for i in range(600)], dtype=object)
    texts = [one.text for one in ET.fromstring(figures.scatter("x", SAID, PLACES, many, on_data=False).svg).iter()]
    assert "10 others  200" in texts
    assert "type 00" not in texts, "off the data where it is asked"


def test_names_among_points_do_not_overlap():
    with figures.new_figure((5, 5)) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        texts = [axes.text(0.5, 0.5 + i / 500, f"a long name of type {i}", ha="center", va="center") for i in range(12)]
        figures._push_apart(axes, texts)
        boxes = [one.get_window_extent(figure.canvas.get_renderer()) for one in texts]
        frame = axes.get_window_extent()
    assert not [(i, j) for i in range(12) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert all(frame.x0 <= one.x0 and one.x1 <= frame.x1 and frame.y0 <= one.y0 and one.y1 <= frame.y1 for one in boxes)


def test_the_points_of_an_svg_are_one_image():
    image = re.search(rb"data:image/png;base64,\s*([^\"]+)", draw("scatter").svg)
    assert imread(io.BytesIO(base64.b64decode(image[1]))).ndim == 3


def test_reliability_is_what_histograms_say():
    rng = np.random.default_rng(1)
    sure = np.append(rng.random(999), 1.0)
    right = rng.random(1_000) < sure
    mean, share, cells = figure_charts.reliability_bins(sure, right)
    assert cells.tolist() == np.histogram(sure, 10, (0, 1))[0].tolist()
    for name, truth in (("mean", mean), ("share", share)):
        found = stats.binned_statistic(sure, sure if name == "mean" else right, "mean", 10, (0, 1)).statistic
        np.testing.assert_allclose(truth, found)
    low, high = figure_charts.wilson(share * cells, cells)
    truth = proportion_confint(share * cells, cells, method="wilson")
    np.testing.assert_allclose((low, high), truth, atol=1e-6)


def space():
    return make_label_space(load_ontology("CL"), ["CL:0000624", "CL:0000625", "CL:0000236", "CL:0000084"])


@pytest.mark.index
def test_a_confusion_matrix_is_sklearns_with_coarser_terms_marked(monkeypatch):
    label, rng, drawn = space(), np.random.default_rng(2), {}
    monkeypatch.setattr(
        figure_charts, "confusion", lambda name, said, table, words, right: drawn.update(t=table, w=words, r=right)
    )
    leaves = label.n_leaves
    truth = rng.integers(-1, leaves, 400).astype(np.int32)
    said = rng.integers(-1, len(label), 400).astype(np.int32)
    told_figures.draw_confusion("cell_type", said, truth, label)
    names = [*label.labels, UNKNOWN]
    mine = truth >= 0
    rows, columns = drawn["w"]
    wanted = confusion_matrix(truth[mine], said[mine], labels=range(-1, len(label)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert drawn["t"][i, j] == wanted[names.index(row) + 1, names.index(column) + 1 if column != UNKNOWN else 0]
    assert drawn["t"].sum() == mine.sum()
    t, above = rows.index("CD4-positive, alpha-beta T cell"), columns.index("T cell")
    assert drawn["r"][t, above] == 1
    assert drawn["r"][t, columns.index("CD4-positive, alpha-beta T cell")] == 2
    assert drawn["r"][rows.index("B cell"), above] == 0


@pytest.mark.index
def test_own_labels_are_read_as_ids_or_as_names():
    import pandas as pd

    label = space()
    ids = pd.Series(["CL:0000624", "CL:0000236", "CL:9999999", None]).astype("category")
    found = told_figures.true_codes(pd.DataFrame({"cell_type_ontology_term_id": ids}), "cell_type", label)
    names = pd.Series(["CD4-positive, alpha-beta T cell", "B cell", "no such", None], dtype=object)
    assert found.tolist() == [*label.encode(["CL:0000624", "CL:0000236"]).tolist(), -1, -1]
    assert told_figures.true_codes(pd.DataFrame({"cell_type": names}), "cell_type", label).tolist() == found.tolist()
    assert (told_figures.true_codes(pd.DataFrame({"x": names}), "cell_type", label) == -1).all()


def test_top_genes_are_those_of_welchs_t():
    rng = np.random.default_rng(3)
    which = rng.permutation(np.arange(300) % 3)
    values = rng.exponential(1, (300, 40)) * (rng.random((300, 40)) < 0.6)
    for group in range(3):
        values[np.ix_(which == group, [group * 2, group * 2 + 1])] += 1.5
    values[:, 39] = 0
    chosen, share, mean = count_figures.top_genes(sp.csr_matrix(values), which, 3)
    for group in range(3):
        mine = which == group
        with np.errstate(invalid="ignore"):
            t = np.nan_to_num(stats.ttest_ind(values[mine], values[~mine], equal_var=False).statistic)
        assert chosen[group] == np.argsort(-t, kind="stable")[:3].tolist()
        np.testing.assert_allclose(share[group], (values[mine] > 0).mean(0))
        np.testing.assert_allclose(mean[group], values[mine].mean(0))


def test_rows_of_a_stored_matrix_are_picked(tmp_path):
    import h5py

    values = np.random.default_rng(4).random((700, 9), dtype=np.float32)
    rows = np.sort(np.random.default_rng(5).permutation(700)[:90])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        chunked = file.create_dataset("chunked", data=values, chunks=(13, 9), compression="gzip")
        plain = file.create_dataset("plain", data=values)
        for stored in (chunked, plain):
            np.testing.assert_array_equal(count_figures.read_rows(stored, rows), values[rows])


@pytest.mark.parametrize("name", ["", "../../etc", "Ünï/code", "a" * 200, "\x00"])
def test_a_name_of_a_column_makes_a_name_of_a_file(name):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", file_name(name))
