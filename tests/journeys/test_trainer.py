"""A trainer's day at the command line: ingest, release, train in legs, read the receipt, ask what a model has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from anndata import read_h5ad

from catalog import cli
from loaders import open_cells
from tests.factories import make_adata, write_source

pytestmark = pytest.mark.index
SHORT = ("--max-steps", "6", "--length", "64", "--batch-size", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, starter_home: Path) -> Path:
    """A home with a released atlas of humans and mice, and the files its cells came from."""
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "cache").symlink_to(starter_home / "cache", target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(folder))
        for number, organism in enumerate(("human", "mouse")):
            adata = make_adata(60, 300, organism=organism, seed=number)
            adata.obs["donor_id"] = [f"donor {i % 6}" for i in range(60)]
            write_source(folder / f"{organism}.h5ad", adata)
            text = f'[[source]]\norganism = "{organism}"\nid = "{organism}-study"\nuri = "{organism}.h5ad"\n'
            (folder / "m.toml").write_text(text)
            assert cli.run(["ingest", organism, "--manifest", str(folder / "m.toml"), "--no-doublets"]) == 0
        write_source(folder / "other.h5ad", make_adata(20, 300, seed=9))
        pins = [
            word
            for n, split in enumerate(("validation", "test"))
            for word in (f"--{split}", f"donor:human-study/donor {n}")
        ]
        assert cli.run(["release", "first", *pins, "--train", "organism:mouse"]) == 0
        assert cli.run(["release", "second", "--train", "organism:mouse"]) == 0
    return folder


@pytest.fixture
def ask(desk, home, monkeypatch):
    """Run a command on that atlas, as the default one."""
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    return desk


@pytest.fixture(scope="module")
def trained(home) -> Path:
    """The folder of a finished run on the first release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(home))
        assert cli.run(["train", "tiny", "--release", "first", *SHORT, "--output", str(home / "run")]) == 0
    return home / "run"


def test_without_a_release_the_newest_is_trained_on_in_legs_and_the_receipt_says_all(ask, home):
    begun = ask("train", "tiny", *SHORT, "--minutes", "0.00001", "--json")
    assert begun.code == 0, begun.err
    assert (begun.json["finished"], begun.json["steps"], begun.json["model"]) == (False, 1, None)
    folder = begun.json["folder"]
    assert f"panatlas resume {folder}" in begun.err
    assert folder.startswith(f"{home}/models/tiny-second-0-")
    unfinished = ask("was-trained-on", home / "human.h5ad", "--model", folder)
    assert (unfinished.code, f"panatlas resume {folder}" in unfinished.err) == (2, True)

    done = ask("resume", folder, "--device", "cpu", "--json").json
    assert (done["finished"], done["steps"], done["release"], done["seed"]) == (True, 6, "second", 0)
    assert done["device"] == "cpu"
    assert done["cells_seen"] == 6 * 8
    assert done["loss_first"] > 0 < done["loss_last"]
    assert done["cells_per_s"] > 0 <= done["data_wait"] <= 1
    assert len(done["model"]) == 64
    assert done["protein_vectors"] == {}

    again = ask("train", "tiny", *SHORT, "--json")
    assert "finished before" in again.err
    assert again.json == done


def test_a_file_of_trained_cells_is_known_by_its_counts_and_another_is_not(ask, home, trained):
    cells = open_cells(home / "atlas", "first")
    split = cells.codes("split", range(len(cells)))
    human = cells.codes("organism", range(len(cells))) == [o["organism"] for o in cells.about["organisms"]].index(
        "homo_sapiens"
    )
    seen = ask("was-trained-on", home / "human.h5ad", "--model", trained, "--json").json
    assert seen["cells"] == 60
    assert seen["organism"] == "homo_sapiens"
    assert seen["trained"] + seen["eligible"] == (human & (split == 0)).sum() > 0
    assert (human & (split == 1)).any()
    assert seen["validation"] == 0, "so short a run is not validated: nothing was chosen on those cells"
    assert seen["not_found"] == (human & (split > 0)).sum()
    assert seen["trained"] > 0
    assert (seen["matched_by"], seen["matrix"], seen["findings"]) == ("equal counts or id", "X", [])
    obs = read_h5ad(home / "human.h5ad").obs
    assert {role: len(names) for role, names in seen["examples"].items()} == {
        role: min(5, seen[role]) for role in ("validation", "eligible", "trained")
    }
    shown = obs.loc[seen["examples"]["trained"] + seen["examples"]["eligible"], "donor_id"]
    assert not set(shown) & {"donor 0", "donor 1"}, "which were pinned to validation and test"

    other = ask("was-trained-on", home / "other.h5ad", "--model", trained / "model", "--json")
    assert (other.json["not_found"], other.json["trained"]) == (20, 0)
    assert other.json["examples"] == {"validation": [], "eligible": [], "trained": []}
    assert "20 were not found" in other.err
    assert "no proof of unseen" in other.err
    wrong = ask("was-trained-on", home / "m.toml", "--model", trained)
    assert wrong.code == 3
    assert "Traceback" not in wrong.err


def test_the_same_cells_with_a_gene_less_are_not_found_and_a_layer_of_them_is(ask, home, trained):
    whole = read_h5ad(home / "human.h5ad")
    fewer = whole[:, 1:].copy()
    fewer.var_names = ["nonsense", *fewer.var_names[1:]]
    fewer.write_h5ad(home / "fewer.h5ad")
    less = ask("was-trained-on", home / "fewer.h5ad", "--model", trained, "--json")
    assert less.json["not_found"] > 30
    assert [(one["code"], one["severity"]) for one in less.json["findings"]] == [("unmapped-genes", "warning")]
    assert "warning unmapped-genes" in less.err
    whole.layers["mine"], whole.X = whole.X.copy(), whole.X * 2
    whole.write_h5ad(home / "layered.h5ad")
    before = ask("was-trained-on", home / "human.h5ad", "--model", trained, "--json").json
    doubled = ask("was-trained-on", home / "layered.h5ad", "--model", trained, "--json").json
    named = ask("was-trained-on", home / "layered.h5ad", "--model", trained, "--layer", "mine", "--json").json
    assert doubled["not_found"] == 60
    assert {**named, "file": before["file"], "matrix": "X"} == before
    assert named["matrix"] == "layers/mine"


def test_a_run_that_begins_with_another_is_named_after_it(ask, home, trained):
    words = ("--start", trained, "--release", "first", "--dry-run", "--json", *SHORT)
    tiny, again, small = (ask("train", size, *words).json for size in ("tiny", "tiny", "small"))
    digest = ask("was-trained-on", home / "other.h5ad", "--model", trained, "--json").json["model"]
    assert tiny["start"] == digest
    assert Path(tiny["folder"]).name.startswith(f"start-{digest[:8]}-first-0-")
    assert again == tiny
    assert small["folder"] != tiny["folder"]
    assert small["config"] == tiny["config"]


def test_a_dry_run_tells_the_folder_and_writes_nothing(ask, home):
    files = ("--regulators", home / "tf.txt", "--prior", home / "network.tsv")
    (home / "tf.txt").write_text("# factors\nTP53\nnonsense\n")
    (home / "network.tsv").write_text("regulator\ttarget\nTP53\tMDM2\nGATA1\tMDM2\n")
    done = ask(
        "train", "tiny", "--organism", "human", *files, "--set", "expression.neighbours=0", "--dry-run", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["config"]["trunk"]["prior"] is True
    assert done.json["config"]["expression"]["neighbours"] == 0
    assert (done.json["regulators"], done.json["prior"], done.json["organisms"]) == (1, True, ["homo_sapiens"])
    assert "1 regulators are no known gene" in done.err
    assert "tasks.masks" in done.err
    assert not (home / "models" / done.json["folder"].rsplit("/")[-1]).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "huge"], "tiny"),
        (["train", "tiny", "--release", "frist"], "nearest: first"),
        (["train", "tiny", "--set", "trunk.atention=exact"], "attention"),
        (["train", "tiny", "--set", "trunk.attention=fast"], "criss-cross"),
        (["train", "tiny", "--set", "attention"], "PART.FIELD=VALUE"),
        (["train", "tiny", "--set", "trunk.width=-4"], "1 or more"),
        (["train", "tiny", "--set", "losses.kl=NaN"], "float"),
        (["train", "tiny", "--set", "trunk.prior=true"], "--prior FILE"),
        (["train", "tiny", "--length", "0"], "at least 1 gene"),
        (["train", "tiny", "--organism", "rat"], "homo_sapiens"),
        (["train", "tiny", "--vectors", "nobody"], "embed-proteins"),
        (["train", "tiny", "--pack", "p", "--release", "first"], "either"),
        (["train", "tiny", "--start", "nowhere"], "nowhere"),
        (["resume", "nowhere"], "panatlas train"),
        (["was-trained-on", "nowhere.h5ad", "--model", "{run}"], "h5ad"),
        (["was-trained-on", "{run}/../other.h5ad", "--model", "{run}", "--layer", "mine"], "one of X"),
        (["train", "tiny", "--save-every", "0"], "1 or more"),
        (["train", "tiny", "--release", "first", "--output", "{run}"], "--output"),
    ],
)
def test_a_slip_is_told_with_its_remedy(ask, trained, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = ask(*(each.format(run=trained) for each in arguments))
    assert done.code == 2, done.err
    assert said in done.err
    assert done.out == ""


def test_a_checkpoint_that_was_tampered_with_is_refused(ask, home, trained):
    config = trained / "model" / "config.json"
    before = config.read_text()
    try:
        config.write_text(json.dumps(json.loads(before)))
        done = ask("was-trained-on", home / "other.h5ad", "--model", trained)
    finally:
        config.write_text(before)
    assert done.code == 2
    assert "config.json" in done.err
    assert "copy it again" in done.err


def test_an_atlas_without_a_release_says_how_to_make_one(desk, starter_home, tmp_path):
    done = desk("train", "tiny", "--atlas", starter_home / "atlas", "--output", tmp_path / "run", "--max-steps", 1)
    assert done.code == 2
    assert "panatlas release NAME" in done.err
