"""Resolving gene names: each rule on a table with every awkward case, then properties, then hostile text and speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import GeneTable, OntologyInputError, get_organism, load_gene_table, make_gene_table, resolve_genes

if TYPE_CHECKING:
    from pathlib import Path

GENE = "ENSG0000000000"


@pytest.mark.parametrize(
    ("name", "gene", "how"),
    [
        pytest.param(f"{GENE}1", f"{GENE}1", "id", id="id"),
        pytest.param(f"  {GENE}1 ", f"{GENE}1", "id", id="blanks"),
        pytest.param(f"{GENE}1.17", f"{GENE}1", "version", id="version"),
        pytest.param(f"{GENE}1.17_PAR_Y", f"{GENE}1", "version", id="gencode par"),
        pytest.param(f"{GENE}1_PAR_Y", f"{GENE}1", "version", id="cellranger par"),
        pytest.param("GAPDH", f"{GENE}1", "symbol", id="a symbol beats an alias"),
        pytest.param("G3PD", f"{GENE}1", "synonym", id="alias"),
        pytest.param("SEPT2", f"{GENE}2", "synonym", id="a former symbol beats an alias"),
        pytest.param("MOVED", None, "ambiguous", id="former symbol of two genes"),
        pytest.param("TWIN", f"{GENE}9", "symbol", id="shared symbol with an owner"),
        pytest.param("Y_RNA", None, "ambiguous", id="shared symbol without one"),
        pytest.param("SHARED", None, "ambiguous", id="shared alias"),
        pytest.param("gapdh", None, "unmapped", id="case counts"),
        pytest.param("Gapdh", None, "unmapped", id="a mouse symbol is no human gene"),
        pytest.param(f"{GENE}7", None, "unmapped", id="retired id"),
        pytest.param("ENSMUSG00000000001", None, "unmapped", id="another organism's id"),
        pytest.param(f"{GENE}1.x", None, "unmapped", id="not a version"),
        pytest.param(f"{GENE}1.17.3", None, "unmapped", id="two versions"),
        pytest.param(f"{GENE}1.\N{ARABIC-INDIC DIGIT ONE}", None, "unmapped", id="digits of another script"),
        pytest.param("", None, "unmapped", id="empty"),
    ],
)
def test_one_name(small: GeneTable, name: str, gene: str | None, how: str) -> None:
    mapping = resolve_genes([name], small)
    assert mapping.how.tolist() == [how]
    assert [small.ids[i] if i >= 0 else None for i in mapping.index] == [gene]
    assert mapping.unmapped == (() if gene else (name.strip(),))


def test_fallback_is_tried_only_where_the_first_name_fails(small: GeneTable) -> None:
    mapping = resolve_genes(
        ["GAPDH", "nothing", "nothing", "Y_RNA", f"{GENE}7"],
        small,
        fallback=["SEPT2", "SEPT2", "also nothing", f"{GENE}4", "Y_RNA"],
    )
    assert mapping.how.tolist() == ["symbol", "synonym", "unmapped", "id", "ambiguous"]
    assert mapping.index.tolist() == [0, 1, -1, 3, -1]
    assert mapping.retired == (f"{GENE}7",)


def test_fallback_must_be_as_long(small: GeneTable) -> None:
    with pytest.raises(OntologyInputError, match="2, one per gene"):
        resolve_genes(["a", "b"], small, fallback=["a"])


def test_reports(small: GeneTable) -> None:
    mapping = resolve_genes(["x", "GAPDH", "x", f"{GENE}7.2", "Y_RNA"], small)
    assert mapping.unmapped == ("x", f"{GENE}7.2", "Y_RNA")
    assert mapping.retired == (f"{GENE}7.2",)
    assert mapping.counts == {"ambiguous": 1, "symbol": 1, "unmapped": 3}


def test_no_names_at_all(small: GeneTable) -> None:
    mapping = resolve_genes([], small, fallback=[])
    assert len(mapping.index) == 0
    assert mapping.unmapped == ()


def test_case_folds_only_where_the_reference_mixes_it() -> None:
    rows = [("ENSDARG00000000001", "RPL24"), ("ENSDARG00000000002", "rps10"), ("ENSDARG00000000003", "Rps10")]
    frame = pd.DataFrame(rows, columns=["id", "symbol"]).assign(biotype="protein_coding")
    fish = make_gene_table(get_organism("zebrafish"), frame, "x")
    mapping = resolve_genes(["rpl24", "RPL24", "rps10", "RPS10"], fish)
    assert mapping.index.tolist() == [0, 0, 1, -1]
    assert mapping.how.tolist() == ["symbol", "symbol", "symbol", "ambiguous"]


def oracle(name: str, table: GeneTable) -> int:
    """Resolve one name the slow way, straight from the rules."""
    name = name.strip()
    ids, symbols = table.ids.tolist(), table.symbols.tolist()
    if name in ids:
        return ids.index(name)
    head, dot, tail = name.partition(".")
    if dot and tail.isascii() and tail.isdigit() and head in ids:
        return ids.index(head)
    holders = [i for i, symbol in enumerate(symbols) if symbol == name and symbol != ids[i]]
    if holders:
        owners = holders if len(holders) == 1 else [i for i in holders if table.primary[i]]
        return owners[0] if len(owners) == 1 else -1
    for names in (table.former, table.synonyms):
        holders = [i for i, text in enumerate(names) if text and name in text.split("|")]
        if holders:
            return holders[0] if len(holders) == 1 else -1
    return -1


POOL = [
    "GAPDH",
    "G3PD",
    "TWIN",
    "OLDTWIN",
    "Y_RNA",
    "SHARED",
    "SEPT2",
    "NEDD5",
    "NEDD5L",
    "MOVED",
    f"{GENE}1",
    f"{GENE}6.2",
    "",
]


@given(st.lists(st.one_of(st.sampled_from(POOL), st.text(max_size=12)), max_size=30))
def test_equals_the_slow_way(small: GeneTable, names: list[str]) -> None:
    assert resolve_genes(names, small).index.tolist() == [oracle(name, small) for name in names]


@given(st.lists(st.sampled_from(POOL), max_size=20), st.randoms())
def test_order_and_repeats_do_not_matter(small: GeneTable, names: list[str], random: object) -> None:
    alone = {name: resolve_genes([name], small).index[0] for name in names}
    assert resolve_genes(names, small).index.tolist() == [alone[name] for name in names]


HOSTILE = [
    "'; drop table genes; --",
    "$(reboot)",
    "<script>alert(1)</script>",
    "=1+1",
    "../../etc/passwd",
    "ENSG" + "0" * 100_000,
    "a\0b",
    "\N{RIGHT-TO-LEFT OVERRIDE}GAPDH",
    "|",
    "((((((((((",
    "\\d+",
    ".*",
    "nan",
]


def test_hostile_names_are_only_text(small: GeneTable) -> None:
    mapping = resolve_genes(HOSTILE, small, fallback=HOSTILE[::-1])
    assert set(mapping.how) == {"unmapped"}
    assert mapping.names.tolist() == HOSTILE


def test_values_that_are_not_text(small: GeneTable) -> None:
    mapping = resolve_genes([None, float("nan"), 7, pd.NA, np.str_("GAPDH")], small)  # type: ignore[list-item]
    assert mapping.index.tolist() == [-1, -1, -1, -1, 0]


@pytest.mark.index
def test_sixty_thousand_names_in_a_second(real: Path) -> None:
    table = load_gene_table("human")
    assert table.names  # lookups are built once per table
    names = [f"{name}.3" for name in table.ids[:20_000]] + table.symbols[20_000:60_000].tolist()
    start = time.process_time()
    mapping = resolve_genes(names, table)
    # 0.1-0.2 s where it was written; the bound leaves room for a loaded machine.
    assert time.process_time() - start < 2
    assert (mapping.how[:20_000] == "version").all()


@pytest.mark.index
def test_real_names_of_two_species_do_not_mix(real: Path) -> None:
    human, mouse = load_gene_table("human"), load_gene_table("mouse")
    assert resolve_genes(["SEPT2", "MATR3"], human).how.tolist() == ["synonym", "symbol"]
    assert human.ids[resolve_genes(["MATR3"], human).index[0]] == "ENSG00000015479"  # HGNC:6912
    mice = mouse.symbols[(mouse.biotypes == "protein_coding") & (mouse.symbols != mouse.ids)].tolist()
    assert (resolve_genes(mice, human).index >= 0).mean() < 0.02


@pytest.mark.index
@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "name", "share"),
    [
        ("mouse_cortex_osmfish", "mouse", 0.9),  # a panel of 33 genes: every one counts, no threshold refuses it
        ("mouse_bonemarrow_paul2015", "mouse", 0.8),  # 3,004 symbols of 2015
        ("celegans_embryo_packer2019_cxg7", "worm", 0.99),
        ("drosophila_embryo_cxg7", "fly", 0.99),
        ("mouse_pancreas_baron_ens_cxg7", "mouse", 0.99),
        ("human_heart_SAN_cxg", "human", 0.99),
    ],
)
def test_real_panels_and_files(file: str, name: str, share: float, real: Path, shared: Path) -> None:
    anndata = pytest.importorskip("anndata")
    names = anndata.read_h5ad(shared / "data" / f"{file}.h5ad", backed="r").var_names.tolist()
    table = load_gene_table(name)
    mapping = resolve_genes(names, table)
    placed = mapping.index >= 0
    assert placed.mean() >= share
    # Nothing is lost in silence: a name is placed, or it is named.
    assert set(mapping.unmapped) == {n for n, ok in zip(names, placed, strict=True) if not ok}
    assert sum(mapping.counts.values()) == len(names)


@pytest.mark.index
def test_non_coding_genes_are_placed_like_any_other(real: Path) -> None:
    table = load_gene_table("human")
    mapping = resolve_genes(["MALAT1", "XIST", "ENSG00000251562.9", "MT-RNR1"], table)
    assert (mapping.index >= 0).all()
    assert set(table.biotypes[mapping.index]) == {"lncRNA", "Mt_rRNA"}


@given(st.data())
def test_versions_of_any_number_come_off(small: GeneTable, data: st.DataObject) -> None:
    """Ids, versioned ids, symbols and synonyms mixed: each lands where it would alone, whatever its neighbours."""
    picks = data.draw(st.lists(st.sampled_from(small.ids.tolist()), max_size=20))
    versions = [data.draw(st.one_of(st.none(), st.integers(0, 10**6))) for _ in picks]
    names = [gene if v is None else f"{gene}.{v}" for gene, v in zip(picks, versions, strict=True)]
    mapping = resolve_genes(names, small)
    assert small.ids[mapping.index].tolist() == picks
    assert mapping.how.tolist() == ["id" if v is None else "version" for v in versions]


@pytest.mark.shared
def test_rice_loci_of_another_project_stay_unmapped(own_home: Path, shared: Path) -> None:
    """The table's ids are RAP's (Os01g...); MSU's LOC_Os names map only through synonyms, and are all reported."""
    from ontology.imports import import_table

    anndata = pytest.importorskip("anndata")
    names = anndata.read_h5ad(shared / "data" / "rice_scplant.h5ad", backed="r").var_names.tolist()
    where = {"taxon_id": 39947}
    import_table("genes", "rice", shared / "bio" / "genes.parquet", {"id": "gene_id"}, {"release": "RAP-DB"}, where)
    mapping = resolve_genes(names, load_gene_table("rice"))
    assert mapping.counts == {"unmapped": 7_000}
    assert mapping.unmapped == tuple(names)
    assert mapping.retired == ()


def test_a_name_is_no_gene_table() -> None:
    with pytest.raises(OntologyInputError, match="load_gene_table"):
        resolve_genes(["TP53"], "human")
