"""Measuring cells and screening them: counts in, one row of metrics and one list of reason codes per cell out.

`measure_block` knows matrices and no policy; `screen` knows metrics and a policy and no matrix, so a store can be
screened again without reading X. Doublet scores come from `doublets`, thresholds from `policy`. Flags go to obs
(`qc_pass`, `qc_flags`) and, by count, into the receipt; nothing is deleted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from .errors import AtlasInputError
from .findings import Finding
from .policy import REASONS, CellMinimums, DoubletLimits, MadLimits, MitoLimits, QCPolicy, Reason, flatten

__all__ = [
    "METRICS", "REASONS", "CellMinimums", "DoubletLimits", "MadLimits", "MitoLimits", "QCPolicy", "Reason",
    "SampleLimits", "Screening", "flatten", "measurable", "measure_block", "screen",
]  # fmt: skip

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
    both = np.asarray(members, dtype=bool) if measured is None else np.asarray(members, bool) & np.asarray(measured, bool)
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
        stop = start + 1
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
    squares = np.einsum("ij,ij->i", deviation, deviation)
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
            row = np.repeat(np.arange(len(rows)), lengths)[hit]
            out[name][rows] = np.bincount(row, weights=values[hit], minlength=len(rows))


@dataclass(frozen=True)
class SampleLimits:
    """The bounds one sample was held to, in the metrics' own units."""

    sample: str
    """Sample the bounds were computed on."""
    cells: int
    """Cells of the sample that hold counts."""
    limits: dict[str, tuple[float, float]]
    """Metric (`raw_sum`, `nnz`, `pct_top20`, `pct_mito`) -> lowest and highest passing value; infinite where a side is
    free. Without the metric: not screened, because the sample is too small, the metric is missing, or its MAD is 0."""


@dataclass(frozen=True)
class Screening:
    """What the screen made of every cell, aligned with the metrics it was given."""

    flags: np.ndarray
    """Reason codes per cell, sorted and joined by `|`; the empty string passes. Objects that share their strings."""
    counts: dict[str, int]
    """Cells per reason code, sorted by code, codes without cells left out. A cell may carry several."""
    samples: tuple[SampleLimits, ...]
    """Bounds per sample, sorted by sample."""
    not_measurable: dict[str, str]
    """Reason code -> why no, or not every, cell could be held to it."""
    policy: str
    """Fingerprint of the policy."""

    @property
    def passing(self) -> np.ndarray:
        """Bool per cell: carries no reason code."""
        return self.flags == ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One `qc-not-measurable` finding per reason that some cells could not be held to."""
        return tuple(
            Finding(
                "qc-not-measurable", "info", f"reason {code}", why, "every cell measured",
                "nothing to mend if the assay is meant to be so; docs/qc.md says what each metric needs",
            )
            for code, why in sorted(self.not_measurable.items())
        )  # fmt: skip


def screen(
    metrics: pd.DataFrame, samples: np.ndarray, suspension: np.ndarray, n_measured_vars: int, policy: QCPolicy
) -> Screening:
    """Hold every cell of one dataset against the policy and say why it fails.

    Parameters
    ----------
    metrics
        One row a cell: the columns of `METRICS` and `doublet_score` (0-1); NaN is not measured and never flags.
    samples
        Sample (library) of each cell; medians are taken within it, never across.
    suspension
        `nucleus`, `cell` or anything else, per cell; anything else is held to the bound for cells.
    n_measured_vars
        Genes the dataset measures; decides between the minimums of a panel and of a whole transcriptome.
    policy
        The thresholds.

    Raises
    ------
    AtlasInputError
        If a metric is missing, or the three do not have one entry a cell.

    Examples
    --------
    >>> cells = pd.DataFrame({name: [900.0, 3.0] for name in METRICS} | {"pct_mito": [4.0, 30.0], "doublet_score": 0.1})
    >>> screen(cells, np.array(["a", "a"]), np.array(["cell", "cell"]), 20_000, QCPolicy()).flags.tolist()
    ['', 'high-mito|low-counts|low-genes']
    """
    missing = [name for name in (*METRICS, "doublet_score") if name not in metrics.columns]
    if missing:
        raise AtlasInputError("metrics", list(metrics.columns), f"a table that also has {', '.join(missing)}")
    for name, values in (("samples", samples), ("suspension", suspension)):
        if np.shape(values) != (len(metrics),):
            raise AtlasInputError(name, np.shape(values), f"one entry per cell: shape ({len(metrics)},)")
    value = {name: metrics[name].to_numpy(dtype=np.float64) for name in (*METRICS, "doublet_score")}
    least = policy.minimums(n_measured_vars)
    bound = np.where(np.asarray(suspension) == "nucleus", policy.mito.max_pct_nucleus, policy.mito.max_pct_cell)
    failed = {
        "no-counts": value["raw_sum"] == 0,
        "low-counts": value["raw_sum"] < least.counts,
        "low-genes": value["nnz"] < least.genes,
        "high-mito": value["pct_mito"] > bound,  # NaN compares False: not measured never flags
        "doublet": value["doublet_score"] > policy.doublets.max_score,
    }
    outliers, limits = _outliers(value, np.asarray(samples), n_measured_vars, policy)
    failed |= outliers
    flags, counts = _join(failed)
    return Screening(flags, counts, limits, _unmeasured(value, limits, n_measured_vars, policy), policy.fingerprint())


def _outliers(
    value: dict[str, np.ndarray], samples: np.ndarray, n_measured_vars: int, policy: QCPolicy
) -> tuple[dict[str, np.ndarray], tuple[SampleLimits, ...]]:
    """Return who lies outside their own sample, by reason, and the bounds used."""
    rules = {
        "count-outlier": ("raw_sum", policy.mad.counts, True, 0.0),
        "gene-outlier": ("nnz", policy.mad.genes, True, 0.0),
        "mito-outlier": ("pct_mito", policy.mad.mito, False, policy.mito.outlier_floor_pct),
        "top20-outlier": ("pct_top20", policy.mad.top20, False, 0.0),
    }
    if n_measured_vars < policy.whole_transcriptome_genes:
        del rules["top20-outlier"]  # twenty genes are most of a panel: the share says nothing about the cell
    names, code = np.unique(samples.astype(str), return_inverse=True)
    order = np.argsort(code, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(code, minlength=len(names)))[:-1]) if len(names) else []
    failed = {reason: np.zeros(len(samples), dtype=bool) for reason in rules}
    found = []
    for name, group in zip(names, groups, strict=True):
        cells = group[value["raw_sum"][group] > 0]
        limits = {}
        for reason, (metric, multiplier, both_sides, floor) in rules.items():
            bounds = _bounds(value[metric][cells], multiplier, log=both_sides, floor=floor, least=policy.mad.min_cells)
            if bounds is None:
                continue
            low, high = bounds if both_sides else (-np.inf, bounds[1])
            limits[metric] = (low, high)
            failed[reason][cells] = (value[metric][cells] < low) | (value[metric][cells] > high)
        found.append(SampleLimits(str(name), len(cells), limits))
    return failed, tuple(found)


def _bounds(x: np.ndarray, multiplier: float, *, log: bool, floor: float, least: int) -> tuple[float, float] | None:
    """Return median -/+ multiplier x MAD in the units of `x`, or None where they would mean nothing."""
    x = x[np.isfinite(x)]
    if len(x) < max(least, 1):
        return None
    x = np.log1p(x) if log else x
    median = float(np.median(x))
    mad = float(np.median(np.abs(x - median)))
    # More than half the cells alike (a constant, or 0 % mitochondrial): any bound would flag every other cell. The
    # tolerance is float32's: percentages arrive rounded to it.
    if mad <= 1e-6 * max(1.0, abs(median)):
        return None
    low, high = median - multiplier * mad, median + multiplier * mad
    low, high = (float(np.expm1(low)), float(np.expm1(high))) if log else (low, high)
    return low, max(high, floor)


def _join(failed: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Return the joined codes per cell and the cells per code."""
    codes = sorted(failed)
    counts = {code: int(failed[code].sum()) for code in codes}
    bits = sum((failed[code].astype(np.int64) << k for k, code in enumerate(codes)), start=np.zeros((), dtype=np.int64))
    seen, inverse = np.unique(bits, return_inverse=True)
    text = ["|".join(code for k, code in enumerate(codes) if bit >> k & 1) for bit in seen.tolist()]
    return np.array(text, dtype=object)[inverse], {code: count for code, count in counts.items() if count}


def _unmeasured(
    value: dict[str, np.ndarray], limits: tuple[SampleLimits, ...], n_measured_vars: int, policy: QCPolicy
) -> dict[str, str]:
    """Return, by reason code, what kept cells from being held to it."""
    why: dict[str, str] = {}
    cells = len(value["raw_sum"])
    for code, metric, text in (
        ("high-mito", "pct_mito", "no list of mitochondrial genes, or too few of them measured"),
        ("doublet", "doublet_score", "doublets were not scored for them"),
    ):
        absent = int((np.isnan(value[metric]) & (value["raw_sum"] > 0)).sum())
        if absent:
            why[code] = f"{absent} of {cells} cells: {text}"
    if n_measured_vars < policy.whole_transcriptome_genes:
        why["top20-outlier"] = f"{cells} of {cells} cells: {n_measured_vars} measured genes are a panel"
    small = [s for s in limits if s.cells < policy.mad.min_cells]
    for code, metric in (
        ("count-outlier", "raw_sum"), ("gene-outlier", "nnz"), ("mito-outlier", "pct_mito"), ("top20-outlier", "pct_top20"),
    ):  # fmt: skip
        flat = [s for s in limits if metric not in s.limits and s not in small]
        if code in why or (code == "mito-outlier" and why.get("high-mito", "").startswith(f"{cells} of")):
            continue  # already told for all of them
        parts = []
        if small:
            parts.append(f"{sum(s.cells for s in small)} cells in {len(small)} samples under {policy.mad.min_cells} cells")
        if flat:
            parts.append(f"{sum(s.cells for s in flat)} cells in {len(flat)} samples whose MAD is 0 or metric is missing")
        if parts:
            why[code] = "; ".join(parts)
    return why
