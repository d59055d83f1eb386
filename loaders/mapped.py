"""One-dimensional zarr v3 arrays whose chunks are plain bytes, mapped instead of read: element i costs one page.

Any zarr reader reads them; here the chunk files are written as they fill, so that nothing is held in memory, and mapped
directly, a bounded number at a time (each costs a file descriptor). pack.py builds on this. Little-endian numbers only.
"""

from __future__ import annotations

import mmap
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import PackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import zarr

OPEN_CHUNKS = 512
"""Chunks that stay mapped in a process, over all arrays; each holds a file, of which 1,024 is the usual limit."""


class PlainWriter:
    """Streams one array into chunk files; `close` tells zarr what it is.

    Parameters
    ----------
    group
        Group the array will belong to.
    folder
        Folder of that group.
    name
        Name of the array inside it, e.g. index/nnz.
    dtype
        Little-endian number.
    chunk
        Most elements per file.
    """

    def __init__(self, group: zarr.Group, folder: Path, name: str, dtype: npt.DTypeLike, chunk: int) -> None:
        self._group, self._name, self._chunk = group, name, chunk
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._chunks = folder / name / "c"
        self._chunks.mkdir(parents=True)
        self._pending, self.size = bytearray(), 0

    def append(self, values: npt.NDArray) -> None:
        """Add elements; a file is written whenever a chunk is full."""
        self._pending += np.ascontiguousarray(values, dtype=self.dtype).tobytes()
        self.size += len(values)
        whole = self._chunk * self.dtype.itemsize
        while len(self._pending) >= whole:
            written = (self.size * self.dtype.itemsize - len(self._pending)) // whole
            (self._chunks / str(written)).write_bytes(self._pending[:whole])
            del self._pending[:whole]

    def close(self) -> None:
        """Write the last chunk, padded where there are others, and the array's metadata."""
        chunk = min(self._chunk, max(self.size, 1))
        if self._pending:
            self._pending += bytes(chunk * self.dtype.itemsize - len(self._pending))
            (self._chunks / str((self.size - 1) // chunk)).write_bytes(self._pending)
        self._group.create_array(
            name=self._name, shape=(self.size,), chunks=(chunk,), dtype=self.dtype, fill_value=0,
            compressors=None, filters=None, overwrite=False,
        )  # fmt: skip


class MappedArray:
    """A plain 1-D zarr array, read through memory maps.

    Parameters
    ----------
    folder
        The array's folder, with zarr.json and c/.
    array
        The same array as zarr opened it, which knows shape, chunks and type.

    Raises
    ------
    PackError
        When it is not plain, or a chunk is missing or of another size.
    """

    def __init__(self, folder: Path, array: zarr.Array) -> None:
        metadata = array.metadata.to_dict()
        codecs = [codec["name"] for codec in metadata["codecs"]]
        plain = array.ndim == 1 and codecs == ["bytes"] and array.dtype.byteorder in "<=|"
        if not plain:
            raise PackError(str(folder), f"{array.ndim} dimensions, codecs {codecs}", "pack again with this version")
        self.folder, self.dtype = folder, array.dtype
        self.size, self.chunk = int(array.shape[0]), int(array.chunks[0])
        for file in self.files():
            if not file.is_file() or file.stat().st_size != self.chunk * self.dtype.itemsize:
                raise PackError(str(file), "missing or cut short", "copy it again, or pack again")

    def __len__(self) -> int:
        """Return the number of elements."""
        return self.size

    def files(self) -> Iterator[Path]:
        """Yield the chunk files in order."""
        for number in range(-(-self.size // self.chunk)):
            yield self.folder / "c" / str(number)

    def chunk_of(self, number: int) -> npt.NDArray:
        """Return one whole chunk, mapped."""
        return _open_chunk(self, number)[0]

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray:
        """Return the elements at these positions."""
        if self.size <= self.chunk:
            return self.chunk_of(0)[index] if len(index) else np.empty(0, self.dtype)
        out = np.empty(len(index), self.dtype)
        chunks = index // self.chunk
        order = np.argsort(chunks, kind="stable")
        bounds = np.flatnonzero(np.diff(chunks[order], prepend=-1))
        for part in np.split(order, bounds[1:]) if len(order) else ():
            number = int(chunks[part[0]])
            out[part] = self.chunk_of(number)[index[part] - number * self.chunk]
        return out

    def whole(self) -> npt.NDArray:
        """Return all elements; mapped where they lie in one chunk, else copied."""
        if self.size <= self.chunk:
            return self.chunk_of(0)[: self.size] if self.size else np.empty(0, self.dtype)
        chunks = -(-self.size // self.chunk)
        return np.concatenate([self.chunk_of(number) for number in range(chunks)])[: self.size]

    def will_need(self, number: int, first: int, last: int) -> None:
        """Tell the system that elements first..last-1 of a chunk are read soon; a hint only."""
        _, mapping = _open_chunk(self, number)
        start = first * self.dtype.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_WILLNEED"):
            mapping.madvise(mmap.MADV_WILLNEED, start, last * self.dtype.itemsize - start)


@lru_cache(maxsize=OPEN_CHUNKS)
def _open_chunk(array: MappedArray, number: int) -> tuple[npt.NDArray, mmap.mmap]:
    """Return one chunk, mapped; the least recently used one is let go when too many are open."""
    with (array.folder / "c" / str(number)).open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapping, dtype=array.dtype), mapping
