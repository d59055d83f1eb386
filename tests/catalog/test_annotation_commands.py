"""Commands about labels: a calibration is made, found and used; scores and audits say what the verbs say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem
from sklearn.metrics import accuracy_score, f1_score

from catalog.annotate_command import beside_model
from catalog.cli import run
from catalog.errors import USAGE
from catalog.model_places import read_adata
from model import (
    Calibration,
    InferenceOptions,
    annotate,
    compare_terms,
    load_model,
    nearest_cells,
    save_model,
    smooth_annotation,
)
from model.ledger import Ledger
from tests.model.annotated_cells import MONOCYTE, B, annotated_cells, annotating_model

pytestmark = pytest.mark.index
OPTIONS = InferenceOptions(length=80, batch_size=60, device="cpu")
SHOWN = ("--length", "80", "--batch-size", "60", "--device", "cpu")
LATER = 8
"""Monocytes that are called B cells in the file."""


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model that learnt from a third of the donors, and labelled files of those and of the others."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    cells = annotated_cells()
    every = np.arange(len(cells))
    rows = cells.read(every).decode()
    words, table = cells.about["vocabulary"], cells.genes()
    counts = sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(cells), len(table)))
    measured = np.flatnonzero(cells.measured(0, 0))
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": [words["cell_type"][one] for one in cells.column("cell_type")],
            "sex_ontology_term_id": [words["sex"][one] for one in cells.column("sex")],
            "donor_id": [words["donor"][one].rsplit("/", 1)[-1] for one in cells.column("donor")],
        },
        index=[f"c{i}" for i in every],
    )
    adata = ad.AnnData(counts[:, measured], obs, pd.DataFrame(index=table["feature_id"].to_numpy()[measured]))
    train, held = (np.flatnonzero(some) for some in (cells.column("split") == 0, cells.column("split") > 0))
    near = sp.random(len(held), len(held), 0.05, random_state=0, format="csr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        adata.write_h5ad(folder / "all.h5ad")
        fresh = adata[held].copy()
        fresh.obsp["connectivities"] = sp.csr_matrix(near + near.T)
        fresh.write_h5ad(folder / "held.h5ad")
        adata[train].copy().write_h5ad(folder / "train.h5ad")
        hashes = np.sort(read_adata(folder / "train.h5ad", "human").cells.column("count_hash_high"))
        ledger = Ledger(hashes, np.zeros(len(hashes), np.uint64), np.full(len(hashes), 2, np.uint8))
        save_model(folder / "models" / "named", replace(annotating_model(), ledger=ledger))
    return folder


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in that home, and write elsewhere."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ask(capsys):
    """Run a command; returns exit code, receipt and what people are told."""

    def call(verb: str, source: object, *words: object, shown: tuple = SHOWN) -> tuple[int, dict, str]:
        capsys.readouterr()
        code = run([verb, str(source), "--json", *shown, *map(str, words)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


@pytest.fixture(scope="module")
def model(home: Path):
    return load_model(home / "models" / "named")


@pytest.fixture(scope="module")
def calibrated(home: Path):
    """The calibration beside the model, and what its command said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(home))
        assert run(["calibrate", str(home / "all.h5ad"), *SHOWN, "--alpha", "0.2"]) == 0
    path = beside_model(home / "models" / "named")
    assert path == home / "models" / "named.calibration.json"
    return path, Calibration.from_json(path.read_text())


def test_a_calibration_is_of_donors_the_model_has_not_seen_and_tells_what_came_of_it(ask, home, calibrated):
    code, told, err = ask("calibrate", home / "all.h5ad", "--output", "mine.json", "--alpha", "0.2")
    assert code == 0, err
    assert Path("mine.json").read_text() == calibrated[0].read_text(), "the same command, the same bytes"
    assert told["left_out"] == {"donors": 12, "cells": 144}
    assert "12 donors with 144 cells left out" in err
    assert told["cells"] == {"calibrating": 144, "testing": 144}
    one = told["labels"]["cell_type"]
    assert (one["donors"], one["tested_donors"]) == (12, 12)
    assert one["coverage"] == pytest.approx(1 - one["wrong"])
    assert one["wrong_interval"][0] <= one["wrong"] <= one["wrong_interval"][1]
    assert "all donors are of one dataset" in " ".join(one["plainly"])
    for sentence in (*one["plainly"], *told["novelty"]["plainly"]):
        assert sentence in err
    assert told["novelty"]["known_cells"] == 144
    assert (calibrated[1].seen, calibrated[1].split) == (144, "all")


def test_annotate_uses_the_calibration_beside_the_model(ask, home, model, calibrated):
    path, calibration = calibrated
    code, told, err = ask("annotate", home / "held.h5ad", "--output", "out.h5ad", "--alpha", "0.2", "--novelty", "0.1")
    assert code == 0, err
    cells = read_adata(home / "held.h5ad", "human").cells
    truth = annotate(model, cells, options=OPTIONS, calibration=calibration, alpha=0.2)
    found = ad.read_h5ad("out.h5ad")
    assert told["calibration"]["file"] == str(path)
    assert told["thresholds"]["cell_type"]["threshold"] == calibration.threshold("cell_type", 0.2).value
    assert found.obs["panatlas_cell_type_ontology_term_id"].tolist() == truth.of("cell_type").terms.tolist()
    np.testing.assert_allclose(found.obs["panatlas_novelty_p"], truth.novelty)
    assert found.obs["panatlas_novel"].tolist() == (truth.novelty <= 0.1).tolist()
    assert told["novelty"]["cells"] == (truth.novelty <= 0.1).sum()
    assert found.uns["panatlas"]["calibration"]["sha256"] == told["calibration"]["sha256"]
    by_cell = ask("annotate", home / "held.h5ad", "--output", "b.h5ad", "--alpha", "0.05", "--unit", "cell")[1]
    assert "new cells of these donors" in by_cell["thresholds"]["cell_type"]["promise"]
    code, told, _ = ask("annotate", home / "held.h5ad", "--output", "plain.h5ad", "--calibration", "none")
    assert (code, told["calibration"]) == (0, None)
    assert "panatlas_novel" not in ad.read_h5ad("plain.h5ad").obs
    shorter = ("--length", "70", "--device", "cpu")
    code, told, err = ask("annotate", home / "held.h5ad", "--output", "short.h5ad", shown=shorter)
    assert (code, told["calibration"]) == (0, None), "it is of cells of 80 genes"
    assert [one["found"] for one in told["findings"] if one["code"] == "calibration-unused"] == [
        "made for length 80, neighbours 0"
    ]
    assert "calibration-unused" in err
    code, _, err = ask("annotate", home / "held.h5ad", "--output", "x.h5ad", "--alpha", "0.2", shown=shorter)
    assert (code, "made for length 80" in err) == (USAGE, True), err
    code, _, err = ask("annotate", home / "held.h5ad", "--output", "x.h5ad", "--calibration", path, shown=shorter)
    assert (code, "length 80" in err) == (USAGE, True)


def test_labels_are_smoothed_over_the_nearest_cells_or_a_graph_of_the_file(ask, home, model):
    cells = read_adata(home / "held.h5ad", "human").cells
    plain = annotate(model, cells, options=OPTIONS)
    graph = ad.read_h5ad(home / "held.h5ad").obsp["connectivities"]
    words = ("--calibration", "none", "--label", "cell_type", "--smooth", "0.6")
    for name, more in (("own.h5ad", ()), ("file.h5ad", ("--graph", "connectivities"))):
        code, told, err = ask("annotate", home / "held.h5ad", "--output", name, *words, *more)
        assert code == 0, err
        truth = smooth_annotation(plain, graph if more else nearest_cells(plain.embedding), 0.6).of("cell_type")
        found = ad.read_h5ad(name).obs
        assert found["panatlas_cell_type_ontology_term_id"].tolist() == truth.terms.tolist()
        np.testing.assert_allclose(found["panatlas_cell_type_probability"], truth.said_probability, rtol=1e-5)
        assert told["smoothing"]["changed"] == {"cell_type": int((truth.said != plain.of("cell_type").said).sum())}
        assert "none since" in told["thresholds"]["cell_type"]["promise"]
    for more, said in (
        (("--alpha", "0.2"), "not calibrated"),
        (("--graph", "distances"), "connectivities"),
    ):
        code, _, err = ask("annotate", home / "held.h5ad", "--output", "no.h5ad", *words, *more)
        assert (code, said in err) == (USAGE, True)
    code, _, err = ask("annotate", home / "held.h5ad", "--output", "no.h5ad", "--graph", "connectivities")
    assert (code, "--smooth" in err) == (USAGE, True)


def test_a_graph_or_strength_that_will_not_do_is_told_before_cells_are_read(ask, home, monkeypatch):
    monkeypatch.setattr("catalog.annotate_command.perform", lambda *_: pytest.fail("cells are read"))
    held = ad.read_h5ad(home / "held.h5ad")
    n = held.n_obs
    held.obsp["below"] = sp.csr_matrix(([-1.0], ([0], [1])), (n, n))
    held.obsp["nan"] = sp.csr_matrix(([np.nan], ([0], [1])), (n, n))
    held.write_h5ad("graphs.h5ad")
    with h5py.File("graphs.h5ad", "r+") as file:
        write_elem(file["obsp"], "narrow", sp.csr_matrix((n - 1, n)))
        write_elem(file["obsp"], "damaged", sp.csr_matrix(([1.0], ([0], [1])), (n, n)))
        file["obsp/damaged/indices"][0] = n + 7
        write_elem(file["obsp"], "words", np.array(["a", "b"], dtype=object))
    for more, said in (
        (("--smooth", "1"), "below 1"), (("--smooth", "nan"), "below 1"), (("--smooth", "-0.1"), "from 0"),
        (("--smooth", "0.5", "--graph", "below"), "0 or more"), (("--smooth", "0.5", "--graph", "nan"), "finite"),
        (("--smooth", "0.5", "--graph", "narrow"), f"({n}, {n})"),
        (("--smooth", "0.5", "--graph", "damaged"), "matrix of numbers"),
        (("--smooth", "0.5", "--graph", "words"), "matrix of numbers"),
    ):  # fmt: skip
        code, _, err = ask("annotate", "graphs.h5ad", "--output", "no.h5ad", *more)
        assert (code, said in err) == (USAGE, True), (more, err)


def test_a_damaged_obs_is_told(ask, home):
    for name in ("none.h5ad", "array.h5ad"):
        shutil.copy(home / "held.h5ad", name)
        with h5py.File(name, "r+") as file:
            del file["obs"]
            if name == "array.h5ad":
                file["obs"] = np.arange(3)
        code, _, err = ask("score", name, "--truth", "x", shown=())
        assert (code != 0, "Traceback" in err, "obs" in err) == (True, False, True), err


def test_scores_are_those_of_the_columns_side_by_side(ask, home):
    assert ask("annotate", home / "held.h5ad", "--output", "out.h5ad", "--calibration", "none")[0] == 0
    words = ("--truth", "cell_type_ontology_term_id", "--donor", "donor_id", "--output", "confusion.csv")
    code, told, err = ask("score", "out.h5ad", *words, shown=())
    assert code == 0, err
    obs = ad.read_h5ad("out.h5ad").obs
    pair = [obs[name].astype(str).tolist() for name in ("cell_type_ontology_term_id",
                                                        "panatlas_cell_type_ontology_term_id")]  # fmt: skip
    truth = compare_terms("cell_type", *pair, obs["donor_id"].tolist())
    assert told["scores"] == pytest.approx(truth.scores)
    assert told["scores"]["accuracy"] == pytest.approx(accuracy_score(*pair))
    terms = sorted({*pair[0], *pair[1]} - {"unknown"})
    assert told["scores"]["macro_f1"] == pytest.approx(f1_score(*pair, labels=terms, average="macro", zero_division=0))
    assert (told["cells"], told["donors"]) == (288, 24)
    table = pd.read_csv("confusion.csv")
    assert table["cells"].sum() == 288
    assert table.columns.tolist() == ["true", "true_name", "told", "told_name", "relation", "cells", "share"]
    assert "hierarchical f1" in err
    assert ask("score", "out.h5ad", *words, shown=())[0] == USAGE, "the table is there"
    by_name = ask("score", "out.h5ad", "--truth", "panatlas_cell_type", "--told", "panatlas_cell_type", shown=())[1]
    assert by_name["scores"]["accuracy"] == 1, "names are looked up"
    code, _, err = ask("score", "out.h5ad", "--truth", "nowhere", shown=())
    assert (code, "donor_id" in err) == (USAGE, True)
    code, _, err = ask("score", "nowhere.h5ad", "--truth", "x", shown=())
    assert (code, "exists" in err) == (USAGE, True)


def test_planted_labels_are_found_by_an_audit(ask, home):
    adata = ad.read_h5ad(home / "held.h5ad")
    named = adata.obs["cell_type_ontology_term_id"].astype(str)
    moved = named.index[named == MONOCYTE][:LATER].tolist()
    adata.obs["mine"] = named.where(~named.index.isin(moved), B)
    adata.write_h5ad("swapped.h5ad")
    words = ("--output", "audit.csv", "--column", "mine", "--calibration", "none")
    code, told, err = ask("audit", "swapped.h5ad", *words)
    assert code == 0, err
    cells, groups, genes = (pd.read_csv(f"audit{name}.csv") for name in ("", ".groups", ".genes"))
    found = cells[(cells["given"] == B) & (cells["told"] == MONOCYTE) & (cells["markers"] == "told")]
    assert set(found["name"]) <= set(moved)
    assert len(found) >= 1
    assert told["in_doubt"] == len(cells)
    assert told["contradicted"] == (cells["markers"] == "told").sum() == groups["by_markers"].sum()
    assert told["groups"] == len(groups)
    assert set(genes["feature_id"]) <= set(adata.var_names)
    seen = [one for one in told["findings"] if one["code"] == "label-contradicted"]
    assert sum(one["count"] for one in seen) == told["contradicted"]
    assert "label-contradicted" in err
    assert {one["where"] for one in seen} == {"obs mine"}
    code, again, _ = ask("audit", "swapped.h5ad", *words, "--force")
    assert [one["sha256"] for one in again["outputs"].values()] == [
        one["sha256"] for one in told["outputs"].values()
    ]  # fmt: skip
    for more, said in (
        (("--output", "audit.csv"), "--force"),
        (("--output", "audit.txt"), ".parquet"),
        (("--output", "new.csv", "--label", "cell_typ"), "cell_type"),
        (("--output", "new.csv", "--organism", "mouse"), "homo_sapiens"),
    ):
        code, _, err = ask("audit", "swapped.h5ad", *more)
        assert (code, said in err) == (USAGE, True), err


def test_cells_a_model_learnt_from_do_not_calibrate_it(ask, home):
    code, _, err = ask("calibrate", home / "train.h5ad", "--output", "no.json")
    assert (code, "not trained on" in err) == (USAGE, True)
    assert not Path("no.json").exists()
    for words, said in (
        (("--output", "no.txt"), ".json"),
        (("--output", "no.json", "--split", "tests"), "validation"),
        (("--output", "no.json", "--testing", "1"), "below 1"),
        (("--output", "no.json", "--donor", "nobody"), "nobody"),
    ):
        code, _, err = ask("calibrate", home / "held.h5ad", *words)
        assert (code, said in err) == (USAGE, True), err
    code, _, err = ask("calibrate", "pack:nowhere", "--output", "no.json")
    assert code != 0
    assert "nowhere" in err
