"""Searching and describing: the counts are those of a plain pandas count over the cells as written."""

from __future__ import annotations

import pandas as pd
import pytest

from atlas import (
    AtlasInputError,
    Finding,
    Receipt,
    StoreError,
    between,
    contains,
    descendants,
    is_not,
    open_atlas,
    parse_where,
    where,
)
from atlas.ledger import Ledger, now_ms
from catalog import describe_atlas, search_cells


def passing(obs: pd.DataFrame) -> pd.DataFrame:
    return obs[obs["qc_pass"]]


def test_without_words_every_passing_cell_counts(small):
    atlas, obs = small
    found = search_cells(atlas)
    assert found.cells == len(passing(obs))
    counted = passing(obs).groupby(["organism", "dataset_id", "tissue", "cell_type"]).size()
    assert {tuple(g[k] for k in counted.index.names): g["cells"] for g in found.groups} == counted.to_dict()
    assert [g["cells"] for g in found.groups] == sorted((g["cells"] for g in found.groups), reverse=True)
    assert search_cells(atlas, every_cell=True).cells == len(obs)


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("T cell", lambda o: o["cell_type"] == "T cell"),
        ("t-cells", lambda o: o["cell_type"] == "T cell"),
        ("T lymphocyte", lambda o: o["cell_type"] == "T cell"),  # a synonym
        ("lymphocyte", lambda o: o["cell_type"].isin(["T cell", "B cell"])),  # everything below it
        ("lung fibroblast", lambda o: o["cell_type"] == "fibroblast of lung"),
        ("fibroblast lung", lambda o: o["cell_type"] == "fibroblast of lung"),
        ("respiratory system", lambda o: (o["tissue"] == "lung") | o["disease"].str.contains("asthma")),
        ("influenza", lambda o: o["disease"] == "asthma || influenza"),  # one of several joined values
        ("blood lymphocyte", lambda o: (o["tissue"] == "blood") & o["cell_type"].isin(["T cell", "B cell"])),
        ("blood fibroblast", lambda o: o["cell_type"] == "no cell is both"),
        ("cluster 2", lambda o: o["author_cell_type"].str.startswith("Cluster 2")),  # the author's own words
        ("no such thing", lambda o: o["cell_type"] == ""),
        ("' OR 1=1 --", lambda o: o["cell_type"] == ""),
    ],
)
def test_words_find_labels_synonyms_and_everything_below(small, text, test):
    atlas, obs = small
    expected = passing(obs)[test(passing(obs))]
    assert search_cells(atlas, text).cells == len(expected)


def test_what_the_words_matched_is_told(small):
    found = search_cells(small[0], "lymphocytes")
    assert {(m["label"], m["value"]) for m in found.matches} == {("cell_type", "T cell"), ("cell_type", "B cell")}


@pytest.mark.parametrize(
    ("query", "test"),
    [
        (where(cell_type="T cell", nnz=between(150)), lambda o: (o["cell_type"] == "T cell") & (o["nnz"] >= 150)),
        (where(cell_type=descendants("lymphocyte")), lambda o: o["cell_type"].isin(["T cell", "B cell"])),
        (where(disease=contains("asthma")), lambda o: o["disease"].str.contains("asthma")),
        (where(disease=descendants("MONDO:0004979")), lambda o: o["disease"].str.contains("asthma")),
        (where(pct_mito=between(None, 3)), lambda o: o["pct_mito"] <= 3),
        (where(pct_mito=is_not(3.0)), lambda o: o["pct_mito"] != 3),
        (where(donor_id=["donor1", "donor2"]), lambda o: o["donor_id"].isin(["donor1", "donor2"])),
        (parse_where("author_cell_type=Cluster 1, =1+1 [red]"), lambda o: o["author_cell_type"] == "Cluster 1"),
        (
            parse_where('author_cell_type="Cluster 1, =1+1 [red]"'),
            lambda o: o["author_cell_type"] == "Cluster 1, =1+1 [red]",
        ),
    ],
)
def test_conditions_count_alike_in_sql_and_in_the_store(small, query, test):
    atlas, obs = small
    for every_cell, rows in ((False, passing(obs)), (True, obs)):
        expected = len(rows[test(rows)])
        assert search_cells(atlas, where=query, every_cell=every_cell).cells == expected
        in_store = [atlas.query(o, query, every_cell=every_cell).n_cells() for o in ("human", "mouse")]
        assert sum(in_store) == expected


def test_one_organism_only(small):
    atlas, obs = small
    assert search_cells(atlas, organism="Mus musculus").cells == len(passing(obs[obs["dataset_id"] == "mice"]))
    with pytest.raises(AtlasInputError, match="homo_sapiens"):
        search_cells(atlas, organism="zebrafish")


def test_a_value_no_cell_has_is_told_with_the_nearest(small):
    found = search_cells(small[0], where=where(cell_type=["T cels", "B cell"], disease=contains("asma")))
    assert [(u["column"], u["value"], u["nearest"]) for u in found.unknown] == [
        ("cell_type", "T cels", "T cell"),
        ("disease", "asma", "asthma"),
    ]
    assert search_cells(small[0], where=where(cell_type=is_not("T cell"))).unknown == ()


def test_the_description_equals_a_plain_count(small):
    atlas, obs = small
    facts = describe_atlas(atlas)
    assert facts["cells"] == len(obs)
    assert facts["passing"] == len(passing(obs))
    assert facts["published_ms"] == atlas.published_ms
    assert pd.Timestamp(facts["published"]).value // 10**6 == atlas.published_ms
    human = obs[obs["organism"] == "Homo sapiens"]
    assert facts["organisms"][0] == {
        "organism": "Homo sapiens",
        "term_id": "NCBITaxon:9606",
        "datasets": 2,
        "cells": len(human),
        "passing": len(passing(human)),
        "primary_cells": int(human["is_primary_data"].sum()),
        "cell_types": 3,
    }
    assert [(d["dataset_id"], d["cells"]) for d in facts["datasets"]] == [("lungs", 120), ("bloods", 40), ("mice", 30)]
    assert facts["versions"]["census_schema_version"] == "2.4.0"


def test_what_was_synthetic_is_told_as_of_the_moment(tmp_path, grow):
    grow(tmp_path, "lungs", "human", 5)
    grow(tmp_path, "mice", "mouse", 5)
    before = open_atlas(str(tmp_path))
    made_up = Finding("synthetic-cells", "warning", "cells", "5", "real ones", "none")
    with Ledger(tmp_path / "ledger" / "ledger.sqlite") as ledger:
        gone = before.datasets[0]
        taken = Receipt("lungs", "human", "retracted", "made", dataset_id="lungs")
        ledger.publish_retraction(gone, [], ([], []), now_ms(), ("why", taken))
        ledger.reserve("lungs", gone.organism, 5, input_sha256="a", content_sha256="b", declaration="c")
        again = Receipt("lungs", "human", "written", "made", dataset_id="lungs", findings=(made_up,))
        ledger.publish("lungs", now_ms() + 1, again)
    assert describe_atlas(before)["synthetic_cells"] == 0
    assert open_atlas(str(tmp_path)).written()["lungs"]["findings"], "they are by now"


def test_no_atlas_is_a_store_error(tmp_path):
    for ask in (search_cells, describe_atlas):
        with pytest.raises(StoreError, match="no atlas here"):
            ask(str(tmp_path / "none"))
