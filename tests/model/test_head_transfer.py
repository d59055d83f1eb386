"""Heads chosen on one cell type serve another one's network, judged by genes that the choice never saw."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from model import ModelInputError, TrainedModel
from model.attention_maps import HeadMaps, head_maps
from model.grn_truths import EdgeTruth
from model.head_selection import select_heads, weighed
from model.head_transfer import fair_scores, transferred_scores
from tests.model.grn_cells import ON_CPU, genes_of_small, model_with
from tests.model.small_runs import small_cells

GENES = tuple(f"g{i:02d}" for i in range(60))
FACTORS = GENES[:24]
SPEAKING = {(1, 2), (2, 0)}


def truth_of(edge: np.ndarray, regulators=FACTORS, targets=GENES) -> EdgeTruth:
    pairs = sorted((regulators[row], targets[column]) for row, column in np.argwhere(edge))
    edges = pd.DataFrame(pairs, columns=["regulator", "target"]).assign(sign=0)
    return EdgeTruth("planted", "homo_sapiens", "literature", edges, {}, "0" * 64, "none", "made up")


def population(seed: int, *, shows: float = 0.02) -> tuple[HeadMaps, np.ndarray]:
    """Return maps of 3 x 4 heads of a cell type with a network of its own, and that; two heads speak of it."""
    rng = np.random.default_rng(seed)
    edge = rng.random((24, 60)) < 0.15
    edge[np.arange(24), np.arange(24)] = False
    values = rng.gamma(2.0, 0.005, (3, 4, 24, 60)).astype(np.float32)
    for head in SPEAKING:
        values[head] += shows * edge
    values[:, :, np.arange(24), np.arange(24)] = np.nan
    return HeadMaps(FACTORS, GENES, values, np.full((24, 60), 9, np.int32), "weights"), edge


def lift(values: np.ndarray, edge: np.ndarray, there: np.ndarray) -> float:
    return average_precision_score(edge[there], values[there]) / edge[there].mean()


@pytest.mark.parametrize("method", ["logistic", "top"])
def test_heads_of_one_cell_type_find_anothers_network_better_than_all_or_random_heads(method: str) -> None:
    (here, known), (there, edge) = population(0), population(1)
    values, chosen = transferred_scores(here, truth_of(known), there, method=method, top=2)
    scored = np.isfinite(values)
    np.testing.assert_array_equal(scored, np.isfinite(there.values[0, 0]))  # every pair, once
    transferred = lift(values, edge, scored)
    drawn = []
    for seed in range(20):
        heads = np.random.default_rng(seed).permutation(12)[:2]
        drawn.append(lift(there.values.reshape(12, 24, 60)[heads].mean(0), edge, scored))
    assert transferred > lift(there.values.mean((0, 1)), edge, scored) + 1
    assert transferred > np.quantile(drawn, 0.9) > 1
    assert len(chosen) == 10
    for one in chosen:
        assert {tuple(at) for at in np.argwhere(np.array(one.weights) > 0.2)} == SPEAKING


def test_no_gene_that_is_scored_was_learnt_from() -> None:
    """Nor does what a pair's genes are in the chooser's cells, or in its truth, change the pair's score."""
    (here, known), (there, _) = population(0), population(1)
    values, chosen = transferred_scores(here, truth_of(known), there, folds=4)
    for row, column in [(0, 40), (5, 3), (23, 59), (11, 12)]:
        genes = {FACTORS[row], GENES[column]}
        blind = [one for one in chosen if not genes & {*one.regulators, *one.targets}]
        maps = [weighed(there, one) for one in blind]
        shares = [np.nanmean(np.where(np.isnan(one), np.nan, one <= one[row, column])) for one in maps]
        assert values[row, column] in np.array(shares, dtype=np.float32)
        other, changed = known.copy(), HeadMaps(**{**vars(here), "values": here.values.copy()})
        for place in (row, column):
            changed.values[:, :, :, place] = 0.7
            other[:, place] ^= True
            if place < len(FACTORS):
                changed.values[:, :, place] = 0.3
                other[place] ^= True
        again, _ = transferred_scores(changed, truth_of(other), there, folds=4)
        assert again[row, column] == values[row, column]
        assert not np.array_equal(again, values, equal_nan=True)


def test_what_is_left_to_a_selection_that_is_carried_is_fair() -> None:
    (here, known), (there, edge) = population(0), population(1)
    held_out = (*FACTORS[12:], *GENES[40:])
    selection = select_heads(here, truth_of(known), held_out=held_out)
    values = fair_scores(there, selection)
    assert not np.isfinite(values[:12]).any()
    assert not np.isfinite(values[:, :12]).any()
    named = np.flatnonzero(known[:12].any(0))
    assert not np.isfinite(values[:, [column for column in named if GENES[column] not in held_out]]).any()
    scored = np.isfinite(values)
    assert scored[12:, 40:].all()
    np.testing.assert_array_equal(values[scored], weighed(there, selection)[scored])
    assert lift(values, edge, scored) > lift(there.values.mean((0, 1)), edge, scored) + 1


def test_choosing_among_noise_transfers_nothing() -> None:
    found = []
    for seed in range(8):
        (here, known), (there, edge) = population(2 * seed, shows=0.0), population(2 * seed + 1, shows=0.0)
        values, _ = transferred_scores(here, truth_of(known), there, method="top", top=1, folds=3, seed=seed)
        found.append(lift(values, edge, np.isfinite(values)))
    assert abs(np.mean(found) - 1) < 0.03 + 3 * np.std(found) / np.sqrt(len(found))


def test_what_cannot_be_transferred_is_refused() -> None:
    (here, known), (there, _) = population(0), population(1)
    with pytest.raises(ModelInputError, match="folds"):
        transferred_scores(here, truth_of(known), there, folds=2)
    with pytest.raises(ModelInputError, match="select anew"):
        transferred_scores(here, truth_of(known), HeadMaps(**{**vars(there), "model": "another"}))


N = 30
"""Genes of a real model in which one head was made to read edges."""


@cache
def model_that_reads_edges() -> tuple[TrainedModel, np.ndarray]:
    """Return a model whose second head reads the planted edges: a gene of a module reads its module's factors."""
    model = model_with.__wrapped__("exact", 1)
    network, genes = model.network, genes_of_small(N)
    module = np.random.default_rng(0).permutation(N) % 5
    edge = module[:, None] == module[None, :]
    np.fill_diagonal(edge, False)
    tokens = torch.from_numpy(model.vocabulary.gene_tokens("homo_sapiens", list(genes)))
    block = network.trunk.blocks[0]
    width = block.read_genes.query.project.weight.shape[0] // 2
    with torch.no_grad():
        known = block.norm_genes(network.tokens(tokens)).double()
        read = torch.zeros(N, width, dtype=torch.float64)
        read[torch.arange(N), torch.from_numpy(module)] = 4.0
        weight = (torch.linalg.pinv(known) @ read).T
        block.read_genes.query.project.weight[width:].copy_(weight)
        block.read_genes.query.project.bias[width:].zero_()
        block.read_genes.key_value.project.weight[:width].copy_(weight)
        block.read_genes.key_value.project.bias[:width].zero_()
    return model, edge


def test_a_models_own_head_is_found_in_one_population_and_serves_the_other() -> None:
    """Through the model's attention: the truth of either population knows half of the edges, and not the same."""
    model, edge = model_that_reads_edges()
    genes = genes_of_small(N)
    maps = [
        head_maps(model, small_cells(), numbers, regulators=genes, targets=genes, options=ON_CPU)
        for numbers in (np.arange(40), np.arange(70, 140))
    ]
    rng = np.random.default_rng(1)
    parts = [edge & (rng.random((N, N)) < 0.6) for _ in range(2)]
    values, chosen = transferred_scores(maps[0], truth_of(parts[0], genes, genes), maps[1], method="top", top=1)
    scored = np.isfinite(values)
    assert all(np.array(one.weights)[0, 1] == 1 for one in chosen)
    assert lift(values, parts[1], scored) > lift(maps[1].values.mean((0, 1)), parts[1], scored) + 0.3
