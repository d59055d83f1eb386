"""Held-out scores: what scipy, scikit-learn and counting by hand make of the same cells."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from sklearn.metrics import balanced_accuracy_score, log_loss

from loaders import CollateConfig, Collator, make_vocabulary
from model import ModelInputError, Network, make_ragged, make_token_table, make_view, seeded
from model.checkpoint import TrainedModel
from model.held_out import gene_means, held_out_scores, molecule_nll
from model.views import mask, thin
from tests.model.small_runs import N_GENES, small_cells, small_config

GENES = CollateConfig(length=60, neighbours=2)


@cache
def words():
    """Return the vocabulary and its gene tokens, which take a second to make."""
    vocabulary = make_vocabulary(small_cells())
    return vocabulary, make_token_table(vocabulary)


def untrained(**changes) -> TrainedModel:
    vocabulary, table = words()
    torch.manual_seed(3)
    network = Network(small_config().changed(**changes), vocabulary, table)
    return TrainedModel(network.eval(), vocabulary, None, {})


def cells_of(split: int) -> np.ndarray:
    return np.flatnonzero(small_cells().column("split") == split)


def shown(model: TrainedModel, numbers: np.ndarray):
    batch = Collator(model.vocabulary, small_cells(), GENES).collate(numbers, np.arange(len(numbers)))
    return batch, make_ragged(batch.lengths)


def by_hand(counts: np.ndarray, shares: np.ndarray) -> float:
    mean = counts.sum() * shares / shares.sum()
    return -poisson.logpmf(counts, mean).sum() / counts.sum()


def test_a_cell_without_molecules_has_no_score_and_others_have_the_poisson_one():
    counts, shares = torch.tensor([3.0, 0, 1, 0, 0, 7]), torch.tensor([2.0, 1, 1, 5, 5, 0.3])
    found = molecule_nll(counts, shares, make_ragged([3, 2, 1])).numpy()
    assert found[0] == pytest.approx(by_hand(counts[:3].numpy(), shares[:3].double().numpy()), rel=1e-12)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(-poisson.logpmf(7, 7) / 7, rel=1e-12)


def test_gene_means_are_shares_of_all_molecules_with_one_added():
    cells, vocabulary = small_cells(), make_vocabulary(small_cells())
    some = cells_of(0)
    counts, rows = np.ones(vocabulary.n_genes), cells.read(some).decode()
    for gene, count in zip(rows.indices, rows.counts, strict=True):
        counts[gene] += count  # one organism: a gene's number is its token
    found = gene_means(cells, some, vocabulary).numpy()
    assert np.allclose(found[:N_GENES], (counts / (rows.counts.sum() + vocabulary.n_genes))[:N_GENES], rtol=1e-12)


def test_a_model_that_tells_every_gene_alike_scores_what_scipy_makes_of_even_shares():
    model = untrained()
    model.network.linear = None  # which knows what the counts are without the head
    with torch.no_grad():
        last = model.network.head.layers[-1]
        last.weight.zero_()
        last.bias.zero_()
    held = cells_of(1)
    found = held_out_scores(model, small_cells(), collate=GENES, batch_size=64, seed=5)
    batch, rows = shown(model, held)
    full = make_view(batch, rows)
    seen = thin(full, torch.full((len(held),), 0.6), seeded(5, 0, 0))
    hidden = mask(full, 0.3, seeded(5, 0, 1)).hidden
    means = gene_means(small_cells(), cells_of(0), model.vocabulary)[batch.genes.long()].numpy()
    even, usual, among, error = [], [], [], []
    for cell in range(len(held)):
        mine = slice(int(rows.offsets[cell]), int(rows.offsets[cell + 1]))
        unseen = (batch.counts - seen.counts)[mine].double().numpy()
        even.append(by_hand(unseen, np.ones(len(unseen))))
        usual.append(by_hand(unseen, means[mine]))
        under = batch.counts[mine][hidden[mine]].double().numpy()
        among.append(by_hand(under, np.ones(len(under))))
        whole = batch.counts[mine].double().numpy()
        error.append(np.mean((np.log1p(1e4 * whole / whole.sum()) - np.log1p(1e4 / len(whole))) ** 2))
    assert found["denoise_nll"] == pytest.approx(np.mean(even), rel=1e-6)
    assert found["generate_nll"] == pytest.approx(np.mean(even), rel=1e-6)
    assert found["masked_nll"] == pytest.approx(np.mean(among), rel=1e-6)
    assert found["denoise_error"] == pytest.approx(np.mean(error), rel=1e-5)
    assert found["denoise_nll_gene_mean"] == pytest.approx(np.mean(usual), rel=1e-9)
    assert found["denoise_nll_smoothed"] < found["denoise_nll"]


def test_label_scores_are_scikit_learns_and_the_vote_is_that_of_the_nearest_ten():
    model, held, train = untrained(), cells_of(1), cells_of(0)
    found = held_out_scores(model, small_cells(), collate=GENES)
    column = list(model.vocabulary.labels).index("cell_type")
    with torch.no_grad():
        (asked, rows), (known, more) = shown(model, held), shown(model, train)
        encoded = model.network.encode(make_view(asked, rows))
        shares = model.network.classify(encoded)["cell_type"].double().softmax(1).numpy()
        near = model.network.encode(make_view(known, more)).embedding.numpy()
    truth, taught = asked.labels[:, column].numpy(), known.labels[:, column].numpy()
    assert set(truth) == {0, 1, 2}
    assert found["cell_type_nll"] == pytest.approx(log_loss(truth, shares, labels=[0, 1, 2]), rel=1e-6)
    assert found["cell_type_accuracy"] == pytest.approx(balanced_accuracy_score(truth, shares.argmax(1)))
    distances = ((encoded.embedding.numpy()[:, None] - near[None]) ** 2).sum(-1)
    voted = [np.bincount(taught[row.argsort(kind="stable")[:10]]).argmax() for row in distances]
    assert found["knn_cell_type"] == pytest.approx(balanced_accuracy_score(truth, voted))


def test_scores_are_the_same_time_after_time_and_leave_the_model_as_it_was():
    model = untrained()
    model.network.train()
    first = held_out_scores(model, small_cells(), collate=GENES, batch_size=7)
    torch.manual_seed(99)
    assert held_out_scores(model, small_cells(), collate=GENES, batch_size=7) == first
    assert model.network.training
    assert all(np.isfinite(list(first.values())))


def test_all_models_are_scored_on_the_same_molecules():
    floors = ("denoise_nll_gene_mean", "denoise_nll_smoothed", "masked_nll_gene_mean")
    one, other = (
        held_out_scores(untrained(expression={"neighbours": some}), small_cells(), collate=GENES) for some in (2, 0)
    )
    assert one.keys() - other.keys() == {"denoise_nll_neighbours"}
    assert {name: one[name] for name in floors} == {name: other[name] for name in floors}
    assert one["denoise_nll"] != other["denoise_nll"]


@pytest.mark.parametrize("asked", [{"split": "holdout"}, {"most": 0}])
def test_what_cannot_be_scored_is_said(asked):
    with pytest.raises(ModelInputError, match="split="):
        held_out_scores(untrained(), small_cells(), **asked)
