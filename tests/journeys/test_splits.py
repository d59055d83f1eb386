"""From a leak to a clean release at the command line: refused with the words that cure it, cured, asked in SQL."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiledbsoma as soma

from atlas import open_atlas
from catalog import cli
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, starter_home: Path) -> Path:
    """An atlas of a study, a second one that says some of the same cells are its own, and mice."""
    folder = tmp_path_factory.mktemp("leaking")
    (folder / "home").mkdir()
    (folder / "home" / "cache").symlink_to(starter_home / "cache", target_is_directory=True)
    study, mice = make_adata(60, 300, seed=1), make_adata(30, 300, organism="mouse", seed=2)
    study.obs["donor_id"] = [f"donor {i % 2}" for i in range(60)]
    second = study[:20].copy()
    second.obs_names = [f"again{i}" for i in range(20)]
    sources = (("study", study, "human"), ("second", second, "human"), ("mice", mice, "mouse"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder / "home"))
        for name, adata, organism in sources:
            write_source(folder / f"{name}.h5ad", adata)
            source = f'[[source]]\norganism = "{organism}"\nid = "{name}"\nuri = "{name}.h5ad"\n'
            (folder / "m.toml").write_text(source)
            assert cli.run(["ingest", organism, "--manifest", str(folder / "m.toml"), "--no-doublets"]) == 0
    atlas = open_atlas(str(folder / "home" / "atlas"))
    obs = f"{atlas.uri}/census_data/homo_sapiens/obs"
    with soma.DataFrame.open(obs) as frame:
        rows = frame.read(value_filter="dataset_id == 'second'").concat()
    column = rows.schema.get_field_index("is_primary_data")
    rows = rows.set_column(column, "is_primary_data", [np.ones(len(rows), dtype=bool)])
    with soma.DataFrame.open(obs, "w", tiledb_timestamp=atlas.published_ms) as frame:
        frame.write(rows)
    return folder / "home"


@pytest.fixture
def home(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that atlas, as the default one."""
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path))
    (tmp_path / "cache").symlink_to(built / "cache", target_is_directory=True)
    shutil.copytree(built / "atlas", tmp_path / "atlas")
    return tmp_path


def test_a_leak_is_refused_and_the_remedy_it_names_cures_it(desk, home):
    held_out = ("--test", "organism:mouse", "--validation", "dataset:second", "--train", "dataset:study")
    refused = desk("release", "r1", *held_out, "--json")
    assert refused.code == 3
    assert refused.json["status"] == "rejected"
    assert refused.json["manifest"]["split"]["leakage"]["primary_cells"] > 0
    assert not (home / "atlas" / "releases" / "r1").exists()
    assert desk("sql", "FROM splits").code == 2

    cure = held_out
    for _ in range(3):  # each answer names the commonest pair; two donors are shared
        done = desk("release", "r1", *cure)
        if done.code == 0:
            break
        assert "leaking-cells" in done.err
        assert done.out == ""
        cure = (*cure, *shlex.split(done.err.split("pin both to one split (")[1].split(")")[0]))
    assert done.code == 0, done.err
    assert "written" in done.err
    assert "pinned organism:Mus musculus" in done.err
    assert "empty-split" in done.err

    query = "SELECT split, count(DISTINCT split_group) AS groups, count(*) AS cells FROM splits GROUP BY 1 ORDER BY 1"
    assert desk("sql", query, "--json").json == [
        {"split": "test", "groups": 3, "cells": 30},
        {"split": "train", "groups": 4, "cells": 80},
    ]
    leaks = (
        "SELECT count_hash FROM obs JOIN splits USING (organism, soma_joinid) WHERE obs.qc_pass "
        "AND nnz >= 24 GROUP BY 1 HAVING count(DISTINCT split) > 1"
    )
    assert desk("sql", leaks, "--release", "r1", "--json").json == []


def test_leaks_can_be_allowed_and_are_written_down(desk, home):
    arguments = ("--split-by", "dataset", "--test", "dataset:second", "--train", "dataset:study", "--json")
    assert desk("release", "r1", *arguments, "--dry-run").code == 3
    planned = desk("release", "r1", *arguments, "--allow-leaks", "--dry-run")
    assert (planned.code, planned.json["status"]) == (0, "planned")
    made = desk("release", "r1", *arguments, "--allow-leaks")
    assert (made.code, made.json["status"]) == (0, "written")
    assert made.json["manifest"] == planned.json["manifest"]
    assert made.json["manifest"]["split"]["leakage"]["primary_cells"] > 0
    assert "leaking-cells" in made.err
    assert desk("release", "r1", *arguments, "--allow-leaks").json["status"] == "unchanged"


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        (("--test", "dataset:studdy"), "dataset:study"),
        (("--test", "donor:study/donor1"), "donor:study/donor 1"),
        (("--test", "organism:rhesus"), "organism:Mus musculus"),
        (("--test", "organism:mosue"), "mouse"),
        (("--test", "mice"), "donor:DATASET/DONOR"),
        (("--split-by", "organism", "--test", "dataset:mice"), "a whole organism or more"),
        (("--test", "dataset:mice", "--train", "dataset:mice"), "pins too"),
    ],
)
def test_a_pin_of_nothing_is_answered_with_what_there_is(desk, home, pins, said):
    done = desk("release", "r1", *pins)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert not list(home.glob("atlas/releases/*"))
