"""Attention as a network: the streamed sum equals dense maps, targets read regulators, batches change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loaders import Collator
from model import InferenceOptions, ModelInputError, Network, Ragged, TrainedModel, context_of, make_view, read_cells
from model.attention_maps import head_maps
from model.checkpoint import weights_digest
from model.criss_cross import effective_map
from model.grn_scores import score_edges
from model.head_selection import HeadSelection
from model.prior_bias import PriorBias
from tests.model.grn_cells import ON_CPU, genes_of_small, model_with
from tests.model.small_runs import N_GENES, small_cells

if TYPE_CHECKING:
    from model.grn_query import ReadoutOptions

REGULATORS, TARGETS = genes_of_small(9), genes_of_small(12, 4)
TRAINED = replace(ON_CPU, contexts="trained", inference=InferenceOptions(length=60, batch_size=32, device="cpu"))
NUMBERS = np.arange(40)


def dense(model: TrainedModel, options: ReadoutOptions, genes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return attention of whole cells added up, [layers, heads, reader, read], over all tokens, and cells per pair.

    Cell by cell, nothing chosen before the softmax, and no code of the streamed sum.
    """
    trunk, cells, n = model.config.trunk, small_cells(), N_GENES  # tokens of measured genes are the first
    listed = replace(options.inference, genes=genes) if options.contexts == "chosen" else options.inference
    collator = Collator(model.vocabulary, cells, context_of(model, listed))
    sums, seen = np.zeros((trunk.layers, trunk.heads, n, n)), np.zeros((n, n))
    hashes = cells.codes("count_hash_high", NUMBERS).astype(np.uint64) >> np.uint64(1)
    for number, key in zip(NUMBERS, hashes.astype(np.int64), strict=True):
        batch = collator.collate(np.array([number]), np.array([key]))
        rows, shown = Ragged(batch.offsets, tuple(batch.lengths.tolist())), []
        with torch.no_grad():
            model.network.encode(make_view(batch, rows), watch=lambda *one, shown=shown: shown.append(one))
        genes_here = batch.genes.long().numpy()
        seen[np.ix_(genes_here, genes_here)] += 1
        for layer, query, key_rows in shown:
            if trunk.attention == "criss-cross":
                found = effective_map(query, key_rows, len(genes_here)).numpy()
            else:
                q, k = query.double().numpy(), key_rows.double().numpy()
                found = np.stack([_softmax(q[:, h] @ k[:, h * k.shape[1] // q.shape[1]].T / q.shape[2] ** 0.5)
                                  for h in range(trunk.heads)])  # fmt: skip
            for head in range(trunk.heads):
                sums[layer, head][np.ix_(genes_here, genes_here)] += found[head]
    return sums, seen


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def expected(model: TrainedModel, options: ReadoutOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return the dense means as [layers, heads, regulators, targets], and the cells of each pair."""
    sums, seen = dense(model, options, tuple(dict.fromkeys([*REGULATORS, *TARGETS])))
    tokens = [model.vocabulary.gene_tokens("homo_sapiens", list(genes)) for genes in (TARGETS, REGULATORS)]
    at = np.ix_(*tokens)
    with np.errstate(invalid="ignore"):
        mean = np.stack([[head[at] / seen[at] for head in layer] for layer in sums])
    return mean.transpose(0, 1, 3, 2), seen[at].T


def off_diagonal(values: np.ndarray) -> np.ndarray:
    own = np.array(REGULATORS)[:, None] == np.array(TARGETS)
    return np.where(own, np.nan, values)


@pytest.mark.parametrize("attention", ["exact", "criss-cross"])
@pytest.mark.parametrize("options", [ON_CPU, TRAINED], ids=["chosen", "trained"])
def test_streamed_maps_equal_dense_ones_of_each_head(attention: str, options: ReadoutOptions) -> None:
    model = model_with(attention)
    found = head_maps(model, small_cells(), NUMBERS, regulators=REGULATORS, targets=TARGETS, options=options)
    wanted, seen = expected(model, options)
    np.testing.assert_array_equal(found.seen, seen)
    np.testing.assert_allclose(found.values, off_diagonal(wanted), rtol=2e-4, atol=1e-7)
    assert np.nanstd(found.values) > 1e-3  # maps that are not flat


@pytest.mark.parametrize(("attention", "readout"), [("exact", "attention"), ("criss-cross", "criss_cross")])
def test_heads_are_put_together_as_asked(attention: str, readout: str) -> None:
    model = model_with(attention)
    maps, _ = expected(model, ON_CPU)
    weights = np.array([[0.5, 0.0], [0.2, 0.3]])
    chosen = HeadSelection(tuple(map(tuple, weights.tolist())), "top", "toy", "0", (), weights_digest(model))
    asked = {
        "mean": (ON_CPU, maps.mean((0, 1))),
        "max": (replace(ON_CPU, heads="max"), maps.max((0, 1))),
        "selected": (replace(ON_CPU, heads=chosen), np.einsum("lh,lhrt->rt", weights, maps)),
        "one layer": (replace(ON_CPU, layers=(1,)), maps[1].mean(0)),
        "sum": (replace(ON_CPU, over_cells="sum"), maps.mean((0, 1)) * len(NUMBERS)),
    }
    for name, (options, wanted) in asked.items():
        found = score_edges(
            readout, model, small_cells(), NUMBERS, regulators=REGULATORS, targets=TARGETS, options=options
        )
        np.testing.assert_allclose(found.values, off_diagonal(wanted), rtol=3e-4, err_msg=name)


PRIOR = np.zeros((16, 16))
PRIOR[[5, 9], [0, 2]] = 2.0, -3.0
"""What the sixth and the tenth gene read more and less, among REGULATORS and TARGETS, [readers, read]."""


def with_prior() -> TrainedModel:
    """Return the model with a prior network of two edges."""
    model = model_with("exact")
    tokens = torch.from_numpy(model.vocabulary.gene_tokens("homo_sapiens", list(genes_of_small(16))).astype(np.int64))
    readers, read = (torch.from_numpy(part) for part in np.nonzero(PRIOR))
    weights = torch.from_numpy(PRIOR[PRIOR != 0]).float()
    prior = PriorBias(tokens[torch.stack([readers, read])], weights, model.vocabulary.n_genes)
    network = Network(model.config.changed(trunk={"prior": True}), model.vocabulary, model.table, prior)
    network.load_state_dict(model.network.state_dict(), strict=False)
    return TrainedModel(network.eval(), model.vocabulary, model.ledger, {})


@pytest.mark.parametrize("prior", [False, True])
def test_attention_of_the_mean_cell_is_a_softmax_of_mean_queries_and_keys(prior: bool) -> None:
    model, genes = with_prior() if prior else model_with("exact"), tuple(dict.fromkeys([*REGULATORS, *TARGETS]))
    collator = Collator(model.vocabulary, small_cells(), context_of(model, replace(ON_CPU.inference, genes=genes)))
    batch = collator.collate(NUMBERS, NUMBERS)
    rows, shown = Ragged(batch.offsets, tuple(batch.lengths.tolist())), []
    with torch.no_grad():
        model.network.encode(make_view(batch, rows), watch=lambda *one: shown.append(one))
    total = 0
    for layer, query, key in shown:
        q = query.view(len(NUMBERS), len(genes), 2, -1).mean(0).numpy()
        k = key.view(len(NUMBERS), len(genes), 1, -1).mean(0).numpy()[:, 0]
        bias = PRIOR if prior and layer == 0 else 0  # the last of the two blocks has none, as in the trunk
        total = total + sum(_softmax(q[:, head] @ k.T / q.shape[2] ** 0.5 + bias) for head in range(2)) / 4
    wanted = total[[genes.index(gene) for gene in TARGETS]][:, [genes.index(gene) for gene in REGULATORS]].T
    asked = {"regulators": REGULATORS, "targets": TARGETS, "options": ON_CPU}
    found = score_edges("mean_cell_attention", model, small_cells(), NUMBERS, **asked)
    np.testing.assert_allclose(found.values, off_diagonal(wanted), rtol=2e-4)
    mean = score_edges("attention", model, small_cells(), NUMBERS, **asked)
    assert np.nanmax(np.abs(mean.values / found.values - 1)) > 0.01  # they are not the same


@pytest.mark.parametrize("readout", ["attention", "mean_cell_attention"])
def test_a_selection_of_heads_says_which_layers_count_itself(readout: str) -> None:
    model = model_with("exact")
    chosen = HeadSelection(((0.6, 0.4), (0.0, 0.0)), "top", "toy", "0", (), weights_digest(model))
    found = [
        score_edges(
            readout, model, small_cells(), NUMBERS, regulators=REGULATORS, targets=TARGETS,
            options=replace(ON_CPU, heads=chosen, layers=layers),
        ).values
        for layers in ((), (1,))
    ]  # fmt: skip
    np.testing.assert_array_equal(*found)
    assert np.nanmin(found[1]) > 0


@pytest.mark.parametrize("readout", ["attention", "mean_cell_attention"])
def test_planted_attention_comes_out_as_an_edge_from_who_is_read_to_who_reads(readout: str) -> None:
    model = planted(reader=3, read=7)
    genes = genes_of_small(10)
    found = score_edges(readout, model, small_cells(), NUMBERS, regulators=genes, targets=genes, options=ON_CPU)
    assert np.unravel_index(np.nanargmax(found.values), found.values.shape) == (7, 3)  # row 7 regulates column 3
    assert found.values[7, 3] > 5 * found.values[3, 7]


def planted(reader: int, read: int) -> TrainedModel:
    """Return a model in which one gene's query meets one gene's key, and all other queries and keys are nothing."""
    model = model_with.__wrapped__("exact", 1)
    network, genes = model.network, genes_of_small(10)
    tokens = torch.from_numpy(model.vocabulary.gene_tokens("homo_sapiens", list(genes)))
    block = network.trunk.blocks[0]
    with torch.no_grad():
        for weight in network.expression.own.parameters():
            weight.zero_()
        known = block.norm_genes(network.tokens(tokens)).double()
        for heads, gene in ((block.read_genes.query, reader), (block.read_genes.key_value, read)):
            wanted = torch.zeros(10, heads.project.weight.shape[0], dtype=torch.float64)
            wanted[gene] = 3.0
            heads.project.weight.copy_((torch.linalg.pinv(known) @ wanted).T)
            heads.project.bias.zero_()
    return model


def test_batches_and_the_order_of_cells_change_nothing() -> None:
    for readout, attention in (("attention", "exact"), ("criss_cross", "criss-cross"), ("attention", "performer")):
        model, results = model_with(attention), []
        for size, order in ((32, NUMBERS), (7, NUMBERS[::-1])):
            options = replace(TRAINED, inference=replace(TRAINED.inference, batch_size=size))
            results.append(score_edges(
                readout, model, small_cells(), order, regulators=REGULATORS, targets=TARGETS, options=options
            ).values)  # fmt: skip
        np.testing.assert_allclose(*results, rtol=1e-4)


def test_small_steps_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"regulators": REGULATORS, "targets": TARGETS, "options": ON_CPU}
    for readout, attention in (
        ("attention", "exact"),
        ("criss_cross", "criss-cross"),
        ("mean_cell_attention", "exact"),
    ):
        model = model_with(attention)
        whole = score_edges(readout, model, small_cells(), NUMBERS, **asked).values
        with monkeypatch.context() as small:
            small.setattr("model.attention_maps.AT_ONCE", 100)
            small.setattr("model.mean_cell_attention.AT_ONCE", 100)
            small.setattr("model.attention_maps.EXACT_SUM", 0)
            np.testing.assert_allclose(
                score_edges(readout, model, small_cells(), NUMBERS, **asked).values, whole, rtol=1e-5
            )


def test_pairs_that_no_context_showed_together_have_no_score() -> None:
    """Contexts of 12 of 150 genes: most pairs never meet in two cells."""
    options = replace(TRAINED, inference=replace(TRAINED.inference, length=12))
    genes = genes_of_small(60)
    maps = head_maps(model_with("exact"), small_cells(), np.arange(2), regulators=genes, targets=genes, options=options)
    apart = maps.seen == 0
    assert 0 < apart.mean() < 1
    assert np.isnan(maps.values[:, :, apart]).all()
    assert np.isfinite(maps.values[:, :, ~apart & ~np.eye(60, dtype=bool)]).all()


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"regulators": REGULATORS, "targets": TARGETS}
    cells = small_cells()
    with pytest.raises(ModelInputError, match="criss_cross"):
        score_edges("attention", model_with("criss-cross"), cells, **asked)
    with pytest.raises(ModelInputError, match="attention or mean_cell"):
        score_edges("criss_cross", model_with("exact"), cells, **asked)
    with pytest.raises(ModelInputError, match="layers"):
        score_edges("attention", model_with("exact"), cells, **asked, options=replace(ON_CPU, layers=(2,)))
    other = HeadSelection(((0.5, 0.5),), "top", "toy", "0", (), "another model")
    with pytest.raises(ModelInputError, match="select anew"):
        score_edges("attention", model_with("exact"), cells, **asked, options=replace(ON_CPU, heads=other))
    monkeypatch.setattr("model.attention_maps.MOST_MAPS", 100)
    with pytest.raises(ModelInputError, match="all heads' maps"):
        head_maps(model_with("exact"), cells, **asked)


def test_contexts_are_exactly_the_genes_that_are_asked_for() -> None:
    model, genes = model_with("exact"), genes_of_small(7)[::-1]
    for read in read_cells(model, small_cells(), NUMBERS, replace(ON_CPU.inference, genes=genes)):
        tokens = model.vocabulary.gene_tokens("homo_sapiens", list(genes)).tolist()
        assert read.batch.genes.view(len(read.numbers), -1).tolist() == [tokens] * len(read.numbers)
    for wrong in (("no gene",), (genes[0], genes[0])):
        with pytest.raises(ModelInputError, match="genes"):
            read_cells(model, small_cells(), NUMBERS, replace(ON_CPU.inference, genes=wrong))
