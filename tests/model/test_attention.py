"""Every kind of attention: right by an oracle, blind to batch mates, true to permuted genes, deterministic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import attend
from model.config import TrunkConfig, preset
from model.criss_cross import effective_map
from model.errors import ModelInputError
from model.performer import linear_attention, orthogonal_features
from model.prior_bias import PriorBias
from model.ragged import make_ragged
from model.trunk import Trunk

KINDS = ("exact", "criss-cross", "performer")


def written_out(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the attention of one cell, [rows, heads, d], head by head."""
    out = np.zeros_like(q)
    for head in range(q.shape[1]):
        shared = head * k.shape[1] // q.shape[1]
        logits = q[:, head] @ k[:, shared].T / np.sqrt(q.shape[2]) + bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        out[:, head] = shares / shares.sum(1, keepdims=True) @ v[:, shared]
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=4),
    st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_exact_attention_is_the_formula_in_every_cell(sizes: list, heads: tuple, biased: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked, read = ([s[i] for s in sizes] for i in (0, 1))
    q = rng.normal(size=(sum(asked), heads[0], 8))
    k, v = rng.normal(size=(2, sum(read), heads[1], 8))
    bias = rng.normal(size=(len(sizes), max(asked), max(read))) if biased else None
    found = attend(
        *(torch.tensor(x) for x in (q, k, v)), make_ragged(asked), make_ragged(read),
        None if bias is None else torch.tensor(bias),
    ).numpy()  # fmt: skip
    at, of = np.concatenate([[0], np.cumsum(asked)]), np.concatenate([[0], np.cumsum(read)])
    for cell, (n, m) in enumerate(sizes):
        mine, theirs = slice(at[cell], at[cell + 1]), slice(of[cell], of[cell + 1])
        added = 0.0 if bias is None else bias[cell, :n, :m]
        expected = written_out(q[mine], k[theirs], v[theirs], added) if m and n else 0.0
        assert np.allclose(found[mine], expected, atol=1e-12)


def test_sides_of_different_cells_are_refused() -> None:
    x = torch.zeros(2, 1, 4)
    with pytest.raises(ModelInputError, match="rows_kv"):
        attend(x, x, x, make_ragged([2]), make_ragged([1, 1]))


def make_trunk(kind: str, **changes: object) -> Trunk:
    torch.manual_seed(0)
    trunk = preset("tiny").changed(trunk={"attention": kind, "latents": 24, **changes}).trunk
    return Trunk(trunk, 16).double().eval()


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("cells", [False, True], ids=["encoding", "decoding"])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_mates_and_padding_change_nothing(kind: str, cells: bool) -> None:
    trunk, sizes = make_trunk(kind), [7, 30, 12]
    x, tokens = torch.randn(sum(sizes), 64).double(), torch.randn(3, 5, 16).double() if cells else None
    together = trunk(x, make_ragged(sizes), cells=tokens).split(sizes)
    for cell, mine in enumerate(x.split(sizes)):
        own = None if tokens is None else tokens[cell : cell + 1]
        assert worst(trunk(mine, make_ragged([len(mine)]), cells=own), together[cell]) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_genes_give_permuted_tokens(kind: str) -> None:
    trunk, x, order = make_trunk(kind), torch.randn(40, 64).double(), torch.randperm(40)
    rows = make_ragged([40])
    assert worst(trunk(x[order], rows), trunk(x, rows)[order]) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_a_gene_is_heard_by_its_own_cell_only(kind: str) -> None:
    trunk, x = make_trunk(kind), torch.randn(20, 64).double()
    rows, other = make_ragged([12, 8]), x.clone()
    other[3] = torch.randn(64).double()
    changed = (trunk(other, rows) - trunk(x, rows)).abs().amax(1) > 1e-9
    assert changed[:12].all()
    assert not changed[12:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(kind: str) -> None:
    x, tokens, rows = torch.randn(20, 64).double(), torch.randn(2, 5, 16).double(), make_ragged([12, 8])
    found = []
    for saved in (False, True):
        trunk = make_trunk(kind, checkpointing=saved).train()
        trunk(x, rows, cells=tokens).square().sum().backward()
        gradients = {name: p.grad for name, p in trunk.named_parameters()}
        silent = [n for n, g in gradients.items() if g is None or not g.abs().sum()]
        # A softmax does not see a constant added to all logits, which is what a bias of the keys is to exact attention;
        # the last block's latents are read by nobody.
        assert not [n for n in silent if "out_latents" not in n and f"blocks.{len(trunk.blocks) - 1}" not in n], silent
        found.append(gradients)
    for name, gradient in found[0].items():
        if gradient is not None:
            assert torch.allclose(gradient, found[1][name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_builds_the_same_network_which_answers_alike_every_time(kind: str) -> None:
    x, rows = torch.randn(15, 64).double(), make_ragged([15])
    first = make_trunk(kind, dropout=0.5, stochastic_depth=0.5)
    assert torch.equal(first(x, rows), first(x, rows)), "nothing is dropped in evaluation"
    assert torch.equal(first(x, rows), make_trunk(kind)(x, rows))


def test_stochastic_depth_skips_whole_cells_and_keeps_the_mean() -> None:
    trunk = make_trunk("exact", stochastic_depth=0.5).train()
    block, x, rows = trunk.blocks[-1], torch.randn(4_000, 64).double(), make_ragged([2] * 2_000)
    torch.manual_seed(1)
    moved = (block(x, rows, None, None, None)[0] - x).view(2_000, -1).abs().sum(1) > 0
    assert 0.45 < moved.double().mean() < 0.55
    assert not trunk.blocks[0].skipped


def test_performer_comes_near_exact_attention_and_nearer_with_more_features() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 60, 2, 16).double() * 0.3
    rows = make_ragged([25, 35])
    exact = attend(q, k, v, rows, rows)
    errors = []
    for count in (32, 256, 16_384):
        found = linear_attention(q, k, v, rows, orthogonal_features(count, 16).double())
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_performer_stays_finite_for_large_logits() -> None:
    q = torch.randn(9, 2, 16) * 40
    assert torch.isfinite(linear_attention(q, q, q, make_ragged([4, 5]), orthogonal_features(64, 16))).all()


def test_orthogonal_features_are_orthogonal_in_blocks() -> None:
    block = orthogonal_features(32, 16)[:16].double()
    inner = block @ block.T
    assert (inner - inner.diag().diag()).abs().max() < 1e-5


def test_the_effective_map_is_what_genes_read_of_each_other() -> None:
    trunk, shown = make_trunk("criss-cross"), {}
    trunk(torch.randn(18, 64).double(), make_ragged([18]), watch=lambda layer, q, k: shown.update({layer: (q, k)}))
    query, key = shown[1]
    found = effective_map(query, key, 18)
    assert found.shape == (4, 18, 18)
    assert torch.allclose(found.sum(-1), torch.ones(4, 18).double())
    latents = slice(18, 42)
    for head in range(4):
        up = written_shares(query[:18, head], key[latents, head])
        down = written_shares(query[latents, head], key[:18, head])
        assert np.allclose(found[head].detach(), up @ down)


def written_shares(q: torch.Tensor, k: torch.Tensor) -> np.ndarray:
    logits = (q @ k.T).detach().numpy() / np.sqrt(q.shape[1])
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_a_watch_sees_what_exact_attention_used() -> None:
    trunk, shown = make_trunk("exact"), {}
    trunk(torch.randn(9, 64).double(), make_ragged([9]), watch=lambda layer, q, k: shown.update({layer: (q, k)}))
    assert [(q.shape, k.shape) for q, k in shown.values()] == [((9, 4, 16), (9, 2, 16))] * 2


def test_a_prior_raises_the_attention_of_its_edges_in_every_cell() -> None:
    edges = torch.tensor([[5, 9, 1], [7, 5, 2]])
    prior = PriorBias(edges, torch.tensor([2.0, -1.0, 3.0]), 10)
    genes, rows = torch.tensor([7, 5, 9, 5, 7]), make_ragged([3, 2])
    bias = prior(genes, rows)
    assert bias[0].tolist() == [[0, 0, 0], [2, 0, 0], [0, -1, 0]]
    assert bias[1, :2, :2].tolist() == [[0, 2], [0, 0]]
    bias.sum().backward()
    assert prior.strength.grad != 0
    for wrong in (torch.tensor([[5], [10]]), torch.tensor([[1, 2, 3]])):
        with pytest.raises(ModelInputError, match="edges"):
            PriorBias(wrong, torch.ones(wrong.shape[1]), 10)


def test_the_trunk_takes_any_context_from_one_gene_to_thousands() -> None:
    trunk = Trunk(TrunkConfig(width=16, layers=1, heads=2, kv_heads=1, attention="criss-cross", latents=8), 8).eval()
    for n in (1, 200, 8_000):
        assert torch.isfinite(trunk(torch.randn(n, 16), make_ragged([n]))).all()
