"""The inference loop: what a cell gets is a function of the cell, and the caller's world is left as it was."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from loaders import AnnDataCells, CollateConfig
from model import ModelInputError, TrainedModel
from model import inference as loop
from model.inference import InferenceOptions, cells_of_split, context_of, read_cells
from tests.model.small_runs import N_GENES, open_adata, small_adata, small_cells, small_start

SHORT = InferenceOptions(length=40, batch_size=32, device="cpu")
"""Fewer genes than most cells express, so that some are chosen."""
LONG = InferenceOptions(length=120, batch_size=32, device="cpu")
"""More, so that measured zeros are drawn."""


def model() -> TrainedModel:
    return small_start().model


def contexts(cells, numbers=None, options=LONG) -> list[dict[int, float]]:
    """Return each cell's context: counts by token."""
    out = []
    for read in read_cells(model(), cells, numbers, options):
        genes, counts = (part.split(list(read.rows.sizes)) for part in (read.batch.genes, read.batch.counts))
        out += [dict(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(genes, counts, strict=True)]
    return out


def embedding(cells, numbers=None, options=LONG) -> np.ndarray:
    return np.concatenate([read.encoded.embedding.numpy() for read in read_cells(model(), cells, numbers, options)])


@pytest.mark.parametrize("options", [SHORT, LONG, replace(LONG, neighbours=2)])
def test_a_cell_gets_the_same_alone_in_any_batch_and_in_any_order(options):
    cells = small_cells()
    whole, genes = embedding(cells, None, options), contexts(cells, None, options)
    some = np.random.default_rng(1).permutation(len(cells))[:60]
    bound = 1e-5 * np.abs(whole).max()
    for size in (7, 60):
        other = replace(options, batch_size=size)
        assert np.abs(embedding(cells, some, other) - whole[some]).max() <= bound
        assert contexts(cells, some, other) == [genes[one] for one in some]
    for one in some[:6]:
        assert np.abs(embedding(cells, [one], options) - whole[one]).max() <= bound
    assert np.abs(embedding(cells, [3, 3, 3], options) - whole[3]).max() <= bound


def test_the_same_call_twice_gives_the_same_bytes():
    assert embedding(small_cells()).tobytes() == embedding(small_cells()).tobytes()


def test_a_copy_of_a_cell_in_another_file_gets_the_same_context():
    adata, genes = small_adata(), contexts(small_cells())
    mine = np.array([100, 4, 57])
    part = adata[mine].copy()
    part.obs_names = ["x", "y", "z"]
    assert contexts(open_adata(part)) == [genes[one] for one in mine]


def test_contexts_are_chosen_as_in_training_and_as_long_unless_asked_otherwise():
    said = asdict(CollateConfig(context="random_expressed", length=30, zeros="neighbours", neighbours=2, seed=3))
    trained = replace(model(), facts={"recipe": {"data": {"collate": json.loads(json.dumps(said))}}})
    options = InferenceOptions(device="cpu")
    found = context_of(trained, options)
    assert (found.context, found.length, found.zeros, found.neighbours, found.seed) == (
        "random_expressed", 30, "random", 0, 3,
    )  # fmt: skip
    assert context_of(trained, replace(options, length=12)).length == 12
    told = replace(trained, facts={**trained.facts, "read_length": 50})
    assert context_of(told, options).length == 50
    assert context_of(told, replace(options, length=12)).length == 12
    assert (context_of(model(), options).context, context_of(model(), options).length) == ("most_expressed", 2_200)
    shown = {
        one.numbers[0]: one.batch.genes.tolist()
        for one in read_cells(trained, small_cells(), None, replace(options, batch_size=1))
    }
    assert {len(genes) for genes in shown.values()} == {30}
    turned = np.arange(144)[::-1]
    for one in read_cells(trained, small_cells(), turned, replace(options, batch_size=7)):
        for cell, first in zip(one.numbers, one.batch.offsets.tolist(), strict=False):
            assert one.batch.genes[first : first + 30].tolist() == shown[cell]


@pytest.mark.parametrize("said", [0, -3, "long", 2.5, True])
def test_a_number_of_genes_that_is_none_is_refused(said):
    with pytest.raises(ModelInputError, match="read_length"):
        context_of(replace(model(), facts={"read_length": said}), InferenceOptions())


@pytest.mark.parametrize("said", [7, {"context": "best"}, {"length": "long"}, {"made_by": "hand"}])
def test_facts_that_are_no_training_are_refused(said):
    wrong = replace(model(), facts={"recipe": {"data": {"collate": said}}})
    with pytest.raises(ModelInputError, match="facts"):
        context_of(wrong, InferenceOptions())


def test_a_context_is_the_most_expressed_genes_and_then_measured_zeros():
    adata = small_adata()
    counts = np.asarray(adata.X)
    tokens = model().vocabulary.gene_tokens("homo_sapiens", list(adata.var_names))
    for cell, found in enumerate(contexts(small_cells(), None, SHORT)):
        highest = np.sort(counts[cell])[::-1][: SHORT.length]
        assert sorted(found.values(), reverse=True) == highest.tolist()
        assert all(counts[cell, tokens.tolist().index(token)] == count for token, count in found.items())
    filled = 0
    for cell, found in enumerate(contexts(small_cells(), None, LONG)):
        assert len(found) == LONG.length
        assert set(found) <= set(tokens.tolist())
        expressed = {int(token): count for token, count in zip(tokens, counts[cell], strict=True) if count}
        if len(expressed) <= LONG.length:
            filled += len(expressed) < LONG.length
            assert {token: count for token, count in found.items() if count} == expressed
    assert filled > 100


def test_random_states_gradients_and_the_network_are_left_as_they_were():
    network = model().network
    network.train()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    try:
        found = read_cells(model(), small_cells(), None, LONG)
        read = next(found)
        assert not network.training
        assert torch.is_grad_enabled()
        assert not read.encoded.embedding.requires_grad
        found.close()
        assert network.training
        assert len(list(read_cells(model(), small_cells(), None, LONG))) == 5
        assert network.training
    finally:
        network.eval()
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_cells_without_neighbours_shown_are_read_as_cells_that_have_none():
    adata = small_adata()
    lonely = AnnDataCells(adata, "human", {"donor": "donor_id", "split": "split"})
    shown = replace(LONG, neighbours=2)
    assert np.abs(embedding(small_cells(), None, shown) - embedding(small_cells())).max() > 1e-3
    assert np.abs(embedding(lonely, None, shown) - embedding(small_cells())).max() < 1e-5


def test_an_empty_cell_has_a_finite_embedding():
    adata = small_adata()
    adata.X[5] = 0
    found = embedding(open_adata(adata), [4, 5, 6])
    assert np.isfinite(found).all()


class Told(AnnDataCells):
    """Cells that note what they are told to have at hand."""

    def will_need(self, cells, stream=0):
        self.told.append(cells.tolist())


def test_a_store_is_told_of_every_cell_once_a_window_ahead(monkeypatch):
    monkeypatch.setattr(loop, "AHEAD", 60)
    cells = Told(small_adata(), "human", {"donor": "donor_id", "split": "split"})
    cells.told = []
    some = np.arange(140)[::-1]
    seen = []
    for read in read_cells(model(), cells, some, replace(LONG, batch_size=25)):
        seen += read.numbers.tolist()
        told = [one for window in cells.told for one in window]
        assert told[: len(seen)] == seen
        assert len(told) == min(140, 50 * ((len(seen) - 1) // 50 + 2))
    assert [one for window in cells.told for one in window] == some.tolist() == seen


@pytest.mark.parametrize(
    ("options", "numbers", "said"),
    [
        ({"length": 0}, None, "length=0 .* 1 or more"),
        ({"batch_size": 0}, None, "batch_size=0 .* 1 or more"),
        ({"neighbours": 3}, None, "neighbours=3 .* 0 to 2, which this model reads"),
        ({"device": "tpu"}, None, "device='tpu' .* auto, cpu or cuda"),
        ({"least_genes": N_GENES + 1}, None, "150 known genes in dataset .* at least 151 .* lower least_genes"),
        ({}, [], "numbers=.* at least one cell number"),
        ({}, [0.5], "numbers=.* at least one cell number"),
        ({}, [[1]], "numbers=.* at least one cell number"),
        ({}, [0, 144], r"numbers=\(0, 144\) .* cells 0 to 143"),
        ({}, [-1], r"numbers=\(-1, -1\) .* cells 0 to 143"),
    ],
)
def test_what_is_not_allowed_is_said_at_once_with_the_remedy(options, numbers, said):
    with pytest.raises(ModelInputError, match=said):
        read_cells(model(), small_cells(), numbers, InferenceOptions(**{"device": "cpu", **options}))


def test_an_organism_or_genes_the_model_does_not_know_are_refused():
    with pytest.raises(ModelInputError, match=r"mus_musculus.*cells of homo_sapiens; with_organism adds"):
        read_cells(model(), small_cells("mouse"))
    words = model().vocabulary
    strange = replace(
        model(), vocabulary=replace(words, genes=(tuple(f"ENSG9{i:010d}" for i in range(60)),), blocks=None)
    )
    with pytest.raises(ModelInputError, match=r"0 known genes in dataset .* at least 1 of the model's genes"):
        read_cells(strange, small_cells(), None, InferenceOptions(least_genes=0))


def test_cells_of_a_split_are_drawn_alike_and_a_split_without_any_is_refused():
    cells, every = small_cells(), cells_of_split(model(), small_cells(), "train", 1_000)
    assert every.tolist() == np.flatnonzero(cells.column("split") == 0).tolist()
    some = cells_of_split(model(), cells, "train", 20, seed=4)
    assert len(set(some.tolist())) == 20
    assert set(some.tolist()) <= set(every.tolist())
    assert some.tolist() == cells_of_split(model(), cells, "train", 20, seed=4).tolist()
    assert some.tolist() != cells_of_split(model(), cells, "train", 20, seed=5).tolist()
    for split in ("holdout", "validation"):
        with pytest.raises(ModelInputError, match="split"):
            cells_of_split(model(), AnnDataCells(small_adata(), "human"), split, 10)
