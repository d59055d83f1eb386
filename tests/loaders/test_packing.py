"""A pack made from a release holds that release's cells: counts equal the store's, labels and splits the tables'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import IngestOptions, ingest, open_atlas
from catalog import make_release
from loaders import LoaderInputError, Pack, PackOptions, make_pack
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an atlas of three human datasets and one of mouse, released as r1; 5 cells fail QC, 10 are copies."""
    folder = tmp_path_factory.mktemp("packing")
    first, second = make_adata(50, 300, seed=1), make_adata(60, 250, seed=2)
    mouse = make_adata(40, 200, organism="mouse", seed=3)
    counts = first.X.toarray()
    counts[:5] = 0
    counts[:5, 0] = 1
    first.X = sp.csr_matrix(counts)
    copies = first[10:20].copy()
    copies.obs_names = [f"again{i}" for i in range(10)]
    options = IngestOptions(doublets=False)
    uri = str(folder / "atlas")
    for name, adata, organism in (
        ("one", first, "human"),
        ("two", second, "human"),
        ("copies", copies, "human"),
        ("mice", mouse, "mouse"),
    ):
        ingest(write_source(folder / f"{name}.h5ad", adata, id=name, organism=organism), uri, options)
    make_release(uri, "r1")
    return uri


@pytest.fixture(scope="module")
def pack(atlas: str, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Return the release's pack."""
    return make_pack(atlas, "r1", tmp_path_factory.mktemp("packs") / "r1")


def expected_obs(atlas: str) -> pd.DataFrame:
    """Return the obs of the cells a pack must hold, by the official reader, in the pack's order."""
    parts = []
    for name, term in (("mus_musculus", "NCBITaxon:10090"), ("homo_sapiens", "NCBITaxon:9606")):
        with soma.Experiment.open(f"{atlas}/census_data/{name}") as experiment:
            obs = experiment.obs.read(value_filter="qc_pass == True and is_primary_data == True").concat().to_pandas()
        assert (obs["organism_ontology_term_id"] == term).all()
        parts.append(
            obs.sort_values("soma_joinid").astype({"organism_ontology_term_id": str, "cell_type_ontology_term_id": str})
        )
    return pd.concat(parts, ignore_index=True)


def test_every_cell_has_the_stores_counts(atlas: str, pack: Pack) -> None:
    obs = expected_obs(atlas)
    assert len(pack) == len(obs) == 145, "neither cells that fail QC nor copies are packed"
    rows = pack.read(np.arange(len(pack))).decode()
    for name in ("mus_musculus", "homo_sapiens"):
        with soma.SparseNDArray.open(f"{atlas}/census_data/{name}/ms/RNA/X/raw") as array:
            table = array.read().tables().concat().to_pandas()
        for cell in np.flatnonzero(
            obs["organism_ontology_term_id"].map({"NCBITaxon:10090": "mus_musculus"}).fillna("homo_sapiens") == name
        ):
            mine = table[table["soma_dim_0"] == obs.loc[cell, "soma_joinid"]].sort_values("soma_dim_1")
            span = slice(rows.indptr[cell], rows.indptr[cell + 1])
            np.testing.assert_array_equal(rows.indices[span], mine["soma_dim_1"])
            np.testing.assert_array_equal(rows.counts[span], mine["soma_data"])


def test_labels_depth_and_splits_are_the_releases(atlas: str, pack: Pack) -> None:
    obs, words = expected_obs(atlas), pack.about["vocabulary"]
    for label, column in (("cell_type", "cell_type_ontology_term_id"), ("organism", "organism_ontology_term_id")):
        assert [words[label][code] for code in pack.column(label)] == obs[column].tolist()
    np.testing.assert_array_equal(pack.column("depth"), obs["raw_sum"].astype(np.float32))
    donors = {words["donor"][code] for code in pack.column("donor")}
    assert {"one/donor0", "two/donor0", "mice/donor0"} <= donors, "donors of two datasets are two donors"
    splits = pq.read_table(f"{atlas}/releases/r1/splits.parquet").to_pandas().set_index("cell_id")["split"]
    names = np.array(["train", "validation", "test"])[pack.column("split")]
    assert names.tolist() == splits[obs["observation_joinid"]].tolist()
    assert pack.about["release"] == "r1"


def test_genes_are_the_stores_columns(atlas: str, pack: Pack) -> None:
    genes = pack.genes()
    for code, name in enumerate(("mouse", "human")):
        mine = genes[genes["organism"] == code]
        assert mine["feature_id"].tolist() == open_atlas(atlas).genes(name)["feature_id"].tolist()


def test_organisms_and_splits_can_be_chosen(atlas: str, pack: Pack, tmp_path: Path) -> None:
    options = PackOptions(organisms=("human",), splits=("train",), piece_mib=1)
    part = make_pack(atlas, "r1", tmp_path / "human", options)
    whole = pack.column("organism") == 1
    assert len(part) == int((whole & (pack.column("split") == 0)).sum())
    assert set(part.column("organism")) == {0}


def test_an_organism_without_cells_shifts_no_gene(atlas: str, tmp_path: Path) -> None:
    splits = pq.read_table(f"{atlas}/releases/r1/splits.parquet").to_pandas()
    for split in ("train", "validation", "test"):
        there = splits[(splits["split"] == split) & splits["qc_pass"] & splits["is_primary_data"]]
        if not len(there):
            continue
        part = make_pack(atlas, "r1", tmp_path / split, PackOptions(splits=(split,)))
        genes, words = part.genes(), part.about["vocabulary"]["organism"]
        assert sorted(genes["organism"].unique()) == list(range(len(words))) == sorted(set(part.column("organism")))
        for code, term in enumerate(words):
            first = genes[genes["organism"] == code]["feature_id"].iloc[0]
            assert first.startswith("ENSMUSG" if term == "NCBITaxon:10090" else "ENSG")


def test_a_pack_is_the_same_whenever_it_is_made(atlas: str, pack: Pack, tmp_path: Path) -> None:
    assert make_pack(atlas, "r1", tmp_path / "again").fingerprint == pack.fingerprint


@pytest.mark.parametrize(
    ("release", "options", "said"),
    [
        ("r2", PackOptions(), "panatlas release"),
        ("r1", PackOptions(splits=("dev",)), "train, validation, test"),
    ],
)
def test_what_cannot_be_packed_is_said(
    atlas: str, tmp_path: Path, release: str, options: PackOptions, said: str
) -> None:
    with pytest.raises(LoaderInputError, match=said):
        make_pack(atlas, release, tmp_path / "p", options)
    assert not list(tmp_path.iterdir())
