"""Figures of what a model tells: probabilities, confusions, genes by group, counts before and after.

figures.py has what they share and says how they are drawn; task_figures.py gets their numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from .charts import short
from .figures import COLOURS, GREY, PALE, UNKNOWN, Plot, finish, new_figure, new_panels, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Values = npt.NDArray[np.floating[Any]]

BINS = 10
"""Of a reliability curve, of equal width."""


def histograms(name: str, said: tuple[str, str], values: dict[str, Values], label: str) -> Plot:
    """Return a histogram from 0 to 1 for each name; values that are not finite are left out and counted."""
    with new_panels(len(values), (2.7, 2.1)) as (figure, panels):
        marks = 0
        for axes, (word, some) in zip(panels, values.items(), strict=True):
            finite = some[np.isfinite(some)]
            marks += int((np.histogram(finite, 20, (0, 1))[0] > 0).sum())
            axes.hist(finite, bins=20, range=(0, 1), color=COLOURS[0])
            without = f", {len(some) - len(finite):,} {UNKNOWN}" if len(finite) < len(some) else ""
            axes.set_title(plain(word), loc="left")
            axes.set(xlabel=f"{plain(label)}{without}", ylabel="cells", xlim=(0, 1))
        return finish(figure, name, said, marks)


def reliability(name: str, said: tuple[str, str], told: dict[str, tuple[Values, npt.NDArray[np.bool_]]]) -> Plot:
    """Return how often terms of a probability are right, for each name.

    Parameters
    ----------
    name
        Of the files.
    said
        Title and note.
    told
        Probabilities, and whether the term was right, [cells].

    Notes
    -----
    Bars are Wilson's 95% intervals (1927, doi:10.1080/01621459.1927.10502953); `expected_error` is the sum over bins of
    the share of cells times |share right - mean probability| (Naeini et al. 2015).
    """
    with new_panels(len(told), (3.0, 3.0)) as (figure, panels):
        marks = 0
        for axes, (word, (sure, right)) in zip(panels, told.items(), strict=True):
            mean, share, cells = reliability_bins(sure, right)
            low, high = wilson(share * cells, cells)
            axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            axes.vlines(mean, low, high, color=COLOURS[0], linewidth=1.2)
            axes.plot(mean, share, color=COLOURS[0], linewidth=1)
            axes.scatter(
                mean, share, s=8 + 90 * np.sqrt(cells / cells.max()), color=COLOURS[0], zorder=3, clip_on=False
            )
            error = float(np.sum(cells / cells.sum() * np.abs(share - mean)))
            axes.set_title(plain(word), loc="left")
            axes.text(0.03, 0.97, f"{len(sure):,} cells\nexpected error {error:.3f}", va="top", fontsize=8)
            axes.set(xlabel="probability told", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
            marks += len(mean)
        return finish(figure, name, said, marks)


def reliability_bins(sure: Values, right: npt.NDArray[np.bool_]) -> tuple[Values, Values, npt.NDArray[np.int64]]:
    """Return mean probability, share right, and cells of each bin that has any."""
    where = np.minimum((np.asarray(sure, dtype=np.float64) * BINS).astype(np.int64), BINS - 1)
    cells = np.bincount(where, minlength=BINS)
    there = cells > 0
    total = cells[there]
    return (
        np.bincount(where, sure, BINS)[there] / total,
        np.bincount(where, right, BINS)[there] / total,
        total,
    )


def wilson(hits: Values, cells: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Return the 95% interval of a share."""
    z, share = 1.959964, hits / cells
    middle = (share + z**2 / (2 * cells)) / (1 + z**2 / cells)
    half = z / (1 + z**2 / cells) * np.sqrt(share * (1 - share) / cells + z**2 / (4 * cells**2))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def confusion(
    name: str,
    said: tuple[str, str],
    table: npt.NDArray[np.int64],
    words: tuple[Sequence[str], Sequence[str]],
    right: npt.NDArray[np.int8],
) -> Plot:
    """Return a matrix of truths and what was told, shares of a row as shades.

    Parameters
    ----------
    name
        Of the files.
    said
        Title and note.
    table
        Cells, [truths, told].
    words
        Names of rows and of columns.
    right
        [truths, told]: 2 where the term told is the true one, 1 where it lies above it, 0 elsewhere.
    """
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    rows, columns = table.shape
    with new_figure((0.42 * max(columns, 3), 0.32 * max(rows, 2))) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        for i, j in np.argwhere(share >= 0.005):
            ink = "white" if share[i, j] > 0.55 else "#1d2733"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=ink)
        for i, j in np.argwhere(right > 0):
            dashes = "solid" if right[i, j] == 2 else (0, (2, 2))
            axes.add_patch(
                Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor="#b4492f", linestyle=dashes)
            )
        axes.set_xticks(range(columns), [plain(word) for word in words[1]], rotation=50, ha="right")
        axes.tick_params(length=0)
        totals = table.sum(1)
        labels = [f"{plain(word)}  {n:,}" for word, n in zip(words[0], totals, strict=True)]
        axes.set_yticks(range(rows), labels)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="told, % of the row", ylabel="true, cells")
        return finish(figure, name, said, int((table > 0).sum()))


def dots(
    name: str,
    said: tuple[str, str],
    shown: tuple[Values, Values],
    words: tuple[Sequence[str], Sequence[str]],
    labels: tuple[str, str],
) -> Plot:
    """Return groups by genes as dots: area for the share of cells, shade for the mean.

    Parameters
    ----------
    name
        Of the files.
    said
        Title and note.
    shown
        Shares and means, [groups, genes]; a mean is shown as a share of its gene's largest.
    words
        Names of groups and of genes.
    labels
        What areas and shades are.
    """
    share, mean = shown
    scaled = mean / np.maximum(mean.max(0, keepdims=True), 1e-12)
    rows, columns = share.shape
    with new_figure((0.6 + 0.25 * columns, 0.8 + 0.28 * rows)) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        j, i = np.meshgrid(np.arange(columns), np.arange(rows))
        ink = axes.scatter(
            j.ravel(), i.ravel(), s=1 + 130 * share.ravel(), c=scaled.ravel(), cmap="Blues", vmin=0, vmax=1,
            edgecolors="#5f7180", linewidths=0.4,
        )  # fmt: skip
        axes.set_xticks(range(columns), [plain(word) for word in words[1]], rotation=90)
        axes.set_yticks(range(rows), [plain(word) for word in words[0]])
        axes.set(xlim=(-0.7, columns - 0.3), ylim=(rows - 0.3, -0.7))
        sizes = [
            axes.scatter([], [], s=1 + 130 * x, c=PALE, edgecolors="#5f7180", linewidths=0.4) for x in (0.1, 0.5, 1)
        ]
        axes.legend(
            sizes, ["10 %", "50 %", "100 %"], title=plain(labels[0]), loc="upper left", bbox_to_anchor=(1.02, 1.0),
            frameon=False, alignment="left", borderpad=0,
        )  # fmt: skip
        width, height = figure.get_size_inches()
        bar = figure.add_axes((1 + 0.2 / width, min(0, (height - 2.1) / height), 0.12 / width, 0.9 / height))
        figure.colorbar(ink, cax=bar, ticks=[0, 1]).set_label(plain(labels[1]))
        return finish(figure, name, said, share.size)


def before_after(name: str, said: tuple[str, str], pairs: dict[str, tuple[Values, Values]]) -> Plot:
    """Return what was counted beside what is told of it, a panel a gene, both as log(1 + counts)."""
    with new_panels(len(pairs), (1.9, 1.9), columns=4) as (figure, panels):
        for axes, (word, (before, after)) in zip(panels, pairs.items(), strict=True):
            x, y = np.log1p(before), np.log1p(after)
            most = float(max(x.max(initial=0), y.max(initial=0), 0.1)) * 1.05
            wobble = np.random.default_rng(0).uniform(-0.02, 0.02, len(x)) * most  # counts are whole numbers
            axes.plot((0, most), (0, most), color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
            axes.scatter(x + wobble, y, s=3, color=COLOURS[0], alpha=0.35, linewidths=0, rasterized=True)
            axes.set_title(plain(word), loc="left")
            axes.set(xlim=(-0.03 * most, most), ylim=(-0.03 * most, most))
        figure.supxlabel("log(1 + counts), as measured", fontsize=9, y=-0.02)
        figure.supylabel("log(1 + counts), told", fontsize=9, x=-0.02)
        return finish(figure, name, said, sum(len(before) for before, _ in pairs.values()))


def totals(name: str, said: tuple[str, str], before: Values, after: Values, labels: tuple[str, str]) -> Plot:
    """Return two totals of each cell against each other, both axes logarithmic, with the line on which they agree."""
    there = (before > 0) & (after > 0)
    x, y = before[there], after[there]
    with new_figure((3.9, 3.9)) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        both = np.concatenate([x, y, [1.0] if not len(x) else []])
        ends = (both.min() / 1.3, both.max() * 1.3)
        axes.scatter(x, y, s=7, color=COLOURS[0], alpha=0.5, linewidths=0, rasterized=True)
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xscale="log", yscale="log", aspect="equal", xlim=ends, ylim=ends)
        axes.set(xlabel=plain(labels[0]), ylabel=plain(labels[1]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] / ends[0] < 300 else (1,)))
            axis.set_major_formatter(lambda value, _: short(value))
            axis.set_minor_formatter(NullFormatter())
        return finish(figure, name, said, len(x))


def ranges(name: str, said: tuple[str, str], words: Sequence[str], spans: Values, label: str) -> Plot:
    """Return a line for each word from the 5th to the 95th percentile with a dot at the mean; `spans` is [words, 3]."""
    with new_figure((4.2, 0.7 + 0.22 * len(words))) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        at = np.arange(len(words))
        axes.hlines(at, spans[:, 0], spans[:, 2], color=COLOURS[10], linewidth=4)
        axes.scatter(spans[:, 1], at, s=26, color=COLOURS[0], zorder=3)
        axes.set_yticks(at, [plain(word) for word in words])
        axes.set(xlabel=plain(label), ylim=(len(words) - 0.4, -0.6), xlim=(0, None))
        axes.grid(axis="x", color="#e9edf1")
        axes.set_axisbelow(True)
        return finish(figure, name, said, len(words))
