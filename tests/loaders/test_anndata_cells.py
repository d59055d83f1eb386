"""An AnnData in memory is cells like those of a store: the same genes, counts, labels, ids and hashes, none dropped."""

from __future__ import annotations

import pickle
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from atlas import IngestOptions, ingest, open_atlas
from loaders import CellRows, LoaderInputError
from loaders.anndata_cells import AnnDataCells
from loaders.cells import NO_CELL, Cells
from loaders.errors import CellsError
from loaders.source_cells import SourceCells
from ontology import LABELS, load_gene_table
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path


def dense(cells: AnnDataCells, numbers: np.ndarray | None = None) -> np.ndarray:
    """Return counts over the gene table."""
    rows: CellRows = cells.read(np.arange(len(cells)) if numbers is None else numbers).decode()
    return sp.csr_matrix((rows.counts, rows.indices, rows.indptr), (len(rows.indptr) - 1, len(cells.genes()))).toarray()


def expected(adata: ad.AnnData, organism: str = "human") -> np.ndarray:
    """Return the counts of an AnnData whose var names are ids, over the gene table, gene by gene."""
    place = {str(one): number for number, one in enumerate(load_gene_table(organism).ids)}
    counts = np.zeros((adata.n_obs, len(place)), np.float32)
    for column, name in enumerate(adata.var_names):
        counts[:, place[name]] += np.asarray(adata.X[:, [column]].todense()).ravel()
    return counts


def words(cells: AnnDataCells, name: str) -> list[str]:
    return [cells.about["vocabulary"][name][code] for code in cells.column(name)]


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return make_adata(40, 120)


@pytest.fixture(scope="module")
def cells(adata: ad.AnnData) -> AnnDataCells:
    return AnnDataCells(adata, "human")


def test_they_are_cells(cells: AnnDataCells) -> None:
    assert isinstance(cells, Cells)
    assert set(cells.columns) >= {
        "split",
        "dataset",
        "donor",
        "depth",
        "nnz",
        "count_hash_high",
        "cell_id_high",
        *LABELS,
    }
    assert all(len(cells.column(name)) == len(cells) == 40 for name in cells.columns)
    assert cells.will_need(np.arange(3)) is None


def test_counts_are_the_anndatas_in_the_order_asked_for(cells: AnnDataCells, adata: ad.AnnData) -> None:
    counts = expected(adata)
    np.testing.assert_array_equal(dense(cells), counts)
    some = np.array([7, 0, 7, 39, 3])
    np.testing.assert_array_equal(dense(cells, some), counts[some])
    np.testing.assert_array_equal(cells.column("depth"), counts.sum(axis=1))
    np.testing.assert_array_equal(cells.codes("nnz", some), (counts > 0).sum(axis=1)[some])
    assert len(cells.read(np.empty(0, np.int64))) == 0


def test_they_equal_what_an_ingest_of_the_same_file_stores(tmp_path: Path, adata: ad.AnnData) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", adata, id="mine"), uri, IngestOptions(doublets=False))
    stored = open_atlas(uri).query("human", every_cell=True).to_anndata()
    named = adata[:, ::-1].copy()
    named.obs["study"] = "mine"
    cells = AnnDataCells(named, "human", {"dataset": "study"})
    np.testing.assert_array_equal(dense(cells), stored.X.toarray())
    assert cells.genes()["feature_id"].tolist() == stored.var["feature_id"].tolist()
    assert cells.genes()["feature_name"].tolist() == stored.var["feature_name"].tolist()
    for name, column in (("cell_id_high", "observation_joinid"), ("count_hash_high", "count_hash")):
        assert [f"{one:016x}" for one in cells.column(name)] == [text[:16] for text in stored.obs[column]]
    for label in LABELS:
        column = "tissue_type" if label == "cell_culture" else f"{label}_ontology_term_id"
        assert words(cells, label) == stored.obs[column].astype(str).tolist()
    assert words(cells, "donor") == [f"mine/{donor}" for donor in stored.obs["donor_id"]]
    np.testing.assert_array_equal(cells.column("depth"), stored.obs["raw_sum"])
    again = AnnDataCells(stored, "human")
    np.testing.assert_array_equal(again.column("cell_id_high"), cells.column("cell_id_high"))
    np.testing.assert_array_equal(again.column("count_hash_high"), cells.column("count_hash_high"))
    assert words(again, "donor") == words(cells, "donor")


def layouts(adata: ad.AnnData) -> dict[str, tuple[ad.AnnData, dict[str, Any]]]:
    """Return the same cells in every form that is accepted, with the arguments that name it."""
    counts, shuffled = adata.X, adata.X.copy()
    for row in range(adata.n_obs):
        span = slice(shuffled.indptr[row], shuffled.indptr[row + 1])
        shuffled.indices[span], shuffled.data[span] = shuffled.indices[span][::-1], shuffled.data[span][::-1]
    shuffled.has_sorted_indices = False
    forms = {"csc": counts.tocsc(), "csr_array": sp.csr_array(counts), "dense": counts.toarray(), "unsorted": shuffled}
    forms |= {kind: counts.astype(kind) for kind in ("float64", "int64", "uint16")}
    made: dict[str, tuple[ad.AnnData, dict[str, Any]]] = {
        name: (ad.AnnData(matrix, adata.obs, adata.var), {}) for name, matrix in forms.items()
    }
    halves = ad.AnnData(counts / 2, adata.obs, adata.var)
    layered, raw = halves.copy(), halves.copy()
    layered.layers["counts"] = counts
    raw.raw = ad.AnnData(counts, adata.obs, adata.var)
    return made | {"layer": (layered, {"layer": "counts"}), "raw": (raw, {"layer": "raw"}), "view": (adata[:], {})}


def test_every_form_of_the_same_counts_gives_the_same_cells(adata: ad.AnnData, cells: AnnDataCells) -> None:
    for name, (form, arguments) in layouts(adata).items():
        made = AnnDataCells(form, "human", **arguments)
        assert made.fingerprint == cells.fingerprint, name


def test_the_anndata_is_left_alone(adata: ad.AnnData) -> None:
    before = adata.copy()
    AnnDataCells(adata, "human", neighbours="computed")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0


def test_symbols_versions_and_duplicates_find_their_gene_and_strangers_are_counted(adata: ad.AnnData) -> None:
    table = load_gene_table("human")
    own = table.primary & (table.symbols != table.ids)
    names = pd.Index(adata.var_names)
    at = table.id_index.get_indexer(names)
    spelt = [table.symbols[i] if own[i] else f"{table.ids[i]}.7" for i in at]
    by_symbol = ad.AnnData(adata.X, adata.obs, pd.DataFrame({"gene_ids": spelt}, index=[f"row{i}" for i in range(120)]))
    np.testing.assert_array_equal(dense(AnnDataCells(by_symbol, "human")), expected(adata))
    strange = ad.AnnData(adata.X, adata.obs, pd.DataFrame(index=[*names[:100], *(f"NOGENE{i}" for i in range(20))]))
    cells = AnnDataCells(strange, "human")
    np.testing.assert_array_equal(dense(cells), expected(strange[:, :100]))
    assert [f.count for f in cells.findings if f.code == "unmapped-genes"] == [20]
    twice = ad.AnnData(
        sp.hstack([adata.X, adata.X[:, :5]], format="csr"),
        adata.obs,
        pd.DataFrame(index=[*names, *(f"{name}.2" for name in names[:5])]),
    )
    summed = expected(adata)
    summed[:, at[:5]] *= 2
    cells = AnnDataCells(twice, "human")
    np.testing.assert_array_equal(dense(cells), summed)
    assert [f.count for f in cells.findings if f.code == "duplicate-genes"] == [5]


def test_measured_are_the_genes_of_the_anndata(cells: AnnDataCells, adata: ad.AnnData) -> None:
    measured = cells.measured(0, 0)
    assert set(cells.genes()["feature_id"][measured]) == set(adata.var_names)
    for place in ((1, 0), (0, 1), (-1, 0)):
        with pytest.raises(LoaderInputError, match="datasets 0 to 0 of organism 0"):
            cells.measured(*place)


def test_no_cell_is_dropped_and_one_without_counts_has_an_empty_record(adata: ad.AnnData) -> None:
    counts = adata.X.toarray()
    counts[[0, 5, 39]] = 0
    cells = AnnDataCells(ad.AnnData(counts, adata.obs, adata.var), "human", neighbours="computed")
    assert len(cells) == 40
    np.testing.assert_array_equal(np.flatnonzero(cells.column("depth") == 0), [0, 5, 39])
    assert cells.read(np.array([5, 1])).nnz.tolist() == [0, int((counts[1] > 0).sum())]
    near, far = cells.neighbours(np.arange(40))
    assert (near[[0, 5, 39]] == NO_CELL).all()
    assert np.isinf(far[[0, 5, 39]]).all()
    assert not np.isin(near, [0, 5, 39]).any()


def test_labels_come_from_the_columns_that_are_named(adata: ad.AnnData) -> None:
    named = adata.copy()
    named.obs["louvain"] = np.where(np.arange(40) % 2, "T cell", "no such thing")
    named.obs["who"] = [f"p{i % 4}" for i in range(40)]
    named.obs["study"] = ["x", "y"] * 20
    named.obs["part"] = ["train"] * 20 + ["test"] * 19 + ["validation"]
    columns = {"cell_type": "louvain", "donor": "who", "dataset": "study", "split": "part"}
    del named.obs["cell_type_ontology_term_id"]
    cells = AnnDataCells(named, "human", columns)
    assert words(cells, "cell_type") == ["unknown", "CL:0000084"] * 20
    assert [f.count for f in cells.findings if f.code == "unmapped-label"] == [20]
    assert words(cells, "dataset") == ["x", "y"] * 20
    assert words(cells, "donor") == [f"{'xy'[i % 2]}/p{i % 4}" for i in range(40)]
    assert cells.column("split").tolist() == [0] * 20 + [2] * 19 + [1]
    assert cells.about["vocabulary"]["organism"] == ["NCBITaxon:9606"]


def test_a_donor_of_two_datasets_is_one_person_as_it_is_in_a_file(adata: ad.AnnData, tmp_path: Path) -> None:
    made = adata.copy()
    made.obs["dataset_id"] = ["one", "two"] * 20
    made.obs["donor_id"] = np.array(["ada", "ben", "unknown", "eve"])[np.arange(40) // 2 % 4]
    made.obs.loc[made.obs["donor_id"] == "eve", "dataset_id"] = "two"
    cells = AnnDataCells(made, "human")
    who, datasets = made.obs["donor_id"].astype(str), made.obs["dataset_id"].astype(str)
    home = who.map({"ada": "one", "ben": "one", "eve": "two"}).where(who != "unknown", datasets)
    assert words(cells, "donor") == (home + "/" + who).tolist()
    made.write_h5ad(tmp_path / "same.h5ad")
    with closing(SourceCells(tmp_path / "same.h5ad", "human", columns={})) as file:
        assert words(file, "donor") == words(cells, "donor")
        assert words(file, "dataset") == words(cells, "dataset")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"age": "donor_id"}, "fields among cell_type"),
        ({"cell_type": "nowhere"}, "columns of obs: cell_type_ontology_term_id"),
        ({"dataset": "nowhere"}, "columns of obs: "),
        ({"split": "donor_id"}, "'donor0' as split.*train, validation, test"),
    ],
)
def test_a_column_that_is_not_there_is_named(columns: dict[str, str], said: str, adata: ad.AnnData) -> None:
    with pytest.raises(LoaderInputError, match=said):
        AnnDataCells(adata, "human", columns)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.log1p, "log1p of integers; pass the raw counts: layer='counts' looks like them"),
        (lambda x: x / x.sum(axis=1, keepdims=True) * 1e4, "sums to 10,000.*layer='counts'"),
        (lambda x: x - x.mean(axis=0), "X cell .*, gene ENSG.*layer='counts'"),
        (lambda x: np.where(x == x.max(), np.nan, x), "nan"),
        (lambda x: np.where(x == x.max(), np.inf, x), "inf"),
        (lambda x: x * 2.0**30, "no gene has that many"),
        (lambda x: x * 0, "only zeros"),
    ],
)
def test_values_that_are_no_counts_are_refused_with_what_to_pass(change: Any, said: str, adata: ad.AnnData) -> None:
    counts = adata.X.toarray().astype(np.float64)
    other = ad.AnnData(change(counts), adata.obs, adata.var, layers={"counts": counts})
    with pytest.raises(CellsError, match=said):
        AnnDataCells(other, "human")
    assert len(AnnDataCells(other, "human", layer="counts")) == 40


def test_without_other_counts_the_remedy_names_no_layer(adata: ad.AnnData) -> None:
    with pytest.raises(CellsError, match="as they were before normalising"):
        AnnDataCells(ad.AnnData(adata.X.log1p(), adata.obs, adata.var), "human")


def test_what_else_cannot_be_loaded_is_said(adata: ad.AnnData, tmp_path: Path) -> None:
    with pytest.raises(CellsError, match="genes are of Homo sapiens"):
        AnnDataCells(adata, "mouse")
    repeated = adata.copy()
    repeated.obs_names = ["same"] * 40
    with pytest.raises(CellsError, match=r"repeats, e\.g\. 'same' 40 times"):
        AnnDataCells(repeated, "human")
    with pytest.raises(LoaderInputError, match="it has no raw"):
        AnnDataCells(adata, "human", layer="raw")
    with pytest.raises(LoaderInputError, match="no layers, or None"):
        AnnDataCells(adata, "human", layer="counts")
    with pytest.raises(LoaderInputError, match="'obsp' or 'computed'"):
        AnnDataCells(adata, "human", neighbours="all")
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(LoaderInputError, match="to_memory"):
        AnnDataCells(backed, "human")
    backed.file.close()


def test_numbers_that_are_no_cells_or_columns_are_refused(cells: AnnDataCells) -> None:
    for numbers in (np.array([0, 40]), np.array([-1])):
        for ask in (cells.read, cells.neighbours, lambda some: cells.codes("depth", some)):
            with pytest.raises(LoaderInputError, match="cell numbers from 0 to 39"):
                ask(numbers)
    with pytest.raises(LoaderInputError, match="one of split"):
        cells.column("age")


def test_without_a_graph_there_are_no_neighbours(cells: AnnDataCells) -> None:
    near, far = cells.neighbours(np.array([3, 4]))
    assert near.shape == far.shape == (2, 0)


def test_stored_distances_are_sorted_scaled_and_kept_within_dataset_and_split(adata: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    named, n = adata.copy(), 40
    named.obs["study"] = ["x"] * 25 + ["y"] * 15
    named.obs["part"] = np.where(np.arange(n) % 3, "train", "test")
    graph = np.where(rng.random((n, n)) < 0.97, rng.gamma(2.0, 1.0, (n, n)), 0.0)
    graph[25:] *= 100
    named.obsp["distances"] = sp.csr_matrix(graph)
    cells = AnnDataCells(named, "human", {"dataset": "study", "split": "part"}, neighbours="obsp")
    near, far = cells.neighbours(np.arange(n))
    assert near.shape == (n, 15)
    for cell in range(n):
        mine = slice(0, 25) if cell < 25 else slice(25, n)
        scale = np.median(graph[mine].max(axis=1))
        others = [
            (graph[cell, other] / scale, other)
            for other in range(n)
            if graph[cell, other]
            and other != cell
            and (other < 25) == (cell < 25)
            and (other % 3 > 0) == (cell % 3 > 0)
        ]
        others = sorted(others)[:15]
        there = near[cell] != NO_CELL
        assert near[cell][there].tolist() == [other for _, other in others]
        np.testing.assert_allclose(far[cell][there], [distance for distance, _ in others], rtol=1e-6)
        assert np.isinf(far[cell][~there]).all()


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_distances_that_are_none_are_refused(value: float, adata: ad.AnnData) -> None:
    named = adata.copy()
    with pytest.raises(LoaderInputError, match=r"with obsp\['distances'\]"):
        AnnDataCells(named, "human", neighbours="obsp")
    graph = sp.random(40, 40, 0.2, "csr", random_state=0)
    graph.data[3] = value
    named.obsp["distances"] = graph
    with pytest.raises(CellsError, match="no distances"):
        AnnDataCells(named, "human", neighbours="obsp")


def test_computed_neighbours_are_those_an_ingest_finds(adata: ad.AnnData) -> None:
    from atlas import neighbours

    named = adata.copy()
    named.obs["study"] = ["x", "y"] * 20
    cells = AnnDataCells(named, "human", {"dataset": "study"}, neighbours="computed")
    near, far = cells.neighbours(np.arange(40))
    counts = sp.csr_matrix(expected(adata))
    for rows in (np.arange(0, 40, 2), np.arange(1, 40, 2)):
        found = neighbours.find_neighbours(lambda rows=rows: iter([(0, counts[rows])]), np.ones(20, dtype=bool))
        for place, cell in enumerate(rows):
            row = found[place]
            order = np.lexsort((row.indices, row.data))
            assert near[cell].tolist() == rows[row.indices[order]].tolist()
            np.testing.assert_array_equal(far[cell], row.data[order])


def test_it_pickles_to_the_same_cells(adata: ad.AnnData) -> None:
    cells = AnnDataCells(adata, "human", neighbours="computed")
    again = pickle.loads(pickle.dumps(cells))
    assert again.fingerprint == cells.fingerprint
    np.testing.assert_array_equal(dense(again), dense(cells))
    np.testing.assert_array_equal(again.neighbours(np.arange(5))[0], cells.neighbours(np.arange(5))[0])
    assert again.about == cells.about


def test_the_fingerprint_is_of_the_content(adata: ad.AnnData, cells: AnnDataCells) -> None:
    assert AnnDataCells(adata.copy(), "human").fingerprint == cells.fingerprint
    changed, labelled, ordered = adata.copy(), adata.copy(), adata[::-1].copy()
    changed.X.data[0] += 1
    labelled.obs.iloc[0, 0] = "CL:0000084"
    prints = {AnnDataCells(one, "human").fingerprint for one in (changed, labelled, ordered)}
    prints.add(AnnDataCells(adata, "human", neighbours="computed").fingerprint)
    assert len(prints | {cells.fingerprint}) == 5
