"""One network in training, as Lightning sees it: `TrainingModule`. Steps, validation, optimiser and schedule.

All that is random in a step is seeded by (seed, epoch, batch, rank), so that a resumed run does what an uninterrupted
one would have done, with no generator's state to keep. pretrain.py runs it; watching.py looks on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from .errors import CheckpointError
from .ragged import Ragged
from .recipe import make_optimizer
from .sharding import FullySharded, share_out, touched
from .views import seeded

if TYPE_CHECKING:
    from loaders import CellBatch

    from .network import Network
    from .objective import Objective
    from .recipe import Recipe

FULL_RAMP = 1 << 40
"""A step after every warm-up: validation losses of early and late steps are of one scale."""
VALIDATION = -1
"""Stands for the epoch in seeds of validation."""


class TrainingModule(LightningModule):
    """Trains a network on an objective.

    Parameters
    ----------
    network
        What is trained.
    objective
        Its losses; has parameters of its own where the adversary is on.
    recipe
        How.
    """

    def __init__(self, network: Network, objective: Objective, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.objective, self.recipe = network, objective, recipe
        self.terms: dict[str, Tensor] = {}
        self.work = (0, 0)
        self.drawn: dict[int, int] = {}
        self.run = ""
        self._sizes: tuple[int, ...] = ()

    def configure_model(self) -> None:
        """Share the weights out where the strategy asks for it."""
        if isinstance(self.trainer.strategy, FullySharded):
            share_out(self, self.trainer.strategy.device_mesh["data_parallel"])

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note the lengths of contexts while they are on the CPU: asking the GPU for them would wait for it."""
        self._sizes = tuple(batch.offsets.diff().tolist())
        return batch

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        `terms` then has its terms, `work` its cells and gene tokens, `drawn` how many positions of each epoch were.
        """
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(seeded(self.recipe.seed, *place, 1).initial_seed())  # codes, stochastic depth, dropout
        terms = self._losses(batch, place, self.global_step)
        self.terms = {name: value.detach() for name, value in terms.items()}
        self.work = len(batch), sum(self._sizes)
        self.drawn[self.current_epoch] = (batch_idx + 1) * self.recipe.batch_size * self.trainer.world_size
        return terms["loss"] + touched(self)

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Log the losses of held-out cells: the same cells, genes, thinning and masks every time."""
        terms = self._losses(batch, (VALIDATION, batch_idx, self.global_rank), FULL_RAMP)
        for name, value in terms.items():
            size = {"batch_size": len(batch), "sync_dist": True}
            # guards.py writes it into the log, under the number of steps that were taken.
            self.log(f"validation/{name}", value.float(), on_step=False, on_epoch=True, logger=False, **size)

    def _losses(self, batch: CellBatch, place: tuple[int, ...], step: int) -> dict[str, Tensor]:
        rows = Ragged(batch.offsets, self._sizes)
        generator = seeded(self.recipe.seed, *place, 0, device=batch.counts.device)
        return self.objective(self.network, batch, rows, generator, step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep whose state it is, and what was drawn."""
        checkpoint["run"], checkpoint["drawn"] = self.run, dict(self.drawn)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what was drawn.

        Raises
        ------
        CheckpointError
            When it is the state of another run.
        """
        if checkpoint.get("run") != self.run:
            remedy = "take the folder that was saved whole"
            raise CheckpointError("states", "the last one is of another run", remedy)
        self.drawn = dict(checkpoint["drawn"])

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW and a schedule that is a function of the step."""
        optimizer = make_optimizer((self.network, self.objective), self.recipe, fused=self.device.type == "cuda")
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.rate_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
