"""Releases: whole or absent, never changed, splits that no later dataset moves, a hash anyone can recompute."""

from __future__ import annotations

import hashlib
import json
import multiprocessing as mp
import os
import signal

import pandas as pd
import pyarrow.parquet as pq
import pytest

from atlas import StoreError, open_atlas
from catalog import CatalogInputError, ReleaseExistsError, make_release, releases
from catalog.releases import JOINT_LABELS, content_columns
from catalog.splits import SPLIT_NAMES


@pytest.fixture
def atlas(tmp_path, grow):
    grow(tmp_path, "lungs", "human", 60)
    grow(tmp_path, "mice", "mouse", 20)
    return open_atlas(str(tmp_path))


def read(release, name: str) -> pd.DataFrame:
    return pq.read_table(release.folder / name).to_pandas()


def test_the_manifest_names_what_was_frozen(atlas):
    made = make_release(atlas, "first", seed=3)
    assert made.status == "written"
    on_disk = json.loads((made.folder / "manifest.json").read_text())
    assert on_disk == made.manifest
    assert on_disk["tiledb_timestamp_ms"] == atlas.published_ms
    assert pd.Timestamp(on_disk["created"]).value // 10**6 == atlas.published_ms
    assert [(d["dataset_id"], d["cells"]) for d in on_disk["datasets"]] == [("lungs", 60), ("mice", 20)]
    assert on_disk["datasets"][0]["content_sha256"] == hashlib.sha256(b"lungs").hexdigest()
    assert on_disk["organisms"][0] == {"organism": "Homo sapiens", "cells": 60, "passing": 45}
    assert on_disk["genes"]["homo_sapiens"]["release"] == "test 1"
    for name, facts in on_disk["files"].items():
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == facts["sha256"]
    assert sorted(p.name for p in made.folder.iterdir()) == ["joint_labels.parquet", "manifest.json", "splits.parquet"]


def test_the_content_hash_can_be_recomputed_from_obs(atlas):
    obs = pd.concat([atlas.query(o, every_cell=True).obs() for o in ("human", "mouse")])
    obs = obs.sample(frac=1, random_state=0)  # the order of cells must not matter
    columns = content_columns()
    assert {"observation_joinid", "count_hash", "cell_type_ontology_term_id", "donor_id", "dataset_id"} <= set(columns)
    cells = sorted(
        hashlib.sha256("".join(f"{len(v)}:{v}" for v in row).encode()).hexdigest()
        for row in obs[list(columns)].astype(str).itertuples(index=False)
    )
    digest = hashlib.sha256("".join(f"{line}\n" for line in (*columns, *cells)).encode()).hexdigest()
    assert make_release(atlas, "first").manifest["content_sha256"] == digest


def test_every_cell_has_one_split_and_no_group_is_parted(atlas):
    made = make_release(atlas, "by-donor")
    splits = read(made, "splits.parquet")
    obs = pd.concat([atlas.query(o, every_cell=True).obs() for o in ("human", "mouse")])
    both = splits.merge(obs, left_on="cell_id", right_on="observation_joinid", suffixes=("", "_obs"))
    assert len(both) == len(splits) == len(obs)
    assert (both["soma_joinid"] == both["soma_joinid_obs"]).all()
    assert (both["qc_pass"] == both["qc_pass_obs"]).all()
    assert (both.groupby(["dataset_id", "donor_id"], observed=True)["split"].nunique() == 1).all()
    assert set(splits["split"]) <= set(SPLIT_NAMES)
    said = made.manifest["split"]
    to_load = splits[splits["qc_pass"] & splits["is_primary_data"]]
    assert said["cells"] == {n: int((splits["split"] == n).sum()) for n in SPLIT_NAMES}
    assert said["loadable"] == {n: int((to_load["split"] == n).sum()) for n in SPLIT_NAMES}
    groups = splits.drop_duplicates("split_group")["split"]
    assert said["groups"] == {n: int((groups == n).sum()) for n in SPLIT_NAMES}
    assert (both["split_group"] == both["dataset_id"].astype(str) + "/" + both["donor_id"].astype(str)).all()
    by_dataset = make_release(atlas, "by-dataset", split_by="dataset")
    again = read(by_dataset, "splits.parquet").merge(obs, left_on="cell_id", right_on="observation_joinid")
    assert (again.groupby("dataset_id", observed=True)["split"].nunique() == 1).all()
    by_organism = make_release(atlas, "by-organism", split_by="organism", pins={"test": ["organism:mouse"]})
    splits = read(by_organism, "splits.parquet")
    assert set(splits.loc[splits["organism"] == "Mus musculus", "split"]) == {"test"}
    assert splits.groupby("organism")["split"].nunique().tolist() == [1, 1]
    assert by_organism.manifest["split"]["pinned"]["test"] == ["organism:Mus musculus"]


@pytest.mark.parametrize("split_by", ["donor", "dataset", "organism"])
def test_a_later_dataset_moves_no_cell(atlas, grow, split_by):
    before = read(make_release(atlas, "one", split_by=split_by, seed=5), "splits.parquet").set_index("cell_id")["split"]
    grow(atlas.root, "bloods", "human", 40, donors=7)
    made = make_release(open_atlas(atlas.uri), "two", split_by=split_by, seed=5)
    after = read(made, "splits.parquet").set_index("cell_id")["split"]
    assert len(after) == len(before) + 40
    pd.testing.assert_series_equal(after.loc[before.index], before)


def test_joint_labels_count_the_cells_to_load_in_each_split(atlas):
    made = make_release(atlas, "first")
    got = read(made, "joint_labels.parquet")
    keys = ["organism", "split", *(f"{label}_ontology_term_id" for label in JOINT_LABELS)]
    assert list(got.columns) == [*keys, "cells"]
    obs = pd.concat([atlas.query(o).obs() for o in ("human", "mouse")])
    obs = obs[obs["is_primary_data"]]
    splits = read(made, "splits.parquet").set_index("cell_id")["split"]
    expected = obs.assign(split=splits[obs["observation_joinid"]].to_numpy())[keys].astype(str).value_counts()
    assert {tuple(row[k] for k in keys): row["cells"] for row in got.to_dict("records")} == expected.to_dict()
    assert got.groupby("split")["cells"].sum().to_dict() == {
        name: n for name, n in made.manifest["split"]["loadable"].items() if n
    }


def test_the_same_again_is_unchanged_and_anything_else_is_refused(atlas, grow):
    made = make_release(atlas, "first")
    before = {p.name: p.read_bytes() for p in made.folder.iterdir()}
    assert make_release(atlas, "first").status == "unchanged"
    for other in ({"seed": 1}, {"pins": {"test": ["organism:mouse"]}}, {"split_by": "dataset"}):
        with pytest.raises(ReleaseExistsError, match="split"):
            make_release(atlas, "first", **other)
    grow(atlas.root, "more", "human", 5)
    with pytest.raises(ReleaseExistsError, match="tiledb_timestamp_ms"):
        make_release(open_atlas(atlas.uri), "first")
    assert make_release(open_atlas(atlas.uri, at=atlas.published_ms), "first").status == "unchanged"
    assert {p.name: p.read_bytes() for p in made.folder.iterdir()} == before
    assert [p.name for p in made.folder.parent.iterdir()] == ["first"]


def test_a_dry_run_keeps_nothing(atlas):
    made = make_release(atlas, "first", dry_run=True)
    assert made.status == "planned"
    assert made.manifest["split"]["cells"]
    assert not made.folder.exists()
    assert list((atlas.root / "releases").iterdir()) == []


def test_a_failure_leaves_nothing(atlas, monkeypatch):
    monkeypatch.setattr(
        releases, "_show_cells", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        make_release(atlas, "first")
    assert list((atlas.root / "releases").iterdir()) == []


def test_what_a_killed_maker_left_is_swept_and_a_living_makers_is_not(atlas, monkeypatch):
    """A maker is killed in a process of its own; then one is asked for while another is still at work."""
    process = mp.get_context("spawn").Process(target=_make_and_die, args=(atlas.uri,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    home = atlas.root / "releases"
    (left,) = home.iterdir()
    real, seen = releases._show_cells, []

    def make_another(*args: object) -> None:
        monkeypatch.setattr(releases, "_show_cells", real)
        seen.extend(home.iterdir())
        make_release(atlas, "second")
        real(*args)

    monkeypatch.setattr(releases, "_show_cells", make_another)
    assert make_release(atlas, "first").status == "written"
    assert len(seen) == 1
    assert left not in seen
    assert {p.name for p in home.iterdir()} == {"first", "second"}


def _make_and_die(uri: str) -> None:
    releases._show_cells = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    make_release(uri, "first")


def test_a_damaged_release_is_not_taken_for_the_same(atlas):
    made = make_release(atlas, "first")
    manifest = made.folder / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    with pytest.raises(ReleaseExistsError, match="cannot be read"):
        make_release(atlas, "first")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "-x", "a b", "x" * 65, "a\n", "é", "x;rm"])
def test_a_name_that_is_no_plain_word_is_refused(atlas, name):
    with pytest.raises(CatalogInputError, match="name"):
        make_release(atlas, name)


def test_a_split_by_cell_is_refused(atlas):
    with pytest.raises(CatalogInputError, match="donor, dataset or organism"):
        make_release(atlas, "first", split_by="cell")


def test_no_atlas_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="no atlas here"):
        make_release(str(tmp_path / "none"), "first")
