"""The ledger: roles against sets that are filled draw by draw, and cells found again wherever they turn up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loaders import SPLITS, AnnDataCells, CellStream, SamplerConfig, SamplingPlan, StreamOptions, make_sampler
from model.errors import CheckpointError
from model.ledger import ROLES, Ledger, make_ledger, seen_before
from tests.model.small_runs import small_adata, small_cells

if TYPE_CHECKING:
    from pathlib import Path

    from loaders import Cells

PLANS = {
    "balanced": SamplingPlan(labels=("cell_type",), config=SamplerConfig(draws=44)),
    "balanced, walked": SamplingPlan(labels=("cell_type",), config=SamplerConfig(draws=44, replacement=False)),
    "uniform": SamplingPlan(config=SamplerConfig(kind="uniform", draws=44)),
    "permuted": SamplingPlan(config=SamplerConfig(kind="uniform", replacement=False)),
    "sequential": SamplingPlan(config=SamplerConfig(kind="sequential", draws=44)),
    "both splits": SamplingPlan(splits=("train", "validation"), config=SamplerConfig(kind="uniform", draws=44)),
    "one organism": SamplingPlan(organisms=("human",), config=SamplerConfig(kind="uniform", draws=44)),
}
SIZE = 8


def drawn_by_hand(cells: Cells, plan: SamplingPlan, epochs: int, batches: int) -> set[int]:
    """Return the cells of the batches that a trainer is given, epoch by epoch."""
    sampler = make_sampler(cells, plan)
    stream = CellStream(cells, sampler, lambda some, *_: some.tolist(), StreamOptions(batch_size=SIZE, window=0))
    drawn: set[int] = set()
    for epoch in range(epochs + 1):
        for number, batch in enumerate(stream.at(epoch, 0)):
            if epoch < epochs or number < batches:
                drawn |= set(batch)
    return drawn


@pytest.mark.parametrize("reached", [(0, 1), (0, 5), (1, 0), (2, 3)])
@pytest.mark.parametrize("name", PLANS)
def test_roles_are_those_of_cells_drawn_one_by_one(name: str, reached: tuple[int, int]) -> None:
    cells, plan = small_cells(), PLANS[name]
    drawn = drawn_by_hand(cells, plan, *reached)
    sampler = make_sampler(cells, plan)
    per_epoch = len(sampler) // SIZE * SIZE
    ledger = make_ledger(
        cells, sampler, {**dict.fromkeys(range(reached[0]), per_epoch), reached[0]: reached[1] * SIZE}, plan
    )
    hashes, ids = (cells.codes(f"{which}_high", np.arange(144)) for which in ("count_hash", "cell_id"))
    found = ledger.roles_of(hashes, ids)
    for cell, split in enumerate(cells.codes("split", np.arange(144))):
        if cell in drawn:
            expected = "trained"
        elif SPLITS[split] in plan.splits:
            expected = "eligible"
        else:
            expected = "validation" if SPLITS[split] == "validation" else None
        assert found[cell] == (-1 if expected is None else ROLES.index(expected)), cell
    assert ledger.tally["trained"] == len(drawn)
    assert (np.diff(ledger.count_hash.astype(object)) > 0).all()


def ledger_of(*rows: tuple[int, int, str]) -> Ledger:
    rows = sorted(rows)
    hashes, ids = (np.array([row[i] for row in rows], np.uint64) for i in (0, 1))
    return Ledger(hashes, ids, np.array([ROLES.index(row[2]) for row in rows], np.uint8))


def test_a_cell_found_several_times_has_its_strongest_role() -> None:
    top = 2**64 - 1
    ledger = ledger_of(
        (5, 1, "validation"), (5, 2, "trained"), (5, 3, "eligible"), (9, 4, "eligible"), (top, top, "trained")
    )
    asked = {(5, 99): "trained", (9, 1): "eligible", (7, 1): "validation", (9, 2): "trained", (8, 8): None,
             (top, 0): "trained", (0, top): "trained", (0, 0): None}  # fmt: skip
    hashes, ids = (np.array([key[i] for key in asked], np.uint64) for i in (0, 1))
    expected = [-1 if role is None else ROLES.index(role) for role in asked.values()]
    assert ledger.roles_of(hashes, ids).tolist() == expected
    assert empty().roles_of(hashes, ids).tolist() == [-1] * len(asked)


def empty() -> Ledger:
    return Ledger(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))


def test_joined_ledgers_know_the_cells_of_both_once_each() -> None:
    one = ledger_of((5, 1, "eligible"), (6, 2, "trained"), (8, 1, "validation"))
    two = ledger_of((1, 9, "trained"), (5, 1, "trained"), (6, 2, "validation"), (8, 3, "validation"))
    both = one.joined(two)
    assert list(zip(both.count_hash.tolist(), both.cell_id.tolist(), [ROLES[r] for r in both.role], strict=True)) == [
        (1, 9, "trained"), (5, 1, "trained"), (6, 2, "trained"), (8, 1, "validation"), (8, 3, "validation")
    ]  # fmt: skip
    assert both.tally == {"validation": 2, "eligible": 0, "trained": 3}
    assert one.joined(None) is one
    assert one.joined(empty()).tally == one.tally == empty().joined(one).tally


@pytest.fixture(scope="module")
def trained() -> Ledger:
    plan = PLANS["uniform"]
    return make_ledger(small_cells(), make_sampler(small_cells(), plan), {0: 24}, plan)


def test_cells_are_found_in_a_file_of_shuffled_genes_and_cells_and_other_names(trained: Ledger) -> None:
    adata = small_adata()
    rng = np.random.default_rng(1)
    shuffled = adata[rng.permutation(144), rng.permutation(adata.n_vars)].copy()
    shuffled.obs_names = [f"renamed{i}" for i in range(144)]
    found = seen_before(trained, AnnDataCells(shuffled, "human"))
    assert {name: found[name] for name in ROLES} == trained.tally
    assert found["not_found"] == 144 - len(trained)
    assert found["cells"] == 144


def test_fresh_cells_are_unseen_and_the_seen_ones_among_them_are_named(trained: Ledger) -> None:
    fresh = small_adata(seed=5)
    fresh.obs_names = [f"fresh{i}" for i in range(144)]
    assert seen_before(trained, AnnDataCells(fresh, "human"))["not_found"] == 144
    cells = small_cells()
    kinds = trained.roles_of(*(cells.codes(f"{which}_high", np.arange(144)) for which in ("count_hash", "cell_id")))
    known = np.flatnonzero(kinds == ROLES.index("trained"))[:3]
    for place, cell in zip((0, 70, 143), known, strict=True):
        fresh.X[place] = small_adata().X[cell]
    found = seen_before(trained, AnnDataCells(fresh, "human"))
    assert (found["trained"], found["not_found"]) == (3, 141)
    assert found["examples"] == {"trained": [0, 70, 143], "eligible": [], "validation": []}


def test_a_ledger_comes_back_from_disk_and_a_damaged_one_does_not(trained: Ledger, tmp_path: Path) -> None:
    trained.save(tmp_path / "ledger")
    read = Ledger.load(tmp_path / "ledger")
    for name in ("count_hash", "cell_id", "role"):
        assert np.array_equal(getattr(read, name), getattr(trained, name)), name
    np.save(tmp_path / "ledger" / "role.npy", trained.role[:-1])
    with pytest.raises(CheckpointError, match="contradicts"):
        Ledger.load(tmp_path / "ledger")
    np.save(tmp_path / "ledger" / "role.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(CheckpointError, match="ledger"):
        Ledger.load(tmp_path / "ledger")


def test_the_ledger_does_not_depend_on_its_blocks(trained: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.ledger.BLOCK", 7)
    plan = replace(PLANS["uniform"])
    again = make_ledger(small_cells(), make_sampler(small_cells(), plan), {0: 24}, plan)
    assert again.role.tolist() == trained.role.tolist()
    assert again.count_hash.tolist() == trained.count_hash.tolist()
    assert seen_before(again, small_cells()) == seen_before(trained, small_cells())
