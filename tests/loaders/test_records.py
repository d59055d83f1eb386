"""Records give back what was encoded: any counts, any gene numbers, any selection."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import LoaderInputError
from loaders.records import CellRows, encode_cells

COUNTS = st.one_of(st.integers(1, 300), st.sampled_from([254, 255, 256, 65_535, 65_536, 1 << 24]))


@st.composite
def cells(draw: st.DrawFn) -> sp.csr_matrix:
    """Return a few cells over up to 2^17 genes, empty ones among them."""
    width = draw(st.sampled_from([1, 300, 65_536, 65_537, 131_072]))
    rows = [
        draw(st.dictionaries(st.integers(0, width - 1), COUNTS, max_size=12)) for _ in range(draw(st.integers(0, 6)))
    ]
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    pairs = [pair for row in rows for pair in sorted(row.items())]
    genes, counts = ([pair[i] for pair in pairs] for i in (0, 1))
    return sp.csr_matrix((np.array(counts, float), np.array(genes, int), indptr), shape=(len(rows), width))


def as_matrix(rows: CellRows, width: int) -> sp.csr_matrix:
    """Return decoded cells as scipy has them."""
    return sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(rows.indptr) - 1, width))


@settings(max_examples=150)
@given(cells())
def test_decoding_gives_back_what_was_encoded(matrix: sp.csr_matrix) -> None:
    packed = encode_cells(matrix)
    rows = packed.decode()
    np.testing.assert_array_equal(rows.indptr, matrix.indptr)
    np.testing.assert_array_equal(rows.indices, matrix.indices)
    np.testing.assert_array_equal(rows.counts, matrix.data)
    assert not (packed.starts % 4).any(), "records are aligned"
    ends = np.append(packed.starts[1:], len(packed.data))
    large = [(matrix[i].data >= 255).sum() for i in range(matrix.shape[0])]
    expected = [-(-3 * n // 4) * 4 + 8 * m for n, m in zip(np.diff(matrix.indptr), large, strict=True)]
    assert (ends - packed.starts).tolist()[: len(expected)] == expected


@pytest.mark.parametrize(
    ("data", "indices"),
    [
        ([1.5, 1], [0, 1]),
        ([-1, 1], [0, 1]),
        ([0, 1], [0, 1]),
        ([2.0**24 + 2, 1], [0, 1]),
        ([1, 1], [1, 0]),
        ([1, 1], [1, 1]),
    ],
)
def test_what_is_no_sorted_row_of_counts_is_refused(data: list[float], indices: list[int]) -> None:
    matrix = sp.csr_matrix((np.array(data, float), np.array(indices), np.array([0, 2])), shape=(1, 5))
    with pytest.raises(LoaderInputError, match="rows"):
        encode_cells(matrix)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(LoaderInputError, match="whole counts"), np.errstate(invalid="ignore"):
        encode_cells(sp.csr_matrix(np.array([[value]])))


def test_more_genes_than_a_record_can_name_are_refused() -> None:
    with pytest.raises(LoaderInputError, match="131073 genes"):
        encode_cells(sp.csr_matrix((1, 131_073)))
