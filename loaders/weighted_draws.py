"""Cells drawn inside groups in proportion to their weights: `draw_weighted`, whose cost does not grow with the cells.

Weights are summed per block of a few cells and cumulated inside each group, once (`sum_weights`), and
group_files.py keeps the sums beside the weights. A draw is a search among its group's blocks, then a look at one block.
sampler.py sends here what its rejections gave up on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import groups as _groups

if TYPE_CHECKING:
    from pathlib import Path

    from .groups import CellGroups

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
CELLS = 16
"""Cells of a block: each may be on a page of its own of the mapped weights, so that few are looked at. The sums are
mapped too, and take 8 bytes per block: 175 MB for 350 million cells."""
DRAWS = 2048
"""Draws looked up at once: some 2 MB."""


def block_starts(groups: CellGroups) -> Numbers:
    """Return the first block of each group, and the number of blocks at the end: [groups + 1]."""
    return np.concatenate(([0], np.cumsum(-(-groups.counts // CELLS))))


def sum_weights(groups: CellGroups, weights: npt.NDArray, file: Path | None = None) -> Reals:
    """Return the weight of each block's cells and of all blocks before it in its group, [blocks].

    Parameters
    ----------
    groups
        The cells.
    weights
        Weight by cell number. Read in blocks, so both may be mapped.
    file
        Where the sums are written, to be mapped; None keeps them in memory.
    """
    starts = block_starts(groups)
    shape = (int(starts[-1]),)
    sums = (
        np.zeros(shape) if file is None else np.lib.format.open_memmap(file, mode="w+", dtype=np.float64, shape=shape)
    )
    for start in range(0, len(groups), _groups.BLOCK):
        values = weights[groups.order[start : start + _groups.BLOCK]]
        slots = np.arange(start, start + len(values))
        owners = np.searchsorted(groups.offsets, slots, side="right") - 1
        blocks = starts[owners] + (slots - groups.offsets[owners]) // CELLS
        found = np.bincount(blocks - blocks[0], values)
        sums[blocks[0] : blocks[0] + len(found)] += found
    for group in np.flatnonzero(np.diff(starts) > 1):
        mine = sums[starts[group] : starts[group + 1]]
        np.cumsum(mine, out=mine)
    return sums


def draw_weighted(groups: CellGroups, weights: npt.NDArray, sums: Reals, chosen: Numbers, units: Reals) -> Numbers:
    """Return a cell of each chosen group.

    Parameters
    ----------
    groups, weights
        The cells, and weight by cell number.
    sums
        Of these, by `sum_weights`.
    chosen
        Groups, none of them empty, [draws].
    units
        Random numbers from 0 to below 1, [draws].
    """
    starts, out = block_starts(groups), np.empty(len(chosen), dtype=np.int64)
    for at in range(0, len(chosen), DRAWS):
        some = slice(at, at + DRAWS)
        group = chosen[some]
        block, rest = _find_blocks(starts[group], starts[group + 1] - 1, sums, units[some])
        first = groups.offsets[group] + CELLS * (block - starts[group])
        sizes = np.minimum(groups.offsets[group + 1] - first, CELLS)
        slots = first[:, None] + np.minimum(np.arange(CELLS), sizes[:, None] - 1)
        cells = groups.order[slots]
        # In a short block the last cell stands for what is missing, and is what a draw beyond it means.
        hits = (np.cumsum(weights[cells], axis=1, dtype=np.float64) <= rest[:, None]).sum(axis=1)
        out[some] = np.take_along_axis(cells, np.minimum(hits, sizes - 1)[:, None], axis=1)[:, 0]
    return out


def _find_blocks(first: Numbers, last: Numbers, sums: Reals, units: Reals) -> tuple[Numbers, Reals]:
    """Return the block each draw falls into, between its group's first and last, and how far into its weights."""
    target, low, high = units * sums[last], first, last
    while (low < high).any():
        middle = (low + high) // 2
        beyond = (sums[middle] <= target) & (low < high)
        low, high = np.where(beyond, middle + 1, low), np.where(beyond, high, middle)
    return low, target - np.where(low > first, sums[low - 1], 0)
