"""Metrics equal what numpy says of the dense matrix and what scanpy's calculate_qc_metrics says of the sparse one."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atlas import AtlasInputError
from atlas.measure import METRICS, measurable, measure_block


def oracle(dense: np.ndarray, mito: np.ndarray) -> pd.DataFrame:
    """Return the metrics one cell at a time, from their definitions."""
    rows = []
    for cell in dense.astype(np.float64):
        held = cell[cell > 0]
        total = held.sum()
        rows.append(
            {
                "raw_sum": total,
                "nnz": len(held),
                "raw_mean_nnz": held.mean() if len(held) else 0.0,
                "raw_variance_nnz": np.var(held, ddof=1) if len(held) > 1 else 0.0,
                "pct_mito": 100 * cell[mito].sum() / total if total and mito.any() else np.nan,
                "pct_top20": 100 * np.sort(cell)[::-1][:20].sum() / total if total else np.nan,
            }
        )
    return pd.DataFrame(rows)


def random_counts(n: int = 300, g: int = 400, seed: int = 0) -> sp.csr_matrix:
    """Return cells of very unlike lengths, from none to every gene."""
    rng = np.random.default_rng(seed)
    dense = rng.negative_binomial(0.6, 0.05, (n, g)) * (rng.random((n, g)) < rng.random((n, 1)) ** 3)
    dense[5] = 0
    dense[6] = 7
    return sp.csr_matrix(dense.astype(np.float32))


def compare(counts: sp.csr_matrix, mito: np.ndarray) -> None:
    got, want = measure_block(counts, mito, None), oracle(counts.toarray(), mito)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-6, atol=1e-9, err_msg=name)


@given(
    dense=hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=45), elements=st.integers(0, 2**20)),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 9),
)
@settings(max_examples=120, deadline=None)
def test_any_matrix(dense: np.ndarray, zeros: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = dense * (rng.random(dense.shape) >= zeros)
    compare(sp.csr_matrix(dense.astype(np.float32)), rng.random(dense.shape[1]) < 0.3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint16])
def test_any_type_of_integer(dtype: type) -> None:
    counts = random_counts().astype(dtype)
    compare(counts, np.arange(counts.shape[1]) < 13)


def test_order_of_a_row_and_explicit_zeros_do_not_matter() -> None:
    counts = random_counts(80, 60)
    mito = np.arange(60) % 7 == 0
    shuffled = counts.copy()
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        order = np.random.default_rng(start).permutation(stop - start) + start
        shuffled.indices[start:stop], shuffled.data[start:stop] = counts.indices[order], counts.data[order]
    shuffled.has_sorted_indices = False
    padded = sp.csr_matrix((counts.toarray() * 0 + 1).astype(np.float32))
    padded.data[:] = counts.toarray().ravel()
    assert padded.nnz == counts.shape[0] * counts.shape[1]
    want = measure_block(counts, mito, mito)
    for other in (shuffled, padded):
        got = measure_block(other, mito, mito)
        for name in METRICS:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-6, err_msg=name)


def test_a_cell_measures_the_same_to_the_last_bit_whatever_stands_beside_it() -> None:
    counts, mito = random_counts(), np.arange(400) < 20
    whole = measure_block(counts, mito, mito)
    for start, stop in ((0, 1), (5, 7), (7, 180), (180, 300)):
        part = measure_block(counts[start:stop], mito, mito)
        for name in METRICS:
            assert part[name].tobytes() == whole[name][start:stop].tobytes(), name


def test_the_counts_are_not_touched() -> None:
    counts = random_counts(50, 40)
    before = counts.copy()
    measure_block(counts, np.arange(40) < 4, None)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(before, name))


def test_scanpy_agrees() -> None:
    import scanpy as sc

    counts = random_counts(200, 300)
    counts = counts[np.asarray(counts.sum(axis=1)).ravel() > 0]
    mito, ribo = np.arange(300) < 13, (np.arange(300) % 11) == 3
    var = pd.DataFrame({"mt": mito, "ribo": ribo}, index=[f"g{i}" for i in range(300)])
    adata = ad.AnnData(counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(counts.shape[0])]), var=var)
    sc.pp.calculate_qc_metrics(adata, qc_vars=["mt", "ribo"], percent_top=[20], log1p=False, inplace=True)
    got = measure_block(counts, mito, ribo)
    for ours, theirs in {
        "raw_sum": "total_counts", "nnz": "n_genes_by_counts",
        "pct_mito": "pct_counts_mt", "pct_ribo": "pct_counts_ribo",
        "pct_top20": "pct_counts_in_top_20_genes",
    }.items():  # fmt: skip
        np.testing.assert_allclose(got[ours], adata.obs[theirs], rtol=1e-5, err_msg=ours)


def test_variance_keeps_its_digits_where_counts_are_large_and_alike() -> None:
    values = np.array([[2**24, 2**24 - 1, 2**24 - 2, 2**24 - 1]], dtype=np.float32)
    got = measure_block(sp.csr_matrix(values), None, None)["raw_variance_nnz"][0]
    assert got == np.var(values.astype(np.float64), ddof=1)


@pytest.mark.parametrize("mask", [None, np.zeros(40, dtype=bool)])
def test_no_gene_of_a_set_means_not_measurable_and_not_zero(mask: np.ndarray | None) -> None:
    got = measure_block(random_counts(30, 40), mask, mask)
    assert np.isnan(got["pct_mito"]).all()
    assert np.isnan(got["pct_ribo"]).all()


def test_a_gene_set_counts_only_where_enough_of_it_is_measured() -> None:
    members, measured = np.array([True, True, True, False]), np.array([True, True, False, True])
    assert measurable(members, measured, 2).tolist() == [True, True, False, False]
    assert measurable(members, measured, 3) is None
    assert measurable(None, measured, 1) is None
    assert measurable(np.zeros(4, bool), None, 0) is None


def test_bad_calls_name_what_is_wrong() -> None:
    with pytest.raises(AtlasInputError, match="counts='csc_matrix'"):
        measure_block(sp.csc_matrix((2, 3)), None, None)
    with pytest.raises(AtlasInputError, match=r"ribo=\(2,\) is not allowed; expected one bool per gene: shape \(3,\)"):
        measure_block(sp.csr_matrix((2, 3)), None, np.ones(2, bool))


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (3, 5)])
def test_nothing_in_nothing_out(shape: tuple[int, int]) -> None:
    got = measure_block(sp.csr_matrix(shape, dtype=np.float32), np.ones(shape[1], bool), None)
    assert {name: len(values) for name, values in got.items()} == dict.fromkeys(METRICS, shape[0])
    assert got["nnz"].dtype == np.int64
    assert not got["raw_sum"].any()
    assert np.isnan(got["pct_top20"]).all()
