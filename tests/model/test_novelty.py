"""Cells of a new kind: distances are scipy's, p-values are counted by hand, false alarms are as rare as promised."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from model import annotate
from model.calibration import Calibration, calibrate
from model.calibration_donors import held_out_donors
from model.novelty import RIDGE, NoveltyCalibration, calibrate_novelty
from tests.model.annotated_cells import OPTIONS, annotated_cells
from tests.model.test_calibration_donors import taught


def donors(rng: np.random.Generator, n: int, cells: int, spread: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Return cells of donors that each lie a little elsewhere, and their names."""
    middle = rng.normal(size=(n, 1, 6)) * spread
    values = middle + rng.normal(size=(n, cells, 6)) * [1, 2, 3, 1, 1, 0.1]
    return values.reshape(-1, 6).astype(np.float32), np.repeat([f"d{i:03d}" for i in range(n)], cells)


def owners(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return names, np.full(len(names), "study")


def novelty(seed: int = 0, n: int = 30, cells: int = 40) -> NoveltyCalibration:
    rng = np.random.default_rng(seed)
    known, (here, names), (there, others) = donors(rng, 10, 100)[0], donors(rng, n, cells), donors(rng, 12, cells)
    return calibrate_novelty(known, here, owners(names), there, owners(others))


def test_a_distance_is_mahalanobis_from_the_known_cells():
    rng = np.random.default_rng(3)
    known, (here, names) = donors(rng, 10, 100)[0], donors(rng, 3, 20)
    found = calibrate_novelty(known, here, owners(names))
    spread = known.astype(np.float64).std(0)
    whole = np.cov(known.T.astype(np.float64) / spread[:, None]) + RIDGE * np.eye(6)
    truth = cdist(here / spread, known.mean(0, keepdims=True) / spread, "mahalanobis", VI=np.linalg.inv(whole)).ravel()
    np.testing.assert_allclose(found.scores(here), truth, rtol=2e-3)
    assert found.tested is None


def test_a_p_value_is_the_share_of_known_cells_as_far_each_donor_alike():
    rng = np.random.default_rng(3)
    known, (here, names) = donors(rng, 10, 100)[0], donors(rng, 8, 25)
    found = calibrate_novelty(known, here, owners(names))
    scores = found.scores(here)
    p = found.p_values(np.array(found.thresholds))
    for threshold, value in zip(found.thresholds, p, strict=True):
        shares = [np.mean(scores[names == one] >= threshold) for one in np.unique(names)]
        assert value == pytest.approx((1 + sum(shares)) / 9, rel=1e-5)
    assert found.p_values(np.array([0.0, 1e9])).tolist() == pytest.approx([1, 1 / 9])
    between = np.sort(rng.uniform(min(scores), max(scores), 50))
    exact = [(1 + sum(np.mean(scores[names == d] >= s) for d in np.unique(names))) / 9 for s in between]
    assert (found.p_values(between) >= np.array(exact) - 1e-6).all(), "never too small"
    assert (np.diff(found.p_values(between)) <= 0).all()
    by_cell = found.p_values(np.array(found.thresholds), "cell")
    truth = [(1 + np.sum(scores >= one)) / 201 for one in found.thresholds]
    assert by_cell == pytest.approx(np.array(truth), rel=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_false_alarms_of_new_donors_are_as_rare_as_promised_and_the_promise_is_not_empty(spread):
    rng, rate, alarms = np.random.default_rng(1), 0.1, []
    known = donors(rng, 10, 100, spread)[0]
    for _ in range(150):
        here, names = donors(rng, 25, 20, spread)
        found = calibrate_novelty(known, here, owners(names))
        new = donors(rng, 4, 20, spread)[0]
        alarms.append(np.mean(found.p_values(found.scores(new)) <= rate))
    error = np.std(alarms) / math.sqrt(len(alarms))
    assert rate - 2 / 26 - 3 * error <= np.mean(alarms) <= rate + 3 * error


def test_cells_that_put_together_what_does_not_go_together_are_found():
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(6, 6))  # every code is of the usual size, alone
    known, (here, names) = donors(rng, 10, 100)[0] @ mixing, donors(rng, 30, 40)
    found = calibrate_novelty(known, here @ mixing, owners(names))
    strange = np.stack([rng.permutation(column) for column in (here @ mixing).T]).T
    assert np.mean(found.p_values(found.scores(strange)) <= 0.05) > 0.5
    assert np.mean(found.p_values(found.scores(here @ mixing)) <= 0.05) <= 0.05


def test_what_is_told_is_what_was_counted():
    found = novelty()
    told = found.told(0.05)
    scores_far = found.tested.shares()[:, found.thresholds.index(told["threshold"])]
    assert told["false_alarms"] == pytest.approx(scores_far.mean())
    assert (told["tested_donors"], told["known_cells"]) == (12, 1_000)
    assert told["plainly"][0].endswith(("as promised", "12 donors are too few to rule out or in"))
    assert novelty(n=5).told(0.05)["plainly"] == ["no cell is called new: a rate of 0.05 takes 19 donors, there are 5"]
    rng = np.random.default_rng(0)
    here, names = donors(rng, 30, 40)
    off = calibrate_novelty(donors(rng, 10, 100)[0], here, owners(names), here + 9, owners(names)).told(0.05)
    assert "does not hold here" in off["plainly"][0]
    assert off["interval"][0] > 0.05


def test_too_few_known_cells_are_none():
    values, names = donors(np.random.default_rng(0), 4, 20)
    assert calibrate_novelty(values[:31], values, owners(names)) is None


def test_a_flag_is_the_same_from_json_and_damage_is_refused():
    found = novelty()
    said = json.loads(json.dumps(asdict(found)))
    assert NoveltyCalibration.from_json(said) == found
    short = {**said, "space": said["space"][:-8]}
    infinite = np.full((7, 6), np.inf, dtype="<f4").tobytes()
    for damaged in (
        short, {**said, "dimensions": 7}, {**said, "thresholds": said["thresholds"][::-1]}, {**said, "colour": 1},
        {**said, "space": base64.b64encode(infinite).decode()}, {**said, "calibrated": None},
        {**said, "thresholds": []}, {**said, "dimensions": 10**9},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError, LookupError)):
            NoveltyCalibration.from_json(damaged)


@cache
def made() -> tuple[Calibration, np.ndarray]:
    cells = annotated_cells()
    model = taught(np.flatnonzero(cells.column("split") == 0))
    held = held_out_donors(model, cells)
    return calibrate(model, cells, held, options=OPTIONS), held


def test_annotate_says_how_new_each_cell_is_where_the_calibration_knows():
    cells, (calibration, held) = annotated_cells(), made()
    model = taught(np.flatnonzero(cells.column("split") == 0))
    assert calibration.novelty.known == len(held.known)
    found = annotate(model, cells, held.testing, options=OPTIONS, calibration=calibration)
    scores = calibration.novelty.scores(found.embedding)
    np.testing.assert_allclose(found.novelty, calibration.novelty.p_values(scores))
    told = calibration.novelty.told(0.1)
    alarms = [np.mean(found.novelty[cells.codes("donor", held.testing) == one] <= 0.1)
              for one in np.unique(cells.codes("donor", held.testing))]  # fmt: skip
    assert told["false_alarms"] == pytest.approx(np.mean(alarms))
    assert annotate(model, cells, held.testing[:3], options=OPTIONS).novelty is None
    assert Calibration.from_json(calibration.to_json()) == calibration
    by_cell = annotate(model, cells, held.testing, options=OPTIONS, calibration=replace(calibration, unit="cell"))
    np.testing.assert_allclose(by_cell.novelty, calibration.novelty.p_values(scores, "cell"))
