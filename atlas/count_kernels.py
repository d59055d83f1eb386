"""Compiled loops over rows of counts: laid over the gene table, measured, hashed; each count is looked at once.

`standardise`, `measure` and `identity` say what is computed, and call these when the first cells are read: numba comes
with this file. A loop takes what the callers have checked; nothing is written outside the arrays given. Sums run in
the order of the stored values, so that no block size and no machine changes a bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import scipy.sparse as sp

    Array = npt.NDArray[Any]

TOP = 20  # genes in pct_top20, as scanpy's percent_top=[20]
MITO, RIBO = np.uint8(1), np.uint8(2)
"""Bits of what `measure` is told of a gene."""
COLUMNS = 7
"""Figures of a cell that `measure` writes: sum, number, mean, variance, mitochondrial, ribosomal, top 20."""
_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_ONE, _S58 = np.uint64(1), np.uint64(58)
# A de Bruijn sequence: multiplied by a lone bit, its upper six bits tell which bit it is.
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT = np.empty(64, np.int64)
_BIT[[((int(_DE_BRUIJN) << bit) & (2**64 - 1)) >> 58 for bit in range(64)]] = np.arange(64)
_ODD0, _ODD1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # one per lane of a hash
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = (np.uint64(bits) for bits in (27, 30, 31))


class Rows(NamedTuple):
    """Compressed rows as the loops take them."""

    indptr: Array
    """int64 [cells + 1]"""
    indices: Array
    """int32"""
    data: Array
    """float32; float64 where that could not hold the values."""


def rows_of(counts: sp.csr_matrix) -> Rows:
    """Return a matrix as the loops take it, sharing what is of the right type already."""
    data = counts.data
    if data.dtype != np.float32:
        exact = data.dtype.kind in "bui" and data.dtype.itemsize <= 2
        data = data.astype(np.float32 if exact else np.float64)
    return Rows(counts.indptr.astype(np.int64, copy=False), counts.indices.astype(np.int32, copy=False), data)


def project(rows: Rows, place: Array, n_genes: int) -> Rows:
    """Return rows over other columns: ascending, those of one place added up, zeros and places below 0 left out.

    Parameters
    ----------
    rows
        Cells x columns.
    place
        int64 per column: where it goes, below `n_genes`.
    n_genes
        Columns of the result.
    """
    size = len(rows.indices)
    out = Rows(np.zeros_like(rows.indptr), np.empty(size, np.int32), np.empty(size, np.float32))
    n = _project(rows, place, np.zeros(n_genes // 64 + 1, np.uint64), np.zeros(n_genes, np.float32), out)
    return Rows(out.indptr, out.indices[:n], out.data[:n])


@_jit
def _project(rows: Rows, place: Array, marks: Array, sums: Array, out: Rows) -> int:
    """Mark a cell's genes in a map of bits, which then gives them in order; return the number of counts written."""
    at = 0
    for cell in range(len(rows.indptr) - 1):
        for i in range(rows.indptr[cell], rows.indptr[cell + 1]):
            gene, count = place[rows.indices[i]], rows.data[i]
            if gene >= 0 and count != 0:
                marks[gene >> 6] |= _ONE << np.uint64(gene & 63)
                sums[gene] += np.float32(count)
        for word in range(len(marks)):
            bits = marks[word]
            marks[word] = 0
            while bits:
                lowest = bits & (~bits + _ONE)
                gene = 64 * word + _BIT[(lowest * _DE_BRUIJN) >> _S58]
                out.indices[at], out.data[at] = gene, sums[gene]
                sums[gene] = 0
                at += 1
                bits ^= lowest
        out.indptr[cell + 1] = at
    return at


@_jit
def measure(rows: Rows, sets: Array, out: Array) -> None:
    """Write the figures of each cell.

    Parameters
    ----------
    rows
        Cells x genes, none negative; zeros count for nothing.
    sets
        uint8 per gene: `MITO` and `RIBO`.
    out
        float64 [cells, COLUMNS], written.
    """
    top = np.empty(TOP, np.float64)
    for cell in range(len(rows.indptr) - 1):
        data = rows.data[rows.indptr[cell] : rows.indptr[cell + 1]]
        genes = rows.indices[rows.indptr[cell] : rows.indptr[cell + 1]]
        total, mito, ribo, n = 0.0, 0.0, 0.0, 0
        top[:] = 0
        for i in range(len(data)):
            count = np.float64(data[i])
            total += count
            n += count != 0
            kind = sets[genes[i]]
            if kind & MITO:
                mito += count
            if kind & RIBO:
                ribo += count
            if count > top[0]:  # `top` ascends: what is larger than its least takes its place
                k = 1
                while k < TOP and top[k] < count:
                    top[k - 1] = top[k]
                    k += 1
                top[k - 1] = count
        mean = total / n if n else 0.0
        # Two passes: the one-pass formula loses digits where counts are large and alike.
        squares = 0.0
        for i in range(len(data)):
            if data[i] != 0:
                apart = data[i] - mean
                squares += apart * apart
        out[cell, 0], out[cell, 1], out[cell, 2] = total, n, mean
        out[cell, 3] = squares / (n - 1) if n > 1 else 0.0
        out[cell, 4], out[cell, 5], out[cell, 6] = mito, ribo, top.sum()


@_jit
def spread(rows: Rows, first: int, cells: Array, genes: Array, counts: Array) -> None:
    """Write the coordinates of each count: int64 cell, from `first` on, int64 gene, and the count as float32."""
    for cell in range(len(rows.indptr) - 1):
        for i in range(rows.indptr[cell], rows.indptr[cell + 1]):
            cells[i], genes[i], counts[i] = first + cell, rows.indices[i], rows.data[i]


@_jit
def hash_cells(rows: Rows, keys: Array, core: Array, words: Array, n_core: Array) -> None:
    """Write each cell's sums of mixed (gene, count) words.

    Parameters
    ----------
    rows
        Cells x genes, positive.
    keys
        uint64 [genes, 2]: a key per lane.
    core
        Bool per gene.
    words
        uint64 [cells, 4], written: both lanes over all genes, both over the core.
    n_core
        int64 [cells], written: core genes with a count.
    """
    for cell in range(len(rows.indptr) - 1):
        all0 = all1 = core0 = core1 = np.uint64(0)
        n = 0
        for i in range(rows.indptr[cell], rows.indptr[cell + 1]):
            gene, count = rows.indices[i], np.uint64(rows.data[i])
            one, other = mix(keys[gene, 0] + count * _ODD0), mix(keys[gene, 1] + count * _ODD1)
            all0 += one
            all1 += other
            if core[gene]:
                core0 += one
                core1 += other
                n += 1
        words[cell, 0], words[cell, 1], words[cell, 2], words[cell, 3] = all0, all1, core0, core1
        n_core[cell] = n


@_jit
def mix(word: np.uint64) -> np.uint64:
    """Return SplitMix64's finaliser of a word."""
    word = (word ^ (word >> _S30)) * _M1
    word = (word ^ (word >> _S27)) * _M2
    return word ^ (word >> _S31)
