"""Ortholog groups: a gene is in at most one, networkx agrees on the families, and nothing percolates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology import ReferenceMissingError, get_organism
from ontology.group_orthologs import MAX_HUMAN, fold_groups, ortholog_groups, orthologs_key
from ontology.ortholog_sources import Origin
from ontology.orthologs import OrthologTable, clean_pairs
from ontology.snapshots import save_table

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin("snapshot", "by hand", "1", "CC0", "key")
Rows = list[tuple[str, str, float]]
Pairs = dict[tuple[int, int], float]


def table(organism: str, rows: Rows) -> OrthologTable:
    """Return a table from (gene, human gene, confidence), its types read off the pairs."""
    frame = pd.DataFrame(rows, columns=["gene", "human_gene", "confidence"]).assign(type="", support="x")
    frame["confidence"] = frame["confidence"].astype(float)
    return clean_pairs(get_organism(organism), frame, ORIGIN, pd.Index(frame["human_gene"].unique()), None)


def folded(*tables: OrthologTable) -> dict[str, set[str]]:
    groups = fold_groups(tables)
    return {
        str(name): {f"{o}:{g}" for o, g in zip(f.organism, f.gene, strict=True)} for name, f in groups.groupby("group")
    }


def test_a_duplicated_human_gene_is_one_group_and_old_paralogs_are_two() -> None:
    mouse = table("mouse", [("m1", "h1", 1), ("m2", "h2", 1), ("m3", "h3", 1), ("m3", "h4", 1)])
    fly = table("fly", [("f1", "h1", 0.4), ("f1", "h2", 0.6)])
    assert folded(mouse, fly) == {
        "OG_h1": {"human:h1", "mouse:m1"},
        "OG_h2": {"human:h2", "mouse:m2", "fly:f1"},  # the mouse keeps 1 and 2 apart; the fly's goes to the better one
        "OG_h3": {"human:h3", "human:h4", "mouse:m3"},  # nobody does for 3 and 4
    }
    assert folded(fly) == {"OG_h1": {"human:h1", "human:h2", "fly:f1"}}


def test_many_to_many_pairs_join_nothing() -> None:
    both = [("z1", "h1", 0.2), ("z1", "h2", 0.9), ("z2", "h1", 0.7), ("z2", "h2", 0.7)]
    assert folded(table("zebrafish", both)) == {
        "OG_h1": {"human:h1", "zebrafish:z2"},  # equal confidence: the smaller id
        "OG_h2": {"human:h2", "zebrafish:z1"},
    }


def test_a_chain_longer_than_the_cap_falls_apart() -> None:
    def chain(n: int) -> OrthologTable:
        return table("cow", [("c", f"h{i:02d}", 1 - i / 100) for i in range(n)])

    assert len(folded(chain(MAX_HUMAN))) == 1
    assert len(folded(chain(MAX_HUMAN + 1))) == MAX_HUMAN + 1
    assert "cow:c" in folded(chain(MAX_HUMAN + 1))["OG_h00"]


pairs = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 9)), st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=14
)


@given(pairs, pairs)
def test_against_networkx_and_brute_force(
    mouse: dict[tuple[int, int], float], fly: dict[tuple[int, int], float]
) -> None:
    given_pairs = {"mouse": mouse, "fly": fly}
    tables = [table(o, [(f"g{a}", f"h{b}", c) for (a, b), c in p.items()]) for o, p in given_pairs.items()]
    groups = fold_groups(tables)
    # Brute force: degrees by counting, families by networkx, partners by max.
    degree = {(o, side, i): sum(1 for pair in p if pair[side] == i) for o, p in given_pairs.items() for side in (0, 1)
              for i in range(10)}  # fmt: skip
    alone = {b for o, p in given_pairs.items() for a, b in p if degree[o, 0, a] == 1 and degree[o, 1, b] == 1}
    graph = nx.Graph()
    graph.add_nodes_from(b for p in given_pairs.values() for _, b in p)
    for o, p in given_pairs.items():
        for a, b in p:
            if (degree[o, 0, a] > 1) != (degree[o, 1, b] > 1) and b not in alone:
                graph.add_edge((o, a), b)
    family = {b: min(x for x in part if isinstance(x, int)) for part in nx.connected_components(graph) for b in part}
    meant = {("human", f"h{b}", f"OG_h{family[b]}") for b in graph if isinstance(b, int)}
    for o, p in given_pairs.items():
        for a in {pair[0] for pair in p}:

            def rank(b: int, o: str = o, a: int = a, p: dict = p) -> tuple:
                return (-p[a, b], (degree[o, 0, a] > 1) + (degree[o, 1, b] > 1), b)

            best = min((b for x, b in p if x == a), key=rank)
            meant.add((o, f"g{a}", f"OG_h{family[best]}"))
    assert set(zip(groups["organism"], groups["gene"], groups["group"], strict=True)) == meant
    assert not groups.duplicated(["organism", "gene"]).any()


@settings(max_examples=25)
@given(pairs, st.randoms(use_true_random=False))
def test_order_changes_nothing(given_pairs: Pairs, random) -> None:
    rows: Rows = [(f"g{a}", f"h{b}", c) for (a, b), c in given_pairs.items()]
    other = [("f", "h3", 1.0)]
    first = fold_groups([table("mouse", rows), table("fly", other)])
    random.shuffle(rows)
    pd.testing.assert_frame_equal(fold_groups([table("fly", other), table("mouse", rows)]), first)


def test_nothing_folds_to_nothing() -> None:
    assert fold_groups([]).columns.tolist() == ["group", "organism", "gene"]
    assert len(ortholog_groups(["human"])) == 0


@pytest.mark.index
def test_real_groups(real: Path) -> None:
    groups = ortholog_groups(["mouse", "rhesus"])
    assert not groups.duplicated(["organism", "gene"]).any()
    assert set(groups["organism"]) == {"human", "mouse", "rhesus"}
    by_gene = groups.set_index("gene")["group"]
    assert by_gene["ENSG00000141510"] == by_gene["ENSMUSG00000059552"] == "OG_ENSG00000141510"  # TP53, Trp53
    assert by_gene["ENSG00000073282"] == "OG_ENSG00000073282"  # TP63 is a group of its own
    assert by_gene["ENSMUSG00000035804"] == by_gene["ENSMUSG00000000215"] == by_gene["ENSG00000254647"]  # Ins1, Ins2
    human = groups[groups["organism"] == "human"]
    assert human.groupby("group").size().max() <= MAX_HUMAN
    named = human.groupby("group")["gene"].min()
    assert (named.index == "OG_" + named).all()
    assert set(groups["group"]) == set(named.index)
    with pytest.raises(ReferenceMissingError, match="fetch orthologs sheep"):
        ortholog_groups(["mouse", "sheep"])


@pytest.mark.index
def test_the_key_follows_the_references(tmp_path: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (real / "cache").mkdir(exist_ok=True)  # made by the first test that reads something
    (home / "cache").symlink_to(real / "cache", target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    before = orthologs_key(["human", "mouse", "cow"])
    assert orthologs_key(["cow", "mouse"]) == before
    assert orthologs_key(["mouse"]) != before
    rows = pd.DataFrame({"gene": ["ENSBTAG00000001069"], "human_gene": ["ENSG00000141510"], "confidence": [np.nan]})
    save_table("orthologs", "cow", rows, {"source": "x", "release": "1"})
    assert orthologs_key(["mouse", "cow"]) != before
    assert set(ortholog_groups()["organism"]) >= {"human", "mouse", "cow"}
