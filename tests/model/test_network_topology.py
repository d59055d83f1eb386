"""Degrees, hubs, communities and surroundings, beside dense arithmetic and networks that are known."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact

from model import (
    ModelInputError,
    centrality,
    communities,
    degrees,
    ego_network,
    hubs,
    network_enrichment,
    read_gene_sets,
)
from tests.model.small_network import of_edges, random_network


def test_degrees_and_strengths_are_those_of_the_dense_matrix() -> None:
    network = random_network()
    there = np.zeros(network.weights.shape)
    there[network.weights.nonzero()] = 1
    rows = np.repeat(np.arange(30), np.diff(network.weights.indptr))
    there[rows, network.weights.indices] = 1  # the edge of weight 0 too
    table = degrees(network).loc[list(network.genes)]
    assert np.array_equal(table["out_degree"], there.sum(1))
    assert np.array_equal(table["in_degree"], there.sum(0))
    assert np.allclose(table["out_strength"], np.abs(network.weights.toarray()).sum(1))
    assert np.allclose(table["in_strength"], np.abs(network.weights.toarray()).sum(0))


def test_influence_is_pagerank_against_the_edges() -> None:
    network = random_network()
    dense = np.abs(network.weights.toarray().astype(float)).T
    sums = dense.sum(1, keepdims=True)
    step = np.where(sums > 0, dense / np.where(sums > 0, sums, 1), 1 / 30)
    rank = np.full(30, 1 / 30)
    for _ in range(300):
        rank = 0.85 * rank @ step + 0.15 / 30
    assert np.allclose(centrality(network).loc[list(network.genes), "influence"], rank, atol=1e-5)


def test_hubs_are_those_with_most_targets_and_ties_are_settled() -> None:
    network = of_edges([("a", "x", 1), ("a", "y", 1), ("b", "x", 3), ("c", "x", 3), ("d", "x", 1)])
    assert hubs(network, 3) == ("a", "b", "c")
    assert hubs(network, 99) == ("a", "b", "c", "d")
    with pytest.raises(ModelInputError):
        hubs(network, 0)


def test_two_regulons_are_two_communities_whatever_the_signs() -> None:
    rng = np.random.default_rng(0)
    edges = [
        (first, second, float(rng.choice([-1, 1])))
        for group in ("abcdef", "uvwxyz")
        for first in group
        for second in group
        if first != second and rng.random() < 0.7
    ]
    network = of_edges([*edges, ("a", "z", 0.1)], genes="q")
    assert {frozenset(group) for group in communities(network)} == {frozenset("abcdef"), frozenset("uvwxyz")}
    assert communities(network) == communities(network)


def test_a_network_without_edges_has_no_community() -> None:
    assert communities(random_network(edges=1).kept(np.zeros(1, bool))) == ()


def test_communities_part_a_network_better_than_chance() -> None:
    network = random_network(60, 200)
    graph = nx.Graph()
    dense = np.abs(network.weights.toarray())
    both = dense + dense.T
    graph.add_weighted_edges_from((i, j, both[i, j]) for i in range(60) for j in range(i) if both[i, j])
    place = {gene: number for number, gene in enumerate(network.genes)}
    found = [{place[gene] for gene in group} for group in communities(network)]
    assert sum(map(len, found)) == len(graph)
    assert nx.community.modularity(graph, found) > 0.2


def test_an_ego_network_has_the_strongest_neighbours_and_all_edges_among_them() -> None:
    network = of_edges([("g", "a", 5), ("b", "g", -4), ("g", "c", 1), ("a", "b", 2), ("c", "a", 9), ("x", "y", 9)])
    ego = ego_network(network, "g", 2)
    assert ego.genes == ("g", "a", "b")
    assert set(zip(ego.edges()["regulator"], ego.edges()["target"], strict=True)) == {
        ("g", "a"),
        ("b", "g"),
        ("a", "b"),
    }
    with pytest.raises(ModelInputError, match="with an edge"):
        ego_network(of_edges([("a", "b", 1)], genes="q"), "q")
    with pytest.raises(ModelInputError, match="a gene of the network"):
        ego_network(network, "nobody")


def test_enrichment_of_hubs_is_fishers_test_over_the_genes_of_the_network() -> None:
    network = random_network(60, 300)
    table = degrees(network)
    chosen = hubs(network, 15)
    sets = {"hubs and more": [*chosen[:9], *table.index[40:43], "elsewhere"], "any": list(table.index[::7])}
    found = network_enrichment(network, sets, top=15, least=3)
    mine = found[found["group"] == "hubs"].set_index("set")
    assert mine.index[0] == "hubs and more"
    for name, members in sets.items():
        inside = set(members) & set(network.genes)
        a = len(inside & set(chosen))
        square = [[a, len(inside) - a], [15 - a, 60 - 15 - len(inside) + a]]
        assert mine.loc[name, "overlap"] == a
        assert mine.loc[name, "p_overlap"] == pytest.approx(fisher_exact(square, alternative="greater").pvalue)
    assert found["q_overlap"].to_numpy() == pytest.approx(false_discovery_control(found["p_overlap"]))
    assert set(found["group"]) > {"hubs", "community 1"}


def test_gene_sets_are_read_from_gmt_by_id_or_symbol(tmp_path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("one\tabout\tGATA1\tENSG00000102145\tNOBODY\n\ntwo\t\tCD3E\n", encoding="utf-8")
    assert read_gene_sets(file) == {"one": {"GATA1", "ENSG00000102145", "NOBODY"}, "two": {"CD3E"}}
    assert read_gene_sets(file, "human") == {"one": {"ENSG00000102145"}, "two": {"ENSG00000198851"}}
    file.write_text("one\tabout\n", encoding="utf-8")
    with pytest.raises(ModelInputError, match="line 1"):
        read_gene_sets(file)
