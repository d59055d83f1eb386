"""Compiled loops that rewrite the store's records as records of packs, each byte looked at once.

The store keeps a cell in about one byte a gene, packs and batches in three: atlas/cell_records.py and records.py say
how. store_cells.py and packing.py read through here; numba is imported with this file, which they import when the
first cell is read. No loop reads or writes outside what it is given, whatever the bytes: what is no record is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from .errors import PackError
from .records import HIGH, LARGE, PackedCells, aligned, record_sizes

if TYPE_CHECKING:
    from atlas import StoredRecords

    from .records import Bytes, Numbers

    Array = npt.NDArray[Any]

SKIP = 255
"""The gap that is no gene."""
NIBBLES, PLANES = 4, 19
"""Smallest counts of the four-bit section and of the three planes."""
_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_BYTES = np.arange(256)
_FULL_CODES = sum((_BYTES >> shift & 3) == 3 for shift in (0, 2, 4, 6)).astype(np.int64)
"""Per byte, how many of its two-bit codes stand for a larger count."""
_FULL_NIBBLES = sum((_BYTES >> shift & 15) == 15 for shift in (0, 4)).astype(np.int64)
"""Per byte, how many of its four-bit codes do."""


def transcode(stored: StoredRecords, n_genes: int, where: str) -> PackedCells:
    """Return the store's records as records of packs.

    Parameters
    ----------
    stored
        Cells of one organism.
    n_genes
        Genes of its table.
    where
        Whose records they are, for the error.

    Raises
    ------
    PackError
        When bytes are no record, or name a gene the table does not have.
    """
    nnz = stored.nnz
    large, low = np.zeros(len(nnz), dtype=np.int64), np.zeros(len(nnz), dtype=np.int64)
    bad = _count_large(stored.counts, stored.count_starts, nnz, large)
    sizes = record_sizes(nnz, large)
    starts = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), dtype=np.uint8)
    data.view("<u4")[(starts + aligned(3 * nnz) - 4)[nnz > 0] >> 2] = 0  # what pads a record is 0
    if bad < 0:
        bad = _put_genes(stored.genes, stored.gene_starts, starts, nnz, n_genes, data.view("<u2"), low)
    if bad >= 0:
        raise PackError(
            where, f"record {bad} of {len(nnz)} is damaged", "verify the atlas, or ingest its dataset again"
        )
    _put_counts(stored.counts, stored.count_starts, starts, nnz, data, data.view("<u4"))
    return PackedCells(data, starts, nnz, low, large)


@_jit
def _count_large(counts: Bytes, starts: Numbers, nnz: Numbers, large: Numbers) -> int:
    """Count the counts of `LARGE` and more of each cell; return the first cell whose bytes do not fit together."""
    for cell in range(len(nnz)):
        mine = counts[starts[cell] : starts[cell + 1]]
        n = nnz[cell]
        codes = (n + 3) >> 2
        # Bits nobody uses are 0; were they not, codes would be counted that are none.
        if codes > len(mine) or (n & 3 and mine[codes - 1] >> (2 * (n & 3))):
            return cell
        many = 0
        for byte in mine[:codes]:
            many += _FULL_CODES[byte]
        end = codes + ((many + 1) >> 1)
        if end > len(mine) or (many & 1 and mine[end - 1] >> 4):
            return cell
        more = 0
        for byte in mine[codes:end]:
            more += _FULL_NIBBLES[byte]
        if end + 3 * more != len(mine):
            return cell
        planes = mine[end:]
        for i in range(more):
            large[cell] += planes[i] >= LARGE - PLANES or planes[i + more] > 0 or planes[i + 2 * more] > 0
    return -1


@_jit
def _put_genes(
    genes: Bytes, gene_starts: Numbers, starts: Numbers, nnz: Numbers, n_genes: int, words: Array, low: Numbers
) -> int:
    """Write gene numbers; return the first cell with another number of genes, or a gene that there is not."""
    for cell in range(len(nnz)):
        n, first = nnz[cell], starts[cell] >> 1
        gaps = genes[gene_starts[cell] : gene_starts[cell + 1]]
        last = _add_gaps(gaps, words[first : first + n])
        if last >= n_genes or last < -1:
            return cell
        low[cell] = n if last < HIGH else _count_low(gaps)
    return -1


@_jit
def _add_gaps(gaps: Bytes, out: Array) -> int:
    """Write the genes that gaps lead to and return the last one; -1 for none, -2 for more or fewer than there is room.

    Without a branch on the byte: a skip writes too, and the gene after it overwrites that.
    """
    last, at = -1, 0
    for i in range(len(gaps)):
        if at >= len(out):
            return -2
        gap = np.int64(gaps[i])
        is_gene = np.int64(gap != SKIP)
        last += gap + is_gene
        out[at] = last & (HIGH - 1)
        at += is_gene
    return last if at == len(out) else -2


@_jit
def _count_low(gaps: Bytes) -> int:
    """Return how many genes have numbers below `HIGH`."""
    last, found = -1, 0
    for i in range(len(gaps)):
        is_gene = np.int64(gaps[i] != SKIP)
        last += np.int64(gaps[i]) + is_gene
        if last >= HIGH:
            break
        found += is_gene
    return found


@_jit
def _put_counts(counts: Bytes, count_starts: Numbers, starts: Numbers, nnz: Numbers, data: Bytes, pairs: Array) -> None:
    """Write counts, whose lengths `_count_large` found right."""
    for cell in range(len(nnz)):
        n, first = nnz[cell], starts[cell]
        mine = counts[count_starts[cell] : count_starts[cell + 1]]
        codes = (n + 3) >> 2
        out = data[first + 2 * n : first + 3 * n]
        many = _spread_codes(mine[:codes], out)
        if many:
            nibbles = (many + 1) >> 1
            _add_nibbles(mine[codes : codes + nibbles], out)
            tail = (first + (3 * n + 3) // 4 * 4) >> 2
            _put_planes(mine[codes + nibbles :], out, pairs[tail:])


@_jit
def _spread_codes(codes: Bytes, out: Bytes) -> int:
    """Write a byte per two-bit code, `NIBBLES` for a larger count; return how many are larger."""
    whole = len(out) >> 2
    for i in range(whole):
        byte = codes[i]
        out[4 * i] = (byte & 3) + 1
        out[4 * i + 1] = (byte >> 2 & 3) + 1
        out[4 * i + 2] = (byte >> 4 & 3) + 1
        out[4 * i + 3] = (byte >> 6) + 1
    for i in range(4 * whole, len(out)):
        out[i] = (codes[whole] >> (2 * (i & 3)) & 3) + 1
    many = 0
    for byte in out:
        many += byte == NIBBLES
    return many


@_jit
def _add_nibbles(nibbles: Bytes, out: Bytes) -> None:
    """Add what four bits hold to the larger counts; without a branch on the count, which nothing could foresee."""
    at, last = 0, len(nibbles) - 1
    for i in range(len(out)):
        larger = np.int64(out[i] == NIBBLES)
        nibble = nibbles[min(at >> 1, last)] >> (4 * (at & 1)) & 15
        out[i] += nibble * larger
        at += larger


@_jit
def _put_planes(planes: Bytes, out: Bytes, pairs: Array) -> None:
    """Put the counts that four bits do not hold in their places, and the large ones into pairs."""
    at, tail, width = 0, 0, len(planes) // 3
    for i in range(len(out)):
        if out[i] == PLANES and at < width:
            value = PLANES + np.int64(planes[at]) + (np.int64(planes[at + width]) << 8)
            value += np.int64(planes[at + 2 * width]) << 16
            at += 1
            out[i] = min(value, LARGE)
            if value >= LARGE:
                pairs[tail], pairs[tail + 1] = i, value
                tail += 2
