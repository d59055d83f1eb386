"""Embedding losses equal their formulas written out in numpy, fall where they should, and never give NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from model.adversary import Adversary, reverse_gradient
from model.embedding_losses import contrastive, elastic_similarity, independence
from model.errors import ModelInputError


def test_independence_is_its_formula() -> None:
    tokens = np.random.default_rng(0).normal(size=(4, 5, 6))
    expected = []
    for cell in tokens:
        pairs = [(s, t) for s in range(5) for t in range(5) if s != t]
        cosines = cosine_similarity(cell)
        apart = [np.linalg.norm(cell[s] - cell[t]) / np.sqrt(6) for s, t in pairs]
        expected.append(0.5 * np.mean([cosines[p] ** 2 for p in pairs]) + 0.5 / (np.mean(apart) + 1e-3))
    assert independence(torch.tensor(tokens)).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_equal_tokens_still_have_a_gradient() -> None:
    tokens = torch.ones(2, 3, 4, requires_grad=True)
    independence(tokens).backward()
    assert torch.isfinite(tokens.grad).all()
    with pytest.raises(ModelInputError, match="tokens"):
        independence(torch.ones(2, 1, 4))


def test_contrastive_is_cross_entropy_both_ways() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 8)), rng.normal(size=(6, 8))
    alike = cosine_similarity(a, b) / 0.3
    ways = [np.mean([np.log(np.exp(m[i]).sum()) - m[i, i] for i in range(6)]) for m in (alike, alike.T)]
    assert contrastive(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(np.mean(ways), rel=1e-5)
    assert contrastive(torch.tensor(a), torch.tensor(a)) < contrastive(torch.tensor(a), torch.tensor(a[::-1].copy()))
    with pytest.raises(ModelInputError, match="second"):
        contrastive(torch.zeros(2, 3), torch.zeros(3, 3))


def test_elastic_similarity_is_its_formula() -> None:
    x = np.random.default_rng(2).normal(size=(7, 4))
    cosines = np.maximum(cosine_similarity(x), 0)[~np.eye(7, dtype=bool)]
    assert elastic_similarity(torch.tensor(x)).item() == pytest.approx(np.mean(1 - (cosines - 0.4) ** 2), rel=1e-5)
    assert elastic_similarity(torch.ones(1, 4)) == 0


def test_reversal_turns_the_gradient_round_and_leaves_the_value() -> None:
    x = torch.randn(3, requires_grad=True)
    turned = reverse_gradient(x, 2.0)
    assert torch.equal(turned, x)
    turned.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), -2.0))


def test_the_adversary_learns_while_the_token_forgets() -> None:
    torch.manual_seed(0)
    codes = torch.arange(200) % 2
    encoder, adversary = torch.nn.Linear(2, 2, bias=False), Adversary(2, 2)
    torch.nn.init.eye_(encoder.weight)
    x = torch.stack([codes * 2.0 - 1, torch.randn(200)], 1)
    before = adversary(encoder(x), codes)
    before.backward()
    with torch.no_grad():
        for parameter in adversary.parameters():
            parameter.sub_(0.1 * parameter.grad)
    assert adversary(encoder(x), codes) < before, "its own step makes the opponent better"
    encoder.zero_grad()
    now = adversary(encoder(x), codes)
    now.backward()
    with torch.no_grad():
        encoder.weight -= 0.1 * encoder.weight.grad
    assert adversary(encoder(x), codes) > now, "the encoder's step makes it worse"


def test_cells_without_a_class_are_left_out() -> None:
    adversary, token = Adversary(4, 3), torch.randn(5, 4)
    codes = torch.tensor([0, 2, -1, -1, 1])
    known = codes >= 0
    assert torch.isclose(adversary(token, codes), adversary(token[known], codes[known]))
    assert adversary(token, torch.full((5,), -1)) == 0
