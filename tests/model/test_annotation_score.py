"""Scores of annotations: counted cell by cell with sets of ancestors, and worth what they say they are."""

from __future__ import annotations

import numpy as np
import pytest

from loaders import AnnDataCells
from model import ModelInputError
from model.annotation import annotate
from model.annotation_score import score_annotation, score_terms
from ontology import load_ontology, make_label_space
from tests.model.annotated_cells import (
    CD4,
    CD8,
    LYMPHOCYTE,
    MONOCYTE,
    OPTIONS,
    B,
    T,
    annotated_cells,
    annotating_model,
)
from tests.model.small_runs import small_adata

USED = [T, CD4, CD8, B, LYMPHOCYTE, MONOCYTE]


def space():
    return make_label_space(load_ontology("CL"), USED)


def test_scores_are_those_counted_cell_by_cell():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 6, 80), rng.integers(-1, 6, 80)
    donors = rng.integers(0, 5, 80)
    found = score_terms(space(), said, truth, donors)
    lines = {one: {one, *load_ontology("CL").ancestors(one)} & set(USED) for one in USED} | {"unknown": set()}
    pairs = [(space().decode([a])[0], space().decode([b])[0]) for a, b in zip(said, truth, strict=True)]
    wrong = [a != "unknown" and a not in lines[b] for a, b in pairs]
    common = sum(len(lines[a] & lines[b]) for a, b in pairs)
    precision, recall = common / sum(len(lines[a]) for a, _ in pairs), common / sum(len(lines[b]) for _, b in pairs)
    assert found.hierarchical_f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert found.exact == np.mean([a == b for a, b in pairs])
    assert found.above == np.mean([a != b and a in lines[b] for a, b in pairs])
    assert found.told == np.mean([a != "unknown" for a, _ in pairs])
    assert found.wrong == pytest.approx(np.mean([np.mean(np.array(wrong)[donors == one]) for one in range(5)]))
    assert found.told == pytest.approx(found.exact + found.above + np.mean(wrong))
    assert found.wrong_interval[0] < found.wrong < found.wrong_interval[1]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    monocyte, lymphocyte = space().encode([MONOCYTE, B])
    for _ in range(120):
        chances = rng.beta(2, 6, 25)  # of a donor's cells to be told a wrong term: 0.25 on average
        said = np.where(rng.random((25, 20)) < chances[:, None], lymphocyte, monocyte).ravel()
        low, high = score_terms(space(), said, np.full(500, monocyte), np.repeat(np.arange(25), 20)).wrong_interval
        inside += low <= 0.25 <= high
    assert 0.85 <= inside / 120 <= 1


def test_saying_all_is_exact_and_saying_nothing_is_never_wrong():
    truth = np.arange(6)
    best = score_terms(space(), truth, truth, np.zeros(6))
    assert (best.exact, best.hierarchical_f1, best.wrong, best.told) == (1, 1, 0, 1)
    assert best.wrong_interval == (0, 1)
    none = score_terms(space(), np.full(6, -1), truth, np.zeros(6))
    assert (none.exact, none.hierarchical_f1, none.wrong, none.told) == (0, 0, 0, 0)


def test_an_annotation_is_scored_on_the_cells_own_labels():
    model, cells = annotating_model(), annotated_cells()
    held = np.flatnonzero(cells.column("split") == 2)
    found = annotate(model, cells, held, options=OPTIONS)
    scores = score_annotation(found, cells)
    assert set(scores) == {"cell_type", "sex"}
    one, words = found.of("cell_type"), cells.about["vocabulary"]["cell_type"]
    truth = one.space.encode([words[code] for code in cells.codes("cell_type", held)])
    assert scores["cell_type"] == score_terms(one.space, one.said, truth, cells.codes("donor", held))
    assert scores["cell_type"].cells == len(held)
    assert scores["cell_type"].exact > np.bincount(truth).max() / len(truth)


def test_cells_without_labels_are_refused():
    adata = small_adata()
    del adata.obs["cell_type"]
    cells = AnnDataCells(adata, "human")
    with pytest.raises(ModelInputError, match=r"no class .* labelled with cell_type, sex"):
        score_annotation(annotate(annotating_model(), cells, [0], options=OPTIONS), cells)
