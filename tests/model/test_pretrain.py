"""Training: a run in one leg and in many ends with the same bytes, and what it leaves says what it did."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loaders import LeakageError, make_sampler
from model import (
    Beginning,
    CheckpointError,
    Machine,
    ModelInputError,
    Recipe,
    TrainingDivergedError,
    load_model,
    recipe_for,
    resume,
    seen_before,
    train,
)
from model.guards import LegOverError, StateKeeper
from tests.model.small_runs import small_cells, small_config, small_recipe

if TYPE_CHECKING:
    from pathlib import Path

CPU = Machine(device="cpu", save_every=3, log_every=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """Return a run of one leg."""
    return train(small_cells(), small_config(), small_recipe(), tmp_path_factory.mktemp("runs") / "whole", machine=CPU)


def test_a_run_learns_and_its_receipt_says_so(whole):
    assert whole.finished
    assert whole.facts["steps"] == 12
    assert whole.facts["loss_last"] < whole.facts["loss_first"]
    assert 0 <= whole.facts["data_wait"] < 1
    assert whole.facts["cells_seen"] == 12 * 8
    assert json.loads((whole.folder / "receipt.json").read_text()) == whole.facts
    assert whole.model.digest == whole.facts["model"]


@pytest.mark.parametrize("cut", [3, 4, 5, 7])
def test_a_run_cut_into_legs_ends_with_the_same_bytes(whole, tmp_path, monkeypatch, cut):
    keep = StateKeeper.on_train_batch_end

    def stop(self, trainer, *rest):
        keep(self, trainer, *rest)
        if trainer.global_step == cut and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            if cut % 3:
                self.save(trainer)
            raise LegOverError

    monkeypatch.setattr(StateKeeper, "on_train_batch_end", stop)
    first = train(small_cells(), small_config(), small_recipe(), tmp_path / "legs", machine=CPU)
    assert not first.finished
    assert first.facts["steps"] == cut
    second = resume(tmp_path / "legs", cells=small_cells(), machine=CPU)
    assert second.finished
    assert same_weights(whole.folder, second.folder)
    assert second.facts["model"] == whole.facts["model"]
    for name in ("loss_first", "loss_last", "validation_loss", "validation_step", "cells_seen"):
        assert second.facts[name] == whole.facts[name], name


def same_weights(one: Path, two: Path) -> bool:
    a, b = (load_model(folder / "model").network.state_dict() for folder in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
