"""`StoreCells`: a release's cells straight from the store, as `Cells` numbered and fingerprinted like its pack's.

What is known of the cells is an index in the cache, made on first use by whoever comes first; records are read from the
store in windows (windows.py). Nothing of the store is open before a process reads its first cell, and a forked process
opens its own: TileDB's handles do not survive a fork.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from ontology import cache_dir, locked

from .errors import LoaderInputError
from .index import CellIndex, IndexWriter
from .packing import about, write_cells, write_surroundings
from .records import LARGE, join_records, record_sizes
from .release_cells import PackOptions, choose, survey
from .store_records import StoreRecords
from .windows import WindowCache

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Atlas

    from .cells import Numbers
    from .records import PackedCells
    from .release_cells import Choice

MEMORY_MIB = 1024
"""Records held in memory per process, unless told otherwise: two windows of 130,000 ordinary cells."""
READ_ROWS = 16_384
"""Cells read from the store at once."""


class StoreCells(CellIndex):
    """Cells of a release, read from the store; `open_store_cells` makes one.

    Parameters
    ----------
    path
        Folder of the index.
    atlas
        The atlas at the moment of the release.
    memory_mib
        Most memory for records read ahead. TileDB's own buffers, some 200 MiB while it reads, come on top.
    verify
        True proves the index' files once.

    Raises
    ------
    PackError
        When the index is damaged; a damaged record is told when it is read.
    LoaderInputError
        When `memory_mib` is not positive.
    """

    def __init__(self, path: Path, atlas: Atlas, *, memory_mib: int = MEMORY_MIB, verify: bool = True) -> None:
        if memory_mib < 1:
            raise LoaderInputError("memory_mib", memory_mib, "at least 1")
        super().__init__(path, verify=verify)
        self.atlas, self.memory_mib = atlas, memory_mib
        self._sources: dict[int, list[StoreRecords]] = {}
        self._windows: dict[int, WindowCache] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Reopen in another process, which opens the store for itself."""
        return _reopen, (self.path, self.atlas, self.memory_mib, self._verify)

    def close(self) -> None:
        """Let go of the store and of what was read ahead; it is opened again when cells are read."""
        if window := self._windows.pop(os.getpid(), None):
            window.close()
        for source in self._sources.pop(os.getpid(), []):
            source.close()

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not.

        Raises
        ------
        PackError
            When a record is damaged, or has other counts than its cell had at ingest.
        """
        return self._window().read(self._known(cells))

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Begin to read a window of draws: announce each window once, best before the one before it is used up.

        Parameters
        ----------
        cells
            In the order in which they will be read. Where they exceed half of the memory allowed, the first ones are
            read ahead and the others when asked for.
        stream
            Number of the stream that reads them: each has its two last windows held, as far as memory allows.
        """
        self._window().announce(self._known(cells), stream)

    @property
    def held(self) -> int:
        """Return the bytes of records held by this process."""
        window = self._windows.get(os.getpid())
        return window.held if window else 0

    def _window(self) -> WindowCache:
        # By process: what a parent opened is left alone in a forked child, and never closed there either.
        if os.getpid() not in self._windows:
            self._windows[os.getpid()] = WindowCache(self._read, self._most_bytes, self.memory_mib << 20)
        return self._windows[os.getpid()]

    def _most_bytes(self, cells: Numbers) -> Numbers:
        nnz = self.codes("nnz", cells).astype(np.int64)
        large = np.minimum(nnz, (self.codes("depth", cells) / LARGE).astype(np.int64) + 1)
        return record_sizes(nnz, large)

    def _read(self, cells: Numbers) -> PackedCells:
        """Return the records of ascending cells; ascending cells have ascending organisms and joinids."""
        organisms, joinids = self.codes("organism", cells), self.codes("joinid", cells)
        hashes = self.codes("count_hash_high", cells)
        parts = []
        for code in np.unique(organisms):
            first, last = np.searchsorted(organisms, [code, code + 1])
            for start in range(first, last, READ_ROWS):
                some = slice(start, min(start + READ_ROWS, last))
                parts.append(self._open()[code].read(joinids[some], hashes[some]))
        return join_records(parts)

    def _open(self) -> list[StoreRecords]:
        if os.getpid() not in self._sources:
            ids = self.genes().groupby("organism")["feature_id"]
            self._sources[os.getpid()] = [
                StoreRecords(self.atlas, organism["organism"], ids.get_group(code).tolist())
                for code, organism in enumerate(self.about["organisms"])
            ]
        return self._sources[os.getpid()]


def _reopen(path: Path, atlas: Atlas, memory_mib: int, verify: bool) -> StoreCells:
    return StoreCells(path, atlas, memory_mib=memory_mib, verify=verify)


def open_store_cells(
    atlas: str, release: str, options: PackOptions | None = None, *, memory_mib: int = MEMORY_MIB
) -> StoreCells:
    """Return a release's cells, read from the store.

    The first call makes an index in the cache, reading obs twice; later ones find it.

    Parameters
    ----------
    atlas
        Folder of the atlas.
    release
        Name of a release in it.
    options
        Organisms and splits; the size of files says nothing here.
    memory_mib
        Most memory per process for records read ahead.

    Raises
    ------
    LoaderInputError
        When there is no such release or split, no cell is left, or `memory_mib` is not positive.
    AtlasInputError
        When the atlas has no such organism.
    PackError
        When the index was damaged; the message names the file.
    """
    choice = choose(atlas, release, options or PackOptions())
    folder = cache_dir() / "indexes" / choice.key
    with locked(folder):
        if not (folder / "index").exists():
            for left in folder.glob(".part-*"):  # of a maker that was killed
                shutil.rmtree(left, ignore_errors=True)
            _make_index(folder / "index", choice)
    return StoreCells(folder / "index", choice.atlas, memory_mib=memory_mib)


def _make_index(path: Path, choice: Choice) -> None:
    found = survey(choice)
    with IndexWriter(path, about(found)) as writer:
        for organism, split in found.splits.items():
            for cells in write_cells(writer, found, organism):
                choice.progress(f"index {organism}", int(cells["joinid"][-1]) + 1, len(split))
        write_surroundings(writer, found)
