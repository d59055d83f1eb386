"""Results of models carried over to other joinids: rows follow their cells, networks of genes stay as they are.

What a retraction does with them. Each is written through `ResultWriter` and so proved by its digest. A result says
something of the cells of a release, which is in its name; what a model said of a cell that stays is as true as before.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import tiledbsoma as soma

from . import layout
from .model_results import ROWS_PER_READ, ResultWriter, collection_of, result_reading
from .result_keys import ResultKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from .handle import Atlas
    from .ledger import DatasetRow, ResultRow

    Numbers = npt.NDArray[np.int64]

NNZ_AT_ONCE = 4_000_000
"""Entries of a matrix that are written as one fragment: 80 MB."""


def carry_results(
    atlas: Atlas, gone: DatasetRow, edition: str, n_cells: int
) -> tuple[list[ResultRow], list[ResultRow]]:
    """Write an organism's results into an edition without a dataset's cells.

    Parameters
    ----------
    atlas
        Where they are now.
    gone
        The dataset; cells after it have joinids that are lower by its cells.
    edition
        Folder of the new arrays, below census_data.
    n_cells
        Cells of the organism from now on.

    Returns
    -------
    What the ledger is to say of those that stay, and the rows of those that were of the dataset's cells alone.
    """
    held = [row for row in atlas.results if row.organism == gone.organism]
    writer = ResultWriter(atlas.place)
    counts = {row.key: _carry(atlas, row, gone, (edition, n_cells), writer) for row in held} if n_cells else {}
    made = {row.key: row for row in writer.join()}
    kept = [replace(made[row.key], organism=gone.organism, cells=counts[row.key]) for row in held if row.key in made]
    return kept, [row for row in held if row.key not in made]


def foresee_results(atlas: Atlas, gone: DatasetRow, n_cells: int) -> tuple[list[ResultRow], list[ResultRow]]:
    """Return which of an organism's results `carry_results` would carry, and which not; nothing is written."""
    held = [row for row in atlas.results if row.organism == gone.organism]
    left = dict.fromkeys((row.key for row in held), 0)
    moment = result_reading(atlas.published_ms, atlas.uri)
    for row in held if n_cells else ():
        key = ResultKey.parse(row.key)
        with soma.Collection.open(atlas.array_uri(row.organism, collection_of(key.kind)), context=moment) as collection:
            member = collection[key.member]
            if isinstance(member, soma.DataFrame):
                joinids = member.read(column_names=["soma_joinid"]).concat()["soma_joinid"].to_numpy()
                left[row.key] = len(_moved(joinids, gone)[0])
            else:
                left[row.key] = _left(member, row, gone)
    return [row for row in held if left[row.key] > 0], [row for row in held if left[row.key] <= 0]


def _carry(atlas: Atlas, row: ResultRow, gone: DatasetRow, to: tuple[str, int], writer: ResultWriter) -> int:
    """Write one result without the dataset's cells unless none is left, and return how many cells it is of."""
    key, about = ResultKey.parse(row.key), json.loads(row.about)
    edition, n_cells = to
    parent = collection_of(key.kind)
    moment = result_reading(atlas.published_ms, atlas.uri)
    with soma.Collection.open(atlas.array_uri(row.organism, parent), context=moment) as collection:
        member = collection[key.member]
        if isinstance(member, soma.DataFrame):
            frame = member.read().concat().to_pandas()
            joinids, stays = _moved(frame["soma_joinid"].to_numpy(), gone)
            if stays.any():
                frame = frame[stays].assign(soma_joinid=joinids)
                writer.table(key, edition, frame, about)
            return int(stays.sum())
        of_cells = not key.kind.startswith(layout.NETWORK)
        left = _left(member, row, gone)
        if left <= 0:
            return 0
        shape = (n_cells if of_cells else member.shape[0], member.shape[1])
        array = writer.matrix(key, edition, shape, about)
        for entries in _entries(member, gone if of_cells else None):
            array.append_entries(*entries)
        array.cells = left
        return left


def _entries(member: soma.SparseNDArray, gone: DatasetRow | None) -> Iterator[list[npt.NDArray]]:
    """Yield rows, columns and values in order, a fragment at a time; without a dataset's, where one is given."""
    held: list[tuple[npt.NDArray, ...]] = []
    for first in range(0, member.shape[0], ROWS_PER_READ):
        last = min(first + ROWS_PER_READ, member.shape[0]) - 1
        found = member.read((slice(first, last),)).tables().concat()
        rows, columns, values = (found[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
        order = np.lexsort((columns, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        if gone is not None:
            rows, stays = _moved(rows, gone)
            columns, values = columns[stays], values[stays]
        held.append((rows, columns, values))
        if sum(len(part[0]) for part in held) >= NNZ_AT_ONCE:
            yield [np.concatenate(parts) for parts in zip(*held, strict=True)]
            held = []
    if held:
        yield [np.concatenate(parts) for parts in zip(*held, strict=True)]


def _moved(joinids: Numbers, gone: DatasetRow) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return the new joinids of the cells that stay, and which do."""
    stop = gone.first_joinid + gone.n_cells
    stays = (joinids < gone.first_joinid) | (joinids >= stop)
    kept = joinids[stays]
    return np.where(kept >= stop, kept - gone.n_cells, kept), stays


def _left(array: soma.SparseNDArray, row: ResultRow, gone: DatasetRow) -> int:
    """Return how many cells a matrix is of without the dataset's; networks of genes are of what they were of."""
    return row.cells - (0 if row.key.startswith(layout.NETWORK) else _cells_of(array, gone))


def _cells_of(array: soma.SparseNDArray, gone: DatasetRow) -> int:
    """Return how many of a dataset's cells a matrix has entries of."""
    stop = min(gone.first_joinid + gone.n_cells, array.shape[0])
    if stop <= gone.first_joinid:
        return 0
    cells = 0
    for first in range(gone.first_joinid, stop, ROWS_PER_READ):
        found = array.read((slice(first, min(first + ROWS_PER_READ, stop) - 1),)).tables().concat()
        cells += len(np.unique(found["soma_dim_0"].to_numpy()))
    return cells
