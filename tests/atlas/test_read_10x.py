"""Reading CellRanger's formats and zarr: the values scanpy, scipy and anndata give."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp

from atlas.errors import ContractError
from atlas.read import prove_counts
from tests import hostile, hostile_folders
from tests.reading import opened, same, whole


def write_10x(path, adata, *, version=3, genome="GRCh38", prefix=""):
    matrix = sp.csr_matrix(adata.X).astype(np.int32)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else genome)
        for part in ("data", "indices", "indptr"):
            group.create_dataset(part, data=getattr(matrix, part), compression="gzip")
        group["shape"] = np.array(matrix.shape[::-1], np.int32)
        group["barcodes"] = np.array(adata.obs_names, "S")
        ids, names = (np.array([prefix + k + n for n in adata.var_names], "S") for k in ("id-", ""))
        if version == 2:
            group["genes"], group["gene_names"] = ids, names
            return path
        features = group.create_group("features")
        features["id"], features["name"] = ids, names
        features["genome"] = np.array([genome] * adata.n_vars, "S")
        features["feature_type"] = np.array(adata.var.get("kind", ["Gene Expression"] * adata.n_vars), "S")
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5_reads_like_scanpy(tmp_path, version):
    path = write_10x(tmp_path / "a.h5", hostile.good(), version=version)
    oracle = sc.read_10x_h5(path)
    with opened(path) as cells:
        assert same(whole(cells, 5), oracle.X)
        assert cells.obs.index.tolist() == oracle.obs_names.tolist()
        assert cells.gene_names == [f"id-{n}" for n in oracle.var_names]
        assert cells.gene_fallback == oracle.var_names.tolist()
        prove_counts(cells)


def test_10x_h5_features_and_genomes(tmp_path):
    adata = hostile.good()
    adata.var["kind"] = ["Gene Expression"] * 6 + ["Multiplexing Capture"] * 2
    with opened(write_10x(tmp_path / "a.h5", adata, prefix="GRCh38_")) as cells:
        assert cells.gene_names == [f"id-gene{i}" for i in range(6)]
        assert [f.code for f in cells.findings] == ["other-features"]
    path = write_10x(tmp_path / "b.h5", hostile.good(), version=2)
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(ContractError, match="several-genomes"):
        opened(path)
    with opened(path, matrix="mm10") as cells:
        assert cells.matrix == "mm10"


@pytest.mark.parametrize("packed", [True, False])
def test_10x_mtx_reads_like_scanpy(tmp_path, packed):
    path = hostile_folders.mtx_folder(tmp_path, packed=packed)
    with opened(path) as cells:
        assert same(whole(cells), hostile.good().X)
        if packed:  # scanpy reads version 3 folders only when they are gzipped
            assert same(whole(cells), sc.read_10x_mtx(path).X)
        assert cells.gene_names == [f"idgene{i}" for i in range(8)]
        assert cells.gene_fallback == [f"gene{i}" for i in range(8)]
        prove_counts(cells)


def test_mtx_in_any_order_with_a_prefix_and_old_names(tmp_path):
    matrix = hostile.good().X.T.tocoo()
    order = np.random.default_rng(0).permutation(matrix.nnz)
    lines = [f"{matrix.row[k] + 1} {matrix.col[k] + 1} {int(matrix.data[k])}" for k in order]
    header = ["%%MatrixMarket matrix coordinate real general", "% by hand", f"8 12 {matrix.nnz}"]
    (tmp_path / "GSM1_matrix.mtx").write_text("\n".join([*header, *lines, ""]))
    (tmp_path / "GSM1_barcodes.tsv").write_text("".join(f"c{i}\n" for i in range(12)))
    (tmp_path / "GSM1_genes.tsv").write_text("".join(f"i{i}\tg{i}\n" for i in range(8)))
    with opened(tmp_path) as cells:
        assert same(whole(cells), scipy.io.mmread(tmp_path / "GSM1_matrix.mtx").T)
        assert cells.gene_fallback == [f"g{i}" for i in range(8)]


@pytest.mark.parametrize(("version", "shards"), [(2, False), (3, False), (3, True)])
def test_zarr_reads_like_anndata(tmp_path, version, shards):
    path = hostile_folders.zarr_folder(tmp_path, version, shards=shards)
    with opened(path) as cells:
        oracle = hostile.good()
        assert same(whole(cells, 5), oracle.X)
        assert cells.obs.index.tolist() == oracle.obs_names.tolist()
        assert cells.obs["kind"].tolist() == oracle.obs["kind"].tolist()
        assert prove_counts(cells).total == int(oracle.X.sum())


@pytest.mark.shared
def test_real_10x_files_read_like_scanpy(shared):
    for path in sorted((shared / "data" / "raw").glob("*.10x.h5")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # symbols repeat, which is why ids are read
            oracle = sc.read_10x_h5(path, gex_only=True)
        with opened(path) as cells:
            assert same(whole(cells), oracle.X), path.name
            assert cells.gene_names == oracle.var["gene_ids"].tolist()
            assert prove_counts(cells).total == int(oracle.X.sum(dtype=np.float64))
    for path in sorted((shared / "data" / "raw" / "cryptosporidium_10x_mtx").glob("*hrs")):
        oracle = sc.read_10x_mtx(path)
        with opened(path) as cells:
            assert same(whole(cells), oracle.X), path.name
            assert cells.obs.index.tolist() == oracle.obs_names.tolist()
