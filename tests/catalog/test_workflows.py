"""An ingest run: every source leaves a receipt, a bad one never stops the rest, the exit code is the worst."""

from __future__ import annotations

import logging

import pytest

from atlas import (
    AtlasInputError,
    ContractError,
    Finding,
    IngestOptions,
    Receipt,
    Source,
    SourceError,
    StoreError,
)
from catalog import CatalogInputError, ingest_organism, workflows
from catalog.workflows import default_atlas, list_starters, resolve_sources
from ontology import SourceUnavailableError, UnknownOrganismError

FINDING = Finding("negative-count", "error", "X row 3", "-1", "integers >= 0", "pass the raw counts")
OUTCOMES = {
    "written": lambda s: Receipt(s.id, "human", "written", s.uri),
    "unchanged": lambda s: Receipt(s.id, "human", "unchanged", s.uri),
    "planned": lambda s: Receipt(s.id, "human", "planned", s.uri),
    "rejected": lambda s: Receipt(s.id, "human", "rejected", s.uri, findings=(FINDING,)),
    "contract": ContractError("x", [FINDING]),
    "unreachable": SourceError("x", "an answer", "connection refused"),
    "index": SourceUnavailableError("x", "no route", "check the index"),
    "store": StoreError("x", "write", "disk full"),
    "disk": OSError(28, "No space left on device"),
    "call": AtlasInputError("id", "x", "y"),
    "bug": KeyError("oops"),
}


@pytest.fixture
def tried(monkeypatch) -> list[str]:
    """Replace the atlas floor's ingest by one that does what a source's id says; return what was tried."""
    seen: list[str] = []

    def ingest(source, uri, options):
        seen.append(source.id)
        outcome = OUTCOMES[source.id]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(source)

    monkeypatch.setattr(workflows, "ingest", ingest)
    monkeypatch.setattr(workflows, "rewrite_report", lambda organism, atlas: f"{atlas}/{organism}.html")
    return seen


def sources(*ids: str) -> list[Source]:
    return [Source("human", f"{name}.h5ad", id=name) for name in ids]


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        (["written"], 0),
        (["written", "unchanged"], 0),
        (["rejected", "written"], 3),
        (["contract", "written"], 3),
        (["unreachable", "written"], 5),
        (["index"], 5),
        (["unreachable", "rejected", "written"], 3),
        (["written", "store"], 4),
        (["disk"], 4),
        (["call", "written"], 2),
        (["bug", "rejected", "written"], 1),
    ],
)
def test_every_source_leaves_a_receipt_and_the_worst_decides(tried, tmp_path, ids, code):
    run = ingest_organism("human", sources(*ids), str(tmp_path))
    assert tried == ids
    assert [r.source_id for r in run.receipts] == ids
    assert run.exit_code == code
    for receipt, name in zip(run.receipts, ids, strict=True):
        assert receipt.status == (name if name in ("written", "unchanged") else "rejected")
        if receipt.status == "rejected":
            assert receipt.findings
            assert all(f.remedy for f in receipt.findings)


def test_a_fault_of_the_store_ends_the_run_and_names_what_was_not_tried(tried, tmp_path):
    run = ingest_organism("human", sources("written", "store", "unchanged"), str(tmp_path))
    assert tried == ["written", "store"]
    assert run.untried == ("unchanged",)
    assert "disk full" in run.receipts[1].findings[0].found


def test_a_bug_keeps_its_traceback(tried, tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        run = ingest_organism("human", sources("bug", "written"), str(tmp_path))
    assert "Traceback" in caplog.text
    assert "oops" in caplog.text
    assert run.receipts[0].findings[0].code == "internal-error"
    assert tried == ["bug", "written"]


def test_ctrl_c_is_not_swallowed(tmp_path, monkeypatch):
    monkeypatch.setattr(workflows, "ingest", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest_organism("human", sources("written"), str(tmp_path))


def test_receipts_are_told_as_they_come_and_a_dry_run_writes_no_report(tried, tmp_path):
    told: list[str] = []
    run = ingest_organism(
        "human",
        sources("planned", "rejected"),
        str(tmp_path),
        IngestOptions(dry_run=True),
        on_receipt=lambda r: told.append(r.status),
    )
    assert told == ["planned", "rejected"]
    assert run.report is None
    assert run.to_dict()["exit_code"] == 3


def test_a_report_that_cannot_be_written_does_not_undo_the_ingest(tried, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workflows, "rewrite_report", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    run = ingest_organism("human", sources("written"), str(tmp_path))
    assert run.exit_code == 0
    assert run.report is None
    assert "no report was written" in caplog.text
    lost = StoreError("s3://bucket/atlas", "list", "503 SlowDown")
    monkeypatch.setattr(workflows, "side_folder", lambda _uri: (_ for _ in ()).throw(lost))
    caplog.clear()
    assert ingest_organism("human", sources("written"), str(tmp_path)).exit_code == 0
    assert "503 SlowDown" in caplog.text


def test_a_run_that_changed_nothing_keeps_the_report(tried, tmp_path, monkeypatch):
    report = tmp_path / "reports" / "human.html"
    report.parent.mkdir()
    report.write_text("as it was")
    monkeypatch.setattr(workflows, "rewrite_report", lambda *_: pytest.fail("nothing was new"))
    assert ingest_organism("Homo sapiens", sources("unchanged"), str(tmp_path)).report == report
    assert report.read_text() == "as it was"


def test_sources_come_from_uris_and_the_manifests_own_organism(tmp_path):
    manifest = tmp_path / "m.toml"
    manifest.write_text(
        '[[source]]\norganism = "human"\nuri = "h.h5ad"\nid = "h"\n'
        '[[source]]\norganism = "Mus musculus"\nuri = "m.h5ad"\nid = "m"\n'
    )
    assert [s.id for s in resolve_sources("Homo sapiens", [], manifest)] == ["h"]
    both = resolve_sources("mouse", ["x.h5ad"], manifest)
    assert [(s.id, s.organism) for s in both] == [(None, "mouse"), ("m", "mouse")]
    with pytest.raises(CatalogInputError, match="only human, mouse"):
        resolve_sources("zebrafish", [], manifest)


def test_without_a_source_the_starters_are_taken_or_the_remedy_is_told():
    assert [s.organism for s in resolve_sources("mouse")] == ["mouse"] * len(resolve_sources("mouse"))
    with pytest.raises(AtlasInputError, match="--source"):
        resolve_sources("rhesus")
    with pytest.raises(UnknownOrganismError, match="human"):
        resolve_sources("humann")
    starters = {row["name"]: row["starter_sources"] for row in list_starters()}
    assert "pbmc3k" in starters["human"]
    assert starters["rhesus"] == ""
    assert len(starters) >= 16


def test_the_default_atlas_lies_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path))
    assert default_atlas() == str(tmp_path / "atlas")
