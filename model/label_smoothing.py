"""Labels agreed on by neighbours: `smooth_annotation` mixes what is said of a cell with what is said of cells like it.

A cell of few molecules is hard to name and its neighbours are easier. Probabilities spread along a graph of cells by
the local and global consistency of Zhou et al. (2003, NeurIPS 16): each cell keeps a share of its own, and takes the
rest as the mean of its neighbours' smoothed ones. `nearest_cells` makes a graph in an embedding, or it is given. The
result depends on which cells are there, unlike everything else that is said of a cell, so it is asked for, never the
default, and a calibration promises nothing for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .annotation import UNKNOWN, TermChoice, Threshold
from .errors import ModelInputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from .annotation import Annotation

NEAREST = 15
"""Neighbours of a cell in a graph that is made here."""
STRENGTH = 0.5
"""Share of a cell's probabilities that comes of its neighbours."""
CLOSE = 1e-6
"""Largest change of a probability at which spreading ends."""
AT_ONCE = 1_024
"""Cells whose probabilities of all classes are in memory."""


def nearest_cells(embedding: npt.NDArray[np.float32], k: int = NEAREST) -> sp.csr_matrix:
    """Return the graph of each cell's nearest others, 1 where either is among the other's nearest.

    Parameters
    ----------
    embedding
        Of the cells, [cells, dimensions].
    k
        Others that count as near.

    Returns
    -------
    float32 [cells, cells], symmetric, nothing on the diagonal.

    Notes
    -----
    Every pair is compared, a block at a time, so that the graph is always the same: 3 s for 10,000 cells on one core,
    five minutes for 100,000.
    """
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 - takes a second to import

    if k < 1:
        raise ModelInputError("k", k, "1 or more neighbours")
    n = len(embedding)
    near = min(k, n - 1)
    if near < 1:
        return sp.csr_matrix((n, n), dtype=np.float32)
    found = NearestNeighbors(n_neighbors=near, algorithm="brute").fit(embedding).kneighbors(return_distance=False)
    rows = np.repeat(np.arange(n), near)
    graph = sp.csr_matrix((np.ones(n * near, np.float32), (rows, found.ravel())), shape=(n, n))
    return graph.maximum(graph.T).tocsr()


def spread(
    probabilities: npt.NDArray[np.float32], graph: sp.csr_matrix, strength: float = STRENGTH
) -> npt.NDArray[np.float32]:
    """Return probabilities that agree with those of neighbours: F = (1 - s) (I - s W)^-1 P, W the graph's means.

    Parameters
    ----------
    probabilities
        [cells, leaves]; rows add up to 1, and so do those of the result.
    graph
        How near cells are to each other, 0 or more, [cells, cells]. A cell without neighbours stays as it is.
    strength
        s, from 0, which changes nothing, to below 1.

    Raises
    ------
    ModelInputError
        When the graph is not of these cells, has weights below 0, or the strength is out of bounds.
    """
    if not 0 <= strength < 1:
        raise ModelInputError("strength", strength, "a share from 0 to below 1")
    means = _row_means(graph, len(probabilities))
    alone = np.asarray(means.sum(1)).ravel() == 0
    own = probabilities.astype(np.float32)
    found = own
    # The iteration contracts by the strength, so this many rounds end within CLOSE whatever the graph is.
    for _ in range(int(np.ceil(np.log(CLOSE) / np.log(strength))) if strength else 0):
        new = strength * (means @ found) + (1 - strength) * own
        new[alone] = own[alone]
        change, found = float(np.abs(new - found).max()), new
        if change < CLOSE:
            break
    return found / found.sum(1, keepdims=True)


def smooth_annotation(annotation: Annotation, graph: sp.csr_matrix, strength: float = STRENGTH) -> Annotation:
    """Return an annotation with each label's probabilities spread along a graph, and terms said anew of them.

    Parameters
    ----------
    annotation
        Of all cells of the graph, in its order.
    graph
        See `spread`.
    strength
        See `spread`.

    Raises
    ------
    ModelInputError
        As `spread`.
    """
    labels = {}
    for label, one in annotation.labels.items():
        shares, choice = spread(one.probabilities, graph, strength), TermChoice(one.space)
        said = np.empty(len(shares), dtype=np.int32)
        sure = np.full(len(shares), np.nan, dtype=np.float32)
        for start in range(0, len(shares), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            classes = choice.probabilities(shares[some])
            said[some] = choice.deepest(classes, [one.threshold.value])[0]
            told = np.flatnonzero(said[some] != UNKNOWN)
            sure[start + told] = classes[told, said[start + told]]
        why = Threshold(one.threshold.value, f"{one.threshold.promise}, before smoothing; none since")
        labels[label] = replace(one, probabilities=shares, said=said, said_probability=sure, threshold=why)
    return replace(annotation, labels=labels)


def _row_means(graph: sp.csr_matrix, cells: int) -> sp.csr_matrix:
    """Return a graph whose rows add up to 1, or to 0 where a cell has no neighbour; a cell is none of its own."""
    if graph.shape != (cells, cells):
        raise ModelInputError("graph", graph.shape, f"neighbours of these cells, {(cells, cells)}")
    made = sp.csr_matrix(graph, dtype=np.float32, copy=True)
    if not (np.isfinite(made.data) & (made.data >= 0)).all():
        raise ModelInputError("graph", "weights below 0 or not finite", "how near cells are, such as connectivities")
    made.setdiag(0)
    made.eliminate_zeros()
    totals = np.asarray(made.sum(1)).ravel()
    return sp.diags(np.divide(1, totals, out=np.zeros_like(totals), where=totals > 0)) @ made
