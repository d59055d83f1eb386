"""Harmonising labels: the rules one by one, properties over all of them, and the real files' own labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from cellxgene_ontology_guide.ontology_parser import OntologyParser
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology import LABELS, Match, OntologyInputError, UnknownOrganismError, harmonise, load_ontology
from ontology.match import CONFIDENCE, HOWS, Matches
from ontology.ontology_files import import_ontology
from ontology.suggest import SUGGESTION_LIMIT

if TYPE_CHECKING:
    from pathlib import Path


def one(label: str, text: object, organism: str = "human") -> Match:
    return harmonise(label, [text], organism)[text]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("label", "text", "organism", "term_id", "how"),
    [
        ("cell_type", "CL:0000084", "human", "CL:0000084", "id"),
        ("cell_type", "CL_0000084", "human", "CL:0000084", "id"),
        ("cell_type", " CL:0000084 ", "human", "CL:0000084", "id"),
        ("cell_type", "T cell", "human", "CL:0000084", "label"),
        ("cell_type", "  t   CELL", "human", "CL:0000084", "label"),
        ("cell_type", "T_cell", "human", "CL:0000084", "label"),
        ("cell_type", "pDC", "human", "CL:0000784", "synonym"),
        ("cell_type", "NK", "human", "CL:0000623", "override"),
        ("cell_type", "LC", "human", "unknown", "unmapped"),
        ("cell_type", "alpha", "human", "unknown", "unmapped"),
        ("cell_type", "UBERON:0000178", "human", "unknown", "unmapped"),
        ("cell_type", "CL:9999999", "human", "unknown", "unmapped"),
        ("cell_type", "CL:0000255", "human", "unknown", "unmapped"),
        ("cell_type", "ZFA:0009000", "zebrafish", "ZFA:0009000", "id"),
        ("cell_type", "ZFA:0100000", "zebrafish", "unknown", "unmapped"),
        ("cell_type", "ZFA:0009000", "human", "unknown", "unmapped"),
        ("cell_type", "WBbt:0006803", "worm", "unknown", "unmapped"),
        ("tissue", "blood", "human", "UBERON:0000178", "label"),
        ("tissue", "Pancreas", "mouse", "UBERON:0001264", "label"),
        ("tissue", "CVCL_0023", "human", "CVCL_0023", "id"),
        ("tissue", "CVCL:0023", "human", "CVCL_0023", "id"),
        ("tissue", "A-549", "human", "unknown", "unmapped"),  # cell lines by id or override only
        ("tissue", "CL:0000084", "human", "CL:0000084", "id"),
        ("assay", "10x 3' v1", "human", "EFO:0009901", "label"),
        ("assay", "10X 3' V2", "human", "EFO:0009899", "label"),
        ("assay", "inDrop", "mouse", "EFO:0008780", "label"),
        ("assay", "MARS-seq", "mouse", "EFO:0008796", "label"),
        ("assay", "mouse cell line", "mouse", "unknown", "unmapped"),  # a term of EFO, and no assay
        ("development_stage", "23-year-old stage", "human", "HsapDv:0000117", "label"),
        ("development_stage", "23 years", "human", "HsapDv:0000117", "label"),
        ("development_stage", "P7", "mouse", "MmusDv:0000117", "label"),
        ("development_stage", "8 weeks", "mouse", "MmusDv:0000154", "label"),
        ("development_stage", "CS13", "human", "HsapDv:0000020", "synonym"),
        ("development_stage", "23", "human", "unknown", "unmapped"),
        ("development_stage", "E14.5", "mouse", "unknown", "unmapped"),
        ("development_stage", "20-29 years", "human", "HsapDv:0000237", "label"),
        ("development_stage", "60 to 79 years", "human", "HsapDv:0000272", "label"),
        ("development_stage", "20-30 years", "human", "unknown", "unmapped"),  # no stage spans that
        ("development_stage", "80+ years", "human", "HsapDv:0000095", "label"),
        ("development_stage", "81+ years", "human", "unknown", "unmapped"),
        ("development_stage", "UBERON:0000113", "pig", "UBERON:0000113", "id"),
        ("development_stage", "UBERON:0000178", "pig", "unknown", "unmapped"),
        ("disease", "normal", "human", "PATO:0000461", "label"),
        ("disease", "healthy", "mouse", "PATO:0000461", "override"),
        ("disease", "COVID-19", "human", "MONDO:0100096", "label"),
        ("disease", "PATO:0000384", "human", "unknown", "unmapped"),
        ("sex", "male", "human", "PATO:0000384", "label"),
        ("sex", "F", "mouse", "PATO:0000383", "override"),
        ("sex", "hermaphrodite", "worm", "PATO:0001340", "label"),
        ("sex", "hermaphrodite", "human", "unknown", "unmapped"),
        ("sex", "female", "worm", "unknown", "unmapped"),
        ("self_reported_ethnicity", "HANCESTRO:0005", "human", "HANCESTRO:0005", "id"),
        ("self_reported_ethnicity", "na", "mouse", "na", "id"),
        ("self_reported_ethnicity", None, "mouse", "na", "missing"),
        ("self_reported_ethnicity", "unknown", "mouse", "na", "unknown"),
        ("self_reported_ethnicity", "European", "mouse", "na", "unmapped"),
        ("cell_culture", "tissue", "human", "tissue", "label"),
        ("cell_culture", "Cell Line", "human", "cell line", "label"),
        ("cell_culture", "organoids", "human", "organoid", "override"),
        ("cell_culture", "cell culture", "human", "unknown", "unmapped"),
        ("organism", "Homo sapiens", "human", "NCBITaxon:9606", "label"),
        ("organism", "NCBITaxon:9606", "human", "NCBITaxon:9606", "id"),
        ("organism", "Mus musculus", "human", "unknown", "unmapped"),
        ("organism", "Plasmodium berghei", "human", "unknown", "unmapped"),
        ("tissue", "PO:0009002", "arabidopsis", "unknown", "unmapped"),  # not pinned yet, so not believed
    ],
)
def test_rule(label: str, text: str | None, organism: str, term_id: str, how: str) -> None:
    match = one(label, text, organism)
    assert (match.term_id, match.how) == (term_id, how)
    assert bool(match.reason) == (how == "unmapped")
    assert match.mapped == (term_id not in ("unknown", "na") or how == "id")


@pytest.mark.parametrize(
    "text", ["unknown", "Unknown", "NA", "n/a", "not available", "unannotated", "?", " unassigned "]
)
@pytest.mark.parametrize("label", LABELS[:5])
def test_unknown_is_what_the_author_said(label: str, text: str) -> None:
    match = one(label, text)
    assert (match.how, match.term_id, match.label, match.reason) == ("unknown", "unknown", "unknown", "")


@pytest.mark.parametrize(
    "value", [None, "", "  ", "nan", "NaN", "None", float("nan"), np.float64("nan"), pd.NA, pd.NaT]
)
@pytest.mark.parametrize("label", ["cell_type", "disease", "sex", "cell_culture", "organism"])
def test_missing_is_what_the_author_did_not_say(label: str, value: object) -> None:
    match = one(label, value)
    assert (match.how, match.term_id) == ("missing", "unknown")


def test_all_missing_values_share_one_answer() -> None:
    matches = harmonise("cell_type", [None, float("nan"), pd.NA, "T cell"], "human")
    assert list(matches) == [None, "T cell"]
    assert matches[math.nan].how == "missing"
    with pytest.raises(KeyError):
        matches["B cell"]
    with pytest.raises(KeyError):
        Matches()[None]


def test_obsolete_ids_move_to_the_guides_replacement() -> None:
    guide, cl = OntologyParser(), load_ontology("CL")
    moved = [i for i in cl if guide.is_term_deprecated(i) and guide.get_term_replacement(i)]
    assert len(moved) > 100
    matches = harmonise("cell_type", moved, "human")
    checked = 0
    for old in moved:
        new = guide.get_term_replacement(old)
        if new in cl and not guide.is_term_deprecated(new):
            assert (matches[old].term_id, matches[old].how) == (new, "replaced"), old
            checked += 1
    assert checked > 100


def test_an_obsolete_id_without_replacement_offers_what_to_consider() -> None:
    cl = load_ontology("CL")
    lost = next(i for i in cl if cl[i].obsolete and cl.current(i) is None and any(c in cl for c in cl[i].consider))
    match = one("cell_type", lost)
    assert match.how == "unmapped"
    assert "obsolete" in match.reason
    assert {i for i, _ in match.suggestions} == {i for i in cl[lost].consider if i in cl}


def test_every_current_cl_label_maps_to_its_own_id() -> None:
    cl = load_ontology("CL")
    current = {i: cl.label(i) for i in cl if not cl[i].obsolete}
    matches = harmonise("cell_type", list(current.values()), "human")
    wrong = {i: matches[label] for i, label in current.items() if matches[label].term_id != i and matches[label].mapped}
    assert wrong == {}
    assert np.mean([matches[label].mapped for label in current.values()]) > 0.99


@pytest.mark.parametrize(
    ("text", "term_id", "how"),
    [
        ("MONDO:0100096 || MONDO:0005061", "MONDO:0005061 || MONDO:0100096", "id"),
        ("MONDO:0005061 || MONDO:0005061", "MONDO:0005061", "id"),
        ("COVID-19||MONDO:0005061", "MONDO:0005061 || MONDO:0100096", "label"),
        ("COVID-19 || nonsense", "unknown", "unmapped"),
        ("COVID-19 || ", "unknown", "unmapped"),
        ("||", "unknown", "unmapped"),
    ],
)
def test_several_values(text: str, term_id: str, how: str) -> None:
    match = one("disease", text)
    assert (match.term_id, match.how) == (term_id, how)
    if match.mapped:
        ids, labels = match.term_id.split(" || "), match.label.split(" || ")
        assert [load_ontology("MONDO").label(i) for i in ids] == labels


def test_an_override_may_name_several_terms() -> None:
    match = one("disease", "lung adenocarcinom + large cell neuroendocrine carcinoma")
    assert (match.term_id, match.how) == ("MONDO:0003960 || MONDO:0005061", "override")
    assert match.label == "pulmonary large cell neuroendocrine carcinoma || lung adenocarcinoma"


@pytest.mark.parametrize(
    ("label", "left", "right", "apart"),
    [
        ("cell_type", "CL:0000084", "hepatocyte", True),
        ("cell_type", "CL:0000084", "T cell", False),
        ("cell_type", "CL:0000583", "macrophage", False),  # an alveolar one: narrower is no contradiction
        ("cell_type", "macrophage", "CL:0000583", False),
        ("cell_type", "CL:0000084", "zorgblatt", False),  # what did not map contradicts nothing
        ("cell_type", "CL:0000084", "unknown", False),
        ("disease", "MONDO:0100096", "normal", True),
        ("disease", "MONDO:0100096 || MONDO:0005061", "lung adenocarcinoma", False),
        ("disease", "MONDO:0100096 || MONDO:0005061", "normal", True),
        ("sex", "PATO:0000383", "M", True),
        ("cell_culture", "tissue", "organoids", True),
    ],
)
def test_contradictions(label: str, left: str, right: str, apart: bool) -> None:
    assert one(label, left).contradicts(one(label, right)) is apart
    assert one(label, right).contradicts(one(label, left)) is apart


def test_confidence_follows_the_rule_and_its_order() -> None:
    texts = {"id": "CL:0000084", "replaced": "CL:0000003", "label": "T cell", "override": "NK", "synonym": "pDC"}
    found = {how: one("cell_type", text) for how, text in texts.items()}
    assert {how: m.how for how, m in found.items()} == {how: how for how in found}
    certain = [CONFIDENCE[how] for how in ("id", "replaced", "label", "override", "synonym")]
    assert certain == sorted(certain, reverse=True)
    assert len(set(certain)) == len(certain)
    assert {one("cell_type", text).confidence for text in ("zorgblatt", "unknown", None)} == {0.0}
    assert all(0 <= CONFIDENCE[how] <= 1 for how in HOWS)
    assert found["id"].confidence == 1
    # Several terms are as certain as the least certain of them.
    assert one("disease", "MONDO:0005061 || COVID-19").confidence == CONFIDENCE["label"]


def test_one_value_per_cell_elsewhere() -> None:
    assert "one value per cell" in one("tissue", "UBERON:0000178 || UBERON:0001264").reason


def test_ambiguous_text_is_left_to_a_person() -> None:
    mondo = load_ontology("MONDO")
    counted = {s: mondo.by_synonym(s) for i in list(mondo)[:4000] for s in mondo[i].synonyms}
    shared = [s for s, ids in counted.items() if len(ids) > 1 and len(s) > 3 and not mondo.by_label(s)][:20]
    assert shared
    for text in shared:
        assert one("disease", text).how in ("unmapped", "override"), text


def test_suggestions_help_and_never_map() -> None:
    match = one("cell_type", "CD14+ monocyte classical")
    assert not match.mapped
    assert 0 < len(match.suggestions) <= 5
    assert any("monocyte" in label for _, label in match.suggestions)
    assert all(load_ontology("CL").label(i) == label for i, label in match.suggestions)


def test_suggestions_are_bounded() -> None:
    texts = [f"odd monocyte {i}" for i in range(SUGGESTION_LIMIT + 50)]
    matches = harmonise("cell_type", texts, "human")
    assert sum(bool(m.suggestions) for m in matches.values()) == SUGGESTION_LIMIT


def test_bad_calls() -> None:
    with pytest.raises(OntologyInputError, match="cell_type, disease"):
        harmonise("colour", ["x"], "human")
    with pytest.raises(UnknownOrganismError):
        harmonise("cell_type", ["x"], "unicorn")
    assert harmonise("cell_type", [], "human") == {}


PLANTS = """format-version: 1.2
data-version: test
ontology: po

[Term]
id: PO:0025131
name: plant anatomical entity

[Term]
id: PO:0009002
name: plant cell
is_a: PO:0025131

[Term]
id: PO:0025034
name: leaf
synonym: "foliage" EXACT []
is_a: PO:0025131

[Term]
id: PO:0000070
name: leaf guard cell
is_a: PO:0009002
"""


@pytest.mark.usefixtures("own_home")
def test_plant_labels_map_once_the_plant_ontology_is_there(tmp_path: Path) -> None:
    """Without it they stay unmapped, and the reason says what to run."""
    asked = (("tissue", "leaf"), ("tissue", "foliage"), ("tissue", "PO:0025034"), ("cell_type", "leaf guard cell"))
    assert [one(label, text, "arabidopsis").how for label, text in asked] == ["unmapped"] * 4
    assert "panatlas references fetch ontology PO" in one("tissue", "PO:0025034", "arabidopsis").reason
    (tmp_path / "po.obo").write_text(PLANTS, "utf-8")
    import_ontology(tmp_path / "po.obo", "PO", {"source": "by hand", "release": "test", "licence": "none"})
    assert [one(label, text, "arabidopsis").how for label, text in asked] == ["label", "synonym", "id", "label"]
    assert one("cell_type", "leaf", "arabidopsis").how == "unmapped"  # no cell
    assert one("tissue", "leaves", "arabidopsis").term_id == "unknown"


HOSTILE = [
    "'; drop table x; --",
    "<script>alert(1)</script>",
    "CL:" + "0" * 10_000,
    "a\0b",
    "((((",
    "=cmd|' /C calc'!A0",
    "../" * 50,
]


@pytest.mark.parametrize("label", LABELS)
def test_hostile_text_is_only_text(label: str) -> None:
    for text in HOSTILE:
        match = one(label, text)
        assert match.how == "unmapped"
        assert match.text == text


texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["T cell", "CL:0000084", "CL_0000236", "NK", "male", "M", "23 years", "na", "", "unknown", "blood"]
    ),
    st.none(),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LABELS), texts, st.sampled_from(["human", "mouse", "fly", "arabidopsis"]))
def test_properties(label: str, text: str | None, organism: str) -> None:
    match = one(label, text, organism)
    assert match.text == (text or "")
    assert match.how in HOWS
    assert match.mapped == (match.how not in ("unknown", "missing", "unmapped"))
    assert not (match.mapped and match.suggestions)
    # What came out goes in again unchanged: the atlas re-reads its own labels.
    again = one(label, match.term_id, organism)
    assert again.term_id == match.term_id
    if match.mapped and match.term_id != "na":
        assert again.mapped
        assert again.how in ("id", "label")
        assert one(label, match.label, organism).term_id in (match.term_id, "unknown")
    # Neighbours do not matter.
    assert harmonise(label, ["T cell", text, "zzz", text], organism)[text].term_id == match.term_id


@pytest.mark.shared
def test_ids_of_real_files_stay_as_they_are(shared: Path) -> None:
    anndata = pytest.importorskip("anndata")
    labels = ("cell_type", "tissue", "disease", "assay", "sex", "development_stage", "self_reported_ethnicity")
    kept = total = 0
    for path in sorted((shared / "data").glob("*_cxg*.h5ad")):
        cells = anndata.read_h5ad(path, backed="r")
        organism = str(cells.uns["organism_ontology_term_id"])
        for label in labels:
            column = f"{label}_ontology_term_id"
            if column in cells.obs:
                counts = cells.obs[column].astype(str).value_counts()
                matches = harmonise(label, list(counts.index), organism)
                lost = [m for m in matches.values() if m.how == "unmapped"]
                assert lost == [], path.name
                kept += sum(n for text, n in counts.items() if matches[text].term_id == text)
                total += counts.sum()
    assert total > 10_000
    assert kept / total > 0.95


@pytest.mark.shared
def test_author_labels_of_real_files(shared: Path) -> None:
    anndata = pytest.importorskip("anndata")
    misses: dict[str, set[str]] = {}
    for path in sorted((shared / "data").glob("*.h5ad")):
        if not path.name.startswith(("human", "mouse")):
            continue
        cells = anndata.read_h5ad(path, backed="r")
        for label in ("cell_type", "tissue", "disease", "assay"):
            if label in cells.obs:
                matches = harmonise(label, cells.obs[label].astype(str).unique().tolist(), path.name.split("_")[0])
                misses.setdefault(label, set()).update(m.text for m in matches.values() if m.how == "unmapped")
    # Everything maps but two-letter codes, and a name that CL splits in two.
    assert misses == {
        "cell_type": {"CH", "ORT", "OS", "RE", "Stem", "Multipotent progenitors"},
        "tissue": set(),
        "disease": set(),
        "assay": set(),
    }
