"""Counts become features as stated, hidden ones show nowhere, neighbours are a set of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ExpressionConfig
from model.expression import ExpressionEncoder, quantile_bins
from model.neighbour_set import NeighbourSet
from model.ragged import make_ragged

SCALES = ("log", "sum", "both", "binned")
SIZES = [6, 3, 8]


def make_encoder(scale: str, neighbours: int = 6) -> ExpressionEncoder:
    torch.manual_seed(0)
    return ExpressionEncoder(ExpressionConfig(scale=scale, neighbours=neighbours), 16).double().eval()


def some_counts(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).poisson(2.0, sum(SIZES)).astype(np.float64))


@pytest.mark.parametrize("scale", SCALES)
def test_a_hidden_count_shows_nowhere(scale: str) -> None:
    encoder, rows, counts = make_encoder(scale), make_ragged(SIZES), some_counts()
    hidden = torch.zeros(sum(SIZES), dtype=torch.bool)
    hidden[[1, 4, 10]] = True
    other = counts.clone()
    other[hidden] = 77.0
    assert torch.equal(encoder(counts, rows, hidden=hidden), encoder(other, rows, hidden=hidden))
    zero = counts.masked_fill(hidden, 0)
    differs = (encoder(zero, rows) - encoder(zero, rows, hidden=hidden)).abs().amax(1) > 0
    assert torch.equal(differs, hidden), "hidden and a measured zero are two things"


@pytest.mark.parametrize("scale", SCALES)
def test_cells_are_encoded_alike_alone_and_together(scale: str) -> None:
    encoder, counts = make_encoder(scale), some_counts()
    together = encoder(counts, make_ragged(SIZES)).split(SIZES)
    for cell, mine in enumerate(counts.split(SIZES)):
        assert torch.allclose(encoder(mine, make_ragged([len(mine)])), together[cell], atol=1e-12)


def test_a_gate_is_of_the_share_and_shows_nothing_hidden() -> None:
    torch.manual_seed(0)
    encoder = ExpressionEncoder(ExpressionConfig(gated=True), 16).double()
    rows, counts = make_ragged([3]), torch.tensor([0.0, 30.0, 10.0], dtype=torch.float64)
    found = encoder.gate(counts, rows)
    assert np.allclose(found[:, 0].numpy(), 1 + np.log1p([0, 7_500, 2_500]))
    assert torch.allclose(encoder.gate(counts * 9, rows), found), "depth is no share"
    hidden = torch.tensor([False, True, False])
    shown = encoder.gate(counts, rows, hidden)
    assert torch.equal(shown, encoder.gate(torch.tensor([0.0, 99.0, 10.0], dtype=torch.float64), rows, hidden))
    assert float(shown[1, 0]) == 1.0
    assert ExpressionEncoder(ExpressionConfig(), 16).gate(counts, rows) == 1.0


def test_shares_do_not_depend_on_depth_and_logs_do() -> None:
    rows, counts = make_ragged(SIZES), some_counts() + 1
    assert torch.allclose(make_encoder("sum")(counts, rows), make_encoder("sum")(3 * counts, rows))
    assert not torch.allclose(make_encoder("log")(counts, rows), make_encoder("log")(3 * counts, rows))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=0, max_size=12), min_size=1, max_size=4), st.sampled_from([1, 5, 50])
)
def test_bins_are_shares_of_the_expressed_genes(cells: list, bins: int) -> None:
    counts = torch.tensor([count for cell in cells for count in cell], dtype=torch.float64)
    found = quantile_bins(counts, make_ragged([len(cell) for cell in cells]), bins).tolist()
    expected = []
    for cell in cells:
        expressed = [count for count in cell if count]
        for count in cell:
            smaller = sum(other < count for other in expressed)
            expected.append(1 + smaller * bins // len(expressed) if count else 0)
    assert found == expected
    assert all(bin_ <= bins for bin_ in found)


def test_the_order_of_neighbours_and_empty_slots_change_nothing() -> None:
    torch.manual_seed(0)
    neighbours, rows = NeighbourSet(16).double(), make_ragged(SIZES)
    counts = torch.poisson(torch.full((4, sum(SIZES)), 3.0)).double()
    distances = torch.rand(3, 4).double()
    found = neighbours(counts, rows, distances)
    order = torch.randperm(4)
    assert torch.allclose(neighbours(counts[order], rows, distances[:, order]), found, atol=1e-12)
    more = torch.cat([counts, torch.zeros(2, sum(SIZES)).double()])
    empty = torch.cat([distances, torch.full((3, 2), torch.inf).double()], 1)
    assert torch.allclose(neighbours(more, rows, empty), found, atol=1e-12)


def test_six_copies_of_a_neighbour_say_what_one_says() -> None:
    torch.manual_seed(0)
    neighbours, rows = NeighbourSet(16).double(), make_ragged([5])
    counts, distance = torch.poisson(torch.full((1, 5), 3.0)).double(), torch.tensor([[0.8]]).double()
    six = neighbours(counts.repeat(6, 1), rows, distance.repeat(1, 6))
    assert torch.allclose(six, neighbours(counts, rows, distance), atol=1e-12)


def test_no_neighbour_adds_nothing_and_gives_no_nan() -> None:
    encoder, rows, counts = make_encoder("log"), make_ragged(SIZES), some_counts()
    none = torch.full((3, 6), torch.inf).double()
    found = encoder(
        counts, rows, neighbour_counts=torch.zeros(6, sum(SIZES)).double(), neighbour_distances=none.requires_grad_()
    )
    assert torch.equal(found, encoder(counts, rows))
    found.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_distance_counts() -> None:
    torch.manual_seed(0)
    neighbours, rows = NeighbourSet(16).double(), make_ragged([5])
    counts = torch.poisson(torch.full((2, 5), 3.0)).double()
    near, far = (neighbours(counts, rows, torch.tensor([[0.1, d]]).double()) for d in (0.2, 3.0))
    assert not torch.allclose(near, far)
