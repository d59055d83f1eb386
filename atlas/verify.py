"""Reading back what an ingest wrote, before it is published: the store must say what the source said.

The counts of every cell are compared by their hash, sum and number, its record and its neighbours value by value, every
column of obs, and the presence row; var totals and census_info are derived from these and are not compared here. A
mismatch is the store's fault, not the source's, so it raises `StoreError` and nothing is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import tiledbsoma as soma

from . import layout, schema
from .contexts import BULK, opened
from .errors import StoreError
from .identity import count_hashes, gene_keys
from .neighbour_store import read_neighbours
from .record_store import RecordReader, naming, wrong_records
from .store import array_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd

    from ontology import GeneTable

    from .ledger import DatasetRow

ROWS_PER_READ = 1024  # cells read back at once; about 40 MB of coordinates at 2,000 genes a cell


def read_blocks(uri: str, first: int, stop: int, n_vars: int) -> Iterator[sp.csr_matrix]:
    """Yield rows `first` to `stop` (exclusive) of a stored count matrix as CSR blocks, genes in any order within a row.

    TileDB's own row-major order sorts what global order mostly has sorted already, at 15x the CPU time.
    """
    with opened(soma.SparseNDArray, uri, more=BULK) as array:
        for start in range(first, stop, ROWS_PER_READ):
            end = min(start + ROWS_PER_READ, stop)
            table = array.read((slice(start, end - 1),)).tables().concat()
            rows = table["soma_dim_0"].to_numpy() - start
            values, genes = table["soma_data"].to_numpy(), table["soma_dim_1"].to_numpy()
            if (rows[1:] < rows[:-1]).any():
                order = np.argsort(rows, kind="stable")
                rows, values, genes = rows[order], values[order], genes[order]
            indptr = np.searchsorted(rows, np.arange(end - start + 1))
            yield sp.csr_matrix((values, genes, indptr), shape=(end - start, n_vars))


def verify_dataset(
    root: Path,
    row: DatasetRow,
    obs: pd.DataFrame,
    genes: tuple[GeneTable, np.ndarray],
    progress: Callable[[str, int, int], None],
) -> None:
    """Read a dataset back and compare it with what was meant to be written.

    Parameters
    ----------
    root, row
        Where the dataset is.
    obs
        The rows of obs as computed from the source, count hashes included.
    genes
        The gene table, and bool per gene: measured by the source.
    progress
        Called with the stage's name, cells done and cells in all.

    Raises
    ------
    StoreError
        Naming the first thing that differs.
    """
    table, measured = genes
    _verify_counts(root, row, obs, table, progress)
    _verify_obs(array_uri(root, row.organism, "obs"), row, obs)
    uri = array_uri(root, row.organism, layout.PRESENCE)
    with opened(soma.SparseNDArray, uri) as array:
        held = array.read((row.dataset_joinid,)).tables().concat()
    _require(uri, "presence matrix", np.array_equal(np.sort(held["soma_dim_1"]), np.flatnonzero(measured)))


def verify_neighbours(root: Path, row: DatasetRow, graph: sp.csr_matrix, eligible: np.ndarray) -> None:
    """Read a dataset's neighbours back and compare them with the graph that was meant to be written.

    Parameters
    ----------
    root, row
        Where the dataset is.
    graph
        Distances between the dataset's cells, float32 [n_cells, n_cells].
    eligible
        Bool [n_cells]: cells that may have neighbours, and be some.

    Raises
    ------
    StoreError
        If a row differs, or names a cell that is of another dataset or not eligible.
    """
    uri = array_uri(root, row.organism, layout.NEIGHBOURS)
    first, stop = row.first_joinid, row.first_joinid + row.n_cells
    found = read_neighbours(uri, first, stop, stop)
    inside = found.indices >= first
    _require(uri, "neighbours of another dataset", inside.all())
    taking_part = eligible[np.flatnonzero(np.diff(found.indptr))].all() and eligible[found.indices - first].all()
    _require(uri, "neighbours of or among cells that failed QC or are copies", taking_part)
    _require(uri, "distances between neighbours", bool((found.data > 0).all()))
    same = np.array_equal(found.indptr, graph.indptr) and np.array_equal(found.indices - first, graph.indices)
    _require(uri, "neighbours", same and np.array_equal(found.data, graph.data))


def _verify_counts(
    root: Path, row: DatasetRow, obs: pd.DataFrame, table: GeneTable, progress: Callable[[str, int, int], None]
) -> None:
    """Recompute every cell's hashes, sum and number of genes from X as stored, and compare X with its record."""
    uri = array_uri(root, row.organism, layout.X_RAW)
    keys = gene_keys(table.ids)
    done, stop = 0, row.first_joinid + row.n_cells
    with RecordReader(array_uri(root, row.organism, layout.RECORDS), stop) as reader:
        for block in read_blocks(uri, row.first_joinid, stop, len(table)):
            part = obs.iloc[done : done + block.shape[0]]
            whole, inner = count_hashes(block, keys, table.core)
            first = row.first_joinid + done
            where = f"X of cells {first} to {first + block.shape[0] - 1}"
            _require(uri, where, np.array_equal(whole, part["count_hash"]) and np.array_equal(inner, part["core_hash"]))
            # In float64, where sums of counts are exact; a matrix of float32 adds in float32, whatever it is asked for.
            total = np.concatenate([[0.0], np.cumsum(block.data, dtype=np.float64)])
            _require(uri, where, np.array_equal(np.diff(total[block.indptr]), part["raw_sum"]))
            _require(uri, where, np.array_equal(np.diff(block.indptr), part["nnz"]))
            wrong = wrong_records(reader, first, block)
            _require(reader.uri, f"the records of {naming(wrong)}", len(wrong) == 0)
            done += block.shape[0]
            progress("verify", done, row.n_cells)


def _verify_obs(uri: str, row: DatasetRow, obs: pd.DataFrame) -> None:
    """Compare every column of obs by value; this is what notices a lost category."""
    with opened(soma.DataFrame, uri) as frame:
        table = frame.read((slice(row.first_joinid, row.first_joinid + row.n_cells - 1),)).concat()
    _require(uri, "number of rows", table.num_rows == row.n_cells)
    table = table.sort_by("soma_joinid")
    for field in schema.OBS:
        column = table[field.name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.large_string())
        got, meant = column.to_numpy(zero_copy_only=False), obs[field.name].to_numpy()
        if meant.dtype.kind == "f":
            same = np.array_equal(got, meant.astype(got.dtype), equal_nan=True)
        else:
            same = np.array_equal(got, meant)
        _require(uri, f"obs column {field.name}", same)


def _require(uri: str, what: str, same: bool) -> None:
    """Raise where the store differs from what was written."""
    if not same:
        raise StoreError(uri, "verify", f"{what} reads back differently; nothing was published, run the ingest again")
