"""One cell, one record: its expressed genes and counts in about three bytes a gene, decoded by copying and widening.

Layout, little-endian, padded to four bytes: gene numbers modulo 2^16 (uint16 each, ascending), counts (uint8 each, 255
meaning "see below"), then one (position, count) pair of uint32 per count of 255 or more, aligned to four bytes. Gene
numbers of 65,536 and more start at position `low`. Nothing is entropy-coded: decoding is copying and widening
(docs/decisions/0010). pack.py keeps records on disk, record_kernels.py has the loops over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import LoaderInputError, PackError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
LARGE = 255
"""Counts from here on are kept in pairs of their own."""
HIGH = 1 << 16
"""Gene numbers from here on are kept modulo this."""
MOST = 1 << 24
"""Largest count: the store keeps float32, which is exact up to here."""


@dataclass(frozen=True, eq=False)
class CellRows:
    """Some cells as compressed sparse rows over the gene axis."""

    indptr: Numbers
    """Start of each cell in the other two, and their length at the end: [cells + 1]."""
    indices: npt.NDArray[np.int32]
    """Gene numbers, ascending inside a cell."""
    counts: npt.NDArray[np.float32]
    """Counts, none 0."""


@dataclass(frozen=True, eq=False)
class PackedCells:
    """Some cells as records, in the order they were asked for; what travels to a GPU to be decoded there."""

    data: Bytes
    """The records, one after another."""
    starts: Numbers
    """First byte of each record in `data`, a multiple of 4."""
    nnz: Numbers
    """Expressed genes of each cell."""
    low: Numbers
    """Of these, how many have gene numbers below 65,536; they come first."""
    large: Numbers
    """Of these, how many have counts of 255 or more."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.starts)

    def decode(self) -> CellRows:
        """Return the cells as sparse rows.

        Raises
        ------
        PackError
            When a record is none.
        """
        from .record_kernels import decode, views_of  # noqa: PLC0415 - numba, which those who never decode do not need

        indptr = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(self.nnz, out=indptr[1:])
        rows = CellRows(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
        if (bad := decode(views_of(self), indptr, rows.indices, rows.counts)) >= 0:
            raise PackError(f"record {bad} of {len(self)} read", "a large count at no gene", "verify the pack")
        return rows

    def take(self, index: Numbers) -> PackedCells:
        """Return some of the records, in the order asked for, repeated or not."""
        from .record_kernels import gather  # noqa: PLC0415

        nnz, large = self.nnz[index], self.large[index]
        sizes = record_sizes(nnz, large)
        data = gather(self.data, self.starts[index], sizes)
        return PackedCells(data, np.cumsum(sizes) - sizes, nnz, self.low[index], large)


def join_records(parts: Sequence[PackedCells]) -> PackedCells:
    """Return the records of all parts, one part after another."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(part.data) for part in parts)])
    nobody = np.empty(0, dtype=np.int64)
    return PackedCells(
        np.concatenate([np.empty(0, np.uint8), *(part.data for part in parts)]),
        np.concatenate([nobody, *(part.starts + first for part, first in zip(parts, before[:-1], strict=True))]),
        *(np.concatenate([nobody, *(getattr(part, name) for part in parts)]) for name in ("nnz", "low", "large")),
    )


def aligned(sizes: Numbers) -> Numbers:
    """Return the next multiples of four."""
    return (sizes + 3) // 4 * 4


def record_sizes(nnz: Numbers, large: Numbers) -> Numbers:
    """Return the bytes of records."""
    return aligned(3 * nnz) + 8 * large


def encode_cells(rows: sp.csr_matrix) -> PackedCells:
    """Return cells as records.

    Parameters
    ----------
    rows
        CSR matrix of whole counts, gene numbers ascending in each row, no explicit zeros.

    Raises
    ------
    LoaderInputError
        When counts are not whole numbers from 1 to 2^24, genes are not ascending, or there are more than 2^17 genes.
    """
    if rows.shape[1] > 2 * HIGH:
        raise LoaderInputError("rows", f"{rows.shape[1]} genes", f"at most {2 * HIGH}")
    counts = np.asarray(rows.data)
    whole = counts.astype(np.uint32)
    if not ((whole == counts) & (counts >= 1) & (counts <= MOST)).all():
        raise LoaderInputError("rows", "other values", f"whole counts from 1 to {MOST}")
    bounds = rows.indptr.astype(np.int64)
    inner = np.ones(len(counts), dtype=bool)
    inner[bounds[:-1][np.diff(bounds) > 0]] = False
    if (np.diff(rows.indices, prepend=-1)[inner] <= 0).any():
        raise LoaderInputError("rows", "genes out of order", "ascending gene numbers in each row")
    nnz = np.diff(bounds)
    before = np.concatenate(([0], np.cumsum(whole >= LARGE)))
    large = np.diff(before[bounds])
    below = np.concatenate(([0], np.cumsum(rows.indices < HIGH)))
    sizes = record_sizes(nnz, large)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    data = np.zeros(int(starts[-1]), dtype=np.uint8)
    genes, small = rows.indices.astype("<u2").view(np.uint8), np.minimum(whole, LARGE).astype(np.uint8)
    for start, first, n in zip(starts.tolist(), bounds.tolist(), nnz.tolist(), strict=False):
        data[start : start + 2 * n] = genes[2 * first : 2 * (first + n)]
        data[start + 2 * n : start + 3 * n] = small[first : first + n]
    for cell in np.flatnonzero(large):
        first, n = bounds[cell], nnz[cell]
        at = np.flatnonzero(whole[first : first + n] >= LARGE)
        pairs = np.stack([at, whole[first + at]], axis=1).astype("<u4")
        tail = starts[cell] + aligned(3 * n)
        data[tail : tail + pairs.nbytes] = pairs.ravel().view(np.uint8)
    return PackedCells(data, starts[:-1], nnz, np.diff(below[bounds]), large)
