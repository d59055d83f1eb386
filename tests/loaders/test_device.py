"""What torch makes of records on a device is, bit for bit, what the compiled kernels make of them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import LoaderInputError
from loaders.batch import CellBatch
from loaders.collate import CollateConfig, Collator
from loaders.device import DeviceCollator, decode_on
from loaders.records import encode_cells
from tests.loaders.made_cells import MadeCells, make_cells, make_words


def assert_same(one: CellBatch, other: CellBatch) -> None:
    for part in fields(CellBatch):
        a, b = getattr(one, part.name), getattr(other, part.name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), part.name


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(0, 6), st.sampled_from([40, 65_540, 131_072]))
def test_decoding_gives_back_the_cells(seed: int, n: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    genes = [np.sort(rng.choice(width, rng.integers(0, 30), replace=False)) for _ in range(n)]
    indptr = np.cumsum([0, *map(len, genes)])
    counts = rng.choice([1, 2, 254, 255, 256, 70_000, 1 << 24], indptr[-1]).astype(np.float32)
    matrix = sp.csr_matrix((counts, np.concatenate([*genes, []]).astype(np.int64), indptr), shape=(n, width))
    found = decode_on(encode_cells(matrix), "cpu")
    assert [part.dtype for part in found] == [torch.int64, torch.int32, torch.float32]
    for part, expected in zip(found, (matrix.indptr, matrix.indices, matrix.data), strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_a_batch_is_the_kernels_batch(data: st.DataObject) -> None:
    cells = make_cells(data.draw(st.integers(0, 20)))
    words = make_words(cells, share=data.draw(st.sampled_from([0.1, 0.8, 1.0])))
    context = data.draw(st.sampled_from(["random_expressed", "most_expressed", "variable", "list"]))
    genes = tuple(gene for ids in words.genes for gene in ids[::-2]) if context in ("variable", "list") else ()
    config = CollateConfig(
        context=context,
        genes=genes,
        length=data.draw(st.sampled_from([1, 5, 20, 35, 100])),
        zeros=data.draw(st.sampled_from(["random", "none"])),
        neighbours=data.draw(st.integers(0, 5)),
        fewer_neighbours=data.draw(st.booleans()),
    )
    collator = Collator(words, cells, config)
    wanted = np.array(data.draw(st.lists(st.integers(0, len(cells) - 1), max_size=10)), dtype=np.int64)
    gathered = collator.gather(wanted, np.arange(len(wanted)) + data.draw(st.integers(0, 2**40)), 1, 2)
    assert_same(DeviceCollator(collator, "cpu").fill(gathered), collator.fill(gathered))


def test_cells_that_need_nearly_all_their_zeros_are_drawn_to_the_end() -> None:
    n = 200
    has = {(0, 1): np.ones(n, dtype=bool)}
    ids = np.zeros(40, dtype=np.int64)
    cells = MadeCells([{3: 1, 4: 2}] * 40, ids + 1, ids, (1, n), has, ids[:, None] - 1, np.full((40, 1), np.inf))
    collator = Collator(make_words(cells, share=1.0), cells, CollateConfig(length=n - 1))
    gathered = collator.gather(np.arange(40), np.arange(40))
    batch = DeviceCollator(collator, "cpu").fill(gathered)
    assert batch.lengths.tolist() == [n - 1] * 40
    assert_same(batch, collator.fill(gathered))


def test_datasets_met_later_are_sent_to_the_device() -> None:
    cells = make_cells(3, n=40)
    collator = Collator(make_words(cells), cells, CollateConfig(length=15))
    there = DeviceCollator(Collator(collator.vocabulary, cells, collator.config), "cpu")
    for dataset in range(3):
        wanted = np.flatnonzero(cells.dataset == dataset)
        gathered = collator.gather(wanted, wanted)
        assert_same(there.fill(gathered), collator.fill(gathered))


def test_zeros_from_neighbours_are_left_to_the_kernels() -> None:
    cells = make_cells(0)
    with pytest.raises(LoaderInputError, match="random or none on a device"):
        DeviceCollator(Collator(make_words(cells), cells, CollateConfig(zeros="neighbours")), "cpu")
