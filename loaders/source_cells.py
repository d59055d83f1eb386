"""`SourceCells`: the cells of a file as `Cells`, whose counts stay in the file and are read as they are needed.

Read like an ingest reads: nothing in the file is run or followed, every value is proved to be a count before any is
used. What is known of the cells takes some 200 bytes a cell; counts are held in windows (windows.py), however many
cells there are. A file that changes while it is read is told. For inference on a user's file (catalog/model_places.py).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas import ContractError, Source, in_memory, read
from ontology import get_organism

from .errors import CellsError, LoaderInputError
from .known_cells import KnownCells
from .records import LARGE, encode_cells, join_records, record_sizes
from .windows import WindowCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from .cells import Numbers
    from .records import PackedCells

FORMAT = "panatlas source cells 1"
MEMORY_MIB = 256
"""Records held in memory per process, unless told otherwise."""
READ_ROWS = 512
"""Cells decoded at once: 0.1 GB where they express 2,000 genes."""
KEPT = ("observation_joinid",)
"""Columns of obs that are used where no labels are wanted: ids of cells that came from an atlas."""
NO_COUNTS = {"fractional-count", "log-normalised", "depth-normalised", "scaled-values", "negative-count"}


class SourceCells(KnownCells):
    """Cells of an h5ad, 10x h5, 10x mtx folder or zarr; for example `SourceCells("cells.h5ad", "human")`.

    Compressed columns are turned into rows through a temporary file when it is opened; a mtx folder, which is text, is
    held in memory. Pickles to what opens the file again.

    Parameters
    ----------
    path
        The file or folder.
    organism
        Any spelling of whose cells they are.
    matrix
        Element with the counts, e.g. `layers/counts`; None leaves the choice to the rules of an ingest.
    memory_mib
        Most memory for records read ahead.
    columns
        obs column by field, a label or donor, where these are wanted: {} finds them as an ingest does. None takes none.

    Raises
    ------
    LoaderInputError
        When there is no such column.
    ContractError
        When the file is hostile or damaged, or has no such matrix.
    CellsError
        When values are no raw counts, or genes are not of this organism.
    """

    def __init__(
        self,
        path: str | Path,
        organism: str,
        matrix: str | None = None,
        *,
        memory_mib: int = MEMORY_MIB,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        if memory_mib < 1:
            raise LoaderInputError("memory_mib", memory_mib, "at least 1")
        self.path, self.memory_mib = Path(path).expanduser().absolute(), memory_mib
        self._source = Source(get_organism(organism).name, str(self.path), matrix=matrix)
        self._opened: dict[int, read.RawCells] = {}
        self._windows: dict[int, WindowCache] = {}
        try:
            raw = self._open()
            found = _standardise(raw, organism, columns)
        except BaseException:
            self.close()
            raise
        self.obs, self.var = raw.obs, raw.var
        """What the file says of cells and genes; their names are the indexes."""
        self.matrix, self.read_findings = raw.matrix, raw.findings
        """Element the counts are from; what was found before genes were looked up."""
        super().__init__(found, np.zeros(len(found.obs), dtype=np.uint8))
        self._genes_of_file = found.genes
        self.fingerprint = self._digest(FORMAT)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open."""
        return {**self.__dict__, "_opened": {}, "_windows": {}}

    def close(self) -> None:
        """Let go of the file and of what was read ahead; it is opened again when cells are read."""
        if window := self._windows.pop(os.getpid(), None):
            window.close()
        if raw := self._opened.pop(os.getpid(), None):
            raw.close()

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not.

        Raises
        ------
        CellsError
            When the file has changed since it was opened.
        ContractError
            When it can no longer be read.
        """
        return self._window().read(self._known(cells))

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Begin to read cells that are asked for soon."""
        self._window().announce(self._known(cells), stream)

    def neighbours(self, cells: Numbers) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return no neighbours: a file has none."""
        n = len(self._known(cells))
        return np.empty((n, 0), np.int64), np.empty((n, 0), np.float32)

    def _open(self) -> read.RawCells:
        # By process: a handle that a parent opened is left alone in a forked child.
        if os.getpid() not in self._opened:
            self._opened[os.getpid()] = read.open_source(self._source, self.path)
        return self._opened[os.getpid()]

    def _window(self) -> WindowCache:
        if os.getpid() not in self._windows:
            self._windows[os.getpid()] = WindowCache(self._read, self._most_bytes, self.memory_mib << 20)
        return self._windows[os.getpid()]

    def _most_bytes(self, cells: Numbers) -> Numbers:
        nnz = self.codes("nnz", cells).astype(np.int64)
        large = np.minimum(nnz, (self.codes("depth", cells) / LARGE).astype(np.int64) + 1)
        return record_sizes(nnz, large)

    def _read(self, cells: Numbers) -> PackedCells:
        """Return the records of ascending cells."""
        raw, parts = self._open(), []
        for start in range(0, max(len(cells), 1), READ_ROWS):
            some = cells[start : start + READ_ROWS]
            counts = self._genes_of_file.project(raw.rows(some))
            depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel().astype(np.float32)
            if not np.array_equal(depth, self.codes("depth", some)):
                found = "other counts than when it was opened"
                raise CellsError(str(self.path), found, "leave it alone, and begin again")
            parts.append(encode_cells(counts))
        return join_records(parts)


def _standardise(raw: read.RawCells, organism: str, columns: Mapping[str, str] | None) -> in_memory.StandardCells:
    """Return the cells in the atlas' terms; what the atlas refuses is said in the words of whoever has a model."""
    kept = [name for name in KEPT if name in raw.obs] if columns is None else list(raw.obs)
    columns = columns or {}
    if missing := sorted(set(columns.values()) - set(map(str, raw.obs))):
        raise LoaderInputError("columns", missing[0], f"columns of obs: {', '.join(map(str, raw.obs))}")
    fields = {{"donor": "donor_id"}.get(name, name): column for name, column in columns.items()}
    missing = in_memory.missing_datasets(raw.obs, "dataset_id") if "dataset_id" in kept else ()
    dataset = "dataset_id" if "dataset_id" in kept and not missing else None  # all cells are one dataset
    try:
        found = in_memory.standardise_rows(raw.with_obs(kept), organism, columns=fields, dataset_column=dataset)
        return replace(found, findings=(*found.findings, *missing))
    except ContractError as error:
        first = error.findings[0]
        if first.code not in NO_COUNTS:
            raise CellsError(first.where, first.found, first.remedy) from error
        remedy = "pass the raw counts, as they were before normalising"
        raise CellsError(first.where, first.found, remedy, sorted(raw.others)) from error
