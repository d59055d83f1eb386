"""Evidence on embeddings: each score against a count by hand or another library, on cells whose answer is planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare, entropy, f_oneway
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from model.embedding_evidence import (
    compare_scores,
    connected,
    describe_shape,
    mixing,
    name_by_neighbours,
    silhouettes,
    told_variance,
)

RNG = np.random.default_rng(0)
N = 240
KINDS = RNG.integers(0, 3, N)
DONORS = np.arange(N) % 6
APART = RNG.normal(size=(N, 5)) + 8 * np.eye(5)[KINDS]
NOISE = RNG.normal(size=(N, 5))


def test_ranks_are_those_of_the_singular_values():
    values = RNG.normal(size=(100, 6)) * [9, 5, 3, 1, 0.5, 0.1]
    found, pca = describe_shape(values), PCA().fit(values)
    ratio = pca.explained_variance_ratio_
    assert found["first_component"] == pytest.approx(ratio[0])
    assert found["participation_ratio"] == pytest.approx(1 / (ratio**2).sum())
    assert found["effective_rank"] == pytest.approx(np.exp(entropy(pca.singular_values_)))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    assert found["mean_cosine"] == pytest.approx((unit @ unit.T)[~np.eye(100, dtype=bool)].mean())
    assert found["distinct"] == 1
    assert describe_shape(np.repeat(values, 4, axis=0))["distinct"] == 0.25
    assert describe_shape(values @ np.linalg.qr(RNG.normal(size=(6, 6)))[0])["effective_rank"] == pytest.approx(
        found["effective_rank"]
    )


def test_nothing_and_one_line_have_the_least_of_directions():
    constant = describe_shape(np.ones((10, 3), dtype=np.float32))
    assert (constant["effective_rank"], constant["first_component"], constant["distinct"]) == (0, 1, 0.1)
    assert constant["mean_cosine"] == pytest.approx(1)
    line = describe_shape(np.outer(RNG.normal(size=50), RNG.normal(size=4)))
    assert line["participation_ratio"] == pytest.approx(1)
    assert line["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert describe_shape(RNG.normal(size=(20, 1)))["participation_ratio"] == pytest.approx(1)
    assert describe_shape(np.zeros((5, 2)))["mean_cosine"] == 1


def test_naming_is_a_vote_of_the_nearest_of_other_donors():
    values = APART + 4 * NOISE
    named, purity = name_by_neighbours(values, KINDS, DONORS, 7)
    for donor in range(6):
        mine = donor == DONORS
        vote = KNeighborsClassifier(7, algorithm="brute").fit(values[~mine], KINDS[~mine])
        near = KINDS[~mine][vote.kneighbors(values[mine], return_distance=False)]
        np.testing.assert_allclose(purity[mine], (near == KINDS[mine][:, None]).mean(1))
        sure = vote.predict_proba(values[mine])
        clear = np.sort(sure, axis=1)[:, -1] > np.sort(sure, axis=1)[:, -2]
        np.testing.assert_array_equal(named[mine][clear], (vote.predict(values[mine]) == KINDS[mine])[clear])
    assert 0.4 < named.mean() < 1


def test_a_tie_goes_to_the_nearer_and_one_donor_alone_is_not_scored():
    values = np.array([[0.0], [1.0], [-2.0], [10.0], [11.0]])
    named, _ = name_by_neighbours(values, np.array([0, 0, 1, 1, 1]), None, 2)
    assert named[0] == 1, "of two neighbours with a vote each the nearer has its class"
    named, purity = name_by_neighbours(APART, KINDS, np.zeros(N, dtype=int), 5)
    assert np.isnan(named).all()
    assert np.isnan(purity).all()
    rare = KINDS.copy()
    rare[DONORS == 0] = 7
    named, _ = name_by_neighbours(APART, rare, DONORS, 5)
    np.testing.assert_array_equal(np.isnan(named), DONORS == 0)


def test_connectivity_is_the_share_of_a_class_in_one_piece():
    assert connected(APART, KINDS, 10).mean() == 1
    far = APART.copy()
    first = np.flatnonzero(KINDS == 1)
    far[first[:20]] += 1_000
    found = connected(far, KINDS, 10)
    assert found[KINDS == 1].mean() == pytest.approx(1 - 20 / len(first))
    assert found[KINDS != 1].all()


def test_batches_are_mixed_where_they_are_drawn_alike_and_not_where_they_are_apart():
    lisi, kbet = mixing(NOISE, DONORS, np.zeros(N, dtype=int), 20)
    assert 0.75 < lisi.mean() < 1
    assert kbet.mean() > 0.85
    apart, rejected = mixing(NOISE + 50 * np.eye(5)[DONORS % 5], DONORS % 5, np.zeros(N, dtype=int), 20)
    assert (apart.max(), rejected.max()) == (0, 0)
    confounded, _ = mixing(APART, KINDS, KINDS, 10)
    assert np.isnan(confounded).all(), "classes of one batch each"
    assert np.isnan(mixing(NOISE[:30], DONORS[:30], np.zeros(30, dtype=int), 20)[0]).all(), "too few"


def test_kbet_is_the_chi_squared_test_of_the_neighbours():
    batches = (NOISE[:, 0] + RNG.normal(size=N) > 0).astype(int)
    _, kbet = mixing(NOISE, batches, np.zeros(N, dtype=int), 20)
    share = np.bincount(batches) / N
    distances = np.linalg.norm(NOISE[:, None] - NOISE, axis=2)
    truth = []
    for cell in range(N):
        near = [i for i in np.argsort(distances[cell]) if i != cell][:20]
        truth.append(chisquare(np.bincount(batches[near], minlength=2), 20 * share).pvalue >= 0.05)
    np.testing.assert_array_equal(kbet, truth)
    assert 0 < kbet.mean() < 1


def test_told_variance_is_the_weighted_r2_of_the_components():
    components = PCA().fit(APART + NOISE).transform(APART + NOISE)
    groups = [components[kind == KINDS] for kind in range(3)]
    f = f_oneway(*groups).statistic
    r2 = f * 2 / (f * 2 + N - 3)  # R^2 of each component out of its F
    weighted = (r2 * components.var(0)).sum() / components.var(0).sum()
    adjusted = 1 - (1 - weighted) * (N - 1) / (N - 3)
    assert told_variance(APART + NOISE, KINDS) == pytest.approx(adjusted)
    assert told_variance(3 * (APART + NOISE) + 5, KINDS) == pytest.approx(adjusted)
    by_chance = [told_variance(NOISE, np.random.default_rng(seed).permutation(DONORS)) for seed in range(200)]
    assert abs(np.mean(by_chance)) < 0.003
    assert np.isnan(told_variance(np.ones((10, 2)), np.arange(10) % 2))


def test_silhouettes_need_two_classes():
    assert silhouettes(APART, KINDS).mean() > 0.5
    assert np.isnan(silhouettes(APART, np.zeros(N, dtype=int))).all()


def test_means_weigh_classes_alike_and_intervals_cover_a_difference_that_is_there():
    scores = (KINDS == 0).astype(float)
    found = compare_scores(scores, None, KINDS, DONORS, 200)
    assert found["embedding"] == pytest.approx(1 / 3)
    assert np.isnan(found["difference"])
    better = (RNG.random(N) < 0.8).astype(float)
    worse = (RNG.random(N) < 0.5).astype(float)
    found = compare_scores(better, worse, KINDS, np.arange(N), 500)
    assert found["low"] < found["difference"] < found["high"]
    assert found["low"] > 0
    same = compare_scores(better, better, KINDS, DONORS, 100)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    holes = better.copy()
    holes[:50] = np.nan
    assert compare_scores(holes, worse, KINDS, DONORS, 50)["cells"] == N - 50
    assert np.isnan(compare_scores(np.full(N, np.nan), None, KINDS, DONORS, 50)["low"])


def test_intervals_over_donors_are_wider_where_donors_differ():
    by_donor = (DONORS < 3).astype(float)
    cells = compare_scores(by_donor, None, np.zeros(N, dtype=int), np.arange(N), 1_000)
    donors = compare_scores(by_donor, None, np.zeros(N, dtype=int), DONORS, 1_000)
    assert donors["high"] - donors["low"] > 3 * (cells["high"] - cells["low"])
