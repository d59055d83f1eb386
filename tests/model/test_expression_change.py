"""Changes of expression: means, scores and tests against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu, spearmanr

from model.expression_change import (
    ShareSums,
    change,
    membership,
    observed_means,
    read_counts,
    score_changes,
    shares_differ,
    variable_genes,
)
from tests.model.small_runs import TYPES, small_adata, small_cells

RNG = np.random.default_rng(0)


def test_observed_means_are_those_of_shares_by_group():
    adata, cells = small_adata(), small_cells()
    genes = adata.var_names[[5, 0, 77]].tolist()
    numbers = np.array([9, 3, 100, 50, 51, 7])
    groups = adata.obs["cell_type"].to_numpy(dtype=object)[numbers]
    found = observed_means(cells, numbers, genes, groups, ["all", *TYPES])
    shares = adata.X / adata.X.sum(1, keepdims=True) * 1e4
    truth = shares[numbers][:, [5, 0, 77]]
    np.testing.assert_allclose(found[0], truth.mean(0))
    for row, name in zip(found[1:], TYPES, strict=True):
        if (groups == name).any():
            np.testing.assert_allclose(row, truth[groups == name].mean(0))
        else:
            assert np.isnan(row).all()
    np.testing.assert_array_equal(read_counts(cells, numbers, genes).toarray(), adata.X[numbers][:, [5, 0, 77]])


def test_sums_take_dense_and_sparse_blocks_alike():
    counts, depth = RNG.poisson(2.0, (20, 6)), RNG.integers(1, 50, 20)
    groups = np.array(["a", "b"], dtype=object)[np.arange(20) % 2]
    found = []
    for kind in (np.asarray, sp.csr_matrix):
        sums = ShareSums(3, 6)
        for some in (slice(0, 7), slice(7, 20)):
            sums.add(kind(counts[some].astype(np.float32)), depth[some], membership(groups[some], ["all", "a", "b"]))
        found.append(sums.means())
    np.testing.assert_allclose(*found)
    np.testing.assert_allclose(found[0][1], (counts[::2] / depth[::2, None]).mean(0) * 1e4)


def test_the_genes_that_vary_most_are_those_of_log_shares():
    adata, cells = small_adata(), small_cells()
    found = variable_genes(cells, np.arange(144), adata.var_names.tolist(), 12)
    logs = np.log1p(adata.X / adata.X.sum(1, keepdims=True) * 1e4)
    assert set(found) == set(adata.var_names[np.argsort(-logs.var(0))[:12]])
    assert found == [gene for gene in adata.var_names if gene in set(found)], "in the given order"


def test_scores_of_what_is_planted():
    seen = RNG.normal(size=300) * RNG.gamma(0.5, 1, 300)
    right = score_changes(seen, seen)
    assert (right["spearman"], right["overlap"], right["direction"], right["explained"]) == (1, 1, 1, 1)
    half = score_changes(0.5 * seen, seen)
    assert half["spearman"] == pytest.approx(1)
    assert half["explained"] == pytest.approx(0.75)
    wrong = score_changes(-seen, seen)
    assert (wrong["overlap"], wrong["direction"]) == (0, 0)
    assert wrong["explained"] == pytest.approx(-3)
    none = score_changes(np.zeros(300), seen)
    assert np.isnan(none["spearman"])
    assert (none["overlap"], none["direction"], none["explained"]) == (0, 0, 0)
    said = seen + RNG.normal(size=300)
    found = score_changes(said, seen, top=30)
    assert found["spearman"] == spearmanr(said, seen).statistic
    most = [set(np.argsort(-np.abs(one))[:30]) for one in (said, seen)]
    assert found["overlap"] == sum(said[i] * seen[i] > 0 for i in most[0] & most[1]) / 30


def test_a_test_of_shares_is_scipys_gene_by_gene():
    one, other = (RNG.poisson(mean, (40, 600)).astype(float) for mean in (0.5, 0.7))
    one[:, 3] = other[:, 3] = 0
    p, q = shares_differ(sp.csr_matrix(one), sp.csr_matrix(other))
    for gene in (0, 255, 256, 599):
        assert p[gene] == pytest.approx(mannwhitneyu(one[:, gene], other[:, gene], method="asymptotic").pvalue)
    assert p[3] == 1
    np.testing.assert_allclose(q, false_discovery_control(p))


def test_a_change_is_a_log_ratio_that_rare_genes_hardly_have():
    np.testing.assert_allclose(change(np.array([7.0, 0.1, 3.0]), np.array([1.0, 0.0, 3.0])), [2, np.log2(1.1), 0])
