"""Taking a dataset out of an atlas: from the next published moment on it is not there, at earlier ones it is.

A transaction as an ingest is one: under the writer's lock, written beside what is there, read back, then published by
one commit of the ledger; what a killed one left is rolled back by the next writer. The organism's other cells are
written again at joinids that are dense (`moved_cells`), and results of models follow their cells (`moved_results`).
Nothing that is published is changed: releases and earlier moments read as before, by any client.
"""

from __future__ import annotations

import datetime as dt
import difflib
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tiledbsoma as soma

from ontology import get_organism, load_gene_table

from . import editions, layout, schema, store
from .contexts import context_of, opened
from .errors import AtlasInputError, StoreError
from .findings import Finding, Receipt, Tally
from .handle import open_atlas
from .ingest import recover
from .ledger import Ledger, behind, now_ms, writer_lock
from .moved_cells import move_dataset
from .moved_results import carry_results, foresee_results
from .ortholog_tables import write_ortholog_tables
from .summaries import recount_summaries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .handle import Atlas
    from .ledger import DatasetRow, ResultRow
    from .moved_cells import Moved

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Retraction:
    """What became of a request to take a dataset out."""

    dataset_id: str
    """The dataset."""
    organism: str
    """Experiment name."""
    reason: str
    """Why, as it is kept."""
    status: Literal["retracted", "planned"]
    """`planned` in a dry run."""
    cells: int
    """Cells that are taken out."""
    rewritten: int
    """Cells of the organism that stay, each of which is written again."""
    restored: int = 0
    """Of these, cells that are primary data again because the copy before them is gone."""
    results: tuple[str, ...] = ()
    """Keys of the results of models that follow their cells."""
    findings: tuple[Finding, ...] = ()
    """What a person should know."""
    published_ms: int | None = None
    """First moment at which the dataset is not there; None in a dry run."""
    seconds: float = 0.0
    """Wall-clock time, in seconds."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """What is to be done."""

    atlas: Atlas
    """As it is now."""
    gone: DatasetRow
    """The dataset."""
    stays: tuple[tuple[DatasetRow, DatasetRow], ...]
    """The organism's other datasets in joinid order, as they are and as they will be."""

    @property
    def n_cells(self) -> int:
        """Return the cells of the organism that stay."""
        return sum(new.n_cells for _, new in self.stays)


def retract(
    uri: str,
    dataset_id: str,
    reason: str,
    *,
    dry_run: bool = False,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Retraction:
    """Publish a state of an atlas that is without a dataset.

    Parameters
    ----------
    uri
        Folder of the atlas.
    dataset_id
        The dataset.
    reason
        Why it is taken out; kept in the ledger, and told to whoever ingests it again.
    dry_run
        Say what would be done.
    progress
        Called with a stage, cells done and cells in all.

    Raises
    ------
    AtlasInputError
        If there is no such dataset, it is the only one, or no reason is given.
    StoreError
        If another process is writing, or the store reads back differently; the atlas is then as it was.

    Notes
    -----
    Every cell of the organism that stays is read and written once more, at the cost of an ingest without reading and
    standardising a source, and takes its space a second time: releases and earlier moments keep the former arrays.
    """
    began = time.monotonic()
    if not reason.strip():
        raise AtlasInputError("reason", reason, "a few words that say why")
    root = store.place_of(uri)
    folder = root / store.LEDGER
    if dry_run:
        plan = _plan(open_atlas(uri), dataset_id)
        return _told(plan, reason, "planned", [], foresee_results(plan.atlas, plan.gone, plan.n_cells))
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        recover(root, ledger)
        plan = _plan(open_atlas(uri), dataset_id)
        if (published := ledger.published_ms()) >= (now := now_ms()):
            raise StoreError(str(root), "retract", behind(now, published))
        ledger.begin()
        try:
            moved, results = _write(plan, root, progress)
            told = _told(plan, reason, "retracted", moved, results)
            store.tick()
            told = replace(told, published_ms=now_ms(), seconds=round(time.monotonic() - began, 3))
            _publish(ledger, plan, results, told)
        except BaseException:
            recover(root, ledger)
            raise
    return told


def _plan(atlas: Atlas, dataset_id: str) -> _Plan:
    """Return what is to be done, or refuse it."""
    rows = {row.dataset_id: row for row in atlas.datasets}
    if dataset_id not in rows:
        near = ", ".join(difflib.get_close_matches(dataset_id, rows, cutoff=0.0))
        raise AtlasInputError("dataset", dataset_id, f"a dataset of the atlas; nearest: {near}")
    if len(rows) == 1:
        raise AtlasInputError("dataset", dataset_id, "one of several; to be rid of the only one, remove the folder")
    gone, first, stays = rows[dataset_id], 0, []
    for row in sorted(atlas.datasets, key=lambda one: one.first_joinid):
        if row.organism == gone.organism and row is not gone:
            stays.append((row, replace(row, first_joinid=first)))
            first += row.n_cells
    return _Plan(atlas, gone, tuple(stays))


def _write(plan: _Plan, root: Path, progress: Progress) -> tuple[list[Moved], tuple[list[ResultRow], list[ResultRow]]]:
    """Write the organism's new arrays and the tables, and make them members; nothing is published."""
    atlas, gone = plan.atlas, plan.gone
    organism = get_organism(gone.organism)
    table = load_gene_table(organism)
    store.add_organism(root, organism, table)  # it is there: this refuses another gene table
    edition = editions.free_edition(root, gone.organism)
    with soma.Experiment.create(str(root / layout.DATA / edition), context=context_of(root)) as experiment:
        store.fill_experiment(experiment, organism, table)
    store.tick()
    moved = [move_dataset(atlas, old, new, edition, table, progress) for old, new in plan.stays]
    var = atlas.genes(gone.organism).assign(nnz=np.int64(0), n_measured_obs=np.int64(0))
    for one in moved:
        var["nnz"] += one.totals.nnz
        var["n_measured_obs"] += one.totals.measured.astype(np.int64) * one.row.n_cells
    uri = store.array_uri(root, edition, layout.VAR)
    store.write_frame(uri, schema.VAR, [var[field.name].to_numpy() for field in schema.VAR])
    results = carry_results(atlas, gone, edition, plan.n_cells)
    editions.take_edition(root, gone.organism, edition)
    if not plan.stays:
        editions.take_away(root, gone.organism)
    _write_tables(plan, root)
    return moved, results


def _write_tables(plan: _Plan, root: Path) -> None:
    """Take a dataset out of the tables of census_info, and count their summaries anew."""
    gone = plan.gone
    with opened(soma.DataFrame, store.info_uri(root, "datasets"), "d") as frame:
        frame.delete_cells((slice(gone.dataset_joinid, gone.dataset_joinid),))
    store.tick()
    rows = plan.atlas.table("label_provenance").sort_values("soma_joinid")
    rows = rows[rows["dataset_id"] != gone.dataset_id]
    rows = rows.assign(soma_joinid=np.arange(len(rows), dtype=np.int64))
    fields = schema.LABEL_PROVENANCE
    store.replace_frame(
        store.info_uri(root, "label_provenance"), fields, [rows[field.name].to_numpy() for field in fields]
    )
    others = [row for row in plan.atlas.datasets if row.organism != gone.organism]
    built_on = dt.datetime.now(dt.UTC).date().isoformat()
    recount_summaries(root, [*others, *(new for _, new in plan.stays)], built_on)
    write_ortholog_tables(root)


def _told(
    plan: _Plan,
    reason: str,
    status: Literal["retracted", "planned"],
    moved: list[Moved],
    results: tuple[list[ResultRow], list[ResultRow]],
) -> Retraction:
    """Return what was done, or is going to be, in words."""
    gone = plan.gone
    kept, dropped = results
    restored, unsure = (sum(getattr(one, name) for one in moved) for name in ("restored", "unsure"))
    findings = []
    if restored:
        remedy = "nothing; queries for primary data give them from now on"
        said = f"{restored} cells were copies of the dataset's alone"
        findings.append(Finding("primary-restored", "info", "obs", said, "one primary cell of each", remedy, restored))
    if unsure:
        said = f"{unsure} copies of the dataset's cells, in datasets whose sources call cells copies themselves"
        remedy = "retract their datasets too and ingest them again, if queries should give them"
        findings.append(
            Finding("primary-not-restored", "warning", "obs", said, "one primary cell of each", remedy, unsure)
        )
    networks = [row.key for row in kept if row.key.startswith(layout.NETWORK)]
    if networks:
        said = f"{len(networks)} arrays of networks, e.g. {networks[0]}, read from cells of releases before"
        remedy = "they stay what their names say; make networks of a new release where the dataset must not count"
        findings.append(
            Finding("networks-of-before", "warning", "varp", said, "networks of what is here", remedy, len(networks))
        )
    if dropped:
        said = f"{len(dropped)} results of the dataset's cells alone, e.g. {dropped[0].key}"
        remedy = "nothing; they are there at earlier moments"
        findings.append(Finding("results-dropped", "info", "results", said, "results of cells", remedy, len(dropped)))
    return Retraction(
        gone.dataset_id, gone.organism, reason.strip(), status, gone.n_cells, plan.n_cells, restored,
        tuple(row.key for row in kept), tuple(findings),
    )  # fmt: skip


def _publish(ledger: Ledger, plan: _Plan, results: tuple[list[ResultRow], list[ResultRow]], told: Retraction) -> None:
    """Make it so: one commit of the ledger."""
    gone, moment = plan.gone, int(told.published_ms or 0)
    sources = plan.atlas.table("datasets").set_index("dataset_id")["dataset_h5ad_path"]
    why = Finding("retracted", "info", gone.dataset_id, told.reason, "a dataset that is to stay", "nothing")
    receipt = Receipt(
        source_id=gone.dataset_id, organism=get_organism(gone.organism).name, status="retracted",
        uri=str(sources[gone.dataset_id]), dataset_id=gone.dataset_id, input_sha256=gone.input_sha256,
        content_sha256=gone.content_sha256, cells=Tally(gone.n_cells, 0, 0, {"retracted": gone.n_cells}),
        findings=(why, *told.findings), seconds=told.seconds,
    )  # fmt: skip
    kept = [replace(row, published_ms=moment) for row in results[0]]
    moved = [new for old, new in plan.stays if new != old]
    ledger.publish_retraction(gone, moved, (kept, results[1]), moment, (told.reason, receipt))
