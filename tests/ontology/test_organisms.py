"""Organisms are rows: every promised one is there, answers to all its names, and nothing else does."""

from __future__ import annotations

import dataclasses
import pickle
import re
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import (
    LABELS,
    OntologyInputError,
    Organism,
    ReferenceMismatchError,
    UnknownOrganismError,
    get_organism,
    harmonise,
    list_organisms,
    load_gene_table,
    resolve_genes,
)
from ontology.imports import import_table
from ontology.ontologies import load_ontology
from ontology.organism_rows import ANY_ID, own_rows_path
from ontology.organisms import forbidden_terms
from ontology.own_organisms import add_organism_row
from ontology.references import ontology_pins, wheel_pins

if TYPE_CHECKING:
    from pathlib import Path

# The reference corpus (decision 16) and the two extras.
CORPUS = {9606, 10090, 9544, 7955, 9823, 3702, 7227, 9031, 10181, 9986, 9913, 4577, 9598, 6239, 9940, 9483}
EXTRAS = {4081, 39947}


def test_the_sixteen_and_the_extras_are_there() -> None:
    assert {o.taxon for o in list_organisms() if not o.extra} == CORPUS
    assert {o.taxon for o in list_organisms() if o.extra} == EXTRAS


@pytest.mark.parametrize("organism", list_organisms(), ids=lambda o: o.name)
def test_every_name_finds_its_organism(organism: Organism) -> None:
    names = (organism.name, organism.label, organism.experiment, organism.term_id, organism.taxon, *organism.aliases)
    assert {get_organism(name) for name in names} == {organism}
    assert get_organism(f"NCBITaxon_{organism.taxon}") is organism
    assert get_organism(organism) is organism
    assert pickle.loads(pickle.dumps(organism)) is organism


@pytest.mark.parametrize("organism", list_organisms(), ids=lambda o: o.name)
def test_rows_are_whole(organism: Organism) -> None:
    assert set(organism.labels) == set(LABELS)
    assert re.fullmatch(r"[a-z][a-z-]+", organism.name)
    assert re.fullmatch(r"[a-z_]+", organism.experiment)
    for pattern in filter(None, (organism.id_pattern, organism.ribo_pattern)):
        re.compile(pattern)
    for source in filter(None, [organism.genes]):
        assert {source.wheel, source.synonym_wheel} - {None} <= set(wheel_pins())


@pytest.mark.parametrize("organism", list_organisms(), ids=lambda o: o.name)
def test_roots_and_forbidden_terms_exist(organism: Organism) -> None:
    for label, prefixes in organism.labels.items():
        for prefix, roots in prefixes.items():
            if prefix in ontology_pins():
                assert all(not load_ontology(prefix)[root].obsolete for root in roots), (label, prefix)
    for label in LABELS:
        assert all(term in load_ontology(term.split(":")[0]) for term in forbidden_terms(label))


@pytest.mark.parametrize(
    ("name", "symbols", "others"),
    [
        ("human", ["RPL3", "RPS4Y1", "RPLP0", "RPSA", "FAU", "UBA52"], ["RPS6KA1", "MRPL3", "RPL7AP1", "RPLX"]),
        ("mouse", ["Rpl3", "Rps4l", "Rplp0"], ["Rps6ka1", "Mrpl3", "Rpl9-ps6"]),
        ("fly", ["RpL3", "RpS28b", "RpL22-like", "sta", "RpS15Aa"], ["mRpL3", "RpII215", "S6k", "start1"]),
        ("worm", ["rpl-3", "rps-0", "rla-1", "ubl-1"], ["mrpl-3", "rpn-1", "rps-27L"]),
        (
            "arabidopsis",
            ["RPL3A", "RPS15AE", "RPL10AB", "RPP1B", "RPP0A", "RPSAA"],
            ["RPL4", "RPS1", "RPL2.1", "RPT1A"],
        ),
        ("zebrafish", ["rpl3", "RPL3", "rps27.1", "faub"], ["rps6ka1", "mrpl3"]),
    ],
)
def test_ribosomal_patterns(name: str, symbols: list[str], others: list[str]) -> None:
    pattern = re.compile(get_organism(name).ribo_pattern or "", re.IGNORECASE)
    assert [s for s in symbols if not pattern.fullmatch(s)] == []
    assert [s for s in others if pattern.fullmatch(s)] == []


@pytest.mark.parametrize("name", ["", "humen", "homo", "0", -1, "NCBITaxon:", "'; drop table", "a" * 100_000, None])
def test_unknown_names_are_refused(name: object) -> None:
    with pytest.raises(UnknownOrganismError):
        get_organism(name)  # type: ignore[arg-type]


def test_the_nearest_is_named() -> None:
    with pytest.raises(UnknownOrganismError, match="nearest: human"):
        get_organism("humen")


def test_where_nothing_is_near_some_are_named() -> None:
    with pytest.raises(
        UnknownOrganismError, match=r"'qqqq'; known are human, mouse, .* and 13 more; panatlas add-organism"
    ):
        get_organism("qqqq")
    with pytest.raises(UnknownOrganismError) as caught:
        get_organism("q" * 100_000)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=40))
def test_any_text_is_an_organism_or_refused(text: str) -> None:
    try:
        found = get_organism(text)
    except UnknownOrganismError:
        return
    assert found in list_organisms()


def test_organisms_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_organism("human").taxon = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        get_organism("human").labels["cell_type"] = {}  # type: ignore[index]


@pytest.mark.shared
def test_datasets_exist_in_a_recorded_biomart_registry(shared: Path) -> None:
    listed = pd.read_csv(shared / "bio" / "biomart_fixtures" / "biomart_datasets_718.tsv", sep="\t", header=None)
    recorded = set(listed.astype(str).to_numpy().ravel())
    assert [o.name for o in list_organisms() if o.dataset not in recorded] == []


RAT = {"label": "Rattus norvegicus", "taxon": 10116}


def test_a_row_makes_an_organism(own_home: Path) -> None:
    rat = add_organism_row("rat", **RAT, aliases=("brown rat",), assembly="GRCr8", dataset=None)
    assert {get_organism(name) for name in ("rat", "Rattus norvegicus", 10116, "NCBITaxon:10116", "BROWN RAT")} == {rat}
    assert (rat.experiment, rat.assembly, rat.dataset, rat.extra) == ("rattus_norvegicus", "GRCr8", "", True)
    assert rat.id_pattern == ANY_ID
    assert set(rat.labels) == set(LABELS)
    assert list(rat.labels["tissue"]) == ["UBERON", "CL", "CVCL"]  # the preferred first
    assert list_organisms()[-1] == rat
    assert pickle.loads(pickle.dumps(rat)) == rat
    row = tomllib.loads((own_home / "references" / "organisms.toml").read_text())["organisms"]["rat"]
    assert (row["label"], row["taxon"], row["aliases"]) == ("Rattus norvegicus", 10116, ["brown rat"])


def test_homes_and_files_may_change_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / name))
        with pytest.raises(UnknownOrganismError):
            get_organism("rat")
        add_organism_row("rat", **RAT, assembly=name)
    assert get_organism("rat").assembly == "two"
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "one"))
    assert get_organism("rat").assembly == "one"
    assert add_organism_row("rat", **RAT, assembly="again").assembly == "again"  # one's own row may be given again
    own_rows_path().unlink()
    with pytest.raises(UnknownOrganismError):
        get_organism("rat")
    assert len(list_organisms()) == 18


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "human"}, "it is human's"),
        ({"taxon": 9606}, "it is human's"),
        ({"aliases": ("corn",)}, "it is maize's"),
        ({"label": "Homo Sapiens"}, "it is human's"),
        ({"name": "Rat"}, "lower-case letters"),
        ({"name": "../rat"}, "lower-case letters"),
        ({"label": "rat"}, "a scientific name"),
        ({"label": "../../Rattus x"}, "a scientific name"),
        ({"taxon": -1}, "NCBI taxonomy id"),
        ({"taxon": True}, "NCBI taxonomy id"),
        ({"taxon": "10116"}, "NCBI taxonomy id"),
        ({"division": "aliens"}, "one of vertebrates"),
        ({"id_pattern": "(ENS"}, "a regular expression"),
        ({"id_pattern": "(ENS)x"}, "no capturing groups"),
        ({"assembly": "a\nb"}, "printable text"),
        ({"colour": "red"}, "one of aliases"),
        ({"genes": {"wheel": "x"}}, "one of aliases"),
        ({"labels": {"colour": {}}}, "labels are"),
        ({"labels": {"tissue": {"UBERON": ["x y"]}}}, "label to prefixes"),
        ({"aliases": ("",)}, "a list of names"),
        ({"symbol_case": "both"}, "exact or fold"),
    ],
    ids=str,
)
def test_a_bad_row_is_refused(change: dict, match: str, own_home: Path) -> None:
    with pytest.raises(OntologyInputError, match=match):
        add_organism_row(**({"name": "rat"} | RAT | change))
    assert not own_home.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[organisms.rat",
        "organisms = 3",
        "[organisms.rat]\nlabel = 'Rattus norvegicus'",
        "[organisms.rat]\nx = 1",
        "\x00",
    ],
)
def test_a_spoilt_file_is_named(text: str, own_home: Path) -> None:
    own_rows_path().parent.mkdir(parents=True)
    own_rows_path().write_text(text)
    with pytest.raises(ReferenceMismatchError, match=r"organisms\.toml"):
        get_organism("human")


def test_a_row_that_panatlas_ships_by_now_gives_way(own_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_rows_path().parent.mkdir(parents=True)
    row = "division = 'vertebrates'\nassembly = 'x'\ndataset = ''\nid_pattern = 'x'\n"
    own_rows_path().write_text(
        f"[organisms.ape]\nlabel = 'Pan troglodytes'\ntaxon = 9598\n{row}"
        f"[organisms.rat]\nlabel = 'Rattus norvegicus'\ntaxon = 10116\n{row}"
    )
    assert get_organism(9598).name == "chimpanzee"
    assert get_organism("rat").taxon == 10116
    assert "row ape is left out" in caplog.text


def test_adding_a_row_keeps_those_that_give_way(own_home: Path) -> None:
    own_rows_path().parent.mkdir(parents=True)
    own_rows_path().write_text("[organisms.mymouse]\nlabel = 'Mus musculus'\ntaxon = 10090\ndivision = 'vertebrates'\n")
    add_organism_row("newt", "Pleurodeles waltl", 8319)
    rows = tomllib.loads(own_rows_path().read_text())["organisms"]
    assert (list(rows), rows["mymouse"]["taxon"]) == (["mymouse", "newt"], 10090)
    assert get_organism(10090).name == "mouse"
    with pytest.raises(OntologyInputError, match="it is mouse's"):
        add_organism_row("mymouse", "Mus musculus", 10090)
    assert add_organism_row("mymouse", "Rattus norvegicus", 10116).taxon == 10116  # and may be set right


def test_a_shipped_organism_is_not_taken_over_by_a_row_of_its_name(own_home: Path) -> None:
    own_rows_path().parent.mkdir(parents=True)
    own_rows_path().write_text(
        "[organisms.mouse]\nlabel = 'Rattus norvegicus'\ntaxon = 10116\ndivision = 'vertebrates'\n"
    )
    with pytest.raises(OntologyInputError, match="it is mouse's"):
        add_organism_row("mouse", "Rattus norvegicus", 10116)


def test_organisms_added_at_once_are_all_kept(own_home: Path) -> None:
    def add(i: int) -> None:
        add_organism_row(f"beast-{i}", f"Bestia {'abcdefghijklmnop'[i]}", 10_000_000 + i)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(16)))
    assert {o.name for o in list_organisms()} >= {f"beast-{i}" for i in range(16)}


@given(st.lists(st.text(min_size=1, max_size=12).filter(lambda t: t.isprintable() and t.strip()), max_size=3))
def test_any_alias_survives_the_file(aliases: list[str]) -> None:
    with tempfile.TemporaryDirectory() as tmp, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", tmp)
        try:
            add_organism_row("rat", **RAT, aliases=aliases)
        except OntologyInputError:  # another's name
            return
        assert get_organism("rat").aliases == tuple(aliases)


def test_a_row_and_its_references_are_all_it_takes(own_home: Path, tmp_path: Path) -> None:
    """An organism no table knows: a malaria parasite, whose ids have no form that anyone declared."""
    add_organism_row("malaria", "Plasmodium berghei", 5821, "protists", mito_contig="PbANKA_MIT_v3")
    rows = [("PBANKA_0000301", "PIR", "3"), ("PBANKA_MIT0270", "", "PbANKA_MIT_v3"), ("PBANKA_1.1", "", "1")]
    pd.DataFrame(rows, columns=["gene", "name", "chr"]).to_csv(tmp_path / "genes.csv", index=False)
    columns = {"id": "gene", "symbol": "name", "contig": "chr"}
    import_table("genes", "malaria", tmp_path / "genes.csv", columns, {"release": "PlasmoDB 1"})
    table = load_gene_table("malaria")
    assert table.ids.tolist() == ["PBANKA_0000301", "PBANKA_1", "PBANKA_MIT0270"]
    assert table.mito is not None
    assert table.mito.tolist() == [False, False, True]
    mapping = resolve_genes(["PBANKA_0000301.1", "PIR", "PBANKA_9999999"], table)
    assert mapping.how.tolist() == ["version", "symbol", "unmapped"]
    assert mapping.retired == ()  # without a declared form nothing looks like a retired id
    assert harmonise("cell_type", ["erythrocyte"], "malaria")["erythrocyte"].term_id == "CL:0000232"


@pytest.mark.shared
def test_rat_end_to_end(own_home: Path, shared: Path) -> None:
    add_organism_row("rat", **RAT, id_pattern=r"ENSRNOG\d{11}", mito_contig="MT")
    columns = {"id": "gene_id", "symbol": "symbol", "biotype": "biotype", "contig": "chromosome", "start": "start"}
    where = {"taxon_id": 10116}
    import_table("genes", "rat", shared / "bio" / "genes.parquet", columns, {"release": "Ensembl 114"}, where)
    table = load_gene_table("rat")
    assert len(table) == 43_360
    assert table.mito is not None
    assert table.mito.sum() == 37
    mapping = resolve_genes(["Alb", "ENSRNOG00000002911.5", "ENSRNOG99999999999"], table)
    assert mapping.how.tolist() == ["symbol", "version", "unmapped"]
    assert mapping.retired == ("ENSRNOG99999999999",)
    assert harmonise("tissue", ["liver"], "rat")["liver"].term_id == "UBERON:0002107"


@pytest.mark.shared
def test_real_parasite_cells_find_a_table(own_home: Path, shared: Path, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    names = anndata.read_h5ad(shared / "data" / "plasmodium_berghei_mca10x.h5ad", backed="r").var_names
    add_organism_row("malaria", "Plasmodium berghei", 5821, "protists")
    names.to_frame(name="gene").to_csv(tmp_path / "genes.csv", index=False)
    import_table("genes", "malaria", tmp_path / "genes.csv", {"id": "gene"}, {"release": "from the cells"})
    assert (resolve_genes(names.tolist(), load_gene_table("malaria")).how == "id").all()
