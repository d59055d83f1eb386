"""Group weights: the published formula, caps that hold, and coarse labels that are no class of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders import LoaderInputError, Weighting, compatible_groups, group_weights

SIZES = st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any)


@given(SIZES, st.floats(1, 1e5), st.floats(0, 1))
def test_weights_follow_the_formula(sizes: list[int], scale: float, alpha: float) -> None:
    raw = [(scale * n / (n + scale)) ** alpha if n else 0.0 for n in sizes]
    np.testing.assert_allclose(group_weights(sizes, Weighting(scale=scale, alpha=alpha)), np.array(raw) / sum(raw))


@given(SIZES, st.floats(0.05, 1), st.floats(0.1, 5), st.integers(10, 10**6))
def test_no_group_exceeds_its_caps(sizes: list[int], share: float, repeats: float, draws: int) -> None:
    found = group_weights(sizes, Weighting(max_share=share, max_repeats=repeats), draws=draws)
    caps = np.minimum(share, np.array(sizes) * repeats / draws)
    assert found.sum() == pytest.approx(1)
    if caps.sum() > 1.001:
        assert (found <= caps * (1 + 1e-6) + 1e-12).all()


def test_capping_keeps_the_proportions_of_the_others() -> None:
    free = group_weights([10, 20, 10**6], Weighting(scale=1e9))
    capped = group_weights([10, 20, 10**6], Weighting(scale=1e9, max_share=0.5))
    assert capped[2] == pytest.approx(0.5)
    assert capped[0] / capped[1] == pytest.approx(free[0] / free[1])


def test_a_curriculum_ends_at_the_plain_weights() -> None:
    rule = Weighting(curriculum_epochs=10)
    sizes = [5, 500, 50_000]
    assert [rule.exponent(e) for e in (0, 5, 10, 99)] == pytest.approx([0.4, 0.7, 1, 1])
    np.testing.assert_allclose(group_weights(sizes, rule, epoch=10), group_weights(sizes, Weighting()))
    early = group_weights(sizes, rule, epoch=0)
    assert early[0] > group_weights(sizes, rule, epoch=10)[0], "the first epochs are more level"


def test_confidence_scales_a_group() -> None:
    plain = group_weights([100, 100], Weighting())
    doubted = group_weights([100, 100], Weighting(), confidence=np.array([1.0, 0.5]))
    assert plain[0] == plain[1]
    assert doubted[0] / doubted[1] == pytest.approx(2)


# Two labels. Cell type: 0 T cell, 1 CD4 T, 2 CD8 T, 3 unknown; tissue: 0 blood, 1 lung, 2 unknown.
TYPE_LEAF = np.array([False, True, True, False])
TYPE_BELOW = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=bool)
PLACE_LEAF = np.array([True, True, False])
PLACE_BELOW = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)
GROUPS = np.array([[1, 0], [2, 0], [1, 1], [0, 0], [3, 1], [2, 2], [0, 2]])


def brute_force(codes: np.ndarray) -> list[list[int]]:
    """Return compatible groups by looking at every pair."""
    whole = [TYPE_LEAF[t] and PLACE_LEAF[p] for t, p in codes]
    return [
        [j for j, (t, p) in enumerate(codes) if whole[j] and TYPE_BELOW[codes[i][0], t] and PLACE_BELOW[codes[i][1], p]]
        for i in range(len(codes))
        if not whole[i]
    ]


def test_coarse_groups_find_the_specific_ones_they_may_be() -> None:
    found = compatible_groups(GROUPS, [TYPE_LEAF, PLACE_LEAF], [TYPE_BELOW, PLACE_BELOW])
    assert [f.tolist() for f in found] == brute_force(GROUPS) == [[0, 1], [2], [1], [0, 1, 2]]


def test_coarse_cells_are_drawn_as_often_as_those_they_may_be() -> None:
    sizes = np.array([1000, 10, 200, 5000, 50, 30, 0])
    compatible = compatible_groups(GROUPS, [TYPE_LEAF, PLACE_LEAF], [TYPE_BELOW, PLACE_BELOW])
    specific = np.array([True, True, True, False, False, False, False])
    shares = group_weights(sizes, Weighting(scale=100), specific=specific, compatible=compatible)
    rate = shares[:6] / sizes[:6]
    assert rate[3] == pytest.approx((shares[0] + shares[1]) / 1010), "blood T cells: CD4 and CD8 of blood together"
    assert rate[4] == pytest.approx(rate[2]), "unknown lung cells: the only type known in lung"
    assert shares[6] == 0
    alone = group_weights(sizes, Weighting(scale=100))
    assert shares[3] > alone[3], "5,000 coarse cells are not one class of a hundred"


def test_a_coarse_group_counts_by_its_own_confidence() -> None:
    sizes = np.array([1000, 10, 200, 5000, 50, 30, 0])
    compatible = compatible_groups(GROUPS, [TYPE_LEAF, PLACE_LEAF], [TYPE_BELOW, PLACE_BELOW])
    specific = np.array([True, True, True, False, False, False, False])
    trust = np.array([1, 1, 1, 0.25, 1, 1, 1.0])
    shares = [
        group_weights(sizes, Weighting(), specific=specific, compatible=compatible, confidence=c) for c in (None, trust)
    ]
    plain, doubted = (share[3] / share[0] for share in shares)
    assert doubted == pytest.approx(plain / 4)


@pytest.mark.parametrize(
    "wrong", [{"scale": 0}, {"alpha": 1.5}, {"max_share": 0}, {"max_repeats": 0}, {"curriculum_start": 0}]
)
def test_rules_that_make_no_distribution_are_refused(wrong: dict) -> None:
    with pytest.raises(LoaderInputError, match=next(iter(wrong))):
        Weighting(**wrong)


def test_no_cells_at_all_is_refused() -> None:
    with pytest.raises(LoaderInputError, match="counts"):
        group_weights([0, 0], Weighting())
