"""Compiled loops that write and read records; `cell_records` has their layout, and checks and tells what is wrong.

Numba comes with this file, when the first record is made or read. No loop reads or writes outside what it is given,
whatever the bytes are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from .cell_records import FOUR_BITS, SKIP, TWO_BITS

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SOUND, GENES_DIFFER, GENE_TOO_HIGH, COUNTS_DIFFER = range(4)
"""What `read` says: all well; more or fewer genes than said; a gene there is not; counts of another length."""
_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


class Strings(NamedTuple):
    """The two strings of bytes of some cells."""

    genes: Array
    """uint8"""
    gene_starts: Array
    """int64 [cells + 1]"""
    counts: Array
    """uint8"""
    count_starts: Array
    """int64 [cells + 1]"""


@_jit
def sizes(indptr: Array, indices: Array, counts: Array, gene_starts: Array, count_starts: Array) -> int:
    """Write where each cell's strings begin; return the first cell whose genes do not ascend, or -1.

    Parameters
    ----------
    indptr, indices, counts
        int64, int32 and uint32: the cells, counts above 0.
    gene_starts, count_starts
        int64 [cells + 1], written.
    """
    gene_starts[0] = count_starts[0] = 0
    for cell in range(len(indptr) - 1):
        last, skips, larger, still = -1, 0, 0, 0
        for i in range(indptr[cell], indptr[cell + 1]):
            between = indices[i] - last - 1
            if between < 0:
                return cell
            last = indices[i]
            if between >= SKIP:
                skips += between // SKIP
            larger += counts[i] > TWO_BITS
            still += counts[i] > FOUR_BITS
        n = indptr[cell + 1] - indptr[cell]
        gene_starts[cell + 1] = gene_starts[cell] + n + skips
        count_starts[cell + 1] = count_starts[cell] + (n + 3) // 4 + (larger + 1) // 2 + 3 * still
    return -1


@_jit
def write(indptr: Array, indices: Array, counts: Array, out: Strings) -> None:
    """Write the strings of cells whose sizes are known; `out.counts` is zeros."""
    for cell in range(len(indptr) - 1):
        at, last = out.gene_starts[cell], -1
        first, stop = indptr[cell], indptr[cell + 1]
        nibbles = out.count_starts[cell] + (stop - first + 3) // 4
        larger = still = 0
        for i in range(first, stop):
            between = indices[i] - last - 1
            last = indices[i]
            while between >= SKIP:
                out.genes[at] = SKIP
                at += 1
                between -= SKIP
            out.genes[at] = between
            at += 1
            code = min(counts[i] - 1, TWO_BITS)
            place = i - first
            out.counts[out.count_starts[cell] + place // 4] |= np.uint8(code << (2 * (place % 4)))
            if counts[i] > TWO_BITS:
                nibble = min(counts[i] - TWO_BITS - 1, FOUR_BITS - TWO_BITS)
                out.counts[nibbles + larger // 2] |= np.uint8(nibble << (4 * (larger % 2)))
                larger += 1
                still += counts[i] > FOUR_BITS
        _write_planes(counts[first:stop], out.counts[nibbles + (larger + 1) // 2 : out.count_starts[cell + 1]], still)


@_jit
def _write_planes(counts: Array, planes: Array, still: int) -> None:
    """Write the three bytes of each count that is beyond four bits."""
    k = 0
    for i in range(len(counts) if still else 0):
        if counts[i] > FOUR_BITS:
            rest = counts[i] - FOUR_BITS - 1
            planes[k] = rest & 255
            planes[still + k] = (rest >> 8) & 255
            planes[2 * still + k] = rest >> 16
            k += 1


@_jit
def read(records: Strings, n_genes: int, indptr: Array, indices: Array, counts: Array) -> int:
    """Write the genes (int32) and counts (float32) of each cell; return what is wrong with the records, or `SOUND`."""
    for cell in range(len(indptr) - 1):
        at, stop, last = indptr[cell], indptr[cell + 1], -1
        for byte in records.genes[records.gene_starts[cell] : records.gene_starts[cell + 1]]:
            last += byte
            if byte != SKIP:
                last += 1
                if at == stop:
                    return GENES_DIFFER
                if last >= n_genes:
                    return GENE_TOO_HIGH
                indices[at] = last
                at += 1
        if at != stop:
            return GENES_DIFFER
        mine = records.counts[records.count_starts[cell] : records.count_starts[cell + 1]]
        if not _read_counts(mine, counts[indptr[cell] : stop]):
            return COUNTS_DIFFER
    return SOUND


@_jit
def _read_counts(held: Array, counts: Array) -> bool:
    """Write one cell's counts; return whether its string is as long as its codes say."""
    n = len(counts)
    codes = (n + 3) // 4
    if codes > len(held):
        return False
    larger = still = 0
    for i in range(n):
        code = (held[i // 4] >> np.uint8(2 * (i % 4))) & TWO_BITS
        counts[i] = code + 1
        larger += code == TWO_BITS
    planes = codes + (larger + 1) // 2
    if planes > len(held):
        return False
    for i in range(larger):
        still += ((held[codes + i // 2] >> np.uint8(4 * (i % 2))) & 15) == FOUR_BITS - TWO_BITS
    if planes + 3 * still != len(held):
        return False
    j = k = 0
    for i in range(n if larger else 0):
        if counts[i] > TWO_BITS:
            nibble = (held[codes + j // 2] >> np.uint8(4 * (j % 2))) & 15
            counts[i] += nibble
            j += 1
            if nibble == FOUR_BITS - TWO_BITS:
                middle, high = held[planes + still + k], held[planes + 2 * still + k]
                counts[i] += held[planes + k] + 256.0 * middle + 65_536.0 * high
                k += 1
    return True
