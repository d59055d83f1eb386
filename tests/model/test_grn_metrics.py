"""Metrics of networks are scikit-learn's and scipy's where these have them, and brute force where they have not."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact
from scipy.stats.contingency import odds_ratio as scipy_odds_ratio
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from model import ModelInputError
from model.grn_metrics import (
    area_under_precision_recall,
    average_precision,
    chance_average_precision,
    early_counts,
    early_precision_ratio,
    hub_strengths,
    odds_ratio,
    rank_enrichment,
    regulon_enrichment,
    score_network,
    universe_of,
)
from model.grn_scores import EdgeScores
from model.grn_truths import EdgeTruth


def made(n: int = 400, share: float = 0.1, seed: int = 0, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return values that know something of the truth, tied in so many levels, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    truth[rng.integers(0, n)] = True
    values = rng.normal(size=n) + truth
    return (np.floor(levels / (1 + np.exp(-values))) if levels else values), truth


def truth_of(pairs: list[tuple[str, str]]) -> EdgeTruth:
    frame = pd.DataFrame(pairs, columns=["regulator", "target"]).assign(sign=np.int8(0))
    return EdgeTruth("made", "homo_sapiens", "literature", frame, {}, "", "", "")


def scores_of(values: np.ndarray, regulators: str, targets: str | list[str]) -> EdgeScores:
    return EdgeScores(tuple(regulators), tuple(targets), values.astype(np.float32), None)


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_areas_are_scikit_learns(seed):
    values, truth = made(seed=seed)
    assert average_precision(values, truth) == pytest.approx(average_precision_score(truth, values), rel=1e-12)
    precision, recall, _ = precision_recall_curve(truth, values)
    assert area_under_precision_recall(values, truth) == pytest.approx(auc(recall, precision), rel=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 20])
def test_with_ties_average_precision_is_random_orders_and_the_area_is_not_above_it(levels):
    values, truth = made(levels=levels, share=0.05, n=600)
    assert len(np.unique(values)) <= levels
    rng, areas, precisions = np.random.default_rng(1), [], []
    for _ in range(400):
        broken = np.empty(len(values))
        broken[np.lexsort((rng.random(len(values)), values))] = np.arange(len(values))
        areas.append(area_under_precision_recall(broken, truth))
        precisions.append(average_precision_score(truth, broken))
    error = np.std(precisions) / np.sqrt(400)
    assert average_precision(values, truth) == pytest.approx(np.mean(precisions), abs=4 * error)
    found = area_under_precision_recall(values, truth)
    assert found > 0.8 * np.mean(areas)
    assert found <= np.mean(areas) * 1.01


def test_with_ties_average_precision_is_the_mean_over_all_orders():
    values, truth = np.array([3, 3, 2, 2, 2, 1]), np.array([1, 0, 1, 0, 1, 1], dtype=bool)
    orders = [
        np.array([*first, *middle, 5]) for first in permutations(range(2)) for middle in permutations(range(2, 5))
    ]
    every = [average_precision_score(truth[order], -np.arange(6)) for order in orders]
    assert average_precision(values, truth) == pytest.approx(np.mean(every), rel=1e-12)


@pytest.mark.parametrize(("known", "n"), [(1, 1), (1, 9), (6, 50), (20, 30)])
def test_chance_is_what_random_order_has_on_average(known, n):
    rng, truth = np.random.default_rng(0), np.arange(n) < known
    drawn = [average_precision(rng.random(n), truth) for _ in range(4_000)]
    assert chance_average_precision(known, n) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(4_000))


def test_scores_that_are_all_alike_are_worth_chance():
    truth = made(share=0.03, n=2_000)[1]
    values = np.zeros(len(truth))
    chance = chance_average_precision(int(truth.sum()), len(truth))
    assert average_precision(values, truth) == pytest.approx(chance, rel=1e-12)
    assert chance > 1.02 * average_precision_score(truth, values), "which takes all ties at their end"
    assert area_under_precision_recall(values, truth) == pytest.approx(truth.mean(), rel=0.02)
    precision, recall, _ = precision_recall_curve(truth, values)
    assert auc(recall, precision) > 0.5, "what a straight line across the ties would give"
    assert early_precision_ratio(values, truth) == pytest.approx(1)
    assert odds_ratio(values, truth)["odds_ratio"] == pytest.approx(1)


@pytest.mark.parametrize("levels", [0, 4])
def test_early_precision_counts_what_random_order_gives_on_average(levels):
    values, truth = made(levels=levels, n=300)
    rng, known, hits = np.random.default_rng(2), int(truth.sum()), []
    for _ in range(3_000):
        order = np.lexsort((rng.random(len(values)), -values))[:known]
        hits.append(truth[order].sum())
    found, early, n = early_counts(values, truth)
    assert (early, n) == (known, 300)
    assert found == pytest.approx(np.mean(hits), abs=5 * np.std(hits) / np.sqrt(3_000) + 1e-9)
    assert early_precision_ratio(values, truth) == pytest.approx(found / known / (known / 300))


def test_odds_and_their_interval_are_scipys():
    values, truth = made(n=2_000)
    found, known, n = early_counts(values, truth)
    table = np.array([[found, known - found], [known - found, n - 2 * known + found]]).astype(int)
    theirs = scipy_odds_ratio(table, kind="sample")
    interval = theirs.confidence_interval(0.9)
    ours = odds_ratio(values, truth, level=0.9)
    assert ours["odds_ratio"] == pytest.approx(theirs.statistic)
    assert (ours["low"], ours["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert ours["p"] == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_odds_stay_finite_where_everything_is_found():
    truth = np.arange(50) < 5
    found = odds_ratio(-np.arange(50.0), truth)
    assert np.isfinite(list(found.values())).all()
    assert found["low"] > 1
    assert early_precision_ratio(-np.arange(50.0), truth) == 10


@pytest.mark.parametrize("known", [5, 6, 40])
def test_a_constant_has_a_lift_of_exactly_one_pooled_and_per_regulator(known):
    rng, targets = np.random.default_rng(0), [f"t{i}" for i in range(60)]
    pairs = [(r, t) for r in "ab" for t in rng.permutation(targets)[:known]]
    pairs += [("c", target) for target in targets]  # so that the truth names them all
    told = score_network(scores_of(np.zeros((3, 60)), "abc", targets), truth_of(pairs))
    assert told.pooled["lift"] == pytest.approx(1, rel=1e-12)
    assert told.per_regulator["lift"].tolist() == pytest.approx([1, 1], rel=1e-12)


def test_the_universe_is_regulators_with_a_known_target_by_targets_of_the_truth_and_no_gene_itself():
    truth = truth_of([("a", "b"), ("a", "c"), ("b", "d"), ("b", "b"), ("x", "d"), ("c", "z")])
    values = np.arange(12.0).reshape(3, 4)
    values[0, 0] = np.nan  # a with itself
    values[1, 3] = np.nan  # the read-out says nothing of b to d
    found = universe_of(scores_of(values, "abc", "abcd"), truth)
    assert (found.regulators, found.targets) == (("a", "b"), ("b", "c", "d"))
    assert found.counted.tolist() == [[True, True, True], [False, True, True]]
    assert found.truth.tolist() == [[True, True, False], [False, False, True]]
    assert found.values[0].tolist() == [1, 2, 3]
    assert found.values[1, 2] == -np.inf
    assert found.density == pytest.approx(3 / 5)
    told = score_network(scores_of(values, "abc", "abcd"), truth)
    assert dict(told.universe) == {"regulators": 2, "targets": 3, "edges": 5, "known": 3}


def test_a_truth_of_other_genes_is_refused():
    with pytest.raises(ModelInputError, match=r"made: 0 edges.*same organism"):
        universe_of(scores_of(np.ones((2, 2)), "ab", "cd"), truth_of([("x", "y")]))


def test_pooling_rewards_knowing_degrees_and_scores_per_regulator_do_not():
    rng = np.random.default_rng(0)
    regulators, targets = [f"r{i}" for i in range(20)], [f"t{i}" for i in range(300)]
    degree = np.geomspace(6, 150, 20).astype(int)
    pairs = [(r, t) for r, n in zip(regulators, degree, strict=True) for t in rng.permutation(targets)[:n]]
    hubs = degree[:, None] + 1e-3 * rng.permuted(np.tile(np.arange(300.0), (20, 1)), axis=1)  # nothing ties
    told = score_network(EdgeScores(tuple(regulators), tuple(targets), hubs.astype(np.float32), None), truth_of(pairs))
    assert told.pooled["average_precision"] > 1.7 * told.density
    assert told.pooled["low"] > 2
    mean, low, high = told.mean("lift")
    assert low < 1 < high
    assert mean == pytest.approx(1, abs=0.15)
    assert len(told.per_regulator) == 20
    one = told.per_regulator.loc["r19"]
    named = np.isin(targets, [target for _, target in pairs])
    known = np.array([("r19", t) in set(pairs) for t in targets])[named]
    assert one["average_precision"] == pytest.approx(average_precision_score(known, hubs[19].astype(np.float32)[named]))
    assert one["lift"] == pytest.approx(one["average_precision"] / chance_average_precision(known.sum(), len(known)))


def test_the_order_of_genes_changes_nothing_and_the_truths_own_edges_are_found():
    rng = np.random.default_rng(3)
    genes = np.array([f"g{i}" for i in range(40)])
    known = rng.random((40, 40)) < 0.1
    np.fill_diagonal(known, False)
    pairs = [(genes[i], genes[j]) for i, j in zip(*np.nonzero(known), strict=True)]
    values = known + 0.0
    perfect = score_network(EdgeScores(tuple(genes), tuple(genes), values.astype(np.float32), None), truth_of(pairs))
    assert perfect.pooled["average_precision"] == perfect.pooled["auprc"] == 1
    turned = score_network(EdgeScores(tuple(genes), tuple(genes), values.T.astype(np.float32), None), truth_of(pairs))
    assert turned.pooled["average_precision"] < 0.3, "row is regulator"
    noisy, order = values + rng.normal(size=(40, 40)), rng.permutation(40)
    one = score_network(EdgeScores(tuple(genes), tuple(genes), noisy.astype(np.float32), None), truth_of(pairs))
    mixed = EdgeScores(tuple(genes[order]), tuple(genes[order]), noisy[order][:, order].astype(np.float32), None)
    other = score_network(mixed, truth_of(pairs[::-1]))
    assert {k: pytest.approx(v) for k, v in one.pooled.items()} == other.pooled


@pytest.mark.parametrize("levels", [0, 3])
def test_enrichment_is_the_area_of_scikit_learns_and_a_set_drawn_by_chance_is_not_enriched(levels):
    values, members = made(levels=levels)
    assert rank_enrichment(values, members)["auroc"] == pytest.approx(roc_auc_score(members, values))
    rng = np.random.default_rng(0)
    p = [rank_enrichment(values, rng.permutation(members))["p"] for _ in range(300)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert rank_enrichment(np.zeros(400), members) == {"auroc": 0.5, "p": 1.0}


def test_hubs_are_told_from_others_on_either_side():
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(200)]
    values = rng.random((200, 50)).astype(np.float32)
    values[:20] += 0.3
    values[0, 0] = np.nan
    scores = EdgeScores(tuple(genes), tuple(genes[:50]), values, None)
    strength = hub_strengths(scores)
    assert strength[0] == pytest.approx(np.nansum(values[0].astype(np.float64)))
    assert hub_strengths(scores, "targets")[3] == pytest.approx(values[:, 3].sum(), rel=1e-6)
    found = rank_enrichment(strength, np.arange(200) < 20)
    assert found["auroc"] == 1
    assert found["p"] < 1e-9
    assert rank_enrichment(strength, (np.arange(200) > 100) & (np.arange(200) < 130))["p"] > 0.05
    with pytest.raises(ModelInputError, match="side"):
        hub_strengths(scores, "both")


def test_regulons_that_stand_first_in_their_row_are_enriched():
    rng = np.random.default_rng(1)
    regulators, targets = [f"r{i}" for i in range(30)], [f"t{i}" for i in range(200)]
    known = rng.random((30, 200)) < 0.15
    pairs = [(regulators[i], targets[j]) for i, j in zip(*np.nonzero(known), strict=True)]
    values = rng.normal(size=(30, 200))
    values[:10] += 1.5 * known[:10]
    found = regulon_enrichment(
        EdgeScores(tuple(regulators), tuple(targets), values.astype(np.float32), None), truth_of(pairs)
    )
    called = set(found.index[found["q"] < 0.05])
    assert set(regulators[:10]) <= called
    assert len(called) <= 12
    assert found.loc["r3", "auroc"] == pytest.approx(roc_auc_score(known[3], values[3].astype(np.float32)))
