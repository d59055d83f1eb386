"""A file's cells, read as they are needed, are the cells of the same AnnData in memory; the file is never trusted."""

from __future__ import annotations

import pickle
import warnings
from contextlib import closing
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from atlas import ContractError, matrices
from loaders import (
    AnnDataCells,
    Cells,
    CellsError,
    CollateConfig,
    Collator,
    LoaderInputError,
    SourceCells,
    make_vocabulary,
)
from loaders import source_cells as module
from tests.factories import make_adata

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N, GENES = 60, 90


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    """Cells, of which one has no counts, one a count that no byte holds, and whose genes are not in table order."""
    made = make_adata(N, GENES, seed=4)
    counts = made.X.toarray()
    counts[7] = 0
    counts[9, 3] = 70_000
    made.X = sp.csr_matrix(counts)
    made = made[:, np.random.default_rng(0).permutation(GENES)].copy()
    made.obs["observation_joinid"] = [f"{i:032x}" for i in range(N)]
    return made


@pytest.fixture(scope="module")
def held(adata: ad.AnnData) -> AnnDataCells:
    bare = ad.AnnData(adata.X, adata.obs[["observation_joinid"]], adata.var)
    return AnnDataCells(bare, "human")


def dense(cells: Cells, numbers: np.ndarray) -> np.ndarray:
    rows = cells.read(numbers).decode()
    return sp.csr_matrix((rows.counts, rows.indices, rows.indptr), (len(numbers), len(cells.genes()))).toarray()


def tenx(adata: ad.AnnData, path: Path) -> None:
    """Write CellRanger's HDF5."""
    counts = adata.X
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        parts = {name: getattr(counts, name).astype(np.int64) for name in ("data", "indices", "indptr")}
        for name, values in {**parts, "shape": np.array(adata.shape[::-1])}.items():
            group.create_dataset(name, data=values)
        group.create_dataset("barcodes", data=adata.obs_names.to_numpy("S"))
        features = group.create_group("features")
        for name in ("id", "name"):
            features.create_dataset(name, data=adata.var_names.to_numpy("S"))
        features.create_dataset("feature_type", data=np.array(["Gene Expression"] * adata.n_vars, "S"))


def mtx(adata: ad.AnnData, folder: Path) -> None:
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", sp.coo_matrix(adata.X.T.astype(np.int64)))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    lines = [f"{gene}\t{gene}\tGene Expression\n" for gene in adata.var_names]
    (folder / "features.tsv").write_text("".join(lines))


def stored(matrix: Callable) -> Callable[[ad.AnnData, Path], None]:
    return lambda adata, path: ad.AnnData(matrix(adata.X), adata.obs, adata.var).write_h5ad(path)


def zarr(adata: ad.AnnData, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr's two formats; both are read
        adata.write_zarr(path)


FORMS = {
    "csr": stored(lambda x: x), "csc": stored(lambda x: x.tocsc()), "dense": stored(lambda x: x.toarray()),
    "int64": stored(lambda x: x.astype(np.int64)), "zarr": zarr, "10x-h5": tenx, "10x-mtx": mtx,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_cells_of_the_anndata(form, adata, held, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_ROWS", 7)  # so that a read is of several portions
    monkeypatch.setattr(matrices, "IN_MEMORY_BYTES", 64)  # so that columns go through a file
    FORMS[form](adata, tmp_path / "cells")
    cells = SourceCells(tmp_path / "cells", "human")
    assert isinstance(cells, Cells)
    assert len(cells) == N
    assert cells.obs.index.tolist() == adata.obs_names.tolist()
    assert cells.var.index.tolist() == adata.var_names.tolist()
    for numbers in (np.arange(N), np.array([9, 7, 7, 59, 0]), np.empty(0, np.int64)):
        np.testing.assert_array_equal(dense(cells, numbers), dense(held, numbers))
    cells.will_need(np.arange(20, 40))
    np.testing.assert_array_equal(dense(cells, np.arange(18, 42)), dense(held, np.arange(18, 42)))
    np.testing.assert_array_equal(cells.measured(0, 0), held.measured(0, 0))
    for name in ("depth", "nnz", "count_hash_high", "split", "cell_type"):
        np.testing.assert_array_equal(cells.column(name), held.column(name), name)
    if form not in ("10x-h5", "10x-mtx"):  # which have no ids of an atlas
        np.testing.assert_array_equal(cells.column("cell_id_high"), held.column("cell_id_high"))
        assert cells.about == held.about
    assert cells.neighbours(np.arange(3))[0].shape == (3, 0)
    cells.close()
    assert len(cells.read(np.array([1]))) == 1, "it is opened again"
    cells.close()


def test_batches_are_those_of_the_anndata_and_a_pickled_one_reads_on(adata, held, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = pickle.loads(pickle.dumps(SourceCells(tmp_path / "cells.h5ad", "human")))
    words, some = make_vocabulary(held), np.array([3, 50, 7])
    batches = [Collator(words, one, CollateConfig(length=40)).collate(some, some) for one in (cells, held)]
    for name in ("genes", "counts", "depth", "offsets"):
        np.testing.assert_array_equal(*(getattr(one, name).numpy() for one in batches))
    assert cells.fingerprint == SourceCells(tmp_path / "cells.h5ad", "human").fingerprint
    cells.close()


def test_the_fingerprint_is_of_the_content(adata, tmp_path):
    counted, named = adata.copy(), adata.copy()
    counted.X.data[0] += 1
    named.obs_names = [f"another {name}" for name in adata.obs_names]
    prints = []
    for number, made in enumerate((adata, adata, counted, named)):
        made.write_h5ad(tmp_path / f"{number}.h5ad")
        prints.append(SourceCells(tmp_path / f"{number}.h5ad", "human").fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_file_that_changes_while_it_is_read_is_told(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    cells = SourceCells(path, "human")
    cells.close()
    changed = adata.copy()
    changed.X.data[0] += 1
    changed.write_h5ad(path)
    with pytest.raises(CellsError, match="begin again"):
        cells.read(np.arange(N))
    cells.close()


def test_what_is_no_count_another_organism_or_hostile_is_refused(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    other = ad.AnnData(adata.X.log1p(), adata.obs, adata.var, layers={"umis": adata.X})
    other.write_h5ad(path)
    with pytest.raises(CellsError, match=r"log1p of integers.*pass the raw counts") as refused:
        SourceCells(path, "human")
    assert refused.value.others == ("layers/umis",)
    assert len(SourceCells(path, "human", "layers/umis")) == N
    with pytest.raises(ContractError, match="no-such-matrix"):
        SourceCells(path, "human", "layers/umi")
    with pytest.raises(CellsError, match="genes are of Homo sapiens"):
        SourceCells(path, "mouse", "layers/umis")
    with pytest.raises(LoaderInputError, match="memory_mib"):
        SourceCells(path, "human", memory_mib=0)
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ContractError, match="hdf5-external-link"):
        SourceCells(path, "human", "layers/umis")


def test_a_damaged_chunk_is_told_before_any_cell_is_served(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        place, size = file["X/data"].id.get_chunk_info(0).byte_offset, file["X/data"].id.get_chunk_info(0).size
    raw = bytearray(path.read_bytes())
    raw[place : place + size] = bytes(size)
    path.write_bytes(raw)
    with pytest.raises(CellsError, match="damaged"):
        SourceCells(path, "human")


def test_a_file_with_gaps_in_its_datasets_is_one_dataset_and_that_is_told(adata, tmp_path):
    made = adata.copy()
    made.obs["dataset_id"] = ["one"] * (N - 1) + [np.nan]
    made.write_h5ad(tmp_path / "gaps.h5ad")
    with closing(SourceCells(tmp_path / "gaps.h5ad", "human", columns={})) as cells:
        assert len(cells.about["vocabulary"]["dataset"]) == 1
        assert [one.count for one in cells.findings if one.code == "missing-datasets"] == [1]


def test_a_donor_is_one_person_in_all_datasets_of_a_file_and_nobody_is_one_per_dataset(adata, tmp_path):
    made = adata.copy()
    made.obs["dataset_id"] = np.where(np.arange(made.n_obs) % 2, "one", "two")
    made.obs["who"] = np.array(["ada", "ben", "unknown"])[np.arange(made.n_obs) // 2 % 3]
    made.write_h5ad(tmp_path / "people.h5ad")
    with closing(SourceCells(tmp_path / "people.h5ad", "human", columns={"donor": "who"})) as cells:
        words = np.array(cells.about["vocabulary"]["donor"], dtype=object)
        told = words[cells.column("donor")]
    assert set(words) == {"one/ada", "one/ben", "one/unknown", "two/unknown"}
    who, datasets = made.obs["who"].astype(str), made.obs["dataset_id"].astype(str)
    named = who != "unknown"
    assert told[named].tolist() == ("one/" + who[named]).tolist()
    assert told[~named].tolist() == (datasets + "/unknown")[~named].tolist()
