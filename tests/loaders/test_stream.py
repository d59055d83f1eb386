"""The stream: the same batches for any window, any number of workers and ranks, and from wherever it is taken up."""

from __future__ import annotations

import hashlib
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loaders import (
    CellStream,
    CollateConfig,
    Collator,
    LoaderInputError,
    Sampler,
    SamplerConfig,
    SamplingPlan,
    StreamOptions,
    Weighting,
    build_groups,
    make_sampler,
)
from tests.loaders.toy_cells import WORDS, ToyCells

if TYPE_CHECKING:
    from pathlib import Path

    from loaders.stream import RawBatch

CELLS = ToyCells(2500)
GROUPS = build_groups([CELLS.column("cell_type")], 5, len(CELLS))
BALANCED = Sampler(GROUPS, SamplerConfig(draws=1000, weighting=Weighting(scale=100)), release="toy")
IN_ORDER = Sampler(GROUPS, SamplerConfig(kind="sequential"), release="toy")


def stream(sampler: Sampler = BALANCED, **options: Any) -> CellStream:
    """Return a stream of raw batches of 32 cells."""
    return CellStream(CELLS, sampler, None, StreamOptions(**{"batch_size": 32, "window": 100, **options}))


def told(batch: RawBatch) -> str:
    """Return a digest of a batch: which cells, where in the epoch, their records and labels."""
    arrays = (batch.cells, batch.positions, batch.records.data, batch.records.starts, *batch.labels.values())
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def as_worker(one: CellStream, worker: int, workers: int) -> list[str]:
    """Return what a worker of a DataLoader gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loaders.stream.get_worker_info", lambda: SimpleNamespace(id=worker, num_workers=workers))
        return [told(batch) for batch in one]


def woven(parts: list[list[str]]) -> list[str]:
    """Return batches in turn: the first of each, the second of each, and so on."""
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


ALONE = [told(batch) for batch in stream().at(3, 0)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 300), st.integers(0, 31))
def test_workers_and_ranks_share_out_one_stream(ranks: int, workers: int, window: int, done: int) -> None:
    one = stream(window=window, ranks=1).at(3, done * 32)
    parts = []
    for rank in range(ranks):
        mine = one.shared(rank, ranks)
        assert len(mine) == 1000 // (32 * ranks), "as many for every rank, of a whole epoch"
        parts.append(woven([as_worker(mine, worker, workers) for worker in range(workers)]))
    assert len({len(part) for part in parts}) == 1
    together = woven(parts)
    assert together == ALONE[done : done + len(together)]
    assert len(ALONE) - done - len(together) < ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_evaluation_sees_every_cell_once(ranks: int) -> None:
    batches = [batch for rank in range(ranks) for batch in stream(IN_ORDER, whole=False).shared(rank, ranks)]
    cells = np.concatenate([batch.cells for batch in batches])
    assert np.array_equal(np.sort(cells), np.arange(len(CELLS)))
    assert all(np.array_equal(IN_ORDER.draw(0, 0, 2500)[batch.positions], batch.cells) for batch in batches)


def test_draws_follow_the_weights_through_the_whole_stream() -> None:
    sampler = Sampler(GROUPS, SamplerConfig(draws=60_000, weighting=Weighting(scale=100)), release="toy")
    seen = np.zeros(5)
    for rank in range(2):
        for batch in stream(sampler, rank=rank, ranks=2, batch_size=500):
            seen += np.bincount(batch.labels["cell_type"], minlength=5)
    sizes = GROUPS.counts
    expected = 100 * sizes / (100 + sizes)
    assert stats.chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-4
    assert stats.chisquare(seen, sizes / sizes.sum() * seen.sum()).pvalue < 1e-4


def test_a_window_is_announced_before_the_one_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[tuple[str, list[int]]] = []
    read, near = ToyCells.read, np.arange(len(CELLS))[:, None] + [[1, 2, -len(CELLS)]]
    near = np.where(near >= len(CELLS), -1, np.maximum(near, -1))
    monkeypatch.setattr(ToyCells, "neighbours", lambda _, cells: (near[cells], near[cells] * 1.0))
    monkeypatch.setattr(ToyCells, "will_need", lambda _, cells, stream: happened.append(("announced", cells.tolist())))
    monkeypatch.setattr(
        ToyCells, "read", lambda me, cells: (happened.append(("read", cells.tolist())), read(me, cells))[1]
    )
    batches = list(stream(window=96, neighbours=2))
    assert [what for what, _ in happened[:6]] == ["announced", "announced", "read", "read", "read", "announced"]
    expected = [c for b in batches for c in (*b.cells.tolist(), *near[b.cells, :2].ravel().tolist()) if c >= 0]
    assert [cell for what, cells in happened if what == "announced" for cell in cells] == expected
    happened.clear()
    list(stream(window=0))
    assert {what for what, _ in happened} == {"read"}


def test_the_collator_is_told_where_it_is() -> None:
    calls = []
    one = CellStream(CELLS, BALANCED, lambda *given: calls.append(given), StreamOptions(batch_size=100)).at(4, 300)
    list(one)
    assert [call[1][0] for call in calls] == [300, 400, 500, 600, 700, 800, 900]
    assert {call[2] for call in calls} == {4}
    other = Sampler(GROUPS, SamplerConfig(draws=1000, seed=1), release="toy")
    keys = {CellStream(CELLS, sampler)._key for sampler in (BALANCED, other)}
    assert len(keys) == 2
    assert {call[3] for call in calls} < keys
    np.testing.assert_array_equal(np.concatenate([call[0] for call in calls]), BALANCED.draw(4, 300, 700))


def test_it_pickles_with_a_collator(tmp_path: Path) -> None:
    sampler = make_sampler(CELLS, SamplingPlan(ontology_aware=False), cache=tmp_path)
    collate = Collator(WORDS, CELLS, CollateConfig(length=20, neighbours=0)).collate
    one = CellStream(CELLS, sampler, collate, StreamOptions(batch_size=32), epoch=2, position=64)
    for mine, theirs in zip(one, pickle.loads(pickle.dumps(one)), strict=True):
        assert mine.cell.tolist() == theirs.cell.tolist()
        assert mine.genes.tolist() == theirs.genes.tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 2, "ranks": 2}, r"rank=2 .* 0\.\.1"),
        ({"batch_size": 0}, "size=0"),
        ({"window": -1}, "window=-1"),
        ({"ranks": 2501, "whole": False}, "at most one per cell"),
    ],
)
def test_what_is_no_stream_is_said(options: dict[str, int], said: str) -> None:
    with pytest.raises(LoaderInputError, match=said):
        stream(IN_ORDER, **options)


@pytest.mark.parametrize(("size", "ranks"), [(901, 1), (301, 3)])
def test_a_training_without_one_full_batch_is_refused(size: int, ranks: int) -> None:
    cells = ToyCells(900)
    sampler = Sampler(build_groups([cells.column("sex")], 2, 900), SamplerConfig(), release="toy")
    with pytest.raises(LoaderInputError, match=f"batch_size={size} .* each of {ranks} ranks, .* 900 draws"):
        CellStream(cells, sampler, options=StreamOptions(batch_size=size, ranks=ranks))
    assert len(CellStream(cells, sampler, options=StreamOptions(batch_size=size - 1, ranks=ranks))) == 1
    assert len(CellStream(cells, sampler, options=StreamOptions(batch_size=size, ranks=ranks, whole=False))) == 1
