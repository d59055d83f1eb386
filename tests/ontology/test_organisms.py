"""Organisms are rows: every promised one is there, answers to all its names, and nothing else does."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ontology import LABELS, Organism, UnknownOrganismError, get_organism, list_organisms
from ontology.organisms import forbidden_terms
from ontology.references import ontology_pins, wheel_pins
from ontology.terms import load_ontology

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
