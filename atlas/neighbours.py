"""The nearest neighbours of every cell within its dataset, stored beside the cells for models that read sets of cells.

`ingest` calls `find_neighbours` in the transaction that writes the cells; readers cut the graph with
`restrict_neighbours` and order it with `nearest_first`. The recipe is scanpy's default one (docs/neighbours.md has what
it costs and how it compares); distances are divided by what is usual in the dataset, because a model that has seen one
dataset's scale must be able to read another's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from .errors import AtlasInputError
from .neighbour_search import nearest
from .neighbour_space import SMALLEST_GROUP, Blocks, place_cells

ZERO_DISTANCE = np.float32(2.0**-20)  # what a distance of 0 is stored as: sparse storage has no room for zeros


@dataclass(frozen=True)
class NeighbourOptions:
    """How neighbours are found; the defaults are those of scanpy's tutorials."""

    k: int = 15
    """Neighbours of a cell, at most."""
    n_genes: int = 2000
    """Most variable genes that the comparison rests on."""
    n_components: int = 50
    """Principal components."""
    exact_up_to: int = 50_000
    """Cells up to which every pair is compared; above, a search that misses a few neighbours is used."""
    seed: int = 0
    """Of that search."""

    def __post_init__(self) -> None:
        for name in ("k", "n_genes", "n_components", "exact_up_to"):
            if getattr(self, name) < 1:
                raise AtlasInputError(name, getattr(self, name), "a positive integer")
        if not 0 <= self.seed < 2**32:
            raise AtlasInputError("seed", self.seed, "an integer from 0 to 4294967295")


def find_neighbours(blocks: Blocks, eligible: np.ndarray, options: NeighbourOptions | None = None) -> csr_matrix:
    """Return the graph of nearest neighbours of one dataset.

    Parameters
    ----------
    blocks
        Returns a fresh iterator over (first row, raw counts float32 [rows, genes]), together the dataset's rows in
        order; called four times. Its block size changes nothing.
    eligible
        Bool [n]: cells that take part; the others have no neighbours and are nobody's.
    options
        Numbers of neighbours, genes and components.

    Returns
    -------
    Float32 [n, n], columns ascending within a row: the distance of a cell to each of its neighbours, divided by the
    median distance to the last (k-th) neighbour over the cells; always above 0. Not symmetric. A cell is not its own
    neighbour; with k or fewer other cells, all of them are. Empty where fewer than 3 cells take part or no gene varies.

    Raises
    ------
    AtlasInputError
        If the blocks do not hold the rows `eligible` speaks of.

    Notes
    -----
    Euclidean distance between principal components of log counts. The same input gives the same bytes, whatever the
    number of threads; permuting the cells permutes the graph, but for neighbours at the very same distance, of which
    the one stored first is taken; the order of genes has no effect.
    """
    options = options or NeighbourOptions()
    eligible = np.asarray(eligible)
    if eligible.dtype != bool or eligible.ndim != 1:
        raise AtlasInputError("eligible", f"{eligible.dtype} {eligible.shape}", "one bool per cell")
    n = len(eligible)
    space = place_cells(blocks, eligible, options.n_genes, options.n_components)
    if len(space.cells) < SMALLEST_GROUP or not space.coordinates.shape[1]:
        return csr_matrix((n, n), dtype=np.float32)
    found, squares = nearest(space.coordinates, options.k, options.exact_up_to, options.seed)
    distances = np.sqrt(squares)
    scale = _typical(distances)
    values = np.maximum((distances / scale).astype(np.float32), ZERO_DISTANCE)
    order = np.argsort(found, axis=1)
    starts = np.zeros(n + 1, dtype=np.int64)
    starts[space.cells + 1] = found.shape[1]
    columns = space.cells[np.take_along_axis(found, order, axis=1)]
    values = np.take_along_axis(values, order, axis=1)
    graph = csr_matrix((values.ravel(), columns.ravel(), np.cumsum(starts)), shape=(n, n))
    graph.has_canonical_format = True
    return graph


def _typical(distances: np.ndarray) -> float:
    """Return the median distance to the last neighbour; where that is 0, of those that are not; 1 if none."""
    median = float(np.median(distances[:, -1]))
    if median > 0:
        return median
    positive = distances[distances > 0]
    return float(np.median(positive)) if len(positive) else 1.0


def restrict_neighbours(graph: csr_matrix, keep: np.ndarray) -> csr_matrix:
    """Return the graph of some of the cells; neighbours that are not kept are dropped, none is put in their place.

    Parameters
    ----------
    graph
        Float32 [n, n], as `find_neighbours` returns it.
    keep
        Bool [n]; or the kept cells' positions in the order wanted, int [m], each at most once.

    Returns
    -------
    Float32 [m, m], columns ascending within a row; the distances keep the scale of the whole dataset.

    Raises
    ------
    AtlasInputError
        If `keep` names a cell twice, or one that is not there.

    Examples
    --------
    >>> graph = csr_matrix(np.array([[0, 1, 2], [1, 0, 0], [2, 1, 0]], dtype=np.float32))
    >>> restrict_neighbours(graph, np.array([2, 0])).toarray().tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    n = graph.shape[0]
    cells = np.asarray(keep)
    if cells.dtype == bool:
        if cells.shape != (n,):
            raise AtlasInputError("keep", f"bool {cells.shape}", f"one bool per cell: shape ({n},)")
        cells = np.flatnonzero(cells)
    if cells.ndim != 1 or (len(cells) and not (cells.min() >= 0 and cells.max() < n)):
        raise AtlasInputError("keep", f"{cells.dtype} {cells.shape}", f"positions from 0 to {n - 1}")
    place = np.full(n, -1, dtype=np.int64)
    place[cells] = np.arange(len(cells))
    if np.any(place[cells] != np.arange(len(cells))):
        raise AtlasInputError("keep", "a cell named twice", "each cell at most once")
    rows = graph[cells]
    columns = place[rows.indices]
    kept = columns >= 0
    row = np.repeat(np.arange(len(cells)), np.diff(rows.indptr))[kept]
    restricted = csr_matrix((rows.data[kept], (row, columns[kept])), shape=(len(cells), len(cells)))
    restricted.sort_indices()
    return restricted


def nearest_first(rows: csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of some cells as a rectangle, nearest first.

    Parameters
    ----------
    rows
        Float32 [m, n]: rows of a graph.
    k
        Neighbours wanted.

    Returns
    -------
    Columns, int64 [m, k], -1 where a cell has fewer; distances, float32 [m, k], infinite there. Neighbours at the same
    distance come by column.

    Examples
    --------
    >>> nearest_first(csr_matrix(np.array([[0, 3, 2], [0, 0, 0]], dtype=np.float32)), 2)[0].tolist()
    [[2, 1], [-1, -1]]
    """
    lengths = np.diff(rows.indptr)
    row = np.repeat(np.arange(rows.shape[0]), lengths)
    order = np.lexsort((rows.indices, rows.data, row))
    rank = np.arange(len(row)) - np.repeat(rows.indptr[:-1], lengths)
    keep = rank < k
    columns = np.full((rows.shape[0], k), -1, dtype=np.int64)
    distances = np.full((rows.shape[0], k), np.inf, dtype=np.float32)
    columns[row[keep], rank[keep]] = rows.indices[order][keep]
    distances[row[keep], rank[keep]] = rows.data[order][keep]
    return columns, distances
