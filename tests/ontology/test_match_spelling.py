"""Ids in every spelling authors use, terms that stand alone, and calls that are none."""

from __future__ import annotations

import pytest

from ontology import OntologyInputError, harmonise


@pytest.mark.parametrize(
    "text", ["http://purl.obolibrary.org/obo/CL_0000084", "cl:0000084", "Cl:0000084", "CL_0000084"]
)
def test_an_id_is_known_however_it_is_spelled(text: str) -> None:
    match = harmonise("cell_type", [text], "human")[text]
    assert (match.term_id, match.how, match.text) == ("CL:0000084", "id", text)


def test_a_cluster_number_is_no_id() -> None:
    assert harmonise("cell_type", ["cl_5"], "human")["cl_5"].how == "unmapped"


@pytest.mark.parametrize(
    "text", ["MONDO:0100096 || PATO:0000461", "COVID-19 || normal", "PATO:0000461 || MONDO:0100096"]
)
def test_normal_stands_alone_among_diseases(text: str) -> None:
    match = harmonise("disease", [text], "human")[text]
    assert match.how == "unmapped"
    assert "stands alone" in match.reason
    assert (
        harmonise("disease", ["normal || normal"], "human")["normal || normal"].term_id
        != "PATO:0000461 || PATO:0000461"
    )


@pytest.mark.parametrize("values", ["T cell", 5])
def test_one_text_is_no_list_of_texts(values: object) -> None:
    with pytest.raises(OntologyInputError, match="a list of texts"):
        harmonise("cell_type", values, "human")
