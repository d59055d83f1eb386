"""Calibration: temperatures against other optimisers, counts against counting by hand, risks against new donors."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from model import ModelInputError
from model.annotation import TermChoice, annotate, softmax
from model.calibration import (
    GRID,
    Calibration,
    LabelledLogits,
    calibrate,
    calibrate_label,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from model.calibration_donors import held_out_donors
from model.donor_counts import lowest_threshold
from model.inference import InferenceOptions
from ontology import LabelSpace, load_ontology, make_label_space
from tests.model.annotated_cells import (
    CD4,
    CD8,
    LYMPHOCYTE,
    MONOCYTE,
    N_DONORS,
    OPTIONS,
    B,
    T,
    annotated_cells,
    annotating_model,
)
from tests.model.toy_batches import flat


@cache
def made() -> Calibration:
    """Return the calibration by all validation donors."""
    return of_validation(annotating_model())


def of_validation(model) -> Calibration:
    held = held_out_donors(model, annotated_cells(), splits=("validation",), testing=0)
    return calibrate(model, annotated_cells(), held, options=OPTIONS)


def overconfident(rng: np.random.Generator, space: LabelSpace, cells: int, sharp: float) -> tuple[np.ndarray, ...]:
    """Return logits that are `sharp` times as far apart as they should be, and classes drawn by the right ones."""
    right = rng.normal(size=(cells, space.n_leaves)) * 1.5
    codes = (softmax(right).cumsum(1) > rng.random((cells, 1))).argmax(1)
    return (right * sharp).astype(np.float32), codes


@pytest.mark.parametrize("sharp", [0.4, 1.0, 3.0])
def test_a_temperature_is_what_other_optimisers_find_and_what_the_logits_were_made_with(sharp):
    space, rng = flat("A:1", "A:2", "A:3", "A:4"), np.random.default_rng(3)
    logits, codes = overconfident(rng, space, 4_000, sharp)
    found = fit_temperature(space, logits, codes)
    assert found == pytest.approx(sharp, rel=0.08)
    grid = np.exp(np.linspace(math.log(found / 1.1), math.log(found * 1.1), 61))
    costs = [log_loss(codes, softmax(logits, one), labels=range(4)) for one in grid]
    assert negative_log_likelihood(space, logits, codes, found) <= min(costs) + 1e-9
    assert found == pytest.approx(grid[int(np.argmin(costs))], rel=0.004)
    # With two classes it is logistic regression on the difference of the logits, whose one weight is 1 / temperature.
    two, which = logits[codes < 2][:, :2], codes[codes < 2]
    pair = fit_temperature(flat("A:1", "A:2"), two, which)
    slope = LogisticRegression(C=np.inf, fit_intercept=False).fit((two[:, 1] - two[:, 0])[:, None], which).coef_[0, 0]
    assert pair == pytest.approx(1 / slope, rel=1e-3)


def test_a_coarse_class_counts_by_the_sum_of_its_leaves():
    space = make_label_space(load_ontology("CL"), [T, CD4, CD8, B])
    logits, codes = np.random.default_rng(0).normal(size=(7, 3)), np.array([0, 1, 2, 3, 3, 0, 3])
    shares = softmax(logits, 2.5)
    by_hand = -np.mean([math.log(shares[i, 1] + shares[i, 2] if code == 3 else shares[i, code])
                        for i, code in enumerate(codes)])  # fmt: skip
    assert negative_log_likelihood(space, logits, codes, 2.5) == pytest.approx(by_hand, rel=1e-12)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy_bin_by_bin():
    rng = np.random.default_rng(0)
    confidence = rng.random(500)
    confidence[:3] = 1.0
    right = rng.random(500) < confidence**2
    by_hand = 0.0
    for low in range(15):
        mine = [
            i for i in range(500) if low / 15 <= confidence[i] < (low + 1) / 15 or (low == 14 and confidence[i] == 1)
        ]
        by_hand += len(mine) / 500 * abs(np.mean(confidence[mine]) - np.mean(right[mine]))
    assert calibration_error(confidence, right) == pytest.approx(by_hand, rel=1e-9)
    assert calibration_error(np.ones(4), np.ones(4, bool)) == 0


def test_held_out_donors_give_a_better_likelihood_and_every_label_its_own_temperature():
    found = made()
    assert set(found.labels) == {"cell_type", "sex"}
    for one in found.labels.values():
        assert one.nll[1] < one.nll[0]
        assert len(one.calibrated.donors) == N_DONORS // 3
        assert sum(one.calibrated.cells) == len(annotated_cells()) // 3
    sure = found.labels["cell_type"]  # a head that learned by heart is too sure
    assert sure.temperature > 1.2
    assert sure.ece[1] < sure.ece[0]
    assert found.temperature("sex") != sure.temperature
    assert found.temperature("disease") == 1
    assert found == of_validation(annotating_model())


@pytest.mark.parametrize("label", ["cell_type", "sex"])
def test_wrong_terms_are_counted_by_donor_as_annotate_says_them(label):
    model, cells, one = annotating_model(), annotated_cells(), made().labels[label]
    held = np.flatnonzero(cells.column("split") == 1)
    words = cells.about["vocabulary"]
    truth = [words[label][code] for code in cells.codes(label, held)]
    donor = [words["donor"][code] for code in cells.codes("donor", held)]
    for place in (29, 49, 79, 99):
        said = annotate(model, cells, held, options=OPTIONS, calibration=made(), threshold=GRID[place]).of(label)
        wrong, told = dict.fromkeys(one.calibrated.donors, 0), dict.fromkeys(one.calibrated.donors, 0)
        for term, true, who in zip(said.terms, truth, donor, strict=True):
            above = load_ontology("CL").ancestors(true) if label == "cell_type" else ()
            wrong[who] += term not in ("unknown", true, *above)
            told[who] += term != "unknown"
        assert [row[place] for row in one.calibrated.wrong] == list(wrong.values())
        assert [row[place] for row in one.calibrated.told] == list(told.values())
    assert sum(row[29] for row in one.calibrated.wrong) > 0


def test_a_threshold_is_the_lowest_that_holds_from_there_on():
    rng = np.random.default_rng(1)
    for units in (4, 20, 300):
        for _ in range(40):
            losses = np.clip(np.linspace(rng.random(), 0, len(GRID)) + rng.normal(size=len(GRID)) * 0.05, 0, 1)
            losses *= rng.random() < 0.9
            found = lowest_threshold(losses, units, 0.2, GRID)
            holds = [t for i, t in enumerate(GRID) if all((units * x + 1) / (units + 1) <= 0.2 for x in losses[i:])]
            assert found == min(holds, default=None)


def new_losses(losses: np.ndarray, donors: int, risk: float, seed: int = 0) -> tuple[float, float]:
    """Return the mean loss of one more donor at the threshold that donors before it gave, and its standard error."""
    rng, new = np.random.default_rng(seed), []
    for _ in range(1_500):
        some = rng.integers(0, len(losses), donors + 1)
        found = lowest_threshold(losses[some[1:]].mean(0), donors, risk, GRID)
        new.append(0.0 if found is None else losses[some[0], GRID.index(found)])
    return float(np.mean(new)), float(np.std(new) / math.sqrt(len(new)))


def test_the_risk_holds_for_a_new_donor_on_average_and_is_not_vacuous():
    """Donors differ in how often a term of a given probability is wrong; one more is drawn like those measured."""
    rng, grid = np.random.default_rng(0), np.array(GRID)
    sure = rng.beta(2, 1, (20_000, 25, 1))
    lost = rng.random((20_000, 25, 1)) > sure ** rng.gamma(2, 1, (20_000, 1, 1))
    losses = ((sure >= grid) & lost).mean(1)
    for donors, risk in ((12, 0.1), (60, 0.1), (60, 0.05)):
        found, error = new_losses(losses, donors, risk)
        assert found <= risk + 3 * error
        if donors == 60:
            assert found >= risk - 2 / (donors + 1) - 3 * error


def test_the_risk_holds_where_the_share_of_wrong_cells_seen_would_not_do():
    # All cells of a donor are wrong up to a probability of its own. Of ten donors, one may be wrong if only shares
    # count; the next donor is above the second highest of ten with a probability of 2 / 11.
    losses = (np.random.default_rng(1).random((20_000, 1)) >= np.array(GRID)).astype(np.float64)
    found, error = new_losses(losses, 10, 0.1)
    assert found <= 0.1 + 3 * error < 2 / 11 - 3 * error


def test_the_risk_holds_for_terms_of_a_graph_said_of_new_donors():
    space = make_label_space(load_ontology("CL"), [T, CD4, CD8, B, LYMPHOCYTE, MONOCYTE])
    rng, risk, new, told = np.random.default_rng(4), 0.15, [], []
    choice = TermChoice(space)

    def donors(count):
        truth = rng.integers(0, space.n_leaves, (count, 30))
        drift = rng.normal(size=(count, 1, space.n_leaves)) * 1.5
        seen = np.eye(space.n_leaves)[truth] * 2 + rng.normal(size=(count, 30, space.n_leaves)) + drift
        coarse = rng.random((count, 30)) < 0.1
        return (seen * 2).astype(np.float32), np.where(coarse & (truth < 3), space.encode([LYMPHOCYTE])[0], truth)

    for _ in range(60):
        logits, codes = donors(24)
        names = np.repeat([f"d{i}" for i in range(24)], 30)
        here = LabelledLogits(logits.reshape(-1, space.n_leaves), codes.ravel(), names, np.full(len(names), "one"))
        one = calibrate_label(space, here)
        limit = replace(made(), labels={"cell_type": one}).threshold("cell_type", risk)
        logits, codes = donors(10)
        for some, true in zip(logits, codes, strict=True):
            said = choice.deepest(choice.probabilities(softmax(some, one.temperature)), [limit.value])[0]
            new.append(np.mean([s >= 0 and not space.positive[t, s] for s, t in zip(said, true, strict=True)]))
            told.append(np.mean(said >= 0))
    assert np.mean(new) <= risk + 3 * np.std(new) / math.sqrt(len(new))
    assert np.mean(told) > 0.5


def test_too_few_donors_are_told_of_and_nothing_is_said():
    found = made()
    few = found.threshold("cell_type", 0.05)  # 12 donors
    assert few.value == math.inf
    assert few.promise == "nothing is said: a risk of 0.05 takes 19 donors, there are 12"
    assert found.threshold("disease", 0.2).promise == "nothing is said: no validation cell has a class of disease"
    by_cell = found.threshold("sex", 0.05, unit="cell")
    assert "144 cells" in by_cell.promise
    nothing = annotate(
        annotating_model(), annotated_cells(), [0, 1], options=OPTIONS, calibration=found, alpha=0.05
    ).of("cell_type")
    assert nothing.terms.tolist() == ["unknown"] * 2
    assert nothing.threshold == few


def test_annotate_uses_the_temperatures_and_the_thresholds_and_keeps_the_risk_on_the_donors_it_was_made_of():
    model, cells, risk = annotating_model(), annotated_cells(), 0.3
    held = np.flatnonzero(cells.column("split") == 1)
    plain = annotate(model, cells, held, options=OPTIONS).of("cell_type")
    found = annotate(model, cells, held, options=OPTIONS, calibration=made(), alpha=risk).of("cell_type")
    warm = made().temperature("cell_type")
    assert found.temperature == warm
    shares = plain.probabilities.astype(np.float64) ** (1 / warm)
    assert np.allclose(found.probabilities, shares / shares.sum(1, keepdims=True), atol=1e-5)
    assert found.threshold == made().threshold("cell_type", risk)
    assert 0 < found.threshold.value < 1
    assert "at most 0.3 of the cells" in found.threshold.promise
    place = GRID.index(found.threshold.value)
    one = made().labels["cell_type"].calibrated
    assert np.mean([row[place] / n for row, n in zip(one.wrong, one.cells, strict=True)]) <= risk
    assert (found.said >= 0).mean() > 0.5


def test_a_calibration_is_the_same_from_its_json_and_damaged_text_is_refused():
    text = made().to_json()
    assert Calibration.from_json(text) == made()
    assert Calibration.from_json(text).to_json() == text
    whole = json.loads(text)
    one = whole["labels"]["sex"]
    counts = one["calibrated"]

    def sealed(**changes) -> str:
        said = {**whole, **changes}
        said.pop("sha256")
        return json.dumps({**said, "sha256": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()})

    def with_label(**changes) -> str:
        return sealed(labels={"sex": {**one, **changes}})

    assert set(Calibration.from_json(with_label()).labels) == {"sex"}, "the seal is right"
    more = [[9_999] * len(GRID), *counts["wrong"][1:]]
    damaged = [
        "[]", "{}", "no json", sealed(format="panatlas calibration 9"), sealed(unit="tissue"), sealed(novelty=3),
        sealed(length=math.inf),
        with_label(calibrated={**counts, "wrong": counts["wrong"][1:]}), with_label(temperature=0),
        with_label(calibrated={**counts, "wrong": more}), with_label(calibrated={**counts, "datasets": []}),
        with_label(colour=1), with_label(nll=3), with_label(tested=3),
    ]  # fmt: skip
    for text in damaged:
        with pytest.raises(ModelInputError, match="calibration"):
            Calibration.from_json(text)
    with pytest.raises(ModelInputError, match="changed since it was written"):
        Calibration.from_json(json.dumps({**whole, "length": 81}))


def test_what_is_not_allowed_is_refused_with_the_remedy():
    model, cells, found = annotating_model(), annotated_cells(), made()
    for risk in (0.0, 1.0, math.nan):
        with pytest.raises(ModelInputError, match=r"risk=.* a share above 0 and below 1"):
            found.threshold("sex", risk)
    with pytest.raises(ModelInputError, match=r"unit='tissue' .* donor or cell"):
        found.threshold("sex", 0.1, unit="tissue")
    with pytest.raises(ModelInputError, match=r"calibration=.* one of this model"):
        annotate(replace(model, digest="a" * 64), cells, options=OPTIONS, calibration=found)
    with pytest.raises(ModelInputError, match=r"length 80, neighbours 0; or calibrate with these"):
        annotate(model, cells, options=InferenceOptions(length=70), calibration=found)
