"""Drawings of a network: whole, the same every time, and nothing in a name is ever markup or script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import scipy.sparse as sp

from catalog.network_views import MOST_EDGES, ego_svg, network_page
from model import GeneNetwork, ModelInputError
from tests.model.small_network import of_edges, random_network

HOSTILE = "</script><img src=x onerror=alert(1)>\"&'\x00<!--"
SVG = "{http://www.w3.org/2000/svg}"


def star(**said: object) -> GeneNetwork:
    """g has the targets a and b, the regulator c, and d both ways."""
    edges = [("g", "a", 3.0), ("g", "b", -2.0), ("c", "g", 1.0), ("g", "d", 2.5), ("d", "g", 2.5), ("x", "y", 9.0)]
    return of_edges(edges, **said)


def drawn(text: str) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Return what the edges' titles say, and where each gene's circle is."""
    root = ET.fromstring(text)
    edges = [path.findtext(f"{SVG}title") for path in root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]
    circles = {
        circle.findtext(f"{SVG}title"): (float(circle.get("cx")), float(circle.get("cy")))
        for circle in root.iter(f"{SVG}circle")
    }
    return edges, circles


def test_a_drawing_has_the_neighbours_targets_right_and_regulators_left() -> None:
    edges, places = drawn(ego_svg(star(), "g"))
    assert set(places) == set("gabcd")
    assert min(places["a"][0], places["b"][0]) > places["g"][0] > places["c"][0]
    assert sorted(edges) == [
        "c → g: 1, without a sign",
        "d \N{EN DASH} g: 2.5, without a sign",
        "g → a: 3, without a sign",
        "g → b: -2, negative",
    ]


def test_a_drawing_is_the_same_every_time_and_stays_in_its_frame() -> None:
    network = random_network(60, 2600)
    text = ego_svg(network, network.genes[5], most=40)
    assert text == ego_svg(network, network.genes[5], most=40)
    places = np.array(list(drawn(text)[1].values()))
    assert len(places) == 41
    assert ((places > 60) & (places < [840, 720])).all()
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e3 * np.eye(41)
    assert gaps.min() > 20


def test_names_are_text_whatever_they_say() -> None:
    names = dict.fromkeys("gabcd", HOSTILE)
    text = ego_svg(star(population=HOSTILE), "g", names=names)
    root = ET.fromstring(text)
    assert not [one for one in root.iter() if one.tag.removeprefix(SVG) in ("script", "img")]
    page = network_page(star(population=HOSTILE), "g", names=names)
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert json.loads(_data(page))["genes"][0][1] == HOSTILE


def _data(page: str) -> str:
    return re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]


def test_a_page_runs_our_script_and_no_other_and_fetches_nothing() -> None:
    page = network_page(star(), "g")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.findall(r"(?:src|href)=", page)
    assert "innerHTML" not in script
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}


def test_a_page_has_every_edge_with_its_layers_and_begins_at_the_gene() -> None:
    network = random_network()
    gene = network.genes[3]
    data = json.loads(_data(network_page(network, gene, names={gene: "MINE"})))
    assert data["genes"][data["start"]] == [gene, "MINE"]
    assert data["layers"] == ["q_value"]
    found = {
        (data["genes"][row][0], data["genes"][column][0]): (sign, weight, q_value)
        for row, column, sign, weight, q_value in data["edges"]
    }
    table = network.edges()
    assert len(found) == len(table)
    for edge in table.itertuples():
        sign, weight, q_value = found[edge.regulator, edge.target]
        assert sign == edge.sign
        assert weight == pytest.approx(edge.weight, rel=1e-4)
        assert q_value == pytest.approx(edge.q_value, rel=1e-4)


def test_a_large_network_is_cut_to_its_strongest_edges_and_all_of_the_gene() -> None:
    genes = 200
    rng = np.random.default_rng(0)
    dense = rng.uniform(0.5, 1, (genes, genes)).astype(np.float32)
    dense[7] = 1e-3
    np.fill_diagonal(dense, 0)
    network = GeneNetwork(tuple(f"g{i}" for i in range(genes)), sp.csr_matrix(dense), "made", "homo_sapiens")
    data = json.loads(_data(network_page(network, "g7")))
    ends = [(data["genes"][edge[0]][0], data["genes"][edge[1]][0]) for edge in data["edges"]]
    assert sum(one == "g7" for one, _ in ends) == genes - 1
    assert len(ends) == MOST_EDGES + sum(dense[:, 7] < np.sort(dense.ravel())[-MOST_EDGES]) - 1 + genes - 1


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ModelInputError, match="gene of the network"):
        network_page(star(), "nobody")
    with pytest.raises(ModelInputError, match="with an edge"):
        ego_svg(of_edges([("a", "b", 1.0)], genes="q"), "q")
