"""Packing: a release's cells read once from the store, block by block, into a pack.

Only cells that pass QC and are no copies are packed. Labels become integers with their vocabulary beside them; the
release's splits travel along. The one file of this floor that reads an atlas; pack.py is what comes out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from atlas import open_atlas
from ontology import LABELS, get_organism

from .errors import LoaderInputError
from .pack import PIECE_MIB, Pack, PackWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from atlas import Atlas

SPLITS = ("train", "validation", "test")
"""What the numbers in the column `split` mean."""
TERMLESS = {"cell_culture": "tissue_type"}  # its store column holds words, not ids
BLOCK = 16_384


@dataclass(frozen=True)
class PackOptions:
    """What goes into a pack."""

    organisms: tuple[str, ...] = ()
    """Only these; empty for all of the release."""
    splits: tuple[str, ...] = SPLITS
    """Only cells of these splits."""
    piece_mib: int = PIECE_MIB
    """Largest file of records."""
    progress: Callable[[str, int, int], None] = field(default=lambda stage, done, total: None, repr=False)
    """Called with stage, cells read and cells in all."""


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
        When there is no such release, organism or split, no cell is left, or `path` exists.
    """
    options = options or PackOptions()
    folder = Path(atlas.removeprefix("file://")).expanduser() / "releases" / release
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoaderInputError("release", release, f"a release of {atlas}; `panatlas release` makes one") from error
    if unknown := set(options.splits) - set(SPLITS):
        raise LoaderInputError("splits", sorted(unknown), ", ".join(SPLITS))
    opened = open_atlas(atlas, at=manifest["tiledb_timestamp_ms"])
    names = [opened.experiment(name) for name in options.organisms or opened.organisms]
    names.sort(key=lambda name: get_organism(name).term_id)  # the order of their codes under `organism`
    tables = {name: _cells_of(opened, folder, name, options) for name in names}
    names = [name for name in names if len(tables[name])]  # the others would shift the codes of genes against cells
    if not names:
        raise LoaderInputError("release", release, "a release with cells of these organisms and splits that pass QC")
    vocabulary = _vocabulary([tables[name] for name in names])
    about = {
        "release": release,
        "content_sha256": manifest["content_sha256"],
        "organisms": [{"organism": name, "genes_sha256": manifest["genes"][name]["sha256"]} for name in names],
        "splits": list(options.splits),
        "vocabulary": vocabulary,
    }
    with PackWriter(path, about, piece_mib=options.piece_mib) as writer:
        for name in names:
            _pack_organism(writer, opened, name, tables[name], vocabulary, options)
        genes = [opened.genes(name).assign(organism=code) for code, name in enumerate(names)]
        writer.write_genes(pd.concat(genes, ignore_index=True)[["organism", "feature_id", "feature_name"]])
    return Pack(path)


def _cells_of(atlas: Atlas, folder: Path, name: str, options: PackOptions) -> pd.DataFrame:
    """Return the labels of the organism's cells that are packed, in joinid order."""
    wanted = [
        ("organism", "=", get_organism(name).label),
        ("split", "in", options.splits),
        ("qc_pass", "=", True),
        ("is_primary_data", "=", True),
    ]
    split = pq.read_table(folder / "splits.parquet", columns=["soma_joinid", "split"], filters=wanted).to_pandas()
    columns = ["soma_joinid", "observation_joinid", "dataset_id", "donor_id", "raw_sum", *_columns().values()]
    obs = atlas.query(name).obs(columns)
    return obs.merge(split, on="soma_joinid", validate="one_to_one").sort_values("soma_joinid")


def _columns() -> dict[str, str]:
    """Return the store's column of each label: ids where it has them."""
    return {label: TERMLESS.get(label) or f"{label}_ontology_term_id" for label in LABELS}


def _vocabulary(tables: list[pd.DataFrame]) -> dict[str, list[str]]:
    """Return the sorted values of every coded column, over all organisms."""
    columns = _columns() | {"dataset": "dataset_id", "donor": "donor"}
    found: dict[str, set[str]] = {name: set() for name in columns}
    for table in tables:
        for name, column in columns.items():
            found[name] |= set(_values(table, name, column).unique())
    return {name: sorted(map(str, values)) for name, values in found.items()}


def _values(table: pd.DataFrame, name: str, column: str) -> pd.Series:
    """Return a coded column as text; donors of two datasets are two donors, whatever they are called."""
    if name == "donor":
        return table["dataset_id"].astype(str) + "/" + table["donor_id"].astype(str)
    return table[column].astype(str)


def _pack_organism(
    writer: PackWriter,
    atlas: Atlas,
    name: str,
    table: pd.DataFrame,
    vocabulary: dict[str, list[str]],
    options: PackOptions,
) -> None:
    codes = {"split": pd.Index(SPLITS).get_indexer(table["split"].to_numpy()).astype(np.uint8)}
    codes["joinid"] = table["soma_joinid"].to_numpy(np.int64)
    codes["depth"] = table["raw_sum"].to_numpy(np.float32)
    ids = np.array([int(cell, 16) >> 64 for cell in table["observation_joinid"]], dtype=np.uint64)
    codes["cell_id_high"] = ids  # 64 of its 128 bits: enough to tell cells of one atlas apart
    columns = _columns() | {"dataset": "dataset_id", "donor": "donor"}
    for label, column in columns.items():
        index = pd.Index(vocabulary[label])
        codes[label] = index.get_indexer(_values(table, label, column).to_numpy()).astype(np.int32)
    joinids, total = codes["joinid"], atlas.n_cells(name)
    for first, block in atlas.count_blocks(name, BLOCK):
        start, end = np.searchsorted(joinids, [first, first + block.shape[0]])
        if start < end:
            rows = joinids[start:end] - first
            kept = block if len(rows) == block.shape[0] else block[rows]
            writer.append(kept, {key: values[start:end] for key, values in codes.items()})
        options.progress(f"pack {name}", min(first + block.shape[0], total), total)
