"""Tasks of a trained model at the command line: what is written is what the verbs say, slips are told with a remedy."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import coo_matrix

from catalog import task_inputs as inputs
from catalog.cli import run
from catalog.errors import REJECTED, USAGE, CatalogInputError
from catalog.model_places import read_adata
from model import (
    Calibration,
    DonorCounts,
    InferenceOptions,
    LabelCalibration,
    annotate,
    denoise,
    embed,
    impute,
    load_model,
    save_model,
)
from model.ledger import Ledger
from ontology import load_gene_table
from tests.model.small_runs import N_GENES, small_adata, small_start

pytestmark = pytest.mark.index
N = 40
OPTIONS = InferenceOptions(length=64, batch_size=16, device="cpu")


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two models, the newer of which has seen some cells, and a file of cells."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        cells = small_adata()[:N].copy()
        cells.X[-1] = 0
        cells.obs["note"] = pd.Series(["mine", None] * (N // 2), index=cells.obs_names, dtype=object)
        cells.write_h5ad(folder / "cells.h5ad")
        read = read_adata(folder / "cells.h5ad", "human").cells
        model, hashes = small_start().model, read.codes("count_hash_high", np.arange(15))
        order, roles = np.argsort(hashes), np.array([2] * 9 + [0] * 4 + [1] * 2, dtype=np.uint8)
        ledger = Ledger(hashes[order], np.arange(15, dtype=np.uint64), roles[order])
        save_model(folder / "models" / "first", model)
        save_model(folder / "models" / "second", replace(model, ledger=ledger, facts={"release": "r1"}))
        for age, name in enumerate(("second", "first")):
            os.utime(folder / "models" / name / "about.json", (1_000_000 - age, 1_000_000 - age))
        (folder / "models" / ".part-x").mkdir()
        (folder / "models" / "unfinished").mkdir()
        (folder / "models" / "unfinished" / "run.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in that home, and write elsewhere."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ask(capsys, home):
    """Run a task on a file of the home; returns exit code, receipt and what people are told."""

    def call(verb: str, *words: object, file: object = "cells.h5ad") -> tuple[int, dict, str]:
        capsys.readouterr()
        source = file if str(file).startswith("release:") else home / str(file)
        usual = {"--output": "out.h5ad", "--length": 64, "--batch-size": 16, "--device": "cpu"}
        rest = [str(word) for name, value in usual.items() if name not in words for word in (name, value)]
        code = run([verb, str(source), "--json", *rest, *map(str, words)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


@pytest.fixture(scope="module")
def small(home: Path) -> ad.AnnData:
    return ad.read_h5ad(home / "cells.h5ad")


@pytest.fixture(scope="module")
def model(home: Path):
    return load_model(home / "models" / "second")


@pytest.fixture(scope="module")
def cells(home: Path, session_home: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(home))
        return read_adata(home / "cells.h5ad", "human").cells


def test_an_embedding_is_what_the_verb_says_beside_what_the_file_said(ask, small, model, cells, home):
    code, told, err = ask("embed")
    assert code == 0, err
    found, truth = ad.read_h5ad("out.h5ad"), embed(model, cells, options=OPTIONS)
    assert found.obsm["X_panatlas"].dtype == np.float32
    np.testing.assert_array_equal(found.obsm["X_panatlas"], truth.values)
    assert {*found.obsm} == {"X_panatlas", *(f"X_panatlas_{token}" for token in truth.columns)}
    np.testing.assert_array_equal(found.obsm["X_panatlas_cell_type"], truth.part("cell_type"))
    assert found.obs_names.tolist() == small.obs_names.tolist()
    assert found.var_names.tolist() == small.var_names.tolist()
    assert found.obs["donor_id"].tolist() == small.obs["donor_id"].tolist()
    assert found.obs["note"].isna().tolist() == [False, True] * (N // 2)
    uns = found.uns["panatlas"]
    assert (uns["command"], uns["model"], uns["release"]) == ("embed", model.digest, "r1")
    assert (uns["options"]["length"], uns["versions"]["panatlas"]) == (64, told["versions"]["panatlas"])
    assert (told["input"], told["cells"], told["model"], told["matrix"]) == (
        str(home / "cells.h5ad"), N, model.digest, "X",
    )  # fmt: skip
    assert told["dimensions"] == {name: one.stop - one.start for name, one in truth.columns.items()}
    assert told["model_folder"] == str(home / "models" / "second"), "the newest"
    assert told["genes"]["measured"] == told["genes"]["known"] == N_GENES
    assert (told["output"], len(told["sha256"])) == ("out.h5ad", 64)


def test_the_same_command_twice_writes_the_same_bytes_and_not_over_a_file(ask):
    first = ask("embed")[1]["sha256"]
    code, told, err = ask("embed")
    assert (code, told) == (USAGE, {})
    assert "--force" in err
    assert ask("embed", "--force")[1]["sha256"] == first
    Path("out.h5ad").unlink()
    assert ask("embed", "--model", "first")[1]["sha256"] != first, "another model"


@pytest.mark.parametrize("kind", ["zarr", "10x-mtx"])
def test_other_formats_give_what_the_h5ad_gives(ask, small, model, cells, home, kind):
    folder = home / f"cells-{kind}"
    if kind == "zarr":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zarr's two formats; both are read
            small.write_zarr(folder)
    else:
        folder.mkdir()
        mmwrite(folder / "matrix.mtx", coo_matrix(small.X.T.astype(np.int64)))
        (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in small.obs_names))
        lines = [f"{gene}\t{gene}\tGene Expression\n" for gene in small.var_names]
        (folder / "features.tsv").write_text("".join(lines))
    code, _, err = ask("embed", file=folder.name)
    assert code == 0, err
    found = ad.read_h5ad("out.h5ad")
    assert found.obs_names.tolist() == small.obs_names.tolist()
    np.testing.assert_array_equal(found.obsm["X_panatlas"], embed(model, cells, options=OPTIONS).values)


def test_annotations_are_columns_of_names_ids_and_probabilities(ask, model, cells):
    code, told, err = ask("annotate", "--threshold", "0.34")
    assert code == 0, err
    found, truth = ad.read_h5ad("out.h5ad").obs, annotate(model, cells, options=OPTIONS, threshold=0.34)
    assert truth.labels
    for label, one in truth.labels.items():
        assert found[f"panatlas_{label}"].tolist() == one.names.tolist()
        assert found[f"panatlas_{label}_ontology_term_id"].tolist() == one.terms.tolist()
        np.testing.assert_array_equal(found[f"panatlas_{label}_probability"], one.said_probability)
        assert sum(told["labels"][label].values()) == N
        assert told["thresholds"][label]["threshold"] == 0.34
    assert "cell_type" in err


def test_only_the_labels_that_are_asked_for_are_written(ask):
    assert ask("annotate", "--label", "cell_type", "--threshold", "1.0")[0] == 0
    found = ad.read_h5ad("out.h5ad").obs
    assert [name for name in found if name.startswith("panatlas_")] == [
        "panatlas_cell_type", "panatlas_cell_type_ontology_term_id", "panatlas_cell_type_probability",
    ]  # fmt: skip
    assert set(found["panatlas_cell_type"]) == {"unknown"}, "an untrained model is never certain"
    Path("out.h5ad").unlink()
    code, _, err = ask("annotate", "--label", "cel_type")
    assert (code, "cell_type" in err) == (USAGE, True)
    assert not Path("out.h5ad").exists()


def test_a_calibration_is_used_when_it_is_of_the_model(ask, model):
    counts = DonorCounts(("a",), ("x",), (10,), ((1,) * 100,), ((10,) * 100,))
    one = LabelCalibration(4.0, (1.0, 0.9), None, counts)
    mine = Calibration(model.digest, "validation", 64, 0, 0, {"cell_type": one})
    Path("mine.json").write_text(mine.to_json())
    code, told, err = ask("annotate", "--calibration", "mine.json", "--alpha", "0.6")
    assert code == 0, err
    told = told["thresholds"]["cell_type"]
    assert (told["temperature"], told["threshold"]) == (4.0, mine.threshold("cell_type", 0.6).value)
    for text, said in ((replace(mine, model="f" * 64).to_json(), "of this model"), ("{}", "calibration")):
        Path("other.json").write_text(text)
        code, _, err = ask("annotate", "--calibration", "other.json", "--force")
        assert (code, said in err) == (USAGE, True)
    code, _, err = ask("annotate", "--calibration", "nowhere.json", "--force")
    assert (code, "nowhere.json" in err) == (USAGE, True)


def test_denoised_counts_are_a_layer_over_the_genes_that_were_asked_for(ask, small, model, cells):
    ids = sorted(small.var_names[:7])
    Path("genes.txt").write_text("\n".join([*ids[::-1], "nonsense"]))
    code, told, err = ask("denoise", "--genes", "genes.txt", "--depth", "2", "--variance")
    assert code == 0, err
    found, truth = ad.read_h5ad("out.h5ad"), denoise(model, cells, genes=ids, depth=2.0, options=OPTIONS)
    assert {*found.layers} == {"panatlas_denoised", "panatlas_denoised_variance"}
    np.testing.assert_array_equal(found.layers["panatlas_denoised"], truth.expected)
    np.testing.assert_array_equal(found.layers["panatlas_denoised_variance"], truth.variance)
    assert found.var_names.tolist() == ids
    table = load_gene_table("human")
    symbols = dict(zip(table.ids, table.symbols, strict=True))
    assert found.var["feature_name"].tolist() == [symbols[one] for one in ids]
    assert (told["n_vars"], told["unknown_genes"]) == (7, ["nonsense"])


def test_all_measured_genes_are_denoised_unless_some_are_named(ask, small, model, cells):
    code, _, err = ask("denoise", "--told", "cell")
    assert code == 0, err
    found = ad.read_h5ad("out.h5ad")
    assert (found.uns["panatlas"]["told"], found.uns["panatlas"]["depth"]) == ("cell", 1.0)
    assert sorted(found.var_names) == sorted(small.var_names)
    layer = found.to_df("panatlas_denoised")
    np.testing.assert_allclose(layer.sum(axis=1), small.X.sum(1), rtol=1e-4)
    truth = denoise(model, cells, told="cell", options=OPTIONS)
    np.testing.assert_array_equal(layer[list(truth.genes)], truth.expected)


def test_genes_that_were_not_measured_are_imputed(ask, model, cells, small):
    ids = sorted(load_gene_table("human").ids[N_GENES : N_GENES + 5])
    Path("genes.txt").write_text("\n".join(ids))
    code, told, err = ask("impute", "--genes", "genes.txt")
    assert code == 0, err
    found, truth = ad.read_h5ad("out.h5ad"), impute(model, cells, ids, options=OPTIONS)
    np.testing.assert_array_equal(found.layers["panatlas_imputed"], truth.expected)
    assert (found.var_names.tolist(), told["layer"]) == (ids, "panatlas_imputed")
    Path("genes.txt").write_text(small.var_names[0])
    code, _, err = ask("impute", "--genes", "genes.txt", "--force")
    assert (code, "denoise" in err) == (USAGE, True)


def test_without_a_list_every_gene_that_the_input_lacks_is_meant(cells, model):
    asked = inputs.TaskInput("x", cells, np.arange(3), pd.DataFrame(), pd.DataFrame(), None, ())
    lacking = inputs.lacking_genes(asked, model)
    assert sorted([*lacking, *load_gene_table("human").ids[:N_GENES]]) == sorted(model.vocabulary.genes[0])


def test_what_people_should_know_is_a_warning_and_in_the_receipt(ask):
    _, told, err = ask("embed", "--length", "400")
    found = {one["code"]: one for one in told["findings"]}
    assert told["seen"].items() >= {"not_found": N - 15, "validation": 4, "eligible": 2, "trained": 9}.items()
    assert (found["trained-on-cells"]["count"], found["few-genes"]["count"]) == (13, N_GENES)
    assert found["cells-without-counts"]["count"] == 1
    assert f"13 of {N} cells" in err
    assert "warning few-genes" in err
    assert f"{N_GENES} of {N_GENES} genes" in err
    _, told, err = ask("embed", "--model", "first", "--force")
    assert (told["seen"]["not_found"], "few-genes" in err, "trained-on" in err) == (N, False, False)
    assert [one["code"] for one in told["findings"]] == ["cells-without-counts"]


def write_wrong(path: Path, kind: str) -> None:
    """Write a file with something wrong."""
    cells = small_adata()[:N].copy()
    if kind == "log-normalised":
        cells.X = np.log1p(cells.X / cells.X.sum(1, keepdims=True) * 1e4)
    elif kind == "counts-in-a-layer":
        cells.layers["umis"] = cells.X.copy()
        cells.X = np.log1p(cells.X / cells.X.sum(1, keepdims=True) * 1e4)
    elif kind == "mouse":
        cells = small_adata("mouse")[:N].copy()
    elif kind == "30-genes":
        cells = cells[:, :30].copy()
    elif kind == "no-cells":
        cells = cells[:0].copy()
    elif kind == "text":
        path.write_text("not HDF5")
        return
    cells.write_h5ad(path)


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("log-normalised", REJECTED, "pass the raw counts"),
        ("counts-in-a-layer", REJECTED, "--layer umis"),
        ("mouse", REJECTED, "--organism"),
        ("30-genes", USAGE, "30 known genes"),
        ("no-cells", REJECTED, "at least one cell"),
        ("text", REJECTED, "HDF5"),
    ],
)
def test_a_file_that_will_not_do_is_refused_with_a_remedy(ask, home, kind, code, said):
    write_wrong(home / f"{kind}.h5ad", kind)
    found, told, err = ask("embed", file=f"{kind}.h5ad")
    assert (found, told) == (code, {}), err
    assert said in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == [], "nothing is left"
    if kind == "counts-in-a-layer":
        assert ask("embed", "--layer", "umis", file=f"{kind}.h5ad")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--organism", "mouse"), "homo_sapiens"),
        (("--organism", "unicorn"), "unicorn"),
        (("--model", "frist"), "nearest: first"),
        (("--model", "unfinished"), "panatlas resume"),
        (("--neighbours", "2"), "0 for a file"),
        (("--length", "0"), "1 or more"),
        (("--least-genes", "151"), "150 known genes"),
        (("--layer", "nowhere"), "one of X"),
        (("--output", "x.csv"), ".h5ad"),
        (("--device", "tpu"), "cuda"),
    ],
)
def test_a_slip_is_told_with_its_remedy(ask, words, said):
    code, told, err = ask("embed", *words)
    assert (code, told) == (USAGE, {}), err
    assert said in err
    assert list(Path().iterdir()) == []


def test_an_input_is_never_written_over(ask, home):
    before = (home / "cells.h5ad").read_bytes()
    code, _, err = ask("embed", "--output", home / "cells.h5ad", "--force")
    assert (code, "another file than the input" in err) == (USAGE, True)
    assert (home / "cells.h5ad").read_bytes() == before
    code, _, err = ask("embed", file="nowhere.h5ad")
    assert (code, "exists" in err) == (USAGE, True)


def test_a_model_that_was_tampered_with_is_refused(ask, home):
    config = home / "models" / "second" / "config.json"
    before = config.read_text()
    try:
        config.write_text(before + " ")
        code, _, err = ask("embed")
    finally:
        config.write_text(before)
    assert (code, "copy it again" in err) == (USAGE, True)


def test_where_there_is_no_model_it_is_said_how_to_make_one(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path))
    with pytest.raises(CatalogInputError, match="panatlas train SIZE"):
        inputs.find_model(None)
    with pytest.raises(CatalogInputError, match="panatlas train SIZE"):
        inputs.find_model("mine")
    assert inputs.find_model(str(home / "models" / "first")) == home / "models" / "first"


def test_a_release_that_is_not_there_is_refused(ask):
    code, _, err = ask("embed", file="release:human-v1")
    assert code == 4, err
