"""Cells from the store are the pack's cells: same numbers, same counts, same fingerprint, same stream."""

from __future__ import annotations

import logging
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiledbsoma as soma

from atlas import open_atlas
from loaders import (
    CellStream,
    LoaderInputError,
    PackError,
    PackOptions,
    Sampler,
    SamplerConfig,
    SamplingPlan,
    StreamOptions,
    build_groups,
    make_pack,
    make_sampler,
    make_vocabulary,
)
from loaders.cells import Cells
from loaders.collate import CollateConfig, Collator
from loaders.store_cells import StoreCells, open_store_cells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loaders import Pack

    from .conftest import Loaded

RNG = np.random.default_rng(6)
SAMPLED = SamplingPlan(ontology_aware=False, labels=("cell_type",))


@pytest.fixture
def cells(atlas: str) -> Iterator[StoreCells]:
    """Return the release's cells from the store."""
    cells = open_store_cells(atlas, "r1")
    yield cells
    cells.close()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the cache to an empty folder, where indexes go, and return it."""
    monkeypatch.setattr("loaders.store_cells.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def assert_records_alike(one: Cells, other: Cells, cells: np.ndarray) -> None:
    """Compare records byte for byte."""
    mine, its = one.read(cells), other.read(cells)
    for part in ("data", "starts", "nnz", "low", "large"):
        np.testing.assert_array_equal(getattr(mine, part), getattr(its, part), err_msg=part)


def test_both_ways_give_the_same_cells(cells: StoreCells, pack: Pack) -> None:
    assert isinstance(cells, Cells)
    assert cells.fingerprint == pack.fingerprint
    assert cells.about == pack.about
    assert sorted(cells.columns) == sorted(pack.columns)
    for name in pack.columns:
        np.testing.assert_array_equal(cells.column(name), pack.column(name), err_msg=name)
    for found, expected in zip(cells.neighbours(np.arange(145)), pack.neighbours(np.arange(145)), strict=True):
        np.testing.assert_array_equal(found, expected)
    for chosen in (np.arange(145), RNG.integers(0, 145, 400), np.array([], np.int64), np.array([100, 3, 100, 39, 40])):
        assert_records_alike(cells, pack, chosen)
        cells.will_need(chosen)
        assert_records_alike(cells, pack, chosen)
        assert_records_alike(cells, pack, chosen[::-1])


def test_counts_are_the_stores_own(cells: StoreCells, loaded: Loaded) -> None:
    chosen = RNG.integers(0, 145, 300)
    cells.will_need(chosen[:200])
    rows = cells.read(chosen).decode()
    for place, cell in enumerate(chosen):
        span = slice(rows.indptr[place], rows.indptr[place + 1])
        np.testing.assert_array_equal(rows.indices[span], loaded.counts[cell][0])
        np.testing.assert_array_equal(rows.counts[span], loaded.counts[cell][1])


def test_one_sampler_gives_one_stream(atlas: str, cells: StoreCells, pack: Pack) -> None:
    streams = []
    for source in (cells, pack):
        codes = source.column("cell_type").astype(np.int64)
        sampler = Sampler(build_groups([codes], 2, len(source)), SamplerConfig(seed=3), release=source.fingerprint)
        drawn = sampler.draw(0, 0, 500)
        source.will_need(drawn)
        streams.append([source.read(drawn[i : i + 64]).data.tobytes() for i in range(0, 500, 64)])
    assert streams[0] == streams[1]


def test_a_choice_of_cells_is_the_packs_too(atlas: str, tmp_path: Path) -> None:
    options = PackOptions(organisms=("mouse",), splits=("validation", "train"), piece_mib=3)
    pack = make_pack(atlas, "r1", tmp_path / "p", options)
    cells = open_store_cells(atlas, "r1", options)
    assert cells.fingerprint == pack.fingerprint != open_store_cells(atlas, "r1").fingerprint
    assert_records_alike(cells, pack, RNG.permutation(len(pack)))
    cells.close()


@pytest.mark.parametrize("options", [PackOptions(splits=("dev",)), PackOptions(organisms=("mouse",), splits=("test",))])
def test_what_cannot_be_loaded_is_said_and_makes_no_index(atlas: str, own_cache: Path, options: PackOptions) -> None:
    with pytest.raises(LoaderInputError):
        open_store_cells(atlas, "r1", options)
    assert not list(own_cache.glob("indexes/*/index"))
    with pytest.raises(LoaderInputError, match="panatlas release"):
        open_store_cells(atlas, "r9")
    with pytest.raises(LoaderInputError, match="memory_mib"):
        open_store_cells(atlas, "r1", memory_mib=0)


def test_the_memory_allowed_is_kept(atlas: str, pack: Pack, caplog: pytest.LogCaptureFixture) -> None:
    cells = open_store_cells(atlas, "r1", memory_mib=1)
    many = np.tile(np.arange(145), 3)
    assert len(cells.read(many).data) < 1 << 20 < 100 * len(cells.read(many).data)
    cells.memory_mib = 0  # no window fits
    cells.close()
    with caplog.at_level(logging.WARNING):
        cells.will_need(many)
    assert "145 of the 145 cells" in caplog.text
    assert_records_alike(cells, pack, many)
    assert cells.held == 0
    cells.close()
    cells.memory_mib = 1
    for start in range(0, 145, 20):
        cells.will_need(np.arange(start, min(start + 20, 145)))
        assert 0 < cells.held <= 1 << 20
    assert cells.held < len(cells.read(np.arange(145)).data), "two windows, not all"
    cells.close()
    assert cells.held == 0


def test_the_bound_on_a_records_size_holds(cells: StoreCells, pack: Pack) -> None:
    packed = pack.read(np.arange(145))
    sizes = np.diff(np.append(packed.starts, len(packed.data)))
    bound = cells._most_bytes(np.arange(145))
    assert (bound >= sizes).all()
    assert np.median(bound / sizes) < 1.1, "and is near where counts are ordinary"


def _exit_if_right(cells: StoreCells, chosen: np.ndarray, expected: int) -> None:
    cells.will_need(chosen)
    assert int(cells.read(chosen).data.astype(np.int64).sum()) == expected


@pytest.mark.parametrize("fewer", [False, True])
def test_a_stream_reads_windows_and_no_single_batches(
    cells: StoreCells, fewer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = cells._read
    monkeypatch.setattr(cells, "_read", lambda some: (reads.append(len(some)), read(some))[1])
    words = make_vocabulary(cells)
    collator = Collator(words, cells, CollateConfig(length=20, neighbours=2, fewer_neighbours=fewer))
    options = StreamOptions(batch_size=4, window=16, neighbours=collator.reach)
    held_out = replace(SAMPLED, splits=("validation",), config=SamplerConfig(kind="sequential", draws=12))
    train, validation = (
        CellStream(cells, make_sampler(cells, plan, words, tmp_path), collator.collate, options)
        for plan in (SAMPLED, held_out)
    )
    windows = 0
    for number, _ in enumerate(train):
        if number in (1, 6, 10):
            assert len(list(validation)) == 3
            windows += 1
    assert len(reads) <= windows + -(-len(train) // 4), reads


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_another_process_opens_its_own_store(cells: StoreCells, pack: Pack, method: str) -> None:
    chosen = RNG.integers(0, 145, 64)
    cells.read(chosen)  # so that there is something open that must not be taken along
    assert len(pickle.dumps(cells)) < 3000, "places, no cells"
    expected = int(pack.read(chosen).data.astype(np.int64).sum())
    process = get_context(method).Process(target=_exit_if_right, args=(cells, chosen, expected))
    process.start()
    process.join(60)
    alive = process.is_alive()
    process.kill()
    process.join()
    assert not alive, "it hangs"
    assert process.exitcode == 0


def test_whoever_comes_first_makes_the_index_and_others_wait(atlas: str, own_cache: Path, pack: Pack) -> None:
    made: list[str] = []
    options = PackOptions(progress=lambda stage, done, total: made.append(stage))
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: open_store_cells(atlas, "r1", options), range(6)))
    assert {cells.fingerprint for cells in found} == {pack.fingerprint}
    assert made.count("index mus_musculus") == 1, "by one of them"
    (folder,) = (own_cache / "indexes").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "index"]


def test_a_maker_that_died_is_in_nobodys_way(atlas: str, own_cache: Path) -> None:
    def die(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store_cells(atlas, "r1", PackOptions(progress=die))
    (folder,) = (own_cache / "indexes").iterdir()
    assert not (folder / "index").exists()
    (folder / ".part-killed").mkdir()
    assert len(open_store_cells(atlas, "r1")) == 145
    assert sorted(file.name for file in folder.iterdir()) == [".lock", "index"]


def test_a_damaged_index_is_refused_and_named(atlas: str, own_cache: Path) -> None:
    open_store_cells(atlas, "r1")
    (file,) = own_cache.glob("indexes/*/index/cells/joinid/c/0")
    data = bytearray(file.read_bytes())
    data[8] ^= 1
    file.write_bytes(data)
    with pytest.raises(PackError, match="cells/joinid/c/0: other bytes"):
        open_store_cells(atlas, "r1")


def test_a_damaged_record_is_named_and_not_handed_out(atlas: str, tmp_path: Path, own_cache: Path) -> None:
    copy = tmp_path / "atlas"
    shutil.copytree(atlas, copy)
    uri = f"{copy}/census_data/homo_sapiens/ms/RNA/records"
    with soma.DataFrame.open(uri) as frame:
        row = frame.read((slice(60, 60),)).concat()
    with soma.DataFrame.open(uri, "w", tiledb_timestamp=open_atlas(str(copy)).published_ms) as frame:
        frame.write(row.set_column(2, "counts", [[row["counts"][0].as_py()[:-1]]]).cast(row.schema))
    cells = open_store_cells(str(copy), "r1")
    codes = {name: cells.column(name) for name in ("joinid", "organism")}
    bad = int(np.flatnonzero((codes["joinid"] == 60) & (codes["organism"] == 1))[0])
    for chosen in (np.array([bad]), np.array([0, bad])):
        with pytest.raises(PackError, match=r"homo_sapiens.*damaged"):
            cells.read(chosen)
    cells.will_need(np.array([bad, 1]))
    with pytest.raises(PackError, match=r"homo_sapiens.*damaged"):
        cells.read(np.array([1]))
    cells.close()
    assert len(cells.read(np.array([1]))) == 1
    cells.close()


def test_an_atlas_without_a_graph_is_read_too(plain_atlas: str) -> None:
    cells = open_store_cells(plain_atlas, "r1")
    assert cells.about["neighbours"] == {"kept": 0, "dropped": 0}
    assert (cells.neighbours(np.arange(3))[0] == -1).all()
    assert len(cells.read(np.arange(3))) == 3
    cells.close()
