"""The ingest report: one self-contained HTML page per organism, made from receipts and obs. Opens from disk.

`write_report` reads an atlas and its ledger; `render_report` is the page itself, text from plain values. Charts are
inline SVG, there is no script and nothing is fetched, and every text from a source is escaped: labels are
written by strangers. What a section holds is in `panels`, how charts look in `charts`, the layout in
data/report.html.jinja, which `pages` fills.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tiledbsoma as soma

from atlas import Finding, QCPolicy, Receipt, Tally, qc
from ontology import get_organism

from .pages import render_page, write_page
from .panels import COLUMNS, Section, describe_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd

    from atlas import Atlas

_MAX_SECTIONS = 50  # datasets drawn, the newest; about 60 KB of page each


@dataclass(frozen=True)
class _Page:
    """What the template is given."""

    title: str
    """Heading."""
    receipts: tuple[Receipt, ...]
    """Books to show."""
    sections: tuple[Section, ...]
    """Datasets to draw."""
    undrawn: int
    """Stored datasets without a section."""


def write_report(atlas: Atlas, organism: str, folder: Path) -> Path:
    """Write one organism's report and return its path, `<folder>/<organism>.html`; replaced whole or not at all.

    Parameters
    ----------
    atlas
        An opened atlas.
    organism
        Any spelling of an organism the atlas has cells of.
    folder
        Where reports are; made if absent.

    Raises
    ------
    AtlasInputError
        If the atlas has no cell of the organism.
    OSError
        If the folder cannot be written.
    """
    name, experiment = get_organism(organism).name, atlas.experiment(organism)
    receipts = _current(atlas, name)
    spans = {d.dataset_id: (d.first_joinid, d.n_cells) for d in atlas.datasets if d.organism == experiment}
    drawn = [r for r in receipts if r.status == "written" and r.dataset_id in spans]
    uri = atlas.array_uri(experiment, "obs")
    with soma.DataFrame.open(uri, context=atlas.context()) as obs:
        # One dataset at a time: memory is that of the largest, not of the atlas.
        cells = ((r, _read(obs, *spans[str(r.dataset_id)])) for r in drawn[-_MAX_SECTIONS:])
        text = render_report(f"{get_organism(organism).label} atlas", receipts, cells)
    path = folder / f"{name}.html"
    write_page(path, text)
    return path


def render_report(
    title: str,
    receipts: Sequence[Receipt],
    cells: Iterable[tuple[Receipt, pd.DataFrame]],
    policy: QCPolicy | None = None,
) -> str:
    """Return the report as HTML; the same input gives the same text.

    Parameters
    ----------
    title
        Heading of the page.
    receipts
        What to account for, one per source, in order.
    cells
        The datasets to draw: the receipt that wrote each, and its obs with the columns `panels.COLUMNS`.
    policy
        Policy whose bounds are drawn where a dataset was screened with it; None for the default.
    """
    sections = tuple(describe_dataset(receipt, frame, policy or QCPolicy()) for receipt, frame in cells)
    written = sum(r.status in ("written", "unchanged") for r in receipts)
    page = _Page(title, tuple(receipts), sections, max(written - len(sections), 0))
    flat = qc.flatten(policy or QCPolicy())
    thresholds = {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in flat.items()}
    loud, quiet = _findings(receipts, ("error", "warning")), _findings(receipts, ("info",))
    said = {"totals": _totals(receipts), "loud": loud, "quiet": quiet, "reasons": qc.REASONS, "thresholds": thresholds}
    return render_page("report.html.jinja", page=page, **said)


def _totals(receipts: Sequence[Receipt]) -> dict[str, int]:
    """Return the sums over all sources that the top of the page shows."""
    held = [r for r in receipts if r.status != "rejected"]
    return {
        "sources": len(receipts),
        "rejected": len(receipts) - len(held),
        "cells": sum(r.cells.kept for r in held),
        "counts": sum(r.counts.kept for r in held),
        "warnings": len(_findings(receipts, ("error", "warning"))),
    }


def _findings(receipts: Sequence[Receipt], severities: Sequence[str]) -> list[tuple[Receipt, Finding]]:
    """Return the findings of some severities with the receipt they are in, the gravest first."""
    found = [(receipt, finding) for receipt in receipts for finding in receipt.findings]
    return [pair for severity in severities for pair in found if pair[1].severity == severity]


def _current(atlas: Atlas, organism: str) -> tuple[Receipt, ...]:
    """Return the receipts that still hold: what wrote each dataset, and rejections that nothing has mended since."""
    written: dict[str | None, Receipt] = {}
    rejected: dict[str, Receipt] = {}
    for receipt in map(_receipt, atlas.receipts()):
        if receipt.organism != organism or receipt.status == "planned":
            continue
        rejected.pop(receipt.source_id, None)
        if receipt.status == "rejected":
            rejected[receipt.source_id] = receipt
        elif receipt.status == "written":
            written[receipt.dataset_id] = receipt
        elif receipt.status == "retracted":
            written.pop(receipt.dataset_id, None)
    return (*written.values(), *rejected.values())


def _receipt(body: dict[str, Any]) -> Receipt:
    """Return a receipt from the plain values the ledger keeps; fields of a newer version are left out."""
    known = {name: value for name, value in body.items() if name in Receipt.__dataclass_fields__}
    tallies = {name: Tally(**known[name]) for name in ("cells", "genes", "counts") if name in known}
    findings = tuple(Finding(**f) for f in known.get("findings", ()))
    return replace(Receipt(**known), findings=findings, **tallies)


def _read(obs: soma.DataFrame, first: int, cells: int) -> pd.DataFrame:
    """Return the columns a section needs, for one dataset's rows."""
    return obs.read(coords=(slice(first, first + cells - 1),), column_names=list(COLUMNS)).concat().to_pandas()
