"""Imputation: genes of no count, on the scale of those that have one, the same whoever else is asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import nbinom

from loaders import AnnDataCells
from model import ModelInputError, Network, TrainedModel, make_ragged
from model.denoising import denoise
from model.gene_panels import hashed_order, split_genes
from model.imputation import PIECE, impute, impute_blocks
from model.inference import InferenceOptions, read_cells
from tests.model.small_runs import small_adata, small_config, small_start

SHOWN = InferenceOptions(length=120, batch_size=32)
PANEL = 100
"""Genes that are measured; eight others are to be imputed."""


@cache
def untrained(kind: str = "nb") -> TrainedModel:
    """Return a network of first weights whose last layer is turned up, so that genes and cells differ clearly."""
    plain = small_start().model
    torch.manual_seed(3)
    network = Network(small_config().changed(losses={"expression": kind}), plain.vocabulary, plain.table)
    with torch.no_grad():
        network.head.layers[-1].weight *= 3
    return TrainedModel(network.eval(), plain.vocabulary, plain.ledger, {})


@cache
def panel_cells() -> AnnDataCells:
    """Return some of the cells as a panel of 100 genes sees them."""
    return AnnDataCells(small_adata()[:40, :PANEL].copy(), "human")


def missing() -> list[str]:
    return small_adata().var_names[PANEL : PANEL + 8].tolist()


def test_a_cell_gets_the_same_alone_in_any_batch_in_any_order_and_whatever_else_is_asked_for():
    whole = impute(untrained(), panel_cells(), missing(), options=SHOWN)
    assert whole.expected.shape == (40, 8)
    assert (whole.expected > 0).all()
    assert (whole.variance > whole.expected).all()
    some, order = np.array([17, 3, 39, 3, 20]), np.random.default_rng(1).permutation(8)[:3]
    genes = [missing()[gene] for gene in order]
    for numbers, size in ((some, 2), (some, 64), (some[:1], 1)):
        found = impute(untrained(), panel_cells(), genes, numbers, options=replace(SHOWN, batch_size=size))
        assert (found.numbers.tolist(), found.genes) == (numbers.tolist(), tuple(genes))
        for name in ("expected", "variance"):
            one, other = getattr(found, name), getattr(whole, name)[numbers][:, order]
            assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()
    blocks = impute_blocks(untrained(), panel_cells(), missing(), options=SHOWN)
    assert np.concatenate([block.expected for block in blocks]).tobytes() == whole.expected.tobytes()


def test_where_all_genes_are_alike_an_unmeasured_one_has_what_a_measured_one_has():
    model = untrained("mse")
    last = model.network.head.layers[-1]
    before, path = (last.weight.clone(), last.bias.clone()), model.network.linear
    model.network.linear = None  # genes are not alike to it
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    try:
        for times in (1.0, 4.0):
            found = impute(model, panel_cells(), missing(), depth=times, options=SHOWN)
            depth = times * small_adata().X[:40, :PANEL].sum(1)
            assert found.variance is None
            assert np.allclose(found.depth, depth)
            assert np.allclose(found.expected, depth[:, None] / PANEL, rtol=1e-5)
            assert np.allclose(found.shares, 1 / PANEL, rtol=1e-5)
            beside = denoise(model, panel_cells(), depth=times, options=SHOWN)
            assert np.allclose(beside.expected, depth[:, None] / PANEL, rtol=1e-5)
    finally:
        model.network.linear = path
        with torch.no_grad():
            last.weight.copy_(before[0])
            last.bias.copy_(before[1])


def test_the_variance_is_scipys_for_the_mean_and_dispersion_that_all_cells_share():
    model = untrained("nb")
    last = model.network.head.layers[-1]
    before = last.weight.clone(), last.bias.clone()
    with torch.no_grad():
        last.weight[1].zero_()
        last.bias[1] = np.log(0.4)
    found = impute(model, panel_cells(), missing()[:3], options=SHOWN)
    with torch.no_grad():
        last.weight.copy_(before[0])
        last.bias.copy_(before[1])
    mean = found.expected.astype(np.float64)
    assert np.allclose(found.variance, nbinom.var(0.4, 0.4 / (0.4 + mean)), rtol=1e-5)


class TwoPanels(AnnDataCells):
    """Cells of two datasets, of which the second lacks thirty genes."""

    def measured(self, dataset: int, organism: int) -> np.ndarray:
        out = super().measured(dataset, organism).copy()
        out[30:60] &= dataset == 0
        return out


def test_measured_genes_are_not_touched():
    adata = small_adata()
    adata.obs["dataset_id"] = ["a"] * 70 + ["b"] * 74
    adata.X[70:, 30:60] = 0
    cells = TwoPanels(adata, "human")
    asked = adata.var_names[25:35].tolist()
    found = impute(untrained(), cells, asked, options=SHOWN)
    filled = np.zeros((144, 10), bool)
    filled[70:, 5:] = True
    assert np.array_equal(np.isfinite(found.expected), filled)
    assert np.array_equal(np.isfinite(found.variance), filled)
    both = denoise(untrained(), cells, options=SHOWN).expected[:, 25:35]
    assert np.array_equal(np.isfinite(both), ~filled), "each gene of a cell is one verb's or the other's"


def test_a_gene_is_decoded_with_its_piece_and_the_cells_own_genes_and_scaled_by_these():
    model, gene = untrained(), missing()[5]
    vocabulary, table = model.vocabulary, model.table
    token = int(vocabulary.gene_tokens("homo_sapiens", [gene])[0])
    order = hashed_order(vocabulary, "homo_sapiens")
    alike = order[(table.biotype[order] == 0) == (table.biotype[token] == 0)]
    piece = next(piece for piece in split_genes(alike, PIECE) if token in piece)
    measured = vocabulary.gene_tokens("homo_sapiens", small_adata().var_names[:PANEL].tolist())
    new = np.setdiff1d(piece, measured)
    assert 0 < len(new) <= PIECE
    read = next(read_cells(model, panel_cells(), np.array([4]), SHOWN))
    both = torch.from_numpy(np.concatenate([measured, new]).astype(np.int32))
    with torch.no_grad():
        cells, depth = read.encoded.compressed.restored, 3 * read.batch.depth
        mean = model.network.generate(cells, both, make_ragged([len(both)]), depth, depth).mean.double().numpy()
    found = impute(model, panel_cells(), [gene], np.array([4]), depth=3, options=SHOWN)
    told = mean[PANEL:][new == token] / mean[:PANEL].sum() * 3 * small_adata().X[4, :PANEL].sum()
    assert np.allclose(found.expected[0], told, rtol=1e-4)


@pytest.mark.parametrize(
    ("genes", "more", "said"),
    [
        (["ENSG_none"], {}, "ENSG_none.*genes of homo_sapiens"),
        ([], {}, "at least one"),
        ("ENSG00000000003", {}, "a list of feature ids"),
        (None, {"depth": -1.0}, "depth=-1.0.*above 0"),
        (None, {"numbers": np.array([200])}, "numbers"),
    ],
)
def test_what_cannot_be_imputed_is_refused_at_once(genes, more, said):
    with pytest.raises(ModelInputError, match=said):
        impute_blocks(untrained(), panel_cells(), missing() if genes is None else genes, **more)


def test_genes_that_are_all_measured_are_left_to_denoising():
    with pytest.raises(ModelInputError, match=r"2 measured ones.*denoise"):
        impute_blocks(untrained(), panel_cells(), small_adata().var_names[:2].tolist())
    with pytest.raises(ModelInputError, match="each gene once"):
        impute_blocks(untrained(), panel_cells(), [missing()[0]] * 2)
