"""What ships with the package is small, whole, described by its card, and saw only cells that may be trained on."""

from __future__ import annotations

import re
from contextlib import closing

import numpy as np
import pytest

from atlas import ContractError, IngestOptions, load_manifest
from atlas.look import SourceLook, dataset_id_of
from loaders import CellsError, SourceCells
from model import Calibration, load_model, seen_before, shipped_model
from model.shipped_files import SHIPPED

KNOWN_COPIES = ("human_bal_covid_liao_C144C149_labelled",)
"""Files that hold cells of another file which may be trained on; their README says so."""


@pytest.fixture(scope="module", autouse=True)
def shipped():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.shipped_files.SHIPPED", SHIPPED)  # which other tests are spared
        yield load_model(shipped_model())


def test_its_files_are_at_most_25_megabytes_and_its_card_names_them(shipped):
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    card = (SHIPPED / "README.md").read_text()
    assert shipped.digest in card
    for label in shipped.network.labels.read:
        assert re.search(rf"^\| {label} \|", card, re.MULTILINE), label
    assert "licence" in card
    assert "Limits" in card


def test_it_is_calibrated():
    folder = shipped_model()
    file = folder.with_name(f"{folder.name}.calibration.json")
    assert "cell_type" in Calibration.from_json(file.read_text()).labels
    assert shipped_model(folder.name) == folder
    assert shipped_model("no such model") is None


@pytest.mark.shared
def test_it_has_seen_no_cell_that_may_not_train_shipped_weights(shipped, shared):
    readme = (shared / "data" / "README.md").read_text()
    told = dict(re.findall(r"^\| (\w+) \|.*\| (train|local) \|", readme, re.MULTILINE))
    judged = {"train": 0, "local": 0}
    for name, use in sorted(told.items()):
        file = shared / "data" / f"{name}.h5ad"
        organism = next((one for one in ("human", "mouse", "celegans") if name.startswith(one)), None)
        if organism is None or name in KNOWN_COPIES or not file.exists() or file.stat().st_size > 8e6:
            continue
        try:
            cells = SourceCells(str(file), organism, columns={})
        except (CellsError, ContractError):  # no ingest takes them
            continue
        with closing(cells):
            found = seen_before(shipped.ledger, cells, np.arange(min(len(cells), 3000)))
        assert (found["cells"] > found["not_found"]) == (use == "train"), (name, found)
        judged[use] += 1
    assert min(judged.values()) >= 3, judged


@pytest.mark.shared
def test_training_manifests_name_the_files_that_may_train_and_unseen_ones_the_others(repo, shared):
    readme = (shared / "data" / "README.md").read_text()
    told = dict(re.findall(r"^\| (\S+) \|.*\| (train|local) \|", readme, re.MULTILINE))
    named = {
        name: set(re.findall(r'"\{data\}/([^."]+)', (repo / "benchmarks" / f"{name}_sources.toml").read_text()))
        for name in ("training", "unseen")
    }
    assert named["training"] == {name.split(".")[0] for name, use in told.items() if use == "train"}
    assert named["unseen"] <= {name for name, use in told.items() if use == "local"}


@pytest.mark.shared
@pytest.mark.slow
def test_every_cell_it_has_seen_is_of_a_training_file(shipped, repo, shared, tmp_path):
    manifest = tmp_path / "training.toml"
    text = (repo / "benchmarks" / "training_sources.toml").read_text()
    manifest.write_text(text.replace("{data}", str(shared / "data")))
    left = np.unique(shipped.ledger.count_hash)
    for source in load_manifest(manifest):
        with SourceLook(source, IngestOptions(doublets=False, neighbours=False)) as look:
            obs = look.prepare(dataset_id_of(source, look.prove())).obs
        mine = np.array([int(one[:16], 16) for one in obs["count_hash"]], dtype=np.uint64)
        assert np.isin(mine, shipped.ledger.count_hash).any(), f"no cell of {source.id} was seen"
        left = np.setdiff1d(left, mine)
    assert not len(left)
