"""Shuffled cells keep what their null says they keep, lose everything else, and are cells like any others."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import chisquare

from loaders import AnnDataCells, Cells, CollateConfig, Collator
from model import ModelInputError
from model.inference import InferenceOptions, read_cells
from model.shuffled_cells import ShuffledCells
from tests.model.small_runs import N_GENES, small_adata, small_cells, small_start

BINS = 10


def dense(cells: Cells, numbers: np.ndarray | None = None) -> np.ndarray:
    """Return counts of the genes that small cells measured, [cells, genes]."""
    numbers = np.arange(len(cells)) if numbers is None else numbers
    rows = cells.read(numbers).decode()
    out = sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(numbers), len(cells.genes()))).toarray()
    assert not out[:, N_GENES:].any(), "a count has gone to a gene that was not measured"
    return out[:, :N_GENES]


@cache
def two_datasets() -> AnnDataCells:
    adata = small_adata()
    adata.obs["dataset_id"] = ["a"] * 60 + ["b"] * 84
    return AnnDataCells(adata, "human")


def bins_by_hand(counts: np.ndarray) -> np.ndarray:
    """Return the bin of each gene by rank of its total, -1 where no cell expresses it."""
    total = counts.sum(0)
    expressed = np.flatnonzero(total > 0)
    order = expressed[np.argsort(total[expressed], kind="stable")]
    out = np.full(len(total), -1)
    for number, part in enumerate(np.array_split(order, BINS)):
        out[part] = number
    return out


def test_counts_move_within_a_cell_among_genes_of_one_bin_of_their_dataset():
    cells, real = two_datasets(), dense(two_datasets())
    shuffled = ShuffledCells(cells, bins=BINS, seed=3)
    found = dense(shuffled)
    for rows in (slice(0, 60), slice(60, 144)):
        bins = bins_by_hand(real[rows])
        assert len(np.unique(bins[bins >= 0])) == BINS
        for one in range(BINS):
            mine = bins == one
            assert np.array_equal(np.sort(real[rows][:, mine], axis=1), np.sort(found[rows][:, mine], axis=1))
    assert (found != real).mean() > 0.3
    assert np.array_equal(shuffled.column("depth"), found.sum(1))
    assert np.array_equal(shuffled.column("nnz"), (found > 0).sum(1))


def test_each_gene_of_a_bin_is_as_likely_to_get_a_count():
    cells, real = small_cells(), dense(small_cells())
    bins = bins_by_hand(real)
    cell = 5
    there = bins == bins[np.argmax(real[cell])]
    times = np.zeros(there.sum())
    for seed in range(400):
        times += (
            dense(ShuffledCells(cells, np.arange(20, dtype=np.int64), bins=1, seed=seed), np.array([cell]))[0, there]
            > 0
        )
    assert chisquare(times).pvalue > 1e-3


def test_a_genes_counts_move_among_the_cells_of_a_dataset_each_gene_on_its_own():
    cells, real = two_datasets(), dense(two_datasets())
    shuffled = ShuffledCells(cells, kind="cells", seed=1)
    found = dense(shuffled)
    for rows in (slice(0, 60), slice(60, 144)):
        assert np.array_equal(np.sort(real[rows], axis=0), np.sort(found[rows], axis=0))
    assert (found != real).mean() > 0.3
    assert np.array_equal(shuffled.column("depth"), found.sum(1))
    assert np.array_equal(shuffled.codes("nnz", np.array([7, 3])), (found[[7, 3]] > 0).sum(1))


@pytest.mark.parametrize("kind", ["genes", "cells"])
def test_what_genes_have_to_do_with_each_other_is_gone(kind):
    real = np.corrcoef(dense(small_cells()).T)
    found = np.corrcoef(dense(ShuffledCells(small_cells(), kind=kind, bins=BINS)).T)
    off = ~np.eye(len(real), dtype=bool) & np.isfinite(real) & np.isfinite(found)
    assert np.abs(real[off]).mean() > 0.2, "three types make genes vary together"
    assert np.abs(found[off]).mean() < 0.12
    expected = np.sqrt(2 / np.pi / len(small_cells()))  # of independent columns
    if kind == "cells":
        assert np.abs(found[off]).mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["genes", "cells"])
def test_a_cell_is_shuffled_alike_alone_in_any_order_repeated_or_not_and_after_a_pickle(kind):
    shuffled = ShuffledCells(small_cells(), kind=kind, seed=4)
    whole = dense(shuffled)
    some = np.array([17, 3, 140, 3])
    assert np.array_equal(dense(shuffled, some), whole[some])
    assert np.array_equal(dense(pickle.loads(pickle.dumps(shuffled)), some), whole[some])
    again, other = (ShuffledCells(small_cells(), kind=kind, seed=seed) for seed in (4, 5))
    assert np.array_equal(dense(again), whole)
    assert again.fingerprint == shuffled.fingerprint
    assert not np.array_equal(dense(other), whole)
    assert len({other.fingerprint, shuffled.fingerprint, small_cells().fingerprint}) == 3


def test_a_cells_shuffle_does_not_depend_on_which_place_it_has_in_a_file():
    adata = small_adata()
    turned = AnnDataCells(adata[::-1].copy(), "human")
    straight = AnnDataCells(adata, "human")
    one, other = (dense(ShuffledCells(cells, bins=BINS, seed=2)) for cells in (straight, turned))
    assert np.array_equal(one, other[::-1])


@pytest.mark.parametrize("kind", ["genes", "cells"])
def test_the_model_reads_them_as_any_cells(kind):
    shuffled = ShuffledCells(small_cells(), np.arange(40), kind=kind)
    assert isinstance(shuffled, Cells)
    numbers, found = np.array([5, 30, 5]), dense(shuffled)[:40] if kind == "genes" else None
    found = dense(shuffled, np.arange(40)) if found is None else found
    model = small_start().model
    read = next(read_cells(model, shuffled, numbers, InferenceOptions(length=200, device="cpu", neighbours=2)))
    tokens = model.vocabulary.gene_tokens("homo_sapiens", small_adata().var_names.tolist())
    place = {int(token): gene for gene, token in enumerate(tokens)}
    begin = 0
    for cell, size in zip(numbers, read.rows.sizes, strict=True):
        part = slice(begin, begin + size)
        genes = [place[int(token)] for token in read.batch.genes[part]]
        assert np.array_equal(read.batch.counts[part].numpy(), found[cell][genes])
        begin += size
    assert np.array_equal(read.batch.depth.numpy(), found[numbers].sum(1))
    batch = Collator(model.vocabulary, small_cells(), CollateConfig(length=200, neighbours=2)).collate(
        numbers, np.arange(3)
    )
    assert not np.array_equal(read.batch.neighbour_counts.numpy(), batch.neighbour_counts.numpy())
    hashes = [cells.codes("count_hash_high", numbers) for cells in (shuffled, small_cells())]
    assert not (hashes[0] == hashes[1]).any(), "what is drawn of a cell is drawn anew"


def test_neighbours_that_were_not_shuffled_are_none():
    shuffled = ShuffledCells(small_cells(), np.arange(30), kind="cells")
    near, far = shuffled.neighbours(np.arange(30))
    real, _ = small_cells().neighbours(np.arange(30))
    assert np.array_equal(near, np.where(real < 30, real, -1))
    assert np.array_equal(np.isfinite(far), near >= 0)
    assert (near >= 0).any()
    assert (near < 0).any()


def test_what_cannot_be_shuffled_is_refused():
    for more, said in (
        ({"kind": "rows"}, "kind='rows'.*genes or cells"),
        ({"bins": 0}, "bins=0"),
        ({"numbers": np.array([144])}, "numbers"),
        ({"numbers": np.array([], dtype=np.int64)}, "numbers"),
    ):
        with pytest.raises(ModelInputError, match=said):
            ShuffledCells(small_cells(), **more)
    with pytest.raises(ModelInputError, match=r"cells=100.*shuffled"):
        ShuffledCells(small_cells(), np.arange(40), kind="cells").read(np.array([3, 100]))
    with pytest.raises(ModelInputError, match=r"cells=100.*datasets that were shuffled"):
        ShuffledCells(two_datasets(), np.arange(40)).read(np.array([3, 100]))
