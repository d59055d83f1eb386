"""Records: every matrix of counts comes back exactly, byte for byte as the layout says, and nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atlas import AtlasInputError
from atlas.cell_records import MOST_GENES, StoredRecords, encode_records

EDGES = [1, 2, 3, 4, 5, 17, 18, 19, 20, 254, 255, 256, 274, 275, 65_535, 65_554, 65_555, 2**24 - 1, 2**24]


def matrix(rows: list[dict[int, int]], n_genes: int) -> sp.csr_matrix:
    """Return cells given as {gene: count}; scipy does the sorting."""
    out = sp.lil_matrix((len(rows), n_genes), dtype=np.float32)
    for i, row in enumerate(rows):
        for gene, count in row.items():
            out[i, gene] = count
    return out.tocsr()


def read_by_the_layout(genes: bytes, counts: bytes) -> dict[int, int]:
    """Read one record as the layout in words says it, value by value: the oracle of the vectorised decoder."""
    at, numbers = -1, []
    for byte in genes:
        at += 255 if byte == 255 else byte + 1
        if byte < 255:
            numbers.append(at)
    n = len(numbers)
    values = [1 + (counts[i // 4] >> (2 * (i % 4)) & 3) for i in range(n)]
    rest, larger = counts[-(-n // 4) :], [i for i in range(n) if values[i] == 4]
    nibbles = [rest[j // 2] >> (4 * (j % 2)) & 15 for j in range(len(larger))]
    planes = rest[-(-len(larger) // 2) :]
    still = [i for i, nibble in zip(larger, nibbles, strict=True) if nibble == 15]
    k = len(still)
    assert len(planes) == 3 * k
    for i, nibble in zip(larger, nibbles, strict=True):
        values[i] = 4 + nibble
    for j, i in enumerate(still):
        values[i] = 19 + planes[j] + 256 * planes[k + j] + 65_536 * planes[2 * k + j]
    return dict(zip(numbers, values, strict=True))


def assert_exact(counts: sp.csr_matrix) -> StoredRecords:
    """Encode, decode, and compare with scipy's arrays and with the layout read by hand."""
    records = encode_records(counts)
    assert len(records) == counts.shape[0]
    back = records.decode(counts.shape[1])
    assert (back.shape, back.dtype, back.indices.dtype) == (counts.shape, np.float32, np.int32)
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(back, part), getattr(counts, part))
    np.testing.assert_array_equal(records.nnz, np.diff(counts.indptr))
    for i in range(len(records)):
        genes = records.genes[records.gene_starts[i] : records.gene_starts[i + 1]].tobytes()
        held = records.counts[records.count_starts[i] : records.count_starts[i + 1]].tobytes()
        row = counts[i]
        assert read_by_the_layout(genes, held) == dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
    again = StoredRecords.of(records.genes, records.gene_starts, records.counts, records.count_starts)
    np.testing.assert_array_equal(again.nnz, records.nnz)
    return records


cells = st.dictionaries(st.integers(0, 1999), st.sampled_from(EDGES) | st.integers(1, 30), max_size=30)


@settings(deadline=None)  # the first call compiles
@given(rows=st.lists(cells, max_size=9))
def test_any_cells_come_back_exactly(rows: list[dict[int, int]]) -> None:
    assert_exact(matrix(rows, 2000))


@settings(max_examples=40, deadline=None)
@given(dense=hnp.arrays(np.uint8, st.tuples(st.integers(0, 12), st.integers(1, 40)), elements=st.integers(0, 255)))
def test_dense_small_matrices_come_back_exactly(dense: np.ndarray) -> None:
    assert_exact(sp.csr_matrix(dense.astype(np.float32)))


@settings(deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0, 1, 253, 254, 255, 256, 509, 510, 511, 764, 765, 5000]), min_size=1, max_size=9)
)
def test_every_gap_around_the_escapes_comes_back(gaps: list[int]) -> None:
    genes = np.cumsum(np.array(gaps) + 1) - 1
    assert_exact(sp.csr_matrix((np.ones(len(genes), np.float32), genes, [0, len(genes)]), shape=(1, 50_000)))


def test_the_extremes_of_genes_and_counts() -> None:
    last = MOST_GENES - 1
    rows = [{0: 1}, {last: 2**24}, {}, {0: 2**24, last: 1}, dict.fromkeys(range(0, MOST_GENES, 997), 300), {}]
    records = assert_exact(matrix(rows, MOST_GENES))
    assert records.genes.size < 6 * (MOST_GENES // 255 + 1)  # no record grows past a byte per 255 genes
    assert_exact(sp.csr_matrix((0, 5), dtype=np.float32))
    assert_exact(sp.csr_matrix((3, 5), dtype=np.float32))


def test_records_do_not_depend_on_the_cells_beside_them() -> None:
    rng = np.random.default_rng(0)
    counts = sp.random(50, 3000, 0.05, "csr", np.float32, rng, lambda n: rng.choice(EDGES, n).astype(np.float32))
    counts.sort_indices()
    whole = encode_records(counts)
    for i in (0, 7, 49):
        alone = encode_records(counts[i])
        np.testing.assert_array_equal(whole.genes[whole.gene_starts[i] : whole.gene_starts[i + 1]], alone.genes)
        np.testing.assert_array_equal(whole.counts[whole.count_starts[i] : whole.count_starts[i + 1]], alone.counts)


def test_a_running_sum_beyond_32_bits_is_told_apart() -> None:
    """2^15 cells that end at the last gene add up to 2^32; differences are right all the same."""
    n = 1 << 15
    indices = np.tile([3, MOST_GENES - 1], n)
    counts = sp.csr_matrix((np.ones(2 * n, np.float32), indices, np.arange(0, 2 * n + 1, 2)), shape=(n, MOST_GENES))
    np.testing.assert_array_equal(encode_records(counts).decode(MOST_GENES).indices, indices)


@pytest.mark.parametrize(
    ("data", "indices", "indptr", "n_genes", "named"),
    [
        ([1.5], [0], [0, 1], 4, "whole counts"),
        ([0], [0], [0, 1], 4, "whole counts"),
        ([-1], [0], [0, 1], 4, "whole counts"),
        ([np.nan], [0], [0, 1], 4, "whole counts"),
        ([np.inf], [0], [0, 1], 4, "whole counts"),
        ([2**24 + 2], [0], [0, 1], 4, "whole counts"),
        ([1, 1], [2, 1], [0, 2], 4, "ascending"),
        ([1, 1], [2, 2], [0, 2], 4, "ascending"),
        ([1], [0], [0, 1], MOST_GENES + 1, "at most"),
    ],
)
def test_what_no_record_can_hold_is_refused(
    data: list[float], indices: list[int], indptr: list[int], n_genes: int, named: str
) -> None:
    counts = sp.csr_matrix((len(indptr) - 1, n_genes), dtype=np.float32)
    counts.data, counts.indices = np.array(data, np.float32), np.array(indices, np.int32)
    counts.indptr = np.array(indptr, np.int32)
    with pytest.raises(AtlasInputError, match=named):
        encode_records(counts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_bytes_that_are_no_records_are_refused_or_read_never_worse(a: bytes, b: bytes, i: int, j: int) -> None:
    """Whatever the disk says, decoding ends in a sound matrix or in the one error that says so."""
    starts = np.array([0, min(i, len(a)), len(a)]), np.array([0, min(j, len(b)), len(b)])
    genes, counts = (np.frombuffer(x, np.uint8) for x in (a, b))
    records = StoredRecords.of(genes, starts[0], counts, starts[1])
    try:
        back = records.decode(3000)
    except AtlasInputError:
        return
    assert back.has_canonical_format
    assert back.data.size == 0 or (back.data.min() >= 1 and back.indices.min() >= 0 and back.indices.max() < 3000)


def test_fewer_genes_than_the_records_know_are_refused() -> None:
    records = encode_records(matrix([{9: 1}], 10))
    assert records.decode(10).shape == (1, 10)
    with pytest.raises(AtlasInputError, match="n_genes"):
        records.decode(9)
