"""What a curator is shown, and which answers are kept: every way of being wrong has a row."""

from __future__ import annotations

import datetime as dt

import pytest

from ontology import OntologyInputError, UnknownOrganismError, harmonise
from ontology.curate import Answer, curate_labels, in_force, judge_answers
from ontology.overrides import Override, add_overrides

pytestmark = pytest.mark.usefixtures("own_home")
DAY = dt.date(2026, 1, 2)


def answer(**given: object) -> Answer:
    values = {
        "where": "line 2", "label": "cell_type", "text": "zorgblatt", "organism": "human", "accept": "CL:0000084",
        "who": "ann", "when": "", "why": "saw them",
    }  # fmt: skip
    return Answer(**(values | given))  # type: ignore[arg-type]


def test_rows_come_in_a_curators_order() -> None:
    counts = {
        ("tissue", "human", "blood"): 5,
        ("cell_type", "Homo sapiens", "zorg"): 2,
        ("cell_type", "human", "zorg"): 1,
        ("cell_type", "human", "blatt"): 9,
        ("cell_type", "human", "T cell"): 50,
        ("cell_type", "9606", "aaa"): 9,
    }
    rows, left = curate_labels(counts)
    assert [(r.label, r.organism, r.match.text, r.n) for r in rows] == [
        ("cell_type", "human", "aaa", 9),
        ("cell_type", "human", "blatt", 9),
        ("cell_type", "human", "zorg", 3),
        ("cell_type", "human", "T cell", 50),
        ("tissue", "human", "blood", 5),
    ]
    assert left == 0


def test_what_gets_no_suggestions_is_counted_and_is_the_rarest() -> None:
    counts = {("cell_type", "human", f"odd monocyte {i}"): i + 1 for i in range(6)}
    rows, left = curate_labels(counts, limit=4)
    assert left == 2
    assert [bool(row.match.suggestions) for row in rows] == [True] * 4 + [False] * 2
    assert [row.n for row in rows] == [6, 5, 4, 3, 2, 1]


def test_bad_calls() -> None:
    with pytest.raises(OntologyInputError):
        curate_labels({("colour", "human", "x"): 1})
    with pytest.raises(UnknownOrganismError):
        curate_labels({("cell_type", "unicorn", "x"): 1})
    assert curate_labels({}) == ((), 0)


@pytest.mark.parametrize(
    ("given", "term_id", "organism"),
    [
        ({}, "CL:0000084", "human"),
        ({"accept": " CL_0000084 "}, "CL:0000084", "human"),
        ({"accept": "2", "suggestions": ("CL:0000236", "CL:0000084")}, "CL:0000084", "human"),
        ({"organism": "Mus musculus"}, "CL:0000084", "mouse"),
        ({"organism": "*"}, "CL:0000084", "*"),
        ({"text": "NK", "accept": "CL:0000825"}, "CL:0000825", "human"),
        ({"label": "cell_culture", "text": "on a dish", "accept": "Cell Line"}, "cell line", "human"),
        ({"label": "disease", "accept": "MONDO:0100096||MONDO:0005061"}, "MONDO:0005061 || MONDO:0100096", "human"),
        ({"label": "tissue", "accept": "CVCL_0023"}, "CVCL_0023", "human"),
    ],
)
def test_sound_answers_become_overrides_that_take_effect(given: dict[str, object], term_id: str, organism: str) -> None:
    one = answer(**given)
    judged = judge_answers([one], today=DAY)
    assert judged.refused == ()
    row = Override(one.text, term_id, organism, "ann", "2026-01-02", "saw them")
    assert dict(judged.overrides) == {one.label: (row,)}
    add_overrides(judged.overrides)
    asked = "human" if organism == "*" else organism
    assert harmonise(one.label, [one.text], asked)[one.text].term_id == term_id


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"label": "colour"}, "none of cell_type"),
        ({"text": "  "}, "1 to 500 characters"),
        ({"text": "x" * 501}, "1 to 500 characters"),
        ({"who": " "}, "who is empty"),
        ({"why": ""}, "why is empty"),
        ({"when": "yesterday"}, "not a date such as 2026-01-02"),
        ({"when": "21/11/2026"}, "not a date"),
        ({"accept": "T cell"}, "neither a term id nor the number"),
        ({"accept": "3", "suggestions": ("CL:0000236", "CL:0000084")}, "neither a term id nor the number"),
        ({"accept": "0", "suggestions": ("CL:0000236",)}, "neither a term id nor the number"),
        ({"accept": "1", "suggestions": ("",)}, "neither a term id nor the number"),
        ({"accept": "9" * 5000}, "neither a term id nor the number"),
        ({"organism": "unicorn"}, "no organism is called 'unicorn'"),
        ({"accept": "CL:9999999"}, "not a term of CL"),
        ({"accept": "CL:0000002"}, "CL:0000002 is obsolete; use "),
        ({"accept": "UBERON:0000178"}, "UBERON ids are not used for cell_type"),
        ({"accept": "CL:0000255"}, "too general"),
        ({"label": "sex", "organism": "worm", "accept": "PATO:0000383"}, "worm"),
        ({"label": "tissue", "accept": "UBERON:0000178 || UBERON:0001264"}, "takes one term"),
        ({"label": "disease", "accept": "MONDO:0100096 || nonsense"}, "neither a term id"),
        ({"text": "B cell"}, "taken by label to CL:0000236"),
        ({"text": "unknown"}, "taken as unknown"),
        ({"text": "CL:9999999"}, "an id"),
        ({"label": "cell_culture", "accept": "a dish"}, "none of tissue, organoid"),
        ({"label": "organism", "accept": "NCBITaxon:9606"}, ""),
    ],
)
def test_answers_that_cannot_be_kept(given: dict[str, object], why: str) -> None:
    judged = judge_answers([answer(**given)], today=DAY)
    assert dict(judged.overrides) == {}
    ((_, said),) = judged.refused
    assert why in said
    assert said


def test_rows_that_contradict_each_other_or_a_former_decision() -> None:
    twice = [answer(), answer(where="line 3", text="Zorgblatt "), answer(where="line 4", accept="CL:0000236")]
    judged = judge_answers(twice, today=DAY)
    assert len(judged.overrides["cell_type"]) == 1
    assert judged.refused == ((twice[2], "line 2 says CL:0000084 for the same text"),)
    add_overrides(judged.overrides)
    assert judge_answers([answer(who="bob")], today=DAY).refused == ()  # said again, by another
    ((_, said),) = judge_answers([answer(accept="CL:0000236")], today=DAY).refused
    assert "as ann decided on 2026-01-02" in said
    assert "cell_type.tsv" in said


def test_an_answer_is_in_force_only_where_an_override_says_the_same() -> None:
    assert not in_force(answer())
    add_overrides({"cell_type": (Override("zorgblatt", "CL:0000084", "*", "ann", "2026-01-02", "saw them"),)})
    assert in_force(answer())
    assert in_force(answer(text="ZORGblatt", organism="mouse", who="bob"))
    assert in_force(answer(organism="*"))
    for other in ({"accept": "CL:0000236"}, {"accept": "1"}, {"text": "zorg"}, {"organism": "unicorn"}, {"label": "x"}):
        assert not in_force(answer(**other)), other
    assert in_force(answer(accept="1", suggestions=("CL:0000084",)))
    assert in_force(answer(text="NK", accept="CL:0000623"))  # as shipped
    assert not in_force(answer(text="NK", accept="CL:0000084"))
