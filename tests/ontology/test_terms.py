"""Ontologies agree with the guide's own parser, term by term, and survive malformed records."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import networkx as nx
import pytest
from cellxgene_ontology_guide.ontology_parser import OntologyParser
from hypothesis import given
from hypothesis import strategies as st

from ontology import (
    Ontology,
    OntologyInputError,
    ReferenceMismatchError,
    SourceUnavailableError,
    UnknownTermError,
    load_ontology,
    ontology_release,
    terms,
)
from ontology.references import OntologyPin, ontology_pins
from ontology.terms import fold_text

if TYPE_CHECKING:
    from pathlib import Path

NAMES = sorted({pin.name for pin in ontology_pins().values()})


@cache
def parser() -> OntologyParser:
    return OntologyParser()


@pytest.mark.parametrize("name", ["CL", "UBERON", "HsapDv", "HANCESTRO", "ZFA", "WBls", "PATO"])
def test_every_term_equals_the_guides(name: str) -> None:
    ours = load_ontology(name)
    guide = parser()
    ids = list(ours)[:: max(1, len(ours) // 2_000)]
    for term_id in ids:
        term = ours[term_id]
        assert term.label == guide.get_term_label(term_id)
        assert list(term.synonyms) == guide.get_term_synonyms(term_id)
        assert term.obsolete == guide.is_term_deprecated(term_id)
        assert set(term.parents) == set(guide.get_term_parents(term_id))
        assert ours.ancestors(term_id) == guide.get_term_ancestors_with_distances(term_id)
        assert term.replaced_by == guide.get_term_replacement(term_id)


@pytest.mark.parametrize("name", ["CL", "MmusDv"])
def test_descendants_equal_the_guides(name: str) -> None:
    ours = load_ontology(name)
    for term_id in list(ours)[::50]:
        assert ours.descendants(term_id) == set(parser().get_term_descendants(term_id))


def test_ancestors_are_the_closure_of_parents() -> None:
    cl = load_ontology("CL")
    graph = nx.DiGraph((term_id, parent) for term_id in cl for parent in cl[term_id].parents)
    for term_id in list(cl)[::97]:
        reached = nx.single_source_shortest_path_length(graph, term_id) if term_id in graph else {term_id: 0}
        assert cl.ancestors(term_id, with_self=True) == dict(reached)


def test_labels_find_their_terms() -> None:
    cl = load_ontology("CL")
    oracle = parser().get_term_label_to_id_map("CL")
    current = {label: i for label, i in oracle.items() if not parser().is_term_deprecated(i)}
    assert all(term_id in cl.by_label(label) for label, term_id in current.items())
    assert all(term_id in cl.by_label(f"  {label.upper()}_ ") for label, term_id in list(current.items())[::20])
    assert cl.by_label("obsolete immortal cell line cell") == ()


def test_synonyms_find_their_terms() -> None:
    cl = load_ontology("CL")
    for term_id in list(cl)[::40]:
        term = cl[term_id]
        assert all(term_id in cl.by_synonym(synonym) for synonym in term.synonyms if not term.obsolete)


@pytest.mark.parametrize("name", NAMES)
def test_pins_open_and_loading_is_quick(name: str) -> None:
    terms._load.cache_clear()
    start = time.process_time()
    ontology = load_ontology(name)
    # 0.02-0.4 s where it was written; the largest is Cellosaurus with 167,186 terms.
    assert time.process_time() - start < 4
    assert f"{name} " in ontology_release()
    assert len(ontology) > 50


def test_the_release_names_every_ontology_once_and_never_ncbitaxon() -> None:
    parts = [part.split()[0] for part in ontology_release().split(";")]
    assert parts == NAMES
    assert "NCBITaxon" not in parts
    with pytest.raises(OntologyInputError, match="NCBITaxon"):
        load_ontology("NCBITaxon")


def test_a_prefix_may_live_in_another_ontology() -> None:
    assert load_ontology("ZFS") is load_ontology("ZFA")
    assert load_ontology("AfPO") is load_ontology("HANCESTRO")


@pytest.mark.parametrize("term_id", ["CL:0", "", "T cell", None, 3, ["CL:0000084"], "CL:0000084 "])
def test_unknown_ids_are_key_errors(term_id: object) -> None:
    cl = load_ontology("CL")
    with pytest.raises(UnknownTermError):
        cl[term_id]  # type: ignore[index]
    assert term_id not in cl
    assert cl.get("CL:0") is None


def test_a_changed_asset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = ontology_pins()["CL"]
    forged = tmp_path / pin.file
    forged.write_bytes(terms._asset(pin).read_bytes() + b"\0")
    monkeypatch.setattr(terms, "_asset", lambda _: forged)
    terms._load.cache_clear()
    with pytest.raises(ReferenceMismatchError, match=pin.sha256):
        load_ontology("CL")


def test_a_missing_asset_names_the_package() -> None:
    with pytest.raises(SourceUnavailableError, match="install cellxgene-ontology-guide=="):
        terms._asset(OntologyPin("CL", "v1999-01-01", "0" * 64))


def record(**over: object) -> dict[str, object]:
    return {"label": "x", "ancestors": {}, "deprecated": False} | over


def test_replacement_chains_end() -> None:
    records = {
        "A:1": record(deprecated=True, replaced_by="A:2"),
        "A:2": record(deprecated=True, replaced_by="A:3"),
        "A:3": record(),
        "A:4": record(deprecated=True, replaced_by="A:5"),
        "A:5": record(deprecated=True, replaced_by="A:4"),
        "A:6": record(deprecated=True),
        "A:7": record(deprecated=True, replaced_by="B:1"),
        "A:8": record(deprecated=True, replaced_by="A:8"),
    }
    made = Ontology("A", "v1", records)
    found = {term_id: made.current(term_id) for term_id in made}
    assert found == {
        "A:1": "A:3",
        "A:2": "A:3",
        "A:3": "A:3",
        "A:4": None,
        "A:5": None,
        "A:6": None,
        "A:7": "B:1",
        "A:8": None,
    }


def test_current_ids_of_the_real_ontologies_are_current() -> None:
    for name in ("CL", "UBERON"):
        ontology = load_ontology(name)
        for term_id in ontology:
            current = ontology.current(term_id)
            assert current is None or current not in ontology or not ontology[current].obsolete


@given(st.text())
def test_folding_is_idempotent(text: str) -> None:
    assert fold_text(fold_text(text)) == fold_text(text)
