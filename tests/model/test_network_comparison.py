"""Differences between networks: found where they were planted, told no more often than stated where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats as st

from model import GeneNetwork, ModelInputError, compare_networks, permuted_difference
from tests.model.small_network import of_edges, random_network


def noisy(weights: np.ndarray, seed: int, spread: float = 0.1) -> GeneNetwork:
    rng = np.random.default_rng(seed)
    found = sp.csr_matrix(weights + spread * rng.normal(size=weights.shape) * (weights != 0))
    return GeneNetwork(tuple(f"g{i:02d}" for i in range(len(weights))), found, "made", "homo_sapiens")


def weights(genes: int = 40, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 1, (genes, genes)) * (rng.random((genes, genes)) < 0.4)
    np.fill_diagonal(values, 0)
    return values


def test_planted_differences_come_first_and_little_else_is_told() -> None:
    first = weights()
    second = first.copy()
    rows, columns = np.nonzero(first)
    planted = np.random.default_rng(0).choice(len(rows), 12, replace=False)
    second[rows[planted], columns[planted]] *= np.where(first[rows[planted], columns[planted]] > 1.5, 0.05, 8)
    table = compare_networks(noisy(first, 1), noisy(second, 2)).edges
    told = table[table["q_value"] < 0.05]
    truth = {(f"g{row:02d}", f"g{column:02d}") for row, column in zip(rows[planted], columns[planted], strict=True)}
    found = set(zip(told["regulator"], told["target"], strict=True))
    assert len(found & truth) >= 9
    assert len(found - truth) <= 0.02 * len(rows)
    assert (np.sign(told["difference"]) == np.sign(told["weight_a"].abs() - told["weight_b"].abs())).mean() > 0.9


def test_a_network_does_not_differ_from_itself() -> None:
    network = random_network()
    found = compare_networks(network, network)
    assert (found.edges["difference"] == 0).all()
    assert (found.edges["p_value"] == 1).all()
    assert found.summary["jaccard"] == found.summary["community_rand"] == 1.0
    assert found.summary["spearman"] == pytest.approx(1)
    assert found.hubs["lost"] == found.hubs["gained"] == ()


def test_a_network_without_edges_shares_none() -> None:
    network = random_network()
    empty = network.kept(np.zeros(len(network), bool))
    found = compare_networks(network, empty)
    assert (found.summary["shared"], found.summary["edges_b"], len(found.edges)) == (0, 0, len(network))
    assert found.edges["weight_b"].isna().all()
    nothing = compare_networks(empty, empty)
    assert (len(nothing.edges), nothing.summary["community_rand"]) == (0, None)
    assert nothing.hubs["shared"] == ()


def test_hubs_that_came_and_went_are_named() -> None:
    star = [("h", each, 1.0) for each in "abcdefg"]
    other = [("k", each, 1.0) for each in "abcdefg"]
    both = [("s", each, 1.0) for each in "abcdefg"]
    found = compare_networks(of_edges([*star, *both], genes="k"), of_edges([*other, *both], genes="h"), top=2)
    assert found.hubs == {"shared": ("s",), "lost": ("h",), "gained": ("k",)}
    assert found.summary["shared"] == 7
    assert found.summary["jaccard"] == pytest.approx(7 / 21)


def test_shared_edges_are_tested_as_balls_from_an_urn() -> None:
    a, b = random_network(30, 120, seed=1), random_network(30, 150, seed=2)
    found = compare_networks(a, b).summary
    one, other = (set(zip(each.edges()["regulator"], each.edges()["target"], strict=True)) for each in (a, b))
    assert found["shared"] == len(one & other)
    assert found["p_shared"] == pytest.approx(st.hypergeom.sf(len(one & other) - 1, 30 * 29, 120, 150))
    assert found["expected_shared"] == pytest.approx(120 * 150 / 870)


def test_only_genes_of_both_are_compared_and_only_within_an_organism() -> None:
    a = of_edges([("a", "b", 1), ("b", "c", 1), ("a", "z", 9)])
    b = of_edges([("a", "b", 1), ("c", "b", 1), ("q", "a", 9)])
    table = compare_networks(a, b).edges
    assert set(table["regulator"]) | set(table["target"]) == set("abc")
    with pytest.raises(ModelInputError, match="mus_musculus"):
        compare_networks(a, of_edges([("a", "b", 1)], organism="mus_musculus"))
    with pytest.raises(ModelInputError, match="two"):
        compare_networks(a, of_edges([("x", "y", 1)]))


def correlations(values: np.ndarray):
    def score(numbers: np.ndarray) -> np.ndarray:
        return np.corrcoef(values[numbers].T)[np.triu_indices(values.shape[1], 1)]

    return score


def test_shuffled_labels_give_uniform_p_values_where_populations_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(6):
        values = rng.normal(size=(120, 12)) + rng.normal(size=(120, 1))
        order = rng.permutation(120)
        p_values.append(permuted_difference(correlations(values), order[:50], order[50:], permutations=60)[1])
    drawn = np.concatenate(p_values)
    assert (drawn > 0).all()
    # Edges that share a gene go together, so the test is on few quantiles with room for that.
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.08)


def test_a_correlation_of_one_population_alone_is_found() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 10))
    values[:100, 1] = values[:100, 0] + 0.3 * rng.normal(size=100)
    difference, p_values = permuted_difference(
        correlations(values), np.arange(100), np.arange(100, 200), permutations=60, seed=2
    )
    assert np.argmin(p_values) == 0
    assert p_values[0] < 0.001
    assert difference[0] > 0.8
    again = permuted_difference(correlations(values), np.arange(100), np.arange(100, 200), permutations=60, seed=2)
    assert np.array_equal(again[1], p_values)


def test_populations_that_share_cells_or_too_few_permutations_are_refused() -> None:
    score = correlations(np.eye(9))
    with pytest.raises(ModelInputError, match="none in both"):
        permuted_difference(score, np.arange(5), np.arange(4, 9))
    with pytest.raises(ModelInputError, match="10"):
        permuted_difference(score, np.arange(4), np.arange(4, 9), permutations=3)
