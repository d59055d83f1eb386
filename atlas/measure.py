"""Measuring cells: a block of raw counts in, one row of QC metrics per cell out.

No policy here: whether a value is good or bad is decided in `qc`, doublets are simulated in `doublets`. No Python loop
runs over cells. The metrics go to obs as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import AtlasInputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

METRICS = ("raw_sum", "nnz", "raw_mean_nnz", "raw_variance_nnz", "pct_mito", "pct_ribo", "pct_top20")
"""What `measure_block` returns, in this order."""


def measurable(members: np.ndarray | None, measured: np.ndarray | None, least: int) -> np.ndarray | None:
    """Return the gene set restricted to what a source measures, or None where too little of it is left to speak of.

    Parameters
    ----------
    members
        Bool per gene: in the set (mitochondrial, ribosomal); None where the organism has no list.
    measured
        Bool per gene: measured by the source; None where every gene is.
    least
        Genes of the set the source must measure, >= 1.

    Examples
    --------
    >>> measurable(np.array([True, True, False]), np.array([True, False, True]), least=1)
    array([ True, False, False])
    >>> measurable(np.array([True, True, False]), np.array([True, False, True]), least=2) is None
    True
    """
    if members is None:
        return None
    both = np.asarray(members, dtype=bool)
    if measured is not None:
        both = both & np.asarray(measured, dtype=bool)
    return both if int(both.sum()) >= max(least, 1) else None


def measure_block(counts: csr_matrix, mito: np.ndarray | None, ribo: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the QC metrics of each cell of a block of proven raw counts.

    Parameters
    ----------
    counts
        Cells x genes, non-negative integers of any dtype, without duplicate coordinates. Not modified.
    mito, ribo
        Bool per gene: mitochondrial, cytosolic ribosomal protein. None, or no gene at all, means not measurable.

    Returns
    -------
    Arrays by metric, one value a cell: `raw_sum` (counts, float64), `nnz` (genes, int64), `raw_mean_nnz` and
    `raw_variance_nnz` (over the cell's non-zero counts, float64), `pct_mito`, `pct_ribo`, `pct_top20` (float32, 0-100;
    NaN where not measurable, and where the cell holds no counts).

    Raises
    ------
    AtlasInputError
        If `counts` is no CSR matrix or a mask does not have one value per gene.

    Notes
    -----
    Mean and variance follow the CELLxGENE Census: over non-zero values only, variance with ddof 1, both 0 where there
    are too few values to say. `pct_*` follow scanpy's `calculate_qc_metrics`.
    """
    if getattr(counts, "format", None) != "csr":
        raise AtlasInputError("counts", type(counts).__name__, "a scipy CSR matrix, cells x genes")
    for name, mask in (("mito", mito), ("ribo", ribo)):
        if mask is not None and np.shape(mask) != (counts.shape[1],):
            raise AtlasInputError(name, np.shape(mask), f"one bool per gene: shape ({counts.shape[1]},)")
    from . import count_kernels as kernels  # noqa: PLC0415 - numba, when the first cells are measured

    figures = np.empty((counts.shape[0], kernels.COLUMNS), np.float64)
    sets = np.zeros(counts.shape[1], np.uint8)
    for bit, mask in ((kernels.MITO, mito), (kernels.RIBO, ribo)):
        if mask is not None:
            sets[np.asarray(mask, dtype=bool)] |= bit
    kernels.measure(kernels.rows_of(counts), sets, figures)
    out = {name: figures[:, i].copy() for i, name in enumerate(METRICS)}
    for name, mask in (("pct_mito", mito), ("pct_ribo", ribo)):
        if mask is None or not np.any(mask):
            out[name][:] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in ("pct_mito", "pct_ribo", "pct_top20"):
            out[name] = (100.0 * out[name] / out["raw_sum"]).astype(np.float32)
    return out | {"nnz": out["nnz"].astype(np.int64)}
