"""finetune, grow and transfer at the command line: files in, a model or labels out, slips told with a remedy."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from catalog.cli import run
from catalog.errors import USAGE
from catalog.labelled_inputs import own_name
from catalog.model_places import read_adata
from model import (
    InferenceOptions,
    annotate,
    label_accuracy,
    labelled_cells,
    load_model,
    save_model,
    transfer_by_orthologs,
    transfer_labels,
)
from model.ledger import Ledger
from tests.model.small_runs import small_adata, small_start

pytestmark = pytest.mark.index
OPTIONS = InferenceOptions(length=64, device="cpu")
SHORT = {"--length": 64, "--device": "cpu"}
QUICK = SHORT | {"--steps": 4, "--batch-size": 16, "--patience": 0}


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model that has seen cells of one donor, and files of cells."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        cells = small_adata()
        cells.obs["My state"] = np.where(np.arange(cells.n_obs) % 3 == 0, "one", "other")
        cells.obs.loc[cells.obs_names[:5], "My state"] = np.nan
        cells.obs["run"] = [f"run {i % 2}" for i in range(cells.n_obs)]
        cells.write_h5ad(folder / "cells.h5ad")
        small_adata("mouse").write_h5ad(folder / "mouse.h5ad")
        read = read_adata(folder / "cells.h5ad", "human").cells
        mine = np.flatnonzero(cells.obs["donor_id"] == "d4")
        hashes = np.sort(read.codes("count_hash_high", mine))
        ledger = Ledger(hashes, np.arange(len(mine), dtype=np.uint64), np.full(len(mine), 2, np.uint8))
        save_model(folder / "models" / "base", replace(small_start().model, ledger=ledger))
    return folder


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in that home, and write elsewhere."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ask(capsys):
    """Run a command; returns exit code, receipt and what people are told."""

    def call(*words: object, usual: dict[str, object]) -> tuple[int, dict, str]:
        capsys.readouterr()
        rest = [str(word) for name, value in usual.items() if name not in words for word in (name, value)]
        code = run([*map(str, words), *rest, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


def test_a_file_teaches_its_types_and_unseen_donors_are_scored(ask, home):
    words = ("finetune", home / "cells.h5ad", "--output", "run", "--test", "0.2", "--seed", "3")
    code, told, err = ask(*words, usual=QUICK)
    assert code == 0, err
    base, tuned = load_model(home / "models" / "base"), load_model(Path("run/model"))
    assert (told["model"], told["base"]) == (tuned.digest, base.digest)
    assert tuned.facts["base"] == base.digest
    assert {split: found["donors"] for split, found in told["cells"].items()} == {
        "train": 4, "validation": 1, "test": 1,
    }  # fmt: skip
    assert told["tuned_weights"]["tuned"] < told["tuned_weights"]["all"]
    assert f"{told['tuned_weights']['tuned']:,} of {told['tuned_weights']['all']:,} weights" in err
    obs = ad.read_h5ad(home / "cells.h5ad").obs
    cells = read_adata(home / "cells.h5ad", "human", None, {}).cells
    scored = told["scores"]["test"]["tuned"]
    numbers = [np.flatnonzero(obs["donor_id"] == one) for one in sorted(set(obs["donor_id"]))]
    scores = [label_accuracy(tuned, cells, "cell_type", some, OPTIONS) for some in numbers]
    assert scored in [pytest.approx(one) for one in scores]
    assert set(told["scores"]) == {"validation", "test"}
    assert set(told["scores"]["test"]) == {"base", "tuned"}
    again = ask(*words, usual=QUICK)[1]
    assert again["model"] == told["model"], "the same command finds the finished run"


def test_a_column_of_ones_own_is_a_label_and_annotate_writes_it(ask, home):
    words = ("finetune", home / "cells.h5ad", "--output", "run", "--column", "My state", "--batch", "run", "--mmd", "2")
    code, told, err = ask(*words, usual=QUICK)
    assert code == 0, err
    assert (told["label"], told["tuning"]["labels"], told["tuning"]["mmd"]) == ("My_state", ["My_state"], 2.0)
    assert told["tuning"]["within"] == "cell_type"
    assert "column 'My state' is label My_state" in err
    assert sum(split["labelled"] for split in told["cells"].values()) == 144 - 5
    tuned = load_model(Path("run/model"))
    assert tuned.vocabulary.labels["My_state"].classes == ("one", "other")
    assert tuned.facts["recipe"]["tuning"]["between"] == "batch"
    code, _, err = ask("annotate", home / "cells.h5ad", "--model", "run", "--output", "out.h5ad", "--threshold", "0.1",
                       usual=SHORT)  # fmt: skip
    assert code == 0, err
    cells = read_adata(home / "cells.h5ad", "human").cells
    truth = annotate(tuned, cells, options=OPTIONS, threshold=0.1).of("My_state")
    assert ad.read_h5ad("out.h5ad").obs["panatlas_My_state"].tolist() == truth.names.tolist()


def test_a_dry_run_says_what_would_be_done_and_warns_of_cells_the_base_has_seen(ask, home):
    held = {}
    for seed, donor in ((0, "d3"), (1, "d4")):
        code, told, err = ask("finetune", home / "cells.h5ad", "--output", "run", "--dry-run", "--seed", seed, usual={})
        assert code == 0, err
        assert not Path("run").exists()
        held[donor] = "trained-on-cells" in err
        assert [one["code"] for one in told["findings"]].count("trained-on-cells") == held[donor]
        assert told["cells"]["validation"] == {"cells": 24, "donors": 1, "labelled": 24}
    assert held == {"d3": False, "d4": True}, "the base has seen the cells of d4"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "mood"), "--column NAME"),
        (("--column", "mood"), "a column of obs"),
        (("--batch", "mood"), "a column of obs"),
        (("--donor", "cell_type", "--validation", "0.9", "--test", "0.2"), "less than 1"),
        (("--donor", "split2"), "split2"),
        (("--vectors", "letters"), "knows the organism"),
        (("--model", "nothing"), "base"),
    ],
)
def test_slips_are_told(ask, home, words, said):
    code, _, err = ask("finetune", home / "cells.h5ad", "--output", "run", *words, usual=QUICK)
    assert (code, said in err) == (USAGE, True), err
    assert not Path("run").exists()


def test_a_split_that_shares_a_donor_is_refused(ask, home):
    leaky = small_adata()
    leaky.obs["split"] = ["train"] * 72 + ["validation"] * 72
    leaky.write_h5ad("leaky.h5ad")
    code, _, err = ask("finetune", "leaky.h5ad", "--output", "run", "--split", "split", usual=QUICK)
    assert code != 0
    assert "donors" in err
    assert not Path("run/model").exists()


def test_a_model_grows_an_organism_and_labels_move_to_its_cells(ask, home):
    words = ("transfer", home / "cells.h5ad", home / "mouse.h5ad", "--organism", "mouse", "--output", "t.h5ad")
    code, _, err = ask(*words, "--model", "base", usual=SHORT)
    assert (code, "homo_sapiens" in err) == (USAGE, True)
    code, told, err = ask("grow", "mouse", "--output", "grown", usual={})
    assert code == 0, err
    grown = load_model(Path("grown"))
    assert (told["model"], told["organism"], told["protein_vectors"]) == (grown.digest, "mus_musculus", 0)
    assert grown.facts["grown_from"] == told["base"]
    code, told, err = ask(*words, "--model", "grown", "--neighbours", "9", usual=SHORT)
    assert code == 0, err
    found = ad.read_h5ad("t.h5ad")
    human = labelled_cells(read_adata(home / "cells.h5ad", "human", None, {}).cells, "cell_type")
    mouse = read_adata(home / "mouse.h5ad", "mouse").cells
    truths = {
        "panatlas": transfer_labels(grown, human, mouse, neighbours=9, options=OPTIONS),
        "ortholog": transfer_by_orthologs(human, mouse, neighbours=9),
    }
    for who, truth in truths.items():
        stem = f"{who}_transfer_cell_type"
        assert found.obs[f"{stem}_ontology_term_id"].tolist() == truth.values.tolist()
        assert set(found.obs[stem]) <= {"T cell", "B cell", "monocyte"}
        for name in ("probability", "agreement", "distance"):
            np.testing.assert_array_equal(found.obs[f"{stem}_{name}"], getattr(truth, name))
        assert told["labels"][who] == dict(Counter(truth.values.tolist()))
    assert found.obs_names.tolist() == small_adata("mouse").obs_names.tolist()
    assert told["methods"]["ortholog"]["genes"] > 0
    assert ask(*words, "--model", "grown", usual=SHORT)[0] == USAGE, "an output is not written over"


def test_a_transfer_writes_over_no_input_and_tells_of_cells_that_are_on_both_sides(ask, home):
    both = small_adata()
    both.write_h5ad("q.h5ad")
    before = Path("q.h5ad").read_bytes()
    for pair in ((home / "cells.h5ad", "q.h5ad"), ("q.h5ad", home / "cells.h5ad")):
        code, _, err = ask("transfer", *pair, "--output", "q.h5ad", "--force", "--model", "base", usual=SHORT)
        assert (code, "another file than the input" in err) == (USAGE, True), err
    assert Path("q.h5ad").read_bytes() == before
    both[:30].write_h5ad("few.h5ad")
    words = ("transfer", home / "cells.h5ad", "few.h5ad", "--output", "t.h5ad", "--model", "base")
    code, told, err = ask(*words, usual=SHORT)
    assert code == 0, err
    (one,) = [one for one in told["findings"] if one["code"] == "cells-of-reference"]
    assert one["count"] == 30
    assert "cells-of-reference" in err


def test_a_file_without_labels_teaches_nothing(ask, home):
    bare = small_adata()
    del bare.obs["cell_type"]
    bare.write_h5ad("bare.h5ad")
    code, _, err = ask("finetune", "bare.h5ad", "--output", "run", usual=QUICK)
    assert (code, "--column" in err) == (USAGE, True), err


@pytest.mark.parametrize(
    ("column", "name"),
    [("Cell state (v2)", "Cell_state_v2"), ("sex", "own_sex"), ("2nd", "own_2nd"), ("batch", "own_batch"), ("a", "a")],
)
def test_a_column_becomes_a_name_that_labels_may_have(column, name):
    assert own_name(column) == name
