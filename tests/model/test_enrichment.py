"""Gene sets in a ranking: p-values are scipy's over sets one can count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom, mannwhitneyu

from model import ModelInputError, enrich

GENES = [f"g{i}" for i in range(200)]


def ranking(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=200)


def test_p_values_are_those_of_scipy_and_counts_those_of_sets():
    values = ranking()
    sets = {
        name: {GENES[i] for i in np.random.default_rng(seed).integers(0, 200, 30)} for seed, name in enumerate("abc")
    }
    sets["a"] |= {"not ranked", "nor this"}
    found = enrich(GENES, values, sets, top=40).set_index("set")
    top = {GENES[i] for i in np.argsort(-np.abs(values))[:40]}
    for name, members in sets.items():
        inside = members & set(GENES)
        mine = np.isin(GENES, list(inside))
        row = found.loc[name]
        assert row["genes"] == len(inside)
        assert row["overlap"] == len(inside & top)
        assert row["expected"] == pytest.approx(len(inside) * 40 / 200)
        assert row["p_overlap"] == hypergeom.sf(len(inside & top) - 1, 200, len(inside), 40)
        assert row["p_rank"] == mannwhitneyu(values[mine], values[~mine], method="asymptotic").pvalue
        assert row["auc"] == pytest.approx((values[mine][:, None] > values[~mine]).mean())
    for test in ("rank", "overlap"):
        np.testing.assert_allclose(found[f"q_{test}"], false_discovery_control(found[f"p_{test}"]))


def test_a_planted_set_comes_first_and_its_direction_is_told():
    values = ranking()
    values[:20] += 2
    values[20:40] -= 3
    sets = {"none": GENES[100:130], "up": GENES[:20], "down": GENES[20:40]}
    found = enrich(GENES, values, sets)
    assert found["set"].tolist() == ["down", "up", "none"]
    assert (found["auc"] > 0.5).tolist()[:2] == [False, True]
    assert (found["q_rank"] < 0.01).tolist() == [True, True, False]


def test_sets_too_small_or_too_large_are_left_out_and_none_is_an_empty_table():
    sets = {"few": GENES[:4], "all": GENES, "enough": GENES[:5]}
    assert enrich(GENES, ranking(), sets)["set"].tolist() == ["enough"]
    empty = enrich(GENES, ranking(), {"few": GENES[:4]})
    assert len(empty) == 0
    assert empty.columns.tolist() == enrich(GENES, ranking(), sets).columns.tolist()


def test_p_values_of_random_sets_are_even():
    rng = np.random.default_rng(3)
    sets = {str(i): [GENES[j] for j in rng.permutation(200)[:25]] for i in range(400)}
    p = enrich(GENES, ranking(), sets)["p_rank"].to_numpy()
    assert abs((p < 0.5).mean() - 0.5) < 0.1
    assert (p < 0.05).mean() < 0.1


@pytest.mark.parametrize(
    ("genes", "values", "words", "field"),
    [
        (GENES[:2], ranking(), {}, "values"),
        (["a", "a"], np.ones(2), {}, "values"),
        (["a", "b"], np.array([1.0, np.nan]), {}, "values"),
        (GENES, ranking(), {"top": 0}, "top"),
        (GENES, ranking(), {"least": 0}, "least"),
    ],
)
def test_what_is_no_ranking_is_refused(genes, values, words, field):
    with pytest.raises(ModelInputError, match=field):
        enrich(genes, values, {"a": GENES[:10]}, **words)
