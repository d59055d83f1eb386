"""The discrepancy between batches: brute force as the oracle, no bias, real gradients, nothing won by shrinking."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from model.errors import ModelInputError
from model.mmd import SCALES, mmd2, mmd_between


def kernel(x: np.ndarray) -> np.ndarray:
    """The kernel of all pairs, by loops."""
    n = len(x)
    apart = np.array([[((a - b) ** 2).sum() for b in x] for a in x])
    mean = apart[~np.eye(n, dtype=bool)].mean()
    return np.mean([np.exp(-apart / (scale * mean)) for scale in SCALES], axis=0)


def brute(k: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """Gretton et al.'s Lemma 6 by loops over pairs of different points."""
    own = [np.mean([k[i, j] for i in some for j in some if i != j]) for some in (one, two)]
    return own[0] + own[1] - 2 * np.mean([k[i, j] for i in one for j in two])


@pytest.mark.parametrize(("m", "n", "width"), [(2, 2, 1), (5, 9, 3), (12, 4, 8)])
def test_it_is_what_brute_force_says(m: int, n: int, width: int) -> None:
    rng = np.random.default_rng(m)
    x, y = rng.normal(size=(m, width)), rng.normal(1.0, 2.0, size=(n, width))
    expected = brute(kernel(np.concatenate([x, y])), np.arange(m), np.arange(m, m + n))
    assert float(mmd2(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected, abs=1e-12)
    assert float(mmd2(torch.from_numpy(x).float(), torch.from_numpy(y).float())) == pytest.approx(expected, abs=1e-5)


def test_batches_are_compared_within_each_kind_and_weighted_as_brute_force_says() -> None:
    rng = np.random.default_rng(0)
    n = 60
    x, batches, kinds = rng.normal(size=(n, 4)), rng.integers(0, 3, n), rng.integers(-1, 3, n)
    batches[:3], kinds[kinds == 2] = -1, -1
    kinds[5] = 2  # a kind of one cell
    taken = (batches >= 0) & (kinds >= 0)
    k, whole, weights = kernel(x[taken]), 0.0, 0.0
    for kind in range(3):
        groups = [np.flatnonzero((batches[taken] == b) & (kinds[taken] == kind)) for b in range(3)]
        for one, two in combinations([group for group in groups if len(group) > 1], 2):
            weight = len(one) * len(two) / (len(one) + len(two))
            whole, weights = whole + weight * brute(k, one, two), weights + weight
    found = mmd_between(*(torch.from_numpy(one) for one in (x, batches, kinds)))
    assert float(found) == pytest.approx(whole / weights, abs=1e-12)


def test_where_no_kind_is_known_all_cells_are_of_one() -> None:
    rng = np.random.default_rng(1)
    x, batches = torch.from_numpy(rng.normal(size=(20, 3))), torch.arange(20) % 2
    found = mmd_between(x, batches, torch.full((20,), -1))
    assert torch.allclose(found, mmd2(x[batches == 0], x[batches == 1]))
    assert float(mmd_between(x, torch.zeros(20, dtype=torch.long), torch.zeros(20, dtype=torch.long))) == 0


def test_halves_of_one_batch_are_no_further_apart_than_chance_on_average() -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(np.concatenate([rng.normal(size=(16, 3)), rng.normal(4.0, 1.0, size=(8, 3))]))
    found = []
    for _ in range(2_000):
        order = torch.from_numpy(rng.permutation(24))
        found.append(float(mmd2(x[order[:9]], x[order[9:]])))
    # The mean over all halves of the same points is exactly 0; of 2,000 it is within its standard error.
    assert abs(np.mean(found)) < 4 * np.std(found) / 2_000**0.5
    assert min(found) < 0 < max(found)
    apart = float(mmd2(x[:16], x[16:]))
    assert apart > max(found)


def test_the_gradient_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.normal(size=(14, 3))).requires_grad_()
    batches, kinds = torch.arange(14) % 2, torch.arange(14) // 7
    assert torch.autograd.gradcheck(lambda one: mmd_between(one, batches, kinds), (x,))
    y = torch.from_numpy(rng.normal(2.0, size=(5, 3))).requires_grad_()
    assert torch.autograd.gradcheck(mmd2, (x, y))


def test_shrinking_gains_nothing_and_moving_together_does() -> None:
    rng = np.random.default_rng(4)
    x, y = (torch.from_numpy(rng.normal(size=(30, 5))) for _ in range(2))
    y = (y + 3).requires_grad_()
    before = mmd2(x, y)
    assert torch.allclose(mmd2(x * 1e-3, y * 1e-3), before)
    before.backward()
    moved = y.detach() - 5.0 * y.grad
    assert mmd2(x, moved) < before
    assert float((y.grad.mean(0) > 0).double().mean()) == 1, "towards the others, in every direction they differ in"


def test_equal_points_have_a_gradient_of_numbers() -> None:
    x = torch.zeros(6, 3, requires_grad=True)
    mmd_between(x, torch.arange(6) % 2, torch.zeros(6, dtype=torch.long)).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("x", "y", "scales"), [((1, 3), (4, 3), SCALES), ((4, 3), (4, 2), SCALES), ((4, 3), (4, 3), (0.0,))]
)
def test_what_cannot_be_compared_is_refused(x: tuple, y: tuple, scales: tuple) -> None:
    with pytest.raises(ModelInputError):
        mmd2(torch.zeros(x), torch.zeros(y), scales)
    with pytest.raises(ModelInputError, match="batches"):
        mmd_between(torch.zeros(4, 2), torch.zeros(3), torch.zeros(4))
