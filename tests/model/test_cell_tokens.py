"""Cell tokens read their own cell only, nothing goes round the bottleneck, and expression keeps its scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.compression import Compressor, Gaussian, quantise
from model.config import COMPRESSED, OWN_COMPRESSED, CellConfig
from model.errors import ModelInputError
from model.heads import ExpressionHead, LabelHeads
from model.ragged import make_ragged
from model.xpressor import CellReader

CONFIG = CellConfig(width=32, layers=2, heads=4)


def make_reader() -> CellReader:
    torch.manual_seed(0)
    return CellReader(CONFIG, 24).double().eval()


def test_tokens_do_not_depend_on_batch_mates_nor_on_the_order_of_genes() -> None:
    reader, sizes = make_reader(), [9, 4, 17]
    genes = torch.randn(30, 24).double()
    together = reader(genes, make_ragged(sizes))
    assert together.shape == (3, 10, 32)
    for cell, mine in enumerate(genes.split(sizes)):
        alone = reader(mine[torch.randperm(len(mine))], make_ragged([len(mine)]))[0]
        assert (alone - together[cell]).abs().max() < 1e-10 * together[cell].abs().max()


def test_a_cell_without_genes_has_tokens_all_the_same() -> None:
    found = make_reader()(torch.randn(3, 24).double(), make_ragged([3, 0]))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("kind", ["vae", "fsq", "none"])
def test_tokens_reach_the_decoder_through_their_code_alone(kind: str) -> None:
    torch.manual_seed(0)
    config = CellConfig(width=32, compression=kind)
    compressor = Compressor(config, CellReader(config, 8).names)
    tokens = torch.randn(6, 10, 32)
    found = compressor(tokens, sample=False)
    assert torch.equal(found.restored, compressor.restore(found.codes)), "the codes are all there is"
    assert [code.shape[1] for code in found.codes] == list(compressor.sizes)
    if kind != "none":
        assert compressor.sizes == tuple(COMPRESSED[name] for name in ("base", *config.labels))
    assert torch.equal(found.restored, compressor(tokens, sample=False).restored), "nothing is drawn at inference"


def test_training_draws_around_the_mean() -> None:
    torch.manual_seed(0)
    gaussian = Gaussian(16, 8)
    token = torch.randn(1, 16).expand(4_000, 16)
    mean, drawn, kl = gaussian(token, True)
    variance = gaussian.log_variance(gaussian.squeeze(token[:1])).exp()
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.1)
    assert torch.allclose(drawn.var(0), variance[0], rtol=0.15)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean[0], variance[0].sqrt()), normal(0.0, 1.0)).sum()
    assert torch.isclose(kl[0], expected, rtol=1e-5)


@pytest.mark.parametrize("levels", [2, 3, 5, 8])
def test_quantised_numbers_take_their_levels_and_pass_the_gradient(levels: int) -> None:
    x = torch.linspace(-6, 6, 2_001, requires_grad=True)
    found = quantise(x, levels)
    assert np.allclose(np.unique(found.detach().numpy().round(5)), np.linspace(-1, 1, levels), atol=1e-5)
    found.sum().backward()
    assert torch.allclose(x.grad, 1 - x.detach().tanh() ** 2, atol=1e-5)


def test_a_label_of_ones_own_is_compressed_too() -> None:
    assert Compressor(CONFIG, ("base", "mood")).sizes == (COMPRESSED["base"], OWN_COMPRESSED)


def test_what_cannot_be_compressed_is_refused() -> None:
    with pytest.raises(ModelInputError, match="fsq_levels"):
        Compressor(CellConfig(fsq_levels=1), ("base",))


def test_expression_adds_up_to_the_total_asked_for_in_every_cell() -> None:
    torch.manual_seed(0)
    head, rows = ExpressionHead(16), make_ragged([5, 8, 1])
    x, depth = torch.randn(14, 16), torch.tensor([100.0, 5_000.0, 1.0])
    total = torch.tensor([50.0, 3_000.0, 1.0])
    found = head(x, rows, depth, total)
    assert torch.allclose(rows.sum(found.mean), total, rtol=1e-5)
    assert (found.theta > 0).all()
    assert (found.expected < found.mean).all()
    twice = head(x, rows, depth, 2 * total)
    assert torch.allclose(twice.mean, 2 * found.mean), "the total is a scale"
    deeper = head(x, rows, 10 * depth, total)
    assert not torch.allclose(deeper.mean, found.mean), "depth is a feature as well"


def test_labels_with_nothing_to_tell_apart_have_no_head() -> None:
    heads = LabelHeads(("base", "sex", "organism"), (8, 2, 8), {"sex": 2, "organism": 1})
    found = heads([torch.randn(3, 8), torch.randn(3, 2), torch.randn(3, 8)])
    assert {name: logits.shape for name, logits in found.items()} == {"sex": (3, 2)}
