"""The simple methods do what their papers say, and every method is scored as scipy would score it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, poisson, t

from benchmarks import task_baselines as simple
from benchmarks import tasks


def two_types(n: int = 60, genes: int = 80, depth: float = 400.0, seed: int = 0):
    """Return counts of two types, each of which never expresses a quarter of the genes, their means, and the types."""
    rng = np.random.default_rng(seed)
    profiles = rng.gamma(2.0, 1.0, (2, genes))
    profiles[0, : genes // 4] = profiles[1, -(genes // 4) :] = 0
    kinds = np.arange(n) % 2
    means = depth * profiles[kinds] / profiles[kinds].sum(1, keepdims=True)
    return rng.poisson(means).astype(np.float64), means, kinds


def test_knn_smoothing_sums_raw_counts_of_cells_alike_and_takes_their_noise_away():
    counts, means, kinds = two_types(n=128)
    k = 15
    smooth = simple.knn_smoothing(counts, k, n_components=1)  # what tells the types apart
    assert np.array_equal(smooth, smooth.round())
    # Never from the other type, whose own genes would show.
    assert not smooth[kinds == 0][:, :20].any()
    assert not smooth[kinds == 1][:, -20:].any()
    assert smooth.sum(1).mean() == pytest.approx((k + 1) * counts.sum(1).mean(), rel=0.05)
    # The paper: k + 1 cells put together have a coefficient of variation smaller by sqrt(k + 1).
    there = means > 2
    noise = [(one[there] / means[there]).std() for one in (counts, smooth / (k + 1))]
    assert noise[0] / noise[1] == pytest.approx(np.sqrt(k + 1), rel=0.2)


def test_knn_smoothing_of_one_neighbour_adds_the_nearest_by_transformed_components():
    counts = two_types(n=9, genes=12)[0]
    scaled = counts * np.median(counts.sum(1)) / counts.sum(1, keepdims=True)
    shape = np.sqrt(scaled) + np.sqrt(scaled + 1)
    distances = ((shape[:, None] - shape[None]) ** 2).sum(-1) + np.diag(np.full(9, np.inf))
    expected = counts + counts[distances.argmin(1)]
    assert np.array_equal(simple.knn_smoothing(counts, k=1, n_components=8), expected)  # 8 components keep distances


def test_alra_is_its_published_steps_gene_by_gene():
    normal = simple.log_normal(two_types()[0])
    u, d, v = np.linalg.svd(normal, full_matrices=False)
    low = u[:, :2] * d[:2] @ v[:2]
    found = simple.alra(normal, rank=2)
    filled = 0
    for gene in range(normal.shape[1]):
        bound, seen = abs(np.quantile(low[:, gene], 0.001)), normal[:, gene] > 0
        kept = low[:, gene] > bound
        assert seen.sum() > 1
        expected = np.zeros(len(normal))
        some, observed = low[kept, gene], normal[seen, gene]
        expected[kept] = (some - some.mean()) / some.std(ddof=1) * observed.std(ddof=1) + observed.mean()
        expected = np.maximum(expected, 0)
        again = seen & (expected == 0)
        expected[again] = normal[again, gene]
        assert np.allclose(found[:, gene], expected, atol=1e-5), gene
        filled += int((kept & ~seen).sum())
    assert filled > 50


def test_alra_keeps_zeros_of_genes_that_a_type_never_expresses_and_fills_the_others():
    counts, means, _ = two_types(n=200, depth=150)
    found = simple.alra(simple.log_normal(counts))
    never, missed = means == 0, (means > 0) & (counts == 0)
    assert missed.sum() > 1_000
    assert (found[never] == 0).mean() > 0.85
    assert (found[missed] > 0).mean() > 0.6
    assert (found[counts > 0] > 0).all()


def test_alras_rank_is_that_of_what_is_not_noise():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 250)) * 3
    assert simple.choose_rank(signal + rng.normal(size=signal.shape)) == 5


def test_thinning_splits_molecules_and_loses_none():
    counts = two_types()[0]
    seen, unseen = simple.thinned(counts, 0.4, seed=3)
    assert np.array_equal(seen + unseen, counts)
    assert (seen >= 0).all()
    assert (unseen >= 0).all()
    assert seen.sum() / counts.sum() == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / counts.sum()))
    assert not np.array_equal(seen, simple.thinned(counts, 0.4, seed=4)[0])


def test_scores_are_scipys_and_a_share_of_zero_does_not_end_them():
    counts, means, _ = two_types(n=40)
    unseen = np.random.default_rng(9).poisson(means).astype(np.float64)
    usual = simple.gene_means(counts)
    assert np.allclose(usual, (counts.sum(0) + 1) / (counts.sum() + counts.shape[1]))
    found = simple.scores(unseen, counts, usual, seed=1)
    shares = 0.99 * counts / counts.sum(1, keepdims=True) + 0.01 * usual
    for cell in range(40):
        total = unseen[cell].sum()
        nll = -poisson.logpmf(unseen[cell], total * shares[cell]).sum() / total
        assert found["nll"][cell] == pytest.approx(nll, rel=1e-9)
        logs = [np.log1p(1e4 * one / one.sum()) for one in (counts[cell], unseen[cell])]
        assert found["pearson"][cell] == pytest.approx(pearsonr(*logs).statistic, rel=1e-9)
    assert np.isfinite(found["nll"]).all()
    truth = simple.scores(unseen, means, usual, seed=1)
    assert truth["nll"].mean() < found["nll mixed"].mean() < found["nll"].mean()
    assert truth["nll mixed"].mean() == pytest.approx(truth["nll"].mean(), rel=1e-3)


def test_the_mixture_is_chosen_on_other_cells_than_it_scores():
    rng = np.random.default_rng(0)
    unseen = rng.poisson(5.0, (2, 30)).astype(np.float64)
    usual = np.full((1, 30), 1 / 30)
    told = np.vstack([unseen[0] + 1e-3, rng.permutation(np.geomspace(1e-6, 1, 30))])
    found = simple.scores(unseen, told, usual, seed=0)["nll mixed"]
    nll = {
        part: simple.molecule_nll(unseen, (1 - part) * simple.shares_of(told) + part * usual)
        for part in simple.MIXTURES
    }
    # The first cell is told best unmixed, the second by the gene means: each gets what suits the other.
    assert found[0] == nll[0.95][0]
    assert found[1] == nll[0.01][1]


def test_intervals_are_students():
    values = [1.0, 1.2, 1.7]
    low, high = t.interval(0.95, 2, loc=np.mean(values), scale=np.std(values, ddof=1) / np.sqrt(3))
    told = tasks.with_intervals({"nll": values, "cells": [3, 4, 5]})
    assert told["cells"] == 12
    mean, half = map(float, told["nll"].split(" ± "))
    assert (mean, half) == (pytest.approx(np.mean(values), abs=1e-4), pytest.approx((high - low) / 2, abs=1e-4))
