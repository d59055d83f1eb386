"""Row blocks out of any stored matrix: compressed rows, compressed columns, dense; in HDF5, zarr or memory.

Every reader answers `read(start, stop)` with a CSR block whose coordinates are sorted, unique and in range;
a matrix that cannot give that is refused here. Whether the values are counts is decided in `prove`;
which element of a file is read is decided in `read_h5ad` and `read_10x`.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.sparse import csr_matrix

from .errors import AtlasError
from .refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLAB_BYTES = 16 * 2**20  # bytes fetched at once from an array; a few chunks, so that no chunk is inflated per row block
IN_MEMORY_BYTES = 256 * 2**20  # a transposed matrix above this goes to a temporary file instead of memory
# what h5py and zarr raise on damaged bytes: filters fail as OSError, decoders as ValueError or RuntimeError
DAMAGE = (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, OverflowError, MemoryError)


class Array(Protocol):
    """What numpy arrays, h5py datasets and zarr arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the length of every axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of the values."""
        ...

    def __getitem__(self, key: slice) -> np.ndarray:
        """Return a range of the first axis."""
        ...


class RowReader(Protocol):
    """Anything that gives rows of a matrix as CSR blocks."""

    shape: tuple[int, int]

    def read(self, start: int, stop: int, *, ahead: bool = True) -> csr_matrix:
        """Return rows `start` to `stop` with sorted, unique coordinates, in the stored value type."""
        ...


@contextmanager
def readable(dataset: str, where: str) -> Iterator[None]:
    """Turn a decoding failure inside the block into a refusal that names the element."""
    try:
        yield
    except AtlasError:  # already worded; ContractError is a ValueError too
        raise
    except DAMAGE as error:
        raise refusal(
            dataset,
            "unreadable-data",
            where,
            f"{type(error).__name__}: {error}",
            "data that decodes",
            "the file is damaged; copy or export it again",
        ) from error


class _Slab:
    """The part of an array's first axis fetched last, so that sequential reads inflate each chunk once."""

    def __init__(self, array: Array) -> None:
        self.array = array
        chunks = getattr(array, "chunks", None)
        self.chunked = bool(chunks)
        self.chunk = max(1, int(chunks[0])) if chunks else 1
        item = max(1, int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize)
        self.step = max(1, SLAB_BYTES // item)
        self.start, self.values = 0, np.empty((0, *array.shape[1:]), array.dtype)

    def take(self, start: int, stop: int, *, ahead: bool) -> np.ndarray:
        """Return items `start` to `stop`, reading on to the end of a slab where `ahead`."""
        if start >= self.start and stop <= self.start + len(self.values):
            return self.values[start - self.start : stop - self.start]
        if not ahead or not self.chunked:  # what is stored whole is read as it is asked for
            return np.asarray(self.array[start:stop])
        first = start - start % self.chunk
        last = max(stop, first + self.step)
        last = min(self.array.shape[0], -(-last // self.chunk) * self.chunk)
        self.start, self.values = first, np.asarray(self.array[first:last])
        return self.values[start - first : stop - first]


def _numeric(array: Array, dataset: str, where: str) -> None:
    if array.dtype.kind not in "uif":  # true and false say that a gene was seen, not how often
        raise refusal(dataset, "not-numeric", where, array.dtype, "integers or floats", "store counts as numbers")


def _canonical(block: csr_matrix, dataset: str, where: str, start: int) -> csr_matrix:
    if block.has_canonical_format:
        return block
    block = csr_matrix((block.data.copy(), block.indices.copy(), block.indptr), shape=block.shape)
    block.sort_indices()
    step = np.diff(block.indices) == 0
    ends = block.indptr[1:-1]
    step[ends[(ends > 0) & (ends < block.nnz)] - 1] = False  # the last entry of a row is not compared with the next row
    if step.any():
        row = start + int(np.searchsorted(block.indptr, np.flatnonzero(step)[0], side="right")) - 1
        raise refusal(
            dataset,
            "duplicate-coordinates",
            f"{where} row {row}",
            f"{int(step.sum())} coordinates stored twice",
            "one value per cell and gene",
            "sum or drop the repeats (sum_duplicates()) after finding out which is right",
        )
    block.has_canonical_format = True
    return block


class CompressedRows:
    """Compressed sparse rows, streamed: memory is one slab of values and indices plus the row pointers."""

    def __init__(self, parts: tuple[Array, Array, Array], shape: tuple[int, int], dataset: str, where: str) -> None:
        self.dataset, self.where, self.shape = dataset, where, shape
        self.pointers = check_compressed(parts, shape, dataset, where)
        self._data, self._indices = _Slab(parts[0]), _Slab(parts[1])

    def read(self, start: int, stop: int, *, ahead: bool = True) -> csr_matrix:
        """Return rows `start` to `stop` with sorted, unique coordinates, in the stored value type."""
        low, high = int(self.pointers[start]), int(self.pointers[stop])
        with readable(self.dataset, self.where):
            data = self._data.take(low, high, ahead=ahead)
            indices = self._indices.take(low, high, ahead=ahead)
        indices = check_range(indices, self.shape[1], self.dataset, self.where)
        pointers = self.pointers[start : stop + 1] - low
        block = csr_matrix((data, indices, pointers), shape=(stop - start, self.shape[1]), copy=False)
        return _canonical(block, self.dataset, self.where, start)


class DenseRows:
    """A dense matrix, streamed: memory is one slab of rows."""

    def __init__(self, array: Array, dataset: str, where: str) -> None:
        _numeric(array, dataset, where)
        self.dataset, self.where = dataset, where
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self._slab = _Slab(array)

    def read(self, start: int, stop: int, *, ahead: bool = True) -> csr_matrix:
        """Return rows `start` to `stop` with sorted, unique coordinates, in the stored value type."""
        with readable(self.dataset, self.where):
            rows = self._slab.take(start, stop, ahead=ahead)
        return csr_matrix(rows)


def check_range(indices: np.ndarray, width: int, dataset: str, where: str) -> np.ndarray:
    """Return indices as int32 or int64 after proving that each lies in [0, width)."""
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= width):
        worst = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        raise refusal(
            dataset,
            "index-out-of-range",
            where,
            f"column index {worst}",
            f"indices from 0 to {width - 1}",
            "the matrix does not fit its genes; export it again",
        )
    return indices.astype(np.int32 if width < 2**31 else np.int64, copy=False)


def check_compressed(parts: tuple[Array, Array, Array], shape: tuple[int, int], dataset: str, where: str) -> np.ndarray:
    """Return the pointers of a compressed matrix (data, indices, indptr) as int64 after proving that they fit.

    `shape` is (compressed axis, other axis). Raises `ContractError` where lengths or pointers contradict each other.
    """
    data, indices, indptr = parts
    _numeric(data, dataset, where)
    if any(len(part.shape) != 1 for part in parts) or indices.dtype.kind not in "ui" or indptr.dtype.kind not in "ui":
        raise refusal(
            dataset,
            "broken-sparse",
            where,
            "parts of the wrong kind",
            "flat data, indices, indptr",
            "export the matrix again",
        )
    with readable(dataset, where):
        pointers = np.asarray(indptr[:]).astype(np.int64)
    fits = (
        len(pointers) == shape[0] + 1
        and pointers[0] == 0
        and bool((np.diff(pointers) >= 0).all())
        and pointers[-1] == data.shape[0] == indices.shape[0]
    )
    if not fits:
        found = (
            f"{len(pointers)} pointers from {pointers[:1]} to {pointers[-1:]} "
            f"over {data.shape[0]} values and {indices.shape[0]} indices"
        )
        raise refusal(
            dataset,
            "broken-sparse",
            where,
            found,
            f"{shape[0] + 1} rising pointers that end at the number of values",
            "export the matrix again",
        )
    return pointers


def transpose_columns(
    parts: tuple[Array, Array, Array], shape: tuple[int, int], dataset: str, where: str
) -> CompressedRows:
    """Return compressed columns as compressed rows.

    Two passes over the columns in slabs. Memory: 8 bytes per row and column plus a slab; the result takes
    4 to 12 bytes per stored value, in memory up to 256 MiB and in an unlinked temporary file above.
    """
    rows, columns = shape
    pointers = check_compressed(parts, (columns, rows), dataset, where)
    data, indices = _Slab(parts[0]), _Slab(parts[1])
    per_row = np.zeros(rows, np.int64)
    for low, high, _ in _column_slabs(pointers):
        with readable(dataset, where):
            found = indices.take(low, high, ahead=True)
        per_row += np.bincount(check_range(found, rows, dataset, where), minlength=rows)
    starts = np.concatenate([[0], np.cumsum(per_row)])
    values = _room(int(starts[-1]), parts[0].dtype)
    genes = _room(int(starts[-1]), np.dtype(np.int32 if columns < 2**31 else np.int64))
    fill = starts[:-1].copy()
    for low, high, gene in _column_slabs(pointers):
        with readable(dataset, where):
            row, value = indices.take(low, high, ahead=True), data.take(low, high, ahead=True)
        order = np.argsort(row, kind="stable")  # stable keeps the genes of a row ascending
        row = row[order]
        first = np.searchsorted(row, row, side="left")
        places = fill[row] + np.arange(len(row)) - first
        values[places], genes[places] = value[order], gene[order]
        fill += np.bincount(row, minlength=rows)
    return CompressedRows((values, genes, starts), shape, dataset, where)


def _column_slabs(pointers: np.ndarray, size: int = 2**20) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (low, high, column of each value) over all stored values, about a million at a time."""
    total = int(pointers[-1])
    for low in range(0, total, size):
        high = min(total, low + size)
        yield low, high, np.searchsorted(pointers, np.arange(low, high), side="right") - 1


def _room(length: int, dtype: np.dtype[Any]) -> np.ndarray:
    if length * dtype.itemsize <= IN_MEMORY_BYTES:
        return np.empty(length, dtype)
    with tempfile.TemporaryFile() as handle:  # the mapping keeps the unlinked file alive and the system frees it
        return np.memmap(handle, dtype=dtype, mode="w+", shape=(length,))


def rows_from_coordinates(
    row: np.ndarray, column: np.ndarray, data: np.ndarray, shape: tuple[int, int], names: tuple[str, str]
) -> CompressedRows:
    """Return coordinate triplets, in any order, as compressed rows; `names` is (dataset, element).

    Needs about 40 bytes per stored value for the time of the sort, 12 afterwards.
    """
    dataset, where = names
    row, column = check_range(row, shape[0], dataset, where), check_range(column, shape[1], dataset, where)
    if len(row) > 1 and not bool((np.diff(row) >= 0).all()):
        order = np.argsort(row, kind="stable")
        row, column, data = row[order], column[order], data[order]
    pointers = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))]).astype(np.int64)
    return CompressedRows((data, column, pointers), shape, dataset, where)


def first_values(reader: Callable[[], RowReader], values: int = 20_000) -> np.ndarray:
    """Return some of the first stored values of a matrix, for a guess about what it holds."""
    matrix = reader()
    found: list[np.ndarray] = []
    size = 0
    for start in range(0, matrix.shape[0], 64):
        block = matrix.read(start, min(start + 64, matrix.shape[0]), ahead=False)
        found.append(block.data)
        size += block.nnz
        if size >= values:
            break
    return np.concatenate(found) if found else np.empty(0)
