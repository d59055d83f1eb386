"""Packs: a release's cells as records in memory-mapped files, for draws that cost one small read each.

A pack is an index (index.py) with its records beside it: `records/data` (bytes) and, per cell, `offset`, `nnz`, `low`
and `large`, all in one zarr v3 group. It is a cache: made from a release by packing.py, verified when opened, thrown
away at will, and moved to machines that have neither the atlas nor tiledbsoma. records.py says what a record holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import LoaderInputError, PackError
from .index import CellIndex, IndexWriter
from .mapped import PROBES
from .records import PackedCells, record_sizes
from .verified import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .cells import Numbers

PIECE_MIB = 256
"""Size of a file of records; packs that travel use 30."""
PLACES = {"offset": "<u8", "nnz": "<u4", "low": "<u4", "large": "<u4"}
"""What is kept of each record beside its bytes."""
GAP = 1 << 16
"""Bytes between two records that are fetched with them: to read so many takes a disk no longer than another request."""


class PackWriter(IndexWriter):
    """Writes a pack; use it in a `with`, which gives the folder its name only when all went well.

    Parameters
    ----------
    path
        Folder of the pack; must not exist.
    about
        What the pack was made from: JSON values, kept as they are.
    piece_mib
        Largest file.

    Raises
    ------
    LoaderInputError
        When the folder exists.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, piece_mib: int = PIECE_MIB) -> None:
        super().__init__(path, about, piece_mib=piece_mib)
        self._piece = piece_mib << 20
        self._records = self._array("records/data", np.uint8)
        self._places = {name: self._array(f"records/{name}", dtype) for name, dtype in PLACES.items()}

    def append_records(self, records: PackedCells) -> None:
        """Add the records of the next cells, in the order in which `append` got or gets their columns.

        Raises
        ------
        LoaderInputError
            When a record is larger than a file.
        """
        sizes = record_sizes(records.nnz, records.large)
        if len(sizes) and sizes.max() > self._piece:
            raise LoaderInputError("piece_mib", self._piece >> 20, f"room for a record of {sizes.max()} bytes")
        ends, done, offsets = np.cumsum(sizes), 0, []
        while done < len(sizes):
            # No record crosses two files: take as many as there is room for, then fill the file up.
            begun = self._records.size % self._piece
            before = ends[done] - sizes[done]
            last = int(np.searchsorted(ends, before + self._piece - begun, side="right"))
            if last == done:
                self._records.append(np.zeros(self._piece - begun, np.uint8))
                continue
            offsets.append(self._records.size + ends[done:last] - sizes[done:last] - before)
            self._records.append(records.data[before : ends[last - 1]])
            done = last
        values = {"nnz": records.nnz, "low": records.low, "large": records.large}
        values["offset"] = np.concatenate([np.empty(0, np.int64), *offsets])
        for name, array in self._places.items():
            array.append(values[name])

    def _finish(self) -> None:
        found = self._places["nnz"].size
        if found != self.n_cells:
            raise LoaderInputError("records", f"{found} records", f"{self.n_cells}, one for each cell")
        super()._finish()

    def _digests(self) -> dict[str, str]:
        digests = super()._digests()
        if "cells/count_hash_high" not in digests:  # which else stands for the counts in the fingerprint
            digests["records"] = digest_of(self._records.files)
        return digests


class Pack(CellIndex):
    """An opened pack: records by cell number, and what is known of the cells.

    Parameters
    ----------
    path
        Its folder.
    verify
        True proves every file's digest once; files that have not changed since are not read again.

    Raises
    ------
    PackError
        When it is no pack, of another format, incomplete, or a file's bytes are not those that were packed.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        super().__init__(path, verify=verify)
        if missing := [name for name in ("data", *PLACES) if f"records/{name}" not in self._arrays]:
            raise PackError(str(path), f"an index without records ({missing[0]})", "name the folder of a pack")
        self._records = self._arrays["records/data"]
        self._places = {name: self._arrays[f"records/{name}"].values for name in PLACES}

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not."""
        from .record_kernels import gather  # noqa: PLC0415 - numba, when the first cell is read

        cells = self._known(cells)
        offset, nnz, low, large = (values[cells].astype(np.int64) for values in self._places.values())
        sizes = record_sizes(nnz, large)
        return PackedCells(gather(self._records.values, offset, sizes), np.cumsum(sizes) - sizes, nnz, low, large)

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Tell the system which records are read next, so that a cold disk fetches them side by side.

        A hint costs as much as reading a record that is in memory already, so some are looked for there first, and if
        all of them are, nothing is said.
        """
        cells, last = self._known(cells), self._records.values.size - 1
        some = self._places["offset"][cells[:: -(-len(cells) // PROBES) or 1]].astype(np.int64)
        if last < 0 or self._records.in_memory(np.minimum(some, last)):  # a record of no bytes may lie behind all
            return
        cells = np.unique(cells)
        offset, nnz, large = (self._places[name][cells].astype(np.int64) for name in ("offset", "nnz", "large"))
        sizes = record_sizes(nnz, large)
        first, last = offset[sizes > 0], (offset + sizes)[sizes > 0]
        apart = first[1:] - last[:-1] > GAP
        first, last = first[np.append(True, apart)[: len(first)]], last[np.append(apart, True)[: len(last)]]
        self._records.will_need(zip(first.tolist(), last.tolist(), strict=True))
