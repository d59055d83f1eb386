"""What is done with scores and edges, beside numpy, networkx and the definitions."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from model import ModelInputError
from model.grn_postprocess import (
    apc,
    edges_above,
    known_edges,
    sinkhorn,
    spanning_backbone,
    symmetrise,
    to_network,
    top_edges,
    top_per_target,
)
from model.grn_scores import EdgeScores

GENES = tuple("abcdefgh")
ABOUT = {"readout": "pearson", "organism": "homo_sapiens"}


def square(seed: int = 0) -> EdgeScores:
    """Return scores of eight genes against themselves, in another order of the targets; one pair has none."""
    rng = np.random.default_rng(seed)
    targets = tuple(GENES[place] for place in rng.permutation(8))
    values = rng.random((8, 8)).astype(np.float32)
    signs = rng.choice([-1, 1], (8, 8)).astype(np.int8)
    found = EdgeScores(GENES, targets, values, signs)
    found.values[found.own] = np.nan
    found.signs[found.own] = 0
    found.values[0, targets.index("b")], found.signs[0, targets.index("b")] = np.nan, 0
    return found


def as_dict(scores: EdgeScores, values: np.ndarray | None = None) -> dict[tuple[str, str], float]:
    """Return values by regulator and target."""
    values = scores.values if values is None else values
    return {(a, b): values[i, j] for i, a in enumerate(scores.regulators) for j, b in enumerate(scores.targets)}


def test_only_known_edges_are_kept_and_the_strongest_of_them() -> None:
    scores, rng = square(), np.random.default_rng(5)
    known = {(a, b) for a in GENES for b in GENES if rng.random() < 0.5} | {("nobody", "a"), ("a", "nobody")}
    found = to_network(scores, known=known, per_target=2, **ABOUT)
    wanted = set()
    for target in GENES:
        mine = {a: value for (a, b), value in as_dict(scores).items() if b == target and (a, b) in known and value > 0}
        wanted |= {(a, target) for a in sorted(mine, key=lambda gene: -mine[gene])[:2]}
    edges = found.edges()
    assert set(zip(edges["regulator"], edges["target"], strict=True)) == wanted
    assert found.genes == to_network(scores, **ABOUT).genes


def test_blocks_of_targets_make_the_network_of_all() -> None:
    scores = square()
    blocks = [
        EdgeScores(GENES, scores.targets[at], scores.values[:, at], scores.signs[:, at])
        for at in (slice(0, 3), slice(3, 4), slice(4, 8))
    ]
    for way in ({}, {"per_target": 2}, {"known": {("a", "b"), ("c", "d")}}):
        assert to_network(iter(blocks), **way, **ABOUT).digest == to_network(scores, **way, **ABOUT).digest


def test_symmetrised_scores_are_means_of_both_directions() -> None:
    before = square()
    after = symmetrise(before)
    had, got, signs, told = as_dict(before), as_dict(after), as_dict(before, before.signs), as_dict(after, after.signs)
    for a, b in had:
        if a == b:
            assert np.isnan(got[a, b])
            continue
        both = [one for one in (had[a, b], had[b, a]) if not np.isnan(one)]
        assert got[a, b] == pytest.approx(np.mean(both), rel=1e-6)
        there = {one for one in (signs[a, b], signs[b, a]) if one}
        assert told[a, b] == (there.pop() if len(there) == 1 else 0)
    with pytest.raises(ModelInputError, match="against themselves"):
        symmetrise(EdgeScores(("a",), ("b",), np.ones((1, 1), np.float32), None))


def test_average_product_correction_takes_out_what_genes_have_with_everybody() -> None:
    habits = np.random.default_rng(1).random(6) + 0.5
    values = np.outer(habits, habits[::-1]).astype(np.float32)
    scores = EdgeScores(tuple("abcdef"), tuple("uvwxyz"), values, None)
    np.testing.assert_allclose(apc(scores).values, 0, atol=1e-6)
    values = square().values
    wanted = values - np.nanmean(values, 1)[:, None] * np.nanmean(values, 0) / np.nanmean(values)
    np.testing.assert_allclose(apc(square()).values, wanted, atol=1e-6)


def test_sinkhorn_gives_every_gene_the_same() -> None:
    found = sinkhorn(square()).values
    np.testing.assert_array_equal(np.isnan(found), np.isnan(square().values))
    np.testing.assert_allclose(np.nansum(found, 1), 1, atol=1e-5)
    np.testing.assert_allclose(np.nansum(found, 0), 1, atol=1e-5)
    wide = EdgeScores(("a", "b"), ("u", "v", "w"), np.random.default_rng(2).random((2, 3)).astype(np.float32), None)
    np.testing.assert_allclose(sinkhorn(wide).values.sum(0), 2 / 3, atol=1e-5)
    ratio = sinkhorn(wide).values / wide.values  # only rows and columns are scaled
    assert np.linalg.matrix_rank(ratio, tol=1e-5) == 1
    with pytest.raises(ModelInputError, match="from 0"):
        sinkhorn(apc(square()))


def test_edges_are_the_pairs_with_a_score() -> None:
    scores = square()
    network = to_network(scores, **ABOUT)
    had, signs = as_dict(scores), as_dict(scores, scores.signs)
    edges = network.edges()
    assert len(edges) == 8 * 7 - 1
    for row in edges.itertuples():
        assert row.weight == had[row.regulator, row.target]
        assert row.sign == signs[row.regulator, row.target]
    scores.values[2, scores.targets.index("a")] = 0
    fewer = to_network(scores, **ABOUT).edges()
    assert len(fewer) == len(edges) - 1
    assert not ((fewer["regulator"] == "c") & (fewer["target"] == "a")).any()


@pytest.mark.parametrize("number", [1, 3, 20])
def test_each_target_keeps_its_strongest(number: int) -> None:
    scores = square(4)
    scores.values[1:4, 3] = 0.5  # ties: the first regulators stay
    whole = to_network(scores, **ABOUT)
    wanted = set()
    for target in GENES:
        mine = whole.edges()[lambda e, t=target: e["target"] == t]
        ranked = sorted(zip(-mine["weight"], mine["regulator"], strict=True))[:number]
        wanted |= {(regulator, target) for _, regulator in ranked}
    for found in (to_network(scores, per_target=number, **ABOUT), top_per_target(whole, number)):
        assert set(zip(found.edges()["regulator"], found.edges()["target"], strict=True)) == wanted


def test_the_strongest_of_all_those_above_and_those_known() -> None:
    whole = to_network(square(), **ABOUT)
    edges = whole.edges()
    top = top_edges(whole, 10).edges()
    np.testing.assert_array_equal(top["weight"], edges["weight"][:10])
    assert list(top.columns) == list(edges.columns)
    assert set(edges_above(whole, 0.5).edges()["weight"]) == set(edges["weight"][edges["weight"] > 0.5])
    known = [("c", "a"), ("a", "c"), ("a", "b"), ("x", "a")]
    found = known_edges(whole, known).edges()
    assert set(zip(found["regulator"], found["target"], strict=True)) == {("c", "a"), ("a", "c")}
    for bad in (lambda: top_edges(whole, 0), lambda: top_per_target(whole, 0)):
        with pytest.raises(ModelInputError, match="1 or more"):
            bad()


def test_backbone_is_the_maximum_spanning_tree() -> None:
    whole = top_edges(to_network(square(), **ABOUT), 30)
    graph = nx.Graph()
    for row in whole.edges().itertuples():
        old = graph.get_edge_data(row.regulator, row.target, {"weight": -1})["weight"]
        graph.add_edge(row.regulator, row.target, weight=max(row.weight, old))
    tree = {frozenset(pair) for pair in nx.maximum_spanning_tree(graph).edges}
    found = spanning_backbone(whole).edges()
    assert {frozenset(pair) for pair in zip(found["regulator"], found["target"], strict=True)} == tree
    inside = whole.edges()
    assert len(found) == sum(frozenset(p) in tree for p in zip(inside["regulator"], inside["target"], strict=True))
    assert len(spanning_backbone(whole.kept(np.zeros(len(whole), dtype=bool)))) == 0


def test_too_many_edges_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.grn_postprocess.MOST_EDGES", 20)
    with pytest.raises(ModelInputError, match="keep 2 or fewer"):
        to_network(square(), **ABOUT)
    assert len(to_network(square(), per_target=2, **ABOUT)) == 16
