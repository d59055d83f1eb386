"""Every real human and mouse file of the reference data, in one manifest, reconciled to the last count.

The oracle for totals is h5py and scipy on the files themselves, not our reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from atlas import IngestOptions, ingest, load_manifest, open_atlas

if TYPE_CHECKING:
    from atlas import Receipt

pytestmark = [pytest.mark.shared, pytest.mark.index, pytest.mark.slow]
TEMPLATE = Path(__file__).parents[1] / "golden" / "real_sources.toml"


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Receipt]]:
    folder = tmp_path_factory.mktemp("real")
    manifest = folder / "manifest.toml"
    manifest.write_text(TEMPLATE.read_text("utf-8").replace("{data}", str(shared / "data")))
    options = IngestOptions(doublets=False)
    receipts = {str(s.id): ingest(s, str(folder / "atlas"), options) for s in load_manifest(manifest)}
    return str(folder / "atlas"), receipts


def stored_total(path: Path) -> int:
    """Sum a file's counts with h5py alone; genes only, where the file says what its features are."""
    with h5py.File(path) as file:
        if "matrix" in file:
            group = file["matrix"]
            kind = np.array(group["features"]["feature_type"]) == b"Gene Expression"
            return int(group["data"][:][kind[group["indices"][:]]].sum(dtype=np.float64))
        group = file["raw/X"] if "raw" in file else file["X"]
        return int(group["data"][:].sum(dtype=np.float64))


def test_all_are_written_and_every_book_balances(run: tuple[str, dict[str, Receipt]]) -> None:
    for name, receipt in run[1].items():
        assert receipt.status == "written", (name, receipt.findings)
        assert receipt.cells.balanced and receipt.genes.balanced and receipt.counts.balanced, name  # noqa: PT018


def test_totals_equal_the_files_and_the_store(run: tuple[str, dict[str, Receipt]]) -> None:
    uri, receipts = run
    atlas = open_atlas(uri)
    stored = {}
    for organism in atlas.organisms:
        obs = atlas.query(organism, every_cell=True).obs(["dataset_id", "raw_sum"])
        stored |= obs.groupby("dataset_id", observed=True)["raw_sum"].agg(["size", "sum"]).to_dict("index")
    for name, receipt in receipts.items():
        assert receipt.counts.came_in == stored_total(Path(receipt.uri)), name
        assert stored[name] == {"size": receipt.cells.kept, "sum": receipt.counts.kept}, name


def test_ids_are_kept_verbatim(run: tuple[str, dict[str, Receipt]]) -> None:
    """At least 95 % of the cells of files that carry cell-type ids keep a term."""
    for name in (
        "baron-human",
        "heart-san",
        "retina-multiome",
        "pbmc3k-labelled",
        "liao-labelled",
        "baron-mouse",
        "paul-2015",
    ):
        how = run[1][name].labels["cell_type"]
        assert (how.get("id", 0) + how.get("replaced", 0)) / sum(how.values()) >= 0.95, (name, how)


def test_the_known_copies_are_found(run: tuple[str, dict[str, Receipt]]) -> None:
    """The labelled PBMC3k are 2,638 of the unlabelled ones; the raw lavage file holds the labelled C144 cells again."""
    found = {name: {f.code: f.count for f in r.findings} for name, r in run[1].items()}
    assert found["pbmc3k-labelled"]["duplicate-cells"] == 2638
    copies = found["liao-c144-raw"].get("duplicate-cells", 0) + found["liao-c144-raw"].get("duplicate-core", 0)
    obs = open_atlas(run[0]).query("human", every_cell=True).obs(["dataset_id", "donor_id"])
    labelled = int(((obs["dataset_id"] == "liao-labelled") & (obs["donor_id"] == "C144")).sum())
    assert copies == labelled
    assert "duplicate-cells" not in found["heart-san"]


def test_again_is_unchanged(run: tuple[str, dict[str, Receipt]], shared: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(TEMPLATE.read_text("utf-8").replace("{data}", str(shared / "data")))
    for source in load_manifest(manifest)[:3]:
        assert ingest(source, run[0], IngestOptions(doublets=False)).status == "unchanged"
