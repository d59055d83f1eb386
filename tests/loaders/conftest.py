"""Two small released atlases that tests read cells from: one of two organisms with neighbours, one without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import IngestOptions, ingest
from catalog import make_release
from loaders import make_pack
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from loaders import Pack

ORGANISMS = {"mus_musculus": "NCBITaxon:10090", "homo_sapiens": "NCBITaxon:9606"}  # in the order of their codes


@dataclass(frozen=True, eq=False)
class Loaded:
    """The cells that are loaded, as the official reader sees them; row i is cell i."""

    obs: pd.DataFrame
    """Rows of obs with `experiment` and `split`."""
    counts: list[tuple[np.ndarray, np.ndarray]]
    """Genes and counts of each cell, out of X."""


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an atlas of three human datasets and one of mouse, released as r1; 5 cells fail QC, 10 are copies."""
    folder = tmp_path_factory.mktemp("released")
    first, second = make_adata(50, 300, seed=1), make_adata(60, 250, seed=2)
    mouse = make_adata(40, 200, organism="mouse", seed=3)
    counts = first.X.toarray()
    counts[:5] = 0
    counts[:5, 0] = 1
    counts[20:30, 7] = np.arange(250, 260)
    counts[31, 8] = 1 << 20
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
    pins = {"train": ["donor:one/donor0", "donor:two/donor0", "donor:mice/donor1", "donor:mice/donor2"],
            "validation": ["donor:two/donor1", "donor:mice/donor0"], "test": ["donor:one/donor2"]}  # fmt: skip
    make_release(uri, "r1", pins=pins)
    return uri


@pytest.fixture(scope="session")
def plain_atlas(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an atlas without neighbours, released as r1."""
    folder = tmp_path_factory.mktemp("plain")
    options = IngestOptions(doublets=False, neighbours=False)
    ingest(write_source(folder / "one.h5ad", make_adata(30, 100, seed=9), id="one"), str(folder / "atlas"), options)
    make_release(str(folder / "atlas"), "r1")
    return str(folder / "atlas")


@pytest.fixture(scope="session")
def pack(atlas: str, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Return the release's pack."""
    return make_pack(atlas, "r1", tmp_path_factory.mktemp("packs") / "r1")


@pytest.fixture(scope="session")
def loaded(atlas: str) -> Loaded:
    """Return what must be loaded, read by tiledbsoma alone."""
    import pyarrow.parquet as pq

    splits = pq.read_table(f"{atlas}/releases/r1/splits.parquet").to_pandas().set_index("cell_id")["split"]
    parts, counts = [], []
    for name in ORGANISMS:
        with soma.Experiment.open(f"{atlas}/census_data/{name}") as experiment:
            obs = experiment.obs.read(value_filter="qc_pass == True and is_primary_data == True").concat().to_pandas()
            table = experiment.ms["RNA"].X["raw"].read().tables().concat().to_pandas()
        obs = obs.sort_values("soma_joinid").astype({c: str for c in obs if obs[c].dtype == "category"})
        parts.append(obs.assign(experiment=name, split=splits[obs["observation_joinid"]].to_numpy()))
        by_cell = dict(list(table.sort_values("soma_dim_1").groupby("soma_dim_0")))
        mine = [by_cell[joinid] for joinid in obs["soma_joinid"]]
        counts += [(cell["soma_dim_1"].to_numpy(), cell["soma_data"].to_numpy()) for cell in mine]
    return Loaded(pd.concat(parts, ignore_index=True), counts)
