"""Confusion reports: scikit-learn's numbers on flat labels, sets of ancestors counted by hand on an ontology."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from model import ModelInputError
from model.confusion import RELATIONS, compare_terms
from ontology import load_ontology
from tests.model.annotated_cells import CD4, CD8, LYMPHOCYTE, MONOCYTE, B, T

FLAT = ["tissue", "organoid", "primary cell culture", "cell line"]
ROOT = "CL:0000000"


@pytest.mark.parametrize("seed", range(3))
def test_flat_labels_have_the_scores_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice(FLAT[:3], 200)
    told = np.where(rng.random(200) < 0.6, truth, rng.choice(FLAT, 200))
    found = compare_terms("cell_culture", truth.tolist(), told.tolist())
    assert found.accuracy == pytest.approx(accuracy_score(truth, told))
    assert found.macro_f1 == pytest.approx(f1_score(truth, told, average="macro", zero_division=0))
    # Without anything above anything, hierarchical scores are micro averages.
    assert found.hierarchical_f1 == pytest.approx(f1_score(truth, told, average="micro"))
    assert found.coverage == 1
    terms = found.classes["term"].tolist()
    scores = precision_recall_fscore_support(truth, told, labels=terms, zero_division=0)
    np.testing.assert_allclose(found.classes[["precision", "recall", "f1"]].to_numpy().T, scores[:3])
    wide = confusion_matrix(truth, told, labels=terms)
    rows = found.table.set_index(["true", "told"])["cells"]
    for i, one in enumerate(terms):
        for j, other in enumerate(terms):
            assert rows.get((one, other), 0) == wide[i, j]


def test_cells_that_are_told_nothing_are_missed_and_no_class():
    truth = np.array(["tissue", "organoid"] * 10)
    told = truth.copy()
    told[:6] = "unknown"
    found = compare_terms("cell_culture", truth.tolist(), told.tolist())
    assert (found.accuracy, found.coverage) == (0.7, 0.7)
    assert found.macro_f1 == pytest.approx(f1_score(truth, told, labels=["tissue", "organoid"], average="macro"))
    assert set(found.classes["term"]) == {"tissue", "organoid"}
    assert (found.hierarchical_precision, found.hierarchical_recall) == (1, 0.7)


def test_scores_along_the_ontology_are_those_of_sets_of_ancestors():
    rng, ontology = np.random.default_rng(0), load_ontology("CL")
    truth = rng.choice([CD4, CD8, B, MONOCYTE, T], 150).tolist()
    told = rng.choice([CD4, CD8, B, MONOCYTE, T, LYMPHOCYTE, ROOT, "unknown"], 150).tolist()
    found = compare_terms("cell_type", truth, told)

    def line(term: str) -> set[str]:
        return set() if term == "unknown" else {term, *ontology.ancestors(term)} - {ROOT}

    pairs = list(zip(truth, told, strict=True))
    common = sum(len(line(a) & line(b)) for a, b in pairs)
    precision, recall = common / sum(len(line(b)) for _, b in pairs), common / sum(len(line(a)) for a, _ in pairs)
    assert found.hierarchical_precision == pytest.approx(precision)
    assert found.hierarchical_recall == pytest.approx(recall)
    assert found.hierarchical_f1 == pytest.approx(2 * precision * recall / (precision + recall))
    by_hand = dict.fromkeys(RELATIONS, 0)
    for a, b in pairs:
        by_hand[
            "unknown" if b == "unknown" else "exact" if a == b else "above" if b in ontology.ancestors(a)
            else "below" if a in ontology.ancestors(b) else "elsewhere"
        ] += 1  # fmt: skip
    assert found.relations == {name: pytest.approx(count / 150) for name, count in by_hand.items()}
    assert min(by_hand.values()) > 0
    assert found.accuracy == np.mean([a == b for a, b in pairs])


def test_the_matrix_is_a_table_of_the_pairs_that_occur():
    found = compare_terms("cell_type", [CD4, CD4, CD4, B, "unknown"], [CD4, T, T, "", CD4])
    assert (found.cells, found.unlabelled) == (4, 1)
    rows = found.table.drop(columns="share").to_dict("records")
    assert rows == [
        {"true": CD4, "true_name": "CD4-positive, alpha-beta T cell", "told": T, "told_name": "T cell",
         "relation": "above", "cells": 2},
        {"true": B, "true_name": "B cell", "told": "unknown", "told_name": "unknown", "relation": "unknown",
         "cells": 1},
        {"true": CD4, "true_name": "CD4-positive, alpha-beta T cell", "told": CD4,
         "told_name": "CD4-positive, alpha-beta T cell", "relation": "exact", "cells": 1},
    ]  # fmt: skip
    assert found.table["share"].tolist() == pytest.approx([2 / 3, 1, 1 / 3])


def test_several_terms_of_a_cell_are_a_term_of_their_own_below_each():
    one, other = "MONDO:0004979", "MONDO:0005148"  # asthma, type 2 diabetes
    both = f"{one} || {other}"
    found = compare_terms("disease", [both, both, one], [both, one, both])
    assert found.relations["exact"] == found.relations["above"] == found.relations["below"] == pytest.approx(1 / 3)
    assert " || " in found.table.loc[found.table["true"] == both, "true_name"].iloc[0]


def test_donors_decide_how_sure_it_is():
    truth, told = [CD4] * 40, [CD4, B] * 20
    assert compare_terms("cell_type", truth, told).exact_interval == (0, 1)
    alike = compare_terms("cell_type", truth, told, [f"d{i // 4}" for i in range(40)])
    apart = compare_terms("cell_type", truth, sorted(told), [f"d{i // 4}" for i in range(40)])
    assert (alike.donors, apart.donors) == (10, 10)
    assert np.ptp(apart.exact_interval) > 0.4
    assert apart.exact_interval[0] < 0.5 < apart.exact_interval[1]


def test_slips_are_told():
    for how, said in (
        (("cell_typ", [CD4], [CD4]), "cell_type"),
        (("cell_type", [CD4], [CD4, B]), "one for each"),
        (("cell_type", ["unknown"], [CD4]), "ids of cell_type"),
        (("cell_type", [CD4], ["T cell"]), "ids of cell_type"),
        (("cell_type", [CD4], ["CL:9999999"]), "ids of cell_type"),
    ):
        with pytest.raises(ModelInputError, match=said):
            compare_terms(*how)
