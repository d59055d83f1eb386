"""Influence: slopes equal finite differences, answers equal changed counts run by hand, tokens equal their cosine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loaders import Collator
from model import (
    InferenceOptions,
    ModelInputError,
    Network,
    Ragged,
    TrainedModel,
    context_of,
    gene_embeddings,
    make_view,
)
from model.grn_influence import expected_logs
from model.grn_scores import score_edges
from tests.model.grn_cells import ON_CPU, genes_of_small, model_with
from tests.model.small_runs import small_cells, small_config

REGULATORS, TARGETS = genes_of_small(5), genes_of_small(6, 2)
GENES = tuple(dict.fromkeys([*REGULATORS, *TARGETS]))
NUMBERS = np.arange(24)


def levels(changes: dict[str, float], about: str, *, factor: bool) -> np.ndarray:
    """Return log-ratios [cells, genes] after counts are changed: multiplied, or moved on the scale of log(1 + count).

    In float64 and by one whole batch: no code of the read-outs but the expected shares.
    """
    model = model_with("exact")
    collator = Collator(model.vocabulary, small_cells(), context_of(model, replace(ON_CPU.inference, genes=GENES)))
    batch = collator.collate(NUMBERS, NUMBERS)
    view = make_view(batch, Ragged(batch.offsets, tuple(batch.lengths.tolist())))
    counts = view.counts.double().view(len(NUMBERS), len(GENES)).clone()
    for gene, change in changes.items():
        mine = counts[:, GENES.index(gene)]
        counts[:, GENES.index(gene)] = mine * change if factor else torch.expm1(torch.log1p(mine) + change)
    network = model.network.double()
    try:
        with torch.no_grad():
            found = expected_logs(
                TrainedModel(network, model.vocabulary, model.ledger, {}),
                replace(view, counts=counts.flatten(), depth=view.depth.double()),
            )
    finally:
        network.float()
    logs = found.view(len(NUMBERS), len(GENES)).numpy()
    others = [place for place, gene in enumerate(GENES) if gene != about]
    return logs - logs[:, others].mean(1, keepdims=True)


def shown(gene: str) -> np.ndarray:
    """Return which cells express a gene."""
    model = model_with("exact")
    collator = Collator(model.vocabulary, small_cells(), context_of(model, replace(ON_CPU.inference, genes=(gene,))))
    return collator.collate(NUMBERS, NUMBERS).counts.numpy() > 0


def compare(readout: str, wanted: dict[str, np.ndarray], tolerance: float, **changes: object) -> None:
    """Compare a read-out with one row per regulator, [genes]."""
    options = replace(ON_CPU, **changes)
    found = score_edges(
        readout, model_with("exact"), small_cells(), NUMBERS, regulators=REGULATORS, targets=TARGETS, options=options
    )
    for row, regulator in enumerate(REGULATORS):
        for column, target in enumerate(TARGETS):
            if regulator == target:
                assert np.isnan(found.values[row, column])
                continue
            value = found.values[row, column] * found.signs[row, column]
            np.testing.assert_allclose(value, wanted[regulator][GENES.index(target)], rtol=1e-3, atol=tolerance)
    assert np.nanmax(found.values) > 100 * tolerance


def test_slopes_equal_finite_differences_of_the_regulator_in_the_target() -> None:
    step = 1e-7  # small beside 1 count in 10,000, where the gate of a gene that is not expressed bends
    wanted = {
        gene: (
            (levels({gene: step}, gene, factor=False) - levels({gene: -step}, gene, factor=False)) / (2 * step)
        ).mean(0)
        for gene in REGULATORS
    }
    compare("gradient", wanted, 1e-5)


@pytest.mark.parametrize("kind", ["zero", "double"])
def test_answers_are_those_of_cells_with_the_count_changed(kind: str) -> None:
    wanted = {}
    for gene in REGULATORS:
        after = levels({gene: 0.0 if kind == "zero" else 2.0}, gene, factor=True)
        change = after - levels({}, gene, factor=True)
        assert shown(gene).any()
        wanted[gene] = (-change if kind == "zero" else change)[shown(gene)].mean(0)
    compare("perturbation", wanted, 1e-5, perturbation=kind)


def test_contexts_as_in_training_and_batches_change_nothing() -> None:
    """Contexts of 30 genes: only pairs that are shown together count, in whatever batch."""
    cells, model = small_cells(), model_with("exact")
    for readout in ("gradient", "perturbation"):
        found = []
        for size, order in ((24, NUMBERS), (5, NUMBERS[::-1])):
            inference = InferenceOptions(length=30, batch_size=size, device="cpu", least_genes=10)
            options = replace(ON_CPU, contexts="trained", inference=inference)
            found.append(
                score_edges(readout, model, cells, order, regulators=REGULATORS, targets=TARGETS, options=options)
            )
        np.testing.assert_allclose(found[0].values, found[1].values, rtol=1e-3, atol=1e-6)
        assert np.isfinite(found[0].values).any()


def test_influence_leaves_no_gradients_behind() -> None:
    model = model_with("exact")
    model.network.zero_grad()
    score_edges("gradient", model, small_cells(), NUMBERS[:4], regulators=REGULATORS, targets=TARGETS, options=ON_CPU)
    assert all(weight.grad is None for weight in model.network.parameters())


def test_tokens_are_compared_by_cosine_less_their_mean() -> None:
    model = model_with("exact")
    found = score_edges("token_similarity", model, small_cells(), regulators=REGULATORS, targets=TARGETS)
    made = gene_embeddings(model, "human")
    place = {gene: row for row, gene in enumerate(made.ids)}
    centred = made.values.astype(np.float64) - made.values.astype(np.float64).mean(0)
    for row, one in enumerate(REGULATORS):
        for column, other in enumerate(TARGETS):
            if one != other:
                a, b = centred[place[one]], centred[place[other]]
                cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                assert abs(found.values[row, column] * found.signs[row, column] - cosine) < 1e-4


def test_counts_in_bins_have_no_slope() -> None:
    start = model_with("exact")
    config = small_config().changed(expression={"scale": "binned"})
    model = TrainedModel(Network(config, start.vocabulary, start.table), start.vocabulary, start.ledger, {})
    with pytest.raises(ModelInputError, match="perturbation"):
        score_edges("gradient", model, small_cells(), NUMBERS, regulators=REGULATORS, targets=TARGETS)
