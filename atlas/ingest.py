"""One source into one atlas: read, prove, prepare, append, verify, publish. Read this file first.

A `Look` at a source decides and writes nothing; it may be taken by another process (`handover`, `workers`). `settle`
reserves a range in the ledger, writes, reads everything back, and publishes with one commit of the ledger. Whatever
stops it before that commit, the atlas is as it was: what was written after the last published moment is removed at
once, or, after a crash, by the next ingest.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ontology import get_organism, load_gene_table

from . import store, summaries, write
from .allocation import reusing_memory
from .contexts import let_go
from .copies import find_copies
from .errors import ContractError, StoreError
from .findings import Finding, Receipt
from .fresh_frames import EVERY, renew_frames, slow_frames, too_many
from .ledger import Ledger, behind, now_ms, writer_lock
from .look import SourceLook, dataset_id_of, declaration_of
from .neighbour_store import graph_of_dataset, write_neighbours
from .ortholog_tables import write_ortholog_tables
from .prepare import IngestOptions
from .provenance import label_provenance
from .verify import verify_dataset, verify_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .ledger import DatasetRow
    from .look import Look
    from .prepare import Prepared
    from .sources import Source

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """An atlas that may be added to by this process, and by no other as long as that is so."""

    root: Path
    """Its folder."""
    ledger: Ledger | None
    """Its ledger; None in a dry run into no atlas."""


def ingest(source: Source, uri: str, options: IngestOptions | None = None) -> Receipt:
    """Add one source to the atlas at `uri`, creating the atlas if there is none.

    Parameters
    ----------
    source
        What to read.
    uri
        Folder of the atlas.
    options
        Policy and switches.

    Returns
    -------
    The receipt: `written`, `unchanged` (the same bytes or the same content is there), `rejected` with findings, or
    `planned` in a dry run. It is recorded in the ledger unless it is planned.

    Raises
    ------
    SourceError
        If the source cannot be fetched or is not what was pinned.
    StoreError
        If the atlas cannot be written, is being written by another process, or reads back differently.
    """
    options = options or IngestOptions()
    began = time.monotonic()
    with reusing_memory(), SourceLook(source, options) as look, writing(uri, options) as place:
        return settle(look, place, options, began)


@contextmanager
def writing(uri: str, options: IngestOptions) -> Iterator[Place]:
    """Hold the writer's place of the atlas at `uri` and take back what a stopped ingest left; a dry run only reads.

    Raises
    ------
    StoreError
        If the atlas cannot be added to, or another process is writing.
    """
    root = store.place_of(uri)
    folder = root / store.LEDGER
    if options.dry_run:
        if not (folder / "ledger.sqlite").exists():
            _check_ours(root, 0)
            yield Place(root, None)
            return
        with Ledger.to_read(folder / "ledger.sqlite") as ledger:
            if not ledger.in_flight:  # else a half-made store, which the next ingest removes
                _check_ours(root, ledger.published_ms())
            yield Place(root, ledger)
        return
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        recover(root, ledger)
        _check_ours(root, ledger.published_ms())
        yield Place(root, ledger)


def recover(root: Path, ledger: Ledger) -> int:
    """Undo what a stopped ingest left, and return how many files or folders that was; 0 if nothing was in flight."""
    if not ledger.in_flight:
        return 0
    let_go()
    removed = store.roll_back(root, ledger.published_ms())
    ledger.abandon()
    if removed:
        _LOG.warning("removed %d leftovers of an ingest that was stopped", removed)
    return removed


def _timed(receipt: Receipt, began: float) -> Receipt:
    """Return the receipt with the time it took."""
    return replace(receipt, seconds=round(time.monotonic() - began, 3))


def settle(look: Look, place: Place, options: IngestOptions, began: float) -> Receipt:
    """Ask the ledger about a source, add it to the atlas if it is new, and record what became of it.

    Parameters
    ----------
    look
        The source.
    place
        The atlas; the receipt is recorded in its ledger unless it is planned.
    options
        Policy and switches.
    began
        When that began, by `time.monotonic`.

    Returns
    -------
    Its receipt; that of a source that cannot be stored is a receipt too, not an exception.
    """
    began -= look.seconds
    try:
        receipt = _timed(_attempt(look, place, options, began), began)
    except ContractError as exc:
        _LOG.info("rejected %s: %s", look.source.uri, exc)
        receipt = _timed(replace(look.blank, findings=tuple(exc.findings)), began)
    if place.ledger and not options.dry_run and receipt.status != "written":
        place.ledger.record(receipt)  # a written one is in the ledger since the commit that published it
    return receipt


def _attempt(look: Look, place: Place, options: IngestOptions, began: float) -> Receipt:
    """Return the receipt of a source that is there already or that is added."""
    root, ledger = place.root, place.ledger
    organism, said = get_organism(look.source.organism).experiment, declaration_of(look.source)
    if ledger:
        same = ledger.find(organism=organism, input_sha256=str(look.blank.input_sha256), declaration=said)
        if same is not None:
            return _unchanged(look.blank, same, said, ledger)
    content = look.prove()
    same = ledger.find(organism=organism, content_sha256=content) if ledger else None
    if ledger and same is not None:
        return _unchanged(look.blank, same, said, ledger)
    dataset_id = dataset_id_of(look.source, content)
    _check_dataset_id(dataset_id, ledger)
    _check_retracted((dataset_id, organism, content, said), ledger)
    stored = [row for row in ledger.datasets() if row.organism == organism] if ledger else []
    prepared = mark_copies(root, stored, look.prepare(dataset_id))
    if options.dry_run or ledger is None:
        return prepared.receipt
    return _append(look, root, ledger, prepared, options, began)


def _unchanged(blank: Receipt, same: DatasetRow, said: str, ledger: Ledger) -> Receipt:
    """Return the receipt of a source whose content the atlas holds already, told otherwise if it was asked for so."""
    findings: tuple[Finding, ...] = ()
    if same.declaration != said:
        found = "another matrix, other columns or constants than when it was ingested"
        remedy = "the atlas keeps what it was told first; retract it, then ingest it again, to apply the change"
        finding = Finding("declaration-differs", "warning", "manifest", found, "the same declaration", remedy)
        findings = (finding,)
    asked, stored = blank.releases["neighbours"], _stored_neighbours(ledger, same)
    if stored not in (asked, None):
        found = f"neighbours: {stored} when it was ingested, {asked} now"
        remedy = "a dataset is written once; ingest into a new atlas to have them as asked now"
        finding = Finding("neighbours-differ", "warning", "ingest", found, "the same setting", remedy)
        findings = (*findings, finding)
    content = same.content_sha256
    return replace(blank, status="unchanged", dataset_id=same.dataset_id, content_sha256=content, findings=findings)


def _stored_neighbours(ledger: Ledger, row: DatasetRow) -> str | None:
    """Return whether a dataset was ingested with neighbours, `yes` or `no`; None where its receipt does not say."""
    receipt = ledger.written(row)
    return receipt["releases"].get("neighbours") if receipt else None


def _check_retracted(said: tuple[str, str, str, str], ledger: Ledger | None) -> None:
    """Refuse a dataset that was taken out, where it is called and read as it was then."""
    for row in reversed(ledger.retracted() if ledger else []):
        if (row.dataset_id, row.organism, row.content_sha256, row.declaration) == said:
            found = f"{row.dataset_id} was taken out: {row.reason}"
            remedy = "leave it out; or give it another id, matrix, columns or constants, which is another statement"
            finding = Finding("dataset-retracted", "error", "manifest", found, "a dataset that is wanted", remedy)
            raise ContractError(row.dataset_id, [finding])


def _check_dataset_id(dataset_id: str, ledger: Ledger | None) -> None:
    """Refuse an id that other content already has."""
    taken = ledger.find(dataset_id=dataset_id) if ledger else None
    if taken is not None:
        remedy = "give the new content an id of its own; ids stay with the cells they named first"
        found = f"{dataset_id} holds other content since it was ingested"
        raise ContractError(
            dataset_id, [Finding("dataset-id-taken", "error", "manifest, id", found, "an unused id", remedy)]
        )


def mark_copies(root: Path, stored: Sequence[DatasetRow], prepared: Prepared) -> Prepared:
    """Take primary status from cells that the organism's published datasets, or the source itself, already hold."""
    obs = prepared.obs
    experiment = get_organism(prepared.receipt.organism).experiment
    hashes = (obs["count_hash"].to_numpy(), obs["core_hash"].to_numpy())
    n_stored = sum(row.n_cells for row in stored)
    copies = find_copies(root, experiment, n_stored, hashes, obs["nnz"].to_numpy(), stored)
    obs = obs.assign(is_primary_data=obs["is_primary_data"].to_numpy() & ~copies.any)
    findings = (*prepared.receipt.findings, *copies.findings())
    return replace(prepared, obs=obs, receipt=replace(prepared.receipt, findings=findings))


def with_neighbours(prepared: Prepared) -> np.ndarray:
    """Return which cells may have neighbours, and be some, once copies are marked: bool [n_cells]."""
    return (prepared.obs["qc_pass"] & prepared.obs["is_primary_data"]).to_numpy()


def _append(
    look: Look, root: Path, ledger: Ledger, prepared: Prepared, options: IngestOptions, began: float
) -> Receipt:
    """Write, verify and publish a prepared source; on any failure take the store back to where it was."""
    organism = get_organism(look.source.organism)
    table = load_gene_table(organism)
    receipt, obs = prepared.receipt, prepared.obs
    if (published := ledger.published_ms()) >= (now := now_ms()):
        raise StoreError(str(root), "append", behind(now, published))
    ledger.begin()
    try:
        if not store.exists(root):
            store.create(root)
        store.add_organism(root, organism, table)
        row = ledger.reserve(
            str(receipt.dataset_id), organism.experiment, len(obs),
            input_sha256=str(receipt.input_sha256), content_sha256=str(receipt.content_sha256),
            declaration=declaration_of(look.source),
        )  # fmt: skip
        store.grow_results(root, organism.experiment, row.first_joinid + row.n_cells)
        obs = obs.assign(soma_joinid=np.arange(row.first_joinid, row.first_joinid + row.n_cells, dtype=np.int64))
        totals = write.write_counts(root, row, look.blocks(prepared), prepared.genes.measured)
        write.write_obs(root, row, obs)
        write.add_gene_totals(root, row, totals)
        write.write_dataset(root, row, look.source, organism.label)
        write.write_provenance(root, row, label_provenance(obs))
        summaries.add_to_summaries(root, row, obs, dt.datetime.now(dt.UTC).date().isoformat())
        write_ortholog_tables(root)
        eligible = with_neighbours(prepared)
        graph = look.neighbours(eligible)
        if graph is None:
            graph = graph_of_dataset(root, row, len(table), eligible, options)
        write_neighbours(root, row, graph)
        verify_dataset(root, row, obs, (table, prepared.genes.measured), options.progress)
        verify_neighbours(root, row, graph, eligible)
        store.tick()
        releases = receipt.releases | {"genes": table.release}
        receipt = replace(receipt, status="written", first_joinid=row.first_joinid, releases=releases)
        receipt = _timed(receipt, began)
        ledger.publish(row.dataset_id, now_ms(), receipt)
    except BaseException:
        recover(root, ledger)
        raise
    if row.dataset_joinid % EVERY == EVERY - 1:
        keep_quick(root, ledger, options)
    return receipt


def keep_quick(root: Path, ledger: Ledger, options: IngestOptions) -> None:
    """Renew frames that have been written too often; where that fails the atlas is as it was, and slower to add to."""
    try:
        store.tick()  # what is of the published moment's own millisecond could not be taken back
        slow = list(slow_frames(root, too_many))
        if slow:
            renew_frames(root, ledger, slow, options.progress)
    except Exception as exc:  # noqa: BLE001 - the dataset is published, whatever becomes of this
        _LOG.warning("tables were not written anew, `panatlas consolidate` does it: %s", exc)
        recover(root, ledger)
    except BaseException:
        recover(root, ledger)
        raise


def _check_ours(root: Path, published: int) -> None:
    """Refuse a store that cannot be added to, before anything is read: none of ours, or of another schema."""
    if not store.exists(root):
        return
    if not published:  # undoing an ingest would take away more than it wrote
        detail = "a SOMA collection without our ledger is here; restore its ledger/ folder, or name another folder"
        raise StoreError(str(root), "append", detail)
    store.check_schema(root, "append")
