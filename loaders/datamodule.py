"""`CellDataModule`: training, validation, test and prediction batches for Lightning, with an exact resume mid-epoch.

Lightning leaves a `CellLoader` as it is: it adds no sampler of its own, whatever `use_distributed_sampler` says; the
stream shares itself out. Its checkpoints hold the loader's state. What Lightning has to be told is in one place,
`_FitLoader`. The one file here that imports lightning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningDataModule

from .cells import SPLITS
from .collate import Collator
from .device import DeviceCollator
from .joint_labels import spans
from .leakage import refuse_leaks
from .loader import CellLoader, LoaderOptions
from .plan import SamplingPlan, make_sampler
from .record_batch import RecordBatch
from .sampler import SamplerConfig
from .stream import CellStream, StreamOptions
from .vocabulary import make_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from lightning.pytorch import Trainer

    from .cells import Cells
    from .collate import CollateConfig
    from .vocabulary import Vocabulary


@dataclass(frozen=True)
class DataOptions:
    """How a `CellDataModule` makes batches of what its plan draws."""

    batch_size: int = 128
    """Cells per batch and rank."""
    window: int = 4096
    """Draws planned and announced ahead, per worker."""
    loader: LoaderOptions = field(default_factory=LoaderOptions)
    """Workers and memory, of each of the loaders."""
    evaluation: SamplerConfig = field(default_factory=lambda: SamplerConfig(kind="sequential"))
    """The order in validation and test. They are always of epoch 0: the same cells, genes and draws every time."""
    refuse_leaks: bool = True
    """Prove, before the first batch, that training shares no cell and no donor with validation and test."""
    fill_on_device: bool = False
    """Send records and choose the genes on the GPU (device.py), which leaves little for a CPU to do."""


class CellDataModule(LightningDataModule):
    """Loaders of some cells, for `Trainer.fit(model, datamodule=...)`; with `ckpt_path` it goes on where it was.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData.
    vocabulary
        What tokens and label codes mean; None makes one of these cells.
    plan
        Which cells are trained on, and how often.
    collate
        Which genes a model is shown of a cell.
    options
        Batches, workers, and what is checked.
    cache
        Folder of the groups; None is the cache of this user's panatlas.
    """

    def __init__(
        self,
        cells: Cells,
        vocabulary: Vocabulary | None = None,
        plan: SamplingPlan | None = None,
        collate: CollateConfig | None = None,
        options: DataOptions | None = None,
        *,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.cells, self.vocabulary, self.cache = cells, vocabulary or make_vocabulary(cells), cache
        self.plan, self.options = plan or SamplingPlan(), options or DataOptions()
        self._collator = Collator(self.vocabulary, cells, collate)
        self._fillers: dict[torch.device, DeviceCollator] = {}
        self._loaders: dict[str, CellLoader] = {}

    def prepare_data(self) -> None:
        """Prove that nothing leaks and make the groups, in one process per machine before the others go on."""
        held_out = tuple(split for split in SPLITS if split not in self.plan.splits and self._has(split))
        if self.options.refuse_leaks and held_out:
            refuse_leaks(self.cells, self.cells, first_splits=self.plan.splits, second_splits=held_out)
        make_sampler(self.cells, self.plan, self.vocabulary, self.cache)

    def train_dataloader(self) -> CellLoader:
        """Return the training batches of this rank."""
        stream, options = self._stream(self.plan, whole=True), self.options.loader
        loader = _FitLoader(stream, options, self.trainer) if self.trainer else CellLoader(stream, options)
        return self._kept("train", loader)

    def val_dataloader(self) -> CellLoader | list[CellLoader]:
        """Return the cells of the split `validation`, each once over all ranks; nothing where there are none."""
        return self._held_out("validation")

    def test_dataloader(self) -> CellLoader | list[CellLoader]:
        """Return the cells of the split `test`, each once over all ranks; nothing where there are none."""
        return self._held_out("test")

    def predict_dataloader(self) -> CellLoader:
        """Return all cells of the plan's organisms in order, each once over all ranks; `position` says which."""
        plan = replace(self.plan, splits=SPLITS, config=SamplerConfig(kind="sequential"), expressed_weights=False)
        return self._kept("predict", CellLoader(self._stream(plan, whole=False), self.options.loader))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch without waiting for it, which page-locked memory allows."""
        if isinstance(batch, RecordBatch):
            if device not in self._fillers:
                self._fillers[device] = DeviceCollator(self._collator, device)
            return self._fillers[device].fill(batch)
        return batch.to(device, non_blocking=True)

    def teardown(self, stage: str) -> None:
        """Stop all workers."""
        while self._loaders:
            self._loaders.popitem()[1].close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop all workers."""
        self.teardown("")

    def _held_out(self, split: str) -> CellLoader | list[CellLoader]:
        if split in self.plan.splits or not self._has(split):
            return []
        plan = replace(self.plan, splits=(split,), config=self.options.evaluation, expressed_weights=False)
        return self._kept(split, CellLoader(self._stream(plan, whole=False), self.options.loader))

    def _has(self, split: str) -> bool:
        code = SPLITS.index(split)
        return any((self.cells.codes("split", np.arange(*span)) == code).any() for span in spans(len(self.cells)))

    def _stream(self, plan: SamplingPlan, *, whole: bool) -> CellStream:
        """Return this rank's part of what a plan draws."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        options = StreamOptions(
            batch_size=self.options.batch_size,
            window=self.options.window,
            neighbours=self._collator.config.neighbours,
            whole=whole,
            rank=rank,
            ranks=ranks,
        )
        sampler = make_sampler(self.cells, plan, self.vocabulary, self.cache)
        collate = self._collator.gather if self.options.fill_on_device else self._collator.collate
        return CellStream(self.cells, sampler, collate, options)

    def _kept(self, name: str, loader: CellLoader) -> CellLoader:
        """Return a loader that is closed when training ends, or when the next of its name is asked for."""
        if name in self._loaders:
            self._loaders[name].close()
        self._loaders[name] = loader
        return loader


class _FitLoader(CellLoader):
    """A loader that keeps in step with a trainer's own count of epochs and batches.

    Parameters
    ----------
    stream, options
        As of a `CellLoader`.
    trainer
        Whose epochs and batches they are.
    """

    def __init__(self, stream: CellStream, options: LoaderOptions, trainer: Trainer) -> None:
        super().__init__(stream, options)
        self._trainer = trainer

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the trainer's epoch, asked for when the first of them is."""
        # Lightning calls set_epoch with the epochs it has processed, and after a resume at the end of one with
        # max_steps that is one too many; current_epoch is right.
        self.set_epoch(self._trainer.current_epoch)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch whose step ended: an interrupted step is taken again."""
        progress = self._trainer.fit_loop.epoch_loop.batch_progress.current
        return super().state_dict() if progress.processed == progress.ready else self._state_before()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where a saved one stood, and let the trainer count what is left from there."""
        super().load_state_dict(state)
        # Lightning counts batches of one rank; with another number of ranks the same position is another count.
        progress = self._trainer.fit_loop.epoch_loop.batch_progress
        left = len(self.stream.shares(self._position))
        moved = len(self) - left - progress.current.processed
        if moved:
            for name in ("ready", "started", "processed", "completed"):
                setattr(progress.current, name, getattr(progress.current, name) + moved)
            progress.is_last_batch = not left
