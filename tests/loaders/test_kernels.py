"""The compiled loops draw the words of counters.py, rank as sorting does, and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.collate import CollateConfig, Collator
from loaders.counters import random_words
from loaders.kernels import _highest, _smallest, collate_records, find_damaged, make_scratch, words_of
from loaders.record_kernels import views_of
from loaders.records import PackedCells
from tests.loaders.made_cells import make_cells, make_words, word_of

WORDS = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=4), st.integers(0, 5), st.integers(0, 20))
def test_words_are_those_of_the_sampler(keys: list[int], lane: int, n: int) -> None:
    mine = words_of(np.array(keys, dtype=np.uint64), np.int64(lane), n)
    assert mine.shape == (len(keys), n)
    for key, row in zip(keys, mine, strict=True):
        np.testing.assert_array_equal(row, random_words(key, lane, np.arange(n, dtype=np.uint64)))
        assert row.tolist() == [word_of(key, lane, index) for index in range(n)], "by its definition"


@settings(deadline=None)
@given(st.lists(st.one_of(WORDS, st.sampled_from([0, 1, 255, 256, 2**64 - 1])), min_size=1, max_size=300), st.data())
def test_the_word_of_a_rank_is_the_sorted_one(words: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, len(words)))
    scratch = make_scratch()
    scratch.words[: len(words)] = np.array(words, dtype=np.uint64)
    assert int(_smallest(scratch, len(words), rank)) == sorted(words)[rank - 1]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 300), st.sampled_from([65_536, 2**31 - 1])), min_size=1, max_size=300), st.data()
)
def test_the_count_of_a_rank_is_the_sorted_one(counts: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, len(counts)))
    found = _highest(np.array(counts, dtype=np.int32), len(counts), rank, make_scratch())
    assert int(found) == sorted(counts, reverse=True)[rank - 1]


def test_scratch_is_clean_after_every_batch_and_there_is_one_compilation() -> None:
    cells = make_cells(3)
    words = make_words(cells)
    for context in ("random_expressed", "most_expressed", "list"):
        genes = tuple(gene for ids in words.genes for gene in ids) if context == "list" else ()
        collator = Collator(words, cells, CollateConfig(context=context, length=9, zeros="neighbours", genes=genes))
        collator.collate(np.arange(len(cells)), np.arange(len(cells)))
        assert not collator._scratch.slots.any()
        assert not collator._scratch.sums.any()
    assert len(collate_records.signatures) == 1


@pytest.mark.parametrize("field", ["starts", "nnz", "large", "pairs", "data", "low", "below", "fewer", "more"])
def test_records_that_are_not_whole_are_found(field: str) -> None:
    cells = make_cells(1)
    cell = next(i for i, counts in enumerate(cells.counts) if max(counts.values(), default=0) >= 255)
    packed = cells.read(np.array([cell, cell]))
    assert find_damaged(views_of(packed)) == -1
    parts = {name: getattr(packed, name).copy() for name in ("data", "starts", "nnz", "low", "large")}
    if field == "pairs":
        tail = parts["starts"][1] + (3 * parts["nnz"][1] + 3) // 4 * 4
        parts["data"][tail : tail + 4] = np.array([parts["nnz"][1]], dtype="<u4").view(np.uint8)
    elif field == "data":
        parts["data"] = parts["data"][:-4]
    elif field == "below":
        parts["low"][1] = -1
    elif field == "fewer":
        parts["large"][1] -= 1
    elif field == "more":  # one count says it is large, and has no pair
        counts = slice(parts["starts"][1] + 2 * parts["nnz"][1], parts["starts"][1] + 3 * parts["nnz"][1])
        parts["data"][counts][np.flatnonzero(parts["data"][counts] < 255)[0]] = 255
    else:
        parts[field][1] += 4000
    assert find_damaged(views_of(PackedCells(**parts))) == 1
