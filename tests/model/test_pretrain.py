"""Training: a run in one leg and in many ends with the same bytes, and what it leaves says what it did."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from loaders import LeakageError, LoaderInputError
from model import (
    Beginning,
    CheckpointError,
    Machine,
    ModelInputError,
    load_model,
    resume,
    seen_before,
    train,
)
from model.guards import LegOverError, StateKeeper
from model.resume_state import ShardedState
from model.tensor_files import load_tensors
from model.training import TrainingModule
from tests.model.small_runs import open_adata, small_adata, small_cells, small_config, small_recipe, small_start

if TYPE_CHECKING:
    from loaders import Cells
    from model import TrainingRun

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
    look = StateKeeper._look

    def stop(self, trainer):
        look(self, trainer)
        if trainer.global_step == cut and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            if cut % 3:
                self.save(trainer)
            raise LegOverError

    monkeypatch.setattr(StateKeeper, "_look", stop)
    first = train(small_cells(), small_config(), small_recipe(), tmp_path / "legs", machine=CPU)
    assert not first.finished
    assert first.facts["steps"] == cut
    second = resume(tmp_path / "legs", cells=small_cells(), machine=CPU)
    assert second.finished
    assert same_weights(whole.folder, second.folder)
    assert second.facts["model"] == whole.facts["model"]
    for name in ("loss_first", "loss_last", "validation_loss", "validation_step", "cells_seen"):
        assert second.facts[name] == whole.facts[name], name
    found = logged(whole.folder, "validation/loss")
    assert sorted(found) == [4, 8, 12]
    assert logged(second.folder, "validation/loss") == found


def same_weights(one: Path, two: Path) -> bool:
    a, b = (load_model(folder / "model").network.state_dict() for folder in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def begin(folder: Path, *, cells: Cells | None = None, machine: Machine = CPU, **changes: object) -> TrainingRun:
    """Train from a network that is made once, which is quicker."""
    return train(
        cells or small_cells(), small_config(), small_recipe(**changes), folder, machine=machine,
        beginning=small_start(),
    )  # fmt: skip


SHORT = {"steps": 3, "validate_every": 0}


@pytest.mark.slow
def test_a_later_leg_with_other_workers_ends_with_the_same_bytes(whole, tmp_path):
    """Both legs draw what one of no workers draws; processes that make batches are started anew."""
    machine = Machine(device="cpu", minutes=1e-9, save_every=100, log_every=5)
    first = train(small_cells(), small_config(), small_recipe(), tmp_path / "legs", machine=machine)
    assert (first.finished, first.facts["steps"]) == (False, 1)
    second = resume(tmp_path / "legs", cells=small_cells(), machine=Machine(device="cpu", workers=2))
    assert second.finished
    assert second.facts["model"] == whole.facts["model"]


def test_time_that_is_over_ends_a_leg_after_a_step_and_resume_finishes(tmp_path):
    machine = Machine(device="cpu", minutes=1e-9)
    for steps in (1, 2):
        leg = begin(tmp_path / "run", machine=machine, **SHORT)
        assert (leg.finished, leg.facts["finished"], leg.facts["steps"]) == (False, False, steps)
        with pytest.raises(CheckpointError):
            _ = leg.model
    last = resume(tmp_path / "run", cells=small_cells(), machine=CPU)
    assert last.finished
    assert last.facts["steps"] == 3
    assert not (tmp_path / "run" / "states").exists()


def test_a_finished_folder_gives_its_receipt_and_trains_no_more(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    again = train(small_cells(), small_config(), small_recipe(), whole.folder, machine=CPU)
    assert (again.finished, again.facts) == (True, whole.facts)
    assert resume(whole.folder).facts == whole.facts
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before


def test_a_run_killed_between_its_model_and_its_receipt_is_finished_by_resume(tmp_path, monkeypatch):
    assert not begin(tmp_path / "run", machine=Machine(device="cpu", minutes=1e-9), **SHORT).finished
    with monkeypatch.context() as patched:
        patched.setattr("model.pretrain.write_whole", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            resume(tmp_path / "run", cells=small_cells(), machine=CPU)
    assert (tmp_path / "run" / "model").exists()
    done = resume(tmp_path / "run", cells=small_cells(), machine=CPU)
    assert done.facts["finished"]
    assert done.facts["model"] == done.model.digest


@pytest.mark.parametrize(
    ("what", "changed"),
    [("recipe", {"recipe": small_recipe(steps=13)}), ("config", {"config": small_config().changed(losses={"kl": 0})}),
     ("cells", {"cells": small_cells(seed=1)}), ("start", {"beginning": small_start()})],
    ids=["recipe", "config", "cells", "start"],
)  # fmt: skip
def test_a_folder_of_another_run_is_refused_by_what_differs(whole, what, changed):
    given = {"cells": small_cells(), "config": small_config(), "recipe": small_recipe(), **changed}
    with pytest.raises(ModelInputError, match=f"another {what}$"):
        train(**given, folder=whole.folder, machine=CPU)


def test_resume_refuses_what_is_no_run_and_other_cells(whole, tmp_path):
    with pytest.raises(CheckpointError, match="no run"):
        resume(tmp_path)
    for text in ("{}", "[1]", '{"format": "panatlas run 1"}', "{"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match="no run"):
            resume(tmp_path)
    said = (whole.folder / "run.json").read_text()
    (tmp_path / "run.json").write_text(said)
    with pytest.raises(ModelInputError, match="cells"):
        resume(tmp_path)
    with pytest.raises(ModelInputError, match="those of the run"):
        resume(tmp_path, cells=small_cells(seed=1))


def leaking() -> Cells:
    adata = small_adata()
    adata.obs.loc[adata.obs_names[4], "split"] = "train"  # of the donor that validates
    return open_adata(adata)


def few() -> Cells:
    return open_adata(small_adata()[:10].copy())


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (LeakageError, {"cells": leaking()}),
        (ModelInputError, {"machine": Machine(device="tpu")}),
        (ModelInputError, {"config": small_config().changed(tasks={"masks": ("tf",)})}),
        (ModelInputError, {"beginning": Beginning(regulators=("ENSG00000999999",))}),
        (LoaderInputError, {"recipe": small_recipe(batch_size=41)}),
        (LoaderInputError, {"cells": small_cells("mouse"), "beginning": small_start()}),
        (ModelInputError, {"config": small_config().changed(losses={"kl": 0}), "beginning": small_start()}),
    ],
    ids=["leak", "device", "no regulators", "strange regulators", "batch", "organism", "other network"],
)
def test_what_cannot_be_trained_leaves_the_folder_free_for_a_second_try(tmp_path, error, wrong):
    given = {"cells": small_cells(), "config": small_config(), "recipe": small_recipe(), "machine": CPU, **wrong}
    with pytest.raises(error):
        train(**given, folder=tmp_path / "run")
    assert not list((tmp_path / "run").glob("*"))


def test_an_interrupted_start_does_not_block_the_folder_but_other_files_do(tmp_path):
    (tmp_path / "run" / ".part-abc").mkdir(parents=True)
    assert begin(tmp_path / "run", **SHORT).finished
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("work of years")
    with pytest.raises(ModelInputError, match="empty folder"):
        begin(tmp_path / "mine", **SHORT)


def test_accumulation_takes_several_batches_per_step_and_resumes_to_the_byte(tmp_path):
    changes = {"steps": 4, "accumulate": 2, "validate_every": 2}
    one = begin(tmp_path / "one", **changes)
    # Five batches an epoch: two steps of two and one of the odd one, then the next epoch.
    assert (one.facts["steps"], one.facts["cells_seen"]) == (4, 7 * 8)
    legs = [begin(tmp_path / "legs", machine=Machine(device="cpu", minutes=1e-9), **changes) for _ in range(2)]
    assert [leg.facts["steps"] for leg in legs] == [1, 2]
    last = resume(tmp_path / "legs", cells=small_cells(), machine=CPU)
    assert last.facts["model"] == one.facts["model"]
    assert last.facts["cells_seen"] == one.facts["cells_seen"]


def test_training_ends_early_when_held_out_cells_stop_getting_better_and_says_so(tmp_path):
    done = begin(tmp_path / "run", steps=40, validate_every=2, patience=2, learning_rate=1e-12)
    assert done.finished
    assert done.facts["stopped_early"]
    assert done.facts["steps"] == done.facts["validation_step"] + 4 < 40
    assert not begin(tmp_path / "other", **SHORT).facts["stopped_early"]


def test_the_model_has_the_weights_that_did_best_on_held_out_cells(tmp_path):
    done = begin(tmp_path / "run", steps=6, validate_every=1, learning_rate=1.0, warm_up=0, schedule="constant")
    losses = logged(done.folder, "validation/loss")
    assert done.facts["validation_step"] == min(losses, key=losses.get) < 6, "a rate that makes it worse"
    kept = load_tensors(tmp_path / "run" / "best" / f"step-{done.facts['validation_step']:09d}", "weights")
    weights = done.model.network.state_dict()
    assert all(torch.equal(weights[name], kept[name]) for name in kept)


def test_cells_without_held_out_ones_train_all_the_same(tmp_path):
    adata = small_adata()
    adata.obs["split"] = "train"
    done = begin(tmp_path / "run", cells=open_adata(adata), steps=3, validate_every=1, patience=1)
    assert done.finished
    assert done.facts["steps"] == 3
    assert "validation_loss" not in done.facts
    assert done.facts["roles"]["validation"] == 0


def test_a_model_that_began_with_anothers_weights_knows_the_others_cells(whole, tmp_path):
    fresh = small_cells(seed=1)
    beginning = Beginning(model=whole.model)
    done = train(fresh, small_config(), small_recipe(**SHORT), tmp_path / "run", machine=CPU, beginning=beginning)
    former, mine = seen_before(whole.model.ledger, small_cells()), seen_before(done.model.ledger, small_cells())
    assert mine == former
    assert seen_before(whole.model.ledger, fresh)["not_found"] == 144
    assert len(done.model.ledger) == len(whole.model.ledger) + 96  # no validation chose its weights
    assert done.facts["roles"] == done.model.ledger.tally
    first = load_model(tmp_path / "run" / "start").network.state_dict()
    assert all(torch.equal(first[name], value) for name, value in whole.model.network.state_dict().items())


def test_ctrl_c_is_a_keyboard_interrupt_and_works_again_afterwards(tmp_path, monkeypatch):
    step = TrainingModule.training_step

    def interrupted(times):
        def training_step(self, *rest):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            return step(self, *rest)

        return training_step

    for times in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(TrainingModule, "training_step", interrupted(times))
            with pytest.raises(KeyboardInterrupt):
                begin(tmp_path / "run", steps=4, validate_every=0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        (state,) = (tmp_path / "run" / "states").iterdir()  # the first waits for a state, the second for nothing
        assert state.name == "step-000000001"
    stopped = resume(tmp_path / "run", cells=small_cells(), machine=CPU)
    assert stopped.facts["model"] == begin(tmp_path / "whole", steps=4, validate_every=0).facts["model"]


def test_the_callers_random_numbers_are_left_alone_and_decide_nothing(whole, tmp_path):
    torch.manual_seed(123)
    np.random.seed(123)
    before, numpys = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    done = train(small_cells(), small_config(), small_recipe(), tmp_path / "run", machine=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert done.facts["model"] == whole.facts["model"]


def logged(folder: Path, name: str) -> dict[int, float]:
    """Return a column of a run's log by step; a step that has two rows is a fault."""
    texts = [path.read_text().splitlines() for path in folder.glob("log/*/metrics.csv")]
    rows = [(int(row["step"]), float(row[name])) for text in texts for row in csv.DictReader(text) if row.get(name)]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_the_learning_rate_logged_is_the_recipes(whole):
    recipe = small_recipe()
    rates = logged(whole.folder, "learning_rate")
    # A row of a step is written when its successor's rate is set.
    assert rates == pytest.approx({step: recipe.learning_rate * recipe.rate_at(step) for step in range(1, 13)})


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from model import Machine, train
from model.training import TrainingModule
from tests.model.small_runs import small_cells, small_config, small_recipe

if __name__ == "__main__":
    folder, strategy, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])
    end = TrainingModule.on_train_end
    def kept(self):
        rank = self.global_rank
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        weights = {} if strategy == "fsdp" else self.network.state_dict()
        torch.save({"weights": weights, "rate": rate}, f"{folder}.rank{rank}")
        end(self)
    TrainingModule.on_train_end = kept
    machine = Machine(device="cpu", devices=2, strategy=strategy, save_every=3, log_every=1, minutes=minutes)
    train(small_cells(), small_config(), small_recipe(batch_size=4), folder, machine=machine)
"""


def run_two_ranks(folder, strategy, minutes=0.0):
    folder.with_suffix(".py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    root = Path(__file__).parent.parent.parent
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(folder.with_suffix(".py")), str(folder), strategy, str(minutes)],
        env={**environment, "PYTHONPATH": str(root)}, cwd=root, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / "receipt.json").read_text())


@pytest.mark.slow
def test_two_ranks_train_together_whether_each_has_all_weights_or_a_part_of_each(tmp_path):
    facts = run_two_ranks(tmp_path / "run", "ddp")
    assert (facts["finished"], facts["ranks"], facts["steps"]) == (True, 2, 12)
    assert facts["cells_seen"] == 12 * 4 * 2
    one, two = (torch.load(tmp_path / f"run.rank{rank}", weights_only=True) for rank in (0, 1))
    assert one["rate"] == two["rate"]
    assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in one["weights"])
    model = load_model(tmp_path / "run" / "model")
    assert model.digest == facts["model"]

    part = run_two_ranks(tmp_path / "part", "fsdp", minutes=1e-9)
    assert (part["finished"], part["steps"]) == (False, 10)
    (state,) = (tmp_path / "part" / "states").glob("step-*10")
    there = {name: tuple(value.shape) for name, value in ShardedState().load_checkpoint(state)["state_dict"].items()}
    assert {(f"network.{name}", tuple(one.shape)) for name, one in model.network.state_dict().items()} <= set(
        there.items()
    )
    sharded = run_two_ranks(tmp_path / "part", "fsdp")
    assert (sharded["finished"], sharded["cells_seen"]) == (True, facts["cells_seen"])
    for name in ("loss_first", "loss_last", "validation_loss"):  # ranks add up in another order
        assert sharded[name] == pytest.approx(facts[name], rel=1e-4), name
    assert load_model(tmp_path / "part" / "model").ledger.tally == model.ledger.tally


def test_the_log_may_go_to_tensorboard(tmp_path):
    machine = Machine(device="cpu", log_every=1, logger="tensorboard")
    recipe = small_recipe(steps=2, validate_every=0)
    train(small_cells(), small_config(), recipe, tmp_path / "run", machine=machine, beginning=small_start())
    (events,) = (tmp_path / "run" / "log").rglob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
