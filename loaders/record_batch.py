"""`RecordBatch`, a batch before its genes are chosen: bytes of records, and the little that the choice needs.

collate.py gathers it, and fills it on a CPU; where a GPU decodes, this is what a worker sends: under half of the
bytes of the `CellBatch` that device.py makes of it there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class RecordBatch:
    """A batch whose genes are not chosen yet: what a worker sends where a GPU decodes. See records.py for a record."""

    data: Tensor
    """uint8: records of the B cells, then of their neighbours."""
    starts: Tensor
    """int64 [R]: first byte of each record."""
    nnz: Tensor
    """int64 [R]: expressed genes of each record."""
    low: Tensor
    """int64 [R]: of these, how many have numbers below 65,536."""
    large: Tensor
    """int64 [R]: of these, how many have counts of 255 or more."""
    keys: Tensor
    """int64 [B]: bits of the cells' keys."""
    offsets: Tensor
    """int64 [B + 1]: of the contexts to be."""
    neighbours: Tensor
    """int64 [B, K]: record of each neighbour, -1 for none."""
    cells: dict[str, Tensor]
    """Fields of the CellBatch that are one per cell, by name."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RecordBatch:
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> RecordBatch:
        """Return the batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Any) -> RecordBatch:
        moved = {name: change(value) for name, value in vars(self).items() if name != "cells"}
        return replace(self, **moved, cells={name: change(value) for name, value in self.cells.items()})
