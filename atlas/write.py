"""Putting one dataset's cells into the store: X and records, presence, var totals, obs, and its rows of census_info.

Every function here writes into a range the ledger has reserved, and nothing here publishes. X and presence come first,
obs after them, the tables last. Stages before are `standardise` and `qc`; afterwards `verify` reads everything back.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import tiledbsoma as soma

from . import layout, schema
from .cell_records import encode_records
from .contexts import IN_ORDER, opened
from .lease import hold_on
from .record_store import to_arrow
from .store import array_uri, grow_array, grow_frame, info_uri, tick, write_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import scipy.sparse as sp

    from .ledger import DatasetRow
    from .sources import Source

GLOBAL_ORDER = soma.TileDBWriteOptions(sort_coords=False)  # refused by TileDB, not corrupted, if ever unsorted


@dataclass(frozen=True)
class GeneTotals:
    """Per gene of the table, what one dataset adds to var's running totals."""

    nnz: np.ndarray
    """Cells with a count of the gene, int64."""
    measured: np.ndarray
    """Bool: the dataset measured the gene."""


def write_counts(root: Path, row: DatasetRow, blocks: Iterable[sp.csr_matrix], measured: np.ndarray) -> GeneTotals:
    """Write a dataset's counts to X and as records, and its row of the presence matrix.

    Parameters
    ----------
    root
        Folder of the atlas.
    row
        The reservation: `n_cells` rows from `first_joinid`.
    blocks
        CSR blocks over the gene table in cell order, sorted, without zeros; `n_cells` rows in all.
    measured
        Bool per gene: the dataset measured it.

    Returns
    -------
    What the dataset adds to var's totals.
    """
    uris = [array_uri(root, row.organism, member) for member in (layout.X_RAW, layout.RECORDS, layout.PRESENCE)]
    grow_array(uris[0], row.first_joinid + row.n_cells)
    grow_frame(uris[1], row.first_joinid + row.n_cells)
    grow_array(uris[2], row.dataset_joinid + 1)
    nnz = np.zeros(len(measured), np.int64)
    with (
        opened(soma.SparseNDArray, uris[0], "w", more=IN_ORDER) as x,
        opened(soma.DataFrame, uris[1], "w", more=IN_ORDER) as records,
    ):
        for coordinates, packed in _fragments(blocks, row.first_joinid):
            for table in coordinates:
                nnz += np.bincount(table["soma_dim_1"].to_numpy(), minlength=len(measured))
            hold_on(root)
            x.write(pa.concat_tables(coordinates), platform_config=GLOBAL_ORDER)
            records.write(pa.concat_tables(packed), platform_config=GLOBAL_ORDER)
    genes = np.flatnonzero(measured).astype(np.int64)
    dataset = np.full(len(genes), row.dataset_joinid, np.int64)
    with opened(soma.SparseNDArray, uris[2], "w") as array:
        array.write(pa.table({"soma_dim_0": dataset, "soma_dim_1": genes, "soma_data": np.ones(len(genes), bool)}))
    tick()
    return GeneTotals(nnz, measured)


def _fragments(blocks: Iterable[sp.csr_matrix], first: int) -> Iterator[tuple[list[pa.Table], list[pa.Table]]]:
    """Yield the rows of X and the records of as many blocks at a time as are written at once.

    Their order is proven here and by nobody after: blocks follow each other, and no record is made of genes that do not
    ascend. The rows of X are good until the next are asked for, which take their memory.
    """
    coordinates: list[pa.Table] = []
    packed: list[pa.Table] = []
    room, size = _Room(layout.NNZ_PER_FRAGMENT), 0
    for block in blocks:
        if not block.shape[0]:  # none of its cells is kept
            continue
        packed.append(to_arrow(encode_records(block), first))
        coordinates.append(_coordinates(block, first, room.take(size, block.nnz)))
        size += block.nnz
        first += block.shape[0]
        if size >= layout.NNZ_PER_FRAGMENT:
            yield coordinates, packed
            coordinates, packed, size = [], [], 0
    if packed:
        yield coordinates, packed


class _Room:
    """Memory for the coordinates of a fragment, taken from the system once and for all fragments."""

    def __init__(self, most: int) -> None:
        self._most, self._arrays = most, tuple[np.ndarray, ...]()

    def take(self, start: int, n: int) -> tuple[np.ndarray, ...]:
        """Return arrays for `n` coordinates after the first `start`: int64 cells and genes, float32 counts."""
        types = (np.int64, np.int64, np.float32)
        if start + n > self._most:  # the last block of a fragment, as a rule
            return tuple(np.empty(n, kind) for kind in types)
        if not self._arrays:  # mapped, so that it comes page by page as it is filled
            sizes = [self._most * np.dtype(kind).itemsize for kind in types]
            self._arrays = tuple(
                np.frombuffer(mmap.mmap(-1, size), kind) for size, kind in zip(sizes, types, strict=True)
            )
        return tuple(array[start : start + n] for array in self._arrays)


def _coordinates(block: sp.csr_matrix, first: int, into: tuple[np.ndarray, ...]) -> pa.Table:
    """Return a CSR block as COO rows in global order: tiles span all genes, so row-major order is tile order."""
    from .count_kernels import rows_of, spread  # noqa: PLC0415 - numba, when the first cells are written

    spread(rows_of(block), first, *into)
    return pa.table(dict(zip(("soma_dim_0", "soma_dim_1", "soma_data"), into, strict=True)))


def write_obs(root: Path, row: DatasetRow, obs: pd.DataFrame) -> None:
    """Write a dataset's rows of obs as one fragment, after giving every categorical column its new categories.

    Categories are added through a handle of their own, closed before the rows are written: two schema versions of one
    millisecond, or categories added through the creating handle, are lost silently (tiledbsoma >= 2.0).
    """
    uri = array_uri(root, row.organism, "obs")
    _extend_categories(uri, obs)
    grow_frame(uri, row.first_joinid + row.n_cells)
    names = list(schema.categories(schema.OBS))
    with opened(soma.DataFrame, uri, "w") as frame:
        vocabulary = {k: v.to_pylist() for k, v in frame.get_enumeration_values(names).items()}
        arrays = []
        for field in schema.OBS:
            values = obs[field.name]
            if field.name in vocabulary:
                codes = pd.Index(vocabulary[field.name]).get_indexer(values.to_numpy(dtype=object))
                terms = pa.array(vocabulary[field.name], pa.large_string())
                arrays.append(pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), terms))
            else:
                arrays.append(pa.array(values.to_numpy(), type=field.type, from_pandas=False))
        frame.write(pa.Table.from_arrays(arrays, schema=schema.arrow_schema(schema.OBS)))
    tick()


def _extend_categories(uri: str, obs: pd.DataFrame) -> None:
    """Add the categories of `obs` that the frame does not have yet, sorted, in one schema change."""
    names = list(schema.categories(schema.OBS))
    with opened(soma.DataFrame, uri) as frame:
        have = {k: set(v.to_pylist()) for k, v in frame.get_enumeration_values(names).items()}
    new = {name: sorted(set(obs[name].unique()) - have[name]) for name in names}
    new = {name: pa.array(values, pa.large_string()) for name, values in new.items() if values}
    if new:
        with opened(soma.DataFrame, uri, "w") as frame:
            frame.extend_enumeration_values(new)
        tick()


def add_gene_totals(root: Path, row: DatasetRow, totals: GeneTotals) -> None:
    """Add one dataset's totals to var's `nnz` and `n_measured_obs`."""
    uri = array_uri(root, row.organism, layout.VAR)
    with opened(soma.DataFrame, uri) as frame:
        var = frame.read().concat().to_pandas()
    var["nnz"] += totals.nnz
    var["n_measured_obs"] += totals.measured.astype(np.int64) * row.n_cells
    write_frame(uri, schema.VAR, [var[f.name].to_numpy() for f in schema.VAR])


def write_dataset(root: Path, row: DatasetRow, source: Source, organism_label: str) -> None:
    """Write the dataset's row of census_info/datasets."""
    values = {
        "soma_joinid": row.dataset_joinid,
        "citation": source.citation or "",
        "collection_id": "",
        "collection_name": "",
        "collection_doi": source.doi or "",
        "collection_doi_label": source.doi or "",
        "dataset_id": row.dataset_id,
        "dataset_version_id": row.content_sha256,
        "dataset_title": source.title or row.dataset_id,
        "dataset_h5ad_path": source.uri,
        "dataset_total_cell_count": row.n_cells,
        "organism": organism_label,
        "licence": source.licence or "",
        "input_sha256": row.input_sha256,
    }
    uri = info_uri(root, "datasets")
    write_frame(uri, schema.DATASETS, [[values[f.name]] for f in schema.DATASETS])


def write_provenance(root: Path, row: DatasetRow, provenance: pd.DataFrame) -> None:
    """Append a dataset's rows to census_info/label_provenance: what each label was given to, and how it matched."""
    uri = info_uri(root, "label_provenance")
    with opened(soma.DataFrame, uri) as frame:
        first = frame.count
    rows = provenance.assign(soma_joinid=np.arange(first, first + len(provenance)), dataset_id=row.dataset_id)
    write_frame(uri, schema.LABEL_PROVENANCE, [rows[f.name].to_numpy() for f in schema.LABEL_PROVENANCE])
