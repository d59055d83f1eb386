"""An index keeps what is known of cells, mapped; `verify_files` believes nothing it has not proved here."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from loaders import LoaderInputError, Pack, PackError, verified
from loaders.cells import NO_CELL
from loaders.index import NEIGHBOURS, CellIndex, IndexWriter
from loaders.verified import sha256_of, verify_files

RNG = np.random.default_rng(8)
N_CELLS = 100_000
GENES = pd.DataFrame(
    {"organism": [0] * 13 + [1] * 8, "feature_id": [f"G{i}" for i in range(21)], "feature_name": ["x"] * 21}
)
MASKS = [(1, RNG.random(8) < 0.5), (0, RNG.random(13) < 0.5), (0, np.ones(13, bool))]


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    """Return numbers of cells."""
    return {
        "split": RNG.integers(0, 3, N_CELLS).astype(np.uint8),
        "label": RNG.integers(-1, 5, N_CELLS).astype(np.int32),
        "depth": RNG.random(N_CELLS).astype(np.float32),
        "hash": RNG.integers(0, 1 << 63, N_CELLS).astype(np.uint64),
    }


@pytest.fixture(scope="module")
def graph() -> tuple[np.ndarray, np.ndarray]:
    """Return neighbours and distances."""
    near = RNG.integers(0, N_CELLS, (N_CELLS, NEIGHBOURS))
    near[RNG.random(near.shape) < 0.3] = NO_CELL
    return near, np.where(near == NO_CELL, np.inf, RNG.random(near.shape)).astype(np.float32)


def write(path: Path, columns: dict[str, np.ndarray], graph: tuple[np.ndarray, np.ndarray], mib: int | None) -> None:
    """Write an index in blocks of 30,000 cells."""
    with IndexWriter(path, {"release": path.name, "splits": ["train"]}, piece_mib=mib) as writer:
        for start in range(0, N_CELLS, 30_000):
            writer.append({name: values[start : start + 30_000] for name, values in columns.items()})
        writer.write_genes(GENES)
        writer.write_measured(MASKS)
        for start in range(0, N_CELLS, 30_000):
            writer.append_neighbours(*(values[start : start + 30_000] for values in graph))


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, np.ndarray], graph: tuple[np.ndarray, np.ndarray]
) -> Path:
    """Return an index in one file per array."""
    path = tmp_path_factory.mktemp("index") / "made"
    write(path, columns, graph, None)
    return path


@pytest.mark.parametrize("mib", [None, 1])
def test_everything_comes_back_however_it_is_cut(
    tmp_path: Path, columns: dict[str, np.ndarray], graph: tuple[np.ndarray, np.ndarray], mib: int | None, made: Path
) -> None:
    write(tmp_path / "again", columns, graph, mib)
    index = CellIndex(tmp_path / "again")
    assert len(list((index.path / "neighbours" / "cell" / "c").iterdir())) == (1 if mib is None else 7)
    assert len(index) == N_CELLS
    assert sorted(index.columns) == sorted(columns)
    cells = RNG.integers(0, N_CELLS, 500)
    for name, values in columns.items():
        np.testing.assert_array_equal(index.column(name), values)
        assert index.column(name).dtype == values.dtype
        np.testing.assert_array_equal(index.codes(name, cells), values[cells])
    near, distances = index.neighbours(cells)
    np.testing.assert_array_equal(near, graph[0][cells])
    np.testing.assert_array_equal(distances, graph[1][cells])
    pd.testing.assert_frame_equal(index.genes(), GENES)
    for dataset, (organism, mask) in enumerate(MASKS):
        np.testing.assert_array_equal(index.measured(dataset, organism), mask)
        assert not index.measured(dataset, 1 - organism).any()
    assert index.fingerprint == CellIndex(made).fingerprint, "neither files nor the release's name count"


@pytest.mark.parametrize("what", ["columns", "genes", "measured", "neighbours"])
def test_the_fingerprint_covers_all_that_is_known(
    tmp_path: Path, columns: dict[str, np.ndarray], graph: tuple[np.ndarray, np.ndarray], made: Path, what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other, mask = columns["label"].copy(), MASKS[1][1].copy()
    other[77], mask[3] = 9, not mask[3]
    far = graph[1].copy()
    far[5, 0] = 0.123
    if what == "genes":
        monkeypatch.setattr(f"{__name__}.GENES", GENES.assign(feature_id=GENES["feature_id"].replace("G4", "H4")))
    if what == "measured":
        monkeypatch.setattr(f"{__name__}.MASKS", [MASKS[0], (0, mask), MASKS[2]])
    write(tmp_path / "made", columns | ({"label": other} if what == "columns" else {}),
          (graph[0], far) if what == "neighbours" else graph, None)  # fmt: skip
    assert CellIndex(tmp_path / "made").fingerprint != CellIndex(made).fingerprint


def test_opening_maps_and_reads_no_column(made: Path) -> None:
    index = CellIndex(made)
    column = index.column("hash")
    assert not column.flags.owndata
    assert not column.flags.writeable
    assert np.shares_memory(column, index.column("hash"))
    assert len(pickle.dumps(index)) < 1000


def test_an_index_is_no_pack(made: Path) -> None:
    with pytest.raises(PackError, match="an index without records"):
        Pack(made)


@pytest.mark.parametrize(
    "victim", ["cells/label/c/0", "neighbours/distance/c/0/0", "measured/bits/c/0", "cells/label/zarr.json"]
)
def test_a_damaged_file_is_named(made: Path, tmp_path: Path, victim: str) -> None:
    shutil.copytree(made, tmp_path / "copy")
    file = tmp_path / "copy" / victim
    data = bytearray(file.read_bytes())
    data[-1] ^= 8
    file.write_bytes(data)
    with pytest.raises(PackError, match=f"{victim}: other bytes"):
        CellIndex(tmp_path / "copy")


def test_an_edited_root_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    root = tmp_path / "copy" / "zarr.json"
    note = json.loads(root.read_text())
    note["attributes"]["files"].pop("genes.parquet")
    root.write_text(json.dumps(note))
    with pytest.raises(PackError, match="changed since it was made"):
        CellIndex(tmp_path / "copy")


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    def fail(path: Path, *blocks: dict[str, np.ndarray]) -> None:
        with IndexWriter(path, {}) as writer:
            for block in blocks:
                writer.append(block)
            writer.append_neighbours(np.zeros((1, NEIGHBOURS), np.int64), np.zeros((1, NEIGHBOURS), np.float32))

    two = np.zeros(2, np.int32)
    with pytest.raises(LoaderInputError, match="columns of one length"):
        fail(tmp_path / "a", {"a": two, "b": two[:1]})
    with pytest.raises(LoaderInputError, match="the columns"):
        fail(tmp_path / "b", {"a": two}, {"b": two})
    with pytest.raises(LoaderInputError, match="1 cells"):
        fail(tmp_path / "c", {"a": two})
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(LoaderInputError, match="does not exist yet"):
        IndexWriter(tmp_path / "there", {})


def test_a_list_of_files_cannot_point_outside(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    with pytest.raises(PackError, match="secret"):
        verify_files(folder, {"../secret": sha256_of(tmp_path / "secret")})


def test_a_note_of_another_folder_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("sound")
    digest = sha256_of(folder / "x")
    verify_files(folder, {"x": digest})
    assert (folder / "verified.json").exists()
    (folder / "x").write_text("other")
    with pytest.raises(PackError, match="x: other bytes"):
        verify_files(folder, {"x": digest})
    (folder / "verified.json").write_text("[1, 2")
    (folder / "x").write_text("sound")
    verify_files(folder, {"x": digest})


def test_a_folder_that_may_not_be_written_is_still_proved_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    proved: list[Path] = []
    write_whole, prove = verified.write_whole, verified.sha256_of

    def refuse(path: Path, data: bytes) -> None:
        if copy in path.parents:
            raise PermissionError
        write_whole(path, data)

    monkeypatch.setattr(verified, "write_whole", refuse)
    monkeypatch.setattr(verified, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(verified, "sha256_of", lambda path: (proved.append(path), prove(path))[1])
    (copy / "verified.json").unlink()
    CellIndex(copy)
    assert len(proved) == len(CellIndex(copy).files)
    file = copy / "cells" / "label" / "c" / "0"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(PackError, match="cells/label/c/0: other bytes"):
        CellIndex(copy)


def test_what_a_killed_writer_left_is_removed_by_the_next_but_not_a_live_ones(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from loaders.index import IndexWriter;"
        "w = IndexWriter(pathlib.Path(sys.argv[1]), {}); print('.', flush=True); time.sleep(600)"
    )
    makers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)], stdout=subprocess.PIPE)
        for name in ("a[1]", "other")
    ]
    try:
        assert [maker.stdout.read(1) for maker in makers] == [b".", b"."]
        before = set(tmp_path.iterdir())
        assert len(before) == 2
        live = IndexWriter(tmp_path / "a[1]", {})
        assert set(tmp_path.iterdir()) > before, "nobody who is at work is disturbed"
        live.__exit__(KeyboardInterrupt, None, None)
        assert set(tmp_path.iterdir()) == before
    finally:
        for maker in makers:
            maker.kill()
            maker.communicate()
    assert set(tmp_path.iterdir()) == before
    with IndexWriter(tmp_path / "a[1]", {}) as writer:
        writer.append({"x": np.arange(9)})
        writer.write_genes(GENES)
    left = {file.name for file in tmp_path.iterdir()}
    assert len(left) == 2
    assert {name[:12] for name in left} == {"a[1]", ".part-other-"}, "what is left of another target is not ours"


def test_a_relative_path_is_found_from_another_folder(
    tmp_path: Path,
    columns: dict[str, np.ndarray],
    graph: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "i", columns, graph, 1)
    monkeypatch.chdir(tmp_path)
    index = CellIndex(Path("i"))
    monkeypatch.chdir("/")
    index._arrays["cells/hash"].in_memory(np.array([0]))
    assert pickle.loads(pickle.dumps(index)).fingerprint == index.fingerprint
    assert len(index.genes()) == len(GENES)
