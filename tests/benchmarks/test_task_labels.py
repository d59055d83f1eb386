"""Labels are scored as scikit-learn scores them, of cells and among classes alike for all, and a peer may fail."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from benchmarks import task_cells, task_labels, tasks
from benchmarks.kept_parts import KeptParts
from benchmarks.task_cells import Held
from tests.model.annotated_cells import CD4, CD8, OPTIONS, B, annotated_cells, annotating_model


class Told:
    """Cells of which some have another label."""

    def __init__(self, codes: np.ndarray) -> None:
        self._cells, self._codes = annotated_cells(), codes

    def __getattr__(self, name: str) -> object:
        return getattr(self._cells, name)

    def __len__(self) -> int:
        return len(self._cells)

    def column(self, name: str) -> np.ndarray:
        return self._codes if name == "cell_type" else self._cells.column(name)

    def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
        return self.column(name)[cells]


def held_of(cells: object) -> Held:
    numbers = np.flatnonzero(cells.column("split") == 2)
    width = len(cells.genes())
    ids = cells.genes()["feature_id"].to_numpy(dtype=object)
    return Held("one", "homo_sapiens", numbers, task_cells.read_counts(cells, numbers, width), ids, np.arange(width))


def test_scores_are_those_of_scikit_learn_and_a_cell_told_nothing_is_wrong():
    classes = (CD4, CD8, B)
    right, guess = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 2, 1])
    found = task_labels.score_terms("cell_type", classes, right, guess)
    assert found["accuracy"] == pytest.approx(accuracy_score(right, guess))
    assert found["balanced"] == pytest.approx(balanced_accuracy_score(right, guess))
    assert found["macro-F1"] == pytest.approx(f1_score(right, guess, average="macro"))
    assert found["accuracy"] < found["hierarchical F1"] < 1, "CD4 and CD8 T cells have most terms above them in common"
    nothing = task_labels.score_terms("cell_type", classes, right, np.full(7, -1))
    assert set(nothing.values()) == {0.0}


def test_all_methods_are_scored_on_the_same_cells_and_learn_of_the_same(tmp_path):
    plain = annotated_cells()
    words, codes = plain.about["vocabulary"]["cell_type"], plain.column("cell_type").copy()
    codes[(codes == words.index(B)) & (plain.column("split") == 0)] = words.index(CD4)  # nobody learns of B cells
    cells, model = Told(codes), annotating_model()
    held = held_of(cells)
    table = task_labels.score_labels(model, cells, [held], 0, (OPTIONS, "not run: no", tmp_path))["labels: cell_type"]
    leaf = task_cells.leaves(model, cells, "cell_type", held.numbers)
    b = model.vocabulary.labels["cell_type"].classes.index(B)
    scored = int(((leaf >= 0) & (leaf != b)).sum())
    assert (leaf == b).any()
    assert {tuple(row["cells"] + row["left out"]) for row in table.values()} == {(scored, len(leaf) - scored)}
    assert set(table) == {
        "the model", "the model, classes of the organism", "majority", "nearest by PCA", "logistic regression",
    }  # fmt: skip
    most = np.bincount(task_cells.leaves(model, cells, "cell_type", np.flatnonzero(cells.column("split") == 0)) + 1)
    common = int(np.argmax(most[1:]))
    logits = task_labels.leaf_logits(model, cells, held.numbers, OPTIONS)["cell_type"]
    scores = {"the model": logits, "the model, classes of the organism": np.delete(logits, b, axis=1)}
    for name, among in scores.items():
        told = np.delete(np.arange(logits.shape[1]), [] if name == "the model" else b)[among.argmax(1)]
        truth = [float((told == leaf)[(leaf >= 0) & (leaf != b)].mean())]
        assert table[name]["accuracy"] == truth, "the latter never says what the training cells are not"
    assert table["majority"]["accuracy"] == [float((leaf[(leaf >= 0) & (leaf != b)] == common).mean())]


def test_a_peer_that_fails_tells_nothing_and_is_counted_and_one_that_is_not_there_has_no_row(tmp_path, capsys):
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    counts = sp.csr_matrix(rng.poisson(1 + 8 * (np.arange(30) % 3 == classes[:, None])))
    train, asked = (counts[:45], classes[:45]), counts[45:]
    found = task_labels.taught("cell_type", train, asked, 0, (sys.executable, tmp_path))
    assert found["CellTypist"] is None, "it is not in our own environment"
    assert "celltypist" in capsys.readouterr().out
    for name in ("nearest by PCA", "logistic regression"):
        assert found[name].tolist() == classes[45:].tolist()
    assert len(set(found["majority"].tolist())) == 1
    assert "CellTypist" not in task_labels.taught("cell_type", train, asked, 0, ("not run: no index", tmp_path))
    assert "CellTypist" not in task_labels.taught("tissue", train, asked, 0, (sys.executable, tmp_path))
    cells, model = annotated_cells(), annotating_model()
    how = (OPTIONS, sys.executable, tmp_path)
    row = task_labels.score_labels(model, cells, [held_of(cells)], 0, how)["labels: cell_type"]["CellTypist"]
    assert (row["failures"], row["accuracy"], row["macro-F1"]) == ([1], [0.0], [0.0])


def test_training_cells_are_drawn_among_those_with_a_label(monkeypatch):
    cells, model = annotated_cells(), annotating_model()
    labelled = task_cells.leaves(model, cells, "cell_type", np.arange(len(cells))) >= 0
    fit = np.flatnonzero(labelled & (cells.column("split") == 0))
    drawn, counts = task_cells.training_cells(cells, "homo_sapiens", 0, labelled)
    assert drawn.tolist() == fit.tolist()
    assert counts.sum() == cells.codes("depth", drawn).sum()
    monkeypatch.setattr(task_cells, "TRAINING", 20)
    few = task_cells.training_cells(cells, "homo_sapiens", 0, labelled)[0]
    assert len(few) == 20
    assert set(few) <= set(fit)


def test_a_run_that_was_stopped_keeps_its_parts_until_it_ends(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("a = 1")
    made = []

    def make(name: str) -> dict:
        made.append(name)
        if made.count(name) == 1 and name == "1-b":
            raise KeyboardInterrupt
        return {"t": {"m": {"x": [0.1 + len(name)], "nan": [float("nan")]}}}

    def run(decides: dict) -> list:
        kept = KeptParts(tmp_path / "parts", decides, [code])
        found = [kept.of(name, lambda name=name: make(name)) for name in ("0-a", "1-b", "2-c")]
        kept.clear()
        return found

    with pytest.raises(KeyboardInterrupt):
        run({"model": "m"})
    found = run({"model": "m"})
    assert made == ["0-a", "1-b", "1-b", "2-c"], "what was made is not made again"
    assert found[0]["t"]["m"]["x"] == [3.1]
    assert list((tmp_path / "parts").iterdir()) == [], "another run begins anew"
    kept = KeptParts(tmp_path / "parts", {"model": "m"}, [code]).folder
    assert kept != KeptParts(tmp_path / "parts", {"model": "other"}, [code]).folder
    code.write_text("a = 2")
    assert kept != KeptParts(tmp_path / "parts", {"model": "m"}, [code]).folder


def test_the_scores_of_seeds_are_put_side_by_side():
    tables: dict = {"t": {"m": {"x": [1.0], "cells": [3]}}}
    tasks._join(tables, {"t": {"m": {"x": [2.0], "cells": [4]}}})
    assert tables == {"t": {"m": {"x": [1.0, 2.0], "cells": [3, 4]}}}
    assert tasks.with_intervals({**tables["t"]["m"], "failures": [1, 0]}) | {"x": None} == {
        "x": None,
        "cells": 7,
        "failures": 1,
    }
