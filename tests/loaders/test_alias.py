"""The alias table stands for the distribution it was made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders import LoaderInputError
from loaders.alias import make_alias_table


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=60).filter(any))
def test_the_table_is_the_distribution(weights: list[float]) -> None:
    table = make_alias_table(weights)
    expected = np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(table.probabilities(), expected, atol=1e-12)
    units = np.linspace(0, 1, 5001, endpoint=False)
    assert not (expected[table.draw(units)] == 0).any(), "a group of weight 0 is never drawn"


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0, 2.0], [float("nan")], [float("inf")], [[1.0]]])
def test_what_is_no_distribution_is_refused(weights: list) -> None:
    with pytest.raises(LoaderInputError, match="weights"):
        make_alias_table(weights)
