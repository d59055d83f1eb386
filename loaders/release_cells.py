"""Which cells of a release are loaded, and what values their labels have: the first of two passes over obs.

Loaded are cells that pass QC and are no copies, in the order of their joinids, organism after organism. Only a byte a
cell is held: its split. packing.py makes the second pass, which writes the cells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from atlas import open_atlas, side_folder
from ontology import LABELS, get_organism

from .cells import SPLITS
from .errors import LoaderInputError, PackError
from .index import FORMAT
from .pack import PIECE_MIB
from .verified import digest_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from atlas import Atlas

TERMLESS = {"cell_culture": "tissue_type"}  # its store column holds words, not ids
NOT_LOADED = 255
"""Stands for the split of a cell that is not loaded."""
BUFFER_BYTES = 1 << 24  # a column's part of one answer of the store; 0.5 GiB over all columns
CODED = {label: TERMLESS.get(label) or f"{label}_ontology_term_id" for label in LABELS} | {"dataset": "dataset_id"}
"""The store's column of each label, ids where it has them, and of the dataset."""


@dataclass(frozen=True)
class PackOptions:
    """What is loaded of a release, and how it is packed."""

    organisms: tuple[str, ...] = ()
    """Only these; empty for all of the release."""
    splits: tuple[str, ...] = SPLITS
    """Only cells of these splits."""
    piece_mib: int = PIECE_MIB
    """Largest file of a pack."""
    progress: Callable[[str, int, int], None] = field(default=lambda stage, done, total: None, repr=False)
    """Called with stage, cells done and cells in all."""

    def __post_init__(self) -> None:
        """Refuse a size that no file can have before anything is read."""
        if self.piece_mib < 1:
            raise LoaderInputError("piece_mib", self.piece_mib, "at least 1")


@dataclass(frozen=True, eq=False)
class Choice:
    """What is wanted of a release."""

    atlas: Atlas
    """The atlas as it was when released."""
    folder: Path
    """The release's folder."""
    manifest: Mapping[str, Any]
    """What the release says of itself."""
    organisms: tuple[str, ...]
    """Experiment names, in the order of their term ids, which is that of their codes."""
    splits: tuple[str, ...]
    """In the order of SPLITS."""
    progress: Callable[[str, int, int], None]
    """Called with stage, cells done and cells in all."""

    @property
    def key(self) -> str:
        """Return a name for what is wanted: the release's content, then everything else that decides on it."""
        rest = {"format": FORMAT, "manifest": self.manifest, "organisms": self.organisms, "splits": self.splits}
        return f"{self.manifest['content_sha256'][:16]}-{digest_of(rest)[:16]}"


@dataclass(frozen=True, eq=False)
class Survey:
    """The cells that are loaded, and the values of their labels."""

    choice: Choice
    """What they were chosen by."""
    splits: Mapping[str, npt.NDArray[np.uint8]]
    """Per organism with loaded cells, in the order of codes: the split of each of its cells, or `NOT_LOADED`."""
    vocabulary: Mapping[str, list[str]]
    """Sorted values of every coded column, over all organisms."""


def choose(atlas: str, release: str, options: PackOptions) -> Choice:
    """Return what is wanted of a release.

    Raises
    ------
    LoaderInputError
        When there is no such release or split.
    AtlasInputError
        When the atlas has no such organism.
    """
    folder = side_folder(atlas) / "releases" / release
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoaderInputError("release", release, f"a release of {atlas}; `panatlas release` makes one") from error
    if (unknown := set(options.splits) - set(SPLITS)) or not options.splits:
        raise LoaderInputError("splits", sorted(unknown), f"some of {', '.join(SPLITS)}")
    opened = open_atlas(atlas, at=manifest["tiledb_timestamp_ms"])
    names = {opened.experiment(name) for name in options.organisms or opened.organisms}
    ordered = tuple(sorted(names, key=lambda name: get_organism(name).term_id))
    splits = tuple(split for split in SPLITS if split in options.splits)
    return Choice(opened, folder, manifest, ordered, splits, options.progress)


def survey(choice: Choice) -> Survey:
    """Return the cells that are loaded; reads the categorical columns of obs once.

    Raises
    ------
    LoaderInputError
        When no cell is left.
    PackError
        When the release's splits are damaged or of other cells.
    """
    file = choice.folder / "splits.parquet"
    if not file.is_file() or sha256_of(file) != choice.manifest["files"][file.name]["sha256"]:
        raise PackError(str(file), "other bytes than were released", "make the release again under another name")
    splits, found = {}, {name: set[str]() for name in (*CODED, "donor")}
    for name in choice.organisms:
        split = _read_splits(choice, file, name)
        columns = ["soma_joinid", "qc_pass", "is_primary_data", "donor_id", *CODED.values()]
        for table in read_obs(choice, name, columns):
            joinids = table["soma_joinid"].to_numpy()
            good = pc.and_(table["qc_pass"], table["is_primary_data"]).to_numpy()
            split[joinids[~good]] = NOT_LOADED
            kept = table.filter(pa.array(split[joinids] != NOT_LOADED))
            for column in found:
                codes, values = coded(kept, column)
                found[column] |= {values[code] for code in pd.unique(codes)}
        if (split != NOT_LOADED).any():  # another organism's genes must not shift against its cells
            splits[name] = split
    if not splits:
        allowed = "a release with cells of these organisms and splits that pass QC"
        raise LoaderInputError("release", choice.manifest["name"], allowed)
    return Survey(choice, splits, {name: sorted(values) for name, values in found.items()})


def read_obs(choice: Choice, organism: str, columns: list[str]) -> Iterator[pa.Table]:
    """Yield an organism's obs in joinid order, a few hundred thousand cells at a time."""
    import tiledbsoma as soma  # noqa: PLC0415 - two seconds, which readers of packs are spared

    atlas = choice.atlas
    with soma.DataFrame.open(atlas.array_uri(organism, "obs"), context=atlas.context(BUFFER_BYTES)) as frame:
        rows = (slice(0, atlas.n_cells(organism) - 1),)
        for table in frame.read(rows, column_names=columns, result_order="row-major"):
            yield table.unify_dictionaries()


def coded(table: pa.Table, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a coded column as codes and what each code means; donors of two datasets are two donors.

    The meanings are those of this table only.
    """
    if column != "donor":
        return _categories(table, CODED[column])
    datasets, names = _categories(table, "dataset_id")
    donors, who = _categories(table, "donor_id")
    codes, pairs = pd.factorize(datasets * max(len(who), 1) + donors)
    return codes, [f"{names[pair // len(who)]}/{who[pair % len(who)]}" for pair in pairs.tolist()]


def _categories(table: pa.Table, name: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    column = table[name].combine_chunks()
    if not len(column):
        return np.empty(0, np.int64), []
    return column.indices.to_numpy().astype(np.int64), list(map(str, column.dictionary.to_pylist()))


def _read_splits(choice: Choice, file: Path, organism: str) -> npt.NDArray[np.uint8]:
    """Return the split of each of an organism's cells, QC or not; `NOT_LOADED` where it is not wanted."""
    wanted = np.array([SPLITS.index(name) if name in choice.splits else NOT_LOADED for name in SPLITS], dtype=np.uint8)
    split = np.full(choice.atlas.n_cells(organism), NOT_LOADED, dtype=np.uint8)
    rows, mine = 0, ds.field("organism") == get_organism(organism).label
    for batch in ds.dataset(file).to_batches(columns=["soma_joinid", "split"], filter=mine):
        codes = pc.index_in(batch["split"], pa.array(SPLITS, batch["split"].type)).to_numpy()
        joinids = batch["soma_joinid"].to_numpy()
        if len(joinids) and joinids.max() >= len(split):
            break
        split[joinids] = wanted[codes]
        rows += len(joinids)
    if rows != len(split):
        raise PackError(str(file), f"not the {len(split)} cells of {organism}", "make the release again")
    return split
