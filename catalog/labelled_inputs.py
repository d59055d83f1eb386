"""Labelled cells of a file or a release, for commands that learn from labels: `open_labelled`.

A file's labels are found as an ingest finds them, or in columns that are named; a column of one's own becomes a label
of words, or the batches. task_inputs.py opens cells whose labels nobody needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loaders import RelabelledCells
from model import donor_splits
from ontology import LABELS, get_organism

from . import model_places as places
from .errors import CatalogInputError
from .task_inputs import RELEASE
from .workflows import default_atlas

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from atlas import Finding
    from loaders import Cells

BATCH = "batch"
"""Column of the cells that a batch column of a file becomes."""


@dataclass(frozen=True)
class LabelColumns:
    """Which label is meant, and where a file has it."""

    label: str | None = None
    """One of the nine; None where only a column is named, which then is a label of its own."""
    column: str | None = None
    """obs column with its values."""
    batch: str | None = None
    """obs column of a file, or dataset, donor or a label of a release."""
    donor: str | None = None
    """obs column with the donors of a file, found as an ingest finds it where it is not named."""
    split: str | None = None
    """obs column with train, validation and test."""
    shares: tuple[float, float] = (0.2, 0.0)
    """Cells held out for validation and test where a file names no split."""
    seed: int = 0
    """Of the donors that are held out."""


@dataclass(frozen=True, eq=False)
class LabelledInput:
    """Cells with labels."""

    said: str
    """What was asked for."""
    cells: Cells
    """The cells."""
    label: str
    """Column of the cells with the label that is meant."""
    batch: str | None
    """Column of the cells with their batch; None where none is asked for."""
    matrix: str | None
    """Element of the file their counts are from."""
    findings: tuple[Finding, ...] = ()
    """What reading them found."""
    notes: tuple[str, ...] = field(default=())
    """What people should know of the columns."""


def open_labelled(
    said: str, organism: str | None, layer: str | None, wanted: LabelColumns, *, splits: bool = False
) -> LabelledInput:
    """Return the cells of a file, or of a release of the default atlas, with a label.

    Parameters
    ----------
    said
        What an ingest takes, or `release:NAME`.
    organism
        Any spelling; of a file None is human, of a release None is every cell.
    layer
        Layer of a file with the counts.
    wanted
        Which label, and where it is.
    splits
        Whether splits are needed: a file that names none gets some by donor.

    Raises
    ------
    CatalogInputError
        When there is no such input, column or label, or a release is asked for columns of one's own.
    ContractError, CellsError
        When a file is hostile or damaged, or has no raw counts.
    ModelInputError
        When there are too few donors to hold any out.
    """
    if wanted.label is not None and wanted.label not in LABELS:
        allowed = f"one of {', '.join(LABELS)}; --column NAME makes one of its own"
        raise CatalogInputError("label", wanted.label, allowed)
    if said.startswith(RELEASE):
        return _of_release(said, organism, layer, wanted)
    label = wanted.label or (own_name(wanted.column) if wanted.column else "cell_type")
    fields = {"donor": wanted.donor} | ({wanted.label: wanted.column} if wanted.label else {})
    columns = {name: column for name, column in fields.items() if column is not None}
    path = Path(said)
    found = places.read_adata(path, get_organism(organism or "human").experiment, layer, columns)
    own: dict[str, list[str]] = {}
    if wanted.column is not None and wanted.label is None:
        own[label] = _texts(found.obs, wanted.column, "column")
    if wanted.batch is not None:
        own[BATCH] = _texts(found.obs, wanted.batch, "batch")
    if wanted.split is not None:
        own["split"] = _texts(found.obs, wanted.split, "split")
    notes = [f"column {wanted.column!r} is label {label}"] if wanted.column and label != wanted.column else []
    cells: Cells = RelabelledCells(found.cells, own) if own else found.cells
    if splits and wanted.split is None:
        validation, test = wanted.shares
        made = donor_splits(cells, validation=validation, test=test, seed=wanted.seed)
        cells = RelabelledCells(cells, {"split": made.tolist()})
    batch = None if wanted.batch is None else BATCH
    return LabelledInput(said, cells, label, batch, found.matrix, found.findings, tuple(notes))


def own_name(column: str) -> str:
    """Return a column's name as a label may be called.

    Examples
    --------
    >>> own_name("Cell state (v2)"), own_name("sex"), own_name("2nd")
    ('Cell_state_v2', 'own_sex', 'own_2nd')
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", column).strip("_")[:56]
    taken = name in LABELS or name in ("base", "donor", "dataset", "split", BATCH)
    return f"own_{name}" if taken or not name[:1].isalpha() else name


def _texts(obs: pd.DataFrame, column: str, field_: str) -> list[str]:
    """Return a column as text, `unknown` where it says nothing."""
    if column not in obs.columns:
        raise CatalogInputError(field_, column, f"a column of obs: {', '.join(map(str, obs.columns))}")
    values = obs[column]
    known = values.notna().to_numpy()
    return np.where(known, values.astype(str).to_numpy(dtype=object), "unknown").tolist()


def _of_release(said: str, organism: str | None, layer: str | None, wanted: LabelColumns) -> LabelledInput:
    asked: Mapping[str, str | None] = {"column": wanted.column, "donor": wanted.donor, "split": wanted.split}
    if given := [name for name, value in {**asked, "layer": layer}.items() if value is not None]:
        raise CatalogInputError(given[0], str({**asked, "layer": layer}[given[0]]), "none: a release has its own")
    if organism is not None:
        raise CatalogInputError("organism", organism, "none: a release is taken whole; make one of that organism")
    cells = places.find_cells(said.removeprefix(RELEASE), None, None, default_atlas()).cells
    known = [name for name in cells.about["vocabulary"] if name in cells.columns]
    if wanted.batch is not None and wanted.batch not in known:
        raise CatalogInputError("batch", wanted.batch, f"a column of the release: {', '.join(sorted(known))}")
    return LabelledInput(said, cells, wanted.label or "cell_type", wanted.batch, None)
