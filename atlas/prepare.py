"""Looking at every cell of a source and deciding what would be stored; nothing is written here.

Reads the source twice: once to prove that all values are counts, once to measure and hash every cell. What comes out,
`Prepared`, is everything `ingest` needs besides the counts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ontology import get_organism, load_gene_table

from .doublets import doublet_scores
from .errors import ContractError
from .findings import Finding, Receipt, Tally
from .identity import cell_ids, count_hashes, gene_keys
from .measure import measurable, measure_block
from .qc import QCPolicy, screen
from .standardise import GeneMap, map_genes, standardise_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from ontology import GeneTable

    from .read import CountProof, RawCells
    from .sources import Source

ROWS_PER_BLOCK = 256  # cells measured, or written, at once: 4 MB a temporary at 2,000 genes a cell stay in the cache


@dataclass(frozen=True)
class IngestOptions:
    """What a curator may choose about an ingest; the thresholds are in the policy."""

    policy: QCPolicy = field(default_factory=QCPolicy)
    """Thresholds of the screen."""
    doublets: bool = True
    """Score doublets per sample (the slowest stage)."""
    neighbours: bool = True
    """Find and store every cell's nearest neighbours in the dataset; without, its cells have none."""
    dry_run: bool = False
    """Stop before the first write and return a `planned` receipt."""
    seed: int = 0
    """Seed of the doublet simulation and of the search for neighbours in large datasets."""
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None
    """Called with a stage's name, cells done and cells in all."""


@dataclass(frozen=True)
class Prepared:
    """A source that may be stored: every decision made, nothing written."""

    genes: GeneMap
    """How its genes lie in the gene table."""
    kept: np.ndarray
    """Bool per source row: the cell has counts and will be stored."""
    obs: pd.DataFrame
    """The kept cells' rows of obs, all columns but soma_joinid; is_primary_data as the source says it."""
    receipt: Receipt
    """The books, status `planned`."""


def prepare(
    source: Source, cells: RawCells, proof: CountProof, dataset_id: str, blank: Receipt, options: IngestOptions
) -> Prepared:
    """Standardise, measure and screen a source whose values are proven to be counts.

    Parameters
    ----------
    source, cells, proof
        What is read, opened, and proven.
    dataset_id
        Identity of the dataset; part of every cell's id.
    blank
        Receipt with what is known so far.
    options
        Policy and switches.

    Raises
    ------
    ContractError
        If the genes or the organism are not what the source says, or no cell has counts.
    """
    organism = get_organism(source.organism)
    table = load_gene_table(organism)
    genes = map_genes(cells, table, organism)
    labels = standardise_labels(source, cells, organism)
    metrics, hashes, counted = _measure(cells, genes, table, options)
    kept = metrics["nnz"].to_numpy() > 0
    if not kept.any():
        remedy = "check that the file holds counts and that its genes are of this organism"
        raise ContractError(dataset_id, [Finding("no-counts", "error", "X", "no counts at all", "counts", remedy)])
    obs = pd.concat([labels.frame, metrics], axis=1)
    notes = [*cells.findings, *genes.findings, *labels.findings]
    notes += _score_doublets(cells, obs, kept, genes, options)
    screening = screen(
        obs.loc[kept].reset_index(drop=True), obs["sample_id"].to_numpy()[kept].astype(str),
        obs["suspension_type"].to_numpy()[kept].astype(str), int(genes.measured.sum()), options.policy,
    )  # fmt: skip
    notes += screening.findings
    obs["dataset_id"] = dataset_id
    obs["observation_joinid"] = cell_ids(dataset_id, [str(n) for n in cells.obs.index])
    obs["cell_name"] = [str(n) for n in cells.obs.index]
    obs["count_hash"], obs["core_hash"] = hashes
    obs["n_measured_vars"] = int(genes.measured.sum())
    obs["source_row"] = np.arange(cells.n_obs, dtype=np.int64)
    obs = obs.loc[kept].reset_index(drop=True)
    obs["qc_flags"] = screening.flags
    obs["qc_pass"] = screening.flags == ""
    empty = int((~kept).sum())
    stored = int(obs["raw_sum"].sum())
    if empty:
        remedy = "they hold nothing to store; the receipt counts them"
        notes.append(Finding("empty-cells", "info", "X", f"{empty} cells without counts", "counts", remedy, empty))
    receipt = replace(
        blank, status="planned", dataset_id=dataset_id, content_sha256=proof.sha256,
        cells=Tally(cells.n_obs, len(obs), 0, {"no-counts": empty} if empty else {}),
        genes=genes.tally,
        counts=Tally(int(proof.total), stored, 0, _lost(int(proof.total), counted, stored)),
        flagged=dict(screening.counts), labels=labels.matches, findings=tuple(notes),
    )  # fmt: skip
    return Prepared(genes, kept, obs, receipt)


def _lost(total: int, counted: int, stored: int) -> dict[str, int]:
    """Return the counts that were not stored, by reason; all figures are exact integers."""
    lost = {"unmapped-genes": total - counted, "dropped-cells": counted - stored}
    return {reason: n for reason, n in lost.items() if n}


def _measure(
    cells: RawCells, genes: GeneMap, table: GeneTable, options: IngestOptions
) -> tuple[pd.DataFrame, tuple[np.ndarray, np.ndarray], int]:
    """Return every cell's QC metrics, its two hashes, and the counts that fell on mapped genes."""
    mito = measurable(table.mito, genes.measured, options.policy.mito.min_genes)
    ribo = measurable(table.ribo, genes.measured, 1)
    keys = gene_keys(table.ids)
    parts: list[pd.DataFrame] = []
    hashes: list[tuple[np.ndarray, np.ndarray]] = []
    for start, block in cells.stored_blocks(ROWS_PER_BLOCK):
        counts = genes.project(block)
        parts.append(pd.DataFrame(measure_block(counts, mito, ribo)))
        hashes.append(count_hashes(counts, keys, table.core))
        options.progress("measure", start + block.shape[0], cells.n_obs)
    metrics = pd.concat(parts, ignore_index=True)
    metrics["doublet_score"] = np.float32(np.nan)
    both = (np.concatenate([h[0] for h in hashes]), np.concatenate([h[1] for h in hashes]))
    return metrics, both, int(metrics["raw_sum"].sum())


def _score_doublets(
    cells: RawCells, obs: pd.DataFrame, kept: np.ndarray, genes: GeneMap, options: IngestOptions
) -> list[Finding]:
    """Fill `doublet_score` where it can be measured, and return why it could not elsewhere."""
    if not options.doublets:
        return []  # the screen says what was not measured
    rows = np.flatnonzero(kept)
    scored = doublet_scores(
        lambda index: cells.rows(rows[index]), obs["sample_id"].to_numpy()[kept].astype(str),
        obs["assay_ontology_term_id"].to_numpy()[kept].astype(str), int(genes.measured.sum()), options.policy,
        seed=options.seed, progress=lambda done: options.progress("doublets", done, len(rows)),
    )  # fmt: skip
    scores = np.full(len(obs), np.nan, np.float32)
    scores[rows] = scored.scores
    obs["doublet_score"] = scores
    return list(scored.findings)
