"""`CellBatch`, what a model is given: the contexts of some cells one after another, without padding, as typed tensors.

A gene of a context was measured in its cell, by construction: a count of 0 is a measured zero, and genes that were not
measured never enter. `PaddedBatch` is the same on a rectangle, for models that want one. Construction checks types and
shapes, which costs nothing; `check` looks at every value and is for tests and for whoever writes a collator. The
collator (collate.py) makes batches, `Vocabulary` says what their numbers mean. The one file here that imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .errors import BatchError, LoaderInputError

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

DEPTH_TOLERANCE = 1e-6
"""Of the counts of a context above the cell's depth, relative: both are sums in float32."""
Layout = dict[str, tuple[torch.dtype, tuple[str, ...]]]
PER_CELL: Layout = {
    "neighbour_distances": (torch.float32, ("B", "K")),
    "depth": (torch.float32, ("B",)),
    "n_expressed": (torch.int32, ("B",)),
    "n_measured": (torch.int32, ("B",)),
    "labels": (torch.int64, ("B", "labels")),
    **dict.fromkeys(("organism", "dataset", "donor", "cell", "position"), (torch.int64, ("B",))),
}
PACKED: Layout = {
    "genes": (torch.int32, ("N",)),
    "counts": (torch.float32, ("N",)),
    "offsets": (torch.int64, ("B+1",)),
    "neighbour_counts": (torch.float32, ("K", "N")),
    **PER_CELL,
}
PADDED: Layout = {
    "genes": (torch.int32, ("B", "L")),
    "counts": (torch.float32, ("B", "L")),
    "mask": (torch.bool, ("B", "L")),
    "neighbour_counts": (torch.float32, ("B", "K", "L")),
    **PER_CELL,
}


class _Tensors:
    """What both batches do with all their tensors at once."""

    def __len__(self: Any) -> int:
        """Return the number of cells."""
        return len(self.depth)

    @property
    def nbytes(self: Any) -> int:
        """Return the bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    @property
    def expressed(self: Any) -> Tensor:
        """Return where counts are above 0; elsewhere a context has measured zeros, and a rectangle padding."""
        return self.counts > 0

    def to(self: Batch, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on a device; `non_blocking` overlaps the copy with work where the batch is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: Batch) -> Batch:
        """Return the batch in page-locked memory, from where a GPU fetches it without a second copy."""
        return self._each(Tensor.pin_memory)

    def _each(self: Any, change: Any) -> Any:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def _check_layout(self, layout: Layout) -> dict[str, int]:
        """Return the length of every axis after proving that all tensors agree on them, have their type, and meet."""
        sizes: dict[str, int] = {}
        place = None
        for name, (dtype, axes) in layout.items():
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.ndim != len(axes):
                said = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise BatchError(name, said, f"{dtype} [{', '.join(axes)}]")
            place = place or tensor.device
            if tensor.device != place:
                raise BatchError(name, f"on {tensor.device}", f"all tensors on {place}; move them with batch.to()")
            for axis, length in zip(axes, tensor.shape, strict=True):
                axis, length = ("B", length - 1) if axis == "B+1" else (axis, length)  # noqa: PLW2901
                if sizes.setdefault(axis, length) != length:
                    raise BatchError(name, f"{axis} = {length}", f"{axis} = {sizes[axis]}, as the fields before it")
        return sizes


Batch = TypeVar("Batch", bound=_Tensors)


@dataclass(frozen=True, eq=False)
class CellBatch(_Tensors):
    """B cells with up to K neighbours each; N is the sum of the lengths of their contexts.

    Raises
    ------
    BatchError
        When a tensor has another type or shape; values are looked at by `check` only.
    """

    genes: Tensor
    """int32 [N]: tokens of the vocabulary; the context of cell b is offsets[b]:offsets[b + 1], each gene once."""
    counts: Tensor
    """float32 [N]: whole counts; 0 is a measured zero."""
    offsets: Tensor
    """int64 [B + 1]: from 0 to N, rising."""
    neighbour_counts: Tensor
    """float32 [K, N]: counts of the same genes in each neighbour, slot by slot; 0 throughout an empty slot."""
    neighbour_distances: Tensor
    """float32 [B, K]: in units of the dataset's typical distance; infinite where a slot is empty."""
    depth: Tensor
    """float32 [B]: all counts of the cell, in the context or not."""
    n_expressed: Tensor
    """int32 [B]: all genes of the cell with a count, in the context or not."""
    n_measured: Tensor
    """int32 [B]: all genes that its context could have held: measured, known and, of a list, on it."""
    labels: Tensor
    """int64 [B, labels]: class codes in the order of the vocabulary's labels, -1 unknown."""
    organism: Tensor
    """int64 [B]: position in the vocabulary's organisms."""
    dataset: Tensor
    """int64 [B]: code in the cells' own vocabulary."""
    donor: Tensor
    """int64 [B]: code in the cells' own vocabulary."""
    cell: Tensor
    """int64 [B]: cell numbers."""
    position: Tensor
    """int64 [B]: positions in the epoch, which with its key are all that the draws depend on."""

    def __post_init__(self) -> None:
        self._check_layout(PACKED)

    @property
    def lengths(self) -> Tensor:
        """Return the length of every context, int64 [B]."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """Return the cell of every gene, int64 [N]."""
        return _owners(self.lengths, len(self.genes))

    def padded(self, length: int | None = None) -> PaddedBatch:
        """Return the contexts on a rectangle, each from the left.

        Parameters
        ----------
        length
            Of the rectangle; None for the longest context.

        Raises
        ------
        LoaderInputError
            When a context is longer than that.
        """
        longest = int(self.lengths.max()) if len(self) else 0
        length = longest if length is None else length
        if length < longest:
            raise LoaderInputError("length", length, f"at least {longest}, the longest context of the batch")
        rows = self.rows
        columns = torch.arange(len(self.genes), device=rows.device) - self.offsets[:-1][rows]
        slots, shape = len(self.neighbour_counts), (len(self), length)
        genes, counts = self.genes.new_zeros(shape), self.counts.new_zeros(shape)
        mask = torch.zeros(shape, dtype=torch.bool, device=rows.device)
        around = self.counts.new_zeros((len(self), slots, length))
        genes[rows, columns], counts[rows, columns], mask[rows, columns] = self.genes, self.counts, True
        around.transpose(1, 2)[rows, columns] = self.neighbour_counts.T
        return PaddedBatch(genes, counts, mask, around, **_per_cell(self))

    def check(self, vocabulary: Vocabulary) -> None:
        """Look at every value.

        Raises
        ------
        BatchError
            Naming the first field and cell that is wrong.
        """
        batch = self.to("cpu")
        last = len(batch.genes)
        steps = batch.lengths
        if int(batch.offsets[0]) != 0 or int(batch.offsets[-1]) != last or bool((steps < 0).any()):
            raise BatchError("offsets", f"{batch.offsets[:4].tolist()}...", f"rising numbers from 0 to {last}")
        rows = batch.rows
        whole = (batch.counts >= 0) & batch.counts.isfinite() & (batch.counts == batch.counts.round())
        _all(whole, "counts", batch.counts, "whole counts of at least 0, before any normalisation", rows)
        around, slots = batch.neighbour_counts, batch.neighbour_distances
        whole = ((around >= 0) & around.isfinite() & (around == around.round())).all(dim=0)
        _all(whole, "neighbour_counts", None, "whole counts of at least 0, before any normalisation", rows)
        _all((slots >= 0).all(dim=1), "neighbour_distances", slots, "distances of at least 0, infinite for none")
        empty = slots.isinf().T[:, rows]
        _all(~(empty & (around > 0)).any(dim=0), "neighbour_counts", None, "zeros where the distance is infinite", rows)
        _check_genes(batch, vocabulary, rows)
        _check_cells(batch, vocabulary, rows)


@dataclass(frozen=True, eq=False)
class PaddedBatch(_Tensors):
    """The same cells on a rectangle of L columns; see `CellBatch` for the fields that both have.

    Raises
    ------
    BatchError
        When a tensor has another type or shape.
    """

    genes: Tensor
    """int32 [B, L]: tokens; 0 in the padding, which is a token like any other: read the mask."""
    counts: Tensor
    """float32 [B, L]: whole counts; 0 in the padding."""
    mask: Tensor
    """bool [B, L]: True where the context is, False in the padding."""
    neighbour_counts: Tensor
    """float32 [B, K, L]: counts of the same genes in each neighbour."""
    neighbour_distances: Tensor
    """float32 [B, K]: infinite where a slot is empty."""
    depth: Tensor
    """float32 [B]: all counts of the cell."""
    n_expressed: Tensor
    """int32 [B]: all genes of the cell with a count."""
    n_measured: Tensor
    """int32 [B]: all genes that its context could have held."""
    labels: Tensor
    """int64 [B, labels]: class codes, -1 unknown."""
    organism: Tensor
    """int64 [B]: position in the vocabulary's organisms."""
    dataset: Tensor
    """int64 [B]: code in the cells' own vocabulary."""
    donor: Tensor
    """int64 [B]: code in the cells' own vocabulary."""
    cell: Tensor
    """int64 [B]: cell numbers."""
    position: Tensor
    """int64 [B]: positions in the epoch."""

    def __post_init__(self) -> None:
        self._check_layout(PADDED)

    def packed(self) -> CellBatch:
        """Return the contexts one after another, as they were before `padded`."""
        lengths = self.mask.sum(dim=1)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        around = self.neighbour_counts.transpose(1, 2)[self.mask].T.contiguous()
        return CellBatch(self.genes[self.mask], self.counts[self.mask], offsets, around, **_per_cell(self))


def _per_cell(batch: CellBatch | PaddedBatch) -> dict[str, Tensor]:
    """Return the tensors that do not depend on how contexts are laid out."""
    return {name: getattr(batch, name) for name in PER_CELL}


def _owners(lengths: Tensor, total: int) -> Tensor:
    # The total is told, or a GPU would have to be waited for.
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=total)


def _check_genes(batch: CellBatch, vocabulary: Vocabulary, rows: Tensor) -> None:
    """Check that tokens exist, are of the cell's organism, and stand once in a context."""
    n_organisms, n_genes = len(vocabulary.organisms), vocabulary.n_genes
    right = (batch.organism >= 0) & (batch.organism < n_organisms)
    _all(right, "organism", batch.organism, f"positions among the vocabulary's {n_organisms} organisms")
    genes = batch.genes.long()
    right = (genes >= 0) & (genes < n_genes)
    _all(right, "genes", genes, f"tokens from 0 to {n_genes - 1}; collate with this vocabulary", rows)
    theirs = torch.from_numpy(vocabulary.organism_of_tokens)[genes]
    _all(theirs == batch.organism[rows], "genes", genes, "tokens of the cell's own organism", rows)
    order = torch.argsort(rows * n_genes + genes)
    here = (rows * n_genes + genes)[order]
    once = torch.ones(len(genes), dtype=torch.bool)
    once[order[1:]] = here[1:] != here[:-1]
    _all(once, "genes", genes, "each gene once in a context", rows)


def _check_cells(batch: CellBatch, vocabulary: Vocabulary, rows: Tensor) -> None:
    """Check the numbers per cell: label codes, and depth and size against the context."""
    if batch.labels.shape[1] != len(vocabulary.labels):
        expected = f"one for each of the vocabulary's labels: {', '.join(vocabulary.labels)}"
        raise BatchError("labels", f"{batch.labels.shape[1]} columns", expected)
    for column, (name, space) in enumerate(vocabulary.labels.items()):
        codes = batch.labels[:, column]
        _all((codes >= -1) & (codes < len(space)), f"labels ({name})", codes, f"codes from -1 to {len(space) - 1}")
    for name in ("dataset", "donor", "cell", "position"):
        _all(getattr(batch, name) >= 0, name, getattr(batch, name), "numbers of at least 0")
    zero = torch.zeros(len(batch), dtype=torch.float64)
    inside = zero.index_add(0, rows, batch.counts.double())
    expressed = zero.index_add(0, rows, batch.expressed.double())
    enough = batch.depth.double() >= inside * (1 - DEPTH_TOLERANCE)
    _all(enough, "depth", batch.depth, "all counts of the cell, so at least those of its context")
    _all(batch.n_expressed >= expressed, "n_expressed", batch.n_expressed, "all expressed genes of the cell")
    lengths = torch.bincount(rows, minlength=len(batch))
    _all(batch.n_measured >= lengths, "n_measured", batch.n_measured, "all genes that a context could hold")


def _all(right: Tensor, field: str, values: Tensor | None, expected: str, rows: Tensor | None = None) -> None:
    """Raise for the first element that is not right; `rows` names its cell where elements are not cells."""
    if bool(right.all()):
        return
    at = int((~right).nonzero()[0, 0])
    found = "other values" if values is None else str(values[at].tolist())
    raise BatchError(field, found, expected, cell=at if rows is None else int(rows[at]))
