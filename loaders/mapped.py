"""Zarr v3 arrays whose chunks are plain bytes, mapped instead of read: an element costs one page, an array no memory.

Any zarr reader reads them. Here the chunk files are written as numbers come, and all chunks of an array are mapped one
behind the other, so that what lies in many files is one numpy array and holds no file open. index.py and pack.py build
on this. Little-endian numbers only, in one dimension, or in two with rows that no file cuts.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
from contextlib import suppress
from functools import cache
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import PackError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import IO

    import zarr

ALIGNMENT = 1 << 16
"""Bytes that files of an array in several files are a multiple of, and so of every system's page."""
MAP_FIXED = 0x10
"""Put a mapping exactly there; the same number on Linux and macOS, and not in Python's mmap."""
PROBES = 64
"""Places looked at before hints are given."""
REMEDY = "copy it again, or make it again"


class PlainWriter:
    """Streams one array into chunk files; `close` tells zarr what it is. Holds one file open and nothing in memory.

    Parameters
    ----------
    folder
        Folder of the zarr group the array will belong to.
    name
        Name of the array inside it, e.g. cells/split.
    dtype
        Little-endian number.
    width
        Numbers per row.
    limit
        Most bytes per file; None for one file however long.
    hashed
        False leaves `content` out, which costs as much again as the digests of the files.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: npt.DTypeLike,
        *,
        width: int = 1,
        limit: int | None = None,
        hashed: bool = True,
    ) -> None:
        self.name, self.width, self.size = name, width, 0
        self.dtype = np.dtype(dtype).newbyteorder("<")
        row = self.dtype.itemsize * width
        whole = ALIGNMENT // gcd(row, ALIGNMENT)  # the fewest rows whose bytes are aligned
        self._rows = None if limit is None else max(limit // row // whole, 1) * whole
        self._bytes = None if self._rows is None else self._rows * row
        self._folder, self._out, self._filled = folder, None, 0
        self.files: dict[str, str] = {}
        """sha256 of each file, by its name in the group."""
        self._digest, self._content = hashlib.sha256(), hashlib.sha256() if hashed else None

    @property
    def content(self) -> str | None:
        """Return the sha256 of all numbers, however they are cut into files."""
        return self._content.hexdigest() if self._content else None

    def append(self, values: npt.NDArray) -> None:
        """Add rows; a file begins whenever one is full."""
        data = memoryview(np.ascontiguousarray(values, dtype=self.dtype).reshape(-1)).cast("B")
        if self._content:
            self._content.update(data)
        self.size += len(values)
        while data:
            room = len(data) if self._bytes is None else self._bytes - self._filled
            part, data = data[:room], data[room:]
            self._open().write(part)
            self._digest.update(part)
            self._filled += len(part)
            if self._filled == self._bytes:
                self._close_file()

    def close(self, group: zarr.Group) -> None:
        """End the last file, as long as the others where there are any, and write the array's metadata."""
        rows = self.size if self._rows is None else min(self._rows, self.size)
        if self._out is not None:
            if self._bytes is not None and self.files:
                # A hole in the file: nothing reads it, and it takes no disk.
                missing = self._bytes - self._filled
                self._out.truncate(self._bytes)
                for start in range(0, missing, 1 << 20):
                    self._digest.update(bytes(min(1 << 20, missing - start)))
            self._close_file()
        tail = () if self.width == 1 else (self.width,)
        group.create_array(
            name=self.name, shape=(self.size, *tail), chunks=(max(rows, 1), *tail), dtype=self.dtype, fill_value=0,
            compressors=None, filters=None, overwrite=False,
        )  # fmt: skip

    def abandon(self) -> None:
        """Let go of the file that is open."""
        if self._out is not None:
            self._out.close()
            self._out = None

    def _open(self) -> IO[bytes]:
        if self._out is None:
            path = self._folder / chunk_name(self.name, len(self.files), self.width > 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._out = path.open("wb")
        return self._out

    def _close_file(self) -> None:
        assert self._out is not None
        self._out.close()
        self.files[chunk_name(self.name, len(self.files), self.width > 1)] = self._digest.hexdigest()
        self._out, self._filled, self._digest = None, 0, hashlib.sha256()


def chunk_name(array: str, number: int, rows: bool) -> str:
    """Return the file of a chunk, as zarr calls it."""
    return f"{array}/c/{number}/0" if rows else f"{array}/c/{number}"


class MappedArray:
    """A plain zarr array as one read-only numpy array over memory maps; its files are closed again.

    Parameters
    ----------
    folder
        The array's folder, with zarr.json and c/.

    Raises
    ------
    PackError
        When it is not plain, or a file is missing or of another size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shape, chunks, dtype = _plain(folder)
        width = shape[1] if len(shape) > 1 else 1
        self.row = dtype.itemsize * width
        """Bytes of a row."""
        self._chunk = chunks[0] * self.row
        names = [chunk_name("", n, len(shape) > 1).lstrip("/") for n in range(-(-shape[0] // chunks[0]))]
        self._files = [folder / name for name in names]
        for file in self._files:
            if not file.is_file() or file.stat().st_size != self._chunk:
                raise PackError(str(file), "missing or cut short", REMEDY)
        self._region = _map_behind_another(self._files, self._chunk)
        values = np.frombuffer(self._region, dtype=dtype, count=shape[0] * width) if self._files else np.empty(0, dtype)
        self.values = values.reshape(shape)
        """All elements."""

    def will_need(self, spans: Iterable[tuple[int, int]]) -> None:
        """Tell the system which bytes are read soon, given as first and last + 1; a hint only."""
        if hasattr(mmap, "MADV_WILLNEED"):
            for first, last in spans:
                start = first // mmap.PAGESIZE * mmap.PAGESIZE
                with suppress(OSError, ValueError):
                    self._region.madvise(mmap.MADV_WILLNEED, start, last - start)

    def in_memory(self, places: npt.NDArray[np.int64]) -> bool:
        """Return whether the bytes at all these places are in the system's memory; False where it does not tell."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        byte = [bytearray(1)]
        for place in places.tolist():
            number, offset = divmod(place, self._chunk)
            try:
                handle = os.open(self._files[number], os.O_RDONLY)
            except OSError:  # moved or removed since it was mapped, which still reads
                return False
            try:
                os.preadv(handle, byte, offset, os.RWF_NOWAIT)
            except OSError:
                return False
            finally:
                os.close(handle)
        return True


def _plain(folder: Path) -> tuple[list[int], list[int], np.dtype[Any]]:
    """Return shape, chunks and type of an array whose chunks are nothing but its numbers."""
    try:
        facts = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        shape, chunks = facts["shape"], facts["chunk_grid"]["configuration"]["chunk_shape"]
        codecs = [(c["name"], (c.get("configuration") or {}).get("endian", "little")) for c in facts["codecs"]]
        dtype = np.dtype(facts["data_type"]).newbyteorder("<")
        plain = codecs == [("bytes", "little")] and len(shape) in (1, 2) and list(chunks[1:]) == list(shape[1:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(str(folder / "zarr.json"), f"no array ({error})", REMEDY) from error
    if not plain:
        raise PackError(str(folder), f"shape {shape} in chunks {chunks}, codecs {codecs}", "make it with this version")
    return shape, chunks, dtype


def _map_behind_another(files: list[Path], size: int) -> mmap.mmap:
    """Return a region with these files of `size` bytes each, one behind the other.

    The region is reserved first, then each file is put in its place; no memory is used, and Python frees all at once.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    region = mmap.mmap(-1, max(size * len(files), 1), flags=flags, prot=mmap.PROT_READ)
    start = np.frombuffer(region, np.uint8).__array_interface__["data"][0]
    put = _system_mmap()
    for number, file in enumerate(files):
        where = start + number * size
        with file.open("rb") as stream:
            found = put(where, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, stream.fileno(), 0)
        if found != where:
            why = os.strerror(ctypes.get_errno())
            raise PackError(str(file), f"cannot be mapped ({why})", "make it again in larger files")
    return region


@cache
def _system_mmap() -> Any:
    """Return the system's mmap, which can put a file at a given place; Python's own cannot."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    number = ctypes.c_int
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_int64]
    return function
