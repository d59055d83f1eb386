"""The tree of arrays: categories survive, roll-back leaves exactly what was published, nothing else is touched."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiledbsoma as soma

from atlas import StoreError, layout, store
from atlas.contexts import BULK, IN_ORDER, opened
from atlas.ledger import now_ms
from ontology import get_organism, load_gene_table, make_gene_table

SCHEMA = pa.schema([("soma_joinid", pa.int64()), ("c", pa.dictionary(pa.int32(), pa.large_string()))])


def table(values: list[str]) -> pa.Table:
    codes = pa.array([sorted(set(values)).index(v) for v in values], pa.int32())
    column = pa.DictionaryArray.from_arrays(codes, pa.array(sorted(set(values)), pa.large_string()))
    return pa.table([pa.array(range(len(values)), pa.int64()), column], schema=SCHEMA)


def test_categories_survive_create_close_reopen_write(tmp_path: Path) -> None:
    """Permanent guard: through the creating handle, tiledbsoma 2.x loses them silently (upstream fault)."""
    for i in range(5):
        uri = str(tmp_path / f"frame{i}")
        soma.DataFrame.create(uri, schema=SCHEMA, domain=[[0, 3]]).close()
        store.tick()
        with soma.DataFrame.open(uri, "w") as frame:
            frame.extend_enumeration_values({"c": pa.array(["a", "b"], pa.large_string())})
        store.tick()
        with soma.DataFrame.open(uri, "w") as frame:
            frame.write(table(["a", "b", "b", "a"]))
        with soma.DataFrame.open(uri) as frame:
            assert frame.read().concat().to_pandas()["c"].tolist() == ["a", "b", "b", "a"]
            assert frame.read(value_filter="c == 'b'").concat().num_rows == 2


def test_more_than_127_categories_in_two_steps(tmp_path: Path) -> None:
    """An int8 index refuses the 128th category; ours is int32."""
    uri = str(tmp_path / "frame")
    soma.DataFrame.create(uri, schema=SCHEMA, domain=[[0, 299]]).close()
    store.tick()
    for values in ([f"v{i:03d}" for i in range(120)], [f"v{i:03d}" for i in range(120, 300)]):
        with soma.DataFrame.open(uri, "w") as frame:
            frame.extend_enumeration_values({"c": pa.array(values, pa.large_string())})
        store.tick()
    with soma.DataFrame.open(uri, "w") as frame:
        frame.write(table([f"v{i:03d}" for i in range(300)]))
    with soma.DataFrame.open(uri) as frame:
        assert frame.read().concat().to_pandas()["c"].nunique() == 300


def test_positions_may_arrive_after_the_atlas(tmp_path: Path) -> None:
    """Columns of X depend on which genes there are in which order; atlases that name no order go on as before."""
    human = get_organism("human")
    frame = pd.DataFrame({"id": ["b", "a"], "symbol": ["B", "A"], "biotype": ["x", "x"]})
    plain, placed = (make_gene_table(human, f, "one") for f in (frame, frame.assign(start=5, contig="1")))
    store.create(tmp_path)
    store.add_organism(tmp_path, human, plain)
    store.add_organism(tmp_path, human, placed)
    with pytest.raises(StoreError, match="another gene table"):
        store.add_organism(tmp_path, human, make_gene_table(human, frame.assign(id=["c", "a"]), "two"))
    store.tick()
    with soma.Experiment.open(str(tmp_path / layout.DATA / human.experiment), "w") as experiment:
        del experiment.metadata["gene_order_sha256"]
    store.add_organism(tmp_path, human, plain)
    with pytest.raises(StoreError, match="another gene table"):
        store.add_organism(tmp_path, human, placed)


@pytest.mark.index
def test_roll_back_removes_what_is_newer_and_keeps_the_rest(tmp_path: Path) -> None:
    human, mouse = get_organism("human"), get_organism("mouse")
    store.create(tmp_path)
    store.add_organism(tmp_path, human, load_gene_table(human))
    mine = tmp_path / "notes.txt"
    mine.write_text("kept")
    published = now_ms()
    time.sleep(0.01)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    store.add_organism(tmp_path, mouse, load_gene_table(mouse))
    store.grow_array(store.array_uri(tmp_path, human.experiment, layout.X_RAW), 100)
    assert store.experiments(tmp_path) == ["homo_sapiens", "mus_musculus"]
    assert store.roll_back(tmp_path, published) > 0
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before
    assert store.experiments(tmp_path) == ["homo_sapiens"]
    with soma.SparseNDArray.open(store.array_uri(tmp_path, human.experiment, layout.X_RAW)) as array:
        assert array.shape == (1, len(load_gene_table(human)))
    store.add_organism(tmp_path, mouse, load_gene_table(mouse))
    assert store.experiments(tmp_path) == ["homo_sapiens", "mus_musculus"]


def test_roll_back_of_a_never_published_tree_removes_it_all_but_the_ledger(tmp_path: Path) -> None:
    store.create(tmp_path)
    (tmp_path / "ledger").mkdir()
    assert store.roll_back(tmp_path, 0) > 0
    assert [p.name for p in tmp_path.iterdir()] == ["ledger"]
    store.create(tmp_path)
    assert store.experiments(tmp_path) == []


def test_unordered_writes_are_refused_not_corrupted(tmp_path: Path) -> None:
    uri = str(tmp_path / "x")
    soma.SparseNDArray.create(uri, type=pa.float32(), shape=(4, 10), platform_config=layout.x_options(10)).close()
    rows = pa.table({"soma_dim_0": [1, 0], "soma_dim_1": [0, 0], "soma_data": pa.array([1, 2], pa.float32())})
    with pytest.raises(soma.SOMAError), soma.SparseNDArray.open(uri, "w") as array:
        array.write(rows, platform_config=soma.TileDBWriteOptions(sort_coords=False))
    with soma.SparseNDArray.open(uri) as array:
        assert array.nnz == 0


def test_x_holds_every_count_exactly_in_batches_larger_than_the_buffers(tmp_path: Path) -> None:
    """Counts are packed as whole numbers; nothing may be rounded on the way, up to the largest that float32 tells."""
    uri, n = str(tmp_path / "x"), 4096
    edges = [*range(1, 300), 2**16 - 1, 2**16, 2**16 + 1, 2**23 - 1, 2**23, 2**23 + 1, 2**24 - 1, 2**24]
    counts = np.resize(edges, n).astype(np.float32)
    soma.SparseNDArray.create(uri, type=pa.float32(), shape=(n, 9), platform_config=layout.x_options(9)).close()
    rows = pa.table({"soma_dim_0": np.arange(n), "soma_dim_1": np.arange(n) % 9, "soma_data": counts})
    with opened(soma.SparseNDArray, uri, "w", more=IN_ORDER | {"soma.init_buffer_bytes": 1024}) as array:
        array.write(rows, platform_config=soma.TileDBWriteOptions(sort_coords=False))
    for more in ({}, BULK, BULK | {"soma.init_buffer_bytes": 1024}):
        with opened(soma.SparseNDArray, uri, more=more) as array:
            found = array.read().tables().concat().sort_by("soma_dim_0")
        np.testing.assert_array_equal(found["soma_data"].to_numpy(), counts)
        np.testing.assert_array_equal(found["soma_dim_1"].to_numpy(), np.arange(n) % 9)


@pytest.mark.parametrize("uri", ["gs://bucket/atlas", "https://host/atlas"])
def test_other_addresses_than_paths_and_s3_are_refused_by_name(uri: str) -> None:
    with pytest.raises(StoreError, match=r"a path or an s3:// address"):
        store.place_of(uri)
