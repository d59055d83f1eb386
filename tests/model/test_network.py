"""The whole network: it can learn each task, every parameter takes part, and a cell's answer is its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loaders import CollateConfig, Collator, make_vocabulary
from model.config import ModelConfig, preset
from model.network import Network
from model.objective import Objective, genes_stood_for, make_view
from model.ragged import Ragged, make_ragged
from model.views import seeded
from tests.model.small_runs import small_cells
from tests.model.toy_batches import toy_batch, toy_table, toy_vocabulary

if TYPE_CHECKING:
    from loaders.batch import CellBatch

TINY = preset("tiny").changed(trunk={"width": 32, "latents": 16}, cell={"width": 32}, expression={"linear": 16})


def make_pair(config: ModelConfig = TINY) -> tuple[Network, Objective]:
    torch.manual_seed(0)
    network = Network(config, toy_vocabulary(), toy_table())
    return network, Objective(config, network, toy_vocabulary())


def test_every_parameter_gets_a_gradient_under_the_full_recipe() -> None:
    config = TINY.changed(
        tasks={"noise": (0.8, 1.0), "masks": ("uniform",)}, losses={"adversarial": 1.0, "kl_warm_up": 0}
    )
    network, objective = make_pair(config)
    for seed in range(3):  # a small quantised code may be 0 in all cells of one batch
        batch, rows = toy_batch(seed=seed)
        objective(network, batch, rows, seeded(seed), 0)["loss"].backward()
    silent = [
        name
        for part in (network, objective)
        for name, p in part.named_parameters()
        if p.grad is None or not p.grad.abs().sum()
    ]
    # A constant added to a query's every logit, which is what a key's bias is, changes no softmax: tiny, not absent.
    assert not silent


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"trunk": {"attention": "criss-cross"}},
        {"trunk": {"attention": "performer"}},
        {"expression": {"scale": "binned"}},
        {"cell": {"compression": "fsq"}},
    ],
    ids=["base", "criss-cross", "performer", "binned", "fsq"],
)
def test_batch_mates_and_permuted_genes_change_no_answer(change: dict) -> None:
    network, _ = make_pair(TINY.changed(**change))
    network.double().eval()
    batch, rows = toy_batch()
    together = network.encode(make_view(batch, rows))
    for cell, size in enumerate(rows.sizes):
        first = int(rows.offsets[cell])
        mine = slice(first, first + size)
        order = torch.randperm(size)
        view = replace(
            make_view(batch, rows), genes=batch.genes[mine][order], counts=batch.counts[mine][order],
            rows=make_ragged([size]), depth=batch.depth[cell : cell + 1],
            neighbour_counts=batch.neighbour_counts[:, mine][:, order],
            neighbour_distances=batch.neighbour_distances[cell : cell + 1],
        )  # fmt: skip
        alone = network.encode(view)
        for found, expected in (
            (alone.genes, together.genes[mine][order]),
            (alone.cells[0], together.cells[cell]),
            (alone.embedding[0], together.embedding[cell]),
        ):
            assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_evaluation_is_deterministic_to_the_bit_and_training_draws() -> None:
    network, _ = make_pair(TINY.changed(trunk={"dropout": 0.2, "stochastic_depth": 0.3}))
    view = make_view(*toy_batch())
    network.eval()
    assert torch.equal(network.encode(view).embedding, network.encode(view).embedding)
    network.train()
    assert not torch.equal(network.encode(view, sample=True).genes, network.encode(view, sample=True).genes)


def test_generation_sees_cell_tokens_only() -> None:
    network, _ = make_pair()
    network.eval()
    batch, rows = toy_batch()
    encoded = network.encode(make_view(batch, rows))
    total = rows.sum(batch.counts)
    values = network.generate(encoded.compressed.restored, batch.genes, rows, batch.depth, total)
    values.mean.square().sum().backward()
    through = network.compressor.into[0].mean.weight.grad
    assert through.abs().sum() > 0, "the gradient comes through the bottleneck"
    cut = network.generate(encoded.compressed.restored.detach(), batch.genes, rows, batch.depth, total)
    network.zero_grad()
    cut.mean.square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.expression.parameters()), "and nowhere else"


def test_genes_that_stand_for_several_count_as_several_in_the_total() -> None:
    network, _ = make_pair()
    network.eval()
    batch, rows = toy_batch()
    cells = network.encode(make_view(batch, rows)).compressed.restored.detach()
    each = torch.where(batch.expressed, 1.5, 40.0)
    total = torch.full((len(rows),), 1000.0)
    plain = network.generate(cells, batch.genes, rows, batch.depth, total).mean
    values = network.generate(cells, batch.genes, rows, batch.depth, total, each).mean
    torch.testing.assert_close(rows.sum(values * each), total)
    ratio = values / plain  # all of a cell's genes alike: what they stand for moves the total, not who has how much
    torch.testing.assert_close(ratio, rows.spread(rows.sum(ratio) / rows.offsets.diff()))


def test_generation_is_the_likelihood_alone_whatever_the_squared_error_weighs() -> None:
    terms = []
    for kind, mse in (("zinb+mse", 0.5), ("zinb+mse", 50.0), ("zinb", 0.5)):
        network, objective = make_pair(TINY.changed(losses={"expression": kind, "mse": mse}))
        terms.append(objective.eval()(network.eval(), *toy_batch(), torch.Generator().manual_seed(0), 1))
    assert terms[0]["generate"] == terms[1]["generate"] == terms[2]["generate"]
    denoised = [term for term in terms[0] if term.startswith("denoise")]
    assert all(terms[0][name] < terms[1][name] for name in denoised)


def test_sums_over_contexts_are_estimates_of_sums_over_all_genes() -> None:
    cells = small_cells()
    vocabulary = make_vocabulary(cells)
    numbers = np.arange(40)
    whole = Collator(vocabulary, cells, CollateConfig(length=10_000)).collate(numbers, numbers)
    full = Ragged(whole.offsets, tuple(whole.lengths.tolist()))
    assert torch.equal(genes_stood_for(whole, full), torch.ones(full.total)), "nothing was left out"
    found = []
    for seed in range(60):
        config = CollateConfig(length=60, from_all=0.3, seed=seed)
        batch = Collator(vocabulary, cells, config).collate(numbers, numbers)
        rows = Ragged(batch.offsets, tuple(batch.lengths.tolist()))
        each = genes_stood_for(batch, rows)
        torch.testing.assert_close(rows.sum(each), batch.n_measured.float())
        torch.testing.assert_close(rows.sum(each * batch.expressed), batch.n_expressed.float())
        found.append(rows.sum(each * batch.counts))
    drawn = torch.stack(found)
    off = (drawn.mean(0) - whole.depth) / (drawn.std(0) / len(found) ** 0.5)
    assert off.abs().max() < 4.5
    assert off.abs().mean() < 1.2


@pytest.mark.parametrize(
    ("name", "tasks", "losses"),
    [
        ("denoise/0.5", {"noise": (0.5,), "generate": False}, {"labels": 0.0}),
        ("mask/uniform", {"noise": (), "masks": ("uniform",), "generate": False}, {"labels": 0.0}),
        ("neighbours", {"noise": (1.0,), "generate": False}, {"labels": 0.0}),
        ("generate", {"noise": ()}, {"labels": 0.0}),
        ("labels/cell_type", {"noise": (), "generate": False}, {"labels": 1.0}),
    ],
)
def test_each_task_can_be_learnt(name: str, tasks: dict, losses: dict) -> None:
    none = {"independence": 0.0, "contrastive": 0.0, "elastic": 0.0, "kl": 0.0}
    network, objective = make_pair(TINY.changed(tasks=tasks, losses={**losses, **none}))
    batch, rows = toy_batch(sizes=(60,) * 8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    found = []
    for step in range({"mask/uniform": 300, "neighbours": 120}.get(name, 60)):  # other genes are hidden every time
        loss = objective(network, batch, rows, seeded(0, step), step)[name]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    if name.startswith("labels"):
        assert sum(found[-5:]) / 5 < 0.2 * found[0]
    else:
        assert sum(found[-5:]) / 5 < found[0] - 0.5 * (found[0] - floor(batch, rows))


def floor(batch: CellBatch, rows: Ragged) -> float:
    """Return about the best a likelihood and half a squared error can do: Poisson at the counts themselves."""
    counts = batch.counts.double()
    return float(-torch.distributions.Poisson(counts.clamp(min=0.05)).log_prob(counts).mean())


def test_an_unknown_task_or_loss_is_left_out() -> None:
    network, objective = make_pair(TINY.changed(losses={"independence": 0.0, "labels": 0.0}))
    found = objective(network, *toy_batch(), seeded(0), 0)
    assert not [name for name in found if name.startswith(("labels", "independence", "adversary"))]
    assert torch.isclose(found["loss"], sum(v.double() for k, v in found.items() if k != "loss"))
