"""What the report says about one dataset: its charts, its labels, its samples; from a receipt and the cells' obs.

Everything is worked out here and nothing is laid out: `report` puts it on the page, `charts` draws. Bounds are
recomputed from the stored metrics, and only drawn where the policy is the one the dataset was screened with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas import qc, schema
from ontology import LABELS

from . import charts
from .charts import Bound

if TYPE_CHECKING:
    from atlas import Receipt

METRIC_COLUMNS = (
    *qc.METRICS,
    "doublet_score",
    "qc_flags",
    "qc_pass",
    "sample_id",
    "suspension_type",
    "n_measured_vars",
)
LABEL_COLUMNS = tuple(c for label in LABELS for c in (schema.LABEL_COLUMN.get(label, label), f"{label}_match"))
COLUMNS = (*METRIC_COLUMNS, *LABEL_COLUMNS)
"""Columns of obs that a section needs."""

_TOP_VALUES = 4  # values named per label; the rest are counted
_MAX_SAMPLES = 40  # samples listed per dataset
_MAPPED = ("id", "label", "synonym", "override", "replaced")
_KNEE = "A flat shoulder, then a fall: where the fall is cut off, empty droplets were removed before."
_CLOUD = "One cloud is healthy; a second, lower one is debris or another technology."
_DOUBLET = "Scored within each sample, against simulated pairs of its own cells."
_REASONS = "Flagged cells are stored, and left out of queries unless asked for. A cell may carry several."
_NONE = "n/a"
_NOT_MAPPED = ("unmapped", "missing", "unknown")


@dataclass(frozen=True)
class Figure:
    """One chart with its words."""

    title: str
    """What is shown."""
    note: str
    """What to read from it."""
    svg: str
    """The chart, safe to insert."""


@dataclass(frozen=True)
class LabelRow:
    """How one label was filled."""

    label: str
    """Name of the label."""
    strip: str
    """Bar of mapped and unmapped shares, safe to insert."""
    mapped: str
    """Share of cells with a term, in percent."""
    how: str
    """Cells by way of matching, in words."""
    values: tuple[tuple[str, int, str], ...]
    """Most frequent values: text, cells, share."""
    more: int
    """Values not named."""


@dataclass(frozen=True)
class SampleRow:
    """One sample in numbers."""

    name: str
    """Sample."""
    cells: int
    """Stored cells."""
    passing: str
    """Share of cells without a reason, in percent."""
    counts: str
    """Median counts per cell."""
    genes: str
    """Median genes per cell."""
    mito: str
    """Median mitochondrial percent; `n/a` where not measurable."""
    bounds: str
    """Range of counts its MAD allows, or why there is none."""


@dataclass(frozen=True)
class Section:
    """One dataset of the report."""

    receipt: Receipt
    """Its books."""
    facts: tuple[tuple[str, str], ...]
    """Names and values for the line under the heading."""
    figures: tuple[Figure, ...]
    """Charts, in reading order."""
    labels: tuple[LabelRow, ...]
    """The nine labels."""
    samples: tuple[SampleRow, ...]
    """Samples by size, the largest first."""
    more_samples: int
    """Samples not listed."""


def describe_dataset(receipt: Receipt, cells: pd.DataFrame, policy: qc.QCPolicy) -> Section:
    """Return everything the report shows of one dataset.

    Parameters
    ----------
    receipt
        The receipt that wrote it.
    cells
        Its obs, one row a stored cell, with `COLUMNS`.
    policy
        The policy to draw bounds from.
    """
    samples = cells["sample_id"].astype(str).to_numpy()
    genes = int(cells["n_measured_vars"].iloc[0]) if len(cells) else 0
    screening = qc.screen(cells, samples, cells["suspension_type"].astype(str).to_numpy(), genes, policy)
    # Another policy than the receipt's would draw lines that flagged nobody.
    same = not receipt.releases.get("policy") or policy.fingerprint() in receipt.releases["policy"]
    rows, more = _samples(cells, samples, screening if same else None)
    return Section(
        receipt, _facts(receipt, cells, samples, genes), _figures(receipt, cells, policy if same else None, screening),
        tuple(_label(label, cells) for label in LABELS), rows, more,
    )  # fmt: skip


def _facts(receipt: Receipt, cells: pd.DataFrame, samples: np.ndarray, genes: int) -> tuple[tuple[str, str], ...]:
    passing = int(cells["qc_pass"].sum())
    return (
        ("cells stored", f"{len(cells):,}"),
        ("pass QC", f"{passing:,} ({charts.percent(passing / len(cells))})" if len(cells) else "0"),
        ("samples", f"{len(np.unique(samples)):,}"),
        ("median counts", _median(cells["raw_sum"])),
        ("median genes", _median(cells["nnz"])),
        ("genes measured", f"{genes:,}"),
        ("time", f"{receipt.seconds:.1f} s"),
    )


def _figures(
    receipt: Receipt, cells: pd.DataFrame, policy: qc.QCPolicy | None, screening: qc.Screening
) -> tuple[Figure, ...]:
    """Return the charts of a dataset; without a policy they carry no bounds."""
    counts, genes, mito, doublet = (
        cells[c].to_numpy(dtype=np.float64) for c in ("raw_sum", "nnz", "pct_mito", "doublet_score")
    )
    least = policy.minimums(int(cells["n_measured_vars"].iloc[0])) if policy is not None and len(cells) else None
    at_counts = None if least is None else Bound(least.counts, f"at least {least.counts:,} counts")
    at_genes = None if least is None else Bound(least.genes, f"at least {least.genes:,} genes")
    at_mito, at_doublet, top = [], [], 1.0
    if policy is not None:
        kinds = set(cells["suspension_type"].astype(str))
        if kinds - {"nucleus"}:
            at_mito.append(Bound(policy.mito.max_pct_cell, f"cells: {policy.mito.max_pct_cell:g} %"))
        if "nucleus" in kinds:
            at_mito.append(Bound(policy.mito.max_pct_nucleus, f"nuclei: {policy.mito.max_pct_nucleus:g} %"))
        highs = [s.limits["pct_mito"][1] for s in screening.samples if "pct_mito" in s.limits]
        if len(highs) == 1:
            at_mito.append(Bound(highs[0], f"outlier in its sample: {highs[0]:.1f} %"))
        at_doublet.append(Bound(policy.doublets.max_score, f"doublet: {policy.doublets.max_score:g}"))
    if np.isfinite(mito).any():
        top = float(np.clip(1.15 * max(np.nanquantile(mito, 0.995), *(b.value for b in at_mito), 1.0), 1, 100))
    above = f"{int((doublet > policy.doublets.max_score).sum()):,} cells above the bound. " if policy else ""
    share = charts.histogram(mito, "mitochondrial counts, percent", (0, top), at_mito)
    score = charts.histogram(doublet, "scrublet score", (0, 0.6), at_doublet)
    coverage = charts.bars(_coverage(receipt), receipt.genes.came_in)
    cloud = charts.density(counts, genes, (at_counts, at_genes))
    return (
        Figure("Knee", _KNEE, charts.knee(counts, at_counts)),
        Figure("Counts against genes", _CLOUD, cloud),
        Figure("Mitochondrial share", _mito_note(mito), share),
        Figure("Doublet score", f"{above}{_DOUBLET}", score),
        Figure("QC reasons", _REASONS, charts.bars(_reasons(cells), len(cells))),
        Figure("Gene coverage", "What became of the source's gene columns.", coverage),
    )


def _mito_note(mito: np.ndarray) -> str:
    known = mito[np.isfinite(mito)]
    if not len(known):
        return "Too few mitochondrial genes were measured to tell, which is not 0 %."
    return f"Median {np.median(known):.1f} %, 95 % of cells below {np.quantile(known, 0.95):.1f} %."


def _reasons(cells: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Return cells per reason code, the most frequent first, after those that pass."""
    flags = cells["qc_flags"].astype(str).value_counts()
    reasons: dict[str, int] = {}
    for text, n in flags.items():
        for code in str(text).split("|") if text else ():
            reasons[code] = reasons.get(code, 0) + int(n)
    rows = [("passing", int(flags.get("", 0)), "good")]
    return rows + [(code, n, "warn") for code, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))]


def _coverage(receipt: Receipt) -> list[tuple[str, int, str]]:
    """Return the source's genes by what became of them."""
    genes = receipt.genes
    rows = [("own column", genes.kept, "good"), ("summed into one", genes.merged, "fill")]
    return rows + [(reason, n, "warn") for reason, n in sorted(genes.dropped.items(), key=lambda r: (-r[1], r[0]))]


def _label(label: str, cells: pd.DataFrame) -> LabelRow:
    how = cells[f"{label}_match"].astype(str).value_counts()
    values = cells[schema.LABEL_COLUMN.get(label, label)].astype(str).value_counts()
    # value_counts leaves ties in no stated order; the report must be the same every time.
    ways = sorted(((str(k), int(n)) for k, n in how.items() if n), key=lambda r: (-r[1], r[0]))
    ranked = sorted(((str(k), int(n)) for k, n in values.items() if n), key=lambda r: (-r[1], r[0]))
    total = max(len(cells), 1)
    mapped = sum(n for way, n in ways if way not in _NOT_MAPPED)
    kinds = dict.fromkeys(_MAPPED, "good") | {"unmapped": "bad"}
    return LabelRow(
        label,
        charts.strip([(way, n, kinds.get(way, "none")) for way, n in ways]),
        charts.percent(mapped / total),
        ", ".join(f"{way} {n:,}" for way, n in ways),
        tuple((value, n, charts.percent(n / total)) for value, n in ranked[:_TOP_VALUES]),
        max(len(ranked) - _TOP_VALUES, 0),
    )


def _samples(
    cells: pd.DataFrame, samples: np.ndarray, screening: qc.Screening | None
) -> tuple[tuple[SampleRow, ...], int]:
    """Return the largest samples in numbers, and how many more there are."""
    bounds = {} if screening is None else {s.sample: s.limits.get("raw_sum") for s in screening.samples}
    groups = pd.Series(np.arange(len(samples))).groupby(samples).indices
    ranked = sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))
    rows = []
    for name, at in ranked[:_MAX_SAMPLES]:
        part, limits = cells.iloc[at], bounds.get(str(name))
        allowed = "fixed bounds only" if limits is None else f"{max(limits[0], 0):,.0f} to {limits[1]:,.0f}"
        share = charts.percent(float(part["qc_pass"].mean()))
        known = part["pct_mito"].dropna()
        mito = f"{known.median():.1f} %" if len(known) else _NONE
        row = SampleRow(str(name), len(part), share, _median(part["raw_sum"]), _median(part["nnz"]), mito, allowed)
        rows.append(row)
    return tuple(rows), max(len(ranked) - _MAX_SAMPLES, 0)


def _median(values: pd.Series) -> str:
    return f"{values.median():,.0f}" if len(values) else _NONE
