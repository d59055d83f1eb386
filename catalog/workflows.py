"""What a command does, floor by floor. Read this file first: it is the front desk's recipe for an ingest.

Sources are resolved, ingested one by one, and each leaves a receipt, whatever went wrong with it. The atlas floor keeps
the ledger; here receipts only gather, with the exit code each of them means, and the report is written.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from atlas import (
    AtlasError,
    AtlasInputError,
    ClusterError,
    ContractError,
    Finding,
    IngestOptions,
    Receipt,
    ingest,
    ingest_with,
    load_manifest,
    open_atlas,
    side_folder,
    source_from_uri,
    starter_sources,
)
from ontology import get_organism, home, list_organisms

from .errors import BUG, DONE, REJECTED, STORE, UPSTREAM, USAGE, CatalogInputError, exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from atlas import Source, Workers

_LOG = logging.getLogger(__name__)
_WORST_FIRST = (BUG, STORE, REJECTED, USAGE, UPSTREAM)


@dataclass(frozen=True)
class IngestRun:
    """Every receipt of one run, in the order of its sources."""

    receipts: tuple[Receipt, ...]
    """One receipt per source that was tried."""
    codes: tuple[int, ...]
    """Exit code each receipt stands for."""
    untried: tuple[str, ...] = ()
    """Sources that were left alone because the store failed."""
    report: Path | None = None
    """The HTML report; None in a dry run and where nothing is in the atlas."""

    @property
    def exit_code(self) -> int:
        """Return the worst code: bug, store, data rejected, usage, upstream, done."""
        return next((code for code in _WORST_FIRST if code in self.codes), DONE)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain values, ready for JSON."""
        return {
            "receipts": [receipt.to_dict() for receipt in self.receipts],
            "untried": list(self.untried),
            "report": None if self.report is None else str(self.report),
            "exit_code": self.exit_code,
        }


def default_atlas() -> str:
    """Return the folder of the atlas that is used where none is named."""
    return str(home() / "atlas")


def resolve_sources(organism: str, uris: Sequence[str] = (), manifest: Path | None = None) -> tuple[Source, ...]:
    """Return what to ingest: the named sources, or the organism's starter sources where none is named.

    Parameters
    ----------
    organism
        Any spelling of the organism.
    uris
        URIs of sources, each read with the standardiser's rules.
    manifest
        A TOML manifest, of which the organism's sources are taken.

    Raises
    ------
    CatalogInputError, AtlasInputError
        If there is nothing to ingest, saying what to pass.
    """
    name = get_organism(organism).name
    sources = [source_from_uri(uri, name) for uri in uris]
    if manifest is not None:
        declared = load_manifest(manifest)
        mine = [source for source in declared if source.organism == name]
        if not mine:
            others = ", ".join(sorted({source.organism for source in declared}))
            raise CatalogInputError("manifest", str(manifest), f"at least one source of {name}; it has only {others}")
        sources += mine
    if not uris and manifest is None:
        sources = list(starter_sources(name))
    return tuple(sources)


def list_starters() -> list[dict[str, Any]]:
    """Return every organism with its id and the starter sources it has, as plain values."""
    rows = []
    for organism in list_organisms():
        try:
            starters = [source.id or source.uri for source in starter_sources(organism.name)]
        except AtlasInputError:
            starters = []  # it has none: its cells come by --source
        row = {"name": organism.name, "label": organism.label, "term_id": organism.term_id}
        rows.append(row | {"starter_sources": ", ".join(starters)})
    return rows


def ingest_organism(
    organism: str,
    sources: Sequence[Source] = (),
    atlas: str | None = None,
    options: IngestOptions | None = None,
    *,
    workers: Workers | None = None,
    on_receipt: Callable[[Receipt], None] | None = None,
) -> IngestRun:
    """Ingest sources in their order; one that cannot be stored never stops the rest.

    Parameters
    ----------
    organism
        Any spelling of the organism.
    sources
        What to ingest; none for the organism's starter sources.
    atlas
        Folder of the atlas; None for the default one.
    options
        Policy and switches.
    workers
        Other processes that look at sources ahead of their turn; None to do all in this one.
    on_receipt
        Called with each receipt as soon as there is one.

    Returns
    -------
    The receipts. A source that is unreachable, or that met a fault of ours, has a rejected receipt with a finding too;
    only a fault of the store ends the run early, because it would meet every other source as well.

    Raises
    ------
    AtlasInputError
        If no source is named and the organism has no starter source.
    StoreError, ClusterError
        With workers: if the atlas cannot be written, or no worker can be had, before anything is looked at.
    """
    uri = atlas or default_atlas()
    options = options or IngestOptions()
    sources = tuple(sources) or resolve_sources(organism)
    receipts: list[Receipt] = []
    codes: list[int] = []
    alone = nullcontext(partial(ingest, uri=uri, options=options))
    with ingest_with(workers, sources, uri, options) if workers else alone as ingest_one:
        for source in sources:
            receipt, code = _attempt(source, ingest_one)
            receipts.append(receipt)
            codes.append(code)
            if on_receipt is not None:
                on_receipt(receipt)
            if code == STORE:
                break
    run = IngestRun(tuple(receipts), tuple(codes), tuple(s.id or s.uri for s in sources[len(receipts) :]))
    return run if options.dry_run else replace(run, report=_report_run(uri, organism, run))


def _attempt(source: Source, ingest_one: Callable[[Source], Receipt]) -> tuple[Receipt, int]:
    """Return one source's receipt and the exit code it stands for."""
    try:
        receipt = ingest_one(source)
    except Exception as exc:  # noqa: BLE001 - the other sources still have to be tried; the fault is kept and told
        code = exit_code(exc)
        if code == BUG:
            _LOG.exception("unexpected fault while ingesting %s", source.id or source.uri)
        return _failed(source, exc, code), code
    return receipt, REJECTED if receipt.status == "rejected" else DONE


def _failed(source: Source, error: Exception, code: int) -> Receipt:
    """Return the rejected receipt of a source that raised."""
    kinds = {
        UPSTREAM: (
            "source-unreachable",
            "a source that can be read",
            "check the address and the network, then run again",
        ),
        STORE: ("store-failed", "an atlas that can be written", "mend what the message names and run again"),
        USAGE: ("bad-call", "arguments as documented", "correct the call or the manifest"),
        REJECTED: ("rejected", "a source that can be stored", "mend the source as the message says"),
    }
    unexpected = ("internal-error", "no unexpected fault", "report it with the traceback; the atlas is as it was")
    name, expected, remedy = kinds.get(code, unexpected)
    if isinstance(error, ClusterError):
        name, expected, remedy = "worker-lost", "workers that finish", "mend what the message names and run again"
    finding = Finding(name, "error", source.uri, f"{type(error).__name__}: {error}"[:500], expected, remedy)
    findings = error.findings if isinstance(error, ContractError) else (finding,)
    organism = get_organism(source.organism).name
    return Receipt(source.id or source.uri, organism, "rejected", source.uri, findings=findings)


def rewrite_report(organism: str, atlas: str) -> Path:
    """Write an organism's HTML report from what the atlas and its ledger hold, and return where it is.

    Raises
    ------
    StoreError
        If there is no atlas.
    AtlasInputError
        If it has no cell of the organism.
    """
    from .report import write_report  # noqa: PLC0415 - jinja2 and pandas, which only reports need

    opened = open_atlas(atlas)
    opened.experiment(organism)
    return write_report(opened, get_organism(organism).name, opened.root / "reports")


def _report_run(uri: str, organism: str, run: IngestRun) -> Path | None:
    """Write the report after a run; an ingest that is published stays done whatever becomes of its report."""
    if STORE in run.codes:
        return None  # the store's own error says what to mend; a report could only fail again
    try:
        path = side_folder(uri) / "reports" / f"{get_organism(organism).name}.html"
        if path.is_file() and all(receipt.status == "unchanged" for receipt in run.receipts):
            return path  # nothing new to say, and a re-run should be quick
        return rewrite_report(organism, uri)
    except (AtlasError, OSError) as exc:
        _LOG.warning("no report was written: %s", exc)
        return None
