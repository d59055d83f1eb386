"""Figures of counts: the top genes of groups, genes before and after denoising, and what was told of unmeasured genes.

Some thousand cells are read, the same ones every time and never all genes at once; the notes say how many. Made by
task_figures.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from . import figure_charts as charts
from .figures import UNKNOWN, file_name, spaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import h5py
    import numpy.typing as npt

    from .figures import Plot
    from .task_inputs import TaskInput

    Numbers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.object_]

MOST_COUNTED = 5_000
"""Cells whose counts top genes are told from."""
MOST_COMPARED = 2_000
"""Cells of a layer that are drawn."""
AT_ONCE = 256
"""Rows of a layer in memory."""
FEWEST, MOST_GROUPS, TOP = 10, 12, 3
"""Cells of a group that top genes are told of, such groups at most, and genes of each."""
GENES, IMPUTED = 8, 20
"""Genes that are compared before and after, and unmeasured genes that are shown."""
LEAST = 0.05
"""Share of a group's cells that express a top gene."""


def draw_markers(asked: TaskInput, numbers: Numbers, words: Words, name: str) -> list[Plot]:
    """Return the top genes of each group, or nothing where there are no two groups.

    Parameters
    ----------
    asked
        The cells.
    numbers
        Which of them.
    words
        Group of each.
    name
        Column the groups are from.

    Notes
    -----
    Genes of the largest t statistic (Welch 1947, doi:10.1093/biomet/34.1-2.28) of a group against all other cells, of
    log(1 + 10^4 share) of a cell's counts. It ranks genes; cells are no independent samples, so it tests nothing.
    """
    some = np.sort(np.random.default_rng(0).permutation(len(numbers))[:MOST_COUNTED])
    codes = asked.cells.codes("organism", numbers[some])
    organism = np.bincount(codes.astype(np.int64)).argmax()  # top genes of cells that have the same genes
    some = some[codes == organism]
    found, cells = np.unique(words[some], return_counts=True)
    ranked = [found[i] for i in np.lexsort((found, -cells)) if cells[i] >= FEWEST and found[i] != UNKNOWN]
    groups = ranked[:MOST_GROUPS]
    if len(groups) < 2:
        return []
    some = some[np.isin(words[some], groups)]
    counts, table = read_counts(asked, numbers[some])
    normal = sp.csr_matrix(counts.multiply(1e4 / np.maximum(counts.sum(1), 1))).log1p()
    which = np.searchsorted(np.sort(groups), words[some])
    chosen, share, mean = top_genes(normal, which, len(groups))
    order = [int(np.searchsorted(np.sort(groups), one)) for one in groups]
    genes = list(dict.fromkeys(gene for one in order for gene in chosen[one]))
    if not genes:
        return []
    note = (
        f"The genes that set each group most apart, by Welch's t against the others, of {len(some):,} cells"
        f"{f' of the {len(ranked)} groups, the {MOST_GROUPS} largest' if len(ranked) > MOST_GROUPS else ''}. It ranks "
        "genes: cells are not independent samples. Shade: the mean, relative to the gene's largest."
    )
    names = table["feature_name"].astype(str).to_numpy(dtype=object)[genes]
    title = f"Top genes by {spaced(name)}"
    shown = share[order][:, genes], mean[order][:, genes]
    return [charts.dots(f"top-genes-{file_name(name)}", (title, note), shown, (groups, names.tolist()),
                        ("cells with it", "relative mean"))]  # fmt: skip


def top_genes(
    normal: sp.csr_matrix, which: Numbers, groups: int
) -> tuple[list[list[int]], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each group's top genes, and share of cells with a gene and its mean, [groups, genes].

    Parameters
    ----------
    normal
        Normalised expression, [cells, genes].
    which
        Group of each cell, from 0.
    groups
        How many there are.
    """
    members = sp.csr_matrix((np.ones(len(which)), (which, np.arange(len(which)))), shape=(groups, len(which)))
    cells = np.asarray(members.sum(1), dtype=np.float64)
    total = (members @ normal).toarray().astype(np.float64)
    squares = (members @ normal.multiply(normal)).toarray().astype(np.float64)
    share = (members @ (normal > 0).astype(np.float64)).toarray() / cells
    mean, rest = total / cells, np.maximum(cells.sum() - cells, 1)
    other = (total.sum(0) - total) / rest
    spread = np.maximum(squares - cells * mean**2, 0) / np.maximum(cells - 1, 1)
    spread_of_others = np.maximum(squares.sum(0) - squares - rest * other**2, 0) / np.maximum(rest - 1, 1)
    t = (mean - other) / np.sqrt(spread / cells + spread_of_others / rest + 1e-12)
    t = np.where((share >= LEAST) & (mean > other), t, -np.inf)
    best = np.argsort(-t, axis=1, kind="stable")[:, :TOP]
    chosen = [[int(gene) for gene in line if np.isfinite(t[one, gene])] for one, line in enumerate(best)]
    return chosen, share, mean


def read_counts(asked: TaskInput, numbers: Numbers) -> tuple[sp.csr_matrix, pd.DataFrame]:
    """Return counts of cells of one organism, and the genes that are the columns."""
    table = asked.cells.genes()
    table = table[table["organism"] == int(asked.cells.codes("organism", numbers[:1])[0])]
    rows = asked.cells.read(numbers).decode()
    return sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(numbers), len(table))), table


def draw_denoised(result: h5py.File, asked: TaskInput) -> list[Plot]:
    """Return genes before and after, and the totals of cells."""
    layer, depth = result["layers/panatlas_denoised"], float(read_elem(result["uns/panatlas"]).get("depth", 1.0))
    codes = asked.cells.codes("organism", asked.numbers)
    mine = np.flatnonzero(codes == np.bincount(codes.astype(np.int64)).argmax())
    rows = np.sort(np.random.default_rng(0).permutation(mine)[:MOST_COMPARED])
    counts, table = read_counts(asked, asked.numbers[rows])
    var = read_elem(result["var"])
    found = pd.Index(table["feature_id"].astype(str)).get_indexer(var.index.astype(str))
    columns, names = np.flatnonzero(found >= 0), _symbols(var)
    counts = counts[:, found[columns]]
    top = np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:GENES]
    after, told = np.zeros(len(rows)), np.empty((len(rows), len(top)), np.float32)
    for start, block in _blocks(layer, rows):
        mine = block[:, columns]
        after[start : start + len(block)] = np.nansum(mine, axis=1, dtype=np.float64)
        told[start : start + len(block)] = mine[:, top]
    pairs = {}
    for at, gene in enumerate(top):
        held = np.isfinite(told[:, at])
        before = counts[:, [gene]].toarray().ravel()[held]
        name = names[columns[gene]]
        pairs[f"{name} ({var.index[columns[gene]]})" if name in pairs else name] = before, told[held, at]
    before, of = np.asarray(counts.sum(1), dtype=np.float64).ravel() * depth, _of(rows, len(asked.numbers))
    times = f" times {depth:g}" if depth != 1 else ""
    note = (
        f"The {len(top)} genes with most counts. On the dashed line nothing changed.{f' Told{times}.' if times else ''}"
    )
    off = np.abs(after - before)[before > 0] / before[before > 0]
    kept = f"Counts of the {len(columns):,} genes of the layer, as measured{times} and as told."
    if len(off):
        kept += f" They differ by {_percent(np.median(off))} in the median cell, by {_percent(off.max())} at most."
    return [
        charts.before_after("before-and-after", ("Before and after", f"{note} {of}"), pairs),
        charts.totals("totals", ("Total counts", f"{kept} {of}"), before, after, (f"counts{times}", "counts, told")),
    ]


def draw_imputed(result: h5py.File, groups: Mapping[str, Words]) -> list[Plot]:
    """Return the unmeasured genes of which most is told, over all cells and by group."""
    layer, var = result["layers/panatlas_imputed"], read_elem(result["var"])
    rows = np.sort(np.random.default_rng(0).permutation(layer.shape[0])[:MOST_COMPARED])
    total, told = np.zeros(layer.shape[1]), np.zeros(layer.shape[1])
    for _, block in _blocks(layer, rows):
        total += np.nansum(block, axis=0, dtype=np.float64)
        told += np.isfinite(block).sum(0)
    mean = total / np.maximum(told, 1)
    top = np.argsort(-mean, kind="stable")[:IMPUTED]
    values = np.concatenate([block[:, top] for _, block in _blocks(layer, rows)]).astype(np.float64)
    values = values[:, told[top] > 0]
    top = top[told[top] > 0]
    if not len(top):
        return []
    symbols, of = _symbols(var), _of(rows, layer.shape[0])
    names = [symbols[one] for one in top]
    low, high = np.nanpercentile(values, (5, 95), axis=0)
    note = f"Expected counts of the genes of which most is told: mean, and from the 5th to the 95th percentile. {of}"
    spans = np.stack([low, np.nanmean(values, axis=0), high], axis=1)
    plots = [charts.ranges("imputed-genes", ("Genes that were not measured", note), names, spans, "expected counts")]
    if groups:
        name, words = next(iter(groups.items()))
        found, cells = np.unique(words[rows], return_counts=True)
        some = [found[i] for i in np.lexsort((found, -cells))][:MOST_GROUPS]
        parts = [values[words[rows] == one] for one in some]
        shown = (
            np.stack([_means(part, part >= 0.5) for part in parts]),
            np.stack([_means(part, part) for part in parts]),
        )
        title = f"Genes that were not measured, by {spaced(name)}"
        why = f"Area: cells that are told half a count or more; shade: the mean, relative to the gene's largest. {of}"
        plots.append(charts.dots(f"imputed-by-{file_name(name)}", (title, why), shown, (some, names),
                                 ("cells told 0.5+", "relative mean")))  # fmt: skip
    return plots


def read_rows(stored: h5py.Dataset, rows: Numbers) -> npt.NDArray[np.float32]:
    """Return some rows, rising, of a stored matrix, chunk by chunk: HDF5 itself is slow at picking rows."""
    window = stored.chunks[0] if stored.chunks else AT_ONCE
    out = np.empty((len(rows), stored.shape[1]), np.float32)
    for start in np.unique(rows // window * window).tolist():
        first, last = np.searchsorted(rows, (start, start + window))
        out[first:last] = stored[start : start + window][rows[first:last] - start]
    return out


def _blocks(stored: h5py.Dataset, rows: Numbers) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield some rows of a stored matrix with the place of the first among them."""
    for start in range(0, len(rows), AT_ONCE):
        yield start, read_rows(stored, rows[start : start + AT_ONCE])


def _means(where: npt.NDArray[np.float64], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return means over the cells that are told a gene, 0 for none."""
    told = np.isfinite(where)
    return np.where(told, values, 0).sum(0) / np.maximum(told.sum(0), 1)


def _symbols(var: pd.DataFrame) -> list[str]:
    """Return the genes' names, ids where they have none."""
    ids = var.index.astype(str)
    names = var["feature_name"].astype(object) if "feature_name" in var else pd.Series(None, var.index, dtype=object)
    return [one if isinstance(one, str) else gene for one, gene in zip(names, ids, strict=True)]


def _of(rows: Numbers, n: int) -> str:
    return f"All {n:,} cells." if len(rows) == n else f"{len(rows):,} cells, drawn at random from {n:,}."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
