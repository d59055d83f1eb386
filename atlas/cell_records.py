"""One cell, one record: its expressed genes and their counts in about one byte a gene on disk, exactly.

X holds the same numbers as coordinates, 20 bytes a count in memory, and no tiling or filter makes those faster to
read. A record is two strings of bytes, which the store hands over by copying: training reads records, everybody else
X. `write` puts them beside X in one transaction, and `verify` compares the two; `record_store` reads them.

Layout of a record; gene numbers are columns of X, ascending, and `n` genes have a count:

`genes`
    One byte a gene: how many genes lie between it and the one before (before the first: gene -1). The byte 255 is no
    gene but skips 255 genes, as often as needed: the gene after byte b is `last + 1 + 255 * skips + b`, b <= 254.
    So there are `n` bytes below 255, and the last byte is one of them.
`counts`
    Five sections, one behind the other, each beginning at a byte of its own:

    1. `n` codes of two bits: 0, 1, 2 are the counts 1, 2, 3; 3 is a larger one. ceil(n / 4) bytes.
    2. for each of the `m` larger ones, four bits: 0 to 14 are the counts 4 to 18; 15 is one larger still.
       ceil(m / 2) bytes.
    3. to 5. for each of the `k` still larger ones, `count - 19` in three bytes: all lowest bytes, all middle ones, all
       highest ones. 3 k bytes, so counts reach 2^24, where float32 stops being exact.

    Within a byte the first value is in the lowest bits; unused bits are 0. `n` and the codes give `m`, the nibbles `k`.

A cell without counts has two empty strings. The strings of many cells lie one after another, unaligned. Genes and
counts are apart because each compresses better by itself; two bits, because most counts are 1 and no byte-wise
compression spends less than a bit on a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .errors import AtlasInputError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Numbers = npt.NDArray[np.int64]

SKIP = 255
"""The byte of `genes` that is no gene but skips so many."""
TWO_BITS = 3
"""Counts up to here are their two-bit code + 1."""
FOUR_BITS = 18
"""Larger counts up to here are their nibble + 4."""
MOST_COUNT = 1 << 24
"""Largest count a record holds; X keeps float32, which is exact up to here."""
MOST_GENES = 1 << 17
"""Most genes a record may be over."""
_VALUES = {
    bits: np.arange(256, dtype=np.uint8)[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    for bits in (2, 4)
}  # what a byte holds, by the bits of a value: looked up ten times faster than shifted out
_SOUND = "records as `encode_records` makes them"


@dataclass(frozen=True, eq=False)
class StoredRecords:
    """Some cells as the store keeps them, in the order asked for; the layout is at the top of this file."""

    genes: Bytes
    """The genes of all cells, one cell after another."""
    gene_starts: Numbers
    """Start of each cell in `genes`, and its length at the end: [cells + 1]."""
    counts: Bytes
    """The counts of all cells, one cell after another."""
    count_starts: Numbers
    """Start of each cell in `counts`, and its length at the end: [cells + 1]."""
    nnz: Numbers
    """Genes with a count of each cell: [cells]."""

    @classmethod
    def of(cls, genes: Bytes, gene_starts: Numbers, counts: Bytes, count_starts: Numbers) -> StoredRecords:
        """Return records of their bytes; what each cell's number of genes is, the bytes of `genes` say."""
        skips = np.searchsorted(np.flatnonzero(genes == SKIP), gene_starts)
        return cls(genes, gene_starts, counts, count_starts, np.diff(gene_starts) - np.diff(skips))

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.nnz)

    def decode(self, n_genes: int) -> sp.csr_matrix:
        """Return the cells' counts, cell x gene: CSR float32, genes ascending, no zeros.

        Parameters
        ----------
        n_genes
            Genes of the organism's table.

        Raises
        ------
        AtlasInputError
            If the bytes are no records over so many genes.
        """
        indptr = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.nnz, out=indptr[1:])
        indices = self._gene_numbers(indptr, n_genes)
        return sp.csr_matrix((self._counts(indptr), indices, indptr), shape=(len(self), n_genes))

    def _gene_numbers(self, indptr: Numbers, n_genes: int) -> npt.NDArray[np.int32]:
        """Return the gene numbers of all cells."""
        is_gene = self.genes != SKIP
        # One running sum over all cells, from which what the cells before added up to is taken again. It may wrap
        # round; differences of wrapping integers are right as long as they themselves fit, and they are < 2^17.
        ends = np.cumsum(self.genes + is_gene.astype(np.uint8), dtype=np.int32)
        before = np.concatenate([np.zeros(1, np.int32), ends])[self.gene_starts[:-1]] + np.int32(1)
        found = ends[is_gene]
        if len(found) != indptr[-1]:
            raise AtlasInputError("records", f"{len(found)} genes", f"{indptr[-1]} genes, as nnz says")
        found -= np.repeat(before, self.nnz)
        if len(found) and not 0 <= found.min() <= found.max() < n_genes:
            raise AtlasInputError("n_genes", n_genes, f"more than the highest gene number, {found.max()}")
        return found

    def _counts(self, indptr: Numbers) -> npt.NDArray[np.float32]:
        """Return the counts of all cells."""
        firsts, ends = self.count_starts[:-1], self.count_starts[1:]
        codes, firsts = _unpack(self.counts, firsts, self.nnz, 2)
        values = codes.astype(np.float32) + 1
        larger = np.flatnonzero(codes == TWO_BITS)
        m = np.diff(np.searchsorted(larger, indptr))
        nibbles, firsts = _unpack(self.counts, firsts, m, 4)
        values[larger] += nibbles
        still = nibbles == FOUR_BITS - TWO_BITS
        k = np.diff(np.searchsorted(np.flatnonzero(still), np.concatenate([[0], np.cumsum(m)])))
        if not np.array_equal(firsts + 3 * k, ends):
            raise AtlasInputError("records", "counts of another length than their codes say", _SOUND)
        if k.any():
            low, middle, high = (_cut(self.counts, firsts + i * k, k).astype(np.float32) for i in range(3))
            values[larger[still]] += low + 256 * middle + 65_536 * high
        return values


def encode_records(csr: sp.csr_matrix) -> StoredRecords:
    """Return cells as records.

    Parameters
    ----------
    csr
        Whole counts, cell x gene: genes ascending in each cell, no explicit zeros.

    Raises
    ------
    AtlasInputError
        If a count is no whole number from 1 to 2^24, genes are not ascending, or there are more than 2^17.
    """
    if csr.shape[1] > MOST_GENES:
        raise AtlasInputError("csr", f"{csr.shape[1]} genes", f"at most {MOST_GENES}")
    indptr = csr.indptr.astype(np.int64)
    genes, gene_starts = _encode_genes(csr.indices, indptr)
    counts, count_starts = _encode_counts(csr.data, indptr)
    return StoredRecords(genes, gene_starts, counts, count_starts, np.diff(indptr))


def _encode_genes(indices: np.ndarray, indptr: Numbers) -> tuple[Bytes, Numbers]:
    """Return the bytes of `genes`, and where each cell's start."""
    between = np.empty(len(indices), np.int32)
    between[:1] = 0
    np.subtract(indices[1:], indices[:-1], out=between[1:], casting="same_kind")
    between -= 1
    filled = indptr[:-1][np.diff(indptr) > 0]
    between[filled] = indices[filled]
    if len(between) and between.min() < 0:
        raise AtlasInputError("csr", "genes out of order or twice", "ascending genes in each cell")
    far = np.flatnonzero(between >= SKIP)
    skips = between[far] // SKIP
    between[far] -= skips * SKIP
    before = np.concatenate([[0], np.cumsum(skips, dtype=np.int64)])
    out = np.full(len(between) + int(before[-1]), SKIP, np.uint8)
    is_gene = np.ones(len(out), bool)
    is_gene[_positions(far + before[:-1], skips)] = False
    out[is_gene] = between.astype(np.uint8)
    return out, indptr + before[np.searchsorted(far, indptr)]


def _encode_counts(data: np.ndarray, indptr: Numbers) -> tuple[Bytes, Numbers]:
    """Return the bytes of `counts`, and where each cell's start."""
    least, most = (data.min(), data.max()) if len(data) else (1, 1)  # both NaN if any is
    if not (least >= 1 and most <= MOST_COUNT):
        raise AtlasInputError("csr", f"values from {least} to {most}", f"whole counts from 1 to {MOST_COUNT}")
    whole = data.astype(np.uint32)
    if not (whole == data).all():
        raise AtlasInputError("csr", f"the value {data[whole != data][0]}", "whole counts")
    codes = np.minimum(whole - 1, TWO_BITS).astype(np.uint8)
    larger = np.flatnonzero(codes == TWO_BITS)
    over = whole[larger] - (TWO_BITS + 1)
    still = np.flatnonzero(over >= FOUR_BITS - TWO_BITS)
    rest = over[still] - (FOUR_BITS - TWO_BITS)
    before = np.searchsorted(larger, indptr)
    nnz, m, k = np.diff(indptr), np.diff(before), np.diff(np.searchsorted(still, before))
    nibbles = np.minimum(over, FOUR_BITS - TWO_BITS).astype(np.uint8)
    sections = [_pack(codes, nnz, 2), _pack(nibbles, m, 4)]
    sections += [((rest >> (8 * i)).astype(np.uint8), k) for i in range(3)]
    starts = np.concatenate([[0], np.cumsum(sum(sizes for _, sizes in sections))])
    out = np.empty(starts[-1], np.uint8)
    firsts = starts[:-1]
    for values, sizes in sections:
        out[_positions(firsts, sizes)] = values
        firsts = firsts + sizes
    return out, starts


def _pack(values: Bytes, sizes: Numbers, bits: int) -> tuple[Bytes, Numbers]:
    """Return values of so many bits packed into bytes, each cell from a new byte on, and the bytes of each cell."""
    per_byte = 8 // bits
    size = -(-sizes // per_byte)
    room = np.zeros((size.sum(), per_byte), np.uint8)
    room.ravel()[_used(sizes, size * per_byte)] = values
    packed = room[:, 0]
    for i in range(1, per_byte):
        packed = packed | (room[:, i] << np.uint8(bits * i))
    return packed, size


def _unpack(data: Bytes, firsts: Numbers, sizes: Numbers, bits: int) -> tuple[Bytes, Numbers]:
    """Return `sizes` values of so many bits from each byte of `firsts` on, and where the bytes after them begin."""
    per_byte = 8 // bits
    size = -(-sizes // per_byte)
    values = np.take(_VALUES[bits], _cut(data, firsts, size), axis=0)
    return values.ravel()[_used(sizes, size * per_byte)], firsts + size


def _used(sizes: Numbers, rooms: Numbers) -> npt.NDArray[np.bool_]:
    """Return a mask over all cells' rooms that is True for the first `sizes` of each."""
    used = np.ones(int(rooms.sum()), bool)
    used[_positions(np.cumsum(rooms) - rooms + sizes, rooms - sizes)] = False
    return used


def _cut(data: Bytes, firsts: Numbers, sizes: Numbers) -> Bytes:
    """Return `sizes` bytes from each of `firsts` on."""
    at = _positions(firsts, sizes)
    if len(at) and at.max() >= len(data):
        raise AtlasInputError("records", "counts that end early", _SOUND)
    return data[at]


def _positions(firsts: Numbers, sizes: Numbers) -> Numbers:
    """Return `first, first + 1, ...` of each size, one after another."""
    return np.repeat(firsts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
