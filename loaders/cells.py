"""What every source of cells answers: `Cells`, the one interface between where cells lie and how they are plated.

A pack (pack.py), the store itself (store_cells.py) and an AnnData in memory (anndata_cells.py) are such sources. Cells
are numbered 0..n-1; labels, datasets and donors are codes into `about["vocabulary"]`; genes are numbered per organism.
The sampler sees numbers only, the collator asks for the cells a batch needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

    from .records import PackedCells

Numbers = npt.NDArray[np.int64]
NO_CELL = -1
"""Stands where a cell has fewer neighbours than asked for."""
SPLITS = ("train", "validation", "test")
"""What the numbers in the column `split` mean."""


@runtime_checkable
class Cells(Protocol):
    """Cells by number. Implementations pickle to what reopens them, so that spawned workers open their own handles."""

    @property
    def fingerprint(self) -> str:
        """Digest of the cells, their order and what is known of them; a pack and its store have the same one."""

    @property
    def about(self) -> dict[str, Any]:
        """What the cells are: release, content_sha256, organisms (by code), splits, vocabulary (values by code)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numbers per cell: split, dataset, donor, depth, nnz, the nine labels, and hashes.

        `cell_id_high` and `count_hash_high` are the first 64 bits of the cell's id and of the hash of its counts.
        """

    def __len__(self) -> int:
        """Return the number of cells."""

    def column(self, name: str) -> npt.NDArray:
        """Return one number of all cells; mapped where possible."""

    def codes(self, name: str, cells: Numbers) -> npt.NDArray:
        """Return one number of some cells."""

    def genes(self) -> pd.DataFrame:
        """Return organism (code), feature_id and feature_name, in the order of gene numbers per organism."""

    def measured(self, dataset: int, organism: int) -> npt.NDArray[np.bool_]:
        """Return, per gene of an organism, whether a dataset (by code) measured it."""

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not."""

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Say which cells a stream, told apart from others by a number, reads soon; a hint only."""

    def neighbours(self, cells: Numbers) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return the nearest cells and their distances, both [cells, k], nearest first.

        `NO_CELL` and infinity stand where there are fewer: a neighbour that failed QC, is a copy, or belongs to another
        split is no neighbour. Distances are in units of the dataset's typical one (atlas/neighbours.py).
        """
