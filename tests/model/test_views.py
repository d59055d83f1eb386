"""Views: thinning is binomial and takes neighbours along, masks hide what they say, and seeds repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from model.errors import ModelInputError
from model.objective import make_view
from model.ragged import make_ragged
from model.views import View, mask, only_neighbours, random_shares, seeded, thin
from tests.model.toy_batches import N_GENES, toy_batch


def many(count: float, cells: int, genes: int) -> View:
    """Return cells in which every gene has this count."""
    rows, total = make_ragged([genes] * cells), cells * genes
    counts = torch.full((total,), count)
    around = torch.full((2, total), count)
    tokens = torch.arange(genes).repeat(cells)
    return View(tokens, counts, rows, rows.sum(counts), None, around, torch.ones(cells, 2))


def test_thinned_counts_are_binomial_in_the_cell_and_in_its_neighbours() -> None:
    share = torch.tensor([0.3, 0.9])
    view = thin(many(8.0, 2, 20_000), share, seeded(1))
    for cell, lost in enumerate(share.tolist()):
        expected = stats.binom.pmf(np.arange(9), 8, 1 - lost) * 20_000
        for counts in (view.counts, *view.neighbour_counts):
            found = np.bincount(counts.split([20_000] * 2)[cell].long(), minlength=9)
            enough = expected > 5
            assert (
                stats.chisquare(found[enough], expected[enough] * found[enough].sum() / expected[enough].sum()).pvalue
                > 1e-4
            )


def test_nothing_is_lost_at_0_and_everything_at_1() -> None:
    batch, rows = toy_batch()
    view = make_view(batch, rows)
    whole, none = (thin(view, torch.full((4,), share), seeded(0)) for share in (0.0, 1.0))
    assert torch.equal(whole.counts, view.counts)
    assert torch.equal(whole.neighbour_counts, view.neighbour_counts)
    assert torch.allclose(whole.depth, view.depth)
    assert not none.counts.any()
    assert not none.depth.any()
    with pytest.raises(ModelInputError, match="share"):
        thin(view, torch.full((4,), 1.5), seeded(0))


def test_the_same_seed_draws_the_same_and_steps_differ() -> None:
    batch, rows = toy_batch()
    view = make_view(batch, rows)
    share = random_shares(0.8, 4, seeded(3, 1, 2))
    first, again, other = (thin(view, share, seeded(3, *step)).counts for step in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (random_shares(0.8, 4, seeded(0), random=False) == 0.8).all()


def test_masks_hide_their_share_of_every_cell_and_of_its_neighbours() -> None:
    batch, rows = toy_batch()
    view = mask(make_view(batch, rows), 0.3, seeded(0))
    assert rows.sum(view.hidden.long()).tolist() == [int(size * 0.3) for size in rows.sizes]
    assert not view.neighbour_counts[:, view.hidden].any()
    assert torch.equal(view.neighbour_counts[:, ~view.hidden], batch.neighbour_counts[:, ~view.hidden])


def test_regulators_are_mostly_spared() -> None:
    regulators = torch.zeros(N_GENES, dtype=torch.bool)
    regulators[::2] = True
    view = mask(many(1.0, 200, N_GENES), 0.3, seeded(0), regulators)
    hidden = view.hidden.view(200, N_GENES).double().mean(0)
    assert hidden[::2].mean() < 0.06
    assert hidden[1::2].mean() > 0.5
    even = mask(many(1.0, 500, N_GENES), 0.3, seeded(0)).hidden.view(500, N_GENES).double().mean(0)
    assert (even - 0.3).abs().max() < 0.1


def test_neighbours_alone_hide_the_cell_and_nothing_else() -> None:
    batch, rows = toy_batch()
    view = only_neighbours(make_view(batch, rows))
    assert view.hidden.all()
    assert torch.equal(view.neighbour_counts, batch.neighbour_counts)
