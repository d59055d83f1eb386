"""Random numbers by position: pure, uniform by scipy's judgement, and permutations that are permutations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loaders.counters import make_key, permute, random_units, random_words

MASK = (1 << 64) - 1


def splitmix(state: int) -> int:
    """Return SplitMix64's output for a state, in Python's own integers."""
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.integers(0, MASK), st.integers(0, 60), st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_words_are_splitmix64_at_the_position(key: int, lane: int, at: list[int]) -> None:
    gamma = 0x9E3779B97F4A7C15
    seed = splitmix(splitmix((key + gamma) & MASK) ^ (lane * gamma & MASK))
    expected = [splitmix((seed + (k + 1) * gamma) & MASK) for k in at]
    assert random_words(key, lane, np.array(at, dtype=np.uint64)).tolist() == expected


def test_a_word_depends_on_its_position_only() -> None:
    positions = np.arange(1000, dtype=np.uint64)
    whole = random_words(7, 0, positions)
    np.testing.assert_array_equal(random_words(7, 0, positions[::-1])[::-1], whole)
    np.testing.assert_array_equal(random_words(7, 0, positions[313:314]), whole[313:314])


@pytest.mark.parametrize("other", [(8, 0), (7, 1)])
def test_keys_and_lanes_are_independent_uniform_streams(other: tuple[int, int]) -> None:
    positions = np.arange(200_000, dtype=np.uint64)
    units, others = random_units(7, 0, positions), random_units(*other, positions)
    assert stats.kstest(units, "uniform").pvalue > 1e-4
    assert stats.kstest(others, "uniform").pvalue > 1e-4
    assert abs(stats.spearmanr(units, others).statistic) < 0.01
    assert abs(stats.spearmanr(units[:-1], units[1:]).statistic) < 0.01


@given(st.integers(1, 400), st.integers(0, MASK), st.integers(0, 5))
def test_permute_is_a_bijection_of_every_size(size: int, key: int, tweak: int) -> None:
    index = np.arange(size, dtype=np.uint64)
    out = permute(key, index, np.full(size, size, dtype=np.uint64), np.full(size, tweak, dtype=np.uint64))
    assert sorted(out.tolist()) == list(range(size))


def test_permute_takes_a_size_per_index() -> None:
    sizes = np.array([1, 3, 3, 3, 10_000_019], dtype=np.uint64)
    out = permute(5, np.array([0, 0, 1, 2, 10_000_018], dtype=np.uint64), sizes)
    assert (out < sizes).all()
    assert sorted(out[1:4].tolist()) == [0, 1, 2]


def test_permutations_of_a_small_size_are_about_equally_common() -> None:
    many = 24_000
    index = np.tile(np.arange(4, dtype=np.uint64), many)
    tweak = np.repeat(np.arange(many, dtype=np.uint64), 4)
    orders = permute(9, index, np.full(len(index), 4, dtype=np.uint64), tweak).reshape(many, 4)
    seen = Counter(map(tuple, orders.tolist()))
    assert len(seen) == 24
    assert max(seen.values()) / min(seen.values()) < 1.6  # 1,000 each, give or take the network's own grain


def test_a_key_tells_types_and_borders_apart() -> None:
    assert len({make_key(1, 2), make_key("1", 2), make_key(12), make_key("1\x1f2"), make_key(2, 1)}) == 5
