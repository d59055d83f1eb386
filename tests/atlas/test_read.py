"""Reading h5ad: every layout gives the values anndata gives, in file order, whatever the block size.

Oracle: anndata on the same files. Other formats are in test_read_10x.py, faults and digests in test_prove.py.
"""

from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import ContractError
from atlas.matrices import CompressedRows, transpose_columns
from atlas.read import prove_counts
from tests import hostile
from tests.reading import layouts, opened, same, whole, written


@pytest.mark.parametrize("name", layouts())
def test_layouts_read_like_anndata(name, tmp_path):
    adata, options = layouts()[name]
    path = written(tmp_path, adata, **options)
    oracle = ad.read_h5ad(path)
    with opened(path) as cells:
        proof = prove_counts(cells)
        assert cells.matrix == "X"
        assert same(whole(cells), oracle.X)
        assert cells.obs.index.tolist() == oracle.obs_names.tolist()
        assert cells.obs["kind"].tolist() == oracle.obs["kind"].astype(str).tolist()
        assert cells.obs["age"].tolist() == oracle.obs["age"].tolist()
        assert cells.gene_names == oracle.var_names.tolist()
    dense = np.asarray(oracle.X.todense() if sp.issparse(oracle.X) else oracle.X)
    assert (proof.nnz, proof.total, proof.maximum) == (np.count_nonzero(dense), int(dense.sum()), int(dense.max()))
    assert proof.zeros == (oracle.X.nnz - np.count_nonzero(dense) if sp.issparse(oracle.X) else 0)


counts = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts, st.integers(1, 50), st.sampled_from(["csr", "csc", "dense"]), st.integers(1, 9), st.booleans())
def test_same_rows_for_any_block_size_chunk_and_layout(tmp_path, shape, rows, layout, chunk, gzip):
    n, g, seed, density = shape
    rng = np.random.default_rng(seed)
    dense = (rng.random((n, g)) < density) * rng.integers(1, 1000, (n, g))
    dense[0, 0] = 1
    path = tmp_path / "cells.h5ad"
    handle = ad.AnnData(sp.csr_matrix(dense.astype(np.float32)), obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]))
    if layout != "csr":
        handle.X = sp.csc_matrix(handle.X) if layout == "csc" else dense.astype(np.int64)
    handle.write_h5ad(path)
    with h5py.File(path, "r+") as file:  # other chunks than anndata's
        for name in ("X/data", "X/indices") if layout != "dense" else ("X",):
            data, attrs = file[name][:], dict(file[name].attrs)
            del file[name]
            chunks = (min(chunk, max(1, data.shape[0])), *data.shape[1:])
            made = file.create_dataset(name, data=data, chunks=chunks, compression="gzip" if gzip else None)
            made.attrs.update(attrs)
    with opened(path) as cells:
        assert same(whole(cells, rows), dense)
        assert same(whole(cells, 7), dense)
        pick = rng.integers(0, n, rng.integers(0, 2 * n + 1))
        assert same(cells.rows(pick), sp.csr_matrix(dense)[pick])


def test_changing_a_block_changes_no_later_read(tmp_path):
    with opened(hostile.good_file(tmp_path)) as cells:
        first = whole(cells)
        for _, block in cells.blocks(5):
            block.data[:], block.indices[:] = 0, 0
        assert same(whole(cells), first)


def test_rows_out_of_range(tmp_path):
    with opened(hostile.good_file(tmp_path)) as cells:
        assert cells.rows([]).shape == (0, 8)
        for bad in ([-1], [12]):
            with pytest.raises(IndexError):
                cells.rows(bad)


def test_transposing_in_pieces_and_on_disk(monkeypatch):
    monkeypatch.setattr("atlas.matrices.IN_MEMORY_BYTES", 100)
    monkeypatch.setattr("atlas.matrices.SLAB_BYTES", 64)
    monkeypatch.setattr("atlas.matrices._column_slabs.__defaults__", (13,))
    matrix = sp.random(50, 30, 0.3, format="csc", random_state=0)
    reader = transpose_columns((matrix.data, matrix.indices, matrix.indptr), (50, 30), "x", "X")
    assert isinstance(reader._data.array, np.memmap)
    assert same(reader.read(0, 50), matrix)


def test_choice_of_matrix(tmp_path):
    adata = hostile.good()
    adata.layers["counts"] = adata.X.copy() * 2
    adata.raw = ad.AnnData(adata.X * 3, obs=adata.obs, var=pd.DataFrame(index=[f"raw{i}" for i in range(8)]))
    path = written(tmp_path, adata)
    for wanted, name, factor in (
        (None, "raw/X", 3),
        ("layers/counts", "layers/counts", 2),
        ("X", "X", 1),
        ("raw.X", "raw/X", 3),
    ):
        with opened(path, matrix=wanted) as cells:
            assert cells.matrix == name
            assert same(whole(cells), adata.X * factor)
            assert cells.gene_names[0] == ("raw0" if factor == 3 else "gene0")
    with pytest.raises(ContractError, match="did you mean layers/counts"):
        opened(path, matrix="layers/count")
    del adata.raw
    with opened(written(tmp_path, adata)) as cells:
        assert cells.matrix == "layers/counts"


def test_gene_names_prefer_ids(tmp_path):
    adata = hostile.good()
    ids = [f"ENSG0000000000{i}.2" for i in range(8)]
    symbols = [f"SYM{i}" for i in range(8)]
    table = {
        "ids in a column": (pd.DataFrame({"gene_ids": ids}, index=symbols), ids, symbols),
        "ids in the index": (pd.DataFrame({"feature_name": symbols}, index=ids), ids, symbols),
        "symbols only": (pd.DataFrame({"n_cells": range(8)}, index=symbols), symbols, None),
        "ids twice": (pd.DataFrame({"gene_ids": ids}, index=ids), ids, None),
        "a gap": (pd.DataFrame({"gene_ids": [*ids[:7], ""]}, index=symbols), [*ids[:7], "SYM7"], symbols),
        "a column named for ids that holds none": (
            pd.DataFrame({"gene_ids": symbols}, index=ids),
            ids,
            symbols[:0] or None,
        ),
    }
    for name, (var, names, fallback) in table.items():
        adata.var = var
        with opened(written(tmp_path, adata)) as cells:
            assert (cells.gene_names, cells.gene_fallback) == (names, fallback), name


def test_other_features_are_left_out_and_counted(tmp_path):
    adata = hostile.good()
    kinds = ["Gene Expression"] * 5 + ["Antibody Capture"] * 2 + ["Gene Expression"]
    adata.var["feature_types"] = kinds
    genes = np.array(kinds) == "Gene Expression"
    with opened(written(tmp_path, adata)) as cells:
        assert cells.n_vars == 6
        assert same(whole(cells), adata.X[:, genes])
        assert same(cells.rows([3, 1]), adata.X[[3, 1]][:, genes])
        assert prove_counts(cells).total == int(adata.X[:, genes].sum())
        assert [(f.code, f.count) for f in cells.findings] == [("other-features", 2)]


def test_columns_become_plain_values(tmp_path):
    adata = hostile.good(4)
    adata.obs["gap"] = pd.Categorical(["a", None, "b", "a"])
    adata.obs["cluster"] = pd.Categorical([1, 2, 1, 2])
    adata.obs["whole"] = pd.array([1, None, 3, 4], dtype="Int64")
    adata.obs["flag"] = pd.array([True, None, False, True], dtype="boolean")
    adata.obs["real"] = np.array([1.5, np.nan, 0, 1], np.float32)
    adata.obs["yes"] = [True, False, True, True]
    adata.uns |= {"organism": "Homo sapiens", "n": 3, "deep": {"note": "x", "deeper": {"lost": "y"}}, "many": [1, 2]}
    with opened(written(tmp_path, adata)) as cells:
        obs = cells.obs
        assert obs["gap"].tolist() == ["a", None, "b", "a"]
        assert obs["cluster"].tolist() == ["1", "2", "1", "2"]
        assert obs["whole"].tolist()[2:] == [3.0, 4.0]
        assert np.isnan(obs["whole"].iloc[1])
        assert obs["flag"].tolist() == ["True", None, "False", "True"]
        assert obs["yes"].dtype == bool
        assert obs["real"].dtype == np.float32
        assert cells.uns == {"organism": "Homo sapiens", "n": 3, "deep/note": "x"}


def test_oldest_layout_compound_frames_and_h5sparse(tmp_path):
    path = tmp_path / "old.h5ad"
    matrix = hostile.good().X
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = b"csr", matrix.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(matrix, part)
        file["obs"] = np.array(
            [(f"c{i}".encode(), b"x", i) for i in range(12)], [("index", "S4"), ("kind", "S1"), ("n", "i4")]
        )
        file["var"] = np.array([(f"g{i}".encode(),) for i in range(8)], [("index", "S4")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = ad.read_h5ad(path)
    with opened(path) as cells:
        assert same(whole(cells), oracle.X)
        assert cells.obs.index.tolist() == oracle.obs_names.tolist()
        assert cells.obs["kind"].tolist() == ["x"] * 12
        assert cells.obs["n"].tolist() == list(range(12))
        assert prove_counts(cells).total == int(matrix.sum())


@pytest.mark.shared
def test_real_h5ad_files_read_like_anndata(shared):
    files = sorted((shared / "data").glob("*.h5ad"))
    assert len(files) > 20
    for path in files:
        oracle = ad.read_h5ad(path)
        with opened(path) as cells:
            assert same(whole(cells), oracle.X), path.name
            assert cells.obs.index.tolist() == oracle.obs_names.tolist()
            assert cells.var.index.tolist() == oracle.var_names.tolist()
            for column in oracle.obs.columns:
                expected = [None if pd.isna(v) else str(v) for v in oracle.obs[column]]
                assert [None if pd.isna(v) else str(v) for v in cells.obs[column]] == expected, (path.name, column)
            if "NOTRAW" in path.name:
                with pytest.raises(ContractError, match="log-normalised"):
                    prove_counts(cells)
            else:
                assert prove_counts(cells).total == int(oracle.X.sum(dtype=np.float64))


@pytest.mark.shared
def test_same_real_cells_in_two_files_share_their_counts(shared):
    with (
        opened(shared / "data" / "human_pbmc3k_10x.h5ad") as ten,
        opened(shared / "data" / "human_pbmc3k_labelled.h5ad") as labelled,
    ):
        rows = pd.Index(ten.obs.index).get_indexer(labelled.obs.index)
        assert (rows >= 0).all()
        assert same(ten.rows(rows), whole(labelled))


def test_memory_is_a_slab_whatever_the_matrix(monkeypatch):
    monkeypatch.setattr("atlas.matrices.SLAB_BYTES", 4_000)
    asked = []

    class Watched:
        """An array that notes how much is asked of it at once."""

        def __init__(self, values):
            self.values, self.shape, self.dtype, self.chunks = values, values.shape, values.dtype, (100,)

        def __getitem__(self, part):
            asked.append(len(self.values[part]) * self.dtype.itemsize)
            return self.values[part]

    matrix = sp.random(5_000, 40, 0.2, format="csr", random_state=0)
    parts = (Watched(matrix.data), Watched(matrix.indices), matrix.indptr)
    reader = CompressedRows(parts, matrix.shape, "x", "X")
    read = sp.vstack([reader.read(start, start + 10) for start in range(0, 5_000, 10)])
    assert same(read, matrix)
    assert max(asked) <= 4_000 + 2 * 100 * 8  # a slab, rounded out to chunks
    assert sum(asked) < 1.5 * (matrix.data.nbytes + matrix.indices.nbytes)  # no chunk is fetched over and over
