"""Where cells are compared: the principal components of a dataset's variable genes, from passes over streamed counts.

The recipe is scanpy's: counts to the median depth, log1p, variable genes by dispersion (`cell_ranger`), centred PCA;
`neighbours` says what is made of it. Logs are rounded to a grid and added up as integers: sums over cells are exact and
no order of cells, block size or number of threads can change a bit. What stays in floating point, the eigenvectors and
a cell's own sum, follows the ranks of the genes, on one thread. The coordinates are on the grid again, so that squared
distances are exact too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .errors import AtlasInputError

LOG_STEP = 2.0**-12  # grid of log counts: 1/4000, far below the noise of counting
SMALLEST_GROUP = 3  # cells a gene must be seen in; as in every filter before variable genes are ranked
_ROWS = 1024  # cells worked on at once: 16 MiB when dense at 2,000 genes
_PERCENTILES = np.arange(10, 105, 5)  # of mean expression; genes between two compete with each other (Cell Ranger)

Blocks = Callable[[], Iterable[tuple[int, sparse.csr_matrix]]]


@dataclass(frozen=True)
class CellSpace:
    """The cells that can be compared, and where they lie."""

    cells: np.ndarray
    """Positions in the dataset, ascending, int64 [m]."""
    coordinates: np.ndarray
    """Principal components, not centred, float32 [m, components]: whole numbers of `LOG_STEP`, below 2**24."""


def place_cells(blocks: Blocks, eligible: np.ndarray, n_genes: int, n_components: int) -> CellSpace:
    """Return the eligible cells' principal components; no columns where nothing varies.

    Parameters
    ----------
    blocks
        Returns a fresh iterator over (first row, counts float32 [rows, genes]), together all rows in order.
    eligible
        Bool [n]: which cells take part. Those without counts do not.
    n_genes, n_components
        Variable genes and components, at most.

    Raises
    ------
    AtlasInputError
        If the blocks do not hold the rows `eligible` speaks of.
    """
    depths = np.concatenate([np.zeros(0), *(_depths(block) for _, block in _checked(blocks, len(eligible)))])
    taken = eligible & (depths > 0)
    cells = np.flatnonzero(taken)
    scale = np.divide(np.median(depths[taken]) if len(cells) else 0, depths, out=np.zeros(len(depths)), where=taken)
    genes = axes = np.zeros((0, 0))
    if len(cells) >= SMALLEST_GROUP:
        genes = variable_genes(*_gene_moments(blocks, scale), len(cells), n_genes)
    if len(genes):
        axes = principal_axes(*_products(blocks, scale, genes), len(cells), n_components)
    coordinates = np.zeros((len(cells), axes.shape[1]), dtype=np.float32)
    done = 0
    for logs in _chosen_logs(blocks, scale, genes) if len(genes) else ():
        coordinates[done : done + logs.shape[0]] = np.rint(logs @ axes)
        done += logs.shape[0]
    return CellSpace(cells, coordinates)


def _checked(blocks: Blocks, n: int) -> Iterable[tuple[int, sparse.csr_matrix]]:
    """Yield the blocks of one pass, refusing rows that are missing, twice there or of another number of genes."""
    done, genes = 0, None
    for first, block in blocks():
        genes = block.shape[1] if genes is None else genes
        if first != done or block.shape[1] != genes or first + block.shape[0] > n:
            found = f"rows {first} to {first + block.shape[0]} x {block.shape[1]} genes after row {done}"
            raise AtlasInputError("blocks", found, f"{n} rows in order, all with {genes} genes")
        done += block.shape[0]
        yield first, block
    if done != n:
        raise AtlasInputError("blocks", f"{done} rows", f"{n} rows, one per entry of eligible, in every pass")


def _depths(block: sparse.csr_matrix) -> np.ndarray:
    """Return each cell's counts in all, float64."""
    return np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()


def _slabs(blocks: Blocks, scale: np.ndarray) -> Iterable[tuple[sparse.csr_matrix, np.ndarray]]:
    """Yield the rows that take part (scale above 0), few at a time, and what to multiply each stored count by."""
    for first, block in _checked(blocks, len(scale)):
        rows = np.flatnonzero(scale[first : first + block.shape[0]])
        for start in range(0, len(rows), _ROWS):
            some = block[rows[start : start + _ROWS]]
            yield some, np.repeat(scale[first + rows[start : start + _ROWS]], np.diff(some.indptr))


def _logs(counts: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return log1p of scaled counts as whole numbers of `LOG_STEP`, float64."""
    return np.rint(np.log1p(counts * scale) / LOG_STEP)


def _gene_moments(blocks: Blocks, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, per gene, the cells that have it, the sum and the sum of squares of its logs; int64."""
    moments = None
    for counts, of_entry in _slabs(blocks, scale):
        logs = _logs(counts.data, of_entry)
        sums = [np.bincount(counts.indices, weights, counts.shape[1]) for weights in (counts.data > 0, logs, logs**2)]
        more = np.stack(sums).astype(np.int64)
        moments = more if moments is None else moments + more
    return tuple(moments)


def variable_genes(seen: np.ndarray, total: np.ndarray, squares: np.ndarray, n_cells: int, n_genes: int) -> np.ndarray:
    """Return the columns of the most variable genes, most variable first.

    Parameters
    ----------
    seen, total, squares
        Per gene: cells that have it, sum and sum of squares of its logs in units of `LOG_STEP`, int64.
    n_cells
        Cells these are over.
    n_genes
        Genes wanted; where no more vary, all that do are returned.

    Notes
    -----
    Dispersion (variance by mean) of the logs, less the median of the genes of like mean, by their median absolute
    deviation: `scanpy.pp.highly_variable_genes(flavor="cell_ranger", n_top_genes=n_genes)` after
    `filter_genes(min_cells=3)`. Where genes tie at the last place, scanpy takes all, here the one with the larger
    dispersion, then mean, then the first is taken.
    """
    mean = total / n_cells
    spread = squares - total / n_cells * total
    varying = np.flatnonzero((seen >= SMALLEST_GROUP) & (n_cells * squares.astype(float) != total.astype(float) ** 2))
    mean, dispersion = mean[varying], spread[varying] / total[varying]
    score = np.zeros(len(varying))
    if len(varying) > n_genes:
        edges = np.percentile(mean, _PERCENTILES)
        group = np.searchsorted(edges, mean, side="left")
        for g in np.unique(group):
            members = group == g
            centred = dispersion[members] - np.median(dispersion[members])
            with np.errstate(divide="ignore", invalid="ignore"):
                score[members] = centred / np.median(np.abs(centred))
        score[np.isnan(score)] = -np.inf
    return varying[np.lexsort((varying, -mean, -dispersion, -score))][:n_genes]


def _chosen_logs(blocks: Blocks, scale: np.ndarray, genes: np.ndarray) -> Iterable[sparse.csr_matrix]:
    """Yield the logs of the chosen genes of the cells that take part, cells x genes in the order given."""
    place = None
    for counts, of_entry in _slabs(blocks, scale):
        if place is None:
            place = np.full(counts.shape[1], -1, dtype=np.int32)
            place[genes] = np.arange(len(genes), dtype=np.int32)
        columns = place[counts.indices]
        keep = columns >= 0
        starts = np.concatenate([[0], np.cumsum(keep)])[counts.indptr]
        logs = _logs(counts.data[keep], of_entry[keep])
        chosen = sparse.csr_matrix((logs, columns[keep], starts), shape=(counts.shape[0], len(genes)))
        chosen.sort_indices()  # a cell's terms are added up in this order
        yield chosen


def _products(blocks: Blocks, scale: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (int64 [genes]) and sums of products (int64 [genes, genes]) of the chosen genes' logs."""
    total = np.zeros(len(genes), dtype=np.int64)
    products = np.zeros((len(genes), len(genes)), dtype=np.int64)
    for logs in _chosen_logs(blocks, scale, genes):
        dense = logs.toarray()
        total += dense.sum(axis=0).astype(np.int64)
        products += (dense.T @ dense).astype(np.int64)
    return total, products


def principal_axes(total: np.ndarray, products: np.ndarray, n_cells: int, n_components: int) -> np.ndarray:
    """Return the leading eigenvectors of the covariance, largest first, float64 [genes, components].

    Parameters
    ----------
    total, products
        Sums, int64 [genes], and sums of products, int64 [genes, genes], over the cells.
    n_cells
        Cells these are over, at least 2.
    n_components
        Eigenvectors wanted, at most; there are no more than genes, or cells less one.
    """
    # Only an ingest pays for their import.
    from scipy.linalg import eigh  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    covariance = (products - np.outer(total, total / n_cells)) / (n_cells - 1)
    genes = len(total)
    wanted = min(n_components, genes, n_cells - 1)
    with threadpool_limits(1, user_api="blas"):  # more threads would change the last bits
        vectors = eigh(covariance, subset_by_index=[genes - wanted, genes - 1], overwrite_a=True)[1]
    return vectors[:, ::-1]
