"""Joint labels of cells, block by block: which combination of cell type, tissue, ... each cell has, as one number.

Columns are read in blocks and codes go to a mapped file, so that 350 million cells never stand in memory; only the
table of combinations that occur does. plan.py groups cells by these numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import CellsError, LoaderInputError
from .groups import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .cells import Cells

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JointLabels:
    """Cells by combination of labels."""

    codes: npt.NDArray[np.int32]
    """Row of `table` per cell, -1 for a cell that was not chosen; a mapped file."""
    table: Codes
    """Code of each label of each combination that occurs, ascending: [combinations, labels]; -1 is unknown."""

    def blocks(self) -> list[npt.NDArray[np.int32]]:
        """Return the codes as blocks, which `build_groups` goes through twice."""
        return [self.codes[first:last] for first, last in spans(len(self.codes))]


def spans(n_cells: int) -> Iterator[tuple[int, int]]:
    """Yield the first cell of each block and the one after its last."""
    for first in range(0, n_cells, BLOCK):
        yield first, min(first + BLOCK, n_cells)


def joint_labels(
    cells: Cells, labels: Sequence[str], chosen: Callable[[Codes], npt.NDArray[np.bool_]], file: Path
) -> JointLabels:
    """Return the combination of labels of each cell.

    Parameters
    ----------
    cells
        Where the labels are.
    labels
        Columns with a vocabulary that make a combination; none puts all cells into one.
    chosen
        Tells which of some cells count.
    file
        Where the codes go; must not exist.

    Raises
    ------
    LoaderInputError
        When there is no such column, or more combinations are possible than a number can tell apart.
    CellsError
        When a code has no value in the vocabulary.
    """
    words = cells.about["vocabulary"]
    if unknown := [label for label in labels if label not in words or label not in cells.columns]:
        raise LoaderInputError("labels", unknown, f"some of {', '.join(sorted(words))}")
    sizes = [len(words[label]) + 1 for label in labels]  # and -1, which is unknown
    if math.prod(sizes) >= 1 << 63:
        raise LoaderInputError("labels", tuple(labels), "fewer labels; their values make more than 2^63 combinations")
    codes = np.lib.format.open_memmap(file, mode="w+", dtype=np.int32, shape=(len(cells),))
    found = pd.Index(np.empty(0, np.int64))
    for first, last in spans(len(cells)):
        numbers = np.arange(first, last)
        kept = chosen(numbers)
        at, new = pd.factorize(_joined(cells, labels, sizes, numbers[kept]))
        places = found.get_indexer(new)
        fresh = places < 0
        places[fresh] = len(found) + np.arange(int(fresh.sum()))
        found = found.append(pd.Index(new[fresh]))
        block = np.full(last - first, -1, dtype=np.int32)
        block[kept] = places[at]
        codes[first:last] = block
    # Numbered by value, not by who came first: alike however the cells are cut into blocks.
    values = found.to_numpy()
    rank = np.full(len(values) + 1, -1, dtype=np.int32)  # the last one answers for -1
    rank[np.argsort(values)] = np.arange(len(values))
    for first, last in spans(len(cells)):
        codes[first:last] = rank[codes[first:last]]
    return JointLabels(codes, _split(np.sort(values), sizes))


def _joined(cells: Cells, labels: Sequence[str], sizes: Sequence[int], numbers: Codes) -> Codes:
    """Return one number per cell that stands for its labels."""
    joint = np.zeros(len(numbers), dtype=np.int64)
    for label, size in zip(labels, sizes, strict=True):
        codes = cells.codes(label, numbers)
        if len(codes) and not -1 <= codes.min() <= codes.max() < size - 1:
            raise CellsError(label, f"codes {codes.min()}..{codes.max()}", f"-1..{size - 2} by the cells' vocabulary")
        joint = joint * size + codes + 1
    return joint


def _split(joint: Codes, sizes: Sequence[int]) -> Codes:
    """Return the codes of each label that joint numbers stand for."""
    table = np.empty((len(joint), len(sizes)), dtype=np.int64)
    rest = joint
    for column in range(len(sizes) - 1, -1, -1):
        rest, table[:, column] = np.divmod(rest, sizes[column])
    return table - 1
