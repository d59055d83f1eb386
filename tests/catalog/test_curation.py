"""A curator's round trip: labels in, a table out, answers back, overrides in force; and tables that lie or bite."""

from __future__ import annotations

import csv
import gzip
import json
import os
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import ContractError
from catalog import label_tables
from catalog.curation import HEADER, accept_table, curate_table
from catalog.errors import CatalogInputError
from catalog.label_tables import FORMULA, guard, read_rows, unguard, write_rows
from ontology import UnknownOrganismError, harmonise, home, load_ontology

if TYPE_CHECKING:
    from pathlib import Path

TABLE = """cell_type,Age,species,n
T cell,23 years,human,10
CD14 Mono,23 years,human,4
"=cmd|' /C calc'!A0",unknown,human,3
naive CD4+ T,20-29 years,Homo sapiens,7
Multipotent progenitors,P7,mouse,2
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "home"))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(TABLE, "utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows as a plain CSV reader sees them."""
    with path.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def fill(path: Path, answers: dict[str, dict[str, str]]) -> None:
    """Fill in rows by their text, as a curator would."""
    rows = rows_of(path)
    for row in rows:
        row.update(answers.get(row["text"], {}))
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, HEADER)
        writer.writeheader()
        writer.writerows(rows)


def test_the_table_says_what_mapped_how(labels: Path) -> None:
    made = curate_table(labels)
    assert made.table == labels.with_name("labels.curated.csv")
    rows = rows_of(made.table)
    assert tuple(rows[0]) == HEADER
    assert [(r["label"], r["organism"], r["text"], r["n"], r["how"]) for r in rows] == [
        ("cell_type", "human", "naive CD4+ T", "7", "unmapped"),
        ("cell_type", "human", "'=cmd|' /C calc'!A0", "3", "unmapped"),
        ("cell_type", "human", "T cell", "10", "label"),
        ("cell_type", "human", "CD14 Mono", "4", "override"),
        ("cell_type", "mouse", "Multipotent progenitors", "2", "unmapped"),
        ("development_stage", "human", "23 years", "14", "label"),
        ("development_stage", "human", "20-29 years", "7", "label"),
        ("development_stage", "human", "unknown", "3", "unknown"),
        ("development_stage", "mouse", "P7", "2", "label"),
    ]
    assert rows[0]["suggestion_1"] == "CL:0000898 (naive T cell)"
    assert (rows[2]["term_id"], rows[2]["term_label"], rows[2]["confidence"]) == ("CL:0000084", "T cell", "0.9")
    assert made.summary()["cell_type"]["unmapped"] == {"texts": 3, "cells": 12}
    again = json.loads(json.dumps(made.to_dict()))
    assert [r["text"] for r in again["rows"]][1] == "=cmd|' /C calc'!A0"  # JSON needs no guard
    assert any("5 texts (unmapped 3, label 1, override 1)" in line for line in made.lines())
    before = made.table.read_bytes()
    curate_table(labels)
    assert made.table.read_bytes() == before


def test_accepted_rows_are_overrides_from_then_on(labels: Path) -> None:
    table = curate_table(labels).table
    fill(
        table,
        {
            "naive CD4+ T": {"accept": "1", "who": "ann", "why": "their Figure 2"},
            "Multipotent progenitors": {"accept": "CL:0000837", "why": "=HYPERLINK(1)", "when": "2026-01-02"},
            "'=cmd|' /C calc'!A0": {"accept": "CL:0000236", "why": "they said so"},
        },
    )
    done = accept_table(table, who="bob")
    assert (dict(done.added), done.answered) == ({"cell_type": 3}, 3)
    assert json.dumps(done.to_dict())
    lines = (home() / "overrides" / "cell_type.tsv").read_text("utf-8").splitlines()
    assert lines[1].split("\t")[:4] == ["naive CD4+ T", "CL:0000898", "human", "ann"]
    assert lines[2].split("\t")[:3] == ["=cmd|' /C calc'!A0", "CL:0000236", "human"]
    assert lines[3].split("\t") == [
        *("Multipotent progenitors", "CL:0000837", "mouse", "bob", "2026-01-02", "=HYPERLINK(1)")
    ]
    assert harmonise("cell_type", ["=cmd|' /C calc'!A0"], "human")["=cmd|' /C calc'!A0"].how == "override"
    assert {r["how"] for r in curate_table(labels).rows if r["label"] == "cell_type"} == {"label", "override"}
    again = accept_table(table)  # the table was written again, its answers are in force
    assert again.answered == 0


def test_a_bad_row_keeps_every_row_out(labels: Path) -> None:
    table = curate_table(labels).table
    fill(
        table,
        {
            "naive CD4+ T": {"accept": "1", "who": "ann", "why": "good"},
            "Multipotent progenitors": {"accept": "9", "who": "ann", "why": "good"},
            "T cell": {"accept": "CL:0000236", "who": "ann", "why": "good"},
        },
    )
    with pytest.raises(ContractError, match="2 of 3 answers") as caught:
        accept_table(table)
    assert [f.where for f in caught.value.findings] == [
        "line 4, cell_type 'T cell'",
        "line 6, cell_type 'Multipotent progenitors'",
    ]
    assert not (home() / "overrides").exists()


def test_answers_survive_a_new_table(labels: Path) -> None:
    table = curate_table(labels).table
    fill(table, {"naive CD4+ T": {"accept": "3", "who": "ann", "why": "half done"}})
    third = rows_of(table)[0]["suggestion_3"].split(" (")[0]
    rows = rows_of(curate_table(labels).table)
    assert (rows[0]["accept"], rows[0]["who"], rows[0]["why"]) == (third, "ann", "half done")
    assert curate_table(table).table == table  # the table itself may be curated again
    assert len(rows_of(table)) == len(rows)


DONE = {"accept": "CL:0000084", "who": "ann", "why": "saw them"}


def answers_of(path: Path) -> list[tuple[str, str, str, str]]:
    return [(r["label"], r["organism"], r["text"], r["accept"]) for r in rows_of(path) if r["accept"]]


def test_no_answer_is_lost_whatever_is_curated_next(labels: Path) -> None:
    table = curate_table(labels).table
    fill(table, {"naive CD4+ T": DONE, "Multipotent progenitors": {**DONE, "organism": "*"}, "CD14 Mono": {"why": "?"}})
    given = [
        ("cell_type", "human", "naive CD4+ T", "CL:0000084"),
        ("cell_type", "*", "Multipotent progenitors", "CL:0000084"),
    ]
    made = curate_table(labels, label="development_stage")
    assert ({r["label"] for r in made.rows}, made.carried) == ({"development_stage"}, 3)
    assert any("3 answers about other texts" in line for line in made.lines())
    assert answers_of(table) == given
    assert [r["n"] for r in rows_of(table) if r["label"] == "cell_type"] == ["0"] * 3
    again = curate_table(labels)
    assert again.carried == 1  # the one for every organism; the others stand at their texts
    assert answers_of(table) == given
    assert next(r["why"] for r in rows_of(table) if r["text"] == "CD14 Mono") == "?"
    assert next(r["n"] for r in rows_of(table) if r["text"] == "naive CD4+ T") == "7"
    assert curate_table(table).carried == 1  # the table is its own input
    assert answers_of(table) == given
    labels.write_text("sex\nM\n", "utf-8")  # another study's file of the same name
    curate_table(labels)
    assert answers_of(table) == given
    accept_table(table)
    assert curate_table(labels).carried == 1  # the remark without a decision
    assert answers_of(table) == []


def test_two_answers_about_one_text_both_stay_for_their_curators(labels: Path) -> None:
    table = curate_table(labels).table
    fill(table, {"naive CD4+ T": DONE})
    rows = rows_of(table)
    with table.open("a", newline="", encoding="utf-8") as text:
        csv.DictWriter(text, HEADER).writerow({**rows[0], "accept": "CL:0000236"})
    curate_table(labels)
    assert [accept for *_, accept in answers_of(table)] == ["CL:0000084", "CL:0000236"]


def test_an_answer_that_corrects_a_shipped_override_stays_until_it_is_in_force(labels: Path) -> None:
    table = curate_table(labels).table
    shipped = next(r for r in rows_of(table) if r["text"] == "CD14 Mono")
    assert (shipped["how"], shipped["term_id"]) == ("override", "CL:0001054")
    fill(table, {"CD14 Mono": DONE})
    curate_table(labels)
    assert answers_of(table) == [("cell_type", "human", "CD14 Mono", "CL:0000084")]
    accept_table(table)
    rows = {r["text"]: r for r in curate_table(labels).rows}
    assert (rows["CD14 Mono"]["term_id"], rows["CD14 Mono"]["accept"]) == ("CL:0000084", "")
    assert answers_of(table) == []


def test_each_kind_of_file_has_its_own_table(tmp_path: Path) -> None:
    for name, text in (("labels.csv", "sex\nM\n"), ("labels.tsv", "sex\nF\n"), ("labels.csv.gz", "sex\nW\n")):
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    made = {name: curate_table(tmp_path / name).table.name for name in ("labels.csv", "labels.tsv", "labels.csv.gz")}
    assert made == {
        "labels.csv": "labels.curated.csv",
        "labels.tsv": "labels.tsv.curated.csv",
        "labels.csv.gz": "labels.csv.gz.curated.csv",
    }


def test_answers_of_all_labels_are_kept_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "x.curated.csv"
    lines = ["label,text,accept,who,why", "cell_type,blob a,CL:0000084,me,w", "tissue,blob b,UBERON:0002048,me,w"]
    table.write_text("\n".join(lines), "utf-8")
    load_ontology("CL"), load_ontology("UBERON")  # which may write to the cache
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            accept_table(table)
    assert list((home() / "overrides").glob("*.tsv")) == []
    assert dict(accept_table(table).added) == {"cell_type": 1, "tissue": 1}


def test_a_bomb_ends_at_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.csv.gz"
    path.write_bytes(gzip.compress(b"sex\n" + b"".join(b"%d%s\n" % (i, b"M" * 120_000) for i in range(300))))
    assert path.stat().st_size < 100_000
    with pytest.raises(CatalogInputError, match="is sex really a label"):  # 36 MB of texts would be held
        curate_table(path)
    monkeypatch.setattr(label_tables, "MAX_CHARS", 5_000_000)
    with pytest.raises(CatalogInputError, match="at most 5000000 characters when unpacked"):
        list(read_rows(path))


def test_a_file_that_is_no_curators_table_is_not_overwritten(labels: Path) -> None:
    other = labels.with_name("labels.curated.csv")
    other.write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(CatalogInputError, match="would be overwritten"):
        curate_table(labels)
    assert other.read_text("utf-8") == "a,b\n1,2\n"


@pytest.mark.parametrize(
    ("name", "text", "options", "wanted"),
    [
        ("a.tsv", "sex\tx\nM\t1\nM\t2\n", {}, [("sex", "human", "M", 2)]),
        ("a.csv", "sex;x\nM;1\n", {}, [("sex", "human", "M", 1)]),
        ("a.csv", "\ufeffsex\nF\n\n", {"organism": "mouse"}, [("sex", "mouse", "F", 1)]),
        (
            "a.csv",
            "mine,sex\nT cell,M\n",
            {"label": "cell_type", "column": "mine"},
            [("cell_type", "human", "T cell", 1)],
        ),
        ("a.csv", "cell_type,sex\nT cell,M\n", {"label": "sex"}, [("sex", "human", "M", 1)]),
        ("a.csv", "label,text,n\nsex,M,4\ntissue,blood,1\n", {"label": "sex"}, [("sex", "human", "M", 4)]),
        ("a.csv", "sex_ontology_term_id\nPATO:0000384\n", {}, [("sex", "human", "PATO:0000384", 1)]),
    ],
)
def test_shapes_of_input(tmp_path: Path, name: str, text: str, options: dict[str, str], wanted: list[object]) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    assert [(r["label"], r["organism"], r["text"], r["n"]) for r in curate_table(path, **options).rows] == wanted
    zipped = tmp_path / f"{name}.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    made = curate_table(zipped, **options)
    assert made.table == tmp_path / f"{name}.gz.curated.csv"
    assert len(made.rows) == len(wanted)


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ("", {}, "first line names its columns"),
        ("a,a\n1,2\n", {}, "each once"),
        ("a,b\n1,2\n", {}, "name one with --label and --column"),
        ("sex\n", {}, "at least one row"),
        ("sex,x\nM,1,2\n", {}, "2 cells in line 2, not 3"),
        ("sex,n\nM,many\n", {}, "a whole number of cells in line 2"),
        ("sex,n\nM,-1\n", {}, "a whole number of cells"),
        ("label,text\ncolour,red\n", {}, "in line 2"),
        ("sex\nM\n", {"label": "colour"}, "one of cell_type"),
        ("sex\nM\n", {"column": "sex"}, "--label"),
        ("sex\nM\n", {"label": "sex", "column": "Sex"}, "one of sex"),
        ("sex\nM\n", {"label": "tissue"}, "a column for tissue"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, options: dict[str, str], why: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(CatalogInputError, match=why):
        curate_table(path, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_hostile_files(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for data in (b"sex\n\xff\xfe\n", b"\x1f\x8bnot gzip", gzip.compress(b"sex\n" + b"M" * 3_000_000)):
        path.write_bytes(data)
        with pytest.raises(CatalogInputError):
            curate_table(path)
    with pytest.raises(CatalogInputError, match="readable table"):
        curate_table(tmp_path / "nothing.csv")
    path.write_text("sex,organism\nM,unicorn\n", "utf-8")
    with pytest.raises(UnknownOrganismError):
        curate_table(path)
    path.write_text("a\nb\n", "utf-8")
    with pytest.raises(CatalogInputError, match="label, text, accept"):
        accept_table(path)


def test_cells_of_a_file_are_counted_by_organism(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"celltype": pd.Categorical(["B", "B", "T", None])}, index=list("abcd"))
    cells = anndata.AnnData(pd.DataFrame({"g": [1.0, 2, 3, 4]}, index=list("abcd")), obs=obs)
    cells.uns["organism"] = "Mus musculus"
    cells.write_h5ad(tmp_path / "x.h5ad")
    made = curate_table(tmp_path / "x.h5ad")
    assert made.table == tmp_path / "x.h5ad.curated.csv"
    assert [(r["organism"], r["text"], r["n"], r["how"]) for r in made.rows] == [
        ("mouse", "B", 2, "override"),
        ("mouse", "", 1, "missing"),
        ("mouse", "T", 1, "override"),
    ]


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
formulas = st.builds(str.__add__, st.sampled_from([*FORMULA, "'", "''", " =", "\t=", "\n@", "'="]), cells)


@given(st.one_of(cells, formulas))
def test_a_guarded_cell_is_no_formula_and_comes_back(cell: str) -> None:
    assert guard(cell).lstrip()[:1] not in tuple(FORMULA)
    assert unguard(guard(cell)) == cell


@given(st.lists(st.tuples(st.one_of(cells, formulas), cells), min_size=1, max_size=5))
def test_rows_come_back_from_the_file(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.csv"
    write_rows(path, ("label", "text", "accept"), [(left, right, "-") for left, right in rows])
    assert [tuple(row.values()) for _, row in read_rows(path)] == [(left, right, "-") for left, right in rows]


def test_an_authors_own_apostrophe_is_part_of_the_label(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("cell_type,n\n'=apos,3\nT cell,1\n")
    curate_table(tmp_path / "labels.csv")
    (row,) = [r for _, r in read_rows(tmp_path / "labels.curated.csv") if r["n"] == "3"]
    assert row["text"] == "'=apos"
