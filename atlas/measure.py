"""Measuring cells: a block of raw counts in, one row of QC metrics per cell out.

No policy here: whether a value is good or bad is decided in `qc`, doublets are simulated in `doublets`. No Python loop
runs over cells. The metrics go to obs as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import AtlasInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy.sparse import csr_matrix

METRICS = ("raw_sum", "nnz", "raw_mean_nnz", "raw_variance_nnz", "pct_mito", "pct_ribo", "pct_top20")
"""What `measure_block` returns, in this order."""

_SLAB = 1 << 21  # values worked on at once: 2 Mi float64 temporaries are 16 MiB each and stay near the cache
_TOP = 20  # genes in pct_top20, as scanpy's percent_top=[20]


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
    are too few values to say. `pct_*` follow scanpy's `calculate_qc_metrics`. Temporaries stay under about 100 MiB
    whatever the size of the block.
    """
    if getattr(counts, "format", None) != "csr":
        raise AtlasInputError("counts", type(counts).__name__, "a scipy CSR matrix, cells x genes")
    for name, mask in (("mito", mito), ("ribo", ribo)):
        if mask is not None and np.shape(mask) != (counts.shape[1],):
            raise AtlasInputError(name, np.shape(mask), f"one bool per gene: shape ({counts.shape[1]},)")
    n = counts.shape[0]
    out = {name: np.zeros(n, dtype=np.int64 if name == "nnz" else np.float64) for name in METRICS}
    # Rows of like length share a slab, so that padding them to a rectangle (for top-20) wastes next to nothing.
    lengths = np.diff(counts.indptr)
    order = np.argsort(lengths, kind="stable")
    for rows in _slabs(order, lengths):
        _measure_slab(counts, rows, lengths[rows], (mito, ribo), out)
    for name, mask in (("pct_mito", mito), ("pct_ribo", ribo)):
        if mask is None or not np.any(mask):
            out[name][:] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in ("pct_mito", "pct_ribo", "pct_top20"):
            out[name] = (100.0 * out[name] / out["raw_sum"]).astype(np.float32)
    return out


def _slabs(order: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield runs of `order` whose longest row times their number stays within a slab (one row always fits)."""
    start = 0
    while start < len(order):
        # Lengths ascend along `order`: widen by the row at the end of the run until it would overflow.
        widths = lengths[order[start : start + _SLAB]].astype(np.int64)
        fits = np.searchsorted(np.maximum(widths, 1) * np.arange(1, len(widths) + 1), _SLAB, side="right")
        stop = start + max(int(fits), 1)
        yield order[start:stop]
        start = stop


def _measure_slab(
    counts: csr_matrix,
    rows: np.ndarray,
    lengths: np.ndarray,
    masks: tuple[np.ndarray | None, np.ndarray | None],
    out: dict[str, np.ndarray],
) -> None:
    """Fill `out` (shares still as sums of counts) for the rows of one slab."""
    width = int(lengths[-1])  # rows ascend by length
    if width == 0:
        return
    filled = np.arange(width) < lengths[:, None]
    # Position in counts.data of every stored value of the slab, row by row.
    where = np.repeat(counts.indptr[rows].astype(np.int64) - np.cumsum(lengths, dtype=np.int64) + lengths, lengths)
    where += np.arange(len(where))
    values = counts.data[where]
    padded = np.zeros(filled.shape, dtype=values.dtype)
    padded[filled] = values
    total = padded.sum(axis=1, dtype=np.float64)
    nnz = np.count_nonzero(padded, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(nnz > 0, total / nnz, 0.0)
    # Two passes: the one-pass formula loses digits where counts are large and alike. A padding zero adds mean**2 each,
    # which is taken out by masking, not by subtraction, for the same reason.
    deviation = np.subtract(padded, mean[:, None], dtype=np.float64)
    deviation[padded == 0] = 0.0
    # Summed gene by gene: a sum over the padded row would round by its width, which is that of the slab's longest row.
    rank = np.repeat(np.arange(len(rows)), lengths)
    squares = np.bincount(rank, weights=deviation[filled] ** 2, minlength=len(rows))
    out["raw_sum"][rows], out["nnz"][rows], out["raw_mean_nnz"][rows] = total, nnz, mean
    out["raw_variance_nnz"][rows] = np.where(nnz > 1, squares / np.maximum(nnz - 1, 1), 0.0)
    if width > _TOP:
        padded.partition(width - _TOP, axis=1)
        out["pct_top20"][rows] = padded[:, width - _TOP :].sum(axis=1, dtype=np.float64)
    else:
        out["pct_top20"][rows] = total
    genes = None
    for name, mask in zip(("pct_mito", "pct_ribo"), masks, strict=True):
        if mask is not None and np.any(mask):
            genes = counts.indices[where] if genes is None else genes
            hit = np.asarray(mask, dtype=bool)[genes]
            out[name][rows] = np.bincount(rank[hit], weights=values[hit], minlength=len(rows))
