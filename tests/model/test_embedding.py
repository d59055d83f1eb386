"""Embeddings: what the network makes of the same contexts, cut into parts that are whose they say."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from loaders import CollateConfig, Collator
from model import ModelInputError, TrainedModel, make_ragged, make_view
from model.config import COMPRESSED
from model.embedding import embed, embed_blocks, gene_embeddings
from model.inference import InferenceOptions
from ontology import LABELS
from tests.model.small_runs import N_GENES, small_cells, small_start

OPTIONS = InferenceOptions(length=N_GENES, batch_size=50, device="cpu")
"""All genes are shown, so that nothing is drawn."""


def model() -> TrainedModel:
    return small_start().model


def test_an_embedding_is_what_the_network_makes_of_all_genes_and_its_parts_are_the_tokens_codes():
    found = embed(model(), small_cells(), [8, 2, 5], options=OPTIONS)
    config = CollateConfig(length=N_GENES, neighbours=1)
    batch = Collator(model().vocabulary, small_cells(), config).collate(np.array([8, 2, 5]), np.arange(3))
    view = make_view(batch, make_ragged(batch.lengths))
    alone = view.neighbour_distances.fill_(torch.inf)
    assert torch.isinf(alone).all()
    with torch.no_grad():
        codes = deepcopy(model().network).eval().encode(view).compressed.codes
    assert list(found.columns) == ["base", *LABELS]
    for name, code in zip(found.columns, codes, strict=True):
        assert found.part(name).shape == (3, COMPRESSED[name])
        assert np.allclose(found.part(name), code.numpy(), atol=1e-5 * np.abs(found.values).max())
    assert found.values.shape == (3, sum(COMPRESSED.values()))
    assert found.values.dtype == np.float32
    assert np.array_equal(np.concatenate([found.part(name) for name in found.columns], axis=1), found.values)
    assert found.numbers.tolist() == [8, 2, 5]


def test_blocks_are_the_embedding_piece_by_piece():
    whole = embed(model(), small_cells(), options=OPTIONS)
    parts = list(embed_blocks(model(), small_cells(), options=OPTIONS))
    assert [len(one) for one in parts] == [50, 50, 44]
    assert np.concatenate([one.values for one in parts]).tobytes() == whole.values.tobytes()
    assert whole.numbers.tolist() == list(range(144))


def test_cells_that_differ_are_apart_and_no_part_is_the_same_for_all():
    found = embed(model(), small_cells(), options=OPTIONS)
    for name in ("base", "cell_type", "tissue"):
        assert np.ptp(found.part(name), axis=0).min() > 0


def test_a_part_that_is_not_there_is_refused():
    found = embed(model(), small_cells(), [0], options=OPTIONS)
    with pytest.raises(ModelInputError, match=r"token='colour' .* base, cell_type"):
        found.part("colour")


def test_gene_embeddings_are_the_tokens_that_cells_are_made_of():
    found = gene_embeddings(model(), "human")
    words = model().vocabulary
    assert found.ids == words.genes[0]
    assert found.values.shape == (len(found.ids), model().config.trunk.width)
    some = [found.ids[place] for place in (7, 3, 7_000)]
    with torch.no_grad():
        tokens = model().network.tokens(torch.from_numpy(words.gene_tokens("homo_sapiens", some)))
    assert np.allclose(found.values[[7, 3, 7_000]], tokens.numpy(), atol=1e-6)
    assert gene_embeddings(model(), "Homo sapiens").values.tobytes() == found.values.tobytes()


@pytest.mark.parametrize("organism", ["mouse", "unicorn"])
def test_genes_of_an_organism_the_model_does_not_know_are_refused(organism):
    with pytest.raises(ModelInputError, match=f"organism='{organism}' .* one of homo_sapiens"):
        gene_embeddings(model(), organism)
