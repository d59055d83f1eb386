"""How large a source is before it is ingested: cells, non-zero counts and bytes, where its file is at hand.

For `panatlas plan`. Opens files as an ingest does, so that a hostile one is refused here too; of large files some runs
of rows are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .fetch import fetch_source
from .read import open_source
from .sources import parse_uri

if TYPE_CHECKING:
    from .sources import Source

RUNS, ROWS = 8, 500  # runs of rows that are read of a file with more, evenly spread over it


@dataclass(frozen=True)
class SourceSize:
    """What a source holds."""

    cells: int
    """Its cells."""
    nonzeros: int
    """Its counts that are not zero."""
    bytes_read: int
    """Size of its file, or of the files of its folder."""
    counted: bool
    """True where every cell was counted; False where non-zeros are reckoned from some."""


def measure_source(source: Source) -> SourceSize | None:
    """Return a source's size; None where it would have to be fetched first.

    Raises
    ------
    SourceError
        If there is no such file.
    ContractError
        If an ingest would refuse the file for its structure.
    """
    if parse_uri(source.uri).scheme not in ("file", "synthetic"):
        return None
    path = fetch_source(source)
    size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    with open_source(source, path) as cells:
        whole = cells.n_obs <= RUNS * ROWS
        starts = [0] if whole else np.linspace(0, cells.n_obs - ROWS, RUNS).astype(int).tolist()
        rows = cells.n_obs if whole else ROWS
        found = sum(cells.rows(np.arange(start, start + rows)).nnz for start in starts)
        nonzeros = round(found * cells.n_obs / (rows * len(starts)))
        return SourceSize(cells.n_obs, nonzeros, size, whole)
