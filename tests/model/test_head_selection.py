"""Heads are found where a truth was planted, judged on regulators they never saw, and carried by their model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from model import ModelInputError, load_model, save_model
from model.attention_maps import HeadMaps, head_maps
from model.checkpoint import weights_digest
from model.grn_scores import score_edges
from model.grn_truths import EdgeTruth
from model.head_selection import HeadSelection, given_heads, heads_of, nested_scores, select_heads, weighed, with_heads
from tests.model.grn_cells import ON_CPU, genes_of_small, model_with
from tests.model.small_runs import small_cells

if TYPE_CHECKING:
    from pathlib import Path

GENES = tuple(f"g{i:02d}" for i in range(60))
FACTORS = GENES[:20]


def truth_of(pairs: set[tuple[str, str]]) -> EdgeTruth:
    edges = pd.DataFrame(sorted(pairs), columns=["regulator", "target"]).assign(sign=0)
    return EdgeTruth("planted", "homo_sapiens", "literature", edges, {}, "0" * 64, "none", "made up")


def planted(seed: int = 0, *, shows: float = 0.02) -> tuple[HeadMaps, EdgeTruth]:
    """Return maps of 3 x 4 heads, of which (1, 2) and (2, 0) show true edges, and the truth."""
    rng = np.random.default_rng(seed)
    edge = rng.random((20, 60)) < 0.15
    edge[np.arange(20), np.arange(20)] = False
    values = rng.gamma(2.0, 0.005, (3, 4, 20, 60)).astype(np.float32)
    values[1, 2] += shows * edge
    values[2, 0] += shows * edge
    values[:, :, np.arange(20), np.arange(20)] = np.nan
    pairs = {(FACTORS[row], GENES[column]) for row, column in np.argwhere(edge)}
    return HeadMaps(FACTORS, GENES, values, np.full((20, 60), 9, np.int32), "weights"), truth_of(pairs)


@pytest.mark.parametrize("method", ["logistic", "top"])
def test_heads_that_show_the_truth_are_found(method: str) -> None:
    maps, truth = planted()
    found = select_heads(maps, truth, method=method, top=2)
    weights = np.array(found.weights)
    assert {tuple(one) for one in np.argwhere(weights > 0.25)} == {(1, 2), (2, 0)}
    assert weights.sum() == pytest.approx(1)
    assert set(found.regulators) == set(truth.regulators)
    best = np.array(found.precision)
    assert min(best[1, 2], best[2, 0]) > 2 > np.delete(best.ravel(), [6, 8]).max()


@pytest.mark.parametrize("method", ["logistic", "top"])
def test_held_out_regulators_change_nothing_that_is_chosen(method: str) -> None:
    """Neither their rows nor their columns nor their edges in the truth."""
    maps, truth = planted()
    held_out = FACTORS[3:9]
    other = replace(maps, values=maps.values.copy())
    other.values[:, :, 3:9] = 0.5
    other.values[:, :, :, 3:9] = 0.1
    pairs = {tuple(one) for one in truth.edges[["regulator", "target"]].to_numpy() if not set(one) & set(held_out)}
    pairs |= {(FACTORS[4], GENES[40]), (FACTORS[15], FACTORS[5])}
    one = select_heads(maps, truth, method=method, held_out=held_out)
    two = select_heads(other, truth_of(pairs), method=method, held_out=held_out)
    assert one.weights == two.weights
    assert one.regulators == two.regulators
    assert not set(one.regulators) & set(held_out)


def test_nested_scores_are_of_heads_that_never_saw_the_row() -> None:
    maps, truth = planted()
    values, chosen = nested_scores(maps, truth, folds=5)
    assert len(chosen) == 5
    for row, factor in enumerate(FACTORS):
        blind = [one for one in chosen if factor not in one.regulators]
        assert len(blind) == 1
        np.testing.assert_array_equal(values[row], weighed(maps, blind[0])[row])
    edge = np.zeros((20, 60), dtype=bool)
    for a, b in truth.edges[["regulator", "target"]].to_numpy():
        edge[FACTORS.index(a), GENES.index(b)] = True
    there = np.isfinite(values)
    nested = average_precision_score(edge[there], values[there])
    plain = average_precision_score(edge[there], maps.values.mean((0, 1))[there])
    assert nested > plain + 0.2


def test_choosing_among_noise_gains_nothing_on_regulators_it_never_saw() -> None:
    """Chosen and scored on the same edges the best of 12 noises looks like something; nested it is chance."""
    nested, same = [], []
    for seed in range(12):
        maps, truth = planted(seed, shows=0.0)
        edge = np.zeros((20, 60), dtype=bool)
        for a, b in truth.edges[["regulator", "target"]].to_numpy():
            edge[FACTORS.index(a), GENES.index(b)] = True
        there = np.isfinite(maps.values[0, 0])
        values = nested_scores(maps, truth, method="top", top=1, folds=4, seed=seed)[0]
        best = weighed(maps, select_heads(maps, truth, method="top", top=1))
        for out, scored in ((nested, values), (same, best)):
            out.append(average_precision_score(edge[there], scored[there]) / edge[there].mean())
    error = np.std(nested) / np.sqrt(len(nested))
    assert abs(np.mean(nested) - 1) < 0.03 + 3 * error
    assert np.mean(same) > np.mean(nested) + 0.05


def test_a_selection_survives_json_and_its_models_checkpoint(tmp_path: Path) -> None:
    model = model_with("exact")
    weights = ((0.25, 0.0), (0.0, 0.75))
    made = HeadSelection(weights, "top", "planted", "0" * 64, ("a",), weights_digest(model), ((1.0, 2.0), (3.0, 4.0)))
    assert HeadSelection.from_json(made.to_json()) == made
    first = json.loads(made.to_json())
    del first["targets"]  # as the first ones were written
    assert HeadSelection.from_json(json.dumps(first)) == replace(made, targets=())
    carried = load_model(_saved(tmp_path / "model", with_heads(model, made)))
    assert heads_of(carried, "planted") == made
    asked = {"regulators": genes_of_small(5), "targets": genes_of_small(5, 5)}
    for numbers in (np.arange(20), np.arange(50, 90)):  # it serves any population
        maps = head_maps(carried, small_cells(), numbers, **asked, options=ON_CPU)
        options = replace(ON_CPU, heads=heads_of(carried, "planted"))
        found = score_edges("attention", carried, small_cells(), numbers, **asked, options=options)
        np.testing.assert_allclose(found.values, 0.25 * maps.values[0, 0] + 0.75 * maps.values[1, 1], rtol=1e-4)
    with pytest.raises(ModelInputError, match="one of the model's: planted"):
        heads_of(carried, "other")
    with pytest.raises(ModelInputError, match="select anew"):
        with_heads(model, replace(made, model="another"))


def _saved(folder: Path, model: object) -> Path:
    save_model(folder, model)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "panatlas heads 1"}', "null", "1"])
def test_other_text_is_no_selection(text: str) -> None:
    with pytest.raises(ModelInputError, match="text"):
        HeadSelection.from_json(text)


def test_what_cannot_be_chosen_is_refused() -> None:
    maps, truth = planted()
    for wrong in ({"held_out": FACTORS}, {"top": 13, "method": "top"}, {"method": "ridge"}):
        with pytest.raises(ModelInputError, match=r"held out|heads|logistic or top"):
            select_heads(maps, truth, **wrong)
    with pytest.raises(ModelInputError, match="regulators that the truth knows"):
        nested_scores(maps, truth, folds=21)
    for weights in (((0.5,), (0.5, 0.0)), ((1.5, -0.5),), ((0.5, 0.2),), ()):
        with pytest.raises(ModelInputError, match="add up to 1"):
            HeadSelection(weights, "top", "", "", (), "")


def test_given_heads_weigh_alike_and_none_is_made_up() -> None:
    model = model_with("exact")
    found = given_heads(model, [(1, 0), (0, 1)])
    assert found.weights == ((0.0, 0.5), (0.5, 0.0))
    assert (found.model, found.regulators, found.targets) == (weights_digest(model), (), ())
    assert HeadSelection.from_json(found.to_json()) == found
    for wrong in ([(2, 0)], [(0, -1)], []):
        with pytest.raises(ModelInputError, match="heads"):
            given_heads(model, wrong)
