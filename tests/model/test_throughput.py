"""Rates: waiting is told from computing, arithmetic is counted right, and measuring changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from loaders import Collator
from model import Machine, load_model, train
from model.objective import Objective
from model.resume_state import ShardedState
from model.throughput import Throughput, count_flops, measure_peak
from model.training import TrainingModule
from tests.model.small_runs import small_cells, small_config, small_recipe, small_start
from tests.model.test_checkpoint import make_model
from tests.model.toy_batches import toy_batch, toy_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

SHORT = {"steps": 4, "validate_every": 0}


def run(folder: Path, **machine: object):
    machine = Machine(**{"device": "cpu", "save_every": 100, "log_every": 1, **machine})
    return train(small_cells(), small_config(), small_recipe(**SHORT), folder, machine=machine, beginning=small_start())


def test_waiting_is_what_loading_takes_and_neither_saving_nor_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def slower(kind: type, name: str, seconds: float) -> None:
        plain = getattr(kind, name)

        def slow(*args, **options):
            now[0] += seconds
            return plain(*args, **options)

        monkeypatch.setattr(kind, name, slow)

    monkeypatch.setattr("model.throughput.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr("model.throughput.measure_peak", lambda *_, **__: 1.0)
    slower(Collator, "collate", 9.0)
    slower(TrainingModule, "training_step", 1.0)
    slower(TrainingModule, "validation_step", 1e4)
    slower(ShardedState, "save_checkpoint", 1e5)
    machine = Machine(device="cpu", save_every=1, log_every=1)
    recipe = small_recipe(steps=4, validate_every=2)
    facts = train(
        small_cells(), small_config(), recipe, tmp_path / "run", machine=machine, beginning=small_start()
    ).facts
    assert now[0] > 3e5  # it was slow
    assert facts["data_wait"] == pytest.approx(0.9)
    assert facts["cells_per_s"] == pytest.approx(8 / 10)


def test_rows_say_how_far_and_how_fast(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    facts = run(tmp_path / "run", log_every=2, show=rows.append).facts
    assert [(row["step"], row["steps"]) for row in rows] == [(2, 4), (4, 4)]
    for row in rows:
        terms = [value for name, value in row.items() if name.startswith("train/") and name != "train/loss"]
        assert row["loss"] == pytest.approx(sum(terms), rel=1e-5)
        assert 0 <= row["data_wait"] <= 1
        assert row["tokens_per_s"] >= 20 * row["cells_per_s"]  # the shortest context
        assert row["tokens_per_s"] <= 64 * row["cells_per_s"] * (1 + 1e-9)  # the longest
        assert 0 < row["flop_utilisation"] < 1
    assert facts["cells_seen"] == 32


def test_measuring_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "with")
    with monkeypatch.context() as patched:
        patched.setattr("model.throughput.count_flops", lambda *_: 1.0)
        patched.setattr("model.throughput.measure_peak", lambda *_, **__: 1.0)
        run(tmp_path / "without", log_every=3)
    one, two = (load_model(tmp_path / name / "model").network.state_dict() for name in ("with", "without"))
    assert all(torch.equal(one[name], two[name]) for name in one)


class Product(nn.Module):
    """Stands for a network of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10, 7))
        self.network = None

    def objective(self, network, batch, rows, generator, step):
        return {"loss": (torch.ones(int(rows.offsets[-1]), 10) @ self.weight).sum()}


def test_arithmetic_is_that_of_the_matrix_products_forward_and_backward() -> None:
    module = Product()
    batch = SimpleNamespace(offsets=torch.tensor([0, 4, 9]), counts=torch.zeros(9))
    # Forward 2 * 9 * 10 * 7; backward the same for the weights, and nothing for an input that needs no gradient.
    assert count_flops(module, batch) * 9 == 2 * (2 * 9 * 10 * 7)
    assert module.weight.grad is None


def test_twice_the_cells_are_twice_the_arithmetic_and_no_gradient_is_left() -> None:
    network = make_model().network.train()
    objective = Objective(network.config.changed(losses={"contrastive": 0, "elastic": 0}), network, toy_vocabulary())
    module = TrainingModule(network, objective, small_recipe())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    # All genes in every cell, so that what is done once per batch, such as projecting them, is the same.
    of_4, of_8, of_12 = (n * 120 * count_flops(module, toy_batch(sizes=(120,) * n)[0]) for n in (4, 8, 12))
    assert of_12 - of_8 == pytest.approx(of_8 - of_4, rel=1e-9)
    assert of_4 < of_8 <= 2 * of_4
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_measured_ceiling_is_a_rate() -> None:
    assert 1e8 < measure_peak(torch.device("cpu"), bf16=False) < 1e14


def test_sums_and_first_losses_go_over_to_the_next_leg() -> None:
    one, two = Throughput(1), Throughput(1)
    one.first, one.sums["cells"], one.flops_per_token = [3.0, 2.0], 64.0, 5.0
    one.last.extend([2.0, 1.0])
    two.load_state_dict(one.state_dict())
    assert two.state_dict() == one.state_dict()
    assert two.rates()["cells_per_s"] == 0  # of this leg, which has not begun
