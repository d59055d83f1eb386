"""Cells by group: `CellGroups` lists every cell once, ordered by group, so that a draw is an offset into a file.

Built in blocks from one code per cell and kept as plain .npy files that are mapped, never read whole. The sampler
needs the sizes (a release's summaries) at once and the order of cells only where it is drawn from.
"""

from __future__ import annotations

import json
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

    def save(self, folder: Path) -> None:
        """Write the groups as two .npy files and a note of their shape."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "offsets.npy", self.offsets)
        if not (isinstance(self.order, np.memmap) and Path(str(self.order.filename)) == folder / "order.npy"):
            np.save(folder / "order.npy", self.order)
        note = {"groups": len(self.offsets) - 1, "cells": len(self)}
        (folder / "groups.json").write_text(json.dumps(note), encoding="utf-8")


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
        Where the order of cells is kept as a mapped file; None keeps it in memory.

    Raises
    ------
    LoaderInputError
        When a code is outside -1..n_groups-1, or no cell is in any group.
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
    total = int(offsets[-1])
    if folder is None:
        order: npt.NDArray = np.empty(total, dtype=width)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        order = np.lib.format.open_memmap(folder / "order.npy", mode="w+", dtype=width, shape=(total,))
    following, first = offsets[:-1].copy(), 0
    for block in codes:
        for start in range(0, len(block), BLOCK):
            part = np.asarray(block[start : start + BLOCK], dtype=np.int64)
            _place(part, first, following, order)
            first += len(part)
    groups = CellGroups(offsets, order)
    if folder is not None:
        order.flush()  # type: ignore[attr-defined]
        groups.save(folder)
        return load_groups(folder)
    return groups


def _place(codes: npt.NDArray[np.int64], first: int, following: npt.NDArray[np.int64], order: npt.NDArray) -> None:
    """Put one block's cells behind those already placed in their groups."""
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
        note = json.loads((folder / "groups.json").read_text(encoding="utf-8"))
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        order = np.load(folder / "order.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LoaderInputError("folder", str(folder), f"groups that `CellGroups.save` wrote ({error})") from error
    if note.get("groups") != len(offsets) - 1 or not note.get("cells") == offsets[-1] == len(order):
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
