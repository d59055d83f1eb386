"""Cell ids and count hashes: equal exactly where the cells are, whatever the order of genes or the block size."""

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.identity import MIN_CORE_GENES, cell_ids, count_hashes, gene_keys
from tests.factories import make_counts

GENES = [f"ENSG{i:011d}" for i in range(80)]


def hashes(counts: sp.csr_matrix, genes: list[str], core: set[str]) -> tuple[list[str], list[str]]:
    mask = np.array([g in core for g in genes])
    whole, inner = count_hashes(counts, gene_keys(genes), mask)
    return list(whole), list(inner)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_gene_order_and_extra_empty_genes_change_nothing(seed: int) -> None:
    counts = make_counts(12, 80, seed)
    order = np.random.default_rng(seed).permutation(80)
    core = set(GENES[:40])
    wide = sp.csr_matrix(sp.hstack([counts[:, order], sp.csr_matrix((12, 5), dtype=np.float32)]))
    names = [GENES[i] for i in order] + [f"OTHER{i}" for i in range(5)]
    assert hashes(wide, names, core) == hashes(counts, GENES, core)


def test_one_count_more_and_one_gene_other_change_the_hash() -> None:
    counts = make_counts(1, 80, 3)
    more, moved = counts.copy(), counts.copy()
    more.data[0] += 1
    free = next(i for i in range(80) if i not in counts.indices)
    moved.indices = moved.indices.copy()
    moved.indices[0] = free
    moved.sort_indices()
    seen = {hashes(c, GENES, set())[0][0] for c in (counts, more, moved)}
    assert len(seen) == 3


def test_core_hash_survives_filtering_of_other_genes_and_is_empty_with_too_few() -> None:
    counts = make_counts(6, 80, 1, depth=9.0)
    core = set(GENES[:60])
    kept = np.arange(60)
    assert hashes(counts[:, kept], GENES[:60], core)[1] == hashes(counts, GENES, core)[1]
    few = set(GENES[: MIN_CORE_GENES - 1])
    assert hashes(counts, GENES, few)[1] == [""] * 6


def test_hash_equals_a_plain_loop_over_pairs() -> None:
    """An independent implementation in Python integers."""
    odd = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
    top = 2**64

    def mix(word: int) -> int:
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % top
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % top
        return word ^ (word >> 31)

    counts = make_counts(3, 80, 5)
    keys = gene_keys(GENES)
    for row, got in enumerate(hashes(counts, GENES, set())[0]):
        lanes = [0, 0]
        for gene, value in zip(counts[row].indices, counts[row].data, strict=True):
            for lane in (0, 1):
                lanes[lane] = (lanes[lane] + mix((int(keys[lane][gene]) + int(value) * odd[lane]) % top)) % top
        assert got == f"{lanes[0]:016x}{lanes[1]:016x}"


def test_empty_cells_and_empty_blocks_hash_to_zero() -> None:
    empty = sp.csr_matrix((2, 80), dtype=np.float32)
    assert hashes(empty, GENES, set())[0] == ["0" * 32] * 2
    mixed = sp.csr_matrix(sp.vstack([empty[:1], make_counts(1, 80, 2), empty[:1]]))
    whole = hashes(mixed, GENES, set())[0]
    assert whole[0] == whole[2] == "0" * 32
    assert whole[1] == hashes(make_counts(1, 80, 2), GENES, set())[0][0]


def test_cell_ids_depend_on_dataset_and_name_only() -> None:
    a, b = cell_ids("x", ["c1", "c2"]), cell_ids("y", ["c1", "c2"])
    assert len({*a, *b}) == 4
    assert cell_ids("x", ["c2"])[0] == a[1]
    assert all(len(i) == 32 for i in a)
