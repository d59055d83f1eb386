"""The figures of a task of a trained model: arrays in, a `Plot` of PNG and SVG bytes out.

Drawn by matplotlib, as thousands of points go into one picture here; the ingest report's few hundred marks are text of
charts.py. No pyplot and no state: every figure starts from matplotlib's defaults, whatever a user's matplotlibrc says,
and carries no date, so equal arrays give equal bytes. Points are an image inside the SVG, text stays text. What comes
from data is shown as it is: no markup or mathematics is read in it, unprintable characters are replaced.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    Values = npt.NDArray[np.floating[Any]]
    Words = npt.NDArray[np.object_]

STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8b98a5",
    "axes.titleweight": "bold", "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "panatlas",
    "axes.formatter.use_mathtext": False,
}  # fmt: skip
DPI = 150
"""Pixels per inch of PNG, and of points in SVG."""
COLOURS = (
    "#1f77b4", "#d95f02", "#2a9d4a", "#c22d3a", "#7d5bb3", "#8c564b", "#d665b0", "#98861f", "#17a2b8", "#3b4a9e",
    "#8fc1e3", "#fdb366", "#98df8a", "#f4a6a6", "#c5b0d5", "#c49c94", "#f1bfe0", "#cfcf7a", "#9edae5", "#5b6b3a",
)  # fmt: skip
GREY, PALE = "#9aa5b0", "#d9dee3"
UNKNOWN = "unknown"
"""Said where nothing is; drawn in grey."""
LONGEST = 44
"""Characters of a word that are shown."""
NARROW = 20
"""Characters of a line of a name among points, of two at most."""
LEAST_NAMED = 0.005
"""Share of the cells that a group has whose name is written among them."""


@dataclass(frozen=True)
class Plot:
    """One figure with its words."""

    name: str
    """Of its files, without ending."""
    title: str
    """What is shown."""
    note: str
    """What to read from it, and what it is of."""
    marks: int
    """Points, bars, squares or dots that are drawn."""
    inches: float
    """Width at which its text is as large as text is."""
    png: bytes
    """For pages and slides."""
    svg: bytes
    """For print."""


def scatter(name: str, said: tuple[str, str], places: Values, words: Words, *, on_data: bool = True) -> Plot:
    """Return cells as points, coloured by a word.

    Parameters
    ----------
    name
        Of the files.
    said
        Title and note.
    places
        Of the cells, [cells, 2].
    words
        One for each cell.
    on_data
        Write the words among the points too; where groups lie over each other the legend alone is clearer.
    """
    found, counts = np.unique(words, return_counts=True)
    ranked = [found[i] for i in np.lexsort((found, -counts)) if found[i] != UNKNOWN]
    shown, others = ranked[: len(COLOURS)], len(ranked) - len(COLOURS)
    colour = dict(zip(shown, COLOURS, strict=False)) | {UNKNOWN: GREY}
    tally = dict(zip(found, counts.tolist(), strict=True))
    with new_figure((5.4, 5.4)) as figure:
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.set_xlabel("UMAP 1", loc="left")
        axes.set_ylabel("UMAP 2", loc="bottom")
        order = np.random.default_rng(0).permutation(len(words))  # so that no group hides the others
        order = order[np.argsort([words[i] in colour and words[i] != UNKNOWN for i in order], kind="stable")]
        colours = [colour.get(words[i], PALE) for i in order]
        size = float(np.clip(24_000 / max(len(words), 1), 1.5, 22))
        axes.scatter(*places[order].T, s=size, c=colours, linewidths=0, rasterized=True)
        lines = [axes.scatter([], [], s=28, c=colour[word], linewidths=0) for word in shown]
        texts = [f"{plain(word)}  {tally[word]:,}" for word in shown]
        if others > 0:
            lines.append(axes.scatter([], [], s=28, c=PALE, linewidths=0))
            texts.append(f"{others:,} others  {sum(tally[word] for word in ranked[len(COLOURS) :]):,}")
        if UNKNOWN in tally:
            lines.append(axes.scatter([], [], s=28, c=GREY, linewidths=0))
            texts.append(f"{UNKNOWN}  {tally[UNKNOWN]:,}")
        axes.legend(lines, texts, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, handletextpad=0.3)
        if on_data and len(shown) > 1:
            named = [word for word in shown if tally[word] >= LEAST_NAMED * len(words)]
            _name_groups(axes, {word: places[words == word] for word in named})
        return finish(figure, name, said, len(words))


@contextmanager
def new_figure(inches: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure in the style of all of them; drawing settings are as before afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn instead
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=inches, dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure


@contextmanager
def new_panels(panels: int, inches: tuple[float, float], columns: int = 3) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure of so many panels, row by row."""
    wide = max(1, min(columns, panels))
    high = max(1, -(-panels // wide))
    with new_figure((wide * inches[0], high * inches[1])) as figure:
        grid = figure.subplots(high, wide, squeeze=False, gridspec_kw={"wspace": 0.45, "hspace": 0.75})
        for spare in grid.ravel()[panels:]:
            spare.remove()
        yield figure, list(grid.ravel()[:panels])


def _name_groups(axes: Axes, groups: dict[str, Values]) -> None:
    """Write each group's name at the point nearest to its median, the names pushed apart."""
    texts = []
    for word, places in groups.items():
        middle = np.median(places, axis=0)
        at = places[np.square(places - middle).sum(1).argmin()]  # among its own points, also of a ring
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.72}
        name = textwrap.fill(plain(word), NARROW, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")
        texts.append(axes.text(*at, name, ha="center", va="center", fontsize=8, weight="bold", linespacing=1, bbox=box))
    _push_apart(axes, texts)


def _push_apart(axes: Axes, texts: Sequence[Text]) -> None:
    """Move texts as little as it takes for none to overlap another or the edge."""
    canvas = axes.figure.canvas
    axes.apply_aspect()
    frame = axes.get_window_extent()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]  # type: ignore[attr-defined]
    half = np.array([[box.width + 14, box.height + 6] for box in boxes]) / 2
    at = np.array([[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in boxes])
    low, high = np.array([frame.x0, frame.y0]) + half, np.array([frame.x1, frame.y1]) - half
    for _ in range(300):
        at = np.clip(at, low, np.maximum(low, high))
        apart = at[:, None] - at[None]
        over = half[:, None] + half[None] - np.abs(apart)
        hit = (over > 0.5).all(2) & ~np.eye(len(at), dtype=bool)
        if not hit.any():
            break
        upright = hit & (over[..., 1] <= over[..., 0])
        tie = np.sign(np.arange(len(at))[:, None] - np.arange(len(at))[None])
        for axis, some in ((1, upright), (0, hit & ~upright)):
            side = np.where(apart[..., axis] == 0, tie, np.sign(apart[..., axis]))
            at[:, axis] += 0.26 * (np.where(some, over[..., axis], 0) * side).sum(1)
    for text, place in zip(texts, axes.transData.inverted().transform(at), strict=True):
        text.set_position(place)


def plain(word: object) -> str:
    """Return a text that draws on one line."""
    text = " ".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(word)).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def spaced(name: str) -> str:
    """Return a column's name as words."""
    return str(name).replace("_", " ")


def file_name(name: str) -> str:
    """Return a name as part of a file's name, which holds for any.

    Examples
    --------
    >>> file_name("../Cell type/1")
    'cell-type-1'
    """
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")[:40] or "x"


def finish(figure: Figure, name: str, said: tuple[str, str], marks: int) -> Plot:
    """Return the figure's bytes, without a date or a maker's mark."""
    files = {}
    for kind, about in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, bbox_inches="tight", pad_inches=0.08, metadata=about)
        files[kind] = stream.getvalue()
    wide = int.from_bytes(files["png"][16:20], "big")  # a PNG begins with its size
    return Plot(name, *said, marks, wide / DPI, **files)
