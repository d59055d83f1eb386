"""Releases by name: the newest is the latest frozen state, damaged and unfinished folders are none."""

from __future__ import annotations

import os

import pytest

from atlas import open_atlas
from catalog import CatalogInputError, QueryError, make_release, sql
from catalog.manifests import newest_release, read_manifest


@pytest.fixture
def atlas(tmp_path, grow):
    grow(tmp_path, "lungs", "human", 40)
    return open_atlas(str(tmp_path))


def age(atlas, name: str, seconds: int) -> None:
    """Let a release have been made that many seconds after 1970."""
    os.utime(atlas.root / "releases" / name / "manifest.json", (seconds, seconds))


def test_the_newest_is_of_the_latest_state_and_of_these_the_last_made(atlas, grow):
    assert newest_release(atlas.root) is None
    for seconds, name in ((300, "b"), (200, "c")):
        make_release(atlas, name)
        age(atlas, name, seconds)
    assert newest_release(atlas.root) == "b"
    grow(atlas.root, "bloods", "human", 10)
    make_release(open_atlas(atlas.uri), "a")
    age(atlas, "a", 100)
    assert newest_release(atlas.root) == "a"
    assert newest_release(atlas.root, atlas.published_ms) == "b"
    assert newest_release(atlas.root, atlas.published_ms - 1) is None
    assert read_manifest(atlas.root, "a")["name"] == "a"


def test_damaged_and_unfinished_releases_are_none(atlas):
    make_release(atlas, "good")
    for folder, text in ((".part-x", "{}"), ("torn", '{"tiledb_timestamp_ms": 9'), ("odd", "[]"), ("no", "{}")):
        (atlas.root / "releases" / folder).mkdir()
        (atlas.root / "releases" / folder / "manifest.json").write_text(text)
    assert newest_release(atlas.root) == "good"
    with pytest.raises(CatalogInputError, match="nearest: good"):
        read_manifest(atlas.root, "torn")


def test_no_release_says_how_to_make_one(atlas):
    with pytest.raises(CatalogInputError, match="panatlas release NAME"):
        read_manifest(atlas.root, "r1")
    make_release(atlas, "human-1")
    with pytest.raises(CatalogInputError, match="nearest: human-1"):
        sql(atlas, "FROM splits", release="human-2")


def test_sql_sees_the_splits_of_the_newest_or_a_named_release(atlas, grow):
    with pytest.raises(QueryError, match="once a whole release is"):
        sql(atlas, "FROM splits")
    first = make_release(atlas, "first", seed=1).manifest["split"]["cells"]
    count = "SELECT split, count(*) AS n FROM splits JOIN obs USING (organism, soma_joinid) GROUP BY 1"

    def counted(opened, release=None) -> dict[str, int]:
        rows = sql(opened, count, release=release).to_pylist()
        return {"train": 0, "validation": 0, "test": 0} | {r["split"]: r["n"] for r in rows}

    assert counted(atlas) == first
    grow(atlas.root, "bloods", "human", 30)
    later = open_atlas(atlas.uri)
    assert counted(later) == first, "cells that came after the release are in no split"
    second = make_release(later, "second", seed=2).manifest["split"]["cells"]
    assert sum(second.values()) == 70
    assert counted(later) == second
    assert counted(later, "first") == first
    assert sql(later, "SELECT count(*) AS n FROM obs", release="first").to_pylist() == [{"n": 40}]
    assert counted(atlas) == first, "an atlas opened at an earlier moment has the releases of then"
    alike = "SELECT count(*) AS n FROM splits JOIN obs ON observation_joinid = cell_id AND obs.qc_pass = splits.qc_pass"
    assert sql(later, alike).to_pylist() == [{"n": 70}]


def test_the_splits_are_read_only_and_open_no_other_file(atlas, tmp_path):
    make_release(atlas, "first")
    file = atlas.root / "releases" / "first" / "splits.parquet"
    before = file.read_bytes()
    (tmp_path / "secret.csv").write_text("hunter2")
    for query in ("DROP VIEW splits", f"COPY obs TO '{file}'", f"FROM read_text('{file.parent / 'manifest.json'}')",
                  f"FROM read_text('{tmp_path / 'secret.csv'}')"):  # fmt: skip
        with pytest.raises(QueryError):
            sql(atlas, query)
    assert file.read_bytes() == before
