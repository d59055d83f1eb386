"""Windows hand out what was asked for, read every cell once, and stay within their budget."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import PackError
from loaders.records import encode_cells, record_sizes
from loaders.windows import WindowCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loaders.records import PackedCells

N_CELLS = 200
MATRIX = sp.random(
    N_CELLS, 3000, 0.02, "csr", rng=np.random.default_rng(1), data_rvs=lambda n: np.arange(n) % 300 + 1.0
)
MATRIX.sort_indices()
RECORDS = encode_cells(MATRIX)


class Source:
    """Cells that remember who read them."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.threads: set[int] = set()

    def read(self, cells: np.ndarray) -> PackedCells:
        """Return cells."""
        assert (np.diff(cells) > 0).all(), "ascending, each once"
        self.seen.append(cells)
        self.threads.add(threading.get_ident())
        return RECORDS.take(cells)

    @staticmethod
    def sizes(cells: np.ndarray) -> np.ndarray:
        """Return bytes per cell."""
        return record_sizes(RECORDS.nnz[cells], RECORDS.large[cells])


@pytest.fixture
def source() -> Source:
    """Return cells."""
    return Source()


@pytest.fixture
def cache(source: Source) -> Iterator[WindowCache]:
    """Return a cache with room for everything."""
    cache = WindowCache(source.read, source.sizes, 1 << 30)
    yield cache
    cache.close()


def assert_right(cache: WindowCache, cells: np.ndarray) -> None:
    """Compare what is read with the matrix."""
    rows = cache.read(cells).decode()
    np.testing.assert_array_equal(rows.indptr, MATRIX[cells].indptr)
    np.testing.assert_array_equal(rows.indices, MATRIX[cells].indices)
    np.testing.assert_array_equal(rows.counts, MATRIX[cells].data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cells_come_back_whatever_was_announced(data: st.DataObject) -> None:
    source = Source()
    budget = data.draw(st.sampled_from([1, 2000, 20_000, 1 << 30]))
    cache = WindowCache(source.read, source.sizes, budget)
    some = st.lists(st.integers(0, N_CELLS - 1), max_size=30).map(lambda cells: np.array(cells, dtype=np.int64))
    try:
        for _ in range(data.draw(st.integers(1, 6))):
            if data.draw(st.booleans()):
                cache.announce(data.draw(some))
            assert_right(cache, data.draw(some))
            assert cache.held <= budget
    finally:
        cache.close()


def test_a_window_is_read_once_and_all_at_once(source: Source, cache: WindowCache) -> None:
    window = np.random.default_rng(3).integers(0, N_CELLS, 600)
    cache.announce(window)
    for start in range(0, 600, 50):
        assert_right(cache, window[start : start + 50])
    assert len(source.seen) == 1
    np.testing.assert_array_equal(source.seen[0], np.unique(window))


def test_the_next_window_is_read_beside_and_an_older_one_let_go(source: Source, cache: WindowCache) -> None:
    windows = [np.arange(0, 50), np.arange(40, 90), np.arange(100, 150)]
    cache.announce(windows[0])
    cache.announce(windows[1])
    assert_right(cache, np.array([0, 45, 89]))
    assert len(source.seen) == 2
    cache.announce(windows[2])
    assert_right(cache, np.array([45, 120]))
    assert len(source.seen) == 3, "45 is in the second window too"
    assert_right(cache, np.array([3, 120, 3]))
    assert source.seen[3].tolist() == [3], "the first window is gone"
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_a_stream_inside_another_takes_none_of_its_windows(source: Source, cache: WindowCache) -> None:
    cache.announce(np.arange(0, 50), 1)
    cache.announce(np.arange(50, 90), 1)
    for start in range(90, 190, 10):
        cache.announce(np.arange(start, start + 10), 2)
        assert_right(cache, np.arange(start, start + 10))
    read = len(source.seen)
    assert_right(cache, np.arange(90))
    assert len(source.seen) == read == 12, "all of them read ahead"
    assert_right(cache, np.array([100]))
    assert len(source.seen) == read + 1, "two windows of the other stream, not all"


def test_streams_share_one_budget(source: Source) -> None:
    budget = int(source.sizes(np.arange(60)).sum())
    cache = WindowCache(source.read, source.sizes, budget)
    try:
        for stream in range(6):
            for window in (np.arange(20), np.arange(20, 40)):
                cache.announce(window + 25 * stream, stream)
                assert 0 < cache.held <= budget
        read = len(source.seen)
        assert_right(cache, np.arange(125, 165))
        assert len(source.seen) == read, "room was made by letting go of the others' windows"
    finally:
        cache.close()


def test_a_window_beyond_the_budget_is_read_ahead_from_its_first_draw(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    window = np.random.default_rng(4).permutation(N_CELLS)
    budget = 2 * int(np.cumsum(source.sizes(window))[59])
    cache = WindowCache(source.read, source.sizes, budget)
    try:
        cache.announce(window)
        assert "140 of the 200 cells" in caplog.text
        assert cache.held == budget // 2
        assert_right(cache, window[:60])
        assert len(source.seen) == 1
        assert_right(cache, window[50:70])
        assert source.seen[1].tolist() == sorted(window[60:70].tolist())
        cache.announce(window[::-1])
        assert cache.held <= budget
    finally:
        cache.close()


def test_what_fails_while_it_is_read_ahead_is_told_when_it_is_asked_for(source: Source) -> None:
    def fail(cells: np.ndarray) -> PackedCells:
        raise PackError("records", "damaged", "ingest again")

    cache = WindowCache(fail, source.sizes, 1 << 20)
    try:
        cache.announce(np.arange(5))
        with pytest.raises(PackError, match="damaged"):
            cache.read(np.array([2]))
    finally:
        cache.close()
