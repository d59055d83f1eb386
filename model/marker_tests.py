"""What tells two sets of cells apart, gene by gene: `compare_cells` ranks genes, `MarkerScale` places further cells.

Counts become logarithms of shares as everywhere in the field (10,000 a cell, log1p) and genes are ranked by Wilcoxon's
test, as scanpy ranks them. Genes that some dataset of the cells did not measure are left out: a zero there is no zero.
The audit of labels (label_audit.py) shows with it what makes a cell look mislabelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    import numpy.typing as npt

    from loaders import Cells

    Numbers = npt.NDArray[np.int64]

SCALE = 1e4
"""What the counts of a cell are made to add up to before the logarithm."""
SURE = 0.05
"""False discovery rate below which a gene is a marker."""
LITTLE = 0.1
"""Added to mean shares of 10,000 before their ratio: a gene of next to no molecules is not raised a thousandfold."""
GENES_AT_ONCE = 512
"""Genes whose ranks are in memory."""
AT_ONCE = 4_096
"""Cells whose counts are in memory where any number may be asked for."""


@dataclass(frozen=True, eq=False)
class Expression:
    """Expression of some cells over genes that all their datasets measured."""

    values: sp.csr_matrix
    """log(1 + 10,000 x share of the cell's molecules), float32 [cells, genes]."""
    genes: Numbers
    """Numbers of the genes among those of the organism, rising."""


def shared_genes(cells: Cells, numbers: Numbers) -> Numbers:
    """Return the numbers of the genes that all datasets of some cells of one organism measured, rising."""
    organism = int(cells.codes("organism", numbers[:1])[0])
    there = None
    for dataset in np.unique(cells.codes("dataset", numbers)).tolist():
        mine = cells.measured(int(dataset), organism)
        there = mine if there is None else there & mine
    return np.flatnonzero(there)


def read_expression(cells: Cells, numbers: Numbers, genes: Numbers) -> Expression:
    """Return the expression of some cells of one organism over some genes."""
    rows = cells.read(numbers).decode()
    width = int((cells.genes()["organism"] == int(cells.codes("organism", numbers[:1])[0])).sum())
    counts = sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(numbers), width), dtype=np.float32)
    depth = np.maximum(np.asarray(counts.sum(1, dtype=np.float64)).ravel(), 1)
    values = sp.csr_matrix(counts[:, genes])
    values.data = np.log1p(values.data * np.repeat(SCALE / depth, np.diff(values.indptr))).astype(np.float32)
    return Expression(values, genes)


def compare_cells(one: Expression, other: Expression) -> pd.DataFrame:
    """Return how genes differ between two sets of cells of the same genes, by Wilcoxon's rank-sum test.

    Parameters
    ----------
    one, other
        The sets, at least two cells each.

    Returns
    -------
    A row per gene that a cell of either expresses, the one most raised in `one` first: gene (its number), score (z,
    ties corrected), log2_fold (of mean shares, 0.1 of 10,000 added to either), p (two-sided, by the normal
    distribution), q (Benjamini and Hochberg), share_one and share_other (of the cells that express it).

    Notes
    -----
    A set that was chosen by its expression differs in expression: then the order tells, and p is no probability.
    """
    from scipy import stats  # noqa: PLC0415 - half a second

    n, m = one.values.shape[0], other.values.shape[0]
    both = sp.vstack([one.values, other.values], format="csc")
    kept = np.flatnonzero(both.getnnz(0))
    z = np.zeros(len(kept))
    for start in range(0, len(kept), GENES_AT_ONCE):
        ranks = stats.rankdata(both[:, kept[start : start + GENES_AT_ONCE]].toarray(), axis=0)
        ranks -= (n + m + 1) / 2
        # Over all ways to draw n of the ranks; with ties these vary less, which corrects for them.
        spread = n * m / ((n + m) * (n + m - 1)) * (ranks**2).sum(0)
        z[start : start + GENES_AT_ONCE] = ranks[:n].sum(0) / np.sqrt(np.where(spread > 0, spread, 1))
    p = 2 * stats.norm.sf(np.abs(z))
    levels = [np.asarray(some.values[:, kept].expm1().mean(0)).ravel() for some in (one, other)]
    table = pd.DataFrame(
        {
            "gene": one.genes[kept], "score": z, "log2_fold": np.log2((levels[0] + LITTLE) / (levels[1] + LITTLE)),
            "p": p, "q": stats.false_discovery_control(p) if len(p) else p,
            "share_one": one.values.getnnz(0)[kept] / n, "share_other": other.values.getnnz(0)[kept] / m,
        }
    )  # fmt: skip
    return table.sort_values(["score", "gene"], ascending=[False, True], kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False)
class MarkerScale:
    """A scale from one kind of cells, -1, to another, +1, by the genes that tell them apart."""

    genes: Numbers
    """Numbers of the genes that all cells measured."""
    weights: npt.NDArray[np.float64]
    """Of these genes, [genes]: the mean of the other's markers less the mean of the one's."""
    middle: float
    """Value halfway between the two kinds."""
    half: float
    """From there to either, above 0."""
    low: tuple[int, ...]
    """Markers of the one, the strongest first, by number."""
    high: tuple[int, ...]
    """Markers of the other."""

    def place(self, cells: Cells, numbers: Numbers) -> npt.NDArray[np.float32]:
        """Return where cells are on the scale, [cells]; some lie beyond its ends."""
        parts = [np.zeros(0)]
        for start in range(0, len(numbers), AT_ONCE):
            some = read_expression(cells, numbers[start : start + AT_ONCE], self.genes)
            parts.append((some.values @ self.weights - self.middle) / self.half)
        return np.concatenate(parts).astype(np.float32)


def marker_scale(one: Expression, other: Expression, markers: int) -> MarkerScale | None:
    """Return the scale from one kind of cells to another, or None where no gene tells them apart for sure.

    Parameters
    ----------
    one, other
        Cells of either kind, over the same genes.
    markers
        Genes of each side at most.
    """
    table = compare_cells(one, other)
    sure = table[table["q"] < SURE]
    low = sure[sure["score"] > 0].head(markers)["gene"].to_numpy()
    high = sure[sure["score"] < 0].tail(markers)["gene"].to_numpy()[::-1]
    weights = np.zeros(len(one.genes))
    for side, sign in ((low, -1.0), (high, 1.0)):
        weights[np.searchsorted(one.genes, side)] = sign / max(len(side), 1)
    ends = [float((some.values @ weights).mean()) for some in (one, other)]
    if not ends[1] > ends[0]:
        return None
    genes = np.flatnonzero(weights)
    return MarkerScale(
        one.genes[genes], weights[genes], sum(ends) / 2, (ends[1] - ends[0]) / 2,
        tuple(low.tolist()), tuple(high.tolist()),
    )  # fmt: skip
