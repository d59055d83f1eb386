"""What an ingest costs does not grow with the cells and datasets that are there: asked of what it reads and writes.

Seconds say little on a busy machine, so the tests count rows read, files kept and fragments. The oracle of copies is
Python's sets over the hashes in obs; that of the tables is a count of all cells.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from atlas import IngestOptions, consolidate, content_hash, ingest, layout, open_atlas, retract, summaries, validate
from atlas.copies import find_copies
from atlas.copy_index import KINDS
from atlas.ledger import Ledger
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

INDEX, INGEST = sys.modules["atlas.copy_index"], sys.modules["atlas.ingest"]
PLAIN = IngestOptions(doublets=False, neighbours=False)
N_DATASETS, N_CELLS = 9, 30


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep runs of hashes in a folder of the test's own, made for few cells."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(INDEX, "cache_dir", lambda: cache)
    monkeypatch.setattr(INDEX, "LEAST", 20)
    return cache


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[int]]:
    """An atlas of nine datasets, every third of which begins with cells of the first, and rows read for each."""
    folder = tmp_path_factory.mktemp("many")
    uri, read = str(folder / "atlas"), []
    first = make_adata(N_CELLS, 120, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(INDEX, "cache_dir", lambda: folder / "cache")
        patch.setattr(INDEX, "LEAST", 20)
        patch.setattr(INGEST, "EVERY", 4)
        patch.setattr(INGEST, "too_many", lambda name: 3)
        rows_of = INDEX._read

        def counted(root, organism, start, stop):
            read.append(stop - start)
            return rows_of(root, organism, start, stop)

        patch.setattr(INDEX, "_read", counted)
        for i in range(N_DATASETS):
            cells = make_adata(N_CELLS, 120, seed=i)
            cells.var = first.var
            if i and i % 3 == 0:
                cells.X = sp.vstack([first.X[:5], cells.X[5:]]).tocsr()
            read.append(0)
            start = len(read) - 1
            receipt = ingest(write_source(folder / f"{i}.h5ad", cells, id=f"d{i}"), uri, PLAIN)
            assert receipt.status == "written"
            read[start:] = [sum(read[start:])]
    return uri, read


def test_hashes_are_read_from_obs_once_whatever_comes_later(many: tuple[str, list[int]]) -> None:
    _, read = many
    assert read == [0, *[N_CELLS] * (N_DATASETS - 1)]  # of each dataset by the next


def test_copies_are_those_that_sets_of_all_hashes_give(many: tuple[str, list[int]], own_cache: Path) -> None:
    uri, _ = many
    atlas = open_atlas(uri)
    obs = atlas.query("human", every_cell=True).obs()
    seen: dict[str, set[str]] = {kind: set() for kind in KINDS}
    copies = np.zeros(len(obs), bool)
    for i, row in enumerate(obs.sort_values("soma_joinid").itertuples()):
        copies[i] = any(getattr(row, kind) in seen[kind] for kind in KINDS)
        for kind in KINDS:
            if getattr(row, kind):
                seen[kind].add(getattr(row, kind))
    assert copies.sum() == 5 * 2
    assert np.array_equal(~obs.sort_values("soma_joinid")["is_primary_data"].to_numpy(), copies)
    hashes = tuple(obs[kind].to_numpy(object) for kind in KINDS)
    nnz = obs["nnz"].to_numpy()
    for n_stored in (0, 25, 60, 200, len(obs)):
        plain = find_copies(atlas.place, "homo_sapiens", n_stored, hashes, nnz)
        asked = find_copies(atlas.place, "homo_sapiens", n_stored, hashes, nnz, atlas.datasets)
        assert np.array_equal(plain.exact, asked.exact)
        assert np.array_equal(plain.core, asked.core)


def test_runs_are_few_and_one_that_is_lost_or_of_another_atlas_is_made_anew(
    many: tuple[str, list[int]], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = open_atlas(many[0])
    obs = atlas.query("human", every_cell=True).obs([*KINDS, "nnz"])
    hashes, nnz = tuple(obs[kind].to_numpy(object) for kind in KINDS), obs["nnz"].to_numpy()
    meant = find_copies(atlas.place, "homo_sapiens", len(obs), hashes, nnz)

    def runs(datasets) -> list[str]:
        n = sum(row.n_cells for row in datasets)
        found = find_copies(atlas.place, "homo_sapiens", n, hashes, nnz, datasets)
        assert np.array_equal(found.exact[:n], meant.exact[:n])
        assert found.exact[: n - 1].sum() > 0.9 * n
        return sorted(path.name.partition(".")[0] for path in own_cache.rglob(f"*.{KINDS[0]}.npy"))

    for i in range(1, N_DATASETS + 1):
        held = runs(atlas.datasets[:i])
        assert len(held) == bin(i).count("1")  # 9 datasets alike in size: a run of 8 and one of 1
    next(own_cache.rglob("240-*.count_hash.npy")).unlink()
    assert runs(atlas.datasets) == held
    moved = [pd.Series(vars(row)).to_dict() for row in atlas.datasets]
    moved[-1]["published_ms"] += 1
    other = runs([*atlas.datasets[:-1], type(atlas.datasets[0])(**moved[-1])])
    assert other[0] == held[0]
    assert other[1] != held[1]
    damaged = next(own_cache.rglob("0-240-*.core_hash.npy"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert len(runs(atlas.datasets)) < len(held)  # told from obs, and left out
    assert runs(atlas.datasets)[0].startswith("0-270-")  # made anew, in one piece
    monkeypatch.setattr(INDEX, "MOST", 100)
    for path in own_cache.rglob("*.npy"):
        path.unlink()
    for i in range(1, N_DATASETS + 1):
        sizes = [np.diff(sorted(map(int, name.split("-")[:2])))[0] for name in runs(atlas.datasets[:i])]
    assert max(sizes) <= 100


def test_a_cache_that_cannot_be_written_is_done_without(
    many: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(INDEX, "cache_dir", lambda: tmp_path / "file")
    atlas = open_atlas(many[0])
    obs = atlas.query("human", every_cell=True).obs([*KINDS, "nnz"])
    hashes = tuple(obs[kind].to_numpy(object) for kind in KINDS)
    found = find_copies(atlas.place, "homo_sapiens", len(obs), hashes, obs["nnz"].to_numpy(), atlas.datasets)
    assert found.exact.mean() > 0.9  # all but cells of few genes, which are no proof of a copy


def test_tables_are_added_to_as_if_all_cells_were_counted(many: tuple[str, list[int]], tmp_path: Path) -> None:
    uri, _ = many
    atlas = open_atlas(uri)
    assert validate(uri).sound
    added = {name: atlas.table(name) for name in ("summary", "organisms", "summary_cell_counts")}
    written: dict[str, pd.DataFrame] = {}

    def note(uri, fields, columns) -> None:
        name = uri.rsplit("/", 1)[1].partition("~")[0]
        written[name] = pd.DataFrame({f.name: list(c) for f, c in zip(fields, columns, strict=True)})

    with pytest.MonkeyPatch.context() as patch:
        for writer in ("write_frame", "replace_frame"):
            patch.setattr(summaries, writer, note)
        patch.setattr(summaries, "_names", lambda root: [])
        summaries.recount_summaries(atlas.place, list(atlas.datasets), atlas.table("summary")["value"][1])
    for name, table in written.items():
        pd.testing.assert_frame_equal(
            added[name].sort_values("soma_joinid", ignore_index=True)[list(table)], table, check_dtype=False
        )
    assert set(written) == set(added)


def test_long_runs_of_ingests_leave_few_writings_of_each_table(many: tuple[str, list[int]]) -> None:
    atlas = open_atlas(many[0])
    var = atlas.array_uri("homo_sapiens", layout.VAR)
    tables = [atlas.open()["census_info"][name].uri for name in ("summary", "datasets", "summary_cell_counts")]
    for uri in (var, *tables):
        assert "~" in uri
        assert len(list((atlas.place / uri.removeprefix("file://") / "__fragments").iterdir())) <= 4 + 1
    with Ledger.to_read(atlas.place / "ledger" / "ledger.sqlite") as ledger:
        moments = [row.published_ms for row in ledger.datasets()]
    for i, moment in enumerate(moments):
        then = open_atlas(many[0], at=moment)
        assert len(then.table("datasets")) == i + 1
        assert then.genes("human")["n_measured_obs"].max() == (i + 1) * N_CELLS


def test_a_renewal_that_fails_leaves_the_dataset_published_and_the_next_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(INGEST, "EVERY", 1)
    monkeypatch.setattr(INGEST, "too_many", lambda name: 2)
    uri = str(tmp_path / "atlas")
    first = write_source(tmp_path / "a.h5ad", make_adata(20, 60, seed=1), id="a")
    second = write_source(tmp_path / "b.h5ad", make_adata(20, 60, seed=2), id="b")
    assert ingest(first, uri, PLAIN).status == "written"
    fresh = sys.modules["atlas.fresh_frames"]
    with monkeypatch.context() as patch:
        patch.setattr(fresh.editions, "take_member", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert ingest(second, uri, PLAIN).status == "written"
    atlas = open_atlas(uri)
    assert atlas.n_cells("human") == 40
    assert "~" not in atlas.array_uri("homo_sapiens", layout.VAR)
    assert not list((atlas.place / layout.DATA).rglob("var~*"))
    held = content_hash(atlas)
    consolidate(uri)
    retracted = ingest(write_source(tmp_path / "c.h5ad", make_adata(20, 60, seed=3), id="c"), uri, PLAIN)
    assert retracted.status == "written"
    assert "~" in open_atlas(uri).array_uri("homo_sapiens", layout.VAR)
    retract(uri, "c", "test")
    assert content_hash(open_atlas(uri)) == held
