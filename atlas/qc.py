"""Screening cells: metrics and a policy in; reason codes per cell, and the bounds each sample was held to, out.

No matrix is touched here, so a store can be screened again without reading X. Metrics come from `measure` and
`doublets`, thresholds from `policy`; this file is where other floors import all of them from. Flags go to obs
(`qc_pass`, `qc_flags`) and, by count, into the receipt; nothing is deleted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import AtlasInputError
from .findings import Finding
from .measure import METRICS, measurable, measure_block
from .policy import REASONS, CellMinimums, DoubletLimits, MadLimits, MitoLimits, QCPolicy, Reason, flatten

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "METRICS", "REASONS", "CellMinimums", "DoubletLimits", "MadLimits", "MitoLimits", "QCPolicy", "Reason",
    "SampleLimits", "Screening", "flatten", "measurable", "measure_block", "screen",
]  # fmt: skip


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
    >>> import pandas as pd
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


_METRIC_OF = {
    "count-outlier": "raw_sum",
    "gene-outlier": "nnz",
    "mito-outlier": "pct_mito",
    "top20-outlier": "pct_top20",
}


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
    told = set(why) - {"high-mito"} | (
        {"mito-outlier"} if why.get("high-mito", "").startswith(f"{cells} of") else set()
    )
    for code, metric in _METRIC_OF.items():
        if code in told:
            continue  # said above for all cells
        flat = [s for s in limits if metric not in s.limits and s not in small]
        parts = [
            f"{sum(s.cells for s in some)} cells in {len(some)} {'sample' if len(some) == 1 else 'samples'} {what}"
            for some, what in ((small, f"under {policy.mad.min_cells} cells"), (flat, "whose MAD is 0"))
            if some
        ]
        if parts:
            why[code] = "; ".join(parts)
    return why
