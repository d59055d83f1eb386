"""`CellStream`: the batches of an epoch as a torch IterableDataset, for one rank and as many workers as there are.

A position of the epoch says which cell comes (sampler.py), arithmetic says whose batch it is in (shares.py), and the
collator makes the batch. So order and content are the same for any number of workers and ranks. Draws are planned a
window ahead and announced one window before they are read: a pack has the system fetch them, a store reads them in a
thread of its own, while the window before is collated. `CellLoader` (loader.py) drives a stream; it also works in a
plain DataLoader with `batch_size=None`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info

from ontology import LABELS

from .cells import NO_CELL
from .counters import make_key
from .errors import LoaderInputError
from .shares import Shares

if TYPE_CHECKING:
    from .cells import Cells, Numbers
    from .records import PackedCells
    from .sampler import Sampler

Collate = Callable[["Numbers", "Numbers", int, int], Any]
"""(cells, positions, epoch, key) to a batch; picklable, and a function of these alone."""


@dataclass(frozen=True)
class StreamOptions:
    """How an epoch becomes batches."""

    batch_size: int = 128
    """Cells per batch."""
    window: int = 4096
    """Draws planned and announced ahead, per worker; at least a batch. 0 announces nothing."""
    neighbours: int = 0
    """Announce so many neighbours of each cell too, where the collator reads them."""
    whole: bool = True
    """Leave out the end of an epoch that does not give every rank a full batch; False for evaluation, see shares.py."""
    rank: int = 0
    """Which of the ranks this is."""
    ranks: int = 1
    """Processes that share the epoch."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 <= self.rank < self.ranks:
            raise LoaderInputError("rank", self.rank, f"0..{self.ranks - 1}")
        if self.window < 0:
            raise LoaderInputError("window", self.window, "0 or more")


@dataclass(frozen=True, eq=False)
class RawBatch:
    """Cells of a batch as they were packed; what a stream gives where no collator is named."""

    records: PackedCells
    """Their counts."""
    cells: Numbers
    """Their numbers."""
    positions: Numbers
    """Where in the epoch they stand."""
    labels: dict[str, npt.NDArray]
    """Codes of the nine labels."""


class RawCollator:
    """Makes a `RawBatch`: reads records and labels, and nothing else.

    Parameters
    ----------
    cells
        Where they are.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def __call__(self, cells: Numbers, positions: Numbers, epoch: int, key: int) -> RawBatch:
        """Return the batch; nothing about it is random."""
        codes = {label: self._cells.codes(label, cells) for label in LABELS if label in self._cells.columns}
        return RawBatch(self._cells.read(cells), cells, positions, codes)


class CellStream(IterableDataset):
    """The batches of one rank.

    Parameters
    ----------
    cells
        Where the records are.
    sampler
        Which cell comes when, from `make_sampler`.
    collate
        What makes a batch of cells; None gives `RawBatch`.
    options
        Batch size, window and share.
    epoch, position
        Where to begin; see `at`.

    Raises
    ------
    LoaderInputError
        When there are fewer cells than ranks in an evaluation, too few in a training to give each rank one batch, or a
        number is out of its range.
    """

    def __init__(
        self,
        cells: Cells,
        sampler: Sampler,
        collate: Collate | None = None,
        options: StreamOptions | None = None,
        *,
        epoch: int = 0,
        position: int = 0,
    ) -> None:
        self.cells, self.sampler = cells, sampler
        self.collate = collate or RawCollator(cells)
        self.options = options or StreamOptions()
        self.epoch, self.position = epoch, position
        self._key = make_key(sampler.fingerprint, "collate")
        if len(sampler) and not len(self.shares(0)):
            size, ranks = self.options.batch_size, self.options.ranks
            raise LoaderInputError(
                "batch_size", size, f"a full batch for each of {ranks} ranks, and an epoch has {len(sampler)} draws"
            )

    def shares(self, position: int) -> Shares:
        """Return the rounds from a position of an epoch on."""
        options = self.options
        return Shares(len(self.sampler), options.batch_size, options.ranks, position, options.whole)

    def __len__(self) -> int:
        """Return the batches each rank has of a whole epoch, wherever this one begins."""
        return len(self.shares(0))

    def at(self, epoch: int, position: int) -> CellStream:
        """Return this stream from a position of an epoch on: 0, or what a loader's state says."""
        return CellStream(self.cells, self.sampler, self.collate, self.options, epoch=epoch, position=position)

    def shared(self, rank: int, ranks: int) -> CellStream:
        """Return this stream as another rank reads it."""
        options = replace(self.options, rank=rank, ranks=ranks)
        return CellStream(self.cells, self.sampler, self.collate, options, epoch=self.epoch, position=self.position)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of this rank, or of this worker of it: every n-th, where there are n workers."""
        info = get_worker_info()
        windows = self._windows(*((0, 1) if info is None else (info.id, info.num_workers)))
        ahead = self._announced(next(windows, None))
        while ahead is not None:
            now, ahead = ahead, self._announced(next(windows, None))
            for positions, cells in now:
                yield self.collate(cells, positions, self.epoch, self._key)

    def _windows(self, worker: int, workers: int) -> Iterator[list[tuple[Numbers, Numbers]]]:
        """Yield the worker's batches as positions and cells, a window at a time: drawn together they cost less."""
        shares, rank = self.shares(self.position), self.options.rank
        mine = range(worker, len(shares), workers)
        at_once = max(1, self.options.window // self.options.batch_size)
        for first in range(0, len(mine), at_once):
            parts = [np.arange(*shares.span(number, rank)) for number in mine[first : first + at_once]]
            cells = self.sampler.cells_at(self.epoch, np.concatenate(parts))
            ends = np.cumsum([len(part) for part in parts])
            yield list(zip(parts, np.split(cells, ends[:-1]), strict=True))

    def _announced(self, window: list[tuple[Numbers, Numbers]] | None) -> list[tuple[Numbers, Numbers]] | None:
        """Tell the cells what is read soon."""
        if window is not None and self.options.window:
            parts = [part for _, cells in window for part in self._read_with(cells)]
            self.cells.will_need(np.concatenate(parts), self._key)
        return window

    def _read_with(self, cells: Numbers) -> Iterator[Numbers]:
        """Yield the cells of a batch, then the neighbours that a collator reads with them."""
        yield cells
        if self.options.neighbours:
            near = self.cells.neighbours(cells)[0][:, : self.options.neighbours]
            yield near[near != NO_CELL]
