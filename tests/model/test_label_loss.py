"""The label loss says what the ontology says: ancestors positive, descendants open, the rest negative."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.errors import ModelInputError
from model.label_loss import LabelLoss
from ontology import LabelSpace, load_ontology, make_label_space

T, CD4, CD8, B, LYMPHOCYTE = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000542"


@pytest.fixture(scope="module")
def space() -> LabelSpace:
    """Return leaves B, CD4, CD8 below T (two of them) and lymphocyte (all)."""
    return make_label_space(load_ontology("CL"), [T, CD4, CD8, B, LYMPHOCYTE])


def brute(space: LabelSpace, logits: np.ndarray, code: int) -> float:
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return -np.log(sum(shares[leaf] for leaf in range(space.n_leaves) if space.below[code, leaf]))


def test_each_class_costs_minus_the_log_of_its_leaves_sum(space: LabelSpace) -> None:
    logits = np.random.default_rng(0).normal(size=(len(space), space.n_leaves)) * 3
    loss = LabelLoss(space)
    for code in range(len(space)):
        one = loss(torch.tensor(logits[code : code + 1]), torch.tensor([code]))
        assert one.item() == pytest.approx(brute(space, logits[code], code), rel=1e-5)
    together = loss(torch.tensor(logits), torch.arange(len(space)))
    expected = np.mean([brute(space, logits[code], code) for code in range(len(space))])
    assert together.item() == pytest.approx(expected, rel=1e-5)


def test_a_coarse_label_pushes_its_leaves_up_alike_and_the_others_down(space: LabelSpace) -> None:
    logits = torch.zeros(1, space.n_leaves, requires_grad=True)
    LabelLoss(space)(logits, torch.from_numpy(space.encode([T]).astype(np.int64))).backward()
    push = dict(zip(space.leaves, (-logits.grad[0]).tolist(), strict=True))
    assert push[CD4] == pytest.approx(push[CD8])
    assert push[CD4] > 0 > push[B]


def test_a_coarse_label_does_not_decide_between_its_leaves(space: LabelSpace) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]], requires_grad=True)
    LabelLoss(space)(logits, torch.from_numpy(space.encode([T]).astype(np.int64))).backward()
    inside = logits.detach()[0, 1:].softmax(0)
    assert torch.allclose(-logits.grad[0, 1:] / -logits.grad[0, 1:].sum(), inside, atol=1e-6)


def test_a_label_above_every_leaf_and_an_unknown_one_teach_nothing(space: LabelSpace) -> None:
    for code in (int(space.encode([LYMPHOCYTE])[0]), -1):
        logits = torch.randn(4, space.n_leaves, requires_grad=True)
        loss = LabelLoss(space)(logits, torch.full((4,), code))
        loss.backward()
        assert abs(loss.item()) < 1e-6
        assert logits.grad.abs().max() < 1e-6


def test_probabilities_add_up_the_graph(space: LabelSpace) -> None:
    found = LabelLoss(space).probabilities(torch.randn(50, space.n_leaves) * 5)
    of = {term: found[:, space.classes.index(term)] for term in space.classes}
    assert torch.allclose(of[T], of[CD4] + of[CD8], atol=1e-6)
    assert torch.allclose(of[LYMPHOCYTE], torch.ones(50), atol=1e-6)


def test_weights_are_trust_and_unknown_cells_change_no_mean(space: LabelSpace) -> None:
    loss, logits = LabelLoss(space), torch.randn(3, space.n_leaves)
    codes = torch.tensor([0, 1, -1])
    alone = [loss(logits[i : i + 1], codes[i : i + 1]) for i in (0, 1)]
    assert torch.isclose(loss(logits, codes), (alone[0] + alone[1]) / 2)
    assert torch.isclose(loss(logits, codes, torch.tensor([3.0, 1.0, 9.0])), (3 * alone[0] + alone[1]) / 4)


def test_ancestors_make_a_near_miss_cheaper(space: LabelSpace) -> None:
    code = torch.from_numpy(space.encode([CD4]).astype(np.int64))
    near, far = (torch.tensor([[4.0 * (leaf == miss) for leaf in space.leaves]]) for miss in (CD8, B))
    plain, graded = LabelLoss(space), LabelLoss(space, ancestors=1.0)
    assert torch.isclose(plain(near, code), plain(far, code))
    assert graded(near, code) < graded(far, code)


def test_logits_of_another_shape_are_refused(space: LabelSpace) -> None:
    with pytest.raises(ModelInputError, match="logits"):
        LabelLoss(space)(torch.zeros(2, space.n_leaves + 1), torch.zeros(2, dtype=torch.int64))
