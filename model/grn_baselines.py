"""Gene networks without a model: correlation, rank correlation, partial correlation, and means alone.

On independent boards correlation beats attention, so no network of a model is worth reading without these beside it.
`mean_product` is the null that needs no cell-to-cell variation: a read-out which does not beat it has found which genes
are expressed. All see log1p of counts per 10,000 (`ReadoutOptions.expression`). Called by grn_scores.py; grn_trees.py
and grn_pidc.py have the costlier ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelInputError
from .grn_query import standardised

if TYPE_CHECKING:
    import numpy.typing as npt

    from .grn_query import GrnQuery

    Floats = npt.NDArray[np.float32]
    Signs = npt.NDArray[np.int8]

MOST_INVERTED = 12_000
"""Rows of a matrix that is inverted: 1.2 GB, and a minute or two."""
COLUMNS = 2_048
"""Genes that are ranked at a time."""


def pearson(query: GrnQuery) -> tuple[Floats, Signs]:
    """Return the size and sign of Pearson's correlation over cells; NaN for a gene that does not vary."""
    return _correlated(query, query.expression())


def spearman(query: GrnQuery) -> tuple[Floats, Signs]:
    """Return the size and sign of Spearman's correlation, equal values sharing their mean rank; NaN as of `pearson`."""
    from scipy.stats import rankdata  # noqa: PLC0415 - half a second, for those who want it

    values = query.expression()
    for start in range(0, values.shape[1], COLUMNS):
        values[:, start : start + COLUMNS] = rankdata(values[:, start : start + COLUMNS], axis=0)
    return _correlated(query, values)


def partial_correlation(query: GrnQuery) -> tuple[Floats, Signs]:
    """Return the size and sign of the correlation of two genes given all others that were asked about.

    The correlation matrix is shrunk towards the identity by Ledoit and Wolf's intensity (2004,
    doi:10.1016/S0047-259X(03)00096-4). With fewer cells than genes its inverse is taken by Woodbury's identity, so that
    no matrix of genes times genes is inverted.

    Raises
    ------
    ModelInputError
        When there are over 12,000 cells as well as genes.
    """
    from scipy.linalg import cholesky, solve_triangular  # noqa: PLC0415
    from sklearn.covariance import ledoit_wolf_shrinkage  # noqa: PLC0415

    values = standardised(query.expression()).astype(np.float64)
    n, p = values.shape
    if min(n, p) > MOST_INVERTED:
        raise ModelInputError("numbers", f"{n} cells and {p} genes", f"at most {MOST_INVERTED} of either; draw some")
    shrinkage = float(ledoit_wolf_shrinkage(values, assume_centered=True)) if n > 1 and values.any() else 1.0
    floor = shrinkage * np.square(values).sum() / n / p  # what shrinkage puts on the diagonal
    if n < p and 0 < shrinkage < 1:
        small = values @ values.T
        small[np.diag_indices(n)] += floor * n / (1 - shrinkage)
        halves = solve_triangular(cholesky(small, lower=True), values, lower=True).astype(np.float32)
        diagonal = 1 - np.square(halves).sum(0, dtype=np.float64)
        found = halves[:, query.rows].T @ halves[:, query.columns]
    else:
        shrunk = (1 - shrinkage) / n * (values.T @ values)
        shrunk[np.diag_indices(p)] += max(floor, 1e-9)
        inverse = np.linalg.inv(shrunk)
        diagonal = np.diag(inverse).copy()
        found = -inverse[np.ix_(query.rows, query.columns)].astype(np.float32)
    scale = np.where(values.any(0), 1 / np.sqrt(diagonal.clip(1e-12)), np.nan).astype(np.float32)
    found *= scale[query.rows, None]
    found *= scale[query.columns]
    return split_sign(found)


def mean_product(query: GrnQuery) -> tuple[Floats, None]:
    """Return the regulator's mean expression times the target's."""
    means = query.expression().mean(0, dtype=np.float64).astype(np.float32)
    return np.multiply.outer(means[query.rows], means[query.columns]), None


def split_sign(values: Floats) -> tuple[Floats, Signs]:
    """Return size and sign of values; they become their size, in place."""
    signs = (values > 0).astype(np.int8)
    signs -= values < 0
    return np.abs(values, out=values), signs


def _correlated(query: GrnQuery, values: Floats) -> tuple[Floats, Signs]:
    values = standardised(values)
    found = values[:, query.rows].T @ values[:, query.columns]
    found /= len(values)
    flat = ~values.any(0)
    found[flat[query.rows]] = np.nan
    found[:, flat[query.columns]] = np.nan
    return split_sign(np.clip(found, -1, 1, out=found))
