"""`AnnDataCells`: an AnnData in memory as `Cells`, so that it goes through the collation an atlas' cells go through.

Genes, labels, cell ids and count hashes are made the way an ingest makes them (atlas/in_memory.py): genes have the same
numbers as in a store of that organism, and a copy of a stored cell is known as one (leakage.py). No cell is dropped and
none is judged; cells without counts are kept and have an empty record. For inference, fine-tuning and tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from atlas import AtlasInputError, ContractError, in_memory, neighbours
from ontology import LABELS

from .cells import SPLITS, Numbers
from .errors import CellsError, LoaderInputError
from .known_cells import KnownCells
from .records import encode_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad

    from .records import PackedCells

MOST_NEIGHBOURS = 15
"""Neighbours a cell keeps, the nearest; as many as a store holds."""
FIELDS = (*LABELS, "donor", "dataset", "split")
"""What `columns` may name."""
FORMAT = "panatlas anndata cells 1"


class AnnDataCells(KnownCells):
    """Cells of an AnnData; for example `AnnDataCells(adata, "human", {"cell_type": "louvain"}, layer="counts")`.

    They pickle with their counts, about 8 bytes per count that is not 0.

    Parameters
    ----------
    adata
        Raw counts with gene ids or symbols; not changed, and not held.
    organism
        Any spelling of whose cells they are.
    columns
        obs column by field: the nine labels (ids or author text), donor, dataset, split (train, validation, test).
        Labels and donor that are not named are looked for as in a file; the dataset in `dataset_id`, else all cells are
        one dataset; without splits, all cells are `train`. A donor of several datasets is one person.
    layer
        Layer with the counts, `raw` for `adata.raw`, None for X.
    neighbours
        None for none; `obsp` takes `adata.obsp["distances"]`; `computed` finds them among these cells. Neighbours are
        of the same dataset and split.

    Raises
    ------
    LoaderInputError
        When a column, layer or kind of neighbours is not there.
    CellsError
        When values are no raw counts, names repeat, genes are not of this organism, or distances are no distances.
    """

    def __init__(
        self,
        adata: ad.AnnData,
        organism: str,
        columns: Mapping[str, str] | None = None,
        *,
        layer: str | None = None,
        neighbours: str | None = None,
    ) -> None:
        columns = dict(columns or {})
        if unknown := sorted(set(columns) - set(FIELDS)):
            raise LoaderInputError("columns", unknown, f"fields among {', '.join(FIELDS)}")
        if neighbours not in (None, "obsp", "computed"):
            raise LoaderInputError("neighbours", neighbours, "None, 'obsp' or 'computed'")
        found, self._counts = _standardise(adata, organism, columns, layer)
        super().__init__(found, _splits(adata.obs, columns.get("split")))
        self._near = _neighbours(adata, neighbours, self)
        parts = (self._counts.indptr.astype("<i8"), self._counts.indices.astype("<i4"), self._counts.data)
        self.fingerprint = self._digest(FORMAT, parts, self._near)

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not."""
        return encode_cells(self._counts[self._known(cells)])

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Do nothing: everything is in memory."""

    def neighbours(self, cells: Numbers) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return the nearest cells and their distances, both [cells, k], nearest first."""
        known = self._known(cells)
        return self._near[0][known], self._near[1][known]


def _standardise(
    adata: ad.AnnData, organism: str, columns: dict[str, str], layer: str | None
) -> tuple[in_memory.StandardCells, sp.csr_matrix]:
    """Return the cells in the atlas' terms; what the atlas refuses is said in the words of a notebook."""
    if missing := sorted(set(columns.values()) - set(map(str, adata.obs.columns))):
        raise LoaderInputError("columns", missing, f"columns of obs: {', '.join(map(str, adata.obs.columns))}")
    fields = {{"donor": "donor_id"}.get(name, name): c for name, c in columns.items() if name in (*LABELS, "donor")}
    dataset = columns.get("dataset") or ("dataset_id" if "dataset_id" in adata.obs.columns else None)
    try:
        return in_memory.standardise_adata(adata, organism, columns=fields, layer=layer, dataset_column=dataset)
    except AtlasInputError as error:
        raise LoaderInputError(error.field, error.got, error.allowed) from error
    except ContractError as error:
        first = error.findings[0]
        raise CellsError(first.where, first.found, _remedy(adata, layer, first.code) or first.remedy) from error


def _remedy(adata: ad.AnnData, layer: str | None, code: str) -> str:
    """Return which layer to name where values are no counts and another element holds them."""
    if code not in {"fractional-count", "log-normalised", "depth-normalised", "scaled-values", "negative-count"}:
        return ""
    others: dict[str | None, Any] = {None: adata.X, **dict(adata.layers.items())}
    if adata.raw is not None:
        others["raw"] = adata.raw.X
    whole = [name for name, matrix in others.items() if name != layer and _looks_whole(matrix)]
    if not whole:
        return "pass the raw counts, as they were before normalising"
    return f"pass the raw counts: layer={whole[0]!r} looks like them"


def _looks_whole(matrix: Any) -> bool:
    values = np.asarray(matrix.data if sp.issparse(matrix) else matrix[:256]).ravel()[:20_000]
    return (
        values.size > 0
        and values.dtype.kind in "uif"
        and bool((values >= 0).all() and (values == np.floor(values)).all())
    )


def _splits(obs: pd.DataFrame, column: str | None) -> npt.NDArray[np.uint8]:
    if column is None:
        return np.zeros(len(obs), dtype=np.uint8)
    codes = pd.Index(SPLITS).get_indexer(obs[column].astype(str))
    if (codes < 0).any():
        raise LoaderInputError("columns", f"{obs[column].iloc[int(np.argmin(codes))]!r} as split", ", ".join(SPLITS))
    return codes.astype(np.uint8)


def _neighbours(adata: ad.AnnData, kind: str | None, cells: AnnDataCells) -> tuple[Numbers, npt.NDArray[np.float32]]:
    """Return neighbours and distances, [cell, k]: other cells with counts of the same dataset and split."""
    n = len(cells)
    if kind is None:
        return np.empty((n, 0), np.int64), np.empty((n, 0), np.float32)
    counted, datasets, splits = cells.column("depth") > 0, cells.column("dataset"), cells.column("split")
    found = stored_distances(adata, datasets) if kind == "obsp" else _computed_distances(cells, datasets, counted)
    rows, columns = np.repeat(np.arange(n), np.diff(found.indptr)), found.indices
    keep = (rows != columns) & counted[rows] & counted[columns]
    keep &= (datasets[rows] == datasets[columns]) & (splits[rows] == splits[columns])
    kept = sp.csr_matrix((found.data[keep], (rows[keep], columns[keep])), shape=(n, n))
    width = min(MOST_NEIGHBOURS, int(np.diff(kept.indptr).max(initial=0)))
    return neighbours.nearest_first(kept, width)


def stored_distances(adata: ad.AnnData, datasets: npt.NDArray) -> sp.csr_matrix:
    """Return `adata.obsp["distances"]` in units of each dataset's typical distance, as a store has them.

    That is the median over its cells of the distance to the farthest neighbour.
    """
    if "distances" not in adata.obsp:
        raise LoaderInputError("neighbours", "obsp", "'computed', or an AnnData with obsp['distances']")
    found = sp.csr_matrix(adata.obsp["distances"], dtype=np.float32, copy=True)
    if not (np.isfinite(found.data) & (found.data >= 0)).all():
        raise CellsError("obsp['distances']", "values that are no distances", "compute them again, or use 'computed'")
    sizes = np.diff(found.indptr)
    owners, some = np.repeat(datasets, sizes), sizes > 0
    farthest = np.maximum.reduceat(found.data, found.indptr[:-1][some]) if some.any() else found.data
    for dataset in np.unique(owners):
        typical = np.median(farthest[datasets[some] == dataset])
        found.data[owners == dataset] /= typical if typical > 0 else 1.0
    np.maximum(found.data, neighbours.ZERO_DISTANCE, out=found.data)
    return found


def _computed_distances(cells: AnnDataCells, datasets: npt.NDArray, eligible: npt.NDArray[np.bool_]) -> sp.csr_matrix:
    """Return the distances of each cell to its nearest, found dataset by dataset as an ingest finds them."""
    parts, members = [], []
    for dataset in np.unique(datasets):
        rows = np.flatnonzero(datasets == dataset)
        counts = cells.read(rows).decode()
        shape = (len(rows), len(cells.genes()))
        block = sp.csr_matrix((counts.counts, counts.indices, counts.indptr), shape=shape)
        parts.append(neighbours.find_neighbours(lambda block=block: iter([(0, block)]), eligible[rows]))
        members.append(rows)
    found = sp.block_diag(parts, format="csr", dtype=np.float32)
    back = np.argsort(np.concatenate(members), kind="stable")
    return found[back][:, back]
