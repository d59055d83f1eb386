"""Likelihoods are scipy's, also at the edges; errors are numpy's; and each parameter is found again by its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from model.likelihoods import mean_per_cell, nb_log_likelihood, share_error, zinb_log_likelihood
from model.ragged import make_ragged

COUNTS = np.array([0, 1, 2, 7, 255, 40_000])


@pytest.mark.parametrize("mean", [1e-3, 0.3, 5.0, 3e4])
@pytest.mark.parametrize("theta", [1e-3, 1.0, 50.0, 1e6])
def test_nb_is_scipys(mean: float, theta: float) -> None:
    found = nb_log_likelihood(*(torch.tensor(x) for x in (COUNTS, np.full(6, mean), np.full(6, theta))))
    assert np.allclose(found, stats.nbinom.logpmf(COUNTS, theta, theta / (theta + mean)), rtol=1e-6, atol=1e-6)


def test_a_large_theta_leaves_poisson() -> None:
    mean = np.array([0.1, 3.0, 200.0])
    found = nb_log_likelihood(torch.tensor([0, 4, 190]), torch.tensor(mean), torch.full((3,), 1e12))
    assert np.allclose(found, stats.poisson.logpmf([0, 4, 190], mean), rtol=1e-3)


@pytest.mark.parametrize("logit", [-30.0, -1.0, 0.0, 4.0])
def test_zinb_is_the_mixture(logit: float) -> None:
    mean, theta = np.full(6, 2.5), np.full(6, 0.7)
    share = 1 / (1 + np.exp(-logit))
    with np.errstate(divide="ignore"):
        expected = np.log(share * (COUNTS == 0) + (1 - share) * stats.nbinom.pmf(COUNTS, 0.7, 0.7 / 3.2))
    found = zinb_log_likelihood(*(torch.tensor(x) for x in (COUNTS, mean, theta, np.full(6, logit)))).numpy()
    assert np.allclose(found[np.isfinite(expected)], expected[np.isfinite(expected)])
    assert np.isfinite(found).all(), "a count whose probability underflows still has a likelihood"


def test_gradients_are_finite_where_a_count_is_absurd() -> None:
    mean, theta, logit = (torch.full((4,), x, requires_grad=True) for x in (1e-8, 1e-4, 0.0))
    zinb_log_likelihood(torch.tensor([0, 1, 1_000, 10_000_000]), mean, theta, logit).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (mean, theta, logit))


def test_parameters_are_found_again_from_draws() -> None:
    rng = np.random.default_rng(0)
    draws = rng.negative_binomial(2.0, 2.0 / (2.0 + 6.0), 4_000) * (rng.random(4_000) > 0.3)
    counts, raw = torch.tensor(draws), torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        mean, theta = raw[:2].exp()
        value = -zinb_log_likelihood(counts, mean.expand(4_000), theta.expand(4_000), raw[2].expand(4_000)).mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert raw[0].exp().item() == pytest.approx(6.0, rel=0.06)
    assert raw[1].exp().item() == pytest.approx(2.0, rel=0.2)
    assert raw[2].sigmoid().item() == pytest.approx(0.3, abs=0.04)


def test_share_errors_are_numpys_cell_by_cell_and_blind_to_depth() -> None:
    rng = np.random.default_rng(1)
    sizes = [5, 3, 0]
    counts, mean = rng.poisson(3, 8) + 1.0, rng.random(8) + 0.1
    rows = make_ragged(sizes)
    found = share_error(torch.tensor(counts), torch.tensor(mean), rows)
    for cell, (x, mu) in enumerate(zip(np.split(counts, [5, 8])[:2], np.split(mean, [5, 8])[:2], strict=True)):
        expected = np.mean((np.log1p(1e4 * x / x.sum()) - np.log1p(1e4 * mu / mu.sum())) ** 2)
        assert found[cell].item() == pytest.approx(expected)
    assert found[2] == 0
    assert torch.allclose(share_error(torch.tensor(counts * 7), torch.tensor(mean), rows), found)
    assert mean_per_cell(torch.tensor(counts), rows)[0].item() == pytest.approx(counts[:5].mean())
