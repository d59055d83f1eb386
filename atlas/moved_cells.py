"""A published dataset written a second time, at other joinids, from what the store itself holds of it.

What a retraction does with the datasets that stay. The functions are those of an ingest, the proof too: hashes are
counted anew from what was written. Two things follow from other datasets and may change: whether a cell is primary
data, where the copy before it is gone, and neighbours, which are among primary cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
import tiledbsoma as soma

from . import layout, schema
from .content import cell_blocks
from .contexts import opened
from .copies import find_copies
from .neighbour_store import graph_of_dataset, write_neighbours
from .prepare import IngestOptions
from .verify import verify_dataset, verify_neighbours
from .write import GeneTotals, write_counts, write_obs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ontology import GeneTable

    from .handle import Atlas
    from .ledger import DatasetRow

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Moved:
    """What became of one dataset."""

    row: DatasetRow
    """The dataset, with its new joinids."""
    totals: GeneTotals
    """What it adds to var."""
    restored: int
    """Cells that are primary data again, because the copy before them is gone."""
    unsure: int
    """Cells whose copy is gone and that stay no primary data, because the source may have said so itself."""


def move_dataset(
    atlas: Atlas, old: DatasetRow, new: DatasetRow, edition: str, table: GeneTable, progress: Progress
) -> Moved:
    """Write a dataset's cells, counts, records, presence and neighbours into another edition, and read them back.

    Parameters
    ----------
    atlas
        Where it is now; the edition holds the datasets before it already.
    old, new
        The dataset with the joinids it has, and with those it gets.
    edition
        Folder of the new arrays, below census_data.
    table
        The organism's genes.
    progress
        Called with a stage, cells done and cells in all.

    Raises
    ------
    StoreError
        If what was written reads back differently.
    """
    there = replace(new, organism=edition)
    measured = _measured(atlas, old, len(table))
    parts: list[tuple[pd.DataFrame, sp.csr_matrix]] = []

    def blocks() -> Iterator[sp.csr_matrix]:
        for block in cell_blocks(replace(atlas, datasets=(old,)), old.organism):
            graph = block.neighbours[:, old.first_joinid : old.first_joinid + old.n_cells]
            parts.append((_plain(block.obs), graph))
            yield block.counts
            progress(f"move {old.dataset_id}", block.first + len(block.obs) - old.first_joinid, old.n_cells)

    totals = write_counts(atlas.place, there, blocks(), measured)
    obs = pd.concat([frame for frame, _ in parts], ignore_index=True)
    graph = sp.vstack([one for _, one in parts], format="csr")
    obs["soma_joinid"] = np.arange(new.first_joinid, new.first_joinid + new.n_cells, dtype=np.int64)
    before = (obs["qc_pass"] & obs["is_primary_data"]).to_numpy()
    again, unsure = _primary_again(atlas, old, there, obs)
    obs["is_primary_data"] |= again
    eligible = (obs["qc_pass"] & obs["is_primary_data"]).to_numpy()
    write_obs(atlas.place, there, obs)
    if (eligible != before).any():
        options = IngestOptions(neighbours=_had_neighbours(atlas, old, graph), progress=progress)
        graph = graph_of_dataset(atlas.place, there, len(table), eligible, options)
    write_neighbours(atlas.place, there, graph)
    verify_dataset(atlas.place, there, obs, (table, measured), progress)
    verify_neighbours(atlas.place, there, graph, eligible)
    return Moved(new, totals, int(again.sum()), unsure)


def _measured(atlas: Atlas, row: DatasetRow, n_genes: int) -> np.ndarray:
    """Return a bool per gene: the dataset measured it."""
    measured = np.zeros(n_genes, bool)
    uri = atlas.array_uri(row.organism, layout.PRESENCE)
    with opened(soma.SparseNDArray, uri, at=atlas.published_ms) as array:
        measured[array.read((row.dataset_joinid,)).tables().concat()["soma_dim_1"].to_numpy()] = True
    return measured


def _plain(obs: pd.DataFrame) -> pd.DataFrame:
    """Return rows of obs with texts as they are, not as codes of this block's categories."""
    return obs.astype(dict.fromkeys(schema.categories(schema.OBS), object))


def _primary_again(atlas: Atlas, old: DatasetRow, there: DatasetRow, obs: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Return which cells are primary data from now on that were not, and how many might be and are left as they are.

    The store does not keep whether a source itself called a cell a copy. One that did so for cells whose copies were
    never here may have meant others as well, so its cells are not judged anew.
    """
    primary = obs["is_primary_data"].to_numpy()
    if primary.all():
        return np.zeros(len(obs), bool), 0
    hashes = (obs["count_hash"].to_numpy(), obs["core_hash"].to_numpy())
    nnz = obs["nnz"].to_numpy()
    held = [row for row in atlas.datasets if row.organism == old.organism]
    was = find_copies(atlas.place, old.organism, old.first_joinid, hashes, nnz, held).any
    now = find_copies(atlas.place, there.organism, there.first_joinid, hashes, nnz).any
    again = ~primary & was & ~now
    if (~primary & ~was).any():
        return np.zeros(len(obs), bool), int(again.sum())
    return again, 0


def _had_neighbours(atlas: Atlas, row: DatasetRow, graph: sp.csr_matrix) -> bool:
    """Return whether a dataset was ingested with neighbours; one that was may have had no cell to have any."""
    receipt = replace(atlas, datasets=(row,)).written().get(row.dataset_id)
    said = receipt["releases"].get("neighbours") if receipt else None
    return bool(graph.nnz) if said is None else said == "yes"
