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
        from . import record_loops as loops  # noqa: PLC0415 - numba, when the first record is read

        indptr = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.nnz, out=indptr[1:])
        indices, counts = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        strings = loops.Strings(self.genes, self.gene_starts, self.counts, self.count_starts)
        found = loops.read(strings, n_genes, indptr, indices, counts)
        if found == loops.GENES_DIFFER:
            raise AtlasInputError("records", "other genes than nnz says", _SOUND)
        if found == loops.GENE_TOO_HIGH:
            raise AtlasInputError("n_genes", n_genes, "more than the highest gene number in the records")
        if found == loops.COUNTS_DIFFER:
            raise AtlasInputError("records", "counts of another length than their codes say", _SOUND)
        return sp.csr_matrix((counts, indices, indptr), shape=(len(self), n_genes))


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
    from . import record_loops as loops  # noqa: PLC0415 - numba, when the first record is made

    indptr = csr.indptr.astype(np.int64, copy=False)
    indices, counts = csr.indices.astype(np.int32, copy=False), _whole(csr.data)
    gene_starts, count_starts = np.empty(len(indptr), np.int64), np.empty(len(indptr), np.int64)
    if loops.sizes(indptr, indices, counts, gene_starts, count_starts) >= 0:
        raise AtlasInputError("csr", "genes out of order or twice", "ascending genes in each cell")
    genes, held = np.empty(gene_starts[-1], np.uint8), np.zeros(count_starts[-1], np.uint8)
    loops.write(indptr, indices, counts, loops.Strings(genes, gene_starts, held, count_starts))
    return StoredRecords(genes, gene_starts, held, count_starts, np.diff(indptr))


def _whole(data: np.ndarray) -> npt.NDArray[np.uint32]:
    """Return counts as integers, or refuse what is no count that a record can hold."""
    least, most = (data.min(), data.max()) if len(data) else (1, 1)  # both NaN if any is
    if not (least >= 1 and most <= MOST_COUNT):
        raise AtlasInputError("csr", f"values from {least} to {most}", f"whole counts from 1 to {MOST_COUNT}")
    whole = data.astype(np.uint32)
    if not (whole == data).all():
        raise AtlasInputError("csr", f"the value {data[whole != data][0]}", "whole counts")
    return whole
