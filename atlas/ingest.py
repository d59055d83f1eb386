"""One source into one atlas: read, prove, prepare, append, verify, publish. Read this file first.

`prepare` decides and writes nothing. `ingest` reserves a range in the ledger, writes, reads everything back, and
publishes with one commit of the ledger. Whatever stops it before that commit, the atlas is as it was: what was written
after the last published moment is removed at once, or, after a crash, by the next ingest.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from ontology import get_organism, load_gene_table, ontology_release, overrides_digest

from . import schema, store, write
from .copies import find_copies
from .errors import ContractError, SourceError, StoreError
from .fetch import digest_of, fetch_source
from .findings import Finding, Receipt
from .ledger import Ledger, behind, now_ms, writer_lock
from .neighbour_store import graph_of_dataset, write_neighbours
from .ortholog_tables import write_ortholog_tables
from .prepare import ROWS_PER_BLOCK, IngestOptions, Prepared, prepare
from .provenance import label_provenance
from .read import open_source, prove_counts
from .verify import verify_dataset, verify_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import scipy.sparse as sp

    from .ledger import DatasetRow
    from .read import RawCells
    from .sources import Source

_LOG = logging.getLogger(__name__)


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
    root = store.local_root(uri)
    organism = get_organism(source.organism)
    path, digest = _fetch(source)
    releases = {
        "schema": schema.SCHEMA_VERSION,
        "ontologies": ontology_release(),
        "overrides": overrides_digest()[:16],
        "policy": f"{options.policy.version} {options.policy.fingerprint()}",
        "neighbours": "yes" if options.neighbours else "no",
    }
    blank = Receipt(
        source_id=source.id or source.uri, organism=organism.name, status="rejected", uri=source.uri,
        input_sha256=digest, releases=releases,
    )  # fmt: skip
    folder = root / store.LEDGER
    if options.dry_run:
        if not (folder / "ledger.sqlite").exists():
            _check_ours(root, 0)
            return _timed(_attempt(source, path, root, None, blank, options, began), began)
        with Ledger.to_read(folder / "ledger.sqlite") as ledger:
            if not ledger.in_flight:  # else a half-made store, which the next ingest removes
                _check_ours(root, ledger.published_ms())
            return _timed(_attempt(source, path, root, ledger, blank, options, began), began)
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        recover(root, ledger)
        _check_ours(root, ledger.published_ms())
        receipt = _timed(_attempt(source, path, root, ledger, blank, options, began), began)
        if receipt.status != "written":  # a written one is in the ledger since the commit that published it
            ledger.record(receipt)
    return receipt


def _fetch(source: Source) -> tuple[Path, str]:
    """Return the source's local path and digest; a fault of the system in reading it is the source's, not ours."""
    try:
        path = fetch_source(source)
        return path, hash_input(path)
    except SourceError:
        raise
    except OSError as exc:
        raise SourceError(source.uri, "a file or folder that can be read", str(exc)) from exc


def _declaration(source: Source) -> str:
    """Return the digest of what the manifest says about a source's content."""
    said = [source.matrix, sorted(source.columns.items()), sorted(source.constants.items())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def recover(root: Path, ledger: Ledger) -> int:
    """Undo what a stopped ingest left, and return how many files or folders that was; 0 if nothing was in flight."""
    if not ledger.in_flight:
        return 0
    removed = store.roll_back(root, ledger.published_ms())
    ledger.abandon()
    if removed:
        _LOG.warning("removed %d leftovers of an ingest that was stopped", removed)
    return removed


def hash_input(path: Path) -> str:
    """Return the sha256 of a file's bytes; of a folder, over its files' relative names and digests, sorted."""
    if path.is_file():
        return digest_of(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\n".encode())
    return digest.hexdigest()


def _timed(receipt: Receipt, began: float) -> Receipt:
    """Return the receipt with the time it took."""
    return replace(receipt, seconds=round(time.monotonic() - began, 3))


def _attempt(
    source: Source,
    path: Path,
    root: Path,
    ledger: Ledger | None,
    blank: Receipt,
    options: IngestOptions,
    began: float,
) -> Receipt:
    """Return the source's receipt; a source that cannot be stored is a receipt too, not an exception."""
    organism, said = get_organism(source.organism).experiment, _declaration(source)
    if ledger:
        same = ledger.find(organism=organism, input_sha256=str(blank.input_sha256), declaration=said)
        if same is not None:
            return _unchanged(blank, same, said, ledger)
    try:
        with open_source(source, path) as cells:
            proof = prove_counts(cells, lambda done: options.progress("prove", done, cells.n_obs))
            dataset_id = source.id or f"d{proof.sha256[:16]}"
            same = ledger.find(organism=organism, content_sha256=proof.sha256) if ledger else None
            if ledger and same is not None:
                return _unchanged(blank, same, said, ledger)
            _check_dataset_id(dataset_id, ledger)
            prepared = prepare(source, cells, proof, dataset_id, blank, options)
            prepared = _mark_copies(root, ledger, prepared)
            if options.dry_run or ledger is None:
                return prepared.receipt
            return _append(source, cells, root, ledger, prepared, options, began)
    except ContractError as exc:
        _LOG.info("rejected %s: %s", source.uri, exc)
        return replace(blank, findings=tuple(exc.findings))


def _unchanged(blank: Receipt, same: DatasetRow, said: str, ledger: Ledger) -> Receipt:
    """Return the receipt of a source whose content the atlas holds already, told otherwise if it was asked for so."""
    findings: tuple[Finding, ...] = ()
    if same.declaration != said:
        found = "another matrix, other columns or constants than when it was ingested"
        remedy = "the atlas keeps what it was told first; make a new atlas to apply the change"
        finding = Finding("declaration-differs", "warning", "manifest", found, "the same declaration", remedy)
        findings = (finding,)
    asked, stored = blank.releases["neighbours"], _stored_neighbours(ledger, same.dataset_id)
    if stored not in (asked, None):
        found = f"neighbours: {stored} when it was ingested, {asked} now"
        remedy = "a dataset is written once; ingest into a new atlas to have them as asked now"
        finding = Finding("neighbours-differ", "warning", "ingest", found, "the same setting", remedy)
        findings = (*findings, finding)
    content = same.content_sha256
    return replace(blank, status="unchanged", dataset_id=same.dataset_id, content_sha256=content, findings=findings)


def _stored_neighbours(ledger: Ledger, dataset_id: str) -> str | None:
    """Return whether a dataset was ingested with neighbours, `yes` or `no`; None where its receipt does not say."""
    for receipt in ledger.receipts():
        if receipt["status"] == "written" and receipt["dataset_id"] == dataset_id:
            return dict(cast("Mapping[str, str]", receipt["releases"])).get("neighbours")
    return None


def _check_dataset_id(dataset_id: str, ledger: Ledger | None) -> None:
    """Refuse an id that other content already has."""
    taken = ledger.find(dataset_id=dataset_id) if ledger else None
    if taken is not None:
        remedy = "give the new content an id of its own; ids stay with the cells they named first"
        found = f"{dataset_id} holds other content since it was ingested"
        raise ContractError(
            dataset_id, [Finding("dataset-id-taken", "error", "manifest, id", found, "an unused id", remedy)]
        )


def _mark_copies(root: Path, ledger: Ledger | None, prepared: Prepared) -> Prepared:
    """Take primary status from cells the atlas, or the source itself, already holds."""
    obs = prepared.obs
    experiment = get_organism(prepared.receipt.organism).experiment
    stored = ledger.n_cells(experiment) if ledger else 0
    hashes = (obs["count_hash"].to_numpy(), obs["core_hash"].to_numpy())
    copies = find_copies(root, experiment, stored, hashes, obs["nnz"].to_numpy())
    obs = obs.assign(is_primary_data=obs["is_primary_data"].to_numpy() & ~copies.any)
    findings = (*prepared.receipt.findings, *copies.findings())
    return replace(prepared, obs=obs, receipt=replace(prepared.receipt, findings=findings))


def _append(
    source: Source,
    cells: RawCells,
    root: Path,
    ledger: Ledger,
    prepared: Prepared,
    options: IngestOptions,
    began: float,
) -> Receipt:
    """Write, verify and publish a prepared source; on any failure take the store back to where it was."""
    organism = get_organism(source.organism)
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
            declaration=_declaration(source),
        )  # fmt: skip
        store.grow_results(root, organism.experiment, row.first_joinid + row.n_cells)
        obs = obs.assign(soma_joinid=np.arange(row.first_joinid, row.first_joinid + row.n_cells, dtype=np.int64))
        totals = write.write_counts(root, row, _kept_blocks(cells, prepared, options), prepared.genes.measured)
        write.write_obs(root, row, obs)
        write.add_gene_totals(root, row, totals)
        write.write_dataset(root, row, source, organism.label)
        write.write_provenance(root, row, label_provenance(obs))
        write.write_summaries(root, [*ledger.datasets(), row], dt.datetime.now(dt.UTC).date().isoformat())
        write_ortholog_tables(root)
        eligible = (obs["qc_pass"] & obs["is_primary_data"]).to_numpy()
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
    return receipt


def _check_ours(root: Path, published: int) -> None:
    """Refuse a store that cannot be added to, before anything is read: none of ours, or of another schema."""
    if not store.exists(root):
        return
    if not published:  # undoing an ingest would take away more than it wrote
        detail = "a SOMA collection without our ledger is here; restore its ledger/ folder, or name another folder"
        raise StoreError(str(root), "append", detail)
    store.check_schema(root, "append")


def _kept_blocks(cells: RawCells, prepared: Prepared, options: IngestOptions) -> Iterator[sp.csr_matrix]:
    """Yield the kept cells' counts over the gene table, block by block."""
    for start, block in cells.blocks(ROWS_PER_BLOCK):
        kept = prepared.kept[start : start + block.shape[0]]
        yield prepared.genes.project(block if kept.all() else block[np.flatnonzero(kept)])
        options.progress("write", start + block.shape[0], cells.n_obs)
