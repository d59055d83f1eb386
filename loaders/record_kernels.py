"""Compiled loops over records of packs (records.py): gathered, decoded to sparse rows, proved by their count hash.

Loops are short and run over slices, which is what lets the compiler use wide instructions. numba is imported with this
file, so records.py and pack.py import it when the first cell is read. What the store keeps becomes such records in
transcode.py; contexts for a model are chosen from them in kernels.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from .records import HIGH, LARGE

if TYPE_CHECKING:
    from .records import Bytes, Numbers, PackedCells

    Array = npt.NDArray[Any]

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_ODD, _M1, _M2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_S27, _S30, _S31 = (np.uint64(bits) for bits in (27, 30, 31))


class Views(NamedTuple):
    """PackedCells, its bytes also as words of two and of four."""

    data: Array
    words: Array
    pairs: Array
    starts: Array
    nnz: Array
    low: Array
    large: Array


def views_of(packed: PackedCells) -> Views:
    """Return what the loops read of some cells."""
    data = packed.data
    return Views(data, data.view("<u2"), data.view("<u4"), packed.starts, packed.nnz, packed.low, packed.large)


def gather(data: Bytes, firsts: Numbers, sizes: Numbers) -> Bytes:
    """Return stretches of bytes one behind the other; all begin and end at multiples of four."""
    out = np.empty(int(sizes.sum()), dtype=np.uint8)
    _copy_spans(data.view("<u4"), firsts, sizes, out.view("<u4"))
    return out


@_jit
def _copy_spans(source: Array, firsts: Numbers, sizes: Numbers, target: Array) -> None:
    """Copy stretches given in bytes, in words of four."""
    at = 0
    for i in range(len(firsts)):
        first, size = firsts[i] >> 2, sizes[i] >> 2
        _copy(source[first : first + size], target[at : at + size])
        at += size


@_jit
def _copy(source: Array, target: Array) -> None:
    for i in range(len(source)):
        target[i] = source[i]


@_jit
def decode(views: Views, indptr: Numbers, indices: npt.NDArray[np.int32], counts: npt.NDArray[np.float32]) -> int:
    """Write genes and counts of each cell; return the first cell with a large count at no gene of it, or -1."""
    for cell in range(len(views.nnz)):
        n, first = views.nnz[cell], views.starts[cell]
        genes, found = indices[indptr[cell] : indptr[cell + 1]], counts[indptr[cell] : indptr[cell + 1]]
        _widen(views.words[first >> 1 : (first >> 1) + n], genes)
        _widen(views.data[first + 2 * n : first + 3 * n], found)
        for i in range(views.low[cell], n):
            genes[i] += HIGH
        tail = (first + (3 * n + 3) // 4 * 4) >> 2
        for i in range(views.large[cell]):
            at = views.pairs[tail + 2 * i]
            if at >= n:
                return cell
            found[at] = views.pairs[tail + 2 * i + 1]
    return -1


@_jit
def _widen(narrow: Array, wide: Array) -> None:
    for i in range(len(narrow)):
        wide[i] = narrow[i]


def count_hashes_high(packed: PackedCells, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the upper half of each cell's count hash, which obs keeps too; atlas/identity.py says what it is.

    Parameters
    ----------
    packed
        Cells of one organism.
    keys
        First row of `gene_keys` of its genes.
    """
    out = np.zeros(len(packed), dtype=np.uint64)
    _hash_cells(views_of(packed), keys, out)
    return out


@_jit
def _hash_cells(views: Views, keys: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
    """Write each cell's sum over its pairs; a large count is first taken for the byte that stands for it."""
    high = keys[min(HIGH, len(keys)) :]
    for cell in range(len(views.nnz)):
        n, few, first = views.nnz[cell], views.low[cell], views.starts[cell]
        genes = views.words[first >> 1 : (first >> 1) + n]
        counts = views.data[first + 2 * n : first + 3 * n]
        total = _hash_pairs(genes[:few], counts[:few], keys)
        if few < n:
            total += _hash_pairs(genes[few:], counts[few:], high)
        tail = (first + (3 * n + 3) // 4 * 4) >> 2
        for i in range(views.large[cell]):
            at = views.pairs[tail + 2 * i]
            key = keys[genes[at]] if at < few else high[genes[at]]
            value = np.uint64(views.pairs[tail + 2 * i + 1])
            total += _mix(key + value * _ODD) - _mix(key + np.uint64(LARGE) * _ODD)
        out[cell] = total


@_jit
def _hash_pairs(genes: Array, counts: Bytes, keys: npt.NDArray[np.uint64]) -> np.uint64:
    """Return the sum over (gene, count) pairs; each gene must have a key."""
    total = np.uint64(0)
    for i in range(len(genes)):
        total += _mix(keys[genes[i]] + np.uint64(counts[i]) * _ODD)
    return total


@_jit
def _mix(word: np.uint64) -> np.uint64:
    """Return SplitMix64's finaliser of a word."""
    word = (word ^ (word >> _S30)) * _M1
    word = (word ^ (word >> _S27)) * _M2
    return word ^ (word >> _S31)
