"""Records out of the store, rewritten as records of packs and proved: what packing and `StoreCells` read through.

Every cell read is hashed and compared with the count hash that its ingest computed from the source. That costs about a
microsecond a cell, a tenth of reading it, and is why a record can be believed without opening X.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from atlas import identity

from .errors import PackError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from atlas import Atlas, RecordReader

    from .cells import Numbers
    from .records import PackedCells


class StoreRecords:
    """The records of one organism's cells, by joinid; close it when done.

    Parameters
    ----------
    atlas
        The atlas at the moment of the release.
    organism
        Experiment name.
    genes
        Its gene ids, in the order of their numbers.
    """

    def __init__(self, atlas: Atlas, organism: str, genes: Sequence[str]) -> None:
        self._atlas, self._organism = atlas, organism
        self._keys = identity.gene_keys(genes)[0].copy()

    def close(self) -> None:
        """Close what is open of the store."""
        if "_reader" in vars(self):
            self._reader.close()
            del self._reader

    def read(self, joinids: Numbers, hashes: npt.NDArray[np.uint64]) -> PackedCells:
        """Return the records of these cells, in this order.

        Parameters
        ----------
        joinids
            Best ascending: neighbours in number are read together.
        hashes
            Upper half of each cell's count hash.

        Raises
        ------
        PackError
            When a record is damaged or has other counts than its cell.
        """
        from .record_kernels import count_hashes_high  # noqa: PLC0415 - numba, when the first cell is read
        from .transcode import transcode  # noqa: PLC0415

        where = f"records of {self._organism} in {self._atlas.uri}"
        packed = transcode(self._reader.read(joinids), len(self._keys), where)
        wrong = count_hashes_high(packed, self._keys) != hashes
        if wrong.any():
            cells = ", ".join(map(str, joinids[wrong][:5]))
            raise PackError(where, f"{wrong.sum()} cells have other counts than at ingest: {cells}", "ingest again")
        return packed

    @cached_property
    def _reader(self) -> RecordReader:
        return self._atlas.records(self._organism)
