"""Guards: a run that diverges says where and by which term, and leaves a state to go on from; noise stops none."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from model import Machine, TrainingDivergedError, resume, train
from model.guards import DivergenceGuard
from model.resume_state import ShardedState
from model.training import TrainingModule
from tests.model.small_runs import small_cells, small_config, small_recipe, small_start

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CPU = Machine(device="cpu", save_every=3, log_every=1)
SEEDS = range(20)


def watch(losses: Iterable[float], guard: DivergenceGuard | None = None, every: int = 1) -> int | None:
    """Return the step at which a guard stops a run of these losses, None where it does not."""
    guard = guard or DivergenceGuard(every)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    for step, loss in enumerate(losses):
        terms = {"loss": torch.tensor(loss), "denoise": torch.tensor(0.9 * loss), "labels": torch.tensor(0.1 * loss)}
        try:
            guard.on_before_optimizer_step(SimpleNamespace(global_step=step), SimpleNamespace(terms=terms), optimizer)
        except TrainingDivergedError as error:
            return error.step
    return None


def falling(seed: int, steps: int = 600, noise: float = 0.3) -> np.ndarray:
    return 2 + 6 * np.exp(-np.arange(steps) / 80) + np.random.default_rng(seed).normal(0, noise, steps)


@pytest.mark.parametrize("seed", SEEDS)
def test_ordinary_noise_plateaus_and_single_spikes_do_not_stop_a_run(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = falling(seed)
    assert watch(losses) is None
    assert watch(np.full(300, 3.0)) is None
    spiky = losses.copy()
    spiky[rng.choice(600, 6, replace=False)] += 8
    assert watch(spiky) is None
    assert watch(losses - 6) is None  # a loss may pass zero: a likelihood is no distance
    assert watch(rng.gamma(2.0, 1.0, 600)) is None


@pytest.mark.parametrize("shift", [0.0, -6.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_leaves_and_stays_away_stops_the_run_soon(seed: int, shift: float) -> None:
    losses = falling(seed) + shift
    losses[400:] += 8
    assert 400 < watch(losses) < 460
    creeping = falling(seed) + shift
    creeping[300:] += np.linspace(0, 60, 300)
    assert 300 < watch(creeping) < 600


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run_at_once(bad: float) -> None:
    assert watch([3.0, 2.0, bad]) == 2


def test_a_guard_that_was_saved_goes_on_as_if_it_had_not_been() -> None:
    losses = falling(3)
    losses[400:] += 8
    whole, first, second = watch(losses), DivergenceGuard(1), DivergenceGuard(1)
    assert watch(losses[:390], first) is None
    second.load_state_dict(first.state_dict())
    assert 390 + watch(losses[390:], second) == whole


def test_the_term_that_is_no_number_is_named_and_it_looks_only_when_due() -> None:
    guard = DivergenceGuard(10)
    terms = {"loss": torch.tensor(torch.nan), "kl": torch.tensor(torch.nan), "labels": torch.tensor(1.0)}
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.25}])
    guard.on_before_optimizer_step(SimpleNamespace(global_step=9), SimpleNamespace(terms=terms), optimizer)
    with pytest.raises(TrainingDivergedError, match=r"step 20 with learning rate 0\.25: loss, kl is no number"):
        guard.on_before_optimizer_step(SimpleNamespace(global_step=20), SimpleNamespace(terms=terms), optimizer)


def test_a_real_run_that_diverges_says_so_and_its_last_state_is_sound(tmp_path: Path) -> None:
    mad = {"learning_rate": 1e6, "linear_rate": 1e-9, "clip": 1e9}  # the linear path would be gone at the first step
    recipe = small_recipe(steps=150, warm_up=15, validate_every=0, schedule="constant", **mad)
    machine = Machine(device="cpu", save_every=1, log_every=1)
    with pytest.raises(TrainingDivergedError) as caught:
        train(small_cells(), small_config(), recipe, tmp_path / "run", machine=machine, beginning=small_start())
    assert 1 < caught.value.step < 150
    assert caught.value.rate > 0
    assert not (tmp_path / "run" / "model").exists()
    states = sorted((tmp_path / "run" / "states").glob("step-*"))
    weights = ShardedState().load_checkpoint(states[-1])["state_dict"]
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_weight_that_is_no_number_stops_the_run_and_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    step = TrainingModule.training_step

    def spoil(self, *rest):
        if self.global_step == 4:
            with torch.no_grad():
                next(self.network.head.parameters()).view(-1)[0] = torch.nan
        return step(self, *rest)

    machine = Machine(device="cpu", save_every=3, log_every=log_every)
    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "training_step", spoil)
        with pytest.raises(TrainingDivergedError, match=r"no number|not finite") as caught:
            train(
                small_cells(), small_config(), small_recipe(), tmp_path / "run", machine=machine,
                beginning=small_start(),
            )  # fmt: skip
    assert caught.value.step == (4 if log_every == 1 else 6)
    assert [path.name for path in (tmp_path / "run" / "states").iterdir()] == ["step-000000003"]
    if log_every > 1:
        assert resume(tmp_path / "run", cells=small_cells(), machine=CPU).facts["steps"] == 12
