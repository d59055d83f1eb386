"""What lies between two releases: told by cell id, whatever joinids, atlases and orders of ingest are."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from atlas import StoreError, layout, open_atlas, schema, store
from catalog import CatalogInputError, make_release
from catalog.diff import SHOWN, diff_releases
from tests.catalog.conftest import add_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """An atlas with releases v1 (lungs, mice) and v2, which has bloods too and other splits."""
    root = tmp_path_factory.mktemp("grown") / "atlas"
    add_dataset(root, "lungs", "human", 120)
    add_dataset(root, "mice", "mouse", 30)
    make_release(str(root), "v1", allow_leaks=True)
    add_dataset(root, "bloods", "human", 40, donors=7)
    make_release(str(root), "v2", seed=5, allow_leaks=True)
    return root


def splits(root: Path, name: str) -> pd.Series:
    return pd.read_parquet(root / "releases" / name / "splits.parquet").set_index("cell_id")["split"]


def test_a_release_is_the_same_as_itself(grown: Path) -> None:
    found = diff_releases("v1", "v1", grown)
    assert found.same
    assert found.cells == {"added": 0, "removed": 0, "both": 150, "counts": 0}
    assert found.to_dict()["same"] is True


def test_a_dataset_that_came(grown: Path) -> None:
    found = diff_releases("v1", "v2", grown)
    assert not found.same
    assert found.datasets == {"added": ["bloods"], "removed": [], "changed": {}}
    assert found.cells == {"added": 40, "removed": 0, "both": 150, "counts": 0}
    assert (found.labels, found.genes) == ({}, {})
    assert (found.a["cells"], found.b["cells"]) == (150, 190)
    back = diff_releases("v2", "v1", grown)
    assert back.datasets["removed"] == ["bloods"]
    assert back.cells == {"added": 0, "removed": 40, "both": 150, "counts": 0}


def test_splits_that_moved_are_counted(grown: Path) -> None:
    found = diff_releases("v1", "v2", grown).splits
    assert found["settings"]["seed"] == [0, 5]
    both = pd.concat([splits(grown, "v1"), splits(grown, "v2")], axis=1, join="inner", keys=["a", "b"])
    moved = both[both["a"] != both["b"]].value_counts().to_dict()
    assert moved
    assert {(p["from"], p["to"]): p["cells"] for p in found["pairs"]} == moved


def test_a_dataset_made_again_elsewhere_with_other_labels_genes_and_cells(grown: Path, tmp_path: Path, grow) -> None:
    """The other atlas has the dataset in other rows, under other donors, with ten cells less and a gene renamed."""
    root = tmp_path / "other"
    grow(root, "mice", "mouse", 30)
    grow(root, "lungs", "human", 110, donors=4)
    uri = store.array_uri(root, "homo_sapiens", layout.VAR)
    var = open_atlas(str(root)).genes("human")
    var.loc[2, "feature_name"] = "renamed"
    store.write_frame(uri, schema.VAR, [var[f.name].to_numpy() for f in schema.VAR])
    grow(root, "more", "human", 10)  # publishes a moment after it
    make_release(str(root), "mine", allow_leaks=True)
    found = diff_releases("v1", str(root / "releases" / "mine"), grown)
    assert found.b["atlas"] == str(root)
    assert found.cells == {"added": 10, "removed": 10, "both": 140, "counts": 0}
    assert list(found.datasets["changed"]) == ["lungs"]
    assert found.datasets["changed"]["lungs"] == {"dataset_total_cell_count": [120, 110]}
    assert found.genes == {
        "homo_sapiens": {
            "added": {"genes": 0, "examples": []},
            "removed": {"genes": 0, "examples": []},
            "changed": {"genes": 1, "examples": ["G2"]},
        }
    }
    pairs = pd.Series([(f"donor{i % 3}", f"donor{i % 4}") for i in range(110)]).value_counts()
    meant = {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}
    assert list(found.labels) == ["donor_id"]
    told = found.labels["donor_id"]
    assert told["cells"] == sum(meant.values())
    assert len(told["pairs"]) <= SHOWN
    assert {(p["from"], p["to"]): p["cells"] for p in told["pairs"]} == meant


@pytest.mark.parametrize("name", ["v9", "no/such/folder"])
def test_a_release_that_is_not_there_is_refused(grown: Path, name: str) -> None:
    with pytest.raises(CatalogInputError, match="release"):
        diff_releases("v1", name, grown)


def test_a_damaged_release_is_named(grown: Path, tmp_path: Path) -> None:
    other = shutil.copytree(grown, tmp_path / "copy")
    file = other / "releases" / "v2" / "splits.parquet"
    file.chmod(0o644)
    file.write_bytes(b"no parquet")
    with pytest.raises(StoreError, match="restore the release"):
        diff_releases("v1", "v2", other)
