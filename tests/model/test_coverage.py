"""Coverage: what is promised beside what other donors got, and plain words where these are unlike the old ones."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from model import annotate, score_annotation
from model.calibration import GRID, Calibration, LabelCalibration, calibrate
from model.calibration_donors import held_out_donors
from model.coverage import measured_coverage
from model.donor_counts import DonorCounts
from tests.model.annotated_cells import OPTIONS, annotated_cells, annotating_model

CELLS = 100


@cache
def made() -> Calibration:
    held = held_out_donors(annotating_model(), annotated_cells())
    return calibrate(annotating_model(), annotated_cells(), held, options=OPTIONS)


def books(shares: np.ndarray, datasets: list[str], prefix: str = "d") -> DonorCounts:
    """Return donors of whom a share of the cells is told wrong at low thresholds, and less the higher these are."""
    wrong = np.round(CELLS * shares[:, None] * np.linspace(1, 0, len(GRID))).astype(int)
    rows = tuple(tuple(row) for row in wrong.tolist())
    names = tuple(f"{prefix}{i}" for i in range(len(shares)))
    return DonorCounts(names, tuple(datasets), (CELLS,) * len(shares), rows, ((CELLS,) * len(GRID),) * len(shares))


def calibration(calibrated: DonorCounts, tested: DonorCounts | None) -> Calibration:
    one = LabelCalibration(1.0, (1.0, 1.0), None, calibrated, tested)
    return Calibration("", "validation, test", 80, 0, 0, {"cell_type": one})


def test_what_came_of_it_is_what_annotate_and_score_say_of_the_donors_that_tested():
    model, cells, risk = annotating_model(), annotated_cells(), 0.2
    held = held_out_donors(model, cells)
    said = annotate(model, cells, held.testing, options=OPTIONS, calibration=made(), alpha=risk)
    scores, found = score_annotation(said, cells), measured_coverage(made(), risk)
    assert set(found) == {"cell_type", "sex"}
    for label, one in found.items():
        score = scores[label]
        assert (one.donors, one.cells) == (score.donors, score.cells)
        assert one.wrong == pytest.approx(score.wrong)
        assert one.interval == pytest.approx(score.wrong_interval)
        assert one.coverage == pytest.approx(1 - score.wrong)
        assert one.threshold == said.of(label).threshold
        truly = said.of(label).said >= 0
        donors = cells.codes("donor", held.testing)
        assert one.told == pytest.approx(np.mean([truly[donors == d].mean() for d in np.unique(donors)]))
    assert found["cell_type"].told > 0.3


def test_donors_that_are_alike_keep_the_promise_and_others_are_said_to_break_it():
    rng, studies = np.random.default_rng(0), [f"s{i % 5}" for i in range(40)]
    old, alike, worse = (rng.beta(4, 4 / mean, 40) for mean in (0.5, 0.5, 5))
    kept = measured_coverage(calibration(books(old, studies), books(alike, studies, "e")), 0.1)["cell_type"]
    assert kept.holds
    assert kept.interval[0] <= 0.1
    assert kept.plainly[0].endswith(("as promised", "too few to rule out or in"))
    assert set(kept.new_datasets) == set(studies)
    broken = measured_coverage(calibration(books(old * 0.2, studies), books(worse, studies, "e")), 0.1)["cell_type"]
    assert broken.holds is False
    assert broken.wrong > 0.1
    assert "does not hold here" in broken.plainly[0]


def test_a_study_that_is_unlike_the_others_is_found_by_leaving_it_out():
    shares = np.concatenate([np.full(20, 0.02), np.full(10, 0.9)])
    studies = ["good"] * 20 + ["bad"] * 10
    counts = books(shares, studies)
    found = measured_coverage(calibration(counts, books(shares[::3], studies[::3], "e")), 0.1)["cell_type"]
    # Without `bad` every threshold will do, and at the lowest of them nine cells of ten of `bad` are told wrong.
    assert found.new_datasets["bad"] == pytest.approx(0.9)
    assert found.new_datasets["good"] == 0
    assert "0.900 in bad" in found.plainly[1]
    assert "does not carry over" in found.plainly[1]


def test_little_to_go_by_is_said():
    alike = np.full(12, 0.01)
    one_study = measured_coverage(calibration(books(alike, ["s"] * 12), None), 0.1)["cell_type"]
    assert (one_study.wrong, one_study.coverage, one_study.holds, one_study.donors) == (None, None, None, 0)
    assert one_study.plainly[0].startswith("promised, but not tested")
    assert "all donors are of one dataset" in one_study.plainly[1]
    single = measured_coverage(calibration(books(alike, ["s"] * 12), books(alike[:1], ["t"], "e")), 0.1)["cell_type"]
    assert "too few to tell" in single.plainly[0]
    assert single.holds is None
    few = measured_coverage(calibration(books(alike[:3], ["s"] * 3), books(alike, ["t"] * 12, "e")), 0.1)["cell_type"]
    assert few.threshold.value == math.inf
    assert few.plainly == ("nothing is said: a risk of 0.1 takes 9 donors, there are 3",)
    assert (few.wrong, few.told) == (0, 0), "who says nothing is never wrong"


def test_cells_as_units_need_fewer_donors_and_say_whom_it_is_for():
    counts = books(np.full(3, 0.01), ["s"] * 3)
    whole = calibration(counts, books(np.full(8, 0.8), ["t"] * 8, "e"))
    by_cell = measured_coverage(replace(whole, unit="cell"), 0.1)["cell_type"]
    assert by_cell.threshold.value < 1
    assert "new cells of these donors" in by_cell.threshold.promise
    assert "does not hold here" in by_cell.plainly[0], "other donors are not like them"
