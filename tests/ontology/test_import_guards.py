"""Imports that are somebody else's are refused, what was kept stays, and what was not read is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from ontology import (
    OntologyInputError,
    UnknownOrganismError,
    add_organism_row,
    coverage,
    find_snapshot,
    get_organism,
    import_proteins,
    import_table,
    make_projector,
    read_table,
    tentative_organism,
)

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {"release": "1"}


@pytest.fixture
def axolotl(own_home: Path, tmp_path: Path) -> None:
    """Add an organism of one's own with forty genes and ortholog pairs."""
    add_organism_row("axolotl", "Ambystoma mexicanum", 8296)
    genes = pd.DataFrame({"gene": [f"AMEX{i:03}" for i in range(40)], "symbol": "x", "chr": "1", "start": range(1, 41)})
    genes.to_csv(tmp_path / "genes.csv", index=False)
    columns = {"id": "gene", "contig": "chr", "start": "start"}
    made = import_table("genes", "axolotl", tmp_path / "genes.csv", columns, ABOUT)
    assert made.report.examples == {"columns with a name of ours that were not declared, not read": ("'symbol'",)}
    pairs(tmp_path, "AMEX")
    import_table("orthologs", "axolotl", tmp_path / "pairs.csv", {"gene": "a", "human_gene": "b"}, ABOUT)


def pairs(folder: Path, prefix: str) -> None:
    """Write forty pairs."""
    rows = [(f"{prefix}{i:03}", f"ENSG{i:011}") for i in range(40)]
    pd.DataFrame(rows, columns=["a", "b"]).to_csv(folder / "pairs.csv", index=False)


def test_orthologs_of_another_organism_leave_the_good_ones(axolotl: None, tmp_path: Path) -> None:
    pairs(tmp_path, "NEWT")
    with pytest.raises(OntologyInputError, match=r"orthologs of axolotl, of whose 40 genes the file's 40 name 0"):
        import_table("orthologs", "axolotl", tmp_path / "pairs.csv", {"gene": "a", "human_gene": "b"}, ABOUT)
    kept = find_snapshot("orthologs", "axolotl")
    assert kept is not None
    assert read_table(kept)["gene"].str.startswith("AMEX").all()


def test_proteins_of_another_organism_are_refused(axolotl: None, tmp_path: Path) -> None:
    (tmp_path / "pep.fa").write_text(">NEWT001\nMKLVWQ\n>NEWT002\nMKLVWW\n")
    with pytest.raises(OntologyInputError, match="under its own organism"):
        import_proteins("axolotl", tmp_path / "pep.fa", ABOUT)
    assert find_snapshot("proteins", "axolotl") is None


def test_coverage_counts_proteins_of_genes_only(axolotl: None, tmp_path: Path) -> None:
    (tmp_path / "pep.fa").write_text(">AMEX001\nMKLVWQ\n>AMEX002\nMKLVWW\n>NEWT002\nMKLVWW\n")
    import_proteins("axolotl", tmp_path / "pep.fa", ABOUT)
    assert coverage(["axolotl"], build=False)[0]["proteins"] == 2


def test_plants_are_told_what_can_work(own_home: Path) -> None:
    (row,) = coverage(["arabidopsis"])
    assert row["orthologs_to_human"] == "not available: run panatlas references import orthologs arabidopsis FILE"


@pytest.mark.index
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 2.0**54])
def test_what_is_no_count_is_not_projected(real: Path, value: float) -> None:
    projector = make_projector("human", "mouse", "sum")
    block = sp.csr_matrix(([value], ([0], [5])), shape=(1, len(projector.source_genes)))
    with pytest.raises(OntologyInputError, match="counts of 0 to"):
        projector.apply(block)
    half = np.zeros((1, len(projector.source_genes)), np.float16)
    assert projector.apply(half).counts.nnz == 0


def test_a_row_given_again_keeps_what_is_not_named(own_home: Path) -> None:
    add_organism_row("axolotl", "Ambystoma mexicanum", 8296, mito_contig="MT", assembly="AmexG", aliases=["mole"])
    again = add_organism_row("axolotl", "Ambystoma mexicanum", 8296, ribo_pattern="RP.*")
    assert (again.mito_contig, again.assembly, again.aliases, again.ribo_pattern) == ("MT", "AmexG", ("mole",), "RP.*")
    assert add_organism_row("axolotl", "Ambystoma mexicanum", 8296, "protists").labels["tissue"] == {}


@pytest.mark.parametrize(("label", "taxon"), [("Ambystoma tigrinum", 8296), ("Ambystoma mexicanum", 8305)])
def test_a_row_never_becomes_another_organism(own_home: Path, label: str, taxon: int) -> None:
    add_organism_row("axolotl", "Ambystoma mexicanum", 8296)
    with pytest.raises(OntologyInputError, match="another organism takes another name"):
        add_organism_row("axolotl", label, taxon)
    assert get_organism("axolotl").taxon == 8296


def test_what_fails_leaves_the_row_as_it_was(own_home: Path) -> None:
    with pytest.raises(ZeroDivisionError), tentative_organism("axolotl", "Ambystoma mexicanum", 8296):
        raise ZeroDivisionError
    with pytest.raises(UnknownOrganismError):
        get_organism("axolotl")
    add_organism_row("axolotl", "Ambystoma mexicanum", 8296, mito_contig="MT")
    with (
        pytest.raises(ZeroDivisionError),
        tentative_organism("axolotl", "Ambystoma mexicanum", 8296, mito_contig="chrM"),
    ):
        raise ZeroDivisionError
    assert get_organism("axolotl").mito_contig == "MT"
