"""Cells by group: `CellGroups` lists every cell once, ordered by group, so that a draw is an offset into a file.

Built in blocks from one code per cell and kept as plain .npy files that are mapped, never read whole. The sampler
needs the sizes (a release's summaries) at once and the order of cells only where it is drawn from.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import LoaderInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK = 1 << 20
"""Cells per block when groups are built: 8 MiB of codes."""


@dataclass(frozen=True, eq=False)
class CellGroups:
    """Every cell once, by group."""

    offsets: npt.NDArray[np.int64]
    """Start of each group in `order`, and the number of cells at the end: [groups + 1]."""
    order: npt.NDArray[np.unsignedinteger]
    """Cell numbers, ascending inside a group; may be a mapped file."""

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Return the cells of each group."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        """Return the number of cells."""
        return int(self.offsets[-1])


def build_groups(codes: Iterable[npt.NDArray], n_groups: int, n_cells: int, folder: Path | None = None) -> CellGroups:
    """Return the groups of cells numbered 0..n-1.

    Parameters
    ----------
    codes
        Arrays of group numbers, the cells' in order; -1 for a cell in no group. Iterated twice: pass a list, or an
        object whose iterator starts anew.
    n_groups
        Groups there are, empty ones included.
    n_cells
        Cells in all, for the width of a cell number.
    folder
        Where the groups are kept as mapped files, there whole or not at all; must not exist. None keeps them in memory.

    Raises
    ------
    LoaderInputError
        When a code is outside -1..n_groups-1, no cell is in any group, `codes` can be iterated only once, or `folder`
        exists.
    """
    sizes = np.zeros(n_groups + 1, dtype=np.int64)
    for block in codes:
        shifted = np.asarray(block, dtype=np.int64) + 1
        if len(shifted) and (shifted.min() < 0 or shifted.max() > n_groups):
            raise LoaderInputError("codes", f"{shifted.min() - 1}..{shifted.max() - 1}", f"-1..{n_groups - 1}")
        sizes += np.bincount(shifted, minlength=n_groups + 1)
    offsets = np.concatenate(([0], np.cumsum(sizes[1:])))
    if not offsets[-1]:
        raise LoaderInputError("codes", "no cell in any group", "at least one cell")
    width = np.uint32 if n_cells <= 1 << 32 else np.uint64
    if folder is None:
        order = np.empty(int(offsets[-1]), dtype=width)
        _fill(codes, offsets, order)
        return CellGroups(offsets, order)
    if folder.exists():
        raise LoaderInputError("folder", str(folder), "a folder that does not exist yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        mapped = np.lib.format.open_memmap(part / "order.npy", mode="w+", dtype=width, shape=(int(offsets[-1]),))
        _fill(codes, offsets, mapped)
        mapped.flush()
        np.save(part / "offsets.npy", offsets)
        part.chmod(0o755)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return load_groups(folder)


def _fill(codes: Iterable[npt.NDArray], offsets: npt.NDArray[np.int64], order: npt.NDArray) -> None:
    """Put every cell behind those already placed in its group."""
    following, first = offsets[:-1].copy(), 0
    for block in codes:
        for start in range(0, len(block), BLOCK):
            part = np.asarray(block[start : start + BLOCK], dtype=np.int64)
            _place(part, first, following, order)
            first += len(part)
    if not np.array_equal(following, offsets[1:]):
        raise LoaderInputError("codes", "other cells the second time", "a list, or an object that iterates anew")


def _place(codes: npt.NDArray[np.int64], first: int, following: npt.NDArray[np.int64], order: npt.NDArray) -> None:
    """Place one block's cells."""
    rank = np.argsort(codes, kind="stable")
    rank = rank[np.searchsorted(codes[rank], 0) :]
    ordered = codes[rank]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    runs = np.diff(starts, append=len(ordered))
    within = np.arange(len(ordered)) - np.repeat(starts, runs)
    order[following[ordered] + within] = first + rank
    following[ordered[starts]] += runs


def load_groups(folder: Path) -> CellGroups:
    """Return saved groups with the order of cells mapped, not read.

    Raises
    ------
    LoaderInputError
        When the files do not fit together.
    """
    try:
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        order = np.load(folder / "order.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LoaderInputError("folder", str(folder), f"groups that `build_groups` wrote ({error})") from error
    if offsets[-1] != len(order):
        raise LoaderInputError("folder", str(folder), "files of one and the same grouping; build them again")
    return CellGroups(offsets, order)


def group_maxima(groups: CellGroups, weights: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return the largest cell weight of each group, 0 for an empty one; read in blocks, so both may be mapped.

    Parameters
    ----------
    groups
        The cells.
    weights
        Weight by cell number.
    """
    out = np.zeros(len(groups.offsets) - 1)
    for start in range(0, len(groups), BLOCK):
        values = np.asarray(weights[groups.order[start : start + BLOCK]], dtype=np.float64)
        owners = np.searchsorted(groups.offsets, np.arange(start, start + len(values)), side="right") - 1
        heads = np.flatnonzero(np.diff(owners, prepend=-1))
        np.maximum.at(out, owners[heads], np.maximum.reduceat(values, heads))
    return out
