"""What commands on networks begin with: names of genes, from a file that anybody may have written."""

from __future__ import annotations

import pytest

from catalog.errors import CatalogInputError
from catalog.network_inputs import names_of
from tests.model.small_network import of_edges


def test_names_are_the_networks_own_and_what_is_none_is_refused() -> None:
    assert names_of(of_edges([("a", "b", 1.0)], facts={"feature_names": {"a": "GATA1"}})) == {"a": "GATA1", "b": "b"}
    assert names_of(of_edges([("a", "b", 1.0)])) == {"a": "a", "b": "b"}
    for wrong in (["GATA1"], "GATA1", 3):
        with pytest.raises(CatalogInputError, match=r"feature_names.*names by feature id"):
            names_of(of_edges([("a", "b", 1.0)], facts={"feature_names": wrong}))
