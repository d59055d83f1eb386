"""What counts as a poor cell: every QC threshold with its unit and source, and the reason codes they give rise to.

Thresholds only: nothing is measured or compared here (`qc`, `doublets`). A policy is data, has a fingerprint, and its
fingerprint goes into every receipt, so that two atlases screened differently can be told apart.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from .errors import AtlasInputError


@dataclass(frozen=True)
class CellMinimums:
    """Least a cell must hold to be worth training on."""

    counts: int
    """Molecules (UMI) or reads per cell; fewer is `low-counts`."""
    genes: int
    """Genes with at least one count per cell; fewer is `low-genes`."""


@dataclass(frozen=True)
class MitoLimits:
    """How much mitochondrial RNA a cell may carry, and when that can be said at all."""

    max_pct_cell: float = 20.0
    """Percent of counts, 0-100, for whole cells. Osorio & Cai 2021 (10.1093/bioinformatics/btaa751) find 5 % (mouse)
    and 10 % (human) right for most tissues and too strict for energy-hungry ones; an atlas of all tissues needs the
    laxer bound, and leaky cells within one tissue are caught by `mad.mito`."""
    max_pct_nucleus: float = 5.0
    """Percent of counts, 0-100, for nuclei. Nuclei hold no mitochondria: what is there is cytoplasm carried along."""
    outlier_floor_pct: float = 5.0
    """Percent of counts, 0-100. At or below it no cell is a `mito-outlier`: where a sample's median is 0.1 %
    the MAD alone would call 0.5 % an outlier, which is no damage. Chosen here."""
    min_genes: int = 5
    """Measured mitochondrial genes below which the share is not measurable; an animal's mitochondrion
    codes 13 proteins. A panel with one of them would read near 0 % for a dying cell. Chosen here."""


@dataclass(frozen=True)
class MadLimits:
    """How far from its sample's median a cell may lie, in median absolute deviations.

    Deviations are plain medians of ``|x - median|``, without the 1.4826 that makes them standard deviations: 5 here is
    3.4 standard deviations of a normal. Multipliers as in the single-cell best-practices handbook (Heumos et al. 2023,
    10.1038/s41576-023-00586-w) and scPRINT-2's preprocessing.
    """

    counts: float = 5.0
    """Deviations of log1p(counts), either side of the median: `count-outlier`."""
    genes: float = 5.0
    """Deviations of log1p(genes), either side of the median: `gene-outlier`."""
    top20: float = 5.0
    """Deviations of the percent of counts in the 20 largest genes, above the median only: `top20-outlier`. A low share
    means a complex cell, which is no fault (the handbook flags both sides)."""
    mito: float = 3.0
    """Deviations of the mitochondrial percent, above the median only: `mito-outlier`."""
    min_cells: int = 50
    """Cells a sample needs before its own median and MAD are trusted. Smaller samples keep the fixed bounds.
    Chosen here."""


@dataclass(frozen=True)
class DoubletLimits:
    """When doublets are scored, and from which score a cell is taken for one."""

    max_score: float = 0.25
    """Scrublet score, 0-1, above which a cell is a `doublet`. Chosen here, to flag clear doublets only: of doublets
    made by adding real cells it finds 1-13 %, and takes at most 0.4 % of the other cells for one (docs/qc.md)."""
    expected_rate: float = 0.05
    """Share of droplets expected to hold two cells, 0-1; scrublet's prior (its default; 10x loads give 0.01-0.08)."""
    min_cells: int = 100
    """Cells of one sample below which doublets are not simulated: too few neighbours to tell."""
    max_cells: int = 5_000
    """Cells scored at once, which bounds memory. Larger samples are dealt into interleaved hands of at most
    this size."""


@dataclass(frozen=True)
class QCPolicy:
    """Every threshold the screen uses. Cells are flagged by it, never deleted.

    Examples
    --------
    >>> policy = QCPolicy()
    >>> policy.minimums(n_measured_vars=33).counts, policy.minimums(n_measured_vars=36_000).counts
    (10, 500)
    >>> QCPolicy(mito=MitoLimits(max_pct_cell=8.0)).fingerprint() == policy.fingerprint()
    False
    """

    version: str = "1"
    """Name of this set of thresholds; raised whenever a default changes."""
    whole_transcriptome_genes: int = 5_000
    """Measured genes from which a source is a whole transcriptome; fewer is a targeted panel or a filtered gene list.
    scPRINT-2's notebooks refuse sources under the same number."""
    whole: CellMinimums = field(default_factory=lambda: CellMinimums(counts=500, genes=200))
    """Minimums of whole transcriptomes. 200 genes is the field's habit (Seurat and scanpy tutorials, scPRINT-2); 500
    molecules is where droplet callers place real cells."""
    panel: CellMinimums = field(default_factory=lambda: CellMinimums(counts=10, genes=5))
    """Minimums of panels (33-gene osmFISH, 248-gene Xenium), where a good cell holds some dozens of molecules."""
    mito: MitoLimits = field(default_factory=MitoLimits)
    """Mitochondrial bounds."""
    mad: MadLimits = field(default_factory=MadLimits)
    """Bounds relative to the cell's own sample."""
    doublets: DoubletLimits = field(default_factory=DoubletLimits)
    """Doublet bounds."""

    def __post_init__(self) -> None:
        """Refuse thresholds outside their range, naming the field."""
        for name, value in flatten(self).items():
            if name == "version":
                if not value:
                    raise AtlasInputError("QCPolicy.version", value, "a non-empty name")
                continue
            top = 100.0 if "pct" in name else 1.0 if name in ("doublets.max_score", "doublets.expected_rate") else None
            if not value >= 0 or (top is not None and value > top):  # `not >=` also refuses NaN
                allowed = f"a number from 0 to {top:g}" if top else "a number >= 0"
                raise AtlasInputError(f"QCPolicy.{name}", value, allowed)
        hand = self.doublets.max_cells
        if hand < 2 * self.doublets.min_cells:  # or a sample dealt in two could fall under the minimum
            raise AtlasInputError("QCPolicy.doublets.max_cells", hand, "at least twice doublets.min_cells")

    def minimums(self, n_measured_vars: int) -> CellMinimums:
        """Return the minimums that fit a source with that many measured genes."""
        return self.whole if n_measured_vars >= self.whole_transcriptome_genes else self.panel

    def fingerprint(self) -> str:
        """Return the sha256 (64 hex digits) of the policy as canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flatten(policy: QCPolicy) -> dict[str, str | int | float]:
    """Return every threshold under its dotted name, e.g. ``{"mito.max_pct_cell": 20.0, ...}``."""
    flat: dict[str, str | int | float] = {}
    for name, value in asdict(policy).items():
        nested = value if isinstance(value, dict) else {"": value}
        flat.update({f"{name}.{part}".rstrip("."): inner for part, inner in nested.items()})
    return flat


@dataclass(frozen=True)
class Reason:
    """Why a cell does not pass, for people."""

    description: str
    """One sentence a biologist can act on."""
    unit: str
    """Unit of the metric that was compared."""
    thresholds: tuple[str, ...]
    """Dotted names of the policy's thresholds behind it; empty where there is none to choose."""


REASONS: dict[str, Reason] = {
    "count-outlier": Reason(
        "Depth lies far from the rest of its sample, on either side.", "log1p counts", ("mad.counts", "mad.min_cells")
    ),
    "doublet": Reason(
        "Looks like two cells in one droplet.",
        "scrublet score, 0-1",
        ("doublets.max_score", "doublets.expected_rate", "doublets.min_cells", "doublets.max_cells"),
    ),
    "gene-outlier": Reason(
        "Number of expressed genes lies far from the rest of its sample, on either side.",
        "log1p genes",
        ("mad.genes", "mad.min_cells"),
    ),
    "high-mito": Reason(
        "Too much of its RNA is mitochondrial: a damaged or dying cell.",
        "percent of counts",
        ("mito.max_pct_cell", "mito.max_pct_nucleus", "mito.min_genes"),
    ),
    "low-counts": Reason(
        "Too few molecules to tell what it is.", "counts", ("whole.counts", "panel.counts", "whole_transcriptome_genes")
    ),
    "low-genes": Reason(
        "Too few expressed genes to tell what it is.",
        "genes",
        ("whole.genes", "panel.genes", "whole_transcriptome_genes"),
    ),
    "mito-outlier": Reason(
        "More mitochondrial RNA than the rest of its sample.",
        "percent of counts",
        ("mad.mito", "mito.outlier_floor_pct", "mad.min_cells"),
    ),
    "no-counts": Reason("Holds no molecule at all; it is refused, not stored.", "counts", ()),
    "top20-outlier": Reason(
        "Twenty genes hold more of its counts than in the rest of its sample: little complexity.",
        "percent of counts",
        ("mad.top20", "mad.min_cells"),
    ),
}
"""Every reason code a cell may carry, in the sorted order in which codes are joined."""
