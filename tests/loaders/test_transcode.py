"""Records of the store become those that packs have, byte for byte; damaged ones are refused, never followed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.cell_records import StoredRecords, encode_records
from atlas.identity import count_hashes, gene_keys
from loaders import PackError
from loaders.record_kernels import count_hashes_high
from loaders.records import encode_cells, join_records
from loaders.transcode import transcode

COUNTS = st.one_of(
    st.integers(1, 25), st.integers(1, 300), st.sampled_from([18, 19, 254, 255, 256, 274, 275, 65_555, 1 << 24])
)
WIDTHS = [1, 300, 65_536, 65_537, 70_000, 131_072]


@st.composite
def cells(draw: st.DrawFn) -> sp.csr_matrix:
    """Return a few cells over up to 2^17 genes: empty ones, far genes, genes beyond 2^16 only."""
    width = draw(st.sampled_from(WIDTHS))
    rows = []
    for _ in range(draw(st.integers(0, 6))):
        low = draw(st.sampled_from([0, max(width - 20, 0), min(65_530, width - 1)]))
        rows.append(draw(st.dictionaries(st.integers(low, width - 1), COUNTS, max_size=14)))
    pairs = [pair for row in rows for pair in sorted(row.items())]
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    genes, counts = ([pair[i] for pair in pairs] for i in (0, 1))
    return sp.csr_matrix((np.array(counts, float), np.array(genes, int), indptr), shape=(len(rows), width))


@settings(max_examples=300, deadline=None)
@given(cells())
def test_both_ways_to_a_record_give_the_same_bytes(matrix: sp.csr_matrix) -> None:
    expected = encode_cells(matrix)
    found = transcode(encode_records(matrix), matrix.shape[1], "here")
    for part in ("data", "starts", "nnz", "low", "large"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part), err_msg=part)
    rows = found.decode()
    np.testing.assert_array_equal(rows.indices, matrix.indices)
    np.testing.assert_array_equal(rows.counts, matrix.data)


@cache
def keys_of(n_genes: int) -> np.ndarray:
    """Return the keys of made-up genes, both lanes."""
    return gene_keys([f"G{i}" for i in range(n_genes)])


@settings(max_examples=100, deadline=None)
@given(cells())
def test_a_hash_is_the_ingests(matrix: sp.csr_matrix) -> None:
    keys = keys_of(matrix.shape[1])
    whole, _ = count_hashes(matrix.astype(np.float32), keys, np.zeros(matrix.shape[1], bool))
    found = count_hashes_high(encode_cells(matrix), keys[0].copy())
    assert [f"{value:016x}" for value in found] == [text[:16] for text in whole]


@pytest.fixture(scope="module")
def stored() -> tuple[StoredRecords, int]:
    """Return cells of all kinds as the store has them, and their genes."""
    rng = np.random.default_rng(2)
    matrix = sp.random(40, 70_000, 0.004, "csr", rng=rng, data_rvs=lambda n: rng.geometric(0.02, n).astype(float))
    matrix.sort_indices()
    return encode_records(matrix), matrix.shape[1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_give_cells_whose_hash_differs(
    stored: tuple[StoredRecords, int], data: st.DataObject
) -> None:
    records, n_genes = stored
    part = data.draw(st.sampled_from(["genes", "counts"]))
    damaged = getattr(records, part).copy()
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    changed = not np.array_equal(damaged, getattr(records, part))
    keys = keys_of(n_genes)[0].copy()
    sound = count_hashes_high(transcode(records, n_genes, "here"), keys)
    try:
        found = transcode(replace(records, **{part: damaged}), n_genes, "here")
    except PackError:
        return
    assert (count_hashes_high(found, keys) != sound).any() == changed


@pytest.mark.parametrize("missing", [1, 2, 40])
def test_records_cut_short_are_refused(stored: tuple[StoredRecords, int], missing: int) -> None:
    records, n_genes = stored
    for part in ("gene_starts", "count_starts"):
        ends = getattr(records, part).copy()
        ends[-1] -= missing
        with pytest.raises(PackError, match="record 39 of 40"):
            transcode(replace(records, **{part: ends}), n_genes, "here")


def test_a_gene_that_the_table_does_not_have_is_refused(stored: tuple[StoredRecords, int]) -> None:
    records, _ = stored
    with pytest.raises(PackError, match="damaged"):
        transcode(records, 60_000, "here")


def test_records_are_taken_and_joined_in_any_order() -> None:
    rng = np.random.default_rng(4)
    matrix = sp.random(60, 66_000, 0.002, "csr", rng=rng, data_rvs=lambda n: rng.integers(1, 400, n).astype(float))
    matrix.sort_indices()
    packed = encode_cells(matrix)
    first, second = rng.integers(0, 60, 30), rng.integers(0, 60, 1)
    joined = join_records([packed.take(first), packed.take(second), packed.take(first[:0])])
    rows, expected = joined.decode(), matrix[np.concatenate([first, second])]
    np.testing.assert_array_equal(rows.indptr, expected.indptr)
    np.testing.assert_array_equal(rows.indices, expected.indices)
    np.testing.assert_array_equal(rows.counts, expected.data)


def test_a_large_count_at_no_gene_is_refused() -> None:
    packed = encode_cells(sp.csr_matrix(np.array([[1.0, 300.0]])))
    data = packed.data.copy()
    data.view("<u4")[-2] = 2
    with pytest.raises(PackError, match="no gene"):
        replace(packed, data=data).decode()
