"""A task that was killed goes on; what it shows of cells is preset; a release's results go into its atlas."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import cellxgene_census
import numpy as np
import pytest

from atlas import content_hash, open_atlas, validate
from catalog import finished_blocks, write_back
from catalog import task_inputs as inputs
from catalog.cli import run
from catalog.cli_tasks import TaskOptions
from catalog.errors import DONE, INTERRUPTED, USAGE
from loaders import SourceCells
from model import InferenceOptions, ModelInputError, context_of, embed, load_model, shipped_files
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.index
N = 40
SHORT = ("--length", "64", "--device", "cpu")
OUT = ("--output", "out.h5ad")


@pytest.fixture(scope="module")
def home(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a released atlas, a model of it, and the file its cells came from."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        adata = make_adata(N, 200)
        adata.obs["donor_id"] = [f"donor {i % 6}" for i in range(N)]
        write_source(folder / "cells.h5ad", adata)
        flags = ("--no-doublets", "--no-neighbours")
        assert run(["ingest", "human", "--source", str(folder / "cells.h5ad"), *flags]) == DONE
        assert run(["release", "r1"]) == DONE
        assert run(["train", "tiny", "--max-steps", "2", "--batch-size", "8", *SHORT]) == DONE
    return folder


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in that home, and write elsewhere."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(home: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(home))
        return load_model(inputs.find_model(None))


@pytest.fixture
def ask(capsys):
    """Run a task; returns exit code, receipt and what people are told."""

    def call(verb: str, source: object, *words: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        code = run([verb, str(source), "--json", *SHORT, *map(str, words)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


def test_the_fast_preset_shows_fewer_genes_of_more_cells_unless_told_otherwise(model):
    trained = context_of(model, InferenceOptions()).length
    found = inputs.reading_options(TaskOptions(preset="fast"), model)
    assert (found.length, found.batch_size) == (min(max(trained // 12, 200), trained), 128)
    found = inputs.reading_options(TaskOptions(preset="fast", length=7, batch_size=3), model)
    assert (found.length, found.batch_size) == (7, 3)
    assert inputs.reading_options(TaskOptions(), model) == InferenceOptions()


def test_reading_begins_later_with_the_batches_it_would_have_had(model, home):
    cells = SourceCells(home / "cells.h5ad", "human")
    how = {"length": 64, "batch_size": 8, "device": "cpu"}
    whole = embed(model, cells, options=InferenceOptions(**how)).values
    rest = embed(model, cells, options=InferenceOptions(**how, first=16)).values
    np.testing.assert_array_equal(rest, whole[16:])
    for wrong in (7, -8):
        with pytest.raises(ModelInputError, match="multiple of batch_size"):
            embed(model, cells, options=InferenceOptions(**how, first=wrong))
    cells.close()


@pytest.mark.parametrize("verb", ["embed", "annotate", "denoise"])
def test_a_stopped_command_goes_on_where_it_stopped_and_writes_the_same_bytes(ask, home, verb, monkeypatch, tmp_path):
    Path("genes.txt").write_text("\n".join(ad.read_h5ad(home / "cells.h5ad", backed="r").var_names[:5]))
    words = ("--batch-size", "8", *(("--genes", "genes.txt") if verb == "denoise" else ()))
    monkeypatch.setattr(finished_blocks, "BLOCK_CELLS", 8)
    truth = ask(verb, home / "cells.h5ad", *words, "--output", "whole.h5ad")[1]["sha256"]
    stopped = (home, tmp_path, [verb, str(home / "cells.h5ad"), *SHORT, *words, *OUT])
    if verb == "embed":
        process = mp.get_context("spawn").Process(target=run_and_stop, args=(*stopped, kill))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert [path.name[:6] for path in Path().glob(".part-*")] == [".part-"]
    else:
        assert run_and_stop(*stopped, interrupt) == INTERRUPTED
    (folder,) = (home / "tasks").iterdir()
    assert len(list(folder.glob("*.npz"))) == 2
    assert not Path("out.h5ad").exists()
    seen = []
    real = finished_blocks.FinishedBlocks.rows

    def watch(self, make, tell):
        return real(self, lambda first: seen.append(first) or make(first), tell)

    monkeypatch.setattr(finished_blocks.FinishedBlocks, "rows", watch)
    code, told, err = ask(verb, home / "cells.h5ad", *words, *OUT)
    assert (code, seen, told["sha256"]) == (0, [16], truth), err
    assert "16 of 40 cells were done before" in err
    assert [*(home / "tasks").iterdir(), *Path().glob(".part-*")] == []


def run_and_stop(home: Path, folder: Path, words: list[str], stop: Callable[[], None]) -> int:
    """Run a command that is stopped when two blocks are finished."""
    shipped_files.SHIPPED = home / "none"  # as in the process that asks
    real, size = finished_blocks.FinishedBlocks._keep, finished_blocks.BLOCK_CELLS

    def keep(self, number, rows):
        real(self, number, rows)
        if number == 1:
            stop()

    finished_blocks.FinishedBlocks._keep, finished_blocks.BLOCK_CELLS = keep, 8
    os.environ["PANATLAS_HOME"] = str(home)
    os.chdir(folder)
    try:
        return run(words)
    finally:
        finished_blocks.FinishedBlocks._keep, finished_blocks.BLOCK_CELLS = real, size


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_file_goes_nowhere_but_into_an_output_and_a_layer_takes_few_genes(ask, home, monkeypatch):
    file = home / "cells.h5ad"
    for verb, source, words, said in (
        ("embed", file, ("--to-atlas", *OUT), "either"), ("embed", file, (), "either"),
        ("embed", file, ("--to-atlas",), "release:NAME"), ("embed", "release:r1", ("--to-atlas", *OUT), "either"),
    ):  # fmt: skip
        code, _, err = ask(verb, source, *words)
        assert (code, said in err) == (USAGE, True), err
    Path("genes.txt").write_text("\n".join(ad.read_h5ad(file, backed="r").var_names[:3]))
    monkeypatch.setattr(write_back, "MOST_GENES", 2)
    for words, said in (((), "all genes"), (("--genes", "genes.txt"), "3 genes")):
        code, _, err = ask("denoise", "release:r1", "--to-atlas", *words)
        assert (code, said in err, "at most 2" in err) == (USAGE, True, True), err
    assert open_atlas(str(home / "atlas")).results == ()
    assert not list((home / "tasks").iterdir())


def test_what_is_found_of_a_release_goes_into_its_atlas_and_comes_back(ask, home, model, monkeypatch, capsys):
    atlas = str(home / "atlas")
    before = content_hash(open_atlas(atlas))
    genes = ad.read_h5ad(home / "cells.h5ad", backed="r").var_names[:3].tolist()
    Path("genes.txt").write_text("\n".join(genes))
    files, told = {}, {}
    for verb, words in (("embed", ()), ("annotate", ()), ("denoise", ("--genes", "genes.txt", "--variance"))):
        assert ask(verb, "release:r1", *words, "--output", f"{verb}.h5ad")[0] == DONE
        files[verb] = ad.read_h5ad(f"{verb}.h5ad")
        code, told[verb], err = ask(verb, "release:r1", *words, "--to-atlas")
        assert code == DONE, err
        code, _, err = ask(verb, "release:r1", *words, "--to-atlas")
        assert (code, "--force" in err) == (USAGE, True), err
    assert ask("embed", "release:r1", "--to-atlas", "--force")[0] == DONE
    joinids = files["embed"].obs["soma_joinid"].to_numpy()
    name = {one["key"].split("/")[0]: one["name"] for verb in told for one in told[verb]["results"]}
    assert {*name} == {"embedding", "labels", "denoised", "denoised_variance"}
    assert told["embed"]["results"][0]["key"] == f"embedding/r1/{model.digest[:12]}/all"
    with cellxgene_census.open_soma(uri=atlas) as census:
        experiment = census["census_data"]["homo_sapiens"]
        with experiment.axis_query("RNA") as query:
            layers = (name["denoised"], name["denoised_variance"])
            found = query.to_anndata("raw", obsm_layers=[name["embedding"]], X_layers=layers)
        labels = experiment.ms["RNA"]["labels"][name["labels"]].read().concat().to_pandas().set_index("soma_joinid")
    np.testing.assert_array_equal(found.obsm[name["embedding"]][joinids], files["embed"].obsm["X_panatlas"])
    found.var_names = found.var["feature_id"].astype(str)
    for kind, layer in (("denoised", "panatlas_denoised"), ("denoised_variance", "panatlas_denoised_variance")):
        values = found[joinids, files["denoise"].var_names].layers[name[kind]].toarray()
        np.testing.assert_array_equal(values, files["denoise"].layers[layer])
    for column in (one for one in files["annotate"].obs if one.startswith("panatlas_")):
        mine, theirs = files["annotate"].obs[column], labels[column].loc[joinids]
        if column.endswith("_probability"):
            np.testing.assert_array_equal(mine.to_numpy(np.float32), theirs.to_numpy(np.float32))
        else:
            assert mine.astype(str).tolist() == theirs.tolist()
    checked = validate(atlas)
    assert (checked.sound, checked.content_hash) == (True, before), checked.findings
    capsys.readouterr()
    assert run(["info", "--json"]) == DONE
    listed = json.loads(capsys.readouterr().out)["results"]
    assert {"embedding", "labels"} <= {one["key"].split("/")[0] for one in listed}
    assert {one["cells"] for one in listed} == {N}


def test_a_variance_of_other_counts_goes_and_cells_that_came_meanwhile_are_no_trouble(ask, home, monkeypatch):
    late, atlas = make_adata(10, 200, seed=9), str(home / "atlas")
    write_source(home / "late.h5ad", late)
    real = write_back.AtlasResult.append

    def ingest_first(self, *words):
        if not (home / "come").exists():
            (home / "come").touch()
            flags = ("--no-doublets", "--no-neighbours")
            assert run(["ingest", "human", "--source", str(home / "late.h5ad"), *flags]) == DONE
        return real(self, *words)

    monkeypatch.setattr(write_back.AtlasResult, "append", ingest_first)
    Path("genes.txt").write_text("\n".join(ad.read_h5ad(home / "cells.h5ad", backed="r").var_names[:2]))
    for words, kinds in (
        (("--genes", "genes.txt", "--variance"), ["denoised", "denoised_variance"]),
        (("--genes", "genes.txt"), ["denoised"]),
    ):
        code, told, err = ask("denoise", "release:r1", *words, "--to-atlas", "--force")
        assert code == DONE, err
        held = [one for one in open_atlas(atlas).results if one.key.startswith("denoised")]
        assert [one.key.split("/")[0] for one in held] == kinds
    assert open_atlas(atlas).n_cells("human") == N + 10
    layers = [told["results"][0]["name"]]
    with cellxgene_census.open_soma(uri=atlas) as tree, tree["census_data"]["homo_sapiens"].axis_query("RNA") as query:
        assert query.to_anndata("raw", X_layers=layers).n_obs == N + 10
    assert validate(atlas).sound
    code, _, err = ask("denoise", "release:r1", "--genes", "genes.txt", "--to-atlas", "--variance")
    assert (code, "--force" in err) == (USAGE, True), err
