"""`CellDataModule`: training, validation, test and prediction batches for Lightning, with an exact resume mid-epoch.

Lightning leaves a `CellLoader` as it is: it adds no sampler of its own, whatever `use_distributed_sampler` says; the
stream shares itself out. Its checkpoints hold the loader's state, the vocabulary and the collation. What Lightning has
to be told is in one place, `_FitLoader` and `_correct_progress`. The one file here that imports lightning.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from .cell_vocabulary import make_vocabulary
from .cells import SPLITS
from .collate import Collator
from .device import DeviceCollator
from .errors import LoaderInputError, StateMismatchError
from .joint_labels import spans
from .leakage import refuse_leaks
from .loader import CellLoader, LoaderOptions
from .plan import SamplingPlan, make_sampler
from .record_batch import RecordBatch
from .sampler import SamplerConfig
from .stream import CellStream, StreamOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from lightning.pytorch import Trainer

    from .cells import Cells
    from .collate import CollateConfig
    from .vocabulary import Vocabulary

log = logging.getLogger(__name__)


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
    accept_changes: bool = False
    """Take up a checkpoint although it was saved with another vocabulary or collation; its tokens may mean others."""


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

    Raises
    ------
    LoaderInputError
        When the collation names genes that the vocabulary lacks, or zeros of neighbours are asked for on a device.
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
        if self.options.fill_on_device and self._collator.config.zeros == "neighbours":
            raise LoaderInputError("zeros", "neighbours", "random or none where fill_on_device is set")
        self._fillers: dict[torch.device, DeviceCollator] = {}
        self._loaders: dict[str, CellLoader] = {}

    def prepare_data(self) -> None:
        """Prove that nothing leaks and make the groups, in one process per machine before the others go on.

        Who only predicts needs neither: nothing is trained, and nothing is judged.
        """
        if self.trainer and self.trainer.state.fn == TrainerFn.PREDICTING:
            return
        held_out = tuple(split for split in SPLITS if split not in self.plan.splits and self._has(split))
        if self.options.refuse_leaks and held_out:
            sides = {"first_splits": self.plan.splits, "second_splits": held_out}
            for leak in refuse_leaks(self.cells, self.cells, **sides, organisms=self.plan.organisms):
                log.warning("not refused: %s", leak)
        make_sampler(self.cells, self.plan, self.vocabulary, self.cache)

    def state_dict(self) -> dict[str, str]:
        """Return what a checkpoint keeps of the data: the vocabulary, its digest, and the collation, as JSON."""
        said = json.dumps(asdict(self._collator.config), default=methodcaller("item"))
        return {"vocabulary_digest": self.vocabulary.digest, "vocabulary": self.vocabulary.to_json(), "collate": said}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Compare what a checkpoint was saved with; where the loader stood Lightning tells the loader.

        Raises
        ------
        StateMismatchError
            When the vocabulary is another one, or training is to go on with another collation.
        """
        if self.options.accept_changes:
            return
        saved, here = state["vocabulary_digest"], self.vocabulary.digest
        if saved != here:
            remedy = (
                f"pass Vocabulary.from_json(torch.load(path)[{type(self).__qualname__!r}]['vocabulary']), "
                "set DataOptions(accept_changes=True)"
            )
            raise StateMismatchError(saved[:12], here[:12], "vocabulary", remedy)
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            before, now = json.loads(state["collate"]), json.loads(self.state_dict()["collate"])
            other = [name for name in now if before.get(name, now[name]) != now[name]]
            if other:
                was, is_ = (", ".join(f"{name}={one.get(name)!r:.80}" for name in other) for one in (before, now))
                remedy = "restore the CollateConfig it was saved with, set DataOptions(accept_changes=True)"
                raise StateMismatchError(was, is_, "collation", remedy)

    def train_dataloader(self) -> CellLoader:
        """Return the training batches of this rank."""
        stream, options = self._stream(self.plan, whole=True), self.options.loader
        if self.trainer:
            _correct_progress(self.trainer)
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
        return self._kept("predict", _SameLoader(self._stream(plan, whole=False), self.options.loader))

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
        return self._kept(split, _SameLoader(self._stream(plan, whole=False), self.options.loader))

    def _has(self, split: str) -> bool:
        code = SPLITS.index(split)
        return any((self.cells.codes("split", np.arange(*span)) == code).any() for span in spans(len(self.cells)))

    def _stream(self, plan: SamplingPlan, *, whole: bool) -> CellStream:
        """Return this rank's part of what a plan draws."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        options = StreamOptions(
            batch_size=self.options.batch_size,
            window=self.options.window,
            neighbours=self._collator.reach,
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


class _SameLoader(CellLoader):
    """A loader whose every iteration is of epoch 0."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of epoch 0."""
        self.set_epoch(0)
        yield from super().__iter__()


def _correct_progress(trainer: Trainer) -> None:
    """Let a trainer that resumes go on where its checkpoint's batches end, before it asks a loader to."""
    loop = trainer.fit_loop
    epochs, batches = loop.epoch_progress, loop.epoch_loop.batch_progress
    now = epochs.current
    if not (loop.is_resuming and batches.current.processed and now.processed == now.started == now.ready):
        return
    if not batches.is_last_batch:
        # Lightning counts an epoch that max_steps or a callback cut off as processed, and would begin the next one.
        for count in (epochs.total, epochs.current):
            count.processed = count.completed = count.started - 1
        loop.restarting = True
    else:
        # With max_steps Lightning takes an epoch that is over for one to go on with, and skips the next.
        loop._restarting = loop.epoch_loop.restarting = False


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
