"""One gene in every organism: found by any of its names, absent tables say what to run, errors list near names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ontology import OntologyInputError, UnknownOrganismError, list_organisms, load_gene_table
from ontology.ortholog_search import find_orthologs
from ontology.snapshots import save_table

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.index


@pytest.fixture(autouse=True)
def cached_home(tmp_path: Path, reference_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home of its own that shares the cache of real references."""
    home = tmp_path / "home"
    home.mkdir()
    (reference_home / "cache").mkdir(exist_ok=True)
    (home / "cache").symlink_to(reference_home / "cache", target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    return home


def test_tp53_in_every_organism() -> None:
    found = find_orthologs("TP53")
    assert found.columns.tolist() == ["organism", "gene", "symbol", "type", "confidence", "source", "release"]
    assert found["organism"].unique().tolist() == [organism.name for organism in list_organisms()]
    rows = found.set_index("organism")
    assert rows.loc["human", ["gene", "type"]].tolist() == ["ENSG00000141510", "same"]
    assert rows.loc["mouse", ["gene", "symbol", "type"]].tolist() == ["ENSMUSG00000059552", "Trp53", "one2one"]
    assert rows.loc["rhesus", "symbol"] == "TP53"
    assert rows.loc["rhesus", "source"].startswith("projected symbols")
    assert rows.loc["sheep", "source"] == "not available: run panatlas references fetch orthologs sheep"
    assert rows.loc["sheep", ["gene", "symbol", "type", "release"]].tolist() == [""] * 4


@pytest.mark.parametrize(
    ("name", "organism", "owner"),
    [
        ("ENSG00000141510.18", None, "human"),
        ("LFS1", None, "human"),  # a synonym
        ("tp53", None, "human"),  # the zebrafish's spelling too, but nothing links the zebrafish here
        (" Trp53 ", None, "mouse"),  # no human gene is spelled so
        ("ENSMUSG00000059552", None, "mouse"),
        ("Trp53", "Mus musculus", "mouse"),
    ],
)
def test_any_name_finds_the_same_genes(name: str, organism: str | None, owner: str) -> None:
    rows = find_orthologs(name, organism).set_index("organism")
    assert rows.index[rows["type"] == "same"].tolist() == [owner]
    assert rows.loc["human", "symbol"] == "TP53"
    assert rows.loc["mouse", "symbol"] == "Trp53"
    assert rows.loc["pig", "symbol"] == "TP53"


def test_a_gene_with_several_and_one_with_none() -> None:
    ins = find_orthologs("INS")
    mouse = ins[ins["organism"] == "mouse"]
    assert sorted(mouse["symbol"]) == ["Ins1", "Ins2"]
    assert set(mouse["type"]) == {"one2many"}
    xist = find_orthologs("XIST").set_index("organism")
    assert xist.loc["pig", ["gene", "type"]].tolist() == ["", "none"]


def test_a_snapshot_answers_for_an_organism_without_a_gene_table() -> None:
    rows = pd.DataFrame({"gene": ["ENSOARG00020000001"], "human_gene": ["ENSG00000141510"], "confidence": [1.0]})
    save_table("orthologs", "sheep", rows, {"source": "BioMart", "release": "114", "licence": "open"})
    sheep = find_orthologs("TP53").set_index("organism").loc["sheep"]
    assert sheep.tolist() == ["ENSOARG00020000001", "", "one2one", 1.0, "BioMart", "114"]
    mouse = find_orthologs("Trp53", "mouse").set_index("organism").loc["sheep"]
    assert mouse[["gene", "type", "confidence"]].tolist() == ["ENSOARG00020000001", "one2one", 1.0]
    assert mouse["source"].endswith(" + BioMart")


def test_a_name_of_no_gene_is_an_error_with_near_names() -> None:
    with pytest.raises(OntologyInputError, match=r"a gene of mouse; nearest: .*Trp53"):
        find_orthologs("Trp5", "mouse")
    with pytest.raises(OntologyInputError, match=r"a gene of human, mouse.*nearest: none"):
        find_orthologs("\N{SNOWMAN}" * 5000)
    with pytest.raises(UnknownOrganismError):
        find_orthologs("TP53", "unicorn")


def test_a_name_of_several_genes_elsewhere_does_not_hide_a_single_one() -> None:
    with pytest.raises(OntologyInputError, match="fly has 3 of that name"):
        find_orthologs("P53", "fly")


def test_a_name_of_several_genes_lists_them() -> None:
    human = load_gene_table("human")
    several = human.ids[human.symbols == "Y_RNA"]
    with pytest.raises(OntologyInputError, match=f"human has {len(several)} of that name: {several[0]}"):
        find_orthologs("Y_RNA")


def test_a_damaged_snapshot_spoils_one_row_only() -> None:
    rows = pd.DataFrame({"gene": ["ENSOARG00020000001"], "human_gene": ["ENSG00000141510"]})
    save_table("orthologs", "sheep", rows, {"source": "BioMart", "release": "114"}).path.write_bytes(b"spoilt")
    found = find_orthologs("tp53").set_index("organism")
    assert found.loc["sheep", "source"].startswith("not available now: the orthologs snapshot of sheep")
    assert found.loc["mouse", "symbol"] == "Trp53"
