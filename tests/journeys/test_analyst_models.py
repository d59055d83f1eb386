"""An analyst with a trained model: embed, annotate and denoise a file and a release, open the results, trust them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from catalog import cli
from tests.factories import make_adata, write_source

pytestmark = pytest.mark.index
SHORT = ("--length", "64", "--device", "cpu")
N = 48


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """A home with a released atlas, a model trained on it for a few steps, and the file its cells came from."""
    folder = tmp_path_factory.mktemp("analyst")
    (folder / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        adata = make_adata(N, 300)
        adata.obs["donor_id"] = [f"donor {i % 6}" for i in range(N)]
        write_source(folder / "mine.h5ad", adata)
        flags = ("--no-doublets", "--no-neighbours")
        assert cli.run(["ingest", "human", "--source", str(folder / "mine.h5ad"), *flags]) == 0
        assert cli.run(["release", "first"]) == 0
        assert cli.run(["train", "tiny", "--max-steps", "4", "--batch-size", "8", *SHORT]) == 0
    return folder


@pytest.fixture
def ask(desk, home, monkeypatch, tmp_path):
    """Run a command in that home, somewhere else."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return desk


def test_a_file_is_embedded_named_and_denoised_and_opens_again(ask, home):
    mine = ad.read_h5ad(home / "mine.h5ad")
    for verb in ("embed", "annotate", "denoise"):
        done = ask(verb, home / "mine.h5ad", "--output", f"{verb}.h5ad", *SHORT, "--json")
        assert done.code == 0, done.err
        assert (done.json["cells"], done.json["release"], done.json["command"]) == (N, "first", verb)
        assert done.json["seen"]["trained"] > 0 < done.json["seen"]["not_found"] + done.json["seen"]["eligible"]
        assert "warning trained-on-cells" in done.err
    embedded, named, denoised = (ad.read_h5ad(f"{verb}.h5ad") for verb in ("embed", "annotate", "denoise"))
    for found in (embedded, named, denoised):
        assert found.obs_names.tolist() == mine.obs_names.tolist()
        assert found.obs["donor_id"].tolist() == mine.obs["donor_id"].tolist()
        assert found.uns["panatlas"]["model"] == embedded.uns["panatlas"]["model"]
    assert np.isfinite(embedded.obsm["X_panatlas"]).all()
    assert set(named.obs["panatlas_cell_type_ontology_term_id"]) <= {"CL:0000084", "CL:0000236", "unknown"}
    layer = denoised.layers["panatlas_denoised"]
    assert sorted(denoised.var_names) == sorted(mine.var_names)
    assert (layer >= 0).all()
    np.testing.assert_allclose(layer.sum(1), np.asarray(mine.X.sum(1)).ravel(), rtol=1e-4)


def test_a_shell_gets_the_same_bytes_as_this_process(ask, home, panatlas):
    (run,) = (home / "models").glob("tiny-*")
    arguments = ("embed", home / "mine.h5ad", "--model", run.name, *SHORT, "--json")
    here = ask(*arguments, "--output", "here.h5ad").json
    there = panatlas(*arguments, "--output", "there.h5ad", home=home, cwd=Path.cwd())
    assert there.code == 0, there.err
    assert {**there.json, "seconds": 0, "output": ""} == {**here, "seconds": 0, "output": ""}
    assert Path("here.h5ad").read_bytes() == Path("there.h5ad").read_bytes()


def test_a_cell_is_the_same_alone_in_a_batch_in_any_order_and_from_the_atlas(ask, home):
    mine = ad.read_h5ad(home / "mine.h5ad")
    order = np.random.default_rng(0).permutation(N)
    mine[order].copy().write_h5ad("other.h5ad")
    mine[7:8].copy().write_h5ad("one.h5ad")
    found = {}
    for verb, element in (("embed", "X_panatlas"), ("denoise", "panatlas_denoised")):
        for name, source, size in (
            ("all", home / "mine.h5ad", 64),
            ("other", "other.h5ad", 5),
            ("one", "one.h5ad", 64),
            ("atlas", "release:first", 7),
        ):
            done = ask(verb, source, "--output", f"{verb}-{name}.h5ad", *SHORT, "--batch-size", size)
            assert done.code == 0, done.err
            file = ad.read_h5ad(f"{verb}-{name}.h5ad")
            found[name] = file, file.obsm[element] if verb == "embed" else file.to_df(element).sort_index(axis=1)
        whole, close = np.asarray(found["all"][1]), {"rtol": 1e-3, "atol": 1e-5}
        np.testing.assert_allclose(np.asarray(found["other"][1]), whole[order], **close)
        np.testing.assert_allclose(np.asarray(found["one"][1]), whole[7:8], **close)
        atlas, values = found["atlas"]
        assert len(atlas) > N / 2
        np.testing.assert_allclose(np.asarray(values), whole[atlas.obs["soma_joinid"]], **close)


def test_cells_of_a_release_keep_what_the_atlas_knows_of_them(ask, home):
    done = ask("annotate", "release:first", "--output", "named.h5ad", *SHORT, "--json")
    assert done.code == 0, done.err
    found, mine = ad.read_h5ad("named.h5ad").obs, ad.read_h5ad(home / "mine.h5ad").obs
    truth = mine.iloc[found["soma_joinid"].to_numpy()]
    assert found["cell_type_ontology_term_id"].tolist() == truth["cell_type_ontology_term_id"].tolist()
    assert [one.rsplit("/", 1)[-1] for one in found["donor_id"]] == truth["donor_id"].tolist()
    assert set(found["split"]) <= {"train", "validation", "test"}
    assert found.index.str.fullmatch("[0-9a-f]{32}").all()
    seen = done.json["seen"]
    assert seen["trained"] + seen["eligible"] == (found["split"] == "train").sum()
    ids = ask("sql", "SELECT observation_joinid AS id, soma_joinid AS n FROM obs ORDER BY 2", "--json").json
    assert found.index.tolist() == [row["id"] for row in ids if row["n"] in set(found["soma_joinid"])]
    done = ask("embed", "release:first", "--organism", "mouse", "--output", "mouse.h5ad")
    assert (done.code, "homo_sapiens" in done.err) == (2, True)
    done = ask("embed", "release:frist", "--output", "mouse.h5ad")
    assert (done.code, "nearest: first" in done.err) == (2, True)
