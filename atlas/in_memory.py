"""Cells of an AnnData in memory as the atlas would store them: the same genes, labels, ids and hashes, nothing written.

`standardise_adata` takes the way a file takes (proof of counts, gene table, terms), so that a cell means the same to a
model whether it comes from a store or from a notebook, and a copy of a stored cell has the stored one's hash. Only the
screen is left out: no cell is judged and none is dropped. loaders/anndata_cells.py serves them to the collator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ontology import LABELS, get_organism, load_gene_table

from .cells import Parts, RawCells
from .errors import AtlasInputError
from .identity import cell_ids, count_hashes, gene_keys
from .matrices import CompressedRows, DenseRows
from .prove import prove_counts
from .sources import Source
from .standardise import map_genes, standardise_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad

    from ontology import GeneTable

    from .findings import Finding
    from .matrices import RowReader

ROWS_PER_BLOCK = 4096
_CELL_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, eq=False)
class StandardCells:
    """Some cells in the atlas' terms, in the order they came."""

    counts: sp.csr_matrix
    """float32 [cell, gene of the table], genes ascending, no stored zeros; columns of one gene are summed."""
    obs: pd.DataFrame
    """The nine labels as ids (cell_culture as words) by name of the label, donor_id, dataset_id, observation_joinid,
    count_hash; one row a cell."""
    table: GeneTable
    """The genes, in the order of the columns of `counts`."""
    measured: np.ndarray
    """Bool per gene: the AnnData measured it."""
    content_sha256: str
    """Digest of gene names, cell names, author columns and counts, as a receipt has it."""
    findings: tuple[Finding, ...]
    """What was unmapped, summed or left out, counted."""


def standardise_adata(
    adata: ad.AnnData,
    organism: str,
    *,
    columns: Mapping[str, str] | None = None,
    layer: str | None = None,
    dataset_column: str | None = None,
) -> StandardCells:
    """Return the cells of an AnnData in the atlas' terms.

    Parameters
    ----------
    adata
        Raw counts, gene ids or symbols; not changed.
    organism
        Any spelling of whose cells they are.
    columns
        Field of the atlas (a label, donor_id) to obs column; other fields follow the rules for files.
    layer
        Layer with the counts, `raw` for `adata.raw`, None for X.
    dataset_column
        obs column that names each cell's dataset; None for one dataset, named after its content.

    Raises
    ------
    AtlasInputError
        When a layer or column is not there, or the matrix is none that lies in memory.
    ContractError
        When values are no counts, names repeat, or the genes are not of this organism.
    """
    found = get_organism(organism)
    table = load_gene_table(found)
    source = Source(found.name, "in memory", columns=dict(columns or {}))
    cells = RawCells("the AnnData", _parts(adata, layer))
    proof = prove_counts(cells)
    genes = map_genes(cells, table, found)
    labels = standardise_labels(source, cells, found)
    keys = gene_keys(table.ids)
    parts, hashes = [], []
    for _, block in cells.blocks(ROWS_PER_BLOCK):
        parts.append(genes.project(block))
        hashes.append(count_hashes(parts[-1], keys, table.core)[0])
    terms = {label: labels.frame[_column_of(label, labels.frame)] for label in LABELS}
    obs = pd.DataFrame({**terms, "donor_id": labels.frame["donor_id"]})
    obs["dataset_id"] = _datasets(adata, dataset_column, f"d{proof.sha256[:16]}")
    obs["observation_joinid"] = _cell_ids(adata.obs, obs["dataset_id"])
    obs["count_hash"] = np.concatenate(hashes)
    findings = (*cells.findings, *genes.findings, *labels.findings)
    counts = sp.vstack(parts, format="csr", dtype=np.float32)
    return StandardCells(counts, obs, table, genes.measured, proof.sha256, findings)


def _parts(adata: ad.AnnData, layer: str | None) -> Parts:
    """Return names and rows of the chosen matrix."""
    if layer == "raw":
        if adata.raw is None:
            raise AtlasInputError("layer", layer, "a layer of the AnnData, or None for X; it has no raw")
        matrix, var, name = adata.raw.X, adata.raw.var, "raw.X"
    elif layer is None:
        matrix, var, name = adata.X, adata.var, "X"
    elif layer in adata.layers:
        matrix, var, name = adata.layers[layer], adata.var, f"layers/{layer}"
    else:
        raise AtlasInputError("layer", layer, f"one of {', '.join(map(repr, adata.layers)) or 'no layers'}, or None")
    return Parts(name, _reader(matrix, name), adata.obs, var)


def _reader(matrix: Any, name: str) -> RowReader:
    if sp.issparse(matrix):
        rows = matrix.tocsr()
        return CompressedRows((rows.data, rows.indices, rows.indptr), rows.shape, "the AnnData", name)
    if not isinstance(matrix, np.ndarray):
        said = f"a {type(matrix).__name__} as {name}"
        raise AtlasInputError("adata", said, "a sparse matrix or an array in memory; adata.to_memory() reads it")
    return DenseRows(np.asarray(matrix), "the AnnData", name)


def _column_of(label: str, frame: pd.DataFrame) -> str:
    """Return the standard column with a label's ids, or its words where it has no ids."""
    return f"{label}_ontology_term_id" if f"{label}_ontology_term_id" in frame.columns else "tissue_type"


def _datasets(adata: ad.AnnData, column: str | None, name: str) -> np.ndarray:
    if column is None:
        return np.full(adata.n_obs, name, dtype=object)
    if column not in adata.obs.columns:
        raise AtlasInputError("dataset_column", column, f"a column of obs: {', '.join(map(str, adata.obs.columns))}")
    values = adata.obs[column]
    if values.isna().any():
        raise AtlasInputError("dataset_column", column, f"a dataset for every cell; {values.isna().sum()} have none")
    return values.astype(str).to_numpy(dtype=object)


def _cell_ids(obs: pd.DataFrame, datasets: pd.Series) -> np.ndarray:
    """Return the cells' stable ids: those they bring where they came from an atlas, else as an ingest would make."""
    brought = obs["observation_joinid"].astype(str) if "observation_joinid" in obs.columns else pd.Series(dtype=str)
    if len(brought) and all(map(_CELL_ID.fullmatch, brought)):
        return brought.to_numpy(dtype=object)
    names, out = obs.index.astype(str).to_numpy(dtype=object), np.empty(len(obs), dtype=object)
    for dataset, rows in datasets.groupby(datasets, sort=False).indices.items():
        out[rows] = cell_ids(str(dataset), names[rows])
    return out
