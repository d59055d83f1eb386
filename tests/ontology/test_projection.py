"""Projection: every policy against a dictionary that does it gene by gene, conservation, and real human and mouse."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology import OntologyInputError, ReferenceMissingError, get_organism, load_gene_table
from ontology.orthologs import pair_types
from ontology.projection import (
    OUTCOMES,
    POLICIES,
    Projector,
    _compose,
    make_projector,
    ortholog_links,
    project,
    projection_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

N = 6
SOURCE = np.array([f"s{i}" for i in range(N)])
TARGET = np.array([f"t{i}" for i in range(N)])
WHOLE = [policy for policy in POLICIES if policy != "split"]
Pairs = dict[tuple[int, int], float]


def projector(pairs: Pairs, policy: str) -> Projector:
    links = pd.DataFrame([(f"s{a}", f"t{b}", c) for (a, b), c in sorted(pairs.items())],
                         columns=["gene", "target", "confidence"])  # fmt: skip
    links["type"] = pair_types(links["gene"], links["target"])
    weights, outcome = projection_weights(links, pd.Index(SOURCE), pd.Index(TARGET), policy)
    source, target = get_organism("human"), get_organism("mouse")
    return Projector(source, target, policy, weights, SOURCE, TARGET, outcome, "by hand")


def by_dictionary(cell: list[int], pairs: Pairs, policy: str) -> dict[int, Fraction]:
    """Project one cell one gene at a time."""
    targets, sources = defaultdict(list), defaultdict(list)
    for a, b in sorted(pairs):
        targets[a].append(b)
        sources[b].append(a)
    out: dict[int, Fraction] = defaultdict(Fraction)
    for a, n in enumerate(cell):
        mine = targets[a]
        if not mine or not n:
            continue
        if policy == "split":
            for b in mine:
                out[b] += Fraction(n, len(mine))
        elif policy == "best":
            # The highest confidence; then the closer type, which is the target that nobody shares; then the first.
            out[min(mine, key=lambda b: (-pairs[a, b], len(sources[b]) > 1, b))] += n
        elif len(mine) == 1 and (policy == "sum" or len(sources[mine[0]]) == 1):
            out[mine[0]] += n
    return {b: n for b, n in out.items() if n}


pairs_of = st.dictionaries(
    st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), st.sampled_from([0.0, 0.5, 1.0]), max_size=12
)
cells_of = st.lists(st.lists(st.integers(0, 9), min_size=N, max_size=N), min_size=1, max_size=4)


@pytest.mark.parametrize("policy", POLICIES)
@given(pairs=pairs_of, cells=cells_of)
def test_against_a_dictionary(policy: str, pairs: Pairs, cells: list[list[int]]) -> None:
    made = projector(pairs, policy).apply(sp.csr_matrix(np.array(cells, dtype=np.int32)))
    for row, cell in zip(made.counts.toarray(), cells, strict=True):
        meant = np.zeros(N)
        for b, n in by_dictionary(cell, pairs, policy).items():
            meant[b] = float(n)
        np.testing.assert_allclose(row, meant, rtol=1e-12, atol=0)
    assert made.counts.dtype == (np.float64 if policy == "split" else np.int32)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)  # the first example pays for imports
@given(pairs=pairs_of, cells=cells_of)
def test_every_count_is_carried_or_accounted_for(policy: str, pairs: Pairs, cells: list[list[int]]) -> None:
    counts = np.array(cells)
    way = projector(pairs, policy)
    made = way.apply(counts)
    carried = counts[:, way.outcome == "carried"].sum(axis=1)
    sums = np.asarray(made.counts.sum(axis=1)).ravel()
    if policy == "split":
        np.testing.assert_allclose(sums, carried, rtol=1e-12)
    else:
        assert sums.tolist() == carried.tolist()
    report = made.report
    assert tuple(report.by_outcome) == OUTCOMES
    assert sum(report.by_outcome.values()) == report.total == counts.sum()
    assert report.carried == carried.sum()
    assert report.genes["counts"].sum() == report.total
    assert report.lost["counts"].sum() == report.total - report.carried
    if policy in ("best", "split"):
        assert set(report.lost["outcome"]) <= {"no ortholog"}


@given(pairs=pairs_of, cells=cells_of)
def test_blocks_give_what_the_whole_gives(pairs: Pairs, cells: list[list[int]]) -> None:
    way, counts = projector(pairs, "best"), sp.csr_matrix(np.array(cells))
    parts = [way.apply(counts[i]).counts for i in range(counts.shape[0])]
    assert (sp.vstack(parts) != way.apply(counts).counts).nnz == 0


def test_one2one_permutes() -> None:
    way = projector({(0, 3): 1, (1, 2): 1}, "one2one")
    made = way.apply(np.array([[5, 7, 9, 0, 0, 0]]))
    assert made.counts.toarray().tolist() == [[0, 0, 7, 5, 0, 0]]
    assert way.outcome.tolist() == ["carried", "carried", *["no ortholog"] * 4]


def test_reasons_of_loss() -> None:
    pairs: Pairs = {(0, 0): 1, (1, 1): 1, (1, 2): 1, (2, 3): 1, (3, 3): 1}
    assert projector(pairs, "one2one").outcome.tolist() == [
        "carried", "several orthologs", "shared ortholog", "shared ortholog", "no ortholog", "no ortholog",
    ]  # fmt: skip
    made = projector(pairs, "one2one").apply(np.array([[1, 2, 4, 8, 16, 0]]))
    assert made.report.lost.to_numpy().tolist() == [
        ["s4", "no ortholog", 16], ["s3", "shared ortholog", 8], ["s2", "shared ortholog", 4],
        ["s1", "several orthologs", 2],
    ]  # fmt: skip
    assert projector(pairs, "sum").apply(np.array([[1, 2, 4, 8, 16, 0]])).counts.toarray()[0, 3] == 12


def test_a_lone_pair_of_another_type_is_not_called_shared() -> None:
    links = pd.DataFrame({"gene": ["s0", "s1"], "target": ["t0", "t1"], "type": ["one2many", "one2one"]})
    _, outcome = projection_weights(links.assign(confidence=1.0), pd.Index(SOURCE), pd.Index(TARGET), "one2one")
    assert outcome.tolist() == ["not one2one by its source", "carried", *["no ortholog"] * 4]
    weights, outcome = projection_weights(links.assign(confidence=1.0), pd.Index(SOURCE), pd.Index(TARGET), "sum")
    assert outcome.tolist()[:2] == ["carried", "carried"]
    assert weights.sum() == 2


@pytest.mark.parametrize("policy", WHOLE)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64])
def test_the_dtype_stays_unless_a_sum_does_not_fit(policy: str, dtype: type) -> None:
    shared: Pairs = {(0, 0): 1, (1, 0): 1}
    small = projector(shared, policy).apply(np.array([[100, 100, 0, 0, 0, 0]], dtype=dtype)).counts
    assert small.dtype == dtype
    large = projector(shared, "sum").apply(np.array([[200, 200, 0, 0, 0, 0]], dtype=dtype)).counts
    assert large.toarray()[0, 0] == 400
    assert large.dtype == (np.int64 if dtype is np.uint8 else dtype)


def test_float32_sums_are_exact() -> None:
    much = np.zeros((1, N), np.float32)
    much[0, :2] = 2**24, 1
    assert projector({(0, 0): 1, (1, 0): 1}, "sum").apply(much).counts.sum() == 2**24 + 1


@pytest.mark.parametrize("bad", [np.ones((2, N + 1)), np.full((1, N), "x"), np.ones((1, N), complex)])
def test_a_block_of_another_shape_or_kind_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(OntologyInputError, match="human's 6 genes"):
        projector({}, "one2one").apply(bad)


def test_composition_goes_through_every_human_gene() -> None:
    first = pd.DataFrame({"gene": ["m1", "m2", "m3"], "human_gene": ["h1", "h2", "h3"], "confidence": [0.5, 1, 1]})
    second = pd.DataFrame(
        {"gene": ["r1", "r2", "r2", "r9"], "human_gene": ["h1", "h2", "h3", "h9"], "confidence": [0.5, 0.5, 1, 1]}
    )
    made = _compose(first, second)
    assert made.to_numpy().tolist() == [
        ["m1", "r1", "one2one", 0.25], ["m2", "r2", "one2many", 0.5], ["m3", "r2", "one2many", 1.0],
    ]  # fmt: skip


def test_bad_calls_say_what_is_wrong() -> None:
    with pytest.raises(OntologyInputError, match="one of one2one, sum, best, split"):
        make_projector("human", "mouse", "mean")
    with pytest.raises(OntologyInputError, match="other than human"):
        make_projector("human", "Homo sapiens")
    with pytest.raises(ReferenceMissingError, match="fetch orthologs sheep"):
        make_projector("human", "sheep")


@pytest.mark.index
def test_there_and_back_over_one2one_is_nothing_lost(real: Path) -> None:
    human, mouse = load_gene_table("human"), load_gene_table("mouse")
    way = make_projector("human", "mouse")
    rng = np.random.default_rng(0)
    cells = sp.random(20, len(human), 0.02, "csr", rng=rng, data_rvs=lambda n: rng.integers(1, 50, n))
    cells = cells.astype(np.int32).multiply(way.outcome == "carried").tocsr()
    there = way.apply(cells)
    assert there.counts.shape == (20, len(mouse))
    assert there.report.carried == there.report.total == cells.sum()
    back = project(there.counts, "mouse", "human")
    assert (back.counts != cells).nnz == 0


@pytest.mark.index
def test_real_genes_land_where_they_should(real: Path) -> None:
    human, mouse, rhesus = (load_gene_table(name) for name in ("human", "mouse", "rhesus"))
    ins = np.isin(mouse.symbols, ["Ins1", "Ins2"]).astype(int)
    assert project(ins, "mouse", "human").counts.sum() == 0
    summed = project(ins, "mouse", "human", "sum").counts
    assert human.symbols[summed.indices].tolist() == ["INS"]
    assert summed.data.tolist() == [2]
    shared = project((human.symbols == "INS").astype(int), "human", "mouse", "split").counts
    assert sorted(mouse.symbols[shared.indices]) == ["Ins1", "Ins2"]
    assert shared.data.tolist() == [0.5, 0.5]
    far = project((mouse.symbols == "Trp53").astype(int), "mouse", "rhesus").counts
    assert rhesus.symbols[far.indices].tolist() == ["TP53"]
    told = ortholog_links(get_organism("mouse"), get_organism("rhesus"))[1]
    assert "projected symbols" in told


@pytest.mark.index
@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "source", "target", "shares"),
    [
        ("human_pancreas_baron_cxg7", "human", "mouse", (0.80, 0.96)),
        ("mouse_pancreas_baron_ens_cxg7", "mouse", "human", (0.73, 0.97)),
    ],
)
def test_real_cells(file: str, source: str, target: str, shares: tuple[float, float], real: Path, shared: Path) -> None:
    anndata = pytest.importorskip("anndata")
    cells = anndata.read_h5ad(shared / "data" / f"{file}.h5ad")
    table = load_gene_table(source)
    at = table.id_index.get_indexer(cells.var_names)
    hit = at >= 0
    shape = (cells.n_vars, len(table))
    place = sp.csr_matrix((np.ones(hit.sum(), np.float32), (np.flatnonzero(hit), at[hit])), shape)
    counts = (sp.csr_matrix(cells.X) @ place).tocsr()
    for policy, least in zip(("one2one", "best"), shares, strict=True):
        way = make_projector(source, target, policy)
        made = way.apply(counts)
        kept = counts[:, way.outcome == "carried"].sum(axis=1, dtype=np.float64)
        assert (made.counts.sum(axis=1, dtype=np.float64) == kept).all()
        assert made.report.carried / made.report.total > least


def test_the_block_that_came_in_stays_as_it_was() -> None:
    """scipy's astype sorts and merges in place; the caller's arrays are not ours."""
    parts = (np.array([3, 1, 2], np.int32), np.array([1, 0, 1]), np.array([0, 3]))  # unsorted, a gene twice
    block = sp.csr_matrix(parts, shape=(1, N), copy=True)
    made = projector({(0, 0): 1, (1, 1): 1}, "one2one").apply(block)
    assert made.counts.toarray().tolist() == [[1, 5, 0, 0, 0, 0]]
    assert made.report.total == 6
    for mine, theirs in zip((block.data, block.indices, block.indptr), parts, strict=True):
        assert mine.tolist() == theirs.tolist()
