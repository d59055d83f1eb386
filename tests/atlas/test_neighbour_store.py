"""The stored graph: what the search found, inside each dataset, read by rows, and undone with the ingest it is of."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import AtlasInputError, IngestOptions, Source, StoreError, ingest, layout, open_atlas, store
from atlas.neighbours import find_neighbours
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from atlas import Atlas

pytestmark = pytest.mark.index
MODULE = sys.modules["atlas.ingest"]
FAST = IngestOptions(doublets=False)
WITHOUT = IngestOptions(doublets=False, neighbours=False)


def cells(n: int, seed: int):
    """Return cells deep enough to pass QC."""
    return make_adata(n, 3000, seed=seed)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Three human datasets: one with neighbours, one without, one with copies of the first among its cells."""
    folder = tmp_path_factory.mktemp("neighbours")
    first, third = cells(60, 1), cells(70, 3)
    third.X = sp.vstack([first.X[:10], third.X[10:]]).tocsr()
    third.var_names = first.var_names
    for name, adata, options in (("a", first, FAST), ("b", cells(30, 2), WITHOUT), ("c", third, FAST)):
        receipt = ingest(write_source(folder / f"{name}.h5ad", adata, id=name), str(folder / "atlas"), options)
        assert receipt.status == "written"
    return open_atlas(str(folder / "atlas"))


def eligible(atlas: Atlas) -> np.ndarray:
    """Return which of the human cells may have neighbours."""
    obs = atlas.query("human", every_cell=True).obs(["qc_pass", "is_primary_data"])
    return (obs["qc_pass"] & obs["is_primary_data"]).to_numpy()


def test_each_dataset_has_the_graph_of_its_own_counts_and_no_other(atlas: Atlas) -> None:
    graph, mask = atlas.neighbours("human", 0, 160), eligible(atlas)
    assert graph.shape == (160, 160)
    assert graph.dtype == np.float32
    assert graph.has_canonical_format
    counts = atlas.query("human", every_cell=True).counts().astype(np.float32)
    for start, stop in ((0, 60), (90, 160)):

        def blocks(start: int = start, stop: int = stop) -> Iterator[tuple[int, sp.csr_matrix]]:
            for first in range(start, stop, 17):
                yield first - start, counts[first : min(first + 17, stop)]

        meant = find_neighbours(blocks, mask[start:stop])
        assert meant.nnz > 100
        own = graph[start:stop]
        np.testing.assert_array_equal(own.indptr, meant.indptr)
        np.testing.assert_array_equal(own.indices - start, meant.indices)
        np.testing.assert_array_equal(own.data, meant.data)
    assert graph[60:90].nnz == 0
    assert not mask[90:100].any()
    assert graph[:, ~mask].nnz == graph[~mask].nnz == 0


@pytest.mark.parametrize(("first", "stop"), [(0, 0), (160, 160), (0, 1), (17, 101), (60, 90), (159, 160)])
def test_a_range_of_rows_is_that_part_of_the_whole(atlas: Atlas, first: int, stop: int) -> None:
    rows = atlas.neighbours("Homo sapiens", first, stop)
    whole = atlas.neighbours("human", 0, 160)[first:stop]
    assert rows.shape == (stop - first, 160)
    assert (rows != whole).nnz == 0


@pytest.mark.parametrize(("first", "stop"), [(-1, 3), (0, 161), (5, 4)])
def test_rows_that_are_no_cells_are_refused(atlas: Atlas, first: int, stop: int) -> None:
    with pytest.raises(AtlasInputError, match="first, stop"):
        atlas.neighbours("human", first, stop)


def test_an_earlier_moment_has_the_earlier_graph(atlas: Atlas) -> None:
    earlier = open_atlas(atlas.uri, at=atlas.datasets[0].published_ms)
    graph = earlier.neighbours("human", 0, 60)
    assert graph.shape == (60, 60)
    assert (graph != atlas.neighbours("human", 0, 60)[:, :60]).nnz == 0


def test_any_soma_client_reads_the_same_graph(atlas: Atlas) -> None:
    with atlas.open() as tree:
        experiment = tree["census_data"]["homo_sapiens"]
        assert experiment.ms["RNA"].obsp["neighbours"].shape == (160, 160)
        with experiment.axis_query("RNA", obs_query=soma.AxisQuery(coords=(slice(90, 159),))) as query:
            got = query.obsp("neighbours").coos((160, 160)).concat().to_scipy().tocsr()
    assert (got[90:160] != atlas.neighbours("human", 90, 160)).nnz == 0


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ((2, 3, 2.0), "neighbours reads back differently"),
        ((0, 5, 1.0), "neighbours of or among cells that failed QC"),
        ((5, 0, 1.0), "neighbours of or among cells that failed QC"),
        ((2, 3, -1.0), "distances"),
    ],
)
def test_a_graph_that_reads_back_differently_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: tuple[int, int, float], named: str
) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", cells(20, 1), id="a"), uri, FAST)
    adata = cells(20, 2)
    poor = sp.csr_matrix(([1.0], ([0], [0])), (1, 3000), dtype=np.float32)  # a cell of one count, which fails QC
    adata.X = sp.vstack([poor, adata.X[1:]]).tocsr()
    real = MODULE.write_neighbours

    def off(root: Path, row: object, graph: sp.csr_matrix) -> None:
        other = graph.tolil()
        other[entry[0], entry[1]] = entry[2]
        real(root, row, other.tocsr())

    monkeypatch.setattr(MODULE, "write_neighbours", off)
    source = write_source(tmp_path / "b.h5ad", adata, id="b")
    with pytest.raises(StoreError, match=f"failed: {named}"):
        ingest(source, uri, FAST)
    monkeypatch.undo()
    with soma.SparseNDArray.open(store.array_uri(tmp_path / "atlas", "homo_sapiens", layout.NEIGHBOURS)) as array:
        assert array.shape == (20, 20)
    assert ingest(source, uri, FAST).status == "written"
    assert open_atlas(uri).neighbours("human", 20, 40).nnz > 100


def test_a_search_that_fails_leaves_the_atlas_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", cells(20, 1), id="a"), uri, FAST)
    before = {p for p in (tmp_path / "atlas" / layout.DATA).rglob("*") if p.parent.name != "__enumerations"}

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("atlas.neighbour_store.find_neighbours", fail)
    with pytest.raises(MemoryError):
        ingest(write_source(tmp_path / "b.h5ad", cells(20, 2), id="b"), uri, FAST)
    assert {p for p in (tmp_path / "atlas" / layout.DATA).rglob("*") if p.parent.name != "__enumerations"} == before


def _ingest_and_die(source: Source, uri: str) -> None:
    """Ingest, and be killed when neighbours are written."""
    real = MODULE.write_neighbours

    def die(*args: object) -> None:
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    MODULE.write_neighbours = die
    ingest(source, uri, FAST)


@pytest.mark.slow
def test_kill_after_neighbours_are_written_leaves_none_of_them(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", cells(20, 1), id="a"), uri, FAST)
    matrix = store.array_uri(tmp_path / "atlas", "homo_sapiens", layout.NEIGHBOURS)
    with soma.SparseNDArray.open(matrix) as array:
        held = array.nnz
    assert held > 100
    source = write_source(tmp_path / "b.h5ad", cells(30, 2), id="b")
    process = mp.get_context("spawn").Process(target=_ingest_and_die, args=(source, uri))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with soma.SparseNDArray.open(matrix) as array:
        assert array.nnz > held
    assert open_atlas(uri).neighbours("human", 0, 20).nnz == held
    store.roll_back(tmp_path / "atlas", open_atlas(uri).published_ms)
    with soma.SparseNDArray.open(matrix) as array:
        assert (array.nnz, array.shape) == (held, (20, 20))
    assert ingest(source, uri, FAST).status == "written"
    assert open_atlas(uri).neighbours("human", 20, 50).nnz > 100
