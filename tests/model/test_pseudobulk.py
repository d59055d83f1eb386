"""Donors are the replicates: sums are numpy's, tests are those of textbooks, and chance is found as often as said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from model import ModelInputError, compare_expression, compare_shares, sum_samples
from model.pseudobulk import SampleCounts, moderate
from tests.model.small_runs import small_cells


def made(counts: np.ndarray) -> SampleCounts:
    names = tuple(f"d{i}" for i in range(len(counts)))
    genes = tuple(f"g{i:04d}" for i in range(counts.shape[1]))
    return SampleCounts(names, genes, counts.astype(float), np.full(len(counts), 50))


def null(seed: int, n: int, genes: int = 800) -> np.ndarray:
    """Return counts of donors that differ by nothing but themselves: variances vary from gene to gene."""
    rng = np.random.default_rng(seed)
    spread = np.sqrt(0.02 * 6 / rng.chisquare(6, genes))
    depth = rng.uniform(0.5, 2, (n, 1)) * 400
    return rng.poisson(depth * np.exp(spread * rng.standard_normal((n, genes))) + 20)


def test_sums_are_those_of_the_cells_in_any_order():
    cells = small_cells()
    numbers = np.random.default_rng(0).permutation(len(cells))[:30]
    samples = [f"s{i % 3}" for i in range(30)]
    found = sum_samples(cells, numbers, samples)
    rows = cells.read(numbers).decode()
    dense = np.zeros((30, len(found.genes)))
    for i in range(30):
        some = slice(rows.indptr[i], rows.indptr[i + 1])
        dense[i, rows.indices[some]] = rows.counts[some]
    for at, name in enumerate(found.samples):
        np.testing.assert_array_equal(found.counts[at], dense[np.array(samples) == name].sum(0))
    assert (found.samples, found.cells.tolist()) == (("s0", "s1", "s2"), [10, 10, 10])
    with pytest.raises(ModelInputError, match="one for each"):
        sum_samples(cells, numbers, samples[:-1])


@pytest.mark.parametrize("genes_alike", [True, False])
def test_the_prior_of_variances_is_found_again(genes_alike):
    rng, free = np.random.default_rng(0), 4
    prior, value = (np.inf, 0.3) if genes_alike else (5.0, 0.3)
    truth = value if genes_alike else value * prior / rng.chisquare(prior, 40_000)
    found = moderate(truth * rng.chisquare(free, 40_000) / free, free)
    assert found[1] == pytest.approx(value, rel=0.03)
    assert found[0] > 100 if genes_alike else found[0] == pytest.approx(prior, rel=0.1)


def test_unmoderated_changes_are_those_of_least_squares():
    counts, conditions = null(0, 7), ["a", "a", "a", "b", "b", "b", "b"]
    table = compare_expression(made(counts), conditions, "a").sort_index()
    values = np.log2((counts + 0.5) / (counts.sum(1, keepdims=True) + 1) * 1e6)
    np.testing.assert_allclose(table["log2_change"], values[3:].mean(0) - values[:3].mean(0), atol=1e-10)
    plain = stats.ttest_ind(values[3:], values[:3])
    ours = table["t"].to_numpy()
    assert np.corrcoef(ours, plain.statistic)[0, 1] > 0.9
    assert np.abs(ours).max() < np.abs(plain.statistic).max(), "small variances are drawn up"
    half = (table["high"] - table["low"]) / 2
    np.testing.assert_allclose(table["log2_change"] / half * stats.t.ppf(0.975, 5 + moderated(values)), ours, rtol=1e-6)


def moderated(values: np.ndarray) -> float:
    """Return the prior's degrees of freedom by bisection, where the module uses Newton's method."""
    residuals = values - np.repeat([values[:3].mean(0), values[3:].mean(0)], [3, 4], axis=0)
    found = np.log(np.square(residuals).sum(0) / 5)
    beyond = found.var(ddof=1) - special.polygamma(1, 2.5)
    low, high = 1e-3, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if special.polygamma(1, middle / 2) > beyond else (low, middle)
    return low


def test_where_nothing_differs_few_genes_are_found_and_where_donors_differ_cells_do_not_count():
    small = np.concatenate([compare_expression(made(null(s, 6)), list("aaabbb"), "a")["p"] for s in range(6)])
    assert stats.kstest(small, "uniform").statistic < 0.05
    assert 0.03 < (small < 0.05).mean() < 0.07


def test_what_differs_is_found_and_blocks_find_it_where_donors_hide_it():
    rng = np.random.default_rng(1)
    donors, genes = 5, 300
    base = rng.lognormal(4, 1, (donors, genes))  # donors differ by far more than conditions
    effect = np.ones(genes)
    effect[:20] = 2.0
    counts = np.concatenate([rng.poisson(base * 3), rng.poisson(base * effect * 3)])
    conditions, blocks = ["ctrl"] * donors + ["stim"] * donors, [f"p{i}" for i in range(donors)] * 2
    alone = compare_expression(made(counts), conditions, "ctrl")
    paired = compare_expression(made(counts), conditions, "ctrl", blocks)
    hits = set(paired.index[paired["q"] < 0.05])
    mine = {f"g{i:04d}" for i in range(20)}
    assert len(hits & mine) >= 18
    assert len(hits - mine) <= 4
    assert (alone["q"] < 0.05).sum() < 5
    covered = [(row.low <= np.log2(effect[int(gene[1:])]) - shift <= row.high)
               for shift in [np.log2((effect * base.mean(0)).sum() / base.mean(0).sum())]
               for gene, row in paired.iterrows()]  # fmt: skip
    assert 0.9 < np.mean(covered) <= 1


def test_genes_with_too_few_counts_are_not_tested():
    counts = null(2, 6, 50)
    counts[:, 0] = 1
    counts[:3, 1] = 0
    table = compare_expression(made(counts), list("aaabbb"), "a")
    assert "g0000" not in table.index
    assert "g0001" in table.index, "as many donors have it as one condition has"
    assert table.index[0] == "g0001"


@pytest.mark.parametrize(
    ("conditions", "blocks", "said"),
    [
        (list("aaba"), None, None),
        (["a"] * 4, None, "two, one of which"),
        (list("abca"), None, "two, one of which"),
        (list("aab"), None, "one for each"),
        (list("aabb"), list("wxyz"), "at least two donors"),
        (list("aabb"), list("wwxx"), "at least two donors"),
    ],
)
def test_what_cannot_be_told_from_chance_is_refused(conditions, blocks, said):
    sums = made(null(3, 4, 40))
    if said is None:
        assert np.isfinite(compare_expression(sums, conditions, "a", blocks)["p"]).all()
        return
    with pytest.raises(ModelInputError, match=said):
        compare_expression(sums, conditions, "a", blocks)


def test_counts_that_say_nothing_are_refused():
    empty = null(3, 4, 40)
    empty[2] = 0
    with pytest.raises(ModelInputError, match="samples with counts"):
        compare_expression(made(empty), list("aabb"), "a")
    with pytest.raises(ModelInputError, match="enough counts"):
        compare_expression(made(np.ones((4, 40))), list("aabb"), "a")


def composed(shares: dict[str, list[float]], n: int = 200) -> tuple[list[str], list[str], list[str]]:
    """Return population, donor and condition of cells; donors of each condition have these shares of `x`."""
    rows = [
        ("x" if cell < round(share * n) else "y", f"{condition}{donor}", condition)
        for condition, some in shares.items()
        for donor, share in enumerate(some)
        for cell in range(n)
    ]
    return tuple(map(list, zip(*rows, strict=True)))


def test_shares_are_compared_over_donors_by_welch():
    told = {"ill": [0.5, 0.6, 0.55, 0.7], "well": [0.2, 0.3, 0.25]}
    table = compare_shares(*composed(told), "well")
    odds = {one: np.log2((np.array(s) * 200 + 0.5) / ((1 - np.array(s)) * 200 + 0.5)) for one, s in told.items()}
    truth = stats.ttest_ind(odds["ill"], odds["well"], equal_var=False)
    row, interval = table.loc["x"], truth.confidence_interval()
    assert row["p"] == pytest.approx(truth.pvalue)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["share ill"] == pytest.approx(np.mean(told["ill"]))
    assert table.loc["y", "log2_odds"] == pytest.approx(-row["log2_odds"])
    alone = compare_shares(*composed({"ill": [0.5], "well": [0.2, 0.3]}), "well")
    assert np.isnan(alone[["low", "high", "p"]].to_numpy()).all(), "one donor says nothing of chance"
    assert alone.loc["x", "log2_odds"] > 0


def test_paired_shares_are_compared_within_donors():
    told = {"ill": [0.2, 0.5, 0.8], "well": [0.1, 0.38, 0.7]}
    populations, donors, conditions = composed(told)
    donors = [one[-1] for one in donors]
    row = compare_shares(populations, donors, conditions, "well", paired=True).loc["x"]
    odds = {one: np.log2((np.array(s) * 200 + 0.5) / ((1 - np.array(s)) * 200 + 0.5)) for one, s in told.items()}
    truth = stats.ttest_rel(odds["ill"], odds["well"])
    assert row["p"] == pytest.approx(truth.pvalue)
    assert row["p"] < compare_shares(populations, donors, conditions, "well").loc["x", "p"]
    for said, given in (
        ("two, one of which", (populations, donors, conditions, "normal")),
        ("for each cell", (populations[1:], donors, conditions, "well")),
    ):
        with pytest.raises(ModelInputError, match=said):
            compare_shares(*given)
    with pytest.raises(ModelInputError, match="both conditions"):
        compare_shares(*composed(told), "well", paired=True)
