"""Sketches of cells, by which near-copies are found without comparing every cell with every other.

A cell is a set: its genes at count levels 1, 2, 4, ... 128 (a gene with 5 counts is there at 1, 2 and 4), so that deep
and shallow genes weigh alike and one lost molecule seldom counts. Of the set MinHash takes `BANDS` keys of `ROWS`
minima each; two cells share a key with probability J^ROWS, J being the share of common elements. Copies with 5 % of
their molecules moved have J around 0.9, the nearest different cells of a real dataset 0.2 to 0.45 (docs/curate.md).
Pure functions over arrays; `near_copies` compares the candidates' own counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .identity import mix

if TYPE_CHECKING:
    import scipy.sparse as sp

BANDS = 40
ROWS = 12  # at J 0.88 a band agrees with 0.22, 40 bands miss with 1 in 15,000; at J 0.4 with 0.00002
LEVELS = 8  # counts of 1 to 128 in doublings; beyond, a gene adds nothing
_BINS = BANDS * ROWS
_EMPTY = np.uint32(0xFFFFFFFF)
_ODD = np.uint64(0x9E3779B97F4A7C15)
MAX_BUCKET = 64  # cells of one key that are paired with one another; beyond, each with as many that follow it


def element_hashes(keys: np.ndarray) -> np.ndarray:
    """Return the hash of each (gene, level), uint64 [gene, level].

    Parameters
    ----------
    keys
        One 64-bit key a gene, from its id alone: `identity.gene_keys(ids)[0]`.
    """
    levels = np.arange(1, LEVELS + 1, dtype=np.uint64) * _ODD
    return mix(keys.astype(np.uint64)[:, None] + levels)


def band_keys(counts: sp.csr_matrix, hashes: np.ndarray) -> np.ndarray:
    """Return the keys of each cell, uint32 [cell, BANDS]; equal cells have equal keys, whatever their genes' order.

    Parameters
    ----------
    counts
        CSR, cell x gene, positive integers, no duplicate coordinates.
    hashes
        From `element_hashes`, of the same genes.

    Notes
    -----
    One-permutation MinHash (Li, Owen and Zhang 2012): a hash chooses its bin and competes there. A bin that is empty
    takes the next filled one's minimum, moved by the distance (rotation, Shrivastava and Li 2014).
    """
    n = counts.shape[0]
    height = np.minimum(np.log2(np.maximum(counts.data, 1)).astype(np.int64), LEVELS - 1) + 1
    at = np.repeat(np.arange(len(height)), height)
    level = np.arange(len(at)) - np.repeat(np.cumsum(height) - height, height)
    word = hashes[counts.indices[at], level]
    cell = np.repeat(np.arange(n), np.diff(counts.indptr))[at]
    bins = ((word >> np.uint64(32)) * np.uint64(_BINS) >> np.uint64(32)).astype(np.int64)
    minima = np.full(n * _BINS, _EMPTY, dtype=np.uint32)
    np.minimum.at(minima, cell * _BINS + bins, (word & np.uint64(0xFFFFFFFE)).astype(np.uint32))
    return _fold(_filled(minima.reshape(n, _BINS)))


def _filled(minima: np.ndarray) -> np.ndarray:
    """Return minima without empty bins, but for cells that have nothing at all."""
    place = np.where(minima != _EMPTY, np.arange(_BINS), 2 * _BINS)
    around = np.concatenate([place, place + _BINS], axis=1)
    nearest = np.minimum.accumulate(around[:, ::-1], axis=1)[:, ::-1][:, :_BINS]
    some = nearest[:, :1] < 2 * _BINS
    moved = (nearest - np.arange(_BINS)).astype(np.uint32) * np.uint32(0x85EBCA6B)
    return np.where(some, np.take_along_axis(minima, nearest % _BINS, axis=1) + moved, _EMPTY)


def _fold(minima: np.ndarray) -> np.ndarray:
    """Return each band's minima as one 32-bit key."""
    bands = minima.reshape(len(minima), BANDS, ROWS).astype(np.uint64)
    key = np.zeros(bands.shape[:2], dtype=np.uint64)
    for row in range(ROWS):
        key = mix(key * _ODD + bands[:, :, row])
    return (key >> np.uint64(32)).astype(np.uint32)


def candidate_pairs(keys: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, int]:
    """Return pairs of cells of different groups that share a key, and how many were left untested.

    Parameters
    ----------
    keys
        uint32 [cell, BANDS].
    group
        Group of each cell, e.g. its dataset, int [cell]; pairs within one are none.

    Returns
    -------
    int64 [pair, 2], the smaller index first, ascending, each pair once. Cells share a key by the hundreds only where
    they are all alike; then each is paired with the `MAX_BUCKET` that follow it, and the others are counted, once for
    each key that they share.
    """
    n, found, untested = len(keys), [np.empty(0, np.int64)], 0
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        sorted_keys, sorted_group = keys[order, band], group[order]
        for apart in range(1, n):
            same = np.flatnonzero(sorted_keys[apart:] == sorted_keys[:-apart])
            if not len(same):
                break
            if apart > MAX_BUCKET:
                untested += _left(sorted_keys, sorted_group)
                break
            same = same[sorted_group[same] != sorted_group[same + apart]]
            one, other = order[same], order[same + apart]
            found.append(np.minimum(one, other) * n + np.maximum(one, other))
    pairs = np.unique(np.concatenate(found))
    return np.stack([pairs // max(n, 1), pairs % max(n, 1)], axis=1), untested


def _left(keys: np.ndarray, groups: np.ndarray) -> int:
    """Return a band's pairs of one key and different groups that are further apart than `MAX_BUCKET`; keys ascend."""
    first = np.searchsorted(keys, keys)
    at = np.flatnonzero(np.searchsorted(keys, keys, side="right") - first > MAX_BUCKET + 1)
    far = np.maximum(at - first[at] - MAX_BUCKET, 0).sum()
    order = np.lexsort((at, groups[at], first[at]))
    at = at[order]
    alike = np.cumsum(np.append(0, (np.diff(first[at]) != 0) | (np.diff(groups[at]) != 0))) * len(keys)
    place = alike + at  # ascends; the pairs of one group are those to be taken off
    same = np.searchsorted(place, alike + np.maximum(at - MAX_BUCKET, 0)) - np.searchsorted(place, alike)
    return int(far - same.sum())
