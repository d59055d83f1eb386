"""Nearest neighbours among points on a grid: every pair compared, or, where there are many, found by descent.

Coordinates are whole numbers, so squared distances are exact in float64 however they are summed; ties are real, and go
to the first point. Used by `neighbours`; nothing here knows of cells.
"""

from __future__ import annotations

import warnings

import numpy as np

_ROWS = 4096  # points whose candidates are compared at once: 49 MiB at 30 candidates x 50 coordinates
_PAIRS = 1 << 22  # pairs compared at once where a tie is settled: 32 MiB a temporary


def nearest(points: np.ndarray, k: int, exact_up_to: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each point's nearest others, nearest first, and the squares of their distances.

    Parameters
    ----------
    points
        Whole numbers below 2**24, float32 [m, dimensions], m >= 2.
    k
        Others wanted; where there are fewer, all are returned.
    exact_up_to
        Points up to which every pair is compared.
    seed
        Of the search above that.

    Returns
    -------
    Positions, int64 [m, min(k, m - 1)], and squares, float64 of the same shape. Equals come by position; above
    `exact_up_to` a few of the nearest may be missing and farther ones in their place, the squares are exact still.
    """
    k = min(k, len(points) - 1)
    more = min(k + 1, len(points) - 1)  # one more shows whether the last place is tied
    exact = len(points) <= exact_up_to
    everyone = np.arange(len(points))
    candidates = _compare_all(points, more) if exact else _descend(points, min(2 * k, len(points) - 1), seed)
    found, squares = _rank(points, everyone, candidates)
    unsettled = np.isinf(squares[:, k - 1])  # the descent came back with too few
    if exact and more > k:
        unsettled |= squares[:, k - 1] == squares[:, k]
    found, squares = found[:, :k], squares[:, :k]
    rows = np.flatnonzero(unsettled)
    step = max(1, _PAIRS // len(points))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        found[some], squares[some] = _rank(points, some, _settle(points, some, k))
    return found, squares


def _compare_all(points: np.ndarray, wanted: int) -> np.ndarray:
    """Return the nearest others of every point; which of those at the same distance is open."""
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415  # costs a second; only an ingest pays it

    # float64: in float32 the comparison would not be exact.
    search = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(points.astype(np.float64))
    return search.kneighbors(return_distance=False)


def _descend(points: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Return near others of every point, by nearest-neighbour descent; -1 where it found too few.

    Of twice as many as are needed, the nearest are right more often: 99.7-99.9 % instead of 97-99 % on real cells.
    """
    from pynndescent import NNDescent  # noqa: PLC0415  # compiles for 25 s in every process that gets here

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few neighbours are found again by the caller
        # One thread: with more, the result depends on how many. A point counts as its own neighbour.
        return NNDescent(points, n_neighbors=wanted + 1, random_state=seed, n_jobs=1).neighbor_graph[0]


def _settle(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest others of a few points, the first where distances are equal; in no order."""
    every = points.astype(np.float64)
    norms = np.einsum("ij,ij->i", every, every)
    squares = norms[rows, None] + norms - 2.0 * (every[rows] @ every.T)
    squares[np.arange(len(rows)), rows] = np.inf
    last = np.partition(squares, k - 1, axis=1)[:, k - 1 : k]
    nearer, level = squares < last, squares == last
    level &= np.cumsum(level, axis=1) <= k - nearer.sum(axis=1, keepdims=True)
    return np.nonzero(nearer | level)[1].reshape(len(rows), k)


def _rank(points: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates of each row, nearest first and then by position, and the squares of their distances.

    A point itself, and -1, are nobody: infinitely far.
    """
    candidates = np.sort(candidates.astype(np.int64), axis=1)
    squares = np.full(candidates.shape, np.inf)
    for start in range(0, len(rows), _ROWS):
        own, others = rows[start : start + _ROWS, None], candidates[start : start + _ROWS]
        apart = points[others].astype(np.float64) - points[own]
        square = np.einsum("ijk,ijk->ij", apart, apart)
        square[(others == own) | (others < 0)] = np.inf
        squares[start : start + _ROWS] = square
    order = np.argsort(squares, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(squares, order, axis=1)
