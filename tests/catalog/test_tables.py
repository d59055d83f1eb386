"""The Parquet tables: equal to obs as written, whole or absent, made once per published state."""

from __future__ import annotations

import stat

import pandas as pd
import pyarrow.parquet as pq
import pytest

from atlas import StoreError, open_atlas, schema
from catalog import export_tables, tables
from ontology import cache_dir


def test_obs_equals_what_was_written_cell_by_cell(small):
    atlas, obs = small
    got = pq.read_table(export_tables(atlas).obs).to_pandas()
    assert list(got.columns) == [f.name for f in schema.OBS]
    columns = got.columns
    pd.testing.assert_frame_equal(
        got.sort_values("observation_joinid", ignore_index=True),
        obs[columns].sort_values("observation_joinid", ignore_index=True),
        check_dtype=False,
    )


def test_datasets_hold_one_row_each(small):
    atlas, _ = small
    got = pq.read_table(export_tables(atlas).datasets).to_pandas()
    assert got["dataset_id"].tolist() == ["lungs", "bloods", "mice"]
    assert got["dataset_total_cell_count"].tolist() == [120, 40, 30]


def test_made_once_per_state_and_again_after_an_ingest(tmp_path, grow):
    grow(tmp_path, "one", "human", 12)
    first = export_tables(open_atlas(str(tmp_path)))
    made = first.obs.stat().st_mtime_ns
    assert export_tables(open_atlas(str(tmp_path))) == first
    assert first.obs.stat().st_mtime_ns == made
    grow(tmp_path, "two", "mouse", 5)
    second = export_tables(open_atlas(str(tmp_path)))
    assert second.folder != first.folder
    assert pq.read_metadata(first.obs).num_rows == 12  # a slow reader still has the old one
    assert pq.read_metadata(second.obs).num_rows == 17
    grow(tmp_path, "three", "human", 3)
    third = export_tables(open_atlas(str(tmp_path)))
    assert sorted(p.name for p in third.folder.parent.iterdir()) == sorted([second.folder.name, third.folder.name])


def test_an_older_moment_shows_the_older_cells(tmp_path, grow):
    grow(tmp_path, "one", "human", 12)
    then = open_atlas(str(tmp_path)).published_ms
    grow(tmp_path, "two", "human", 5)
    old = export_tables(open_atlas(str(tmp_path), at=then))
    assert pq.read_metadata(old.obs).num_rows == 12
    assert pq.read_table(old.datasets)["dataset_id"].to_pylist() == ["one"]


def test_a_failed_export_leaves_nothing(tmp_path, grow, monkeypatch):
    grow(tmp_path, "one", "human", 12)
    atlas = open_atlas(str(tmp_path))
    monkeypatch.setattr(tables, "_obs_batches", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        export_tables(atlas)
    assert list((tmp_path / "tables").iterdir()) == []


def test_a_quicker_process_wins_and_both_read_the_same(tmp_path, grow, monkeypatch):
    grow(tmp_path, "one", "human", 12)
    atlas = open_atlas(str(tmp_path))
    batches = tables._obs_batches

    def slow(opened):
        monkeypatch.setattr(tables, "_obs_batches", batches)
        export_tables(opened)  # the other process, in the middle of ours
        yield from batches(opened)

    monkeypatch.setattr(tables, "_obs_batches", slow)
    made = export_tables(atlas)
    assert pq.read_metadata(made.obs).num_rows == 12
    assert [p.name for p in (tmp_path / "tables").iterdir()] == [made.folder.name]


def test_a_folder_that_may_not_be_written_falls_back_to_the_cache(tmp_path, grow, monkeypatch):
    grow(tmp_path, "one", "human", 12)
    atlas = open_atlas(str(tmp_path))
    real = tables._write

    def refuse(opened, home, key):
        if home.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied")
        real(opened, home, key)

    monkeypatch.setattr(tables, "_write", refuse)
    assert export_tables(atlas).folder.is_relative_to(cache_dir())
    monkeypatch.setattr(tables, "_write", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    grow(tmp_path, "two", "human", 5)
    with pytest.raises(StoreError, match="may be written"):
        export_tables(open_atlas(str(tmp_path)))


def test_others_may_read_the_tables(small):
    folder = export_tables(small[0]).folder
    assert stat.S_IMODE(folder.stat().st_mode) & 0o055 == 0o055
