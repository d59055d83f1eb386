"""Packing: a release's cells written as an index, and with their records as a pack; the second pass over obs.

release_cells.py says which cells. Records come from the store's own, each proved against the count hash that obs keeps
of its cell (store_records.py), so X is not read: that takes a fifth of the time.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from atlas import layout
from ontology import LABELS

from .cells import NO_CELL, SPLITS
from .index import NEIGHBOURS
from .pack import Pack, PackWriter
from .release_cells import CODED, NOT_LOADED, PackOptions, choose, coded, read_obs, survey
from .store_records import StoreRecords

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    import scipy.sparse as sp

    from .cells import Numbers
    from .index import IndexWriter
    from .release_cells import Survey

__all__ = ["SPLITS", "PackOptions", "make_pack", "write_cells", "write_surroundings"]

COLUMNS = ["soma_joinid", "observation_joinid", "count_hash", "raw_sum", "nnz", "donor_id", *CODED.values()]
RECORD_ROWS = 4096
"""Cells whose records are read at once: few enough that memory is used again and not asked for anew."""
NEIGHBOUR_ROWS = 1 << 16
"""Cells whose neighbours are read at once: some 30 MiB."""


def make_pack(atlas: str, release: str, path: Path, options: PackOptions | None = None) -> Pack:
    """Pack a release's cells.

    Parameters
    ----------
    atlas
        Folder of the atlas.
    release
        Name of a release in it.
    path
        Folder of the pack; must not exist.
    options
        Organisms, splits and file size.

    Raises
    ------
    LoaderInputError
        When there is no such release or split, no cell is left, or `path` exists.
    AtlasInputError
        When the atlas has no such organism.
    PackError
        When a record of the store is damaged.
    """
    options = options or PackOptions()
    found = survey(choose(atlas, release, options))
    with PackWriter(path, about(found), piece_mib=options.piece_mib) as writer:
        for organism in found.splits:
            source = found.choice.atlas
            done, total = 0, source.n_cells(organism)
            with closing(StoreRecords(source, organism, source.genes(organism)["feature_id"].tolist())) as records:
                for cells in write_cells(writer, found, organism):
                    for start in range(0, len(cells["joinid"]), RECORD_ROWS):
                        some = slice(start, start + RECORD_ROWS)
                        joinids = cells["joinid"][some]
                        writer.append_records(records.read(joinids, cells["count_hash_high"][some]))
                        done = int(joinids[-1]) + 1
                        options.progress(f"pack {organism}", done, total)
            options.progress(f"pack {organism}", total, total)
        write_surroundings(writer, found)
    return Pack(path)


def about(found: Survey) -> dict[str, object]:
    """Return what is said of the cells of a release."""
    choice = found.choice
    return {
        "release": choice.manifest["name"],
        "content_sha256": choice.manifest["content_sha256"],
        "organisms": [
            {"organism": name, "genes_sha256": choice.manifest["genes"][name]["sha256"]} for name in found.splits
        ],
        "splits": list(choice.splits),
        "vocabulary": dict(found.vocabulary),
        "label_scopes": _label_scopes(found),
    }


def _label_scopes(found: Survey) -> dict[str, list[str]]:
    """Return what each label was given to in each dataset, as for most of its cells: cell, sample or study."""
    table = found.choice.atlas.table("label_provenance").sort_values("n_cells", kind="stable")
    scopes = table.drop_duplicates(["dataset_id", "label"], keep="last").set_index(["dataset_id", "label"])["scope"]
    datasets = found.vocabulary["dataset"]
    return {label: [str(scopes.get((dataset, label), "")) for dataset in datasets] for label in LABELS}


def write_cells(writer: IndexWriter, found: Survey, organism: str) -> Iterator[dict[str, npt.NDArray]]:
    """Write the numbers of an organism's cells, a block at a time, and yield each block written."""
    split = found.splits[organism]
    index = {name: pd.Index(values) for name, values in found.vocabulary.items()}
    for table in read_obs(found.choice, organism, COLUMNS):
        mine = split[table["soma_joinid"].to_numpy()]
        kept = table.filter(pa.array(mine != NOT_LOADED))
        if not kept.num_rows:
            continue
        cells: dict[str, npt.NDArray] = {
            "split": mine[mine != NOT_LOADED],
            "joinid": kept["soma_joinid"].to_numpy(),
            "depth": kept["raw_sum"].to_numpy().astype(np.float32),
            "nnz": kept["nnz"].to_numpy().astype(np.uint32),
            # 64 of 128 bits each: enough to tell the cells of one atlas apart, and to know a copy.
            "cell_id_high": _upper_half(kept["observation_joinid"]),
            "count_hash_high": _upper_half(kept["count_hash"]),
        }
        for name, values in index.items():
            codes, meanings = coded(kept, name)
            cells[name] = values.get_indexer(pd.Index(meanings)).astype(np.int32)[codes]
        writer.append(cells)
        yield cells


def _upper_half(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return the first 16 of 32 hex digits as a number."""
    parts = [np.empty(0, np.uint64)]
    for chunk in (chunk for chunk in column.chunks if len(chunk)):
        _, offsets, data = chunk.buffers()
        starts = np.frombuffer(offsets, np.int64, len(chunk) + 1, 8 * chunk.offset)
        text = np.frombuffer(data, np.uint8)[starts[0] : starts[-1]].reshape(len(chunk), 32)
        parts.append(np.frombuffer(bytes.fromhex(text[:, :16].tobytes().decode("ascii")), ">u8").astype(np.uint64))
    return np.concatenate(parts)


def write_surroundings(writer: IndexWriter, found: Survey) -> None:
    """Write genes, which were measured, and neighbours, once all cells are written; counts of these go to `about`."""
    atlas = found.choice.atlas
    genes = [atlas.genes(name).assign(organism=code) for code, name in enumerate(found.splits)]
    writer.write_genes(pd.concat(genes, ignore_index=True))
    writer.write_measured(list(_measured(found, [len(table) for table in genes])))
    kept = dropped = without = 0
    for near, distances, lost in _neighbours(found):
        some = int((near != NO_CELL).sum())
        kept, dropped = kept + some, dropped + lost
        if not kept:  # an atlas without a graph gets no columns of nothing
            without += len(near)
            continue
        for start in range(0, without, NEIGHBOUR_ROWS):
            writer.append_neighbours(*_nobody(min(NEIGHBOUR_ROWS, without - start)))
        without = 0
        writer.append_neighbours(near, distances)
    writer.about["neighbours"] = {"kept": kept, "dropped": dropped}


def _measured(found: Survey, n_genes: list[int]) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yield, per dataset in the order of codes, its organism's code and which genes it measured."""
    atlas, names = found.choice.atlas, list(found.splits)
    rows = {row.dataset_id: row for row in atlas.datasets}
    with atlas.open() as tree:
        for dataset in found.vocabulary["dataset"]:
            row = rows[dataset]
            rna = tree[layout.DATA][row.organism].ms["RNA"]
            table = rna["feature_dataset_presence_matrix"].read((row.dataset_joinid,)).tables().concat()
            mask = np.zeros(n_genes[names.index(row.organism)], dtype=np.bool_)
            mask[table["soma_dim_1"].to_numpy()[table["soma_data"].to_numpy()]] = True
            yield names.index(row.organism), mask


def _neighbours(found: Survey) -> Iterator[tuple[Numbers, npt.NDArray[np.float32], int]]:
    """Yield neighbours and distances of all loaded cells, a block at a time, and how many were dropped."""
    atlas, before = found.choice.atlas, 0
    for organism, split in found.splits.items():
        rows = [row for row in atlas.datasets if row.organism == organism]
        for row in sorted(rows, key=lambda row: row.first_joinid):
            mine = split[row.first_joinid : row.first_joinid + row.n_cells]
            loaded = mine != NOT_LOADED
            numbers = before + np.cumsum(loaded) - 1
            before += int(loaded.sum())
            for start in range(0, row.n_cells, NEIGHBOUR_ROWS):
                some = slice(start, min(start + NEIGHBOUR_ROWS, row.n_cells))
                if loaded[some].any():
                    first = row.first_joinid
                    graph = atlas.neighbours(organism, first + some.start, first + some.stop)
                    yield nearest(graph[:, first : first + row.n_cells], mine, numbers, some)
            found.choice.progress(f"neighbours {organism}", row.first_joinid + row.n_cells, len(split))


def nearest(
    graph: sp.csr_matrix, split: npt.NDArray[np.uint8], numbers: Numbers, some: slice
) -> tuple[Numbers, npt.NDArray[np.float32], int]:
    """Return the neighbours of a dataset's loaded cells that are loaded and of the same split.

    Parameters
    ----------
    graph
        Distances [cells of `some`, cells of the dataset].
    split
        Of the dataset's cells, `NOT_LOADED` for those that are not.
    numbers
        Cell numbers of the dataset's loaded cells.
    some
        The dataset's cells that are the rows of `graph`.

    Returns
    -------
    Cell numbers and distances, both [loaded cells of `some`, `NEIGHBOURS`], nearest first, the lower number first among
    equals; `NO_CELL` and infinity where there are fewer; and how many were dropped.
    """
    loaded = split[some] != NOT_LOADED
    graph = graph[np.flatnonzero(loaded)]
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    near, distances = _nobody(graph.shape[0])
    same = split[graph.indices] == split[some][loaded][rows]
    rows, ids, values = rows[same], numbers[graph.indices[same]], graph.data[same]
    order = np.lexsort((ids, values, rows))
    rows, ids, values = rows[order], ids[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    first = rank < NEIGHBOURS
    near[rows[first], rank[first]] = ids[first]
    distances[rows[first], rank[first]] = values[first]
    return near, distances, graph.nnz - int(first.sum())


def _nobody(n_cells: int) -> tuple[Numbers, npt.NDArray[np.float32]]:
    """Return the neighbours of cells that have none."""
    shape = (n_cells, NEIGHBOURS)
    return np.full(shape, NO_CELL, dtype=np.int64), np.full(shape, np.inf, dtype=np.float32)
