"""Cells by group equal numpy's own grouping, in memory and mapped, and damaged files are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders import LoaderInputError, build_groups, group_maxima, load_groups

if TYPE_CHECKING:
    from pathlib import Path

CODES = st.lists(st.integers(-1, 6), min_size=1, max_size=80).filter(lambda codes: max(codes) >= 0)


@given(CODES, st.integers(1, 80))
def test_groups_are_the_cells_of_each_code_in_order(codes: list[int], cut: int) -> None:
    array = np.array(codes)
    groups = build_groups([array[:cut], array[cut:]], 7, len(codes))
    for group in range(7):
        mine = groups.order[groups.offsets[group] : groups.offsets[group + 1]]
        np.testing.assert_array_equal(mine, np.flatnonzero(array == group))
    np.testing.assert_array_equal(groups.counts, np.bincount(array[array >= 0], minlength=7))


def test_saved_groups_are_mapped_and_equal(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-1, 30, 10_000)
    kept = build_groups([codes], 30, 10_000, folder=tmp_path / "g")
    assert isinstance(kept.order, np.memmap)
    np.testing.assert_array_equal(kept.order, build_groups([codes], 30, 10_000).order)


def test_files_of_another_grouping_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    build_groups([np.array([0, 1, 1])], 2, 3, folder=folder)
    with pytest.raises(LoaderInputError, match="does not exist yet"):
        build_groups([np.array([0, 1, 1])], 2, 3, folder=folder)
    np.save(folder / "offsets.npy", np.array([0, 1, 4]))
    with pytest.raises(LoaderInputError, match="build them again"):
        load_groups(folder)
    (folder / "order.npy").unlink()
    with pytest.raises(LoaderInputError, match="folder"):
        load_groups(folder)


def test_codes_that_come_only_once_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "g"):
        with pytest.raises(LoaderInputError, match="iterates anew"):
            build_groups((codes for codes in [np.array([0, 1, 1])]), 2, 3, folder=folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codes", [[3], [-2], [-1, -1]])
def test_codes_outside_the_groups_are_refused(codes: list[int]) -> None:
    with pytest.raises(LoaderInputError, match="codes"):
        build_groups([np.array(codes)], 3, 2)


def test_maxima_are_those_of_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.groups.BLOCK", 7)  # groups cross blocks
    rng = np.random.default_rng(1)
    codes, weights = rng.integers(0, 5, 100), rng.random(100)
    codes[codes == 3] = 2  # one empty group
    found = group_maxima(build_groups([codes], 5, 100), weights)
    expected = [weights[codes == g].max() if (codes == g).any() else 0 for g in range(5)]
    np.testing.assert_allclose(found, expected)
