"""A pack made from a release holds that release's cells: counts equal the store's, labels and splits the tables'."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import open_atlas
from loaders import LoaderInputError, PackError, PackOptions, SamplingPlan, make_pack, make_sampler
from loaders.cells import NO_CELL, SPLITS, Cells
from loaders.packing import nearest
from loaders.release_cells import NOT_LOADED
from ontology import LABELS

from .conftest import ORGANISMS

if TYPE_CHECKING:
    from loaders import Pack

    from .conftest import Loaded


def test_every_cell_has_the_stores_counts(pack: Pack, loaded: Loaded) -> None:
    assert isinstance(pack, Cells)
    assert len(pack) == len(loaded.obs) == 145, "neither cells that fail QC nor copies are packed"
    rows = pack.read(np.arange(len(pack))).decode()
    for cell, (genes, counts) in enumerate(loaded.counts):
        span = slice(rows.indptr[cell], rows.indptr[cell + 1])
        np.testing.assert_array_equal(rows.indices[span], genes)
        np.testing.assert_array_equal(rows.counts[span], counts)
    assert rows.counts.max() == 1 << 20


def test_labels_depth_hashes_and_splits_are_the_releases(pack: Pack, loaded: Loaded) -> None:
    obs, words = loaded.obs, pack.about["vocabulary"]
    for label, column in (
        ("cell_type", "cell_type_ontology_term_id"), ("organism", "organism_ontology_term_id"),
        ("cell_culture", "tissue_type"), ("dataset", "dataset_id"),
    ):  # fmt: skip
        assert [words[label][code] for code in pack.column(label)] == obs[column].tolist()
        assert words[label] == sorted(set(obs[column])), "only values in use"
    donors = (obs["dataset_id"] + "/" + obs["donor_id"]).tolist()
    assert [words["donor"][code] for code in pack.column("donor")] == donors, "donors of two datasets are two donors"
    np.testing.assert_array_equal(pack.column("depth"), obs["raw_sum"].astype(np.float32))
    np.testing.assert_array_equal(pack.column("nnz"), [len(genes) for genes, _ in loaded.counts])
    np.testing.assert_array_equal(pack.column("joinid"), obs["soma_joinid"])
    for name, column in (("cell_id_high", "observation_joinid"), ("count_hash_high", "count_hash")):
        assert [f"{value:016x}" for value in pack.column(name)] == obs[column].str[:16].tolist()
    assert np.array(SPLITS)[pack.column("split")].tolist() == obs["split"].tolist()
    assert set(obs["split"]) == set(SPLITS), "so that something is shown"
    assert [entry["organism"] for entry in pack.about["organisms"]] == list(ORGANISMS)
    assert pack.about["release"] == "r1"


def test_genes_are_the_stores_columns(atlas: str, pack: Pack) -> None:
    genes = pack.genes()
    for code, name in enumerate(ORGANISMS):
        mine = genes[genes["organism"] == code]
        assert mine["feature_id"].tolist() == open_atlas(atlas).genes(name)["feature_id"].tolist()


def test_measured_genes_are_the_presence_matrix(atlas: str, pack: Pack) -> None:
    with soma.DataFrame.open(f"{atlas}/census_info/datasets") as frame:
        rows = frame.read().concat().to_pandas().set_index("dataset_id")["soma_joinid"]
    seen = 0
    for code, dataset in enumerate(pack.about["vocabulary"]["dataset"]):
        for organism, name in enumerate(ORGANISMS):
            with soma.SparseNDArray.open(f"{atlas}/census_data/{name}/ms/RNA/feature_dataset_presence_matrix") as array:
                expected = np.zeros(array.shape[1], bool)
                if rows[dataset] < array.shape[0]:
                    expected[array.read((int(rows[dataset]),)).tables().concat()["soma_dim_1"].to_numpy()] = True
            np.testing.assert_array_equal(pack.measured(code, organism), expected)
            seen += expected.any()
    assert seen == 3, "the dataset of copies has no cell here"
    for wrong in ((3, 0), (-1, 0), (0, 2)):
        with pytest.raises(LoaderInputError, match="datasets 0 to 2 and organisms 0 to 1"):
            pack.measured(*wrong)


def test_neighbours_are_the_stores_of_the_same_split(atlas: str, pack: Pack, loaded: Loaded) -> None:
    near, distances = pack.neighbours(np.arange(len(pack)))
    number = {
        (o, j): i for i, (o, j) in enumerate(zip(loaded.obs["experiment"], loaded.obs["soma_joinid"], strict=True))
    }
    split, kept, dropped = loaded.obs["split"].to_numpy(), 0, 0
    for name in ORGANISMS:
        with soma.SparseNDArray.open(f"{atlas}/census_data/{name}/ms/RNA/obsp/neighbours") as array:
            graph = array.read().tables().concat().to_pandas()
        for joinid, mine in graph.groupby("soma_dim_0"):
            cell = number[name, joinid]
            found = [(d, number[name, j]) for j, d in zip(mine["soma_dim_1"], mine["soma_data"], strict=True)]
            found = sorted((d, other) for d, other in found if split[other] == split[cell])
            assert near[cell][near[cell] != NO_CELL].tolist() == [other for _, other in found]
            np.testing.assert_array_equal(distances[cell][: len(found)], np.array([d for d, _ in found], np.float32))
            assert np.isinf(distances[cell][len(found) :]).all()
            kept, dropped = kept + len(found), dropped + len(mine) - len(found)
    assert kept > 0 < dropped, "both happen here"
    assert pack.about["neighbours"] == {"kept": kept, "dropped": dropped}


def test_ties_and_too_many_neighbours_are_settled_alike() -> None:
    graph = sp.csr_matrix(np.array([[0.0, *[2.0] * 10, *[1.0] * 9]]))
    near, distances, dropped = nearest(graph, np.zeros(20, np.uint8), np.arange(100, 120), slice(0, 1))
    assert near[0].tolist() == [*range(111, 120), *range(101, 107)]
    assert distances[0].tolist() == [1.0] * 9 + [2.0] * 6
    assert dropped == 4
    nobody = np.full(20, NOT_LOADED, np.uint8)
    assert nearest(graph, nobody, np.arange(20), slice(0, 1))[0].shape == (0, 15)


def test_an_atlas_without_a_graph_has_no_neighbours_and_says_so(plain_atlas: str, tmp_path: Path) -> None:
    pack = make_pack(plain_atlas, "r1", tmp_path / "plain")
    assert pack.about["neighbours"] == {"kept": 0, "dropped": 0}
    near, distances = pack.neighbours(np.arange(5))
    assert near.shape == distances.shape == (5, 15)
    assert (near == NO_CELL).all()
    assert np.isinf(distances).all()
    assert not (pack.path / "neighbours").exists()


def test_organisms_and_splits_can_be_chosen(atlas: str, pack: Pack, tmp_path: Path) -> None:
    part = make_pack(atlas, "r1", tmp_path / "human", PackOptions(organisms=("human",), splits=("test", "train")))
    chosen = (pack.column("organism") == 1) & (pack.column("split") != SPLITS.index("validation"))
    np.testing.assert_array_equal(part.column("cell_id_high"), pack.column("cell_id_high")[chosen])
    assert set(part.column("organism")) == {0}
    same = PackOptions(organisms=("Homo sapiens", "human"), splits=("train", "test"), piece_mib=1)
    assert make_pack(atlas, "r1", tmp_path / "same", same).fingerprint == part.fingerprint != pack.fingerprint


def test_an_organism_without_cells_shifts_no_gene(atlas: str, tmp_path: Path) -> None:
    part = make_pack(atlas, "r1", tmp_path / "test", PackOptions(splits=("test",)))
    assert part.about["vocabulary"]["organism"] == ["NCBITaxon:9606"], "no mouse is in this split"
    genes = part.genes()
    assert set(genes["organism"]) == set(part.column("organism")) == {0}
    assert genes["feature_id"].iloc[0].startswith("ENSG")
    assert len(part.measured(0, 0)) == len(genes)


def test_a_pack_is_the_same_whenever_it_is_made(atlas: str, pack: Pack, tmp_path: Path) -> None:
    again = make_pack(atlas, "r1", tmp_path / "again", PackOptions(piece_mib=1))
    assert again.fingerprint == pack.fingerprint


def test_progress_reaches_the_end(atlas: str, tmp_path: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    options = PackOptions(progress=lambda stage, done, total: told.update({stage: (done, total)}))
    make_pack(atlas, "r1", tmp_path / "p", options)
    assert told["pack homo_sapiens"] == told["neighbours homo_sapiens"] == (120, 120)


@pytest.mark.parametrize(
    ("release", "options", "said"),
    [
        ("r2", PackOptions(), "panatlas release"),
        ("r1", PackOptions(splits=("dev",)), "train, validation, test"),
        ("r1", PackOptions(splits=()), "train, validation, test"),
        ("r1", PackOptions(organisms=("mouse",), splits=("test",)), "cells of these organisms and splits"),
    ],
)
def test_what_cannot_be_packed_is_said(
    atlas: str, tmp_path: Path, release: str, options: PackOptions, said: str
) -> None:
    with pytest.raises(LoaderInputError, match=said):
        make_pack(atlas, release, tmp_path / "p", options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def damaged(atlas: str, tmp_path: Path) -> str:
    """Return a copy of the atlas, to be damaged."""
    shutil.copytree(atlas, tmp_path / "atlas")
    return str(tmp_path / "atlas")


def test_a_record_of_other_counts_is_named_and_no_pack_is_left(damaged: str, tmp_path: Path) -> None:
    uri = f"{damaged}/census_data/homo_sapiens/ms/RNA/records"
    with soma.DataFrame.open(uri) as frame:
        rows = frame.read((slice(60, 61),)).concat()
    with soma.DataFrame.open(uri, "w", tiledb_timestamp=open_atlas(damaged).published_ms) as frame:
        # The cells 60 and 61 get each other's records, which are sound in themselves.
        frame.write(rows.set_column(0, "soma_joinid", [[61, 60]]).sort_by("soma_joinid"))
    with pytest.raises(PackError, match=r"homo_sapiens.*2 cells have other counts than at ingest: 60, 61"):
        make_pack(damaged, "r1", tmp_path / "packs" / "p")
    assert not list((tmp_path / "packs").iterdir())


def test_splits_that_were_changed_are_refused(damaged: str, tmp_path: Path) -> None:
    file = Path(damaged) / "releases" / "r1" / "splits.parquet"
    table = pq.read_table(file)
    file.unlink()
    pq.write_table(table.slice(1), file)
    with pytest.raises(PackError, match="other bytes than were released"):
        make_pack(damaged, "r1", tmp_path / "p")


def test_a_killed_packing_leaves_no_pack(atlas: str, tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom loaders import PackOptions, make_pack\n"
        "def wait(stage, done, total):\n    print(stage, flush=True)\n    time.sleep(60)\n"
        "make_pack(sys.argv[1], 'r1', pathlib.Path(sys.argv[2]), PackOptions(progress=wait))"
    )
    target = tmp_path / "packs" / "p"
    command = [sys.executable, "-P", "-c", code, atlas, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout.readline().startswith("pack")
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert len(make_pack(atlas, "r1", target)) == 145, "what was left behind is in nobody's way"


def test_each_label_says_what_it_was_given_to_in_each_dataset(pack: Pack, atlas: str) -> None:
    with soma.open(f"{atlas}/census_info/label_provenance") as frame:
        table = frame.read().concat().to_pandas()
    scopes, datasets = pack.about["label_scopes"], pack.about["vocabulary"]["dataset"]
    found = 0
    for (dataset, label), rows in table.groupby(["dataset_id", "label"]):
        if dataset in datasets:
            most = rows.groupby("scope")["n_cells"].max()
            assert most[scopes[label][datasets.index(dataset)]] == most.max()
            found += 1
    assert found == len(LABELS) * len(datasets)
    make_sampler(pack, SamplingPlan(study_confidence=0.5, ontology_aware=False))


@pytest.mark.parametrize("piece_mib", [0, -3])
def test_a_piece_of_no_size_is_refused_before_anything_is_read(piece_mib: int) -> None:
    with pytest.raises(LoaderInputError, match="at least 1"):
        PackOptions(piece_mib=piece_mib)
