"""Cells of a file or an AnnData as the atlas would store them: the same genes, labels, ids, hashes, nothing written.

`standardise_adata` and `standardise_rows` take the way an ingest takes (proof of counts, gene table, terms), so that a
cell means the same to a model whether it comes from a store, a file or a notebook, and a copy of a stored cell has the
stored one's hash. Only the screen is left out: no cell is judged and none is dropped. loaders/anndata_cells.py holds
the counts, loaders/source_cells.py leaves them in their file.
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
from .findings import Finding
from .identity import cell_ids, count_hashes, gene_keys
from .matrices import CompressedRows, DenseRows
from .prove import prove_counts
from .sources import Source
from .standardise import map_genes, standardise_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import anndata as ad
    import numpy.typing as npt

    from ontology import GeneTable

    from .matrices import RowReader
    from .standardise import GeneMap

ROWS_PER_BLOCK = 1024  # rows hashed at once: 0.2 GB where cells express 2,000 genes; no result depends on it
_CELL_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, eq=False)
class StandardCells:
    """Some cells in the atlas' terms, in the order they came."""

    genes: GeneMap
    """How the columns of their matrix lie in the gene table: `genes.project` brings rows into its order."""
    depth: npt.NDArray[np.float32]
    """Counts of each cell in genes of the table."""
    nnz: npt.NDArray[np.uint32]
    """Expressed genes of each cell."""
    obs: pd.DataFrame
    """The nine labels as ids (cell_culture as words) by name of the label, donor_id, dataset_id, observation_joinid,
    count_hash; one row a cell."""
    table: GeneTable
    """The genes, in their order."""
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
) -> tuple[StandardCells, sp.csr_matrix]:
    """Return the cells of an AnnData in the atlas' terms, and their counts.

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

    Returns
    -------
    cells, counts
        Counts are float32 [cell, gene of the table], genes ascending, no stored zeros; columns of one gene are summed.

    Raises
    ------
    AtlasInputError
        When a layer or column is not there, or the matrix is none that lies in memory.
    ContractError
        When values are no counts, names repeat, or the genes are not of this organism.
    """
    cells = RawCells("the AnnData", _parts(adata, layer))
    parts: list[sp.csr_matrix] = []
    found = standardise_rows(cells, organism, columns=columns, dataset_column=dataset_column, keep=parts.append)
    return found, sp.vstack(parts, format="csr", dtype=np.float32)


def standardise_rows(
    cells: RawCells,
    organism: str,
    *,
    columns: Mapping[str, str] | None = None,
    dataset_column: str | None = None,
    keep: Callable[[sp.csr_matrix], object] = lambda block: None,
) -> StandardCells:
    """Return what is known of cells that are read block by block, twice: once to prove them, once to know them.

    Parameters
    ----------
    cells
        Of a file, or of an AnnData.
    organism
        Any spelling of whose cells they are.
    columns, dataset_column
        As `standardise_adata`.
    keep
        Given each block of counts over the gene table, in order. Memory is that of a block, but for what this keeps.

    Raises
    ------
    AtlasInputError, ContractError
        As `standardise_adata`.
    """
    found = get_organism(organism)
    table = load_gene_table(found)
    source = Source(found.name, "in memory", columns=dict(columns or {}))
    proof = prove_counts(cells)
    genes = map_genes(cells, table, found)
    labels = standardise_labels(source, cells, found)
    keys = gene_keys(table.ids)
    hashes, depths, sizes = [], [], []
    for _, block in cells.blocks(ROWS_PER_BLOCK):
        counts = genes.project(block)
        hashes.append(count_hashes(counts, keys, table.core)[0])
        depths.append(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel().astype(np.float32))
        sizes.append(np.diff(counts.indptr).astype(np.uint32))
        keep(counts)
    terms = {label: labels.frame[_column_of(label, labels.frame)] for label in LABELS}
    obs = pd.DataFrame({**terms, "donor_id": labels.frame["donor_id"]})
    obs["dataset_id"] = _datasets(cells.obs, dataset_column, f"d{proof.sha256[:16]}")
    obs["observation_joinid"] = _cell_ids(cells.obs, obs["dataset_id"])
    obs["count_hash"] = np.concatenate(hashes)
    findings = (*cells.findings, *genes.findings, *labels.findings)
    return StandardCells(genes, np.concatenate(depths), np.concatenate(sizes), obs, table, proof.sha256, findings)


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


def _datasets(obs: pd.DataFrame, column: str | None, name: str) -> np.ndarray:
    if column is None:
        return np.full(len(obs), name, dtype=object)
    if column not in obs.columns:
        raise AtlasInputError("dataset_column", column, f"a column of obs: {', '.join(map(str, obs.columns))}")
    values = obs[column]
    if values.isna().any():
        raise AtlasInputError("dataset_column", column, f"a dataset for every cell; {values.isna().sum()} have none")
    return values.astype(str).to_numpy(dtype=object)


def missing_datasets(obs: pd.DataFrame, column: str) -> tuple[Finding, ...]:
    """Return that some cells lack a dataset, so that the column tells none; nothing where all have one."""
    if column not in obs.columns or not (missing := int(obs[column].isna().sum())):
        return ()
    found, remedy = f"{missing:,} of {len(obs):,} cells without one", "fill the column, or leave it out"
    return (
        Finding("missing-datasets", "warning", f"obs {column}", found, "a dataset for every cell", remedy, missing),
    )


def _cell_ids(obs: pd.DataFrame, datasets: pd.Series) -> np.ndarray:
    """Return the cells' stable ids: those they bring where they came from an atlas, else as an ingest would make."""
    brought = obs["observation_joinid"].astype(str) if "observation_joinid" in obs.columns else pd.Series(dtype=str)
    if len(brought) and all(map(_CELL_ID.fullmatch, brought)):
        return brought.to_numpy(dtype=object)
    names, out = obs.index.astype(str).to_numpy(dtype=object), np.empty(len(obs), dtype=object)
    for dataset, rows in datasets.groupby(datasets, sort=False).indices.items():
        out[rows] = cell_ids(str(dataset), names[rows])
    return out
