"""Labels smoothed over neighbours: the solution of a linear system, probabilities still, better where graphs help."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve
from scipy.spatial.distance import cdist

from model import ModelInputError, annotate
from model.annotation import softmax
from model.label_smoothing import nearest_cells, smooth_annotation, spread
from tests.model.annotated_cells import OPTIONS, annotated_cells, annotating_model


def shares(rng: np.random.Generator, n: int, leaves: int = 4) -> np.ndarray:
    return softmax(rng.normal(size=(n, leaves))).astype(np.float32)


def test_near_cells_are_those_of_the_distance_matrix_either_way():
    values = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    far = cdist(values, values)
    np.fill_diagonal(far, np.inf)
    near = np.zeros((60, 60), bool)
    near[np.arange(60)[:, None], np.argsort(far, 1)[:, :7]] = True
    found = nearest_cells(values, 7)
    np.testing.assert_array_equal(found.toarray() > 0, near | near.T)
    assert set(found.data) == {1}
    assert nearest_cells(values[:1], 7).nnz == 0
    assert nearest_cells(values[:3], 7).nnz == 6, "all others where there are fewer"


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9])
def test_spreading_solves_the_linear_system(strength):
    rng = np.random.default_rng(1)
    graph = sp.random(50, 50, 0.1, random_state=2, format="csr")
    graph = graph + graph.T + sp.diags(np.ones(50))  # a cell is no neighbour of its own
    graph.setdiag(np.where(np.arange(50) < 3, 0, 1.0))
    own = shares(rng, 50)
    plain = sp.csr_matrix(graph, copy=True)
    plain.setdiag(0)
    means = sp.diags(1 / np.asarray(plain.sum(1)).ravel()) @ plain
    truth = spsolve(sp.csc_matrix(sp.identity(50) - strength * means), (1 - strength) * own.astype(np.float64))
    found = spread(own, graph, strength)
    np.testing.assert_allclose(found, truth, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_a_cell_without_neighbours_stays_as_it_is_and_says_as_much_to_others():
    own = shares(np.random.default_rng(0), 4)
    graph = sp.csr_matrix(([1.0, 1.0, 1.0], ([0, 0, 1], [1, 2, 0])), shape=(4, 4))  # 2 is seen and sees none
    found = spread(own, graph, 0.5)
    np.testing.assert_allclose(found[2:], own[2:], atol=1e-6)
    first = (2 / 7) * (2 * own[0] + own[1] / 2 + own[2])  # of f0 = (p0 + (f1 + p2) / 2) / 2 and f1 = (p1 + f0) / 2
    np.testing.assert_allclose(found[0], first, atol=1e-5)


def test_noise_is_smoothed_where_neighbours_are_of_one_kind():
    rng, kinds = np.random.default_rng(0), np.repeat(np.arange(4), 50)
    own = softmax(np.eye(4)[kinds] + rng.normal(size=(200, 4))).astype(np.float32)
    graph = nearest_cells((np.eye(4)[kinds] * 4 + rng.normal(size=(200, 4))).astype(np.float32))
    before, after = ((some.argmax(1) == kinds).mean() for some in (own, spread(own, graph, 0.8)))
    assert before < 0.7
    assert after > 0.9


def test_terms_are_said_anew_of_smoothed_probabilities_and_nothing_is_promised():
    model, cells = annotating_model(), annotated_cells()
    held = np.flatnonzero(cells.column("split") == 2)
    plain = annotate(model, cells, held, options=OPTIONS, threshold=0.7)
    graph = nearest_cells(plain.embedding)
    found = smooth_annotation(plain, graph, 0.6)
    for label, one in found.labels.items():
        before = plain.of(label)
        np.testing.assert_array_equal(one.probabilities, spread(before.probabilities, graph, 0.6))
        said = one.said >= 0
        likely = one.class_probabilities[np.flatnonzero(said), one.said[said]]
        np.testing.assert_allclose(one.said_probability[said], likely, rtol=1e-5)
        assert np.isnan(one.said_probability[~said]).all()
        assert (likely >= 0.7).all()
        assert "before smoothing; none since" in one.threshold.promise
        assert plain.of(label) is before, "the annotation that was given is as it was"
    same = smooth_annotation(plain, graph, 0.0)
    np.testing.assert_array_equal(same.of("sex").said, plain.of("sex").said)
    assert (found.of("cell_type").said != plain.of("cell_type").said).any()


def test_graphs_that_are_none_are_refused():
    own = shares(np.random.default_rng(0), 4)
    whole = sp.csr_matrix(np.ones((4, 4)))
    for graph, strength, said in (
        (whole[:3], 0.5, "neighbours of these cells"),
        (-whole, 0.5, "below 0"),
        (whole * np.nan, 0.5, "not finite"),
        (whole, 1.0, "below 1"),
        (whole, -0.1, "below 1"),
    ):
        with pytest.raises(ModelInputError, match=said):
            spread(own, graph, strength)
    with pytest.raises(ModelInputError, match="1 or more"):
        nearest_cells(own, 0)
