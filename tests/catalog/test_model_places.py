"""What training finds in files and folders: genes, gene networks, names of runs; and what a command line may change."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from catalog import console
from catalog.errors import CatalogInputError, exit_code
from catalog.model_commands import change_config, make_recipe
from catalog.model_places import CellPlace, model_folder, read_adata, read_genes, read_network, run_folder
from loaders import AnnDataCells, Vocabulary
from loaders.errors import CellsError, LeakageError
from model import TrainingDivergedError, preset, recipe_for
from ontology import load_gene_table
from tests.factories import make_adata

pytestmark = pytest.mark.index
BOTH = ["homo_sapiens", "mus_musculus"]
TP53, MDM2, GATA1 = "ENSG00000141510", "ENSG00000135679", "ENSG00000102145"


@pytest.fixture(autouse=True)
def own_home(session_home, monkeypatch) -> None:
    """Read gene tables from the session's cache."""
    monkeypatch.setenv("PANATLAS_HOME", str(session_home))


def test_ids_and_symbols_of_every_organism_are_found_and_the_others_counted(tmp_path):
    (tmp_path / "tf.txt").write_text(f"# mine\nTP53\n{GATA1}.12\n\nGata1\nnonsense\nTP53\n")
    ids, unknown = read_genes(tmp_path / "tf.txt", BOTH)
    mouse = load_gene_table("mouse")
    assert ids == sorted([TP53, GATA1, mouse.ids[mouse.symbols == "Gata1"][0]])
    assert unknown == ["nonsense"]


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"\xff\xfe\x00", None])
def test_a_file_without_genes_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "tf.txt").write_bytes(text)
    with pytest.raises(CatalogInputError, match="regulators"):
        read_genes(tmp_path / "tf.txt", BOTH)


@pytest.mark.parametrize("kind", ["tsv", "csv", "parquet"])
def test_a_network_becomes_a_bias_in_which_targets_read_regulators(tmp_path, kind):
    rows = {"regulator": ["TP53", "TP53", "GATA1", "nonsense"], "target": ["MDM2", MDM2, TP53, "TP53"]}
    frame, path = pd.DataFrame({**rows, "weight": [0.5, 2.0, 1.0, 9.0]}), tmp_path / f"network.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep={"tsv": "\t", "csv": ","}[kind], index=False)
    network = read_network(path, BOTH)
    assert (network.organism, network.unknown) == ("homo_sapiens", 1)
    vocabulary = Vocabulary(("homo_sapiens",), ((MDM2, TP53),))
    bias = network.bias(vocabulary)
    assert bias.edges.tolist() == [[0], [1]]
    assert bias.weights.tolist() == [2.0]
    with pytest.raises(CatalogInputError, match="edges between genes"):
        network.bias(Vocabulary(("homo_sapiens",), ((GATA1,),)))


def test_weights_are_one_where_there_are_none_and_must_be_numbers(tmp_path):
    path = tmp_path / "network.tsv"
    path.write_text("regulator\ttarget\nTP53\tMDM2\n")
    assert read_network(path, BOTH).edges["weight"].tolist() == [1.0]
    for text in ("regulator\ttarget\tweight\nTP53\tMDM2\tinf\n", "a\tb\nTP53\tMDM2\n", "regulator\ttarget\nx\ty\n"):
        path.write_text(text)
        with pytest.raises(CatalogInputError, match="prior"):
            read_network(path, BOTH)


def test_a_run_is_named_after_what_it_is_and_other_choices_have_other_names(monkeypatch, tmp_path):
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path))
    cells = SimpleNamespace(about={"organisms": []}, fingerprint="f" * 64)
    place = CellPlace(cells, ("a", "r1"), "r1", usual=True)
    assert run_folder("tiny", place, 3, {}) == tmp_path / "models" / "tiny-r1-3"
    names = {run_folder("tiny", one, 3, said).name for one in (place, CellPlace(cells, ("b", "r1"), "r1", usual=False))
             for said in ({}, {"recipe": 1}, {"recipe": 2})}  # fmt: skip
    assert len(names) == 6


def test_the_counts_of_a_file_are_those_of_the_layer_that_is_named(tmp_path):
    adata = make_adata(12, 60)
    path, whole = tmp_path / "a.h5ad", adata.copy()
    adata.layers["spliced"], adata.layers["counts"] = adata.X.copy(), adata.X * 2
    adata.raw = whole
    adata.X = adata.X * 3
    adata.write_h5ad(path)
    plain = AnnDataCells(whole, "human").column("count_hash_high")
    for layer, factor, matrix in ((None, 1, "raw/X"), ("raw", 1, "raw/X"), ("spliced", 1, "layers/spliced"),
                                  ("counts", 2, "layers/counts"), ("X", 3, "X")):  # fmt: skip
        found = read_adata(path, "human", layer)
        assert found.matrix == matrix
        assert (found.cells.column("depth") == factor * whole.X.sum(1).A1).all()
        assert (found.cells.column("count_hash_high") == plain).all() == (factor == 1)
        assert found.names == list(adata.obs_names)
    with pytest.raises(CatalogInputError, match="one of X, counts, spliced, raw") as refused:
        read_adata(path, "human", "splicd")
    assert exit_code(refused.value) == 2


def test_what_a_file_lost_on_the_way_is_told_and_labels_nobody_asked_for_are_not(tmp_path):
    adata = make_adata(12, 60)
    adata.var_names = ["nonsense", *adata.var_names[1:]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    findings = read_adata(tmp_path / "a.h5ad", "human").findings
    assert [(one.code, one.severity, one.count) for one in findings] == [("unmapped-genes", "warning", 1)]


def test_an_unfinished_run_is_no_model(tmp_path):
    assert model_folder(tmp_path) == tmp_path
    (tmp_path / "run.json").touch()
    with pytest.raises(CatalogInputError, match="panatlas resume"):
        model_folder(tmp_path)
    (tmp_path / "model").mkdir()
    assert model_folder(tmp_path) == tmp_path / "model"


def test_changes_of_the_command_line_are_changes_of_the_configuration():
    plain = preset("tiny")
    assert change_config(plain, []) == plain
    changes = ["trunk.attention=criss-cross", 'tasks.masks=["tf"]', "losses.kl=0", "tokens.adapter=false"]
    assert change_config(plain, changes) == plain.changed(
        trunk={"attention": "criss-cross"}, tasks={"masks": ("tf",)}, losses={"kl": 0.0}, tokens={"adapter": False}
    )


def test_a_seed_is_that_of_weights_cells_and_genes():
    draws = {"seed": 7, "length": 64, "organisms": ()}
    recipe = make_recipe("small", {"steps": 9, "batch_size": None}, draws)
    assert (recipe.seed, recipe.data.plan.config.seed, recipe.data.collate.seed) == (7, 7, 7)
    assert (recipe.steps, recipe.batch_size) == (9, recipe_for("small").batch_size)
    assert (recipe.data.collate.length, recipe.data.collate.shortest) == (64, 64)
    assert make_recipe("small", {}, {"seed": 0, "length": None, "organisms": ()}) == recipe_for("small")


def test_what_training_refuses_has_its_exit_code():
    assert exit_code(TrainingDivergedError(1, "loss is no number", 0.1)) == 3
    assert exit_code(LeakageError(["x"])) == 3
    assert exit_code(CellsError("X", "1.5", "pass counts")) == 3


def test_progress_is_a_line_every_ten_seconds_where_there_is_no_terminal(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.TrainingLine(Console(file=stream, width=200)) as line:
        for step in range(10, 60, 10):
            line({"step": step, "steps": 100, "loss": 1 / step, "cells_per_s": 2_000.0, "data_wait": 0.015})
            now[0] += 6
    told = stream.getvalue().splitlines()
    assert [text.split(":")[0] for text in told] == ["step 10 of 100", "step 30 of 100", "step 50 of 100"]
    assert told[1].endswith("loss 0.03333, 2,000 cells/s, 1.5% waiting for data, 42 s left")
