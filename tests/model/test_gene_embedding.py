"""Genes as vectors: the network's own tokens, and means over the cells that show them."""

from __future__ import annotations

import numpy as np
import pytest

from model import ModelInputError, embed_genes, embed_genes_in_cells, gene_embeddings, read_cells
from model.inference import InferenceOptions
from tests.model.small_runs import N_GENES, small_cells, small_start

OPTIONS = InferenceOptions(length=N_GENES, batch_size=50, device="cpu")
PART = InferenceOptions(length=40, batch_size=32, device="cpu")


def test_genes_before_any_cell_are_the_tokens_of_each_organism():
    model = small_start().model
    found, truth = embed_genes(model), gene_embeddings(model, "human")
    assert found.ids.tolist() == list(truth.ids)
    assert found.values.tobytes() == truth.values.tobytes()
    assert set(found.organisms) == {"homo_sapiens"}
    assert found.cells is None
    assert embed_genes(model, "Homo sapiens").values.tobytes() == truth.values.tobytes()
    with pytest.raises(ModelInputError, match=r"mouse.* one of homo_sapiens"):
        embed_genes(model, "mouse")


def test_a_gene_in_cells_is_the_mean_over_the_cells_whose_context_has_it():
    model, cells = small_start().model, small_cells()
    found = embed_genes_in_cells(model, cells, options=PART)
    ids = np.array(model.vocabulary.genes[0], dtype=object)
    rows: dict[str, list[np.ndarray]] = {}
    for read in read_cells(model, cells, options=PART):
        for token, vector in zip(read.batch.genes.tolist(), read.encoded.genes.numpy(), strict=True):
            rows.setdefault(ids[token], []).append(vector)
    assert set(found.ids) == set(rows)
    assert max(found.cells) < len(cells), "contexts are shorter than the genes, so that the counts say something"
    for gene, vector, count in zip(found.ids, found.values, found.cells, strict=True):
        assert count == len(rows[gene])
        np.testing.assert_allclose(vector, np.mean(rows[gene], axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_the_order_and_the_batches_of_cells_change_rounding_only():
    model, cells = small_start().model, small_cells()
    first = embed_genes_in_cells(model, cells, np.arange(60), options=OPTIONS)
    other = embed_genes_in_cells(
        model, cells, np.arange(60)[::-1], options=InferenceOptions(length=N_GENES, batch_size=7, device="cpu")
    )
    assert first.ids.tolist() == other.ids.tolist()
    np.testing.assert_allclose(first.values, other.values, rtol=1e-4, atol=1e-5)
    again = embed_genes_in_cells(model, cells, np.arange(60), options=OPTIONS)
    assert again.values.tobytes() == first.values.tobytes()


def test_genes_of_few_cells_are_left_out_and_none_is_an_error():
    model, cells = small_start().model, small_cells()
    whole = embed_genes_in_cells(model, cells, options=PART)
    least = int(np.median(whole.cells)) + 1
    found = embed_genes_in_cells(model, cells, least_cells=least, options=PART)
    assert found.ids.tolist() == whole.ids[whole.cells >= least].tolist()
    assert 0 < len(found) < len(whole)
    with pytest.raises(ModelInputError, match=f"least_cells=145 .* at most {max(whole.cells)}"):
        embed_genes_in_cells(model, cells, least_cells=145, options=PART)
    with pytest.raises(ModelInputError, match="least_cells=0"):
        embed_genes_in_cells(model, cells, least_cells=0)
