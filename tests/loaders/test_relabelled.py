"""Columns laid over cells: they answer as their source does but for what was laid over."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from loaders import NO_CELL, SPLITS, LoaderInputError, RelabelledCells, SamplerConfig, SamplingPlan, make_sampler
from tests.model.small_runs import small_cells

pytestmark = pytest.mark.index


def relabelled() -> RelabelledCells:
    cells = small_cells()
    states = [f"state {i % 3}" for i in range(len(cells))]
    splits = ["train" if i % 4 else "test" for i in range(len(cells))]
    return RelabelledCells(cells, {"state": states, "split": splits})


def test_new_columns_are_there_and_the_others_are_as_they_were() -> None:
    cells, found = small_cells(), relabelled()
    some = np.array([5, 0, 5, 143])
    assert found.columns == (*cells.columns, "state")
    assert found.about["vocabulary"]["state"] == ["state 0", "state 1", "state 2"]
    assert found.codes("state", some).tolist() == [2, 0, 2, 2]
    assert [SPLITS[code] for code in found.codes("split", some)] == ["train", "test", "train", "train"]
    for name in set(cells.columns) - {"split"}:
        assert np.array_equal(found.column(name), cells.column(name))
        assert np.array_equal(found.codes(name, some), cells.codes(name, some))
    for name in ("data", "starts", "nnz"):
        assert np.array_equal(getattr(found.read(some), name), getattr(cells.read(some), name))
    assert len(found) == len(cells)
    assert found.genes().equals(cells.genes())


def test_a_neighbour_of_another_split_is_none() -> None:
    cells, found = small_cells(), relabelled()
    everything = np.arange(len(cells))
    (before, far), (near, distances) = cells.neighbours(everything), found.neighbours(everything)
    splits = found.column("split")
    there = near != NO_CELL
    assert there.any()
    assert (near[there] == before[there]).all()
    assert (splits[near[there]] == splits[np.nonzero(there)[0]]).all()
    lost = (before != NO_CELL) & ~there
    assert (splits[before[lost]] != splits[np.nonzero(lost)[0]]).all()
    assert np.isinf(distances[~there]).all()
    assert np.array_equal(distances[there], far[there])


def test_the_fingerprint_is_of_cells_and_columns_and_survives_a_pickle() -> None:
    one, two = relabelled(), relabelled()
    assert one.fingerprint == two.fingerprint != small_cells().fingerprint
    assert pickle.loads(pickle.dumps(one)).fingerprint == one.fingerprint
    other = RelabelledCells(small_cells(), {"state": ["a"] * len(one)})
    assert other.fingerprint not in (one.fingerprint, small_cells().fingerprint)


def test_a_sampler_draws_level_over_a_column_of_ones_own(tmp_path) -> None:
    cells = small_cells()
    rare = RelabelledCells(cells, {"state": ["rare"] * 9 + ["common"] * (len(cells) - 9)})
    plan = SamplingPlan(labels=("state",), config=SamplerConfig(draws=4_000), splits=SPLITS)
    drawn = make_sampler(rare, plan, cache=tmp_path).cells_at(0, np.arange(4_000))
    weights = np.array([500 * n / (n + 500) for n in (9, len(cells) - 9)])
    assert (drawn < 9).mean() == pytest.approx(weights[0] / weights.sum(), abs=0.03)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"depth": ["a"] * 144}, "depth"),
        ({"dataset": ["a"] * 144}, "dataset"),
        ({"state": ["a"]}, "one for each of 144"),
        ({"split": ["holdout"] * 144}, "holdout"),
    ],
)
def test_what_cannot_be_laid_over_is_refused(values: dict, said: str) -> None:
    with pytest.raises(LoaderInputError, match=said):
        RelabelledCells(small_cells(), values)
    with pytest.raises(LoaderInputError, match="0 to 143"):
        relabelled().codes("state", np.array([144]))
