"""How fast a run goes: cells/s, tokens/s, the share of time spent waiting for data, and of the machine's arithmetic.

A Lightning callback that also writes the log. The ceiling is a large matrix product measured in the same process; the
arithmetic of a step is counted on the first batch, forward and backward.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from .ragged import Ragged
from .views import seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer

    from loaders import CellBatch

RECENT = 50
"""Steps that the first and the last loss of a run are means of, and that divergence looks back on."""


class Throughput(Callback):
    """Measures cells/s, tokens/s, use of the machine's arithmetic and the share of time spent waiting for data.

    Parameters
    ----------
    every
        Steps between rows of the log.
    show
        Called with each row.
    """

    def __init__(self, every: int, show: Callable[[dict[str, float]], None] | None = None) -> None:
        self.every, self.show = every, show
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=RECENT)
        self.sums = dict.fromkeys(("seconds", "waited", "cells", "tokens", "steps"), 0.0)
        self.flops_per_token = self.peak = 0.0
        self._leg, self._row = dict(self.sums), dict(self.sums)
        self._ended = self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what the machine can do at most, in the precision that is trained in."""
        self.peak = measure_peak(pl_module.device, bf16=str(trainer.precision).startswith("bf16"))
        self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the last step as waiting."""
        if not self.flops_per_token and trainer.world_size == 1 and not self.last:
            now = time.perf_counter()
            with trainer.precision_plugin.forward_context():
                self.flops_per_token = count_flops(pl_module, batch)
            self._ended += time.perf_counter() - now
        self._began = time.perf_counter()
        self._add("waited", self._began - self._ended)
        self._add("seconds", self._began - self._ended)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; write a row where one is due."""
        step, due = trainer.global_step, due_now(trainer, self.every)
        cells, tokens = pl_module.work
        if due or len(self.first) < RECENT:
            loss = float(pl_module.terms["loss"])  # waits for a GPU, so not at every step
            self.last.append(loss)
            if len(self.first) < RECENT:
                self.first.append(loss)
        now = time.perf_counter()
        for name, value in (("seconds", now - self._began), ("cells", cells), ("tokens", tokens), ("steps", 1)):
            self._add(name, value * (trainer.world_size if name in ("cells", "tokens") else 1))
        self._ended = now
        if due:
            self._write(trainer, pl_module, step)
            self._ended = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out of the waiting."""
        self.restart()

    def restart(self) -> None:
        """Leave out of the waiting what came since the step ended, such as the saving of a state."""
        self._ended = time.perf_counter()

    def _add(self, name: str, value: float) -> None:
        for sums in (self.sums, self._leg, self._row):
            sums[name] += value

    def rates(self, sums: dict[str, float] | None = None) -> dict[str, float]:
        """Return cells/s, tokens/s, share of waiting and of the machine's peak, of this leg unless others are given."""
        sums = sums or self._leg
        seconds = max(sums["seconds"], 1e-9)
        tokens = sums["tokens"] / seconds
        out = {"cells_per_s": sums["cells"] / seconds, "tokens_per_s": tokens, "data_wait": sums["waited"] / seconds}
        if self.flops_per_token and self.peak:
            out["flop_utilisation"] = tokens * self.flops_per_token / self.peak
        return out

    def _write(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        row = {f"train/{name}": float(value) for name, value in pl_module.terms.items()}
        row |= {"epoch": float(trainer.current_epoch), "learning_rate": trainer.optimizers[0].param_groups[0]["lr"]}
        row |= self.rates(self._row)
        self._row = dict.fromkeys(self._row, 0.0)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(row, step)
                logger.save()
            if self.show:
                self.show({"step": step, "steps": trainer.max_steps, "loss": row["train/loss"], **row})

    def state_dict(self) -> dict[str, Any]:
        """Return what a later leg goes on with."""
        return {"first": self.first, "last": list(self.last), "sums": self.sums, "flops": self.flops_per_token}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with an earlier leg's."""
        self.first, self.sums = list(state_dict["first"]), dict(state_dict["sums"])
        self.flops_per_token = state_dict["flops"]
        self.last = deque(state_dict["last"], maxlen=RECENT)


def due_now(trainer: Trainer, every: int) -> bool:
    """Return whether this batch ended a step whose number is due."""
    whole = (trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches) == 0
    whole = whole or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return whole and trainer.global_step % every == 0


def measure_peak(device: torch.device, *, bf16: bool) -> float:
    """Return multiplications and additions per second of a large matrix product, the ceiling that training has."""
    size, rounds = (8_192, 10) if device.type == "cuda" else (1_024, 3)
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    for turn in range(2):  # the first warms up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(rounds if turn else 1):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return rounds * 2 * size**3 / (time.perf_counter() - start)


def count_flops(module: LightningModule, batch: CellBatch) -> float:
    """Return the multiplications and additions of a training step on a batch, per gene token; leaves no gradient."""
    sizes = tuple(batch.offsets.diff().tolist())
    generator = seeded(0, device=batch.counts.device)
    with FlopCounterMode(display=False) as counter:
        module.objective(module.network, batch, Ragged(batch.offsets, sizes), generator, 0)["loss"].backward()
    module.zero_grad(set_to_none=True)
    return counter.get_total_flops() / max(1, sum(sizes))
