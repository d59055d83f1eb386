"""Baselines of gene networks equal numpy's, scipy's, scikit-learn's and brute force, and find a planted network."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import average_precision_score

from model import ModelInputError
from model.grn_pidc import discretised, gamma_ranks, unique_shares
from model.grn_query import gene_counts
from model.grn_scores import BY_NAME, READOUTS, EdgeScores, score_edges
from tests.model.grn_cells import FACTORS, IDS, ON_CPU, regulon_cells, regulon_of

BASELINES = tuple(name for name in READOUTS if not BY_NAME[name].needs_model)
REGULATORS, TARGETS = IDS[:8], IDS[2:20]


def logs(genes: tuple[str, ...] = IDS) -> np.ndarray:
    """Return log1p of counts per 10,000, made by hand."""
    counts, depth = gene_counts(regulon_cells(), np.arange(400), genes)
    return np.log1p(counts.toarray().astype(np.float64) / depth[:, None] * 1e4)


def scores(readout: str, **changes: object) -> EdgeScores:
    options = replace(ON_CPU, **changes)
    return score_edges(readout, None, regulon_cells(), regulators=REGULATORS, targets=TARGETS, options=options)


def block(whole: np.ndarray, genes: tuple[str, ...] = IDS) -> np.ndarray:
    """Return regulators by targets of a matrix of genes, NaN where a gene meets itself."""
    at = np.ix_([genes.index(one) for one in REGULATORS], [genes.index(one) for one in TARGETS])
    return np.where(np.array(REGULATORS)[:, None] == np.array(TARGETS), np.nan, whole[at])


@pytest.mark.parametrize("expression", ["log", "zscore"])
def test_correlations_equal_numpy_and_scipy(expression: str) -> None:
    wanted = {"pearson": np.corrcoef(logs().T), "spearman": stats.spearmanr(logs()).statistic}
    for name, whole in wanted.items():
        found = scores(name, expression=expression)
        np.testing.assert_allclose(found.values, np.abs(block(whole)), atol=2e-4)
        np.testing.assert_array_equal(found.signs, np.sign(np.nan_to_num(block(whole))))


@pytest.mark.parametrize("cells", [400, 20], ids=["more cells than genes", "more genes than cells"])
def test_partial_correlation_is_the_shrunk_covariances_inverse(cells: int) -> None:
    genes = tuple(dict.fromkeys([*REGULATORS, *TARGETS]))
    values = logs(genes)[:cells]
    values = (values - values.mean(0)) / values.std(0)
    inverse = np.linalg.inv(ledoit_wolf(values, assume_centered=True)[0])
    wanted = block(-inverse / np.sqrt(np.outer(np.diag(inverse), np.diag(inverse))), genes)
    asked = {"regulators": REGULATORS, "targets": TARGETS}
    found = score_edges("partial_correlation", None, regulon_cells(), np.arange(cells), **asked)
    np.testing.assert_allclose(found.values, np.abs(wanted), atol=1e-4)
    clear = np.abs(np.nan_to_num(wanted)) > 1e-3
    np.testing.assert_array_equal(found.signs[clear], np.sign(wanted)[clear])


def test_mean_product_and_counts_see_what_they_say() -> None:
    counts = gene_counts(regulon_cells(), np.arange(400), IDS)[0].toarray().mean(0)
    np.testing.assert_allclose(
        scores("mean_product", expression="counts").values, block(np.outer(counts, counts)), rtol=1e-5
    )


def brute_unique(codes: np.ndarray) -> np.ndarray:
    """Return the sum over Z of Unique_Z(X; Y) / I(X; Y) by triples, as Chan et al. write it."""
    genes = codes.shape[1]

    def specific(source: int, target: int, state: int) -> float:
        """Return what a source says of one state of the target (Williams and Beer's specific information)."""
        here, total = codes[:, target] == state, 0.0
        for value in np.unique(codes[here, source]):
            mine = codes[:, source] == value
            total += (mine & here).sum() / here.sum() * np.log((mine & here).sum() / mine.sum() / here.mean())
        return total

    out = np.zeros((genes, genes))
    for x, y in permutations(range(genes), 2):
        states = np.unique(codes[:, y])
        weight = {state: (codes[:, y] == state).mean() for state in states}
        information = sum(weight[state] * specific(x, y, state) for state in states)
        for z in set(range(genes)) - {x, y}:
            shared = sum(weight[s] * min(specific(x, y, s), specific(z, y, s)) for s in states)
            out[x, y] += (information - shared) / information
    return out


def test_pidc_by_sorting_equals_the_sum_over_triples() -> None:
    codes = discretised(logs(IDS[:7])[:150].astype(np.float32), 4)
    np.testing.assert_allclose(unique_shares(codes), brute_unique(codes), rtol=1e-4, atol=1e-5)


def test_gamma_ranks_are_those_of_the_fitted_distribution() -> None:
    values = np.random.default_rng(0).gamma(2.5, 3.0, (30, 30))
    found = gamma_ranks(values)
    for row in (0, 7):
        shape, _, scale = stats.gamma.fit(np.delete(values[row], row), floc=0)
        np.testing.assert_allclose(found[row], stats.gamma.cdf(values[row], shape, scale=scale), atol=1e-3)


def test_bins_are_zero_and_quantiles_of_the_rest() -> None:
    values = np.concatenate([np.zeros(5), np.arange(1, 11)]).astype(np.float32)[:, None]
    np.testing.assert_array_equal(np.bincount(discretised(values, 6)[:, 0]), [5, 2, 2, 2, 2, 2])


@pytest.mark.parametrize("readout", [name for name in BASELINES if name != "mean_product"])
def test_planted_regulons_are_recovered(readout: str) -> None:
    targets = IDS[4:]
    found = score_edges(readout, None, regulon_cells(), regulators=FACTORS, targets=targets, options=ON_CPU)
    truth = np.array([[gene in regulon_of(factor) for gene in targets] for factor in range(4)])
    assert average_precision_score(truth.ravel(), found.values.ravel()) > 0.9  # 0.17 by chance
    if BY_NAME[readout].signed:
        for factor in range(4):
            planted = [targets.index(gene) for gene in regulon_of(factor)]
            np.testing.assert_array_equal(found.signs[factor, planted], [1, 1, 1, 1, 1, -1])


@pytest.mark.parametrize("readout", ["extra_trees", "grnboost2"])
def test_a_target_of_trees_does_not_depend_on_the_others(readout: str) -> None:
    asked = {"regulators": REGULATORS, "options": replace(ON_CPU, trees=20)}
    both = score_edges(readout, None, regulon_cells(), targets=(IDS[12], IDS[3]), **asked)
    alone = score_edges(readout, None, regulon_cells(), targets=(IDS[3],), **asked)
    np.testing.assert_array_equal(both.values[:, 1], alone.values[:, 0])
    assert np.isnan(alone.values[3, 0])
    assert np.isfinite(np.delete(alone.values[:, 0], 3)).all()


def test_order_of_cells_changes_nothing() -> None:
    order = np.random.default_rng(1).permutation(400)
    for readout in ("pearson", "spearman", "partial_correlation", "pidc"):
        one, other = (
            score_edges(readout, None, regulon_cells(), numbers, regulators=REGULATORS, targets=TARGETS)
            for numbers in (np.arange(400), order)
        )
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)


def test_a_gene_that_does_not_vary_has_no_correlation() -> None:
    cells, flat = regulon_cells(), "ENSG00000284733"  # in the table, not in these cells
    with pytest.raises(ModelInputError, match=flat):
        score_edges("pearson", None, cells, regulators=(flat,), targets=TARGETS)
    one_cell = score_edges("pearson", None, cells, np.array([3]), regulators=REGULATORS, targets=TARGETS)
    assert np.isnan(one_cell.values).all()


def test_what_does_not_fit_is_refused() -> None:
    cells = regulon_cells()
    for wrong, message in (
        ({"regulators": ()}, "at least one"),
        ({"targets": (IDS[0], IDS[0])}, "each gene once"),
        ({"targets": ("no gene",)}, "measured in all of the cells"),
        ({"numbers": np.array([400])}, "cells 0 to 399"),
        ({"numbers": np.array([], dtype=np.int64)}, "at least one cell"),
    ):
        asked = {"numbers": None, "regulators": REGULATORS, "targets": TARGETS, **wrong}
        with pytest.raises(ModelInputError, match=message):
            score_edges("pearson", None, cells, **asked)
    with pytest.raises(ModelInputError, match="one of attention"):
        score_edges("person", None, cells, regulators=REGULATORS, targets=TARGETS)
    with pytest.raises(ModelInputError, match="a trained model"):
        score_edges("attention", None, cells, regulators=REGULATORS, targets=TARGETS)
    with pytest.raises(ModelInputError, match="3 to"):
        score_edges("pidc", None, cells, regulators=IDS[:1], targets=IDS[1:2])
    for field, value in (("contexts", "any"), ("trees", 0), ("adjust", ("norm",)), ("heads", "median")):
        with pytest.raises(ModelInputError, match=field):
            replace(ON_CPU, **{field: value})
