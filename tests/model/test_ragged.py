"""Packed cells keep to themselves: padding and back is the identity, sums and shares are numpy's, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ModelInputError
from model.ragged import make_ragged

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=6)


@given(SIZES, st.integers(0, 2**31 - 1))
def test_padding_and_back_is_the_identity_and_sums_are_numpys(sizes: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(sum(sizes), 3))
    ragged, packed = make_ragged(sizes), torch.from_numpy(rows)
    assert torch.equal(ragged.unpad(ragged.pad(packed)), packed)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    assert np.allclose(ragged.sum(packed).numpy(), [part.sum(0) for part in parts])
    assert ragged.mask.sum(1).tolist() == sizes
    assert ragged.owners.tolist() == np.repeat(np.arange(len(sizes)), sizes).tolist()


@given(SIZES, st.integers(0, 2**31 - 1))
def test_shares_add_up_to_one_in_every_cell_that_has_rows(sizes: list[int], seed: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=sum(sizes)) * 10)
    ragged = make_ragged(sizes)
    shares = ragged.softmax(scores)
    for size, mine, given_scores in zip(sizes, shares.split(sizes), scores.split(sizes), strict=True):
        assert torch.allclose(mine, given_scores.softmax(0))
        assert not size or abs(float(mine.sum()) - 1) < 1e-12


def test_rows_of_other_cells_are_refused() -> None:
    with pytest.raises(ModelInputError, match="rows"):
        make_ragged([2, 3]).pad(torch.zeros(4))
    with pytest.raises(ModelInputError, match="sizes"):
        make_ragged([2, -1])
