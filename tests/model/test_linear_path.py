"""The linear path: sums done by hand, nothing round the hidden, new organisms read by their groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loaders import Collator, make_vocabulary
from model import Network, make_token_table
from model.gene_levels import CELLS, measure_levels
from model.linear_path import LinearPath, filled, vector_places
from model.objective import make_view
from model.ragged import Ragged
from model.recipe import make_optimizer
from model.views import View, mask, seeded
from tests.model.small_runs import small_cells, small_config, small_recipe

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
    borders = view.rows.offsets.tolist()
    return [slice(*pair) for pair in zip(borders[:-1], borders[1:], strict=True)]


def test_a_profile_is_the_sum_of_vectors_by_how_far_levels_are_from_the_mean(path: LinearPath, view: View) -> None:
    genes, counts = view.genes.numpy().astype(int), view.counts.numpy()
    vectors, level = path.vectors.weight.detach().numpy(), path.level.numpy()
    sums = []
    for cell, one in enumerate(cells_of(view)):
        beyond = np.log1p(1e4 * counts[one] / float(view.depth[cell])) - level[genes[one]]
        sums.append(beyond @ vectors[path.place.numpy()[genes[one]]] / np.sqrt(one.stop - one.start))
    sums = np.stack(sums)
    wanted = (sums - sums.mean(1, keepdims=True)) / np.sqrt(sums.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(path.profile(view).detach().numpy(), wanted, atol=1e-4)


def test_levels_are_the_means_of_what_is_drawn_first(path: LinearPath) -> None:
    """All the small cells are of one organism and are shown alike, so the means are about those of all of them."""
    cells, vocabulary = small_cells(), make_vocabulary(small_cells())
    assert CELLS > len(cells)
    recipe = small_recipe().data
    batch = Collator(vocabulary, cells, replace(recipe.collate, length=4096, shortest=4096)).collate(
        np.arange(len(cells)), np.arange(len(cells))
    )
    counts = batch.counts.numpy().reshape(len(cells), -1)
    shares = counts / batch.depth.numpy()[:, None]
    found = path.share.numpy()[batch.genes.numpy()[: counts.shape[1]].astype(int)]
    assert np.corrcoef(found, np.log(shares.mean(0) + 1e-7))[0, 1] > 0.8


def test_smoothed_shares_mix_the_cell_its_neighbours_and_the_means(path: LinearPath, view: View) -> None:
    found = path.smoothed(view).exp().detach()
    for one in cells_of(view):
        own, near = view.counts[one], view.neighbour_counts[:, one].sum(0)
        means = path.share[view.genes[one].long()].softmax(0)
        wanted = own + 100 * means + 500 * near / near.sum()
        np.testing.assert_allclose(found[one], wanted / (own.sum() + 600), rtol=1e-4)
        assert float(found[one].sum()) == pytest.approx(1, abs=1e-4)


def test_what_is_hidden_says_nothing(path: LinearPath, view: View) -> None:
    hiding = mask(view, 0.5, seeded(0))
    other = replace(hiding, counts=torch.where(hiding.hidden, hiding.counts + 50, hiding.counts))
    assert torch.equal(path.smoothed(hiding), path.smoothed(other))
    assert torch.equal(path.profile(hiding), path.profile(other))
    assert not torch.equal(path.profile(hiding), path.profile(view))


def test_an_untrained_head_says_what_was_smoothed(view: View) -> None:
    vocabulary = make_vocabulary(small_cells())
    network = Network(small_config(), vocabulary, make_token_table(vocabulary)).eval()
    measure_levels(network.linear, small_cells(), vocabulary, small_recipe().data)
    with torch.no_grad():
        encoded = network.encode(view)
        total = view.rows.sum(view.counts)
        told = network.express(encoded, view.rows, view.depth, total)
    share = told.mean / view.rows.spread(total)
    np.testing.assert_allclose(share, network.linear.smoothed(view).detach().exp(), rtol=1e-4, atol=1e-8)


def test_a_longer_table_and_more_tokens_leave_what_was_there_as_it_was(path: LinearPath, view: View) -> None:
    vocabulary = make_vocabulary(small_cells())
    old = make_token_table(vocabulary)
    both = replace(vocabulary, organisms=(*vocabulary.organisms, "mus_musculus"),
                   genes=(*vocabulary.genes, make_vocabulary(small_cells("mouse")).genes[0]))  # fmt: skip
    longer = path.extended(make_token_table(both), old, 4)
    assert torch.equal(longer.profile(view), path.profile(view))
    assert torch.equal(longer.smoothed(view), path.smoothed(view))
    assert torch.equal(longer.tokens(path.profile(view))[:, :3], path.tokens(path.profile(view)))
    cells = torch.randn(20, 4, 16)
    np.testing.assert_allclose(
        longer.told(cells, view.genes, view.rows).detach(),
        path.told(cells[:, :3], view.genes, view.rows).detach(), atol=1e-5,
    )  # fmt: skip
    assert len(longer.level) > len(path.level)
    twins = np.flatnonzero(np.isin(longer.place.numpy()[len(old) :], path.place.numpy())) + len(old)
    assert len(twins), "mouse genes share groups with human ones"
    here = int(np.flatnonzero(path.place.numpy() == int(longer.place[twins[0]]))[0])
    alone = (path.place == path.place[here]).sum() == 1
    assert not alone or float(longer.level[twins[0]]) == pytest.approx(float(path.level[here]))


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


def test_the_path_learns_at_a_rate_of_its_own(path: LinearPath) -> None:
    vocabulary = make_vocabulary(small_cells())
    network = Network(small_config(), vocabulary, make_token_table(vocabulary))
    optimizer = make_optimizer([network], small_recipe(linear_rate=7.0))
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    mine = {id(one) for one in network.linear.parameters()}
    assert {rates[one] for one in mine} == {7 * small_recipe().learning_rate}
    assert {rate for one, rate in rates.items() if one not in mine} == {small_recipe().learning_rate}
