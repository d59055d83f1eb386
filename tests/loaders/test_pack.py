"""Packs give back what was packed, are plain zarr, and name the file that is not what it was."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from loaders import LoaderInputError, Pack, PackError, PackWriter
from loaders.records import encode_cells

if TYPE_CHECKING:
    from pathlib import Path

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


def write(path: Path, matrix: sp.csr_matrix, piece_mib: int = 256) -> Pack:
    """Write a pack in blocks of 400 cells."""
    with PackWriter(path, {"release": "r1"}, piece_mib=piece_mib) as writer:
        for start in range(0, matrix.shape[0], 400):
            block = matrix[start : start + 400]
            writer.append({"label": np.arange(start, start + block.shape[0], dtype=np.int32)})
            writer.append_records(encode_cells(block))
        writer.write_genes(pd.DataFrame({"organism": 0, "feature_id": [f"G{i}" for i in range(3)]}))
    return Pack(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, matrix: sp.csr_matrix) -> Pack:
    """Return a pack in files of 1 MiB, for reading."""
    return write(tmp_path_factory.mktemp("made") / "pack", matrix, piece_mib=1)


@pytest.fixture
def pack(tmp_path: Path, made: Pack) -> Pack:
    """Return a pack in files of 1 MiB, for damaging."""
    shutil.copytree(made.path, tmp_path / "pack")
    return Pack(tmp_path / "pack")


def assert_equal(pack: Pack, cells: np.ndarray, matrix: sp.csr_matrix) -> None:
    """Compare decoded cells with rows of a matrix."""
    rows, expected = pack.read(cells).decode(), matrix[cells]
    np.testing.assert_array_equal(rows.indptr, expected.indptr)
    np.testing.assert_array_equal(rows.indices, expected.indices)
    np.testing.assert_array_equal(rows.counts, expected.data)


def test_any_cells_in_any_order_come_back(made: Pack, matrix: sp.csr_matrix) -> None:
    assert len(made) == N_CELLS
    assert len(list((made.path / "records" / "data" / "c").iterdir())) > 5, "several files, so that borders are crossed"
    for cells in (RNG.integers(0, N_CELLS, 700), np.array([7]), np.array([], dtype=np.int64), np.arange(N_CELLS)):
        assert_equal(made, cells, matrix)
        np.testing.assert_array_equal(made.codes("label", cells), cells)


def test_no_record_crosses_two_files(made: Pack) -> None:
    group = zarr.open_group(made.path, mode="r")
    first = group["records/offset"][:].astype(np.int64)
    sizes = np.diff(np.append(made.read(np.arange(N_CELLS)).starts, len(made.read(np.arange(N_CELLS)).data)))
    full = sizes > 0
    np.testing.assert_array_equal(first[full] >> 20, (first + sizes - 1)[full] >> 20)
    for file in (made.path / "records" / "data" / "c").iterdir():
        assert file.stat().st_size == 1 << 20


def test_what_is_needed_next_is_told_once_and_only_if_it_is_not_there(
    made: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(made._records, "will_need", told.extend)
    monkeypatch.setattr(made._records, "in_memory", lambda places: True)
    made.will_need(np.array([3, 7, 900]))
    assert told == []
    monkeypatch.setattr(made._records, "in_memory", lambda places: False)
    made.will_need(np.array([900, 3, 7, 3]))  # 7 is empty
    assert len(told) == 2
    for cell, (first, last) in zip((3, 900), told, strict=True):
        np.testing.assert_array_equal(made._records.values[first:last], made.read(np.array([cell])).data)
    made.will_need(np.array([7]))


def test_an_empty_last_cell_is_a_cell(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    size = int(np.diff(matrix[:3].indptr).sum())
    block = sp.csr_matrix((matrix[:3].data, matrix[:3].indices, [*matrix[:3].indptr, size]), shape=(4, N_GENES))
    for piece_mib in (1, 30):
        pack = write(tmp_path / f"p{piece_mib}", block, piece_mib=piece_mib)
        pack.will_need(np.array([3, 0]))
        np.testing.assert_array_equal(np.diff(pack.read(np.array([3, 0, 3])).decode().indptr)[[0, 2]], [0, 0])
    alone = write(tmp_path / "alone", sp.csr_matrix((2, N_GENES)))
    alone.will_need(np.array([1]))
    assert alone.read(np.array([1])).decode().counts.size == 0


def test_a_record_as_long_as_a_file_has_it_to_itself_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    # 95,324 large counts take 3 * 95,324 bytes and 8 more each: 1,048,564 of 1,048,576.
    for n, fits in ((95_324, True), (95_330, False)):
        wide = sp.csr_matrix((np.full(n, 300.0), np.arange(n), [0, n]), shape=(1, 1 << 17))
        matrix = sp.vstack([wide[:, :], sp.csr_matrix(([1.0], [5], [0, 1]), shape=(1, 1 << 17)), wide]).tocsr()
        if fits:
            pack = write(tmp_path / str(n), matrix, piece_mib=1)
            assert_equal(pack, np.array([2, 1, 0]), matrix)
            assert len(list((pack.path / "records" / "data" / "c").iterdir())) in (2, 3)
        else:
            with pytest.raises(LoaderInputError, match="piece_mib"):
                write(tmp_path / str(n), matrix, piece_mib=1)


def test_a_copy_is_proved_anew(pack: Pack, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pack.path, copy)
    file = copy / "records" / "data" / "c" / "2"
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[9] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(PackError, match="records/data/c/2"):
        Pack(copy)


def test_it_is_a_zarr_group_that_zarr_reads(made: Pack, matrix: sp.csr_matrix) -> None:
    group = zarr.open_group(made.path, mode="r")
    np.testing.assert_array_equal(group["records/nnz"][:], np.diff(matrix.indptr))
    np.testing.assert_array_equal(group["cells/label"][:], np.arange(N_CELLS))
    first = int(group["records/offset"][1])
    record = group["records/data"][first : first + 2 * int(group["records/nnz"][1])]
    np.testing.assert_array_equal(record.view("<u2"), matrix[1].indices % 65_536)


def test_a_fingerprint_is_of_the_cells_and_not_of_the_files(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    def fingerprint(matrix: sp.csr_matrix, hashes: np.ndarray, about: dict[str, object], piece_mib: int) -> str:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        with PackWriter(path, about, piece_mib=piece_mib) as writer:
            writer.append({"count_hash_high": hashes[: matrix.shape[0]]})
            writer.append_records(encode_cells(matrix))
        return Pack(path).fingerprint

    hashes, about = RNG.integers(0, 1 << 63, N_CELLS).astype(np.uint64), {"release": "r1", "splits": ["train"]}
    expected = fingerprint(matrix, hashes, about, 1)
    assert fingerprint(matrix, hashes, about, 30) == expected
    assert fingerprint(matrix, hashes, about | {"release": "r2"}, 1) == expected
    assert fingerprint(matrix[:-1], hashes, about, 1) != expected
    assert fingerprint(matrix, hashes ^ np.uint64(1), about, 1) != expected
    assert fingerprint(matrix, hashes, about | {"splits": []}, 1) != expected


def test_without_count_hashes_the_fingerprint_covers_the_records(
    tmp_path: Path, matrix: sp.csr_matrix, made: Pack
) -> None:
    assert write(tmp_path / "again", matrix, piece_mib=1).fingerprint == made.fingerprint
    other = matrix.copy()
    other.data[100] += 1
    assert write(tmp_path / "other", other, piece_mib=1).fingerprint != made.fingerprint


def _sum_elsewhere(pack: Pack, cells: np.ndarray) -> float:
    return float(pack.read(cells).decode().counts.sum())


def test_a_spawned_process_maps_the_same_files(made: Pack, matrix: sp.csr_matrix) -> None:
    assert len(pickle.dumps(made)) < 1000, "a place, no data"
    cells = RNG.integers(0, N_CELLS, 50)
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum_elsewhere, (made, cells)) == matrix[cells].sum()


@pytest.mark.parametrize("victim", ["records/data/c/2", "records/nnz/c/0", "cells/label/c/0", "genes.parquet"])
def test_a_flipped_bit_is_named(pack: Pack, victim: str) -> None:
    file = pack.path / victim
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(PackError, match=f"{victim}: other bytes"):
        Pack(pack.path)


def test_missing_short_and_foreign_files_are_named(pack: Pack, tmp_path: Path) -> None:
    file = pack.path / "records" / "data" / "c" / "1"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    for verify in (True, False):
        with pytest.raises(PackError, match="records/data/c/1"):
            Pack(pack.path, verify=verify)
    file.unlink()
    with pytest.raises(PackError, match=r"records/data/c/1.*missing"):
        Pack(pack.path)
    file.write_bytes(whole)
    assert len(Pack(pack.path)) == N_CELLS
    with pytest.raises(PackError, match="no pack"):
        Pack(tmp_path / "nothing")


def test_a_pack_of_the_first_format_is_refused_with_the_remedy(pack: Pack) -> None:
    root = pack.path / "zarr.json"
    note = json.loads(root.read_text())
    note["attributes"]["panatlas_pack"] = 1
    root.write_text(json.dumps(note))
    with pytest.raises(PackError, match="format 1; make it again; this version reads 2"):
        Pack(pack.path)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    with pytest.raises(ZeroDivisionError), PackWriter(tmp_path / "p", {}) as writer:  # noqa: PT012 - the block is it
        writer.append_records(encode_cells(matrix[:10]))
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_cells_and_records_must_be_as_many(tmp_path: Path, matrix: sp.csr_matrix) -> None:
    with pytest.raises(LoaderInputError, match="10 records"), PackWriter(tmp_path / "p", {}) as writer:  # noqa: PT012
        writer.append({"label": np.zeros(11, np.int32)})
        writer.append_records(encode_cells(matrix[:10]))
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_said_and_not_read(made: Pack) -> None:
    for cells in ([N_CELLS], [-1], [0, 1 << 40]):
        with pytest.raises(LoaderInputError, match=f"cell numbers 0 to {N_CELLS - 1}"):
            made.read(np.array(cells))
        with pytest.raises(LoaderInputError, match="cell numbers"):
            made.codes("label", np.array(cells))
        with pytest.raises(LoaderInputError, match="cell numbers"):
            made.neighbours(np.array(cells))
        with pytest.raises(LoaderInputError, match="cell numbers"):
            made.will_need(np.array(cells))
    with pytest.raises(LoaderInputError, match="one of label"):
        made.column("lable")
