"""Cells of different lengths in one array: `Ragged` says which rows are whose, so that no padding is ever computed.

Gene tokens of a batch lie one cell after another, [tokens, features]; a cell's context may have 200 genes or 8,000.
Layers that work token by token ignore this; attention.py, criss_cross.py and the encoders ask it for borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import ModelInputError


@dataclass(frozen=True, eq=False)
class Ragged:
    """Borders of the cells in a packed array."""

    offsets: Tensor
    """int64 [cells + 1], on the device of the tokens: cell b has rows offsets[b] to offsets[b+1]."""
    sizes: tuple[int, ...]
    """Rows of each cell, known on the CPU, so that no step waits for the device."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.sizes)

    @property
    def total(self) -> int:
        """Return the rows of all cells."""
        return sum(self.sizes)

    @property
    def longest(self) -> int:
        """Return the rows of the longest cell."""
        return max(self.sizes, default=0)

    @property
    def uniform(self) -> bool:
        """Return whether all cells have the same number of rows, so that packed and padded are one and the same."""
        return len(set(self.sizes)) <= 1

    @cached_property
    def owners(self) -> Tensor:
        """Return the cell of each row, int64 [rows]."""
        cells = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(cells, self.offsets.diff(), output_size=self.total)

    def pad(self, rows: Tensor, value: float = 0.0) -> Tensor:
        """Return [rows, ...] as [cells, longest, ...]; a view where all cells are of one length."""
        self._fits(rows)
        if self.uniform:
            return rows.reshape(len(self), self.longest, *rows.shape[1:])
        out = rows.new_full((len(self), self.longest, *rows.shape[1:]), value)
        out[self.owners, self.slots] = rows
        return out

    def unpad(self, padded: Tensor) -> Tensor:
        """Return [cells, longest, ...] as [rows, ...]: what `pad` was given."""
        if self.uniform:
            return padded.reshape(self.total, *padded.shape[2:])
        return padded[self.owners, self.slots]

    @cached_property
    def slots(self) -> Tensor:
        """Return the place of each row in its cell, int64 [rows]."""
        return torch.arange(self.total, device=self.offsets.device) - self.offsets[self.owners]

    @cached_property
    def mask(self) -> Tensor:
        """Return whether a row is there, bool [cells, longest]."""
        places = torch.arange(self.longest, device=self.offsets.device)
        return places < self.offsets.diff()[:, None]

    def sum(self, rows: Tensor) -> Tensor:
        """Return [rows, ...] added up per cell: [cells, ...]. Deterministic, and blind to the other cells."""
        self._fits(rows)
        return self.pad(rows).sum(1)

    def softmax(self, scores: Tensor) -> Tensor:
        """Return scores [rows] turned into shares that add up to 1 in each cell."""
        self._fits(scores)
        return self.unpad(self.pad(scores, value=-torch.inf).softmax(1))

    def spread(self, cells: Tensor) -> Tensor:
        """Return one row per cell, [cells, ...], repeated for each of the cell's rows."""
        return cells[self.owners]

    def _fits(self, rows: Tensor) -> None:
        if rows.shape[0] != self.total:
            raise ModelInputError("rows", rows.shape[0], f"{self.total}, the rows of {len(self)} cells")


def make_ragged(sizes: Tensor | list[int] | tuple[int, ...], device: torch.device | str = "cpu") -> Ragged:
    """Return the borders of cells with these numbers of rows.

    Parameters
    ----------
    sizes
        Rows of each cell, 0 or more; a tensor on the CPU.
    device
        Where the tokens are.

    Raises
    ------
    ModelInputError
        When a size is negative.

    Examples
    --------
    >>> ragged = make_ragged([2, 1])
    >>> ragged.pad(torch.tensor([5, 6, 7])).tolist(), ragged.owners.tolist()
    ([[5, 6], [7, 0]], [0, 0, 1])
    """
    found = tuple(int(size) for size in sizes)
    if min(found, default=0) < 0:
        raise ModelInputError("sizes", min(found), "0 or more")
    offsets = torch.zeros(len(found) + 1, dtype=torch.int64)
    offsets[1:] = torch.tensor(found, dtype=torch.int64).cumsum(0)
    return Ragged(offsets.to(device, non_blocking=True), found)
