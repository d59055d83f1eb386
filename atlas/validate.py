"""Proving a published atlas: it is opened again, and whatever can be derived from what it holds is derived anew.

`validate` reads every cell once, block by block (`content.cell_blocks`), and compares X with hashes, metrics and
records, labels with the pinned ontologies, and what it counted with var, census_info and the ledger. Each fault becomes
a `Finding`; nothing is repaired. Cells are looked at in `validate_cells`; leftovers of killed ingests are `doctor`'s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tiledbsoma as soma

from ontology import LABELS, OntologyError, get_organism, harmonise

from . import layout, schema, standardise
from .content import join_digests, reading
from .errors import AtlasInputError, ContractError, SourceError
from .fetch import fetch_source
from .handle import open_atlas
from .model_results import faults_of
from .prove import prove_counts
from .read import open_source
from .sources import Source, starter_sources
from .validate_cells import CellCheck, Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from .findings import Finding
    from .handle import Atlas
    from .ledger import DatasetRow

    Progress = Callable[[str, int, int], None]

JOINID = "soma_joinid"
INFO_FRAMES = {
    "summary": schema.SUMMARY,
    "datasets": schema.DATASETS,
    "summary_cell_counts": schema.SUMMARY_CELL_COUNTS,
    "organisms": schema.ORGANISMS,
    "label_provenance": schema.LABEL_PROVENANCE,
}
"""Tables of census_info that an ingest derives, with their columns."""
FRAMES = {"obs": schema.OBS, layout.VAR: schema.VAR, layout.RECORDS: schema.RECORDS}
"""Frames of an Experiment, with their columns."""


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    uri: str
    """Folder of the atlas."""
    published_ms: int
    """Moment it was read at, in milliseconds since 1970."""
    cells: dict[str, int]
    """Cells that were looked at, by organism."""
    content_hash: str | None
    """Digest of what the atlas holds, see `content_hash`; None where a part of it could not be read."""
    findings: tuple[Finding, ...]
    """Every fault, one finding for each kind and place."""

    @property
    def sound(self) -> bool:
        """True where nothing is wrong; warnings and remarks may be there."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return asdict(self) | {"sound": self.sound}


def validate(
    atlas: Atlas | str, *, sources: bool = False, progress: Progress = lambda _stage, _done, _total: None
) -> Validation:
    """Read a published atlas again and say what in it is not as it should be.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    sources
        True also reads the sources again, where they can be had, and compares the digests of their content.
    progress
        Called with an organism's name, cells done and cells in all.

    Returns
    -------
    Findings, and the digest of the atlas' content. Memory is bounded by blocks of cells, and 20 bytes a cell of the
    largest organism; what is sorted, 90 bytes a cell, is sorted in temporary files.

    Raises
    ------
    StoreError
        If there is no atlas, or another version's schema made it.
    """
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    faults = Faults()
    digests: dict[str, str] = {}
    _check_ledger(opened, faults)
    checks = []
    for organism in opened.organisms:
        where = f"{layout.DATA}/{organism}"
        with faults.unreadable(where):
            if not all([*_check_frames(opened, organism, faults)]):  # a list, so that each is looked at
                continue
            _check_matrices(opened, organism, faults)
            check = CellCheck(opened, organism, faults)
            check.run(progress)
            digests[organism] = check.finish()
            _check_terms(check, faults)
            checks.append(check)
    with faults.unreadable(layout.INFO):
        _check_tables(opened, checks, faults)
    for where, said in faults_of(opened):
        faults.note("result-differs", where, said)
    whole = None
    if len(digests) == len(opened.organisms):
        with faults.unreadable("the atlas"):
            whole = join_digests(opened, digests)
    if sources:
        _check_sources(opened, faults)
    cells = {organism: opened.n_cells(organism) for organism in opened.organisms}
    return Validation(opened.uri, opened.published_ms, cells, whole, faults.findings())


def _check_ledger(atlas: Atlas, faults: Faults) -> None:
    """Hold the ledger's ranges and receipts against each other."""
    where = "ledger"
    numbers = [row.dataset_joinid for row in atlas.datasets]
    if len(set(numbers)) != len(numbers):
        faults.note("ledger-differs", where, f"datasets numbered {sorted(numbers)[:5]}...")
    for organism in atlas.organisms:
        end = 0
        for row in sorted((d for d in atlas.datasets if d.organism == organism), key=lambda d: d.first_joinid):
            if row.first_joinid != end:
                faults.note("ledger-differs", where, f"{row.dataset_id} from {row.first_joinid}, others to {end}")
            end = row.first_joinid + row.n_cells
    written = atlas.written()
    for row in atlas.datasets:
        kept = written.get(row.dataset_id)
        if kept is None:
            faults.note("ledger-differs", where, f"no receipt of {row.dataset_id}")
        elif (kept["cells"]["kept"], kept["content_sha256"]) != (row.n_cells, row.content_sha256):
            faults.note("ledger-differs", where, f"another receipt of {row.dataset_id}")


def _check_frames(atlas: Atlas, organism: str, faults: Faults) -> Iterator[bool]:
    """Yield whether each frame of an organism has its columns, and a row for every published cell."""
    for member, fields in FRAMES.items():
        where = f"{layout.DATA}/{organism}/{member}"
        uri = atlas.array_uri(organism, member)
        with soma.DataFrame.open(uri, context=reading(atlas, "matrix")) as frame:
            yield _check_columns(frame.schema, fields, where, faults)
            if member != layout.VAR:
                joinids = frame.read(column_names=[JOINID]).concat()[JOINID].to_numpy()
                yield _check_dense(joinids, atlas.n_cells(organism), where, faults)


def _check_matrices(atlas: Atlas, organism: str, faults: Faults) -> None:
    """Look for values of cells that are not there."""
    n = atlas.n_cells(organism)
    for member in (layout.X_RAW, layout.NEIGHBOURS):
        uri = atlas.array_uri(organism, member)
        with soma.SparseNDArray.open(uri, context=reading(atlas, "matrix")) as array:
            if array.shape[0] > n:
                beyond = array.read((slice(n, array.shape[0] - 1),)).tables().concat().num_rows
                where = f"{layout.DATA}/{organism}/{member}"
                faults.note("joinids-not-dense", where, f"values of cells from {n} on", beyond)


def _check_columns(found: pa.Schema, fields: tuple[schema.Field, ...], where: str, faults: Faults) -> bool:
    """Return whether a frame has the schema's columns."""
    meant = {field.name: field.type for field in fields}
    held = {field.name: field.type for field in found}
    wrong = sorted(name for name in meant | held if meant.get(name) != held.get(name))
    faults.note("wrong-columns", where, ", ".join(f"{name} {held.get(name, 'missing')}" for name in wrong), len(wrong))
    return not wrong


def _check_dense(joinids: np.ndarray, n: int, where: str, faults: Faults) -> bool:
    """Return whether joinids are 0..n-1; those beyond are told and do no harm."""
    inside = joinids[(joinids >= 0) & (joinids < n)]
    beyond = len(joinids) - len(inside)
    faults.note("joinids-not-dense", where, f"rows beyond the {n} published cells", beyond)
    missing = np.setdiff1d(np.arange(n), inside)
    if len(missing):
        faults.note("joinids-not-dense", where, f"no row of cell {missing[0]}", len(missing))
    return not len(missing)


def _check_terms(check: CellCheck, faults: Faults) -> None:
    """Look up every term that a cell of an organism has, and what was derived from it."""
    where = f"{layout.DATA}/{check.name}/obs"
    for label in LABELS:
        groups = check.groups[label]
        found = harmonise(label, sorted({str(key[-1]) for key in groups}), check.organism, suggestions=0)
        for key, n in groups.items():
            match = found[str(key[-1])]
            if match.term_id != match.text:
                code = "terms-not-checked" if "is not at hand" in match.reason else "unknown-term"
                faults.note(code, where, f"{label} {match.text!r}", n)
            elif str(key[0]) != (match.label or match.term_id):
                said = f"{label} {match.term_id} named {key[0]!r}, not {match.label!r}"
                faults.note("term-name-differs", where, said, n)
    for key, n in check.groups["tissue_general"].items():
        try:
            meant = standardise._general_tissue(str(key[2]))
        except OntologyError:  # told above
            continue
        if meant != (str(key[1]), str(key[0])):
            faults.note("mapping-differs", where, f"tissue_general {key[0]!r} of {key[2]}", n)
    for (age, stage), n in check.groups["age_years"].items():
        meant_age = standardise._age_years(pd.Series([str(stage)]), check.organism)
        if not np.array_equal(np.array([age], np.float32), meant_age, equal_nan=True):
            faults.note("mapping-differs", where, f"age_years {age} of {stage}", n)


def _check_tables(atlas: Atlas, checks: list[CellCheck], faults: Faults) -> None:
    """Hold the tables of census_info against the ledger and against what was counted."""
    frames = {}
    with soma.Collection.open(str(atlas.place), context=reading(atlas, "obs")) as tree:
        for name, fields in INFO_FRAMES.items():
            frame = tree[layout.INFO][name]
            if _check_columns(frame.schema, fields, f"{layout.INFO}/{name}", faults):
                frames[name] = frame.read().concat().to_pandas().sort_values(JOINID, ignore_index=True)
    if "datasets" in frames:
        _check_datasets(frames["datasets"], atlas.datasets, faults)
    if len(checks) < len(atlas.organisms):  # what was not read cannot be counted
        return
    counted: dict[tuple[str, ...], tuple[int, ...]] = {}
    for check in checks:
        counted |= {(check.organism.label, *key): value for key, value in check.summarised().items()}
    total = sum(value[0] for key, value in counted.items() if key[1] == "all")
    unique = sum(value[1] for key, value in counted.items() if key[1] == "all")
    facts = {
        ("census_schema_version",): (schema.CENSUS_SCHEMA_VERSION,),
        ("dataset_schema_version",): (schema.DATASET_SCHEMA_VERSION,),
        ("total_cell_count",): (str(total),),
        ("unique_cell_count",): (str(unique),),
    }
    meant = {
        "summary": (["label"], ["value"], facts),
        "summary_cell_counts": (
            ["organism", "category", "label", "ontology_term_id"],
            ["total_cell_count", "unique_cell_count"],
            counted,
        ),
        "organisms": (
            ["organism"],
            ["organism_ontology_term_id", "organism_label"],
            {(c.name,): (c.organism.term_id, c.organism.label) for c in checks},
        ),
        "label_provenance": (
            ["dataset_id", "label", "how"],
            ["n_cells"],
            {key: (n,) for check in checks for key, n in check.matched.items()},
        ),
    }
    for name, (keys, values, expected) in meant.items():
        if name in frames:
            _compare(frames[name], keys, values, expected, f"{layout.INFO}/{name}", faults)


def _compare(
    frame: pd.DataFrame, keys: list[str], values: list[str], expected: dict[Any, Any], where: str, faults: Faults
) -> None:
    """Note every row of a table that is not what was counted, is missing, or is there without reason."""
    if where.endswith("/summary"):
        frame = frame[frame["label"] != "census_build_date"]
    found = dict(
        zip(
            frame[keys].itertuples(index=False, name=None),
            frame[values].itertuples(index=False, name=None),
            strict=True,
        )
    )
    wrong = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    if wrong:
        first = wrong[0]
        said = f"{' '.join(map(str, first))}: {found.get(first, 'no row')}, counted {expected.get(first, 'none')}"
        faults.note("summary-differs", where, said, len(wrong))
    if len(found) != len(frame):
        faults.note("summary-differs", where, "rows that are there twice", len(frame) - len(found))


def _check_datasets(frame: pd.DataFrame, rows: tuple[DatasetRow, ...], faults: Faults) -> None:
    """Hold census_info/datasets against the ledger."""
    where = f"{layout.INFO}/datasets"
    columns = ["dataset_id", "dataset_version_id", "dataset_total_cell_count", "organism", "input_sha256"]
    found = dict(zip(frame[JOINID], frame[columns].itertuples(index=False, name=None), strict=True))
    for row in rows:
        label = get_organism(row.organism).label
        meant = (row.dataset_id, row.content_sha256, row.n_cells, label, row.input_sha256)
        if found.pop(row.dataset_joinid, None) != meant:
            faults.note("datasets-differ", where, f"row {row.dataset_joinid} is not {row.dataset_id} of the ledger")
    faults.note("datasets-differ", where, f"rows of no dataset: {list(found)[:5]}", len(found))


def _check_sources(atlas: Atlas, faults: Faults) -> None:
    """Read every source again that can be had, and compare the digest of its content with the ledger's."""
    paths = atlas.table("datasets").set_index("dataset_id")["dataset_h5ad_path"]
    known = {source.uri: source for organism in atlas.organisms for source in starter_sources(organism)}
    for row in atlas.datasets:
        uri = str(paths.get(row.dataset_id, ""))
        try:
            source = known.get(uri) or Source(row.organism, uri, id=row.dataset_id)
            found = _content_of(source, row.content_sha256)
        except (SourceError, AtlasInputError, OntologyError) as exc:
            faults.note("source-unreachable", row.dataset_id, str(exc))
        except ContractError as exc:
            faults.note("source-differs", row.dataset_id, str(exc))
        else:
            if found != row.content_sha256:
                faults.note("source-differs", row.dataset_id, f"{uri} with content sha256 {found}")


def _content_of(source: Source, wanted: str) -> str:
    """Return the digest of a source's content; of its matrices the one that has the digest wanted, if any has.

    Which matrix a manifest named is not kept, so each that could hold counts is tried.
    """
    path = fetch_source(source)
    with open_source(source, path) as cells:
        others = [name for name in cells.others if source.matrix is None]
        first = prove_counts(cells).sha256
    if first == wanted:
        return first
    for name in others:
        try:
            with open_source(replace(source, matrix=name), path) as cells:
                if prove_counts(cells).sha256 == wanted:
                    return wanted
        except ContractError:  # an element that holds no counts is not the one
            continue
    return first
