"""A curator's day at the command line: plan, ingest good and bad sources, re-run, be stopped, report, release."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from tests.factories import make_adata, write_source
from tests.journeys.conftest import SCRIPT

pytestmark = pytest.mark.index


def store_files(root: Path) -> dict[str, bytes]:
    """Return every file of the SOMA tree; the ledger keeps receipts of rejections too, so it is left out."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and p.relative_to(root).parts[0] not in ("ledger", "reports", "tables", "releases")
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with two good files, one of normalised values, and a manifest of all and one that is not there."""
    folder = tmp_path / "study"
    folder.mkdir()
    write_source(folder / "one.h5ad", make_adata(60, 150, seed=1))
    write_source(folder / "two.h5ad", make_adata(40, 150, seed=2))
    normalised = make_adata(30, 150, seed=3)
    normalised.X = sp.csr_matrix(np.log1p(normalised.X.toarray()))
    write_source(folder / "bad.h5ad", normalised)
    names = ("one", "bad", "gone", "two")
    (folder / "m.toml").write_text(
        "".join(f'[[source]]\norganism = "human"\nid = "{n}"\nuri = "{n}.h5ad"\nlicence = "CC0"\n' for n in names)
    )
    return folder


def test_from_plan_to_release(panatlas, desk, study, tmp_path):
    atlas = tmp_path / "atlas"
    ingest = ("ingest", "human", "--atlas", atlas, "--no-doublets")
    everything = (*ingest, "--manifest", study / "m.toml", "--json")

    planned = panatlas(*everything, "--dry-run")
    assert [r["status"] for r in planned.json["receipts"]] == ["planned", "rejected", "rejected", "planned"]
    assert not atlas.exists()

    first = panatlas(*everything)
    assert first.code == 3, first.err
    assert [(r["source_id"], r["status"]) for r in first.json["receipts"]] == [
        ("one", "written"),
        ("bad", "rejected"),
        ("gone", "rejected"),
        ("two", "written"),
    ]
    bad, gone = first.json["receipts"][1:3]
    assert bad["findings"][0]["remedy"]
    assert gone["findings"][0]["code"] == "source-unreachable"
    for receipt in first.json["receipts"]:
        for axis in ("cells", "genes", "counts"):
            books = receipt[axis]
            assert books["came_in"] == books["kept"] + books["merged"] + sum(books["dropped"].values())
    assert "Traceback" not in first.err
    assert Path(first.json["report"]).read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")

    before = store_files(atlas)
    copy = shutil.copy(study / "one.h5ad", tmp_path / "another name.h5ad")
    again = desk(*ingest, "--source", copy, "--source", study / "two.h5ad", "--json")
    assert again.code == 0, again.err
    assert [r["status"] for r in again.json["receipts"]] == ["unchanged", "unchanged"]
    alone = desk(*ingest, "--source", study / "bad.h5ad")
    assert alone.code == 3
    assert alone.out == ""
    assert "raw" in alone.err
    assert desk(*ingest, "--source", study / "gone.h5ad").code == 5
    assert store_files(atlas) == before

    info = desk("info", "--atlas", atlas, "--json").json
    assert (info["cells"], [d["dataset_id"] for d in info["datasets"]]) == (100, ["one", "two"])

    release = ("release", "first", "--atlas", atlas, "--split-by", "dataset", "--json")
    assert desk(*release, "--dry-run").json["status"] == "planned"
    made = desk(*release)
    assert (made.code, made.json["status"]) == (0, "written")
    assert sum(made.json["manifest"]["split"]["cells"].values()) == 100
    assert desk(*release).json["status"] == "unchanged"
    write_source(study / "three.h5ad", make_adata(20, 150, seed=4))
    assert desk(*ingest, "--source", study / "three.h5ad").code == 0
    refused = desk(*release)
    assert refused.code == 2
    assert "another" in refused.err
    assert desk("report", "human", "--atlas", atlas).code == 0


def test_stopped_by_ctrl_c_it_says_how_to_go_on_and_the_same_command_finishes(panatlas, desk, study, tmp_path):
    atlas = tmp_path / "atlas"
    arguments = ["ingest", "human", "--source", str(study / "one.h5ad"), "--atlas", str(atlas), "--no-doublets"]
    with subprocess.Popen([SCRIPT, *arguments], stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
        until = time.monotonic() + 120
        while not (atlas / "ledger" / "ledger.sqlite").exists() and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=120)[1]
    assert child.returncode == 130, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert desk("info", "--atlas", atlas).code == 4  # nothing is half there
    assert panatlas(*arguments).code == 0
    assert desk("info", "--atlas", atlas, "--json").json["cells"] == 60


def test_an_organism_without_starter_says_what_to_pass(desk, tmp_path):
    done = desk("ingest", "rhesus", "--atlas", tmp_path / "atlas")
    assert done.code == 2
    assert "--source" in done.err
    assert not (tmp_path / "atlas").exists()
