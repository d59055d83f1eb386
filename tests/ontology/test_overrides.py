"""Every shipped override names a current, allowed term, was made by somebody for a reason, and takes effect."""

from __future__ import annotations

import datetime as dt

import pytest

from ontology import LABELS, get_organism, harmonise
from ontology.allowed import ontology_of, refusal
from ontology.match import CULTURES
from ontology.overrides import Override, find_override, load_overrides

ROWS = [
    pytest.param(label, row, id=f"{label}-{row.organism}-{row.text}")
    for label in LABELS
    for row in load_overrides(label)
]


def organism_of(row: Override) -> str:
    return "human" if row.organism == "*" else row.organism


@pytest.mark.parametrize(("label", "row"), ROWS)
def test_a_row_is_sound(label: str, row: Override) -> None:
    assert all((row.text.strip(), row.who, row.why))
    assert dt.date.fromisoformat(row.when)
    if label == "cell_culture":
        assert row.term_id in CULTURES
        return
    ontology = ontology_of(row.term_id)
    assert ontology is not None
    assert not ontology[row.term_id].obsolete
    assert refusal(label, row.term_id, get_organism(organism_of(row))) == ""


@pytest.mark.parametrize(("label", "row"), ROWS)
def test_a_row_takes_effect(label: str, row: Override) -> None:
    match = harmonise(label, [row.text], organism_of(row))[row.text]
    assert match.term_id == row.term_id
    assert match.how in ("override", "synonym", "label")


def test_rows_are_not_repeated() -> None:
    for label in LABELS:
        keys = [(row.text.casefold(), row.organism) for row in load_overrides(label)]
        assert len(keys) == len(set(keys)), label


def test_a_row_holds_for_its_organism_only() -> None:
    assert find_override("cell_type", "CD14 Mono", get_organism("human")) == "CL:0001054"
    assert find_override("cell_type", "CD14 Mono", get_organism("mouse")) is None
    stages = {
        name: find_override("development_stage", "Adult", get_organism(name)) for name in ("human", "mouse", "fly")
    }
    assert stages == {"human": "HsapDv:0000258", "mouse": "MmusDv:0000110", "fly": None}


def test_a_row_whose_term_is_not_allowed_is_not_used() -> None:
    # "M" is male everywhere, and "F" is female; worms have males and hermaphrodites only.
    assert find_override("sex", "M", get_organism("worm")) == "PATO:0000384"
    assert find_override("sex", "F", get_organism("worm")) is None
