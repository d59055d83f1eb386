"""Records in the store: equal to X, in any order asked for, gone with a roll-back, and never silently wrong."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import AtlasInputError, IngestOptions, Source, StoreError, ingest, layout, open_atlas, store, write
from atlas.cell_records import encode_records
from atlas.record_store import RecordReader, from_arrow, to_arrow, wrong_records
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Atlas

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Three sources of two organisms, the human ones apart in time."""
    folder = tmp_path_factory.mktemp("records")
    for name, adata, organism in (
        ("a", make_adata(90, 300, seed=1), "human"),
        ("m", make_adata(20, 80, organism="mouse", seed=3), "mouse"),
        ("b", make_adata(150, 200, seed=2), "human"),
    ):
        if name == "b":  # counts of every size, and a cell whose one gene is far up the table
            dense = adata.X.toarray()
            dense[3] = 0
            dense[3, 0] = 2**24
            dense[4, :60] = np.arange(1, 61) ** 3
            adata.X = sp.csr_matrix(dense)
        source = write_source(folder / f"{name}.h5ad", adata, id=name, organism=organism)
        assert ingest(source, str(folder / "atlas"), FAST).status == "written"
    return open_atlas(str(folder / "atlas"))


def x_of(atlas: Atlas, organism: str) -> sp.csr_matrix:
    """Return the whole of X as tiledbsoma's own reader gives it."""
    with atlas.open() as tree:
        x = tree["census_data"][atlas.experiment(organism)].ms["RNA"].X["raw"]
        table = x.read().tables().concat()
        rows, columns = (table[f"soma_dim_{i}"].to_numpy() for i in (0, 1))
        return sp.coo_matrix((table["soma_data"].to_numpy(), (rows, columns)), shape=x.shape).tocsr()


def assert_same(found: sp.csr_matrix, meant: sp.csr_matrix) -> None:
    """Compare two sparse matrices exactly."""
    assert found.shape == meant.shape
    assert (found != meant).nnz == 0


@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_every_record_is_its_row_of_x(atlas: Atlas, organism: str) -> None:
    meant = x_of(atlas, organism)
    with atlas.records(organism) as reader:
        assert reader.n_cells == meant.shape[0] == atlas.n_cells(organism)
        assert_same(reader.read(np.arange(reader.n_cells)).decode(meant.shape[1]), meant)
    obs = atlas.query(organism, every_cell=True).obs(["nnz"])
    np.testing.assert_array_equal(reader_nnz(atlas, organism), obs["nnz"])


def reader_nnz(atlas: Atlas, organism: str) -> np.ndarray:
    """Return every record's number of genes."""
    with atlas.records(organism) as reader:
        return reader.read(np.arange(reader.n_cells)).nnz


def test_order_and_repeats_are_kept_across_datasets_and_queries(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    meant = x_of(atlas, "human")
    rng = np.random.default_rng(0)
    asked = [
        rng.integers(0, 240, 500),
        np.array([239, 0, 0, 90, 89]),
        np.arange(80, 100),
        np.arange(239, -1, -1),
        np.array([7], np.uint16),
        np.array([], np.int64),
    ]
    for per_query in (16_384, 7):
        monkeypatch.setattr("atlas.record_store.CELLS_PER_QUERY", per_query)
        with atlas.records("human") as reader:
            for joinids in asked:
                records = reader.read(joinids)
                assert len(records) == len(joinids)
                assert_same(records.decode(meant.shape[1]), meant[joinids.astype(np.int64)])


def test_a_dataset_in_many_fragments_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "NNZ_PER_FRAGMENT", 1000)
    monkeypatch.setattr("atlas.look.ROWS_PER_BLOCK", 7)
    source = write_source(tmp_path / "a.h5ad", make_adata(90, 200), id="a")
    assert ingest(source, str(tmp_path / "atlas"), FAST).status == "written"
    atlas = open_atlas(str(tmp_path / "atlas"))
    fragments = {
        member: len(list((atlas.root / layout.DATA / "homo_sapiens" / member / "__fragments").iterdir()))
        for member in (layout.X_RAW, layout.RECORDS)
    }
    assert fragments[layout.RECORDS] == fragments[layout.X_RAW] > 3
    meant, joinids = x_of(atlas, "human"), np.random.default_rng(0).integers(0, 90, 200)
    with atlas.records("human") as reader:
        assert_same(reader.read(joinids).decode(meant.shape[1]), meant[joinids])


@pytest.mark.parametrize("joinids", [[240], [-1], [0, 5, 10**9], [0.5], [[1, 2]], ["3"], [True]])
def test_a_joinid_that_is_no_cell_is_refused(atlas: Atlas, joinids: list[object]) -> None:
    with atlas.records("human") as reader, pytest.raises(AtlasInputError, match="joinids"):
        reader.read(np.array(joinids))


def test_arrow_rows_are_the_records_also_when_sliced() -> None:
    counts = sp.random(30, 4000, 0.02, "csr", np.float32, 0, lambda n: np.arange(1, n + 1, dtype=np.float32))
    counts.sort_indices()
    table = to_arrow(encode_records(counts), 100)
    assert table["soma_joinid"].to_pylist() == list(range(100, 130))
    assert_same(from_arrow(table).decode(4000), counts)
    assert_same(from_arrow(table.slice(7, 5)).decode(4000), counts[7:12])
    assert_same(from_arrow(table.slice(7, 0)).decode(4000), counts[:0])


def test_records_are_read_at_the_atlas_moment(atlas: Atlas) -> None:
    earlier = open_atlas(atlas.uri, at=atlas.datasets[0].published_ms)
    with earlier.records("human") as reader:
        assert len(reader.read(np.arange(90))) == 90
        with pytest.raises(AtlasInputError, match="0 to 89"):
            reader.read(np.array([90]))
    uri = store.array_uri(atlas.root, "homo_sapiens", layout.RECORDS)
    with RecordReader(uri, 240, earlier.published_ms) as reader, pytest.raises(StoreError, match="cells 90, 91"):
        reader.read(np.arange(80, 95))


def test_records_that_are_lost_are_named(atlas: Atlas, tmp_path: Path) -> None:
    copy = tmp_path / "atlas"
    shutil.copytree(atlas.root, copy)
    folder = copy / layout.DATA / "homo_sapiens" / layout.RECORDS
    fragments = sorted((folder / "__fragments").iterdir())
    assert len(fragments) == 2
    shutil.rmtree(fragments[1])
    (folder / "__commits" / f"{fragments[1].name}.wrt").unlink()
    with open_atlas(str(copy)).records("human") as reader:
        assert len(reader.read(np.arange(90))) == 90
        with pytest.raises(StoreError, match="cells 90, 91, 92, 93, 94 and 145 more without a record"):
            reader.read(np.arange(240))


def test_bytes_changed_on_disk_are_noticed(atlas: Atlas, tmp_path: Path) -> None:
    copy = tmp_path / "atlas"
    shutil.copytree(atlas.root, copy)
    folder = copy / layout.DATA / "homo_sapiens" / layout.RECORDS
    for file in folder.glob("__fragments/*/a*_var.tdb"):
        held = bytearray(file.read_bytes())
        held[len(held) // 2 :] = bytes(len(held) - len(held) // 2)
        file.write_bytes(held)
    with open_atlas(str(copy)).records("human") as reader, pytest.raises(StoreError, match="cannot be read"):
        reader.read(np.arange(240))


def overwrite(atlas: Atlas, cells: dict[int, sp.csr_matrix]) -> None:
    """Put other records in the place of some cells', as a faulty writer would."""
    with soma.DataFrame.open(store.array_uri(atlas.root, "homo_sapiens", layout.RECORDS), "w") as frame:
        for cell, counts in cells.items():
            frame.write(to_arrow(encode_records(counts), cell))


def test_records_that_differ_from_x_are_named(atlas: Atlas, tmp_path: Path) -> None:
    shutil.copytree(atlas.root, tmp_path / "atlas")
    copy = open_atlas(str(tmp_path / "atlas"))
    x = x_of(copy, "human")
    more, moved = x[17].copy(), x[101].copy()
    more.data[-1] += 1
    moved.indices[0] += 1 if moved.indices[1] > moved.indices[0] + 1 else -1
    overwrite(copy, {17: more, 101: moved, 200: x[201]})
    with RecordReader(store.array_uri(copy.root, "homo_sapiens", layout.RECORDS), 240) as reader:
        assert wrong_records(reader, 0, x.copy()).tolist() == [17, 101, 200]
        assert wrong_records(reader, 20, x[20:100].copy()).tolist() == []
        shuffled = x[30:40].copy()
        for start, stop in zip(shuffled.indptr[:-1], shuffled.indptr[1:], strict=True):
            for part in (shuffled.indices, shuffled.data):
                part[start:stop] = part[start:stop][::-1].copy()
        shuffled.has_sorted_indices = False
        assert wrong_records(reader, 30, shuffled).tolist() == []


def test_an_ingest_whose_records_are_not_its_counts_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    source = write_source(tmp_path / "b.h5ad", make_adata(seed=9), id="b")

    def off_by_one(block: sp.csr_matrix):
        block = block.copy()
        block.data[block.indptr[5]] += 1
        return encode_records(block)

    monkeypatch.setattr(write, "encode_records", off_by_one)
    with pytest.raises(StoreError, match="the records of cells 45 reads back differently"):
        ingest(source, uri, FAST)
    monkeypatch.setattr(write, "encode_records", lambda block: encode_records(block[: block.shape[0] - 2]))
    with pytest.raises(StoreError, match="cells 78, 79"):
        ingest(source, uri, FAST)
    monkeypatch.undo()
    assert open_atlas(uri).n_cells("human") == 40
    assert ingest(source, uri, FAST).status == "written"
    with open_atlas(uri).records("human") as reader:
        assert_same(
            reader.read(np.arange(80)).decode(x_of(open_atlas(uri), "human").shape[1]), x_of(open_atlas(uri), "human")
        )


def _ingest_and_die(source: Source, uri: str) -> None:
    """Ingest, and be killed when counts and records are written."""
    real = write.write_counts

    def die(*args: object) -> object:
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    write.write_counts = die
    ingest(source, uri, FAST)


def test_a_killed_ingest_leaves_no_record_behind(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", make_adata(seed=1), id="a"), uri, FAST)
    frame = store.array_uri(tmp_path / "atlas", "homo_sapiens", layout.RECORDS)
    source = write_source(tmp_path / "b.h5ad", make_adata(seed=2), id="b")
    process = mp.get_context("spawn").Process(target=_ingest_and_die, args=(source, uri))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with soma.DataFrame.open(frame) as left:
        assert (left.count, left.domain[0][1]) == (80, 79)
    published = open_atlas(uri).published_ms
    assert store.roll_back(tmp_path / "atlas", published) > 0
    with soma.DataFrame.open(frame) as left:
        assert (left.count, left.domain[0][1]) == (40, 39)
    assert ingest(source, uri, FAST).status == "written"
    with open_atlas(uri).records("human") as reader:
        assert len(reader.read(np.arange(80))) == 80
