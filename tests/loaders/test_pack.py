"""Packs give back what was packed, are plain zarr, and name the file that is not what it was."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from loaders import LoaderInputError, Pack, PackError, PackWriter

RNG = np.random.default_rng(5)
N_CELLS, N_GENES = 1500, 70_000


@pytest.fixture(scope="module")
def matrix() -> sp.csr_matrix:
    """Return cells of 300 to 3,000 genes, one without any, some counts large."""
    sizes = RNG.integers(300, 3000, N_CELLS)
    sizes[7] = 0
    indices = np.concatenate([np.sort(RNG.choice(N_GENES, n, replace=False)) for n in sizes])
    data = RNG.geometric(0.4, len(indices)).astype(np.float32)
    data[::1013] = 4000
    return sp.csr_matrix((data, indices, np.concatenate(([0], np.cumsum(sizes)))), shape=(N_CELLS, N_GENES))


def write(path: Path, matrix: sp.csr_matrix, **options: int) -> Pack:
    """Write a pack in blocks of 400 cells."""
    with PackWriter(path, {"release": "r1"}, **options) as writer:
        for start in range(0, matrix.shape[0], 400):
            block = matrix[start : start + 400]
            writer.append(block, {"label": np.arange(start, start + block.shape[0], dtype=np.int32)})
        writer.write_genes(pd.DataFrame({"organism": 0, "feature_id": [f"G{i}" for i in range(3)]}))
    return Pack(path)


@pytest.fixture
def pack(tmp_path: Path, matrix: sp.csr_matrix) -> Pack:
    """Return a pack in files of 1 MiB."""
    return write(tmp_path / "pack", matrix, piece_mib=1)


def test_any_cells_in_any_order_come_back(pack: Pack, matrix: sp.csr_matrix) -> None:
    assert len(pack) == N_CELLS
    assert len(list((pack.path / "records" / "c").iterdir())) > 5, "several files, so that borders are crossed"
    for cells in (RNG.integers(0, N_CELLS, 700), np.array([7]), np.array([], dtype=np.int64), np.arange(N_CELLS)):
        rows, expected = pack.read(cells).decode(), matrix[cells]
        np.testing.assert_array_equal(rows.indptr, expected.indptr)
        np.testing.assert_array_equal(rows.indices, expected.indices)
        np.testing.assert_array_equal(rows.counts, expected.data)
        np.testing.assert_array_equal(pack.codes("label", cells), cells)


def test_what_is_needed_next_is_told_file_by_file(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(pack._records, "will_need", lambda *span: told.append(span))
    pack.will_need(np.array([3, 7, 900]))  # 7 is empty
    assert len(told) == 2
    for cell, (piece, first, last) in zip((3, 900), told, strict=True):
        packed = pack.read(np.array([cell]))
        np.testing.assert_array_equal(pack._records.chunk_of(piece)[first:last], packed.data)


def test_an_empty_last_cell_is_a_cell(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    size = int(np.diff(matrix[:3].indptr).sum())
    block = sp.csr_matrix((matrix[:3].data, matrix[:3].indices, [*matrix[:3].indptr, size]), shape=(4, N_GENES))
    for piece_mib in (1, 30):
        pack = write(tmp_path / f"p{piece_mib}", block, piece_mib=piece_mib)
        pack.will_need(np.array([3, 0]))
        np.testing.assert_array_equal(np.diff(pack.read(np.array([3, 0, 3])).decode().indptr)[[0, 2]], [0, 0])
    alone = write(tmp_path / "alone", sp.csr_matrix((2, N_GENES)))
    assert alone.read(np.array([1])).decode().counts.size == 0


def test_a_copy_is_proved_anew(pack: Pack, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pack.path, copy)
    file = copy / "records" / "c" / "2"
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[9] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(PackError, match="records/c/2"):
        Pack(copy)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
def test_many_files_never_exhaust_the_limit(
    tmp_path: Path, matrix: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.pack.INDEX_CHUNK", 4)
    pack = write(tmp_path / "p", matrix[:700])
    before, (soft, hard) = len(list(Path("/proc/self/fd").iterdir())), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 600, hard))
    try:
        cells = np.arange(700)
        np.testing.assert_array_equal(pack.column("label"), cells)
        np.testing.assert_array_equal(pack.read(cells).decode().counts, matrix[:700].data)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_is_a_zarr_group_that_zarr_reads(pack: Pack, matrix: sp.csr_matrix) -> None:
    group = zarr.open_group(pack.path, mode="r")
    np.testing.assert_array_equal(group["index/nnz"][:], np.diff(matrix.indptr))
    np.testing.assert_array_equal(group["cells/label"][:], np.arange(N_CELLS))
    first = int(group["index/offset"][1])
    record = group["records"][first : first + 2 * int(group["index/nnz"][1])]
    np.testing.assert_array_equal(record.view("<u2"), matrix[1].indices % 65_536)


def test_many_chunks_per_column_answer_alike(
    tmp_path: Path, matrix: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.pack.INDEX_CHUNK", 64)
    pack = write(tmp_path / "p", matrix)
    cells = RNG.integers(0, N_CELLS, 300)
    np.testing.assert_array_equal(pack.codes("label", cells), cells)
    np.testing.assert_array_equal(pack.column("label"), np.arange(N_CELLS))
    np.testing.assert_array_equal(pack.read(cells).decode().counts, matrix[cells].data)


def test_the_same_cells_give_the_same_fingerprint(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    one, two = write(tmp_path / "a", matrix), write(tmp_path / "b", matrix)
    assert one.fingerprint == two.fingerprint
    assert write(tmp_path / "c", matrix[:-1]).fingerprint != one.fingerprint


@pytest.mark.parametrize("victim", ["records/c/2", "index/nnz/c/0", "cells/label/c/0", "genes.parquet"])
def test_a_flipped_bit_is_named(pack: Pack, victim: str) -> None:
    file = pack.path / victim
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(PackError, match=f"{victim}: other bytes"):
        Pack(pack.path)


def test_missing_short_and_foreign_files_are_named(pack: Pack, tmp_path: Path) -> None:
    file = pack.path / "records" / "c" / "1"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    for verify in (True, False):
        with pytest.raises(PackError, match="records/c/1"):
            Pack(pack.path, verify=verify)
    file.unlink()
    with pytest.raises(PackError, match=r"records/c/1.*missing"):
        Pack(pack.path)
    file.write_bytes(whole)
    assert len(Pack(pack.path)) == N_CELLS
    with pytest.raises(PackError, match="no pack"):
        Pack(tmp_path / "nothing")


def test_a_manifest_that_was_edited_is_refused(pack: Pack) -> None:
    root = pack.path / "zarr.json"
    note = json.loads(root.read_text())
    note["attributes"]["files"].pop("genes.parquet")
    root.write_text(json.dumps(note))
    with pytest.raises(PackError, match="changed since it was packed"):
        Pack(pack.path)


def test_a_manifest_cannot_point_outside(pack: Pack) -> None:
    from loaders.pack import verify_files

    (pack.path.parent / "secret").write_text("x")
    with pytest.raises(PackError, match="secret"):
        verify_files(pack.path, {"../secret": "0" * 64})


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    with pytest.raises(ZeroDivisionError), PackWriter(tmp_path / "p", {}) as writer:  # noqa: PT012 - the block is it
        writer.append(matrix[:10], {})
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_what_a_pack_cannot_hold_is_refused(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    write(tmp_path / "p", matrix)
    with pytest.raises(LoaderInputError, match="does not exist yet"):
        PackWriter(tmp_path / "p", {})
    with pytest.raises(LoaderInputError, match="codes"), PackWriter(tmp_path / "q", {}) as writer:  # noqa: PT012 - the second
        writer.append(matrix[:2], {"a": np.zeros(2, np.int32)})
        writer.append(matrix[:2], {"b": np.zeros(2, np.int32)})
