"""The graph of nearest neighbours in the store: found from the records just written, written, read by rows of cells.

One matrix per organism, cell x cell, as large as its obs; each dataset fills its own diagonal block, so rows already
there never change. How neighbours are found is in `neighbours`; `ingest` calls this, `Atlas.neighbours` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import tiledbsoma as soma

from . import layout
from .contexts import opened
from .neighbours import NeighbourOptions, find_neighbours
from .record_store import RecordReader
from .store import array_uri, grow_array, tick
from .write import GLOBAL_ORDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .ledger import DatasetRow
    from .prepare import IngestOptions

ROWS_PER_BLOCK = 4096  # cells decoded at once: 60 MB at 1,300 genes a cell
ROWS_PER_FRAGMENT = 1_600_000  # rows written at once: 24 million coordinates, as many as X's


def graph_of_dataset(
    root: Path, row: DatasetRow, n_genes: int, eligible: np.ndarray, options: IngestOptions
) -> sp.csr_matrix:
    """Return the neighbours of a dataset whose records are written.

    Parameters
    ----------
    root, row
        Where the dataset is.
    n_genes
        Genes of the table.
    eligible
        Bool [n_cells]: cells that may have neighbours, and be some.
    options
        Whether there shall be any, the seed, and where progress is told.

    Returns
    -------
    Float32 [n_cells, n_cells] of the dataset's own cells, columns ascending; empty where none are wanted.
    """
    if not options.neighbours:
        return sp.csr_matrix((row.n_cells, row.n_cells), dtype=np.float32)
    options.progress("neighbours", 0, row.n_cells)
    stop = row.first_joinid + row.n_cells
    with RecordReader(array_uri(root, row.organism, layout.RECORDS), stop) as reader:

        def blocks() -> Iterator[tuple[int, sp.csr_matrix]]:
            for first in range(row.first_joinid, stop, ROWS_PER_BLOCK):
                cells = np.arange(first, min(first + ROWS_PER_BLOCK, stop))
                yield first - row.first_joinid, reader.read(cells).decode(n_genes)

        graph = find_neighbours(blocks, eligible, NeighbourOptions(seed=options.seed))
    options.progress("neighbours", row.n_cells, row.n_cells)
    return graph


def write_neighbours(root: Path, row: DatasetRow, graph: sp.csr_matrix) -> None:
    """Write a dataset's rows of the graph, and give the matrix a row and a column for each of its cells.

    Parameters
    ----------
    root, row
        Where the dataset is.
    graph
        Float32 [n_cells, n_cells] of the dataset's own cells, columns ascending.
    """
    uri = array_uri(root, row.organism, layout.NEIGHBOURS)
    cells = row.first_joinid + row.n_cells
    grow_array(uri, cells, cells)
    with opened(soma.SparseNDArray, uri, "w") as array:
        for first in range(0, row.n_cells, ROWS_PER_FRAGMENT):
            part = graph[first : first + ROWS_PER_FRAGMENT]
            if part.nnz:
                rows = np.repeat(np.arange(first, first + part.shape[0], dtype=np.int64), np.diff(part.indptr))
                columns = part.indices.astype(np.int64) + row.first_joinid
                table = {"soma_dim_0": rows + row.first_joinid, "soma_dim_1": columns, "soma_data": part.data}
                array.write(pa.table(table), platform_config=GLOBAL_ORDER)
    tick()


def read_neighbours(uri: str, first: int, stop: int, n_cells: int, timestamp_ms: int | None = None) -> sp.csr_matrix:
    """Return rows `first` to `stop` (exclusive) of the graph, float32 [stop - first, n_cells], columns ascending.

    Parameters
    ----------
    uri
        The matrix.
    first, stop
        Joinids.
    n_cells
        Cells there are.
    timestamp_ms
        Moment to read at, in milliseconds since 1970; None for the newest.
    """
    shape = (stop - first, n_cells)
    if first == stop:
        return sp.csr_matrix(shape, dtype=np.float32)
    with opened(soma.SparseNDArray, uri, at=timestamp_ms) as array:
        found = array.read((slice(first, stop - 1),)).tables().concat()
    rows, columns = (found[f"soma_dim_{axis}"].to_numpy() for axis in (0, 1))
    graph = sp.coo_matrix((found["soma_data"].to_numpy(), (rows - first, columns)), shape=shape).tocsr()
    graph.sort_indices()
    return graph
