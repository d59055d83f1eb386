"""Annotation: probabilities that agree with the graph, and the deepest term that is likely enough, found by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model import ModelInputError, Network
from model.annotation import TermChoice, annotate, annotate_blocks, softmax
from model.inference import read_cells
from ontology import LabelSpace, load_ontology, make_label_space
from tests.model.annotated_cells import CD4, CD8, LYMPHOCYTE, OPTIONS, B, T, annotated_cells, annotating_model
from tests.model.small_runs import small_config


def said_by_hand(space: LabelSpace, leaves: np.ndarray, threshold: float) -> str:
    """Return the class that is likely enough with none such below it: of the fewest leaves, then the likeliest."""
    children = {
        one: {other for j, other in enumerate(space.classes) if space.above[j, i]}
        for i, one in enumerate(space.classes)
    }
    own = dict(zip(space.leaves, leaves, strict=True))
    under = {one: [leaf for leaf in space.leaves if leaf == one or leaf in below] for one, below in children.items()}
    chance = {one: min(sum(own[leaf] for leaf in found), 1.0) for one, found in under.items()}
    likely = [one for one in space.classes if chance[one] >= threshold]
    deepest = [one for one in likely if not children[one].intersection(likely)]
    return min(deepest, key=lambda one: (len(under[one]), -chance[one])) if deepest else "unknown"


def random_graph(seed: int, leaves: int = 6) -> LabelSpace:
    """Return classes of which some share leaves without lying above each other, and some have the very same leaves."""
    rng = np.random.default_rng(seed)
    sets = [frozenset(rng.permutation(leaves)[: rng.integers(1, leaves + 1)].tolist()) for _ in range(7)]
    whole = [frozenset([leaf]) for leaf in range(leaves)] + [sets[one] for one in rng.integers(0, 7, 10)]
    height = np.concatenate([np.zeros(leaves), 1 + rng.permutation(10)])
    above = np.zeros((len(whole), len(whole)), dtype=bool)
    for i, low in enumerate(whole):
        for j, high in enumerate(whole):
            above[i, j] = j >= leaves and (low < high or (low == high and height[i] < height[j]))
    names = tuple(f"X:{i:02d}" for i in range(len(whole)))
    return LabelSpace(names, names, leaves, above, "made up")


@pytest.mark.parametrize("seed", range(4))
def test_the_deepest_likely_term_is_the_one_found_class_by_class(seed):
    rng, space = np.random.default_rng(seed), random_graph(seed)
    shares = softmax(rng.normal(size=(60, space.n_leaves)) * 2)
    thresholds = (0.02, 0.2, 0.5, 0.7, 0.95, 1.5, np.inf)
    choice = TermChoice(space)
    said = choice.deepest(choice.probabilities(shares), thresholds)
    names = np.array([*space.classes, "unknown"])[said]
    for row, threshold in enumerate(thresholds):
        assert names[row].tolist() == [said_by_hand(space, one, threshold) for one in shares]
    assert len(set(names[2])) > 4


def test_cd4_for_sure_a_t_cell_of_some_kind_a_lymphocyte_of_some_kind_or_nothing():
    space = make_label_space(load_ontology("CL"), [T, CD4, CD8, B, LYMPHOCYTE])
    assert space.leaves == (B, CD4, CD8)
    shares = np.array([[0.1, 0.8, 0.1], [0.1, 0.45, 0.45], [0.4, 0.3, 0.3]])
    choice = TermChoice(space)
    said = choice.deepest(choice.probabilities(shares), [0.5, 0.7])
    assert [space.decode(row) for row in said] == [(CD4, T, T), (CD4, T, LYMPHOCYTE)]


def test_probabilities_are_the_networks_and_agree_with_the_graph():
    model, cells = annotating_model(), annotated_cells()
    found = annotate(model, cells, options=OPTIONS)
    assert list(found.labels) == ["cell_type", "sex"]
    logits = []
    for read in read_cells(model, cells, None, OPTIONS):
        with torch.no_grad():
            logits.append(model.network.classify(read.encoded)["cell_type"].double().softmax(1).numpy())
    one = found.of("cell_type")
    assert np.allclose(one.probabilities, np.concatenate(logits), atol=1e-6)
    assert np.allclose(one.probabilities.sum(1), 1, atol=1e-6)
    every = one.class_probabilities
    assert every.shape == (len(cells), len(one.space))
    for child, parent in np.argwhere(one.space.above):
        assert (every[:, parent] >= every[:, child]).all()
    assert np.allclose(every[:, one.space.encode([T])[0]], every[:, one.space.encode([CD4, CD8])].sum(1))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_terms_are_those_found_by_hand_and_the_model_says_most_of_what_it_learned(threshold):
    found = annotate(annotating_model(), annotated_cells(), options=OPTIONS, threshold=threshold).of("cell_type")
    assert found.terms.tolist() == [said_by_hand(found.space, one, threshold) for one in found.probabilities]
    assert CD4 in found.terms
    coarse = {T, LYMPHOCYTE, "unknown"}.intersection(found.terms)
    assert coarse == ({T, LYMPHOCYTE, "unknown"} if threshold == 0.9 else set()), "the surer it has to be, the less"
    sure = found.said >= 0
    assert (found.said_probability[sure] >= threshold - 1e-6).all()
    assert np.isnan(found.said_probability[~sure]).all()
    assert found.names[sure][0] == load_ontology("CL").label(found.terms[sure][0])
    assert found.leaf_terms.tolist() == [found.space.leaves[one.argmax()] for one in found.probabilities]
    assert np.array_equal(found.leaf_probability, found.probabilities.max(1))


def test_a_cell_is_told_the_same_alone_and_in_any_order_and_twice_the_same_bytes():
    model, cells = annotating_model(), annotated_cells()
    whole = annotate(model, cells, options=OPTIONS)
    some = np.random.default_rng(2).permutation(len(cells))[:50]
    part = annotate(model, cells, some, options=OPTIONS)
    assert part.numbers.tolist() == some.tolist()
    for label, one in part.labels.items():
        other = whole.of(label)
        assert np.abs(one.probabilities - other.probabilities[some]).max() <= 1e-5
        assert one.terms.tolist() == other.terms[some].tolist()
    again = annotate(model, cells, options=OPTIONS)
    for label, one in again.labels.items():
        assert one.probabilities.tobytes() == whole.of(label).probabilities.tobytes()
        assert one.said.tobytes() == whole.of(label).said.tobytes()
    alone = annotate(model, cells, [int(some[0])], options=OPTIONS).of("cell_type")
    assert np.abs(alone.probabilities - part.of("cell_type").probabilities[:1]).max() <= 1e-5


def test_blocks_are_the_annotation_piece_by_piece():
    model, cells = annotating_model(), annotated_cells()
    whole, parts = annotate(model, cells, options=OPTIONS), list(annotate_blocks(model, cells, options=OPTIONS))
    assert [len(one) for one in parts] == [60] * 7 + [12]
    for label in whole.labels:
        for name in ("probabilities", "said", "said_probability", "terms"):
            joined = np.concatenate([getattr(one.of(label), name) for one in parts])
            np.testing.assert_array_equal(joined, getattr(whole.of(label), name))


def test_a_label_without_classes_is_refused_with_the_remedy():
    found = annotate(annotating_model(), annotated_cells(), [0], options=OPTIONS)
    with pytest.raises(ModelInputError, match=r"label='disease' .*\(cell_type, sex\); with_classes adds"):
        found.of("disease")
    model = annotating_model()
    words = replace(model.vocabulary, labels={})
    model = replace(model, vocabulary=words, network=Network(small_config(), words, model.table))
    with pytest.raises(ModelInputError, match=r"no label with two classes.*with_classes"):
        annotate(model, annotated_cells(), options=OPTIONS)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"threshold": 0.0}, "threshold=0.0 .* a probability above 0"),
        ({"threshold": 1.1}, "threshold=1.1 .* a probability above 0"),
        ({"alpha": 0.1}, "alpha=0.1 .* `calibrate` makes"),
    ],
)
def test_numbers_that_are_not_allowed_are_refused(asked, said):
    with pytest.raises(ModelInputError, match=said):
        annotate(annotating_model(), annotated_cells(), options=OPTIONS, **asked)
