"""What is asked before anything is written, how blocks of cells become fragments, and what a full disk leaves."""

from __future__ import annotations

import gc
import resource
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import AtlasInputError, IngestOptions, StoreError, find_leftovers, ingest, open_atlas, store, validate, write
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)


def test_an_atlas_of_another_schema_is_refused_before_reading_also_in_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    with soma.Collection.open(uri, "w") as tree_:
        tree_.metadata["panatlas_schema_version"] = "0.1.0"
    source = write_source(tmp_path / "b.h5ad", make_adata(seed=3), id="b")
    monkeypatch.setattr("atlas.look.open_source", lambda *_: pytest.fail("read"))
    for dry_run in (True, False):
        with pytest.raises(StoreError, match=r"its schema is 0\.1\.0"):
            ingest(source, uri, IngestOptions(doublets=False, dry_run=dry_run))
    assert "leftovers" not in caplog.text


def test_cells_without_counts_at_the_end_are_written_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.layout.NNZ_PER_FRAGMENT", 2)
    full = sp.csr_matrix(np.ones((2, 3), np.float32))
    blocks = [full, sp.csr_matrix((0, 3), dtype=np.float32), sp.csr_matrix((2, 3), dtype=np.float32)]
    written = [[t.num_rows for t in packed] for _, packed in write._fragments(blocks, 0)]
    assert written == [[2], [2]]
    assert [[t.num_rows for t in packed] for _, packed in write._fragments(blocks[1:2], 0)] == []


def test_a_disk_that_runs_full_is_named_and_the_next_run_finishes(tmp_path: Path) -> None:
    """What TileDB says of it is longer than what a receipt keeps, and comes to the point in the end."""
    uri, limit = str(tmp_path / "atlas"), resource.getrlimit(resource.RLIMIT_FSIZE)
    ingest(write_source(tmp_path / "a.h5ad", make_adata(seed=1), id="a"), uri, FAST)
    before, second = open_atlas(uri), write_source(tmp_path / "b.h5ad", make_adata(seed=2), id="b")
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limit[1]))
    try:
        with pytest.raises(StoreError, match=r"File too large on the disk it is on; .*make room there, then run"):
            ingest(second, uri, FAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert open_atlas(uri) == before
    assert find_leftovers(uri) == ()
    assert ingest(second, uri, FAST).status == "written"
    assert validate(uri).findings == ()


def test_fragments_hold_the_coordinates_of_their_blocks_though_they_share_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atlas.layout.NNZ_PER_FRAGMENT", 40)
    rng = np.random.default_rng(0)
    blocks = [sp.random(n, 50, 0.2, "csr", np.float32, rng, lambda k: rng.integers(1, 9, k)) for n in (3, 9, 1, 2, 2)]
    for block in blocks:
        block.sort_indices()
    found = [[], [], []]
    sizes = []
    for coordinates, _ in write._fragments(blocks, 100):
        sizes.append(sum(table.num_rows for table in coordinates))
        for values, name in zip(found, ("soma_dim_0", "soma_dim_1", "soma_data"), strict=True):
            values += [table[name].to_numpy().copy() for table in coordinates]
    whole = sp.vstack(blocks).tocoo()
    assert len(sizes) > 1
    assert all(size >= 40 for size in sizes[:-1])
    for values, meant in zip(found, (whole.row + 100, whole.col, whole.data), strict=True):
        np.testing.assert_array_equal(np.concatenate(values), meant)


def test_genes_out_of_order_never_reach_tiledb_which_is_not_asked_to_check() -> None:
    block = sp.csr_matrix((1, 5), dtype=np.float32)
    block.data, block.indices, block.indptr = np.ones(2, np.float32), np.array([3, 1]), np.array([0, 2])
    with pytest.raises(AtlasInputError, match="ascending"):
        next(write._fragments([block], 0))


def test_a_group_that_the_disk_had_no_room_for_is_not_written_after_it_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiledbsoma writes it when its last holder goes; the next ingest took that for somebody else's collection."""
    uri, limit = str(tmp_path / "atlas"), resource.getrlimit(resource.RLIMIT_FSIZE)
    source = write_source(tmp_path / "a.h5ad", id="a")
    module, create = sys.modules["atlas.ingest"], store._new_frame  # the facade gives the function of that name
    recover = module.recover

    def fill_the_disk(parent: soma.Collection, name: str, *args: object) -> None:
        create(parent, name, *args)
        if name == "label_provenance":  # the last of an empty atlas
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))

    def make_room_first(*args: object) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        return recover(*args)

    monkeypatch.setattr(store, "_new_frame", fill_the_disk)
    monkeypatch.setattr(module, "recover", make_room_first)
    try:
        with pytest.raises(StoreError, match="File too large on the disk it is on"):
            ingest(source, uri, FAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    gc.collect()
    assert [path.name for path in (tmp_path / "atlas").iterdir()] == [store.LEDGER]
    monkeypatch.undo()
    assert ingest(source, uri, FAST).status == "written"
