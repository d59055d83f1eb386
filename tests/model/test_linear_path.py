"""The linear path: sums done by hand, nothing round the hidden, new organisms read by their groups."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from loaders import CollateConfig, Collator, make_sampler, make_vocabulary
from model import Network, make_token_table, with_label, with_organism
from model.gene_levels import CELLS, measure_levels
from model.linear_path import LinearPath, filled, vector_places
from model.objective import make_view
from model.ragged import Ragged
from model.views import View, mask, seeded
from ontology import load_gene_table
from tests.model.small_runs import small_cells, small_config, small_recipe, small_start

NUMBERS = np.arange(20)


@pytest.fixture(scope="module")
def path() -> LinearPath:
    """Return a path with levels of the small cells."""
    vocabulary = make_vocabulary(small_cells())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = LinearPath(8, make_token_table(vocabulary), 3, 16)
    measure_levels(made, small_cells(), vocabulary, small_recipe().data)
    return made


@pytest.fixture(scope="module")
def view() -> View:
    """Return some small cells with two neighbours each."""
    vocabulary = make_vocabulary(small_cells())
    batch = Collator(vocabulary, small_cells(), small_recipe().data.collate).collate(NUMBERS, NUMBERS)
    return make_view(batch, Ragged(batch.offsets, tuple(batch.offsets.diff().tolist())))


def cells_of(view: View) -> list[slice]:
    """Return the rows of each cell."""
    borders = view.rows.offsets.tolist()
    return [slice(*pair) for pair in pairwise(borders)]


def test_a_profile_adds_up_expressed_genes_by_how_far_their_levels_are_from_the_mean(
    path: LinearPath, view: View
) -> None:
    genes, counts = view.genes.numpy().astype(int), view.counts.numpy()
    vectors, level = path.vectors.weight.detach().numpy(), path.level.numpy()
    sums = []
    for cell, one in enumerate(cells_of(view)):
        shown = np.flatnonzero(counts[one] > 0) + one.start
        beyond = np.log1p(1e4 * counts[shown] / float(view.depth[cell])) - level[genes[shown]]
        sums.append(beyond @ vectors[path.place.numpy()[genes[shown]]] / np.sqrt(len(shown)))
    sums = np.stack(sums)
    wanted = (sums - sums.mean(1, keepdims=True)) / np.sqrt(sums.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(path.profile(view).detach().numpy(), wanted, atol=1e-4)


def test_levels_and_shares_are_means_over_all_cells_that_measured_a_gene(path: LinearPath) -> None:
    cells, vocabulary, recipe = small_cells(), make_vocabulary(small_cells()), small_recipe().data
    sampler = make_sampler(cells, recipe.plan, vocabulary)
    assert len(sampler) < CELLS
    drawn = sampler.draw(0, 0, len(sampler))
    whole = Collator(vocabulary, cells, CollateConfig(length=10_000)).collate(drawn, np.arange(len(drawn)))
    levels, shares, among = (np.zeros(vocabulary.n_genes) for _ in range(3))
    for cell, (first, last) in enumerate(pairwise(whole.offsets.tolist())):
        genes = whole.genes[first:last].long().numpy()
        share = whole.counts[first:last].numpy() / float(whole.depth[cell])
        levels[genes] += np.log1p(1e4 * share)
        shares[genes] += share
        among[genes] += 1
    known = among > 0
    np.testing.assert_allclose(path.level.numpy()[known], (levels / among.clip(1))[known], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(path.share.numpy()[known], np.log(shares / among.clip(1) + 1e-7)[known], rtol=1e-4)


def test_zeros_of_a_context_say_nothing_in_a_profile(path: LinearPath) -> None:
    cells, vocabulary = small_cells(), make_vocabulary(small_cells())
    found = []
    for zeros in ("none", "random"):
        batch = Collator(vocabulary, cells, CollateConfig(length=10_000, zeros=zeros)).collate(NUMBERS, NUMBERS)
        found.append(path.profile(make_view(batch, Ragged(batch.offsets, tuple(batch.lengths.tolist())))))
    assert bool((batch.counts == 0).any())
    torch.testing.assert_close(*found)


def test_smoothed_shares_mix_the_cell_its_neighbours_and_the_means(path: LinearPath, view: View) -> None:
    found = path.smoothed(view).exp().detach()
    for one in cells_of(view):
        own, near = view.counts[one], view.neighbour_counts[:, one].sum(0)
        means = path.share[view.genes[one].long()].softmax(0)
        some = float(near.sum()) > 0
        wanted = own + 100 * means + (500 * near / near.sum() if some else 0)
        np.testing.assert_allclose(found[one], wanted / (own.sum() + (600 if some else 100)), rtol=1e-4)
        assert float(found[one].sum()) == pytest.approx(1, abs=1e-4)


def test_what_is_hidden_says_nothing(path: LinearPath, view: View) -> None:
    hiding = mask(view, 0.5, seeded(0))
    other = replace(hiding, counts=torch.where(hiding.hidden, hiding.counts + 50, hiding.counts))
    assert torch.equal(path.smoothed(hiding), path.smoothed(other))
    assert torch.equal(path.profile(hiding), path.profile(other))
    assert not torch.equal(path.profile(hiding), path.profile(view))


def test_an_untrained_head_says_little_else_than_what_was_smoothed(view: View) -> None:
    vocabulary = make_vocabulary(small_cells())
    network = Network(small_config(), vocabulary, make_token_table(vocabulary)).eval()
    measure_levels(network.linear, small_cells(), vocabulary, small_recipe().data)
    with torch.no_grad():
        encoded = network.encode(view)
        total = view.rows.sum(view.counts)
        told = network.express(encoded, view.rows, view.depth, total)
    share = told.mean / view.rows.spread(total)
    np.testing.assert_allclose(share, network.linear.smoothed(view).detach().exp(), rtol=0.02)


def test_a_new_organism_and_a_new_token_leave_what_was_there_as_it_was(view: View) -> None:
    start = small_start().model
    measure_levels(start.network.linear, small_cells(), start.vocabulary, small_recipe().data)
    path = start.network.linear
    genes = load_gene_table("mouse").ids[:3000].tolist()
    grown = with_label(with_organism(start, "mouse", genes), "ethnicity", ["African", "Asian"])
    longer, size = grown.network.linear, len(path.level)
    assert (len(longer.level), longer.seats[0]) == (size + 3000, path.seats[0] + 1)
    assert torch.equal(longer.profile(view), path.profile(view))
    assert torch.equal(longer.smoothed(view), path.smoothed(view))
    profile = path.profile(view)
    assert torch.equal(longer.tokens(profile)[:, :-1], path.tokens(profile))
    cells = torch.randn(20, *longer.seats, generator=torch.Generator().manual_seed(0))
    made = [one.told(part, view.genes, view.rows) for one, part in ((longer, cells), (path, cells[:, :-1]))]
    np.testing.assert_allclose(made[0].detach(), made[1].detach(), atol=1e-5)
    place, level = longer.place.numpy(), longer.level.numpy()
    twins = [one for one in range(size, size + 3000) if (place[:size] == place[one]).sum() == 1]
    assert len(twins) > 500, "mouse genes share groups with human ones"
    for one in twins[:50]:
        assert level[one] == pytest.approx(float(level[:size][place[:size] == place[one]][0]), rel=1e-5)


def test_unknown_values_come_from_their_likes_or_from_all() -> None:
    values, known = torch.tensor([1.0, 3.0, 0.0, 0.0, 8.0]), torch.tensor([True, True, False, False, True])
    place = torch.tensor([0, 0, 0, 1, 2])
    assert filled(values, known, place).tolist() == [1, 3, 2, 4, 8]
    assert filled(values, torch.zeros(5, dtype=torch.bool), place).tolist() == [0] * 5


def test_genes_of_a_group_share_a_vector_and_others_have_their_own() -> None:
    table = make_token_table(make_vocabulary(small_cells()))
    place = vector_places(table)
    grouped = table.group >= 0
    assert (place[grouped] == table.group[grouped]).all()
    assert (place[~grouped] >= len(table.groups)).all()
