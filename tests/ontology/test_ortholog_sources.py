"""Where pairs come from: the order of the sources, symbols that agree, and tables that are not what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from ontology import (
    OntologyInputError,
    ReferenceMismatchError,
    ReferenceMissingError,
    get_organism,
    load_gene_table,
    make_gene_table,
)
from ontology.ortholog_sources import find_origin, project_symbols, read_pairs
from ontology.snapshots import save_table

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {"source": "by hand", "release": "7", "licence": "CC0"}


def test_the_order_is_snapshot_wheel_nothing(own_home: Path) -> None:
    mouse = get_organism("mouse")
    pinned = find_origin(mouse)
    assert (pinned.kind, pinned.licence) == ("wheel", "MIT")
    save_table("orthologs", "mouse", pd.DataFrame({"gene": ["a"], "human_gene": ["b"]}), ABOUT)
    mine = find_origin(mouse)
    assert (mine.kind, mine.source, mine.release, mine.licence) == ("snapshot", "by hand", "7", "CC0")
    assert find_origin(mouse, second=True).kind == "wheel"
    with pytest.raises(ReferenceMissingError, match="run panatlas references fetch orthologs sheep"):
        find_origin(get_organism("sheep"))
    with pytest.raises(ReferenceMissingError, match="no second ortholog table is pinned for pig"):
        find_origin(get_organism("pig"), second=True)
    with pytest.raises(OntologyInputError, match="against human"):
        find_origin(get_organism("human"))


def test_a_sparse_snapshot_gets_the_missing_columns(own_home: Path) -> None:
    rows = pd.DataFrame({"human_gene": ["b", None], "gene": [" a ", "c"], "confidence": ["0.5", "high"]})
    save_table("orthologs", "cow", rows, ABOUT)
    cow = get_organism("cow")
    pairs = read_pairs(cow, find_origin(cow))
    assert pairs.columns.tolist() == ["gene", "human_gene", "type", "confidence", "support"]
    assert pairs.fillna(-1).to_numpy().tolist() == [["a", "b", "", 0.5, ""], ["c", "", "", -1, ""]]


def test_a_snapshot_without_genes_is_refused(own_home: Path) -> None:
    save_table("orthologs", "cow", pd.DataFrame({"gene": ["a"], "human": ["b"]}), ABOUT)
    cow = get_organism("cow")
    with pytest.raises(ReferenceMismatchError, match="columns human_gene"):
        read_pairs(cow, find_origin(cow))


def test_symbols_pair_only_lonely_coding_genes() -> None:
    human = pd.DataFrame(
        [
            ("h1", "TP53", "protein_coding"),
            ("h2", "TWIN", "protein_coding"),  # twice in human
            ("h3", "TWIN", "protein_coding"),
            ("h4", "XIST", "lncRNA"),
            ("h5", "C1orf1", "protein_coding"),
            ("h6", "SNORA1", "protein_coding"),  # twice in pig, once in either case
            ("h7", "MIXED", "protein_coding"),
            ("h8", "MIXED", "processed_pseudogene"),  # a pseudogene does not make its parent ambiguous
            ("h9", "", "protein_coding"),
        ],
        columns=["id", "symbol", "biotype"],
    )
    pig = pd.DataFrame(
        [
            ("p1", "Tp53", "protein_coding"),
            ("p2", "TWIN", "protein_coding"),
            ("p4", "XIST", "lncRNA"),
            ("p5", "C1ORF1", "protein_coding"),
            ("p6", "SNORA1", "protein_coding"),
            ("p7", "snora1", "protein_coding"),
            ("p8", "MIXED", "protein_coding"),
            ("h9", "", "protein_coding"),  # a nameless gene goes by its id, which is no symbol
        ],
        columns=["id", "symbol", "biotype"],
    )
    tables = [make_gene_table(get_organism(n), f, "x") for n, f in (("pig", pig), ("human", human))]
    pairs = project_symbols(*tables)
    assert sorted(zip(pairs["gene"], pairs["human_gene"], strict=True)) == [("p1", "h1"), ("p5", "h5"), ("p8", "h7")]
    assert set(pairs["support"]) == {"symbol"}
    assert pairs["confidence"].isna().all()


@pytest.mark.index
@pytest.mark.parametrize(
    ("name", "pairs"),
    [("rhesus", 16_670), ("pig", 15_701), ("chimpanzee", 17_124), ("rabbit", 13_079), ("marmoset", 16_243)],
)
def test_projected_symbols_of_real_tables(name: str, pairs: int, real: Path) -> None:
    origin = find_origin(get_organism(name))
    assert origin.kind == "symbols"
    assert origin.source.startswith("projected symbols")
    made = read_pairs(get_organism(name), origin)
    seen: dict[str, list[list[str]]] = {}
    for side, table in enumerate((load_gene_table(name), load_gene_table("human"))):
        for gene, symbol, biotype in zip(table.ids, table.symbols, table.biotypes, strict=True):
            if biotype == "protein_coding":
                seen.setdefault(str(symbol).upper(), [[], []])[side].append(str(gene))
    oracle = sorted((g[0], h[0]) for g, h in seen.values() if len(g) == len(h) == 1)
    assert sorted(zip(made["gene"], made["human_gene"], strict=True)) == oracle
    assert len(made) == pairs
