"""A gene network is proven when it is made: square, of one pattern, finite, no gene twice; row is regulator."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from model import GeneNetwork, ModelInputError
from tests.model.small_network import of_edges, random_network, same


def make(weights: object, **said: object) -> GeneNetwork:
    options = {"readout": "made", "organism": "homo_sapiens", **said}
    return GeneNetwork(("a", "b", "c"), weights, **options)  # type: ignore[arg-type]


def sparse(*entries: tuple[int, int, float]) -> sp.csr_matrix:
    rows, columns, values = zip(*entries, strict=True)
    return sp.csr_matrix((values, (rows, columns)), shape=(3, 3))


def test_row_is_regulator_and_the_strongest_edge_is_first_whatever_its_sign() -> None:
    network = make(sparse((2, 0, 0.5), (0, 1, -0.9), (1, 0, 0.5)))
    assert network.edges().to_dict("list") == {
        "regulator": ["a", "b", "c"],
        "target": ["b", "a", "a"],
        "weight": pytest.approx([-0.9, 0.5, 0.5]),
    }
    assert network.regulators == ("a", "b", "c")
    assert network.targets == ("a", "b")


def test_an_edge_of_weight_zero_is_an_edge() -> None:
    network = make(sparse((0, 1, 0.0)), layers={"sign": sparse((0, 1, 0.0)).astype(np.int8)})
    assert len(network) == len(network.edges()) == 1
    assert network.layers["sign"].dtype == np.int8


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"weights": sparse((1, 1, 1.0))}, "weights"),
        ({"weights": sparse((0, 1, np.nan))}, "weights"),
        ({"weights": sp.csr_matrix((3, 4))}, "weights"),
        ({"weights": np.zeros((3, 3))}, "weights"),
        ({"weights": sp.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(3, 3))}, "weights"),
        ({"layers": {"q": sparse((0, 2, 1.0))}}, "q"),
        ({"layers": {"weight": sparse((0, 1, 1.0))}}, "layers"),
        ({"layers": {"q/value": sparse((0, 1, 1.0))}}, "layers"),
        ({"facts": {"seed": np.nan}}, "facts"),
        ({"facts": {"seed": object()}}, "facts"),
        ({"readout": ""}, "readout"),
    ],
)
def test_what_is_no_network_is_refused_by_name(said: dict[str, object], field: str) -> None:
    weights = said.pop("weights", sparse((0, 1, 1.0)))
    with pytest.raises(ModelInputError) as error:
        make(weights, **said)
    assert error.value.field == field


def test_a_matrix_that_would_be_read_beyond_its_end_is_refused() -> None:
    broken = sparse((0, 1, 1.0))
    broken.indices = np.array([77], dtype=np.int32)
    with pytest.raises(ModelInputError, match="within"):
        make(broken)


def test_a_gene_named_twice_is_named() -> None:
    with pytest.raises(ModelInputError, match="'a'"):
        GeneNetwork(("a", "b", "a"), sparse((0, 1, 1.0)), "made", "homo_sapiens")


def test_parts_of_a_network_are_those_of_its_dense_matrices() -> None:
    network = random_network()
    dense = network.weights.toarray()
    order = np.random.default_rng(1).permutation(len(network.genes))[:12]
    part = network.subset([network.genes[number] for number in order])
    assert np.array_equal(part.weights.toarray(), dense[np.ix_(order, order)])
    q_value = network.layers["q_value"].toarray()
    assert np.array_equal(part.layers["q_value"].toarray(), q_value[np.ix_(order, order)])
    strong = network.kept(np.abs(network.weights.data) > 0.5)
    assert np.array_equal(strong.weights.toarray(), np.where(np.abs(dense) > 0.5, dense, 0))
    assert len(strong) == (np.abs(network.weights.data) > 0.5).sum() == strong.layers["sign"].nnz


def test_a_layer_is_laid_on_edge_by_edge() -> None:
    network = random_network()
    more = network.with_layer("rank", np.arange(len(network)))
    assert np.array_equal(more.layers["rank"].data, np.arange(len(network)))
    assert "rank" not in network.layers
    with pytest.raises(ModelInputError):
        network.with_layer("rank", np.arange(3))


def test_the_digest_tells_networks_apart_by_anything_they_say() -> None:
    network = random_network()
    assert network.digest == random_network().digest
    others = [
        random_network(population="all"), random_network(seed=1), random_network(facts={}),
        network.kept(np.arange(len(network)) > 0), network.with_layer("n", np.zeros(len(network))),
    ]  # fmt: skip
    assert len({network.digest, *(one.digest for one in others)}) == 6


def test_networks_are_brought_to_one_form() -> None:
    assert same(of_edges([("a", "b", 1.0), ("b", "c", 2.0)]), of_edges([("b", "c", 2.0), ("a", "b", 1.0)]))
