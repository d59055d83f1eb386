"""Sets of genes: mitochondrial, ribosomal and core, each by its rule, and None where nobody can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from ontology import GeneTable, get_organism, load_gene_table, make_gene_table
from ontology.gene_sets import FAMILIES, GENOME, core_mask

if TYPE_CHECKING:
    from pathlib import Path


def test_masks_tell_none_from_unknown() -> None:
    frame = pd.DataFrame(
        {"id": ["ENSG00000198695", "x"], "symbol": ["MT-ND6", "RPL3"], "biotype": ["protein_coding"] * 2}
    )
    human = make_gene_table(get_organism("human"), frame, "x")
    assert human.mito is not None
    assert human.mito.tolist() == [True, False]
    assert human.ribo is not None
    assert human.ribo.tolist() == [False, True]
    plant = make_gene_table(get_organism("arabidopsis"), frame.assign(symbol=""), "x")
    assert plant.mito is None
    assert plant.ribo is None


def test_ribosomal_pseudogenes_do_not_count() -> None:
    frame = pd.DataFrame(
        {"id": ["a", "b"], "symbol": ["RPL3", "RPL4"], "biotype": ["processed_pseudogene", "protein_coding"]}
    )
    ribo = make_gene_table(get_organism("human"), frame, "x").ribo
    assert ribo is not None
    assert ribo.tolist() == [False, True]


def made(organism: str, rows: list[tuple[str, str, str, str]]) -> GeneTable:
    frame = pd.DataFrame(rows, columns=["id", "symbol", "biotype", "contig"])
    return make_gene_table(get_organism(organism), frame, "x")


@pytest.mark.parametrize("contig", ["MT", "Mt", "chrM", "chrMT", "M"])
def test_the_contig_tells_where_no_list_does(contig: str) -> None:
    mito = made("sheep", [("a", "ND1", "protein_coding", contig), ("b", "ACTB", "protein_coding", "1")]).mito
    assert mito is not None
    assert mito.tolist() == [True, False]


@pytest.mark.parametrize("organism", ["naked-mole-rat", "marmoset"])
def test_an_assembly_without_the_contig_cannot_tell(organism: str) -> None:
    assert get_organism(organism).mito_contig is None
    assert made(organism, [("a", "ND1", "protein_coding", "MT")]).mito is None


def test_a_list_and_a_contig_are_joined() -> None:
    """Cow's list holds the 13 proteins; a table with contigs brings the tRNAs and rRNAs as well."""
    cow = made(
        "cow",
        [("ENSBTAG00000043561", "ND1", "protein_coding", ""), ("ENSBTAG1", "", "Mt_tRNA", "MT"), ("x", "", "", "1")],
    )
    assert cow.mito is not None
    assert cow.mito[cow.ids == "ENSBTAG1"].all()
    assert not cow.mito[cow.ids == "x"].any()


def test_chloroplast_genes_are_neither() -> None:
    rows = [
        ("AT1G43170", "RPL3A", "protein_coding", "1"),
        ("ATCG00065", "RPS12A", "protein_coding", "Pt"),
        ("ATCG01", "RPS12B", "protein_coding", "chrC"),
        ("AT1G07320", "RPL4", "protein_coding", "1"),  # the chloroplast's protein, coded in the nucleus
        ("ATMG00080", "RPL16", "protein_coding", "Mt"),
    ]
    plant = made("arabidopsis", rows)
    assert plant.ribo is not None
    assert plant.ids[plant.ribo].tolist() == ["AT1G43170"]
    assert plant.mito is not None
    assert plant.ids[plant.mito].tolist() == ["ATMG00080"]


def test_symbols_that_are_not_there_do_not_tell() -> None:
    assert made("arabidopsis", [("AT1G43170", "", "protein_coding", "1")]).ribo is None
    rows = [(f"ENSOARG{i:011}", f"G{i}", "protein_coding", "1") for i in range(GENOME)]
    named = [(gene, f"RPL{i + 1}", *rest) for i, (gene, _, *rest) in enumerate(rows[:FAMILIES])]
    assert made("sheep", rows).ribo is None
    assert made("sheep", [*named[1:], rows[0], *rows[FAMILIES:]]).ribo is None
    whole = made("sheep", [*named, *rows[FAMILIES:]]).ribo
    assert whole is not None
    assert whole.sum() == FAMILIES


def test_a_biotype_that_is_not_told_is_no_reason_against() -> None:
    ribo = made("cow", [("a", "RPL3", "", "1"), ("b", "RPL4", "processed_pseudogene", "1")]).ribo
    assert ribo is not None
    assert ribo.tolist() == [True, False]


@pytest.mark.index
@pytest.mark.parametrize(
    ("name", "mito", "ribo"),
    [("human", 37, 90), ("mouse", 37, 86), ("rhesus", 37, 84), ("worm", 36, 82), ("fly", 38, None), ("pig", 37, None)],
)
def test_quality_gene_lists(name: str, mito: int, ribo: int | None, real: Path) -> None:
    table = load_gene_table(name)
    assert table.mito is not None
    assert table.mito.sum() == mito
    assert table.ribo is not None
    assert ribo is None or table.ribo.sum() == ribo
    assert not (table.mito & table.ribo).any()
    assert set(table.biotypes[table.ribo]) == {"protein_coding"}


@pytest.mark.index
def test_mitochondrial_list_is_the_contig(real: Path) -> None:
    for name, contig in (("human", "chrM"), ("mouse", "chrM"), ("zebrafish", "MT")):
        table = load_gene_table(name)
        assert table.mito is not None
        np.testing.assert_array_equal(table.mito, table.contigs == contig, err_msg=name)
    assert load_gene_table("marmoset").mito is None


@pytest.mark.index
def test_the_core_is_broad_and_disjoint_from_quality_lists(real: Path) -> None:
    human, mouse = load_gene_table("human"), load_gene_table("mouse")
    assert human.core.sum() == mouse.core.sum() == 256
    for table in (human, mouse):
        assert table.mito is not None
        assert table.ribo is not None
        assert not (table.core & (table.mito | table.ribo)).any()
        assert set(table.biotypes[table.core]) == {"protein_coding"}
        assert table.primary[table.core].all()
    assert set(np.char.upper(mouse.symbols[mouse.core])) == set(human.symbols[human.core])
    assert load_gene_table("rhesus").core.sum() > 128
    assert load_gene_table("fly").core.sum() == 0


def test_a_core_below_half_is_dropped() -> None:
    rows = [("g1", "GAPDH", "protein_coding"), ("g2", "ACTB", "protein_coding")]
    ids, symbols, biotypes = (np.array(column) for column in zip(*rows, strict=True))
    assert core_mask(get_organism("pig"), ids, symbols, biotypes).sum() == 0
