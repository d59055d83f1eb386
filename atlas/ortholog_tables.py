"""Orthologs in the store: `census_info/orthologs` and `census_info/ortholog_groups`, for the organisms it holds.

Written at publication by the ingest, read by any SOMA client. The tables say what the references said at that moment;
they are rewritten only when the key of those references changes, which the arrays carry as metadata. A reference that
cannot be had leaves the tables as they were and is reported, never raised: cells do not wait for orthologs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import tiledbsoma as soma

from ontology import (
    Organism,
    ReferenceMismatchError,
    ReferenceMissingError,
    SourceUnavailableError,
    UnknownOrganismError,
    get_organism,
    load_orthologs,
    ortholog_groups,
    orthologs_key,
)

from . import layout, schema
from .contexts import opened
from .schema import TEXT, Field
from .store import clear, experiments, info_uri, replace_frame, tick

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LOG = logging.getLogger(__name__)

ORTHOLOGS_FRAME, GROUPS_FRAME = "orthologs", "ortholog_groups"
KEY = "panatlas_orthologs_key"  # metadata of both arrays: digest of the references they were written from
HUMAN = "human"  # every pair is with a human gene, and every group has one

ORTHOLOGS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row."),
    Field("organism", TEXT, "Organism of feature_id, e.g. Mus musculus; never human."),
    Field("feature_id", TEXT, "Gene of that organism, as in its var."),
    Field("human_feature_id", TEXT, "Human gene it is paired with."),
    Field("type", TEXT, "`one2one`, `one2many` or `many2many`."),
    Field("confidence", pa.float32(), "0-1 as the source has it: a flag or a share of sources; NaN unknown."),
    Field("support", TEXT, "Sources of the pair joined by `|`; `symbol` where only the names agree."),
    Field("source", TEXT, "Where the organism's pairs come from; begins with `projected symbols` where no search did."),
    Field("release", TEXT, "What the source is a snapshot of."),
)

ORTHOLOG_GROUPS: tuple[Field, ...] = (
    Field("soma_joinid", pa.int64(), "Row."),
    Field("group", TEXT, "Group: `OG_` and its smallest human gene id."),
    Field("organism", TEXT, "Organism of the gene, e.g. Mus musculus; human genes are listed in every atlas."),
    Field("feature_id", TEXT, "Gene, in at most one group."),
)


@dataclass(frozen=True)
class OrthologsWritten:
    """What became of the two tables."""

    rewritten: bool
    """False where the references are those the tables were written from, or could not be had."""
    pairs: int
    """Rows of census_info/orthologs now."""
    groups: int
    """Rows of census_info/ortholog_groups now."""
    notes: tuple[str, ...]
    """Organisms without a table, and references that could not be had, with what to run."""


def write_ortholog_tables(root: Path) -> OrthologsWritten:
    """Bring the two tables in line with the references of this machine, for every organism of the atlas and human.

    Parameters
    ----------
    root
        Folder of the atlas; the caller holds its writer's lock. Tables that an older version did not make are added.
    """
    organisms, unknown = _organisms(root)
    try:
        key = orthologs_key(organisms)
        if _kept_key(root) == key:
            return OrthologsWritten(False, *_counts(root), ())
        pairs, notes = _pairs(organisms)
        notes = (*unknown, *notes)
        groups = _groups(organisms, set(pairs["organism"]))
    except (SourceUnavailableError, ReferenceMismatchError) as error:
        note = f"census_info/{ORTHOLOGS_FRAME} is left as it was: {error}"
        _LOG.warning(note)
        return OrthologsWritten(False, *_counts(root), (note,))
    for note in notes:
        _LOG.info(note)
    for name, fields, rows in ((ORTHOLOGS_FRAME, ORTHOLOGS, pairs), (GROUPS_FRAME, ORTHOLOG_GROUPS, groups)):
        _replace_rows(root, name, fields, rows, key)
    return OrthologsWritten(True, len(pairs), len(groups), notes)


def _organisms(root: Path) -> tuple[list[Organism], tuple[str, ...]]:
    """Return the atlas' organisms, and a note for each that this machine has no row of."""
    known, notes = [], []
    for name in experiments(root):
        try:
            known.append(get_organism(name))
        except UnknownOrganismError:
            notes.append(f"no orthologs of {name}: it was added on another machine; panatlas add-organism adds it here")
    return known, tuple(notes)


def _pairs(organisms: Iterable[Organism]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows of census_info/orthologs, and a note for every organism that has none."""
    parts, notes = [], []
    for organism in sorted(organisms, key=lambda each: each.label):
        if organism.name == HUMAN:
            continue
        try:
            table = load_orthologs(organism)
        except ReferenceMissingError as error:
            notes.append(f"no orthologs of {organism.label}: {error}")
            continue
        rows = table.linked().rename(columns={"gene": "feature_id", "human_gene": "human_feature_id"})
        parts.append(rows.assign(organism=organism.label, source=table.source, release=table.release))
    names = [field.name for field in ORTHOLOGS[1:]]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
    return rows[names], tuple(notes)


def _groups(organisms: Iterable[Organism], labels: set[str]) -> pd.DataFrame:
    """Return the rows of census_info/ortholog_groups over the organisms that have pairs."""
    groups = ortholog_groups([organism for organism in organisms if organism.label in labels])
    spelled = {name: get_organism(name).label for name in groups["organism"].unique()}
    groups = groups.assign(organism=groups["organism"].map(spelled))
    return groups.rename(columns={"gene": "feature_id"})[[field.name for field in ORTHOLOG_GROUPS[1:]]]


def _replace_rows(root: Path, name: str, fields: tuple[Field, ...], rows: pd.DataFrame, key: str) -> None:
    """Make `rows` the only rows of a table, adding the table where it is not there yet."""
    uri = _uri(root, name)
    if not _is_member(root, name):
        _add_frame(root, name, fields)
    numbered = rows.assign(soma_joinid=np.arange(len(rows), dtype=np.int64))
    replace_frame(uri, fields, [numbered[field.name].to_numpy() for field in fields])
    # Last, and through a handle of its own: a table that was written halfway keeps its old key and is written again.
    with opened(soma.DataFrame, uri, "w") as frame:
        frame.metadata[KEY] = key
    tick()


def _add_frame(root: Path, name: str, fields: tuple[Field, ...]) -> None:
    """Add an empty table to census_info; what a roll-back left of one that was never published is cleared first."""
    clear(root / layout.INFO / name)
    with opened(soma.Collection, root / layout.INFO, "w") as info:
        info.add_new_dataframe(
            name,
            schema=schema.arrow_schema(fields),
            index_column_names=["soma_joinid"],
            domain=[[0, 0]],
            platform_config=layout.frame_options(),
        )
    tick()


def _is_member(root: Path, name: str) -> bool:
    with opened(soma.Collection, root / layout.INFO) as info:
        return name in info


def _kept_key(root: Path) -> str | None:
    """Return the key both tables were written under; None where they are absent or differ."""
    if not all(_is_member(root, name) for name in (ORTHOLOGS_FRAME, GROUPS_FRAME)):
        return None
    keys = set()
    for name in (ORTHOLOGS_FRAME, GROUPS_FRAME):
        with opened(soma.DataFrame, _uri(root, name)) as frame:
            keys.add(frame.metadata.get(KEY))
    return keys.pop() if len(keys) == 1 else None


def _counts(root: Path) -> tuple[int, int]:
    """Return the rows of the two tables, 0 for one that is absent."""
    counts = []
    for name in (ORTHOLOGS_FRAME, GROUPS_FRAME):
        if not _is_member(root, name):
            counts.append(0)
            continue
        with opened(soma.DataFrame, _uri(root, name)) as frame:
            counts.append(frame.count)
    return counts[0], counts[1]


def _uri(root: Path, name: str) -> str:
    return info_uri(root, name)
