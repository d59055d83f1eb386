"""Neighbours are those that scanpy and scikit-learn would find, the same bytes every time, and only real ones."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from atlas import AtlasInputError
from atlas.neighbour_search import nearest
from atlas.neighbour_space import LOG_STEP, place_cells, principal_axes, variable_genes
from atlas.neighbours import ZERO_DISTANCE, NeighbourOptions, find_neighbours, nearest_first, restrict_neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OPTIONS = NeighbourOptions(n_genes=300, n_components=20)


def kinds(n: int = 400, n_genes: int = 900, n_kinds: int = 4, seed: int = 0) -> sp.csr_matrix:
    """Return cells of several unlike kinds, cell i of kind i modulo their number, at unlike depths."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.3, 2.0, (n_kinds, n_genes))
    return sp.csr_matrix(rng.poisson(rates[np.arange(n) % n_kinds] * rng.gamma(4, 0.25, (n, 1))).astype(np.float32))


def in_blocks(counts: sp.csr_matrix, size: int = 128) -> Callable[[], Iterator[tuple[int, sp.csr_matrix]]]:
    return lambda: ((s, counts[s : s + size]) for s in range(0, counts.shape[0], size))


def graph_of(counts, eligible=None, options: NeighbourOptions = OPTIONS, size: int = 128) -> sp.csr_matrix:
    everyone = np.ones(counts.shape[0], dtype=bool)
    return find_neighbours(in_blocks(counts, size), everyone if eligible is None else eligible, options)


def same(one: sp.csr_matrix, other: sp.csr_matrix) -> bool:
    """Say whether two graphs are the same bytes."""
    parts = ("data", "indices", "indptr")
    return one.shape == other.shape and all(getattr(one, p).tobytes() == getattr(other, p).tobytes() for p in parts)


def scanpy_cells(counts: sp.csr_matrix, n_genes: int):
    """Return an AnnData normalised and cut to its variable genes by scanpy."""
    import anndata as ad
    import scanpy as sc

    cells = ad.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.pp.filter_genes(cells, min_cells=3)
    if cells.n_vars > n_genes:
        sc.pp.highly_variable_genes(cells, flavor="cell_ranger", n_top_genes=n_genes)
        cells = cells[:, cells.var["highly_variable"]].copy()
    return cells


def test_the_variable_genes_are_those_of_scanpy() -> None:
    import anndata as ad
    import scanpy as sc

    counts = kinds(n_genes=1500)
    cells = scanpy_cells(counts, n_genes=10**6)
    logs = np.rint(cells.X.toarray() / LOG_STEP)
    moments = ((logs > 0).sum(axis=0), logs.sum(axis=0).astype(np.int64), (logs**2).sum(axis=0).astype(np.int64))
    rounded = ad.AnnData(logs * LOG_STEP)
    for n_genes in (50, 400, 1000):
        sc.pp.highly_variable_genes(rounded, flavor="cell_ranger", n_top_genes=n_genes)
        chosen = variable_genes(*moments, counts.shape[0], n_genes)
        assert sorted(chosen) == np.flatnonzero(rounded.var["highly_variable"]).tolist()
        score = rounded.var["dispersions_norm"].to_numpy()[chosen]
        assert np.all(np.diff(score) <= 1e-6 * np.abs(score[:-1]))


def test_neighbours_and_distances_are_those_of_scanpy_and_scikit_learn() -> None:
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    counts = kinds()
    components = PCA(OPTIONS.n_components, svd_solver="full").fit_transform(scanpy_cells(counts, 300).X.toarray())
    distances, columns = NearestNeighbors(n_neighbors=15, algorithm="brute").fit(components).kneighbors()
    found, values = nearest_first(graph_of(counts), 15)
    np.testing.assert_allclose(values, distances / np.median(distances[:, -1]), rtol=1e-3)
    same_places = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found, columns, strict=True)])
    assert same_places > 0.999  # pairs closer together than a thousandth of their distance may change places


def test_a_row_holds_k_other_cells_in_order_and_distances_are_relative_to_the_last() -> None:
    graph = graph_of(kinds())
    assert graph.dtype == np.float32
    assert graph.has_canonical_format
    assert np.all(np.diff(graph.indptr) == 15)
    assert not graph.diagonal().any()
    assert np.all(graph.data > 0)
    assert np.median(graph.max(axis=1).toarray()) == 1
    checked = sp.csr_matrix((graph.data, graph.indices, graph.indptr), shape=graph.shape)
    assert checked.has_canonical_format  # looked up, not believed: columns ascend and none is there twice
    of_kind = np.arange(400) % 4
    assert np.mean(of_kind[graph.indices] == np.repeat(of_kind, 15)) > 0.95


def test_cells_that_take_no_part_change_nothing() -> None:
    counts, some = kinds(), np.arange(400) % 3 != 1
    graph = graph_of(counts, some)
    assert not np.diff(graph.indptr)[~some].any()
    assert some[graph.indices].all()
    assert same(restrict_neighbours(graph, some), graph_of(counts[some]))


def test_cells_without_counts_take_no_part() -> None:
    counts = kinds().tolil()
    counts[[0, 7]] = 0
    counts = counts.tocsr()
    depth = np.asarray(counts.sum(axis=1)).ravel()
    assert same(graph_of(counts), graph_of(counts, depth > 0))
    assert not np.isin(graph_of(counts).indices, [0, 7]).any()


@pytest.mark.parametrize("size", [1, 7, 399, 10**6])
def test_the_size_of_blocks_changes_no_bit(size: int) -> None:
    assert same(graph_of(kinds(), size=size), graph_of(kinds()))


def test_the_number_of_threads_changes_no_bit() -> None:
    few = np.random.default_rng(0).integers(0, 9, (500, 300))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append((principal_axes(few.sum(axis=0), few.T @ few, 500, 50), graph_of(kinds())))
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert same(found[0][1], found[1][1])


def test_the_axes_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    few = np.random.default_rng(0).integers(0, 9, (60, 25)) * np.arange(1, 26)
    axes = principal_axes(few.sum(axis=0), few.T @ few, 60, 10)
    theirs = PCA(10, svd_solver="full").fit(few).components_.T
    np.testing.assert_allclose(np.abs(np.einsum("ij,ij->j", axes, theirs)), 1, rtol=1e-9)
    assert principal_axes(few[:4].sum(axis=0), few[:4].T @ few[:4], 4, 10).shape == (25, 3)


def test_coordinates_are_whole_numbers_so_that_squares_are_exact() -> None:
    space = place_cells(in_blocks(kinds()), np.ones(400, dtype=bool), 300, 20)
    assert space.coordinates.dtype == np.float32
    assert np.array_equal(space.coordinates, np.rint(space.coordinates))
    assert 100 < np.abs(space.coordinates).max() < 2**24


def test_the_order_of_genes_and_genes_nobody_has_change_no_bit() -> None:
    counts = kinds()
    order = np.random.default_rng(1).permutation(counts.shape[1])
    assert same(graph_of(counts[:, order]), graph_of(counts))
    wider = sp.hstack([sp.csr_matrix((400, 50), dtype=np.float32), counts]).tocsr()
    assert same(graph_of(wider), graph_of(counts))


def test_permuting_the_cells_permutes_the_graph() -> None:
    counts, graph = kinds(), graph_of(kinds())
    order = np.random.default_rng(2).permutation(400)
    permuted = graph_of(counts[order])
    assert np.diff(nearest_first(graph, 15)[1], axis=1).all(), "no two neighbours at one distance: nothing is open"
    assert same(permuted, restrict_neighbours(graph, order))


def test_copies_are_neighbours_at_a_distance_that_sparse_storage_keeps() -> None:
    counts = kinds(100)
    twice = sp.vstack([counts, counts]).tocsr()
    columns, distances = nearest_first(graph_of(twice), 15)
    assert np.array_equal(columns[:, 0], (np.arange(200) + 100) % 200)
    assert np.all(distances[:, 0] == ZERO_DISTANCE)
    assert np.all(distances[:, 1] > ZERO_DISTANCE)


def test_where_most_cells_are_copies_the_first_are_the_neighbours_and_the_rest_set_the_scale() -> None:
    counts = kinds(60)
    counts = sp.vstack([counts[[0] * 80], counts[1:]]).tocsr()
    columns, distances = nearest_first(graph_of(counts), 15)
    assert columns[30].tolist() == list(range(15))
    assert columns[3].tolist() == [0, 1, 2, *range(4, 16)]
    assert np.all(distances[:80] == ZERO_DISTANCE)
    assert np.median(distances[80:]) == pytest.approx(1, rel=0.2)


def test_few_cells_have_all_others_as_neighbours_and_fewer_than_three_none() -> None:
    counts = kinds()
    for n in (3, 4, 15, 16, 17):
        some = np.arange(400) < n
        assert np.array_equal(np.diff(graph_of(counts, some).indptr), np.where(some, min(15, n - 1), 0)), n
    for n in (0, 1, 2):
        assert graph_of(counts, np.arange(400) < n).nnz == 0
    nobody = find_neighbours(lambda: iter(()), np.zeros(0, dtype=bool))
    assert nobody.shape == (0, 0)


def test_where_no_gene_varies_nobody_has_neighbours() -> None:
    alike = sp.csr_matrix(np.ones((30, 12), dtype=np.float32))
    assert graph_of(alike).nnz == 0
    one_each = sp.csr_matrix(np.eye(30, dtype=np.float32))  # no gene in three cells
    assert graph_of(one_each).nnz == 0


def test_a_panel_of_few_genes_is_compared_on_all_of_them() -> None:
    counts = kinds(200, n_genes=12)
    counts = counts[np.asarray(counts.sum(axis=1)).ravel() > 0]
    logs = scanpy_cells(counts, 300).X.toarray()
    apart = np.linalg.norm(logs[:, None] - logs, axis=2)
    np.fill_diagonal(apart, np.inf)
    closest = np.sort(apart, axis=1)[:, :15]
    distances = nearest_first(graph_of(counts), 15)[1]
    np.testing.assert_allclose(distances, closest / np.median(closest[:, -1]), atol=2e-3)


def test_blocks_are_passed_over_and_not_kept() -> None:
    counts, alive, most = kinds(600), weakref.WeakSet(), 0

    def blocks() -> Iterator[tuple[int, sp.csr_matrix]]:
        nonlocal most
        for first in range(0, 600, 50):
            block = counts[first : first + 50]
            alive.add(Held(block))
            most = max(most, len(alive))
            yield first, block

    class Held:
        def __init__(self, block: sp.csr_matrix) -> None:
            block.held = self

    assert find_neighbours(blocks, np.ones(600, dtype=bool), OPTIONS).nnz == 600 * 15
    assert most <= 3


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_what_comparing_and_sorting_all_pairs_finds_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, (150, 3)).astype(np.float32)  # 64 places: most distances are tied
    squares = ((points[:, None].astype(int) - points.astype(int)) ** 2).sum(axis=2)
    np.fill_diagonal(squares, 10**6)
    expected = np.argsort(squares, axis=1, kind="stable")
    for k in (1, 6, 148, 149, 500):
        found, apart = nearest(points, k, exact_up_to=150, seed=0)
        assert np.array_equal(found, expected[:, : min(k, 149)])
        assert np.array_equal(apart, np.take_along_axis(squares, found, axis=1))


@pytest.mark.slow
def test_the_search_of_large_datasets_misses_little_and_gives_the_same_whatever_the_threads() -> None:
    import numba

    counts = kinds(2000, n_kinds=6)
    quick = NeighbourOptions(n_genes=300, n_components=20, exact_up_to=500, seed=3)
    graph, exact = graph_of(counts, options=quick), graph_of(counts)
    assert np.all(np.diff(graph.indptr) == 15)
    found, expected = nearest_first(graph, 15)[0], nearest_first(exact, 15)[0]
    assert np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found, expected, strict=True)]) > 0.97
    threads = numba.get_num_threads()
    for n in {1, threads}:
        numba.set_num_threads(n)
        assert same(graph_of(counts, options=quick), graph)
    assert numba.get_num_threads() == threads
    copies = sp.vstack([counts[[0] * 300], counts[:300]]).tocsr()  # the descent alone would leave some without
    assert np.all(np.diff(graph_of(copies, options=quick).indptr) == 15)


def test_bad_input_is_named() -> None:
    counts, everyone = kinds(50), np.ones(50, dtype=bool)
    for name in ("k", "n_genes", "n_components", "exact_up_to"):
        with pytest.raises(AtlasInputError, match=f"{name}=0 is not allowed"):
            NeighbourOptions(**{name: 0})
    with pytest.raises(AtlasInputError, match="seed=-1"):
        NeighbourOptions(seed=-1)
    with pytest.raises(AtlasInputError, match="one bool per cell"):
        find_neighbours(in_blocks(counts), np.arange(50))
    with pytest.raises(AtlasInputError, match=r"'50 rows'.* expected 51 rows"):
        find_neighbours(in_blocks(counts), np.ones(51, dtype=bool))
    with pytest.raises(AtlasInputError, match="49 rows in order"):
        find_neighbours(in_blocks(counts), np.ones(49, dtype=bool))
    with pytest.raises(AtlasInputError, match="rows 25 to 50 x 9 genes"):
        find_neighbours(lambda: iter([(0, counts[:25]), (25, counts[25:, :9])]), everyone)
    once = iter([(0, counts)])
    with pytest.raises(AtlasInputError, match="in every pass"):
        find_neighbours(lambda: once, everyone)


def test_a_cut_graph_keeps_the_distances_between_kept_cells_and_invents_none() -> None:
    graph = graph_of(kinds(120))
    dense = graph.toarray()
    keep = np.random.default_rng(0).random(120) < 0.4
    assert np.array_equal(restrict_neighbours(graph, keep).toarray(), dense[np.ix_(keep, keep)])
    order = np.random.default_rng(1).permutation(120)[:50]
    cut = restrict_neighbours(graph, order)
    assert np.array_equal(cut.toarray(), dense[np.ix_(order, order)])
    assert cut.dtype == np.float32
    assert cut.has_sorted_indices
    assert restrict_neighbours(graph, np.zeros(0, dtype=np.int64)).shape == (0, 0)


def test_a_cut_refuses_cells_that_are_not_there() -> None:
    graph = graph_of(kinds(30))
    for keep, why in ((np.array([0, 30]), "0 to 29"), (np.array([-1]), "0 to 29"), (np.ones(29, bool), "one bool")):
        with pytest.raises(AtlasInputError, match=why):
            restrict_neighbours(graph, keep)
    with pytest.raises(AtlasInputError, match="at most once"):
        restrict_neighbours(graph, np.array([3, 4, 3]))


def test_nearest_first_is_sorting_every_row() -> None:
    graph = graph_of(kinds(60), np.arange(60) % 5 != 0)
    columns, distances = nearest_first(graph, 6)
    for i in range(60):
        row = graph[i]
        order = np.argsort(row.data, kind="stable")[:6]
        n = len(order)
        assert columns[i].tolist() == [*row.indices[order].tolist(), *[-1] * (6 - n)]
        assert distances[i].tolist() == [*row.data[order].tolist(), *[np.inf] * (6 - n)]
    assert np.all(nearest_first(graph, 20)[0][:, 15:] == -1)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "label", "least"),
    [
        ("human_pancreas_baron_cxg7", "cell_type_ontology_term_id", 0.95),
        ("human_pbmc3k_labelled", "cell_type", 0.90),
        ("mouse_cortex_osmfish", "CellType", 0.40),
    ],
)
def test_neighbours_of_real_cells_are_of_their_type_as_often_as_in_scanpy(
    shared: Path, name: str, label: str, least: float
) -> None:
    import anndata as ad
    import scanpy as sc

    cells = ad.read_h5ad(shared / f"data/{name}.h5ad")
    counts = sp.csr_matrix(cells.X, dtype=np.float32)
    held = np.asarray(counts.sum(axis=1)).ravel() > 0
    counts, kind = counts[held], cells.obs[label].astype(str).to_numpy()[held]

    theirs = ad.AnnData(counts)
    sc.pp.filter_genes(theirs, min_cells=3)
    sc.pp.normalize_total(theirs)
    sc.pp.log1p(theirs)
    if theirs.n_vars > 2000:
        sc.pp.highly_variable_genes(theirs, n_top_genes=2000)
    sc.pp.pca(theirs, n_comps=min(50, theirs.n_vars - 1))
    sc.pp.neighbors(theirs, n_neighbors=16)  # scanpy counts the cell itself

    def share(graph: sp.csr_matrix) -> float:
        return float(np.mean(kind[graph.indices] == np.repeat(kind, np.diff(graph.indptr))))

    ours, scanpys = share(graph_of(counts, options=NeighbourOptions())), share(theirs.obsp["distances"].tocsr())
    chance = float(np.sum((np.unique(kind, return_counts=True)[1] / len(kind)) ** 2))
    assert ours > max(least, 3 * chance)
    assert ours > scanpys - 0.01, (ours, scanpys, chance)
