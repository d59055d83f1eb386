"""Changes of expression between two sets of cells, counted or decoded, and how far one change is another.

Changes are of mean shares of a cell's molecules, so that what is decoded and what is counted are on one scale and depth
does not matter. counterfactual_report.py compares counterfactual changes with observed ones by what is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from loaders import Cells

    Numbers = npt.NDArray[np.int64]
    Matrix = npt.NDArray[np.float64]

PER, ADDED = 1e4, 1.0
"""Changes are log2 of mean counts per so many molecules, so many added: rare genes weigh little."""
TOP = 50
"""Genes that change most, whose overlap is told."""
AT_ONCE = 4_096
"""Cells whose counts are read at a time."""
COLUMNS = 256
"""Genes that are tested at a time."""


class ShareSums:
    """Adds up shares of molecules by group; holds [groups, genes] whatever the number of cells."""

    def __init__(self, n_groups: int, n_genes: int) -> None:
        self._sums, self._cells = np.zeros((n_groups, n_genes)), np.zeros(n_groups)

    def add(self, counts: npt.NDArray | sp.csr_matrix, depth: npt.NDArray, members: sp.csr_matrix) -> None:
        """Take cells.

        Parameters
        ----------
        counts
            [cells, genes].
        depth
            Molecules of each cell, over all genes, [cells].
        members
            Which cells a group has, 0 or 1, [groups, cells].
        """
        weights = members.multiply(1 / np.maximum(np.asarray(depth, dtype=np.float64), 1)[None, :]).tocsr()
        found = weights @ (counts.astype(np.float64) if sp.issparse(counts) else np.asarray(counts, np.float64))
        self._sums += found.toarray() if sp.issparse(found) else found
        self._cells += np.asarray(members.sum(1)).ravel()

    def means(self) -> Matrix:
        """Return mean counts per 10^4 molecules, [groups, genes]; NaN for a group without cells."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sums / self._cells[:, None] * PER


def membership(groups: npt.NDArray[np.object_], names: Sequence[str]) -> sp.csr_matrix:
    """Return which cells a group has, 0 or 1, [groups, cells]; the first of the names stands for all cells."""
    rows = [np.ones(len(groups), dtype=bool), *(groups == name for name in names[1:])]
    return sp.csr_matrix(np.stack(rows).astype(np.float64))


def read_counts(cells: Cells, numbers: Numbers, genes: Sequence[str]) -> sp.csr_matrix:
    """Return the counts of some genes in cells of one organism, [cells, genes]."""
    table, code = cells.genes(), int(cells.codes("organism", numbers[:1])[0])
    ids = pd.Index(table.loc[table["organism"] == code, "feature_id"].to_numpy(dtype=object))
    rows = cells.read(numbers).decode()
    whole = sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(numbers), len(ids)))
    return whole[:, ids.get_indexer(pd.Index(list(genes), dtype=object))]


def observed_means(
    cells: Cells, numbers: Numbers, genes: Sequence[str], groups: npt.NDArray[np.object_], names: Sequence[str]
) -> Matrix:
    """Return the mean counts per 10^4 molecules of genes by group, [groups, genes]."""
    sums = ShareSums(len(names), len(genes))
    for start in range(0, len(numbers), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        depth = cells.codes("depth", numbers[some])
        sums.add(read_counts(cells, numbers[some], genes), depth, membership(groups[some], names))
    return sums.means()


def variable_genes(cells: Cells, numbers: Numbers, genes: Sequence[str], most: int) -> list[str]:
    """Return the genes whose log(1 + counts per 10^4) varies most over cells, at most so many, in the given order."""
    sums = np.zeros((2, len(genes)))
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        counts = read_counts(cells, some, genes).astype(np.float64)
        depth = np.maximum(cells.codes("depth", some).astype(np.float64), 1)
        counts.data = np.log1p(counts.data / np.repeat(depth, np.diff(counts.indptr)) * PER)
        sums += np.stack([np.asarray(counts.sum(0)).ravel(), np.asarray(counts.multiply(counts).sum(0)).ravel()])
    variance = sums[1] / len(numbers) - (sums[0] / len(numbers)) ** 2
    kept = np.sort(np.argsort(-variance, kind="stable")[:most])
    return [genes[place] for place in kept]


def change(after: Matrix, before: Matrix) -> Matrix:
    """Return the log2 change of mean counts per 10^4, one added to each."""
    return np.log2((after + ADDED) / (before + ADDED))


def score_changes(said: Matrix, seen: Matrix, top: int = TOP) -> dict[str, float]:
    """Return how far changes that are said are those that are seen, [genes] each.

    Returns
    -------
    dict
        `spearman` over all genes, NaN where one changes nothing; of the `top` genes that change most, either way, the
        share that is among the `top` said and the same way (`overlap`), and the share that is said to change the same
        way at all (`direction`); and the share of the squared changes that is `explained`, below 0 where no change
        would have been closer.
    """
    from scipy.stats import spearmanr  # noqa: PLC0415 - a second

    top = min(top, len(seen))
    flat = np.ptp(said) == 0 or np.ptp(seen) == 0
    most, mine = (np.argsort(-np.abs(one), kind="stable")[:top] for one in (seen, said))
    same = (np.sign(said) == np.sign(seen)) & (seen != 0)
    total = float((seen**2).sum())
    return {
        "spearman": float("nan") if flat else float(spearmanr(said, seen).statistic),
        "overlap": float(same[np.intersect1d(most, mine)].sum() / top),
        "direction": float(same[most].mean()),
        "explained": 1 - float(((said - seen) ** 2).sum()) / total if total else float("nan"),
    }


def shares_differ(one: sp.csr_matrix, other: sp.csr_matrix) -> tuple[Matrix, Matrix]:
    """Return p and q of each gene having the same shares in two sets of cells.

    Parameters
    ----------
    one, other
        Shares of molecules, [cells, genes].

    Notes
    -----
    Two-sided Mann-Whitney test with correction for ties, q by Benjamini and Hochberg (1995). Cells of a donor are
    alike, which the test does not know: p is too small where there are few donors.
    """
    from scipy.stats import false_discovery_control, mannwhitneyu  # noqa: PLC0415 - a second

    parts = []
    for start in range(0, one.shape[1], COLUMNS):
        left, right = (side[:, start : start + COLUMNS].toarray() for side in (one, other))
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(mannwhitneyu(left, right, axis=0, method="asymptotic").pvalue)
    p = np.nan_to_num(np.concatenate(parts), nan=1.0)
    return p, false_discovery_control(p)
