"""The sampler: same order however it is asked, draws that follow the weights, exact resume, disjoint readers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loaders import (
    CellGroups,
    GroupFacts,
    LoaderInputError,
    Sampler,
    SamplerConfig,
    StateMismatchError,
    Weighting,
    build_groups,
    group_maxima,
)
from loaders.sampler import ATTEMPTS
from loaders.weighted_draws import CELLS, sum_weights

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(3)
CODES = RNG.choice(40, size=9000, p=RNG.dirichlet(np.full(40, 0.4)))
CODES[::11] = -1
GROUPS = build_groups([CODES], 40, len(CODES))
KINDS = [("sequential", True), ("uniform", True), ("uniform", False), ("balanced", True), ("balanced", False)]


def sampler(kind: str = "balanced", groups: CellGroups = GROUPS, **config: object) -> Sampler:
    """Return a sampler of the test's cells."""
    return Sampler(groups, SamplerConfig(kind=kind, **config), release="r1")


@pytest.mark.parametrize(("kind", "replacement"), KINDS)
@settings(max_examples=25)
@given(st.integers(0, 6000), st.integers(1, 700), st.integers(0, 3))
def test_a_position_answers_alike_however_it_is_asked(
    kind: str, replacement: bool, start: int, count: int, epoch: int
) -> None:
    one = sampler(kind, replacement=replacement, draws=6000)
    whole = one.draw(epoch, 0, 6000)
    np.testing.assert_array_equal(one.draw(epoch, start, count), whole[start : start + count])
    assert (CODES[whole] >= 0).all(), "a cell in no group is never drawn"


@pytest.mark.parametrize(("kind", "replacement"), KINDS)
def test_positions_can_be_asked_in_any_order_and_by_a_copy(kind: str, replacement: bool) -> None:
    one = sampler(kind, replacement=replacement, draws=6000)
    positions = RNG.integers(0, 6000, 500)
    np.testing.assert_array_equal(one.cells_at(2, positions), one.draw(2, 0, 6000)[positions])
    sent = pickle.loads(pickle.dumps(one))
    assert sent.fingerprint == one.fingerprint
    np.testing.assert_array_equal(sent.cells_at(2, positions), one.cells_at(2, positions))
    assert not len(one.cells_at(0, positions[:0]))
    for wrong in ([-1], [6000]):
        with pytest.raises(LoaderInputError, match="positions"):
            one.cells_at(0, np.array(wrong))


@pytest.mark.parametrize(("kind", "replacement"), KINDS)
def test_readers_share_out_the_same_batches(kind: str, replacement: bool) -> None:
    one = sampler(kind, replacement=replacement, draws=1000)
    alone = list(one.batches(2, 64))
    for readers in (2, 3, 7):
        parts = [list(one.batches(2, 64, step=readers, offset=r)) for r in range(readers)]
        woven = [parts[i % readers][i // readers] for i in range(len(alone))]
        assert all(np.array_equal(a, b) for a, b in zip(woven, alone, strict=True))
    resumed = list(one.batches(2, 64, first=5))
    assert all(np.array_equal(a, b) for a, b in zip(resumed, alone[5:], strict=True))


def test_balanced_draws_follow_the_shares() -> None:
    one = sampler(draws=200_000)
    drawn = np.bincount(CODES[one.draw(0, 0, 200_000)], minlength=40)
    expected = one.shares() * 200_000
    there = expected > 0
    assert stats.chisquare(drawn[there], expected[there] * drawn.sum() / expected.sum()).pvalue > 1e-4
    assert not drawn[~there].any()


def test_cells_of_a_group_are_alike() -> None:
    one = sampler(draws=400_000)
    biggest = int(np.argmax(GROUPS.counts))
    cells = one.draw(0, 0, 400_000)
    drawn = np.bincount(cells, minlength=len(CODES))[biggest == CODES]
    assert stats.chisquare(drawn).pvalue > 1e-4


def test_cell_weights_decide_inside_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = RNG.random(len(CODES)) ** 4 + 1e-3
    biggest = int(np.argmax(GROUPS.counts))
    mine = biggest == CODES
    for attempts in (24, 2):  # two attempts send most draws the exact way
        monkeypatch.setattr("loaders.sampler.ATTEMPTS", attempts)
        config = SamplerConfig(draws=300_000)
        one = Sampler(GROUPS, config, release="r", cell_weights=weights, maxima=group_maxima(GROUPS, weights))
        drawn = np.bincount(one.draw(0, 0, 300_000), minlength=len(CODES))[mine]
        expected = weights[mine] / weights[mine].sum() * drawn.sum()
        common = expected > 5
        assert ((drawn - expected)[common] ** 2 / expected[common]).mean() == pytest.approx(1, abs=0.25)
        np.testing.assert_array_equal(one.draw(0, 777, 5), one.draw(0, 0, 1000)[777:782])


class Counted(np.ndarray):
    """Weights that count how many of them are read."""

    touched = 0

    def __getitem__(self, index: object) -> np.ndarray:
        """Return plain numbers."""
        Counted.touched += np.size(index)
        return np.asarray(self)[index]


def shallow(n: int) -> tuple[CellGroups, np.ndarray, np.ndarray]:
    """Return groups, codes and weights, one cell in each group so deep that rejection nearly always gives up."""
    codes = np.arange(n) % 3
    weights = 1 + (np.arange(n) % 7) / 8
    weights[[n // 2, n // 2 + 1, n // 2 + 2]] = 500.0
    return build_groups([codes], 3, n), codes, weights


def test_a_deep_cell_among_shallow_ones_comes_as_often_as_its_weight_says() -> None:
    groups, codes, weights = shallow(3001)
    one = Sampler(
        groups, SamplerConfig(draws=400_000), release="r", cell_weights=weights, maxima=group_maxima(groups, weights)
    )
    drawn = np.bincount(one.draw(0, 0, 400_000), minlength=3001)
    for group in range(3):
        mine = codes == group
        expected = weights[mine] / weights[mine].sum() * drawn[mine].sum()
        assert expected.min() > 40
        assert stats.chisquare(drawn[mine], expected).pvalue > 1e-4
    np.testing.assert_array_equal(one.draw(0, 777, 5), one.draw(0, 0, 1000)[777:782])
    sent = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(sent.draw(3, 0, 999), one.draw(3, 0, 999))


def test_a_weighted_draw_looks_at_few_weights_however_many_cells_there_are() -> None:
    touched = []
    for n in (20_000, 400_000):
        groups, _, weights = shallow(n)
        maxima, sums = group_maxima(groups, weights), sum_weights(groups, weights)
        one = Sampler(
            groups, SamplerConfig(), release="r", cell_weights=weights.view(Counted), maxima=maxima, weight_sums=sums
        )
        Counted.touched = 0
        one.draw(0, 0, 1000)
        touched.append(Counted.touched)
    assert max(touched) < 1000 * (ATTEMPTS + CELLS)
    assert touched[1] < 1.2 * touched[0]


@pytest.mark.parametrize("block", [1 << 20, 37])
def test_weights_are_summed_by_blocks_that_no_group_shares(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.groups.BLOCK", block)
    weights = RNG.integers(1, 1000, len(CODES)).astype(np.float32)
    expected = []
    for group in range(40):
        within = np.cumsum(weights[group == CODES], dtype=np.float64)
        expected += within[CELLS - 1 :: CELLS].tolist() + ([within[-1]] if len(within) % CELLS else [])
    np.testing.assert_array_equal(sum_weights(GROUPS, weights), expected)
    sum_weights(GROUPS, weights, tmp_path / "sums.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "sums.npy"), expected)


@pytest.mark.parametrize("epochs", [1, 2, 5, 30])
def test_without_replacement_no_cell_is_twice_ahead_of_another_of_its_group(epochs: int) -> None:
    one = sampler(replacement=False, draws=500, weighting=Weighting(scale=20))
    drawn = np.bincount(np.concatenate([one.draw(e, 0, 500) for e in range(epochs)]), minlength=len(CODES))
    assert drawn.sum() == 500 * epochs
    for group in np.flatnonzero(GROUPS.counts):
        mine = drawn[group == CODES]
        assert mine.max() - mine.min() <= 1


def test_quotas_are_the_shares_to_within_one_draw() -> None:
    one = sampler(replacement=False, draws=5000)
    drawn = np.bincount(CODES[one.draw(1, 0, 5000)], minlength=40)
    assert (np.abs(drawn - one.shares() * 5000) < 1 + 1e-6).all()


def test_uniform_without_replacement_is_a_new_order_of_all_cells_each_epoch() -> None:
    one = sampler("uniform", replacement=False)
    first, second = one.draw(0, 0, len(one)), one.draw(1, 0, len(one))
    everyone = np.flatnonzero(CODES >= 0)
    np.testing.assert_array_equal(np.sort(first), everyone)
    np.testing.assert_array_equal(np.sort(second), everyone)
    assert (first == second).mean() < 0.01


def test_a_curriculum_with_quotas_keeps_walking_on() -> None:
    rule = Weighting(scale=50, curriculum_epochs=3)
    one = sampler(replacement=False, draws=300, weighting=rule)
    biggest = int(np.argmax(GROUPS.counts))
    cells = np.concatenate([one.draw(epoch, 0, 300) for epoch in range(6)])
    mine = cells[CODES[cells] == biggest]
    assert len(mine) < GROUPS.counts[biggest]
    assert len(set(mine.tolist())) == len(mine)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"kind": "uniform"}, {"draws": 10}, {"weighting": Weighting(scale=7)}, {"replacement": False}],
)
def test_a_saved_position_knows_its_stream(change: dict) -> None:
    config = SamplerConfig()
    one = Sampler(GROUPS, config, release="r1")
    state = one.state_dict(3, 640)
    assert one.resume(state) == (3, 640)
    others = [Sampler(GROUPS, replace(config, **change), release="r1"), Sampler(GROUPS, config, release="r2")]
    for other in others:
        with pytest.raises(StateMismatchError, match="start a new stream"):
            other.resume(state)


def test_group_facts_are_part_of_the_stream() -> None:
    facts = GroupFacts(confidence=np.linspace(0.5, 1, 40))
    doubted = Sampler(GROUPS, SamplerConfig(), release="r1", facts=facts)
    assert doubted.fingerprint != sampler().fingerprint
    assert not np.array_equal(doubted.shares(), sampler().shares())


def test_another_process_draws_the_same() -> None:
    code = (
        "import numpy as np; from loaders import *;"
        "g = build_groups([np.arange(1000) % 7], 7, 1000);"
        "print(Sampler(g, SamplerConfig(draws=500), release='x').draw(2, 123, 9).tolist())"
    )
    groups = build_groups([np.arange(1000) % 7], 7, 1000)
    here = Sampler(groups, SamplerConfig(draws=500), release="x").draw(2, 123, 9).tolist()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(here)


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        ({"kind": "random"}, {}),
        ({"draws": 0}, {}),
        ({"replacement": False}, {"cell_weights": np.ones(9000), "maxima": np.ones(40)}),
        ({"kind": "uniform"}, {"cell_weights": np.ones(9000), "maxima": np.ones(40)}),
        ({}, {"cell_weights": np.ones(9000)}),
    ],
)
def test_contradictions_are_refused(config: dict, extra: dict) -> None:
    with pytest.raises(LoaderInputError):
        Sampler(GROUPS, SamplerConfig(**config), release="r", **extra)
    with pytest.raises(LoaderInputError, match="position"):
        sampler().draw(-1, 0, 1)
    with pytest.raises(LoaderInputError, match="offset"):
        next(sampler().batches(0, 8, step=2, offset=2))


def test_equal_configurations_give_the_same_stream() -> None:
    plain = SamplerConfig(seed=1, draws=500, weighting=Weighting(scale=500.0, curriculum_epochs=2))
    numpy = SamplerConfig(
        seed=np.int64(1), draws=np.int32(500), weighting=Weighting(scale=500, alpha=1, curriculum_epochs=np.int64(2))
    )
    assert plain == numpy
    assert Sampler(GROUPS, plain, release="r").fingerprint == Sampler(GROUPS, numpy, release="r").fingerprint


@pytest.mark.parametrize("wrong", [{"seed": 1.5}, {"draws": 10.5}, {"seed": "1"}, {"seed": None}])
def test_numbers_that_are_not_whole_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LoaderInputError, match=f"{next(iter(wrong))}=.*whole number"):
        SamplerConfig(**wrong)
