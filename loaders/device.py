"""Decoding and collation where a GPU is: the bytes of records travel, and become sparse rows or a batch over there.

`decode_on` is PackedCells.decode in torch. `DeviceCollator` makes of a `RecordBatch` what `Collator.fill` makes of it,
bit for bit, by sorts and look-ups instead of loops over cells; nothing is laid out over the gene axis. Both run on any
torch device, the CPU among them, where the compiled kernels are the faster way. Optional: nothing else needs this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .batch import CellBatch
from .choices import GENES
from .errors import LoaderInputError
from .records import HIGH

if TYPE_CHECKING:
    from .collate import Collator
    from .record_batch import RecordBatch
    from .records import PackedCells

GENE, ZERO = 0, 1
"""Lanes of a cell's random numbers, as in kernels.py."""
SPARE = 1.1
"""Draws per zero that is wanted, at first; a cell whose draws met too many genes twice gets twice as many again."""


class Rows(NamedTuple):
    """Decoded records: one element per expressed gene, record by record."""

    record: Tensor
    genes: Tensor
    counts: Tensor


def decode_on(packed: PackedCells, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Return cells as compressed sparse rows on a device.

    Parameters
    ----------
    packed
        Records.
    device
        Where they are decoded; their bytes are all that is sent.

    Returns
    -------
    indptr (int64 [cells + 1]), indices (int32) and counts (float32), as `PackedCells.decode` has them.
    """
    names = ("data", "starts", "nnz", "low", "large")
    rows = _decode(*(torch.as_tensor(getattr(packed, name)).to(device) for name in names))
    nnz = torch.as_tensor(packed.nnz).to(device)
    return torch.cat([nnz.new_zeros(1), nnz.cumsum(0)]), rows.genes.int(), rows.counts


class DeviceCollator:
    """Fills gathered batches on a device; tables are sent once.

    Parameters
    ----------
    collator
        Of the same vocabulary, cells and configuration as the one that gathered.
    device
        Where batches are wanted.

    Raises
    ------
    LoaderInputError
        When zeros are to come from neighbours, which only the CPU's kernels do.
    """

    def __init__(self, collator: Collator, device: torch.device | str) -> None:
        if collator.config.zeros == "neighbours":
            raise LoaderInputError("zeros", "neighbours", "random or none on a device; Collator.fill does neighbours")
        self._collator, self._config, self._device = collator, collator.config, device
        self._tokens = torch.from_numpy(collator.choices.tokens).to(device).view(-1)
        self._pool, self._version = torch.empty(0), -1

    def fill(self, batch: RecordBatch) -> CellBatch:
        """Return a batch with its genes chosen, on the device.

        Parameters
        ----------
        batch
            On the CPU, as `Collator.gather` returns it; pinned memory makes its copy overlap.
        """
        choices = self._collator.choices
        spans = choices.find(batch.cells["organism"].numpy(), batch.cells["dataset"].numpy())
        first, sizes = (torch.from_numpy(span).to(self._device, non_blocking=True) for span in spans)
        if self._version != choices.version:
            self._pool, self._version = torch.from_numpy(choices.pool).to(self._device).long(), choices.version
        batch = batch.to(self._device, non_blocking=True)
        rows = _decode(batch.data, batch.starts, batch.nnz, batch.low, batch.large)
        wanted, cells = batch.offsets.diff(), len(batch)
        if self._config.needs_genes:
            owner, place = _spread(wanted)
            context = owner * GENES + self._pool[first[owner] + place]
        else:
            most = wanted - (wanted.double() * self._config.from_all).long()
            context = self._choose_expressed(batch, rows, most)
            filled = torch.bincount(context // GENES, minlength=cells)
            zeros = self._choose_zeros(batch, context, wanted - filled, first, sizes)
            owner = torch.cat([context, zeros]) // GENES
            # Stable: within a cell, its expressed genes stay before its zeros.
            context = torch.cat([context, zeros])[owner.argsort(stable=True)]
        return self._lay_out(batch, rows, context)

    def _choose_expressed(self, batch: RecordBatch, rows: Rows, wanted: Tensor) -> Tensor:
        """Return keys (cell * GENES + gene) of the expressed genes that are shown, cell by cell, ascending."""
        cells = len(batch)
        mine = rows.record < cells
        cell, gene, count = rows.record[mine], rows.genes[mine], rows.counts[mine]
        known = self._tokens[batch.cells["organism"][cell] * GENES + gene] >= 0
        cell, gene, count = cell[known], gene[known], count[known]
        order = (_words(batch.keys[cell], GENE, gene) ^ _signed(2**63)).argsort()  # in the order of unsigned words
        if self._config.context == "most_expressed":
            order = order[count[order].argsort(descending=True, stable=True)]
        order = order[cell[order].argsort(stable=True)]
        shown = order[_ranks(cell[order]) < wanted[cell[order]]].sort().values
        return cell[shown] * GENES + gene[shown]

    def _choose_zeros(
        self, batch: RecordBatch, context: Tensor, missing: Tensor, first: Tensor, sizes: Tensor
    ) -> Tensor:
        """Return keys of the genes that fill each cell's context, cell by cell in the order they were drawn."""
        taken, parts = context.sort().values, []
        # Where a context takes all there is, nothing is drawn: its genes come in their order.
        whole = (missing > 0) & (sizes <= batch.offsets.diff())
        cell, place = _spread(sizes * whole)
        parts.append(_first_new(cell * GENES + self._pool[first[cell] + place], taken, missing))
        open_ = (missing > 0) & ~whole
        draws = int(missing.max() * SPARE) + 64 if len(missing) else 0
        while bool(open_.any()):
            cell, draw = _spread(open_ * draws)
            place = ((_words(batch.keys[cell], ZERO, draw) >> 18) & (2**46 - 1)) * sizes[cell] >> 46
            found = _first_new(cell * GENES + self._pool[first[cell] + place], taken, missing)
            done = torch.bincount(found // GENES, minlength=len(missing)) == missing
            parts.append(found[(done & open_)[found // GENES]])
            open_, draws = open_ & ~done, 2 * draws
        return torch.cat(parts)

    def _lay_out(self, batch: RecordBatch, rows: Rows, context: Tensor) -> CellBatch:
        """Return the batch of a context: counts of the cells and of their neighbours on its genes."""
        cells, slots = batch.neighbours.shape
        cell, gene = context // GENES, context % GENES
        genes = self._tokens[batch.cells["organism"][cell] * GENES + gene]
        # Each record is laid on one cell's context: in row 0 its own, in row 1 + k that of neighbour k.
        target = torch.zeros((2, len(batch.nnz)), dtype=torch.int64, device=context.device)
        target[0, :cells] = torch.arange(cells, device=context.device)
        near, slot = (batch.neighbours >= 0).nonzero(as_tuple=True)
        target[:, batch.neighbours[near, slot]] = torch.stack([near, slot + 1])
        counts = torch.zeros((slots + 1, len(context)), dtype=torch.float32, device=context.device)
        keys, places = context.sort()
        owner, row = target[:, rows.record]
        wanted = owner * GENES + rows.genes
        at = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
        hits = keys[at] == wanted if len(keys) else torch.zeros_like(wanted, dtype=torch.bool)
        counts[row[hits], places[at[hits]]] = rows.counts[hits]
        return CellBatch(genes, counts[0], batch.offsets, counts[1:], **batch.cells)


def _decode(data: Tensor, starts: Tensor, nnz: Tensor, low: Tensor, large: Tensor) -> Rows:
    """Return the elements of records; see records.py for their bytes."""
    if not len(data):  # torch has no view of nothing
        data = data.new_zeros(4)
    record, place = _spread(nnz)
    words = data.view(torch.int16)[(starts[record] >> 1) + place].long() & (HIGH - 1)
    genes = words + HIGH * (place >= low[record])
    counts = data[starts[record] + 2 * nnz[record] + place].float()
    owner, pair = _spread(large)
    at = ((starts[owner] + 3 * nnz[owner] + 3) >> 2) + 2 * pair
    pairs = data.view(torch.int32)
    counts[(nnz.cumsum(0) - nnz)[owner] + pairs[at]] = pairs[at + 1].float()
    return Rows(record, genes, counts)


def _spread(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return owner and place of each element of groups of these sizes."""
    owner = torch.repeat_interleave(sizes)
    return owner, torch.arange(len(owner), device=sizes.device) - (sizes.cumsum(0) - sizes)[owner]


def _ranks(groups: Tensor) -> Tensor:
    """Return the place of each element in its group; the elements of a group are side by side, groups rising."""
    return torch.arange(len(groups), device=groups.device) - torch.searchsorted(groups, groups)


def _first_new(drawn: Tensor, taken: Tensor, limit: Tensor) -> Tensor:
    """Return of the keys drawn, cell by cell, those not taken and not drawn before, up to each cell's limit."""
    keys, order = drawn.sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    if len(taken):
        new &= taken[torch.searchsorted(taken, keys).clamp(max=len(taken) - 1)] != keys
    drawn = drawn[order[new].sort().values]
    return drawn[_ranks(drawn // GENES) < limit[drawn // GENES]]


def _words(keys: Tensor, lane: int, index: Tensor) -> Tensor:
    """Return the bits of `counters.random_words(key, lane, index)` for each key and index."""
    seed = _mix(_mix(keys + _GAMMA) ^ _signed(lane * (_GAMMA % 2**64)))
    return _mix((index + 1) * _GAMMA + seed)


def _mix(words: Tensor) -> Tensor:
    """Return SplitMix64's finaliser; signed words multiply to the same bits, but their sign must not be shifted in."""
    words = (words ^ ((words >> 30) & (2**34 - 1))) * _M1
    words = (words ^ ((words >> 27) & (2**37 - 1))) * _M2
    return words ^ ((words >> 31) & (2**33 - 1))


def _signed(word: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (word + 2**63) % 2**64 - 2**63


_GAMMA, _M1, _M2 = (_signed(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
