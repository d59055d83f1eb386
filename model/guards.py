"""What guards a run: against divergence, for the best weights, for a state to resume from, and for the end of a leg.

Lightning callbacks, one per duty; each keeps in the run's state what it must remember across legs. None changes a
weight.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from torch.distributed.tensor import DTensor

from .errors import TrainingDivergedError
from .tensor_files import load_tensors, new_folder, save_tensors, seal, unseal
from .throughput import RECENT, Throughput, due_now

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

SPIKE = 4.0
"""Times the spread of the best stretch of losses that a later stretch may lie above it."""
RISE = 0.5
"""Share of the best mean loss that it may lie above as well."""
BEST_FORMAT = "panatlas best weights 1"
ASK = 10
"""Steps between the ranks' questions whether a leg is over."""
NETWORK = "network."
"""Begins the names of a training module's weights that are the network's."""


class LegOverError(Exception):
    """Ends a leg at a step's end, after its state was saved; never seen by callers of `train`."""


class DivergenceGuard(Callback):
    """Stops a run whose loss is no number, or has left where it was and does not come back, and says which term it was.

    Parameters
    ----------
    every
        Steps between looks; a look waits for the GPU.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen: deque[float] = deque(maxlen=RECENT)
        self.best, self.spread = float("inf"), 0.0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Look at the terms before the step that would spoil the weights."""
        if trainer.global_step % self.every:
            return
        terms = {name: float(value) for name, value in pl_module.terms.items()}
        rate = optimizer.param_groups[0]["lr"]
        if bad := [name for name, value in terms.items() if not math.isfinite(value)]:
            raise TrainingDivergedError(trainer.global_step, f"{', '.join(bad)} is no number", rate)
        self.seen.append(terms["loss"])
        if len(self.seen) < RECENT:
            return
        mean = sum(self.seen) / len(self.seen)
        if mean < self.best:
            self.best = mean
            self.spread = (sum((x - mean) ** 2 for x in self.seen) / len(self.seen)) ** 0.5
        elif mean - self.best > max(SPIKE * self.spread, RISE * abs(self.best)):
            worst = max((name for name in terms if name != "loss"), key=lambda name: terms[name])
            what = f"the mean loss rose from {self.best:.3g} to {mean:.3g}, and its largest term is {worst}"
            raise TrainingDivergedError(trainer.global_step, what, rate)

    def state_dict(self) -> dict[str, Any]:
        """Return what a later leg goes on with."""
        return {"seen": list(self.seen), "best": self.best, "spread": self.spread}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with an earlier leg's."""
        self.seen = deque(state_dict["seen"], maxlen=RECENT)
        self.best, self.spread = state_dict["best"], state_dict["spread"]


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """Return the network's weights, whole; every rank has to ask, and the first is sure to get them."""
    state = trainer.strategy.lightning_module_state_dict()
    return {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}


class BestWeights(Callback):
    """Keeps the weights with the lowest validation loss in a folder.

    Parameters
    ----------
    folder
        Of the weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.best, self.step, self.looked = folder, float("inf"), -1, -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are better; log how held-out cells did."""
        found = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("validation/")}
        if not found:
            return
        self.looked = trainer.global_step
        if found["validation/loss"] < self.best:
            self.best, self.step = found["validation/loss"], trainer.global_step
            weights = weights_of(trainer)
            if trainer.is_global_zero:
                with new_folder(self._place(self.step), replace=True) as part:
                    save_tensors(part, "weights", weights)
                    seal(part, {"format": BEST_FORMAT})
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(found, trainer.global_step)
                logger.save()

    def state_dict(self) -> dict[str, Any]:
        """Return what a later leg goes on with."""
        return {"best": self.best, "step": self.step, "looked": self.looked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with an earlier leg's."""
        self.best, self.step, self.looked = state_dict["best"], state_dict["step"], state_dict["looked"]

    def load(self) -> dict[str, Tensor]:
        """Return the weights that did best; raises CheckpointError where they are not as they were written."""
        unseal(self._place(self.step), BEST_FORMAT)
        return load_tensors(self._place(self.step), "weights")

    def forget(self) -> None:
        """Drop weights that no saved state calls the best any more."""
        for old in self.folder.glob("step-*"):
            if old != self._place(self.step):
                shutil.rmtree(old, ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"


class StateKeeper(Callback):
    """Saves where a run stands every so many steps, keeps the last two, and ends a leg whose time is over.

    Parameters
    ----------
    folder
        Of the states.
    every
        Steps between them.
    minutes
        After which the leg ends; 0 for none.
    """

    def __init__(self, folder: Path, every: int, minutes: float) -> None:
        self.folder, self.every = folder, every
        self._end = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.stopped = False
        """Somebody asked for an end at the next step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; between the batches of one step nothing is.

        Where a validation follows, it is waited for: a leg that resumes before it would never make it.
        """
        batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if not (any(trainer.num_val_batches) and batches % trainer.val_check_batch == 0):
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where it was due before the validation."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        if not due_now(trainer, 1) or trainer.global_step >= trainer.max_steps or trainer.should_stop:
            return
        late = self.stopped or time.monotonic() > self._end
        if trainer.world_size > 1:  # all ranks or none; asking costs a wait, so not at every step
            asked = trainer.global_step % ASK == 0
            late = asked and trainer.strategy.reduce_boolean_decision(late, all=False)
        if late or due_now(trainer, self.every):
            self.save(trainer)
        if late:
            raise LegOverError

    def save(self, trainer: Trainer) -> None:
        """Save now, and drop all states but this one and the one before.

        Raises
        ------
        TrainingDivergedError
            When weights are not finite: the states before are what can be gone on from.
        """
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        for name, weights in trainer.lightning_module.named_parameters():
            mine = weights.to_local() if isinstance(weights, DTensor) else weights
            if not mine.isfinite().all():
                raise TrainingDivergedError(trainer.global_step, f"{name} has values that are not finite", rate)
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:09d}")
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*"))[:-2]:
                shutil.rmtree(old, ignore_errors=True)
        for watcher in trainer.callbacks:
            if isinstance(watcher, Throughput):
                watcher.restart()
            if isinstance(watcher, BestWeights) and trainer.is_global_zero:
                watcher.forget()
