"""Records in the store: as Arrow rows on the way in, by joinid on the way out, compared with X in between.

`write` sends every block through `to_arrow`, `verify` asks for `wrong_records`, and `Atlas.records` gives readers a
`RecordReader`. What a record is, `cell_records` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import tiledbsoma as soma

from . import schema
from .cell_records import StoredRecords
from .contexts import BULK, settings_of
from .errors import AtlasInputError, StoreError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import scipy.sparse as sp

CELLS_PER_QUERY = 16_384  # 30 MB of records at 1,300 genes a cell; a query costs 1.4 ms however many cells it is for
_REMEDY = "restore the atlas from a copy, or ingest its sources into a new one"
_CONFIG = BULK | {
    # Readers are many processes with a thread each; in one process more threads cost CPU and win no time.
    "sm.compute_concurrency_level": "1",
    "sm.io_concurrency_level": "1",
}


def to_arrow(records: StoredRecords, first: int) -> pa.Table:
    """Return records as rows of the store's frame, from joinid `first` on; shares the memory."""
    strings = ((records.genes, records.gene_starts), (records.counts, records.count_starts))
    columns = [
        pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(records), [None, pa.py_buffer(np.ascontiguousarray(starts)), pa.py_buffer(data)]
        )
        for data, starts in strings
    ]
    joinids = pa.array(np.arange(first, first + len(records), dtype=np.int64))
    return pa.Table.from_arrays([joinids, *columns], schema=schema.arrow_schema(schema.RECORDS))


def from_arrow(table: pa.Table) -> StoredRecords:
    """Return rows of the store's frame as records, in the order of the rows; shares the memory where it can."""
    parts = []
    for name in ("genes", "counts"):
        column = table[name].combine_chunks()
        _, offsets, data = column.buffers()
        starts = np.frombuffer(offsets, np.int64, len(column) + 1, 8 * column.offset) if offsets else np.zeros(1, int)
        held = np.frombuffer(data, np.uint8) if data and data.size else np.empty(0, np.uint8)
        parts += [held[starts[0] : starts[-1]], starts - starts[0]]
    return StoredRecords.of(*parts)


class RecordReader:
    """The records of one organism's cells, opened for reading at one moment; close it, or use it in a `with`.

    It has a TileDB context of its own, so a spawned worker that opens its own reader shares nothing.
    """

    def __init__(self, uri: str, n_cells: int, timestamp_ms: int | None = None) -> None:
        """Open the records.

        Parameters
        ----------
        uri
            The frame of records.
        n_cells
            Cells there are; joinids from here on are refused.
        timestamp_ms
            Moment to read at, in milliseconds since 1970; None for the newest.

        Raises
        ------
        StoreError
            If there is no such frame.
        """
        self.uri, self.n_cells = uri, n_cells
        context = soma.SOMATileDBContext(tiledb_config=_CONFIG | settings_of(uri))
        try:
            self._frame = soma.DataFrame.open(uri, context=context, tiledb_timestamp=timestamp_ms)
        except soma.SOMAError as exc:
            raise StoreError(uri, "open records", f"{exc}; restore the atlas from a copy") from exc

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the reader."""
        self.close()

    def close(self) -> None:
        """Close the frame."""
        self._frame.close()

    def read(self, joinids: np.ndarray) -> StoredRecords:
        """Return the records of some cells.

        Parameters
        ----------
        joinids
            Whole numbers from 0 to `n_cells` - 1, [n], in any order, repeated or not. Ascending neighbours in number
            are read together, so blocks of cells are several times cheaper than as many cells here and there.

        Returns
        -------
        The records in the order of `joinids`; their arrays are read-only, as they share memory with Arrow's.

        Raises
        ------
        AtlasInputError
            If a joinid is none of the organism's cells.
        StoreError
            If a record is not there or cannot be read.
        """
        wanted = self._checked(joinids)
        ascending = bool((wanted[1:] > wanted[:-1]).all())
        cells, order = (wanted, None) if ascending else np.unique(wanted, return_inverse=True)
        parts = [self._query(cells[i : i + CELLS_PER_QUERY]) for i in range(0, len(cells), CELLS_PER_QUERY)]
        table = pa.concat_tables(parts or [schema.arrow_schema(schema.RECORDS).empty_table()])
        found = table["soma_joinid"].to_numpy()
        if not np.array_equal(found, cells):
            missing = np.setdiff1d(cells, found)
            raise StoreError(self.uri, "read records", f"{naming(missing)} without a record; {_REMEDY}")
        return from_arrow(table if order is None else table.combine_chunks().take(pa.array(order)))

    def _checked(self, joinids: np.ndarray) -> np.ndarray:
        """Return the joinids as int64, or refuse them."""
        given = np.asarray(joinids)
        if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
            raise AtlasInputError("joinids", f"{given.dtype} {given.shape}", "whole numbers, one a cell")
        given = given.astype(np.int64)
        wrong = given[(given < 0) | (given >= self.n_cells)]
        if len(wrong):
            raise AtlasInputError("joinids", int(wrong[0]), f"0 to {self.n_cells - 1}, the organism's cells")
        return given

    def _query(self, cells: np.ndarray) -> pa.Table:
        """Return the rows of ascending joinids, in their order."""
        whole = cells[-1] - cells[0] + 1 == len(cells)
        at = slice(int(cells[0]), int(cells[-1])) if whole else cells
        try:
            # Given as points, TileDB joins consecutive ones into ranges itself; a query a range would take 1.4 ms each.
            return self._frame.read((at,), result_order="row-major").concat()
        except soma.SOMAError as exc:
            raise StoreError(self.uri, "read records", f"{naming(cells)} cannot be read: {exc}; {_REMEDY}") from exc


def wrong_records(reader: RecordReader, first: int, block: sp.csr_matrix) -> np.ndarray:
    """Return the joinids of those consecutive cells whose records are not their counts in X, or not there.

    Parameters
    ----------
    reader
        Where the records are.
    first
        Joinid of the first cell.
    block
        Counts as X has them, genes in any order within a cell; they are sorted in place.
    """
    block.sort_indices()
    cells = np.arange(first, first + block.shape[0])
    if _same(reader, cells, block):
        return cells[:0]
    return cells[[not _same(reader, cells[i : i + 1], block[i]) for i in range(len(cells))]]


def _same(reader: RecordReader, cells: np.ndarray, counts: sp.csr_matrix) -> bool:
    """Return whether the cells' records are there and hold these counts."""
    try:
        found = reader.read(cells).decode(counts.shape[1])
    except (AtlasInputError, StoreError):
        return False
    return all(np.array_equal(getattr(found, part), getattr(counts, part)) for part in ("indptr", "indices", "data"))


def naming(cells: np.ndarray) -> str:
    """Return the cells as words, the first few by number."""
    some = ", ".join(str(c) for c in cells[:5])
    return f"cells {some}" + (f" and {len(cells) - 5} more" if len(cells) > 5 else "")
