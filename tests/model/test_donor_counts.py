"""The books of a calibration: counted by donor as by hand, and intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from model.donor_counts import DonorCounter, DonorCounts, donor_interval


def random_counts(seed: int = 0) -> tuple[DonorCounts, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    donors = rng.permutation(np.repeat(["b", "a", "c"], [5, 30, 15]))
    told = rng.random((50, 4)) < 0.7
    wrong = told & (rng.random((50, 4)) < 0.5)
    counter = DonorCounter(donors, np.char.add("study ", donors), 4)
    for some in (slice(0, 17), slice(17, 50)):
        counter.add(some, wrong[some], told[some])
    return counter.counts(), donors, wrong


def test_cells_are_counted_by_donor_and_threshold():
    found, donors, wrong = random_counts()
    assert found.donors == ("a", "b", "c")
    assert found.datasets == ("study a", "study b", "study c")
    assert found.cells == (30, 5, 15)
    assert found.wrong == tuple(tuple(wrong[donors == one].sum(0).tolist()) for one in "abc")
    by_donor, n = found.losses("donor")
    assert n == 3
    assert by_donor == pytest.approx(np.mean([wrong[donors == one].mean(0) for one in "abc"], axis=0))
    by_cell, n = found.losses("cell")
    assert n == 50
    assert by_cell == pytest.approx(wrong.mean(0))
    both = found.joined(found)
    assert (both.cells, both.joined(None)) == (found.cells * 2, both)


def test_one_donor_says_nothing_and_few_donors_that_agree_say_little():
    assert donor_interval(np.array([0.3])) == (0, 1)
    for n, hits in ((4, 0), (12, 0), (3, 3)):
        exact = binomtest(hits, n).proportion_ci(0.95, method="exact")
        assert donor_interval(np.full(n, hits / n)) == pytest.approx((exact.low, exact.high))
    low, high = donor_interval(np.full(8, 0.25))
    assert low < 0.25 < high


def test_the_interval_of_donors_that_differ_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [low <= 0.2 <= high for low, high in (donor_interval(rng.beta(2, 8, 30)) for _ in range(200))]
    assert 0.87 <= np.mean(inside) <= 0.99
