"""Doublet scores: how much a cell looks like two cells in one droplet, measured within its own sample.

Scrublet (Wolock, Lopez & Klein 2019, 10.1016/j.cels.2018.11.005) as scanpy ships it adds pairs of the sample's own
cells and asks how many of a cell's neighbours are such sums. Only the score is taken from it; the bound is the policy's
and is applied in `qc`. Where droplets are not the unit (plates, tissue sections, panels) nothing is scored, and it is
said.
"""

from __future__ import annotations

import csv
import logging
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from .errors import AtlasInputError
from .findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scipy.sparse import csr_matrix

    from .policy import DoubletLimits, QCPolicy

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoubletScores:
    """Scores aligned with the samples they were asked for, and why some cells have none."""

    scores: np.ndarray
    """Scrublet score per cell, float32, 0-1; NaN where not measured."""
    not_measured: dict[str, int] = field(default_factory=dict)
    """Cells without a score, by reason in words."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One `doublets-not-measured` finding per reason."""
        remedy = "nothing to mend if so intended; name the assay and the sample column if they are wrong"
        return tuple(
            Finding("doublets-not-measured", "info", "doublet_score", why, "droplets of large samples", remedy, cells)
            for why, cells in sorted(self.not_measured.items())
        )


@cache
def assays_without_doublets() -> dict[str, str]:
    """Return why doublets are not simulated, by EFO id of the assay.

    Examples
    --------
    >>> assays_without_doublets()["EFO:0008931"]
    'Smart-seq2: cells are picked or sorted one to a well'
    """
    with files(__package__).joinpath("data/no_doublets.tsv").open(encoding="utf-8") as rows:
        return {r["assay_ontology_term_id"]: f"{r['assay']}: {r['why']}" for r in csv.DictReader(rows, delimiter="\t")}


def doublet_scores(
    rows: Callable[[np.ndarray], csr_matrix],
    samples: np.ndarray,
    assays: np.ndarray,
    n_measured_vars: int,
    policy: QCPolicy,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _done: None,
) -> DoubletScores:
    """Score every cell of one dataset against doublets simulated from its own sample.

    Parameters
    ----------
    rows
        Returns the raw counts of the cells at ascending positions, cells x genes, integers of any dtype; called once
        per hand of at most `policy.doublets.max_cells` cells, which is all that is held in memory.
    samples
        Sample (library) of each cell. A doublet forms in one droplet run, so none spans two samples.
    assays
        EFO id of each cell's assay; unknown assays are scored.
    n_measured_vars
        Genes the dataset measures; panels are not scored.
    policy
        Its `doublets` say which samples are scored and how.
    seed
        Of the simulation; the same seed gives the same scores whatever else the dataset holds.
    progress
        Called with the cells dealt with so far.

    Raises
    ------
    AtlasInputError
        If `samples` and `assays` differ in length, or `rows` returns another number of rows than asked for.

    Notes
    -----
    Time and memory are in docs/qc.md. A sample larger than `max_cells` is dealt like cards: hand k of h takes cells k,
    k + h, ..., so that each hand holds every cell type even where a file is sorted by type.
    """
    if np.shape(samples) != np.shape(assays):
        raise AtlasInputError("assays", np.shape(assays), f"one entry per cell: shape {np.shape(samples)}")
    scores = np.full(len(samples), np.nan, dtype=np.float32)
    if n_measured_vars < policy.whole_transcriptome_genes:
        why = f"{n_measured_vars} measured genes are a panel"
        return DoubletScores(scores, {why: len(samples)} if len(samples) else {})
    eligible, unscored = _eligible(np.asarray(assays).astype(str))
    done = 0
    for hand in _hands(np.asarray(samples).astype(str), np.flatnonzero(eligible), policy.doublets):
        if len(hand) < policy.doublets.min_cells:
            why = f"in samples of fewer than {policy.doublets.min_cells} cells"
        else:
            counts = rows(hand)
            if counts.shape[0] != len(hand):
                raise AtlasInputError("rows", counts.shape, f"{len(hand)} rows, as asked for")
            scores[hand], why = _score(counts, policy.doublets, seed)
        done += len(hand)
        progress(done)
        missing = int(np.isnan(scores[hand]).sum())
        if missing:
            unscored[why] = unscored.get(why, 0) + missing
    return DoubletScores(scores, unscored)


def _eligible(assays: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Return which cells are of an assay that has doublets, and how many are not, by reason."""
    barred = assays_without_doublets()
    names, codes = np.unique(assays, return_inverse=True)
    unscored = {barred[name]: int((codes == code).sum()) for code, name in enumerate(names) if name in barred}
    return ~np.isin(names, list(barred))[codes], unscored


def _hands(samples: np.ndarray, eligible: np.ndarray, limits: DoubletLimits) -> Iterator[np.ndarray]:
    """Yield the positions to score together: one sample, or an interleaved share of a large one."""
    names, codes = np.unique(samples[eligible], return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    for start, end in zip(np.concatenate([[0], ends])[: len(ends)], ends, strict=True):
        sample = eligible[order[start:end]]
        shares = -(-len(sample) // limits.max_cells)
        for share in range(shares):
            yield sample[share::shares]


def _score(counts: csr_matrix, limits: DoubletLimits, seed: int) -> tuple[np.ndarray, str]:
    """Return the scores of one hand, NaN where there are none, and why."""
    # scanpy costs a second and a half to import; only ingests that score pay it.
    import anndata  # noqa: PLC0415
    import scanpy  # noqa: PLC0415

    cells = anndata.AnnData(counts.astype(np.float32))
    with warnings.catch_warnings():
        # Third-party deprecations, and the division by zero of cells that the filter inside then drops.
        warnings.simplefilter("ignore")
        try:
            scanpy.pp.scrublet(
                cells,
                expected_doublet_rate=limits.expected_rate,
                mean_center=False,  # keeps the matrix sparse: 3 times faster, same ranking (docs/qc.md)
                use_approx_neighbors=False,  # the approximate search is not the same on every machine
                threshold=limits.max_score,  # without one scanpy wants scikit-image; only the score is kept
                verbose=False,
                random_state=seed,
            )
        except ValueError as error:  # too few variable genes to embed: a fact about the sample, not a bug
            _LOG.info("scrublet could not embed %d cells: %s", len(cells), error)
            return np.full(counts.shape[0], np.nan, dtype=np.float32), "too few variable genes to simulate from"
    return cells.obs["doublet_score"].to_numpy(dtype=np.float32), "too few genes in the cell to place it"
