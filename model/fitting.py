"""One leg of a run: Lightning's trainer put together from a recipe and a machine, and what came of it.

The one file besides training.py, throughput.py, guards.py and resume_state.py that knows Lightning; pretrain.py decides
what is trained and what is kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import signal
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from loaders import NO_CLASS, CellDataModule, DataOptions, LoaderOptions, SamplerConfig, make_sampler

from .errors import ModelInputError
from .guards import BestWeights, DivergenceGuard, LegOverError, StateKeeper, weights_of
from .ledger import Ledger, make_ledger
from .network import Network
from .objective import Objective
from .resume_state import ShardedState
from .sharding import FullySharded
from .throughput import Throughput
from .training import TrainingModule
from .tuning import freeze

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

    from loaders import Cells, Vocabulary

    from .checkpoint import TrainedModel
    from .recipe import Machine, Recipe
    from .tuning import Tuning


@dataclass(frozen=True, eq=False)
class Leg:
    """What came of it."""

    finished: bool
    """All steps are taken, or validation stopped getting better."""
    network: Network | None
    """With the best weights, on the first rank of a finished run."""
    ledger: Ledger
    """Cells drawn so far; made on the first rank of a finished run only."""
    facts: dict[str, Any]
    """Losses, speeds, device: JSON values."""


def fit(
    folder: Path,
    cells: Cells,
    first: TrainedModel,
    recipe: Recipe,
    machine: Machine,
    regulators: torch.Tensor | None,
) -> Leg:
    """Train from the last saved state, or from the first weights, until the steps or the minutes are over."""
    network, vocabulary = first.network.train(), first.vocabulary
    freeze(network, recipe.tuning.parts)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(recipe.seed)
        trust = label_trust(cells, vocabulary, first.config.losses.study_labels)
        batches = batches_of(cells, recipe.tuning)
        objective = Objective(first.config, network, vocabulary, regulators, trust, recipe.tuning, batches)
        module = TrainingModule(network, objective, recipe)
    module.run = hashlib.sha256(f"{first.digest} {cells.fingerprint} {recipe}".encode()).hexdigest()
    if machine.compile:
        network.trunk.compile(dynamic=True)
    device = _device(machine)
    data = CellDataModule(cells, vocabulary, recipe.data.plan, recipe.data.collate, _data_options(recipe, machine))
    watchers = {
        "guard": DivergenceGuard(machine.log_every),
        "best": BestWeights(folder / "best"),
        "throughput": Throughput(machine.log_every, machine.show),
        "keeper": StateKeeper(folder / "states", machine.save_every, machine.minutes),
    }
    states = sorted((folder / "states").glob("step-*"))
    over = False
    try:
        with _quiet(), _softly(watchers["keeper"]):
            trainer = make_trainer(folder, recipe, machine, device, list(watchers.values()))
            trainer.fit(module, datamodule=data, ckpt_path=str(states[-1]) if states else None)
            if 0 <= watchers["best"].looked < trainer.global_step:  # the last steps are judged like the others
                trainer.validate(module, datamodule=data, verbose=False)
    except LegOverError:
        if watchers["keeper"].stopped:
            raise KeyboardInterrupt from None
        over = True
    except SystemExit as error:  # Lightning turns Ctrl-C into an exit of its own
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    throughput, best = watchers["throughput"], watchers["best"]
    facts = _facts(trainer, throughput, best, device) | {
        "stopped_early": not over and trainer.global_step < recipe.steps
    }
    weights = {} if over else weights_of(trainer)
    if over or not trainer.is_global_zero:
        return Leg(not over, None, first.ledger, facts)
    if machine.strategy == "fsdp":  # which left a part of each weight in the network at hand
        with torch.random.fork_rng(devices=()):
            network = Network(first.config, vocabulary, first.table, network.prior)
    network.load_state_dict(best.load() if best.step >= 0 else weights)
    sampler = make_sampler(cells, recipe.data.plan, vocabulary)
    ledger = make_ledger(cells, sampler, module.drawn, recipe.data.plan, chosen=best.step >= 0)
    facts["draws"] = sum(module.drawn.values())
    return Leg(True, network.cpu().eval().requires_grad_(True), ledger, facts)


def check(cells: Cells, first: TrainedModel, recipe: Recipe, machine: Machine) -> None:
    """Refuse what no leg could be made of, before anything is written.

    Raises
    ------
    ModelInputError
        When this machine has no such device, or the network or the cells lack what is tuned.
    LeakageError
        When cells that are trained on are, or share donors with, held-out ones.
    LoaderInputError
        When the cells do not fit the recipe: none to draw, no such label, or fewer than a batch.
    """
    _device(machine)
    label_trust(cells, first.vocabulary, first.config.losses.study_labels)
    batches_of(cells, recipe.tuning)
    if missing := [label for label in recipe.tuning.labels if label not in first.network.labels.read]:
        told = ", ".join(first.network.labels.read) or "none"
        raise ModelInputError("tuning.labels", missing[0], f"labels the network tells two classes of: {told}")
    plan, collate = recipe.data.plan, recipe.data.collate
    options = _data_options(recipe, replace(machine, workers=0))
    data = CellDataModule(cells, first.vocabulary, plan, collate, options)
    data.prepare_data()
    data.val_dataloader()
    with torch.random.fork_rng(devices=()):  # an iteration draws a number
        next(iter(data.train_dataloader()))
    data.teardown("")


def label_trust(cells: Cells, vocabulary: Vocabulary, weight: float) -> torch.Tensor | None:
    """Return the weight of each dataset's labels, [datasets, labels]: less where a label is a whole study's.

    Raises
    ------
    ModelInputError
        When the cells do not tell such labels from others.
    """
    if weight == 1:
        return None
    scopes = cells.about.get("label_scopes")
    if scopes is None:
        raise ModelInputError("losses.study_labels", weight, "1; these cells do not tell labels of studies")
    out = torch.ones(len(cells.about["vocabulary"]["dataset"]), len(vocabulary.labels))
    for column, label in enumerate(vocabulary.labels):
        for dataset, scope in enumerate(scopes.get(label, ())):
            if scope == "study":
                out[dataset, column] = weight
    return out


def batches_of(cells: Cells, tuning: Tuning) -> torch.Tensor | None:
    """Return the batch of each cell as a code, -1 for none, int64 [cells]; None where batches are not compared.

    Raises
    ------
    ModelInputError
        When the cells have no such column, or one batch only.
    """
    if not tuning.mmd:
        return None
    if tuning.between not in cells.about["vocabulary"] or tuning.between not in cells.columns:
        known = [name for name in cells.about["vocabulary"] if name in cells.columns]
        raise ModelInputError("tuning.between", tuning.between, f"a column of the cells: {', '.join(sorted(known))}")
    codes = np.array(cells.column(tuning.between), dtype=np.int64)
    nothing = np.isin(np.array(cells.about["vocabulary"][tuning.between], dtype=str), sorted(NO_CLASS))
    codes[np.isin(codes, np.flatnonzero(nothing))] = -1
    if len(np.unique(codes[codes >= 0])) < 2:
        raise ModelInputError("tuning.between", tuning.between, "a column with two batches or more")
    return torch.from_numpy(codes)


def make_trainer(folder: Path, recipe: Recipe, machine: Machine, device: str, watchers: list[Callback]) -> Trainer:
    """Return Lightning's trainer for a leg; validation, saving and logging are the watchers'."""
    if recipe.patience and recipe.validate_every:
        # Ahead of the keeper: a state has to know what its validation said.
        watchers = [EarlyStopping("validation/loss", patience=recipe.patience, check_finite=False), *watchers]
    precision = {"cuda": "bf16-mixed"}.get(device, "32-true") if machine.precision == "auto" else machine.precision
    per_batch = recipe.batch_size * machine.devices
    return Trainer(
        accelerator=device,
        devices=machine.devices,
        strategy=_strategy(machine),
        precision=precision,
        max_steps=recipe.steps,
        max_epochs=-1,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip,
        val_check_interval=recipe.validate_every * recipe.accumulate or None,
        check_val_every_n_epoch=None,
        limit_val_batches=-(-recipe.validation_cells // per_batch) if recipe.validate_every else 0,
        num_sanity_val_steps=0,
        logger=_logger(folder, machine),
        callbacks=watchers,
        plugins=[ShardedState()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )


def _strategy(machine: Machine) -> str | FullySharded:
    if machine.strategy == "fsdp":
        return FullySharded(machine.devices)
    # A batch without neighbours, or without a label, leaves their parameters out.
    return "ddp_find_unused_parameters_true" if machine.devices > 1 else "auto"


def _data_options(recipe: Recipe, machine: Machine) -> DataOptions:
    return DataOptions(
        batch_size=recipe.batch_size,
        loader=LoaderOptions(workers=machine.workers),
        evaluation=SamplerConfig(kind="uniform", replacement=False, seed=recipe.seed),
        fill_on_device=machine.fill_on_device,
    )


def _device(machine: Machine) -> str:
    """Return cpu or cuda."""
    there = torch.cuda.is_available()
    if machine.device not in ("auto", "cpu", "cuda") or (machine.device == "cuda" and not there):
        raise ModelInputError(
            "device", machine.device, "auto, cpu or cuda" if there else "auto or cpu; there is no CUDA here"
        )
    return "cuda" if there and machine.device != "cpu" else "cpu"


def _logger(folder: Path, machine: Machine) -> Logger:
    """Return the log; every leg has a version of its own in it."""
    if machine.logger == "tensorboard":
        if not (importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX")):
            raise ModelInputError(
                "logger", "tensorboard", "csv, or tensorboard after `pip install panatlas[tensorboard]`"
            )
        return TensorBoardLogger(str(folder), name="log")
    return CSVLogger(str(folder), name="log")


def _facts(trainer: Trainer, throughput: Throughput, best: BestWeights, device: str) -> dict[str, Any]:
    """Return what the receipt says of the leg and of the run so far."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    some = max(1, min(10, len(throughput.first) // 2))  # so that those of a short run do not overlap
    losses = {"first": throughput.first[:some], "last": list(throughput.last)[-some:]}
    out: dict[str, Any] = {
        f"loss_{which}": sum(values) / len(values) if values else None for which, values in losses.items()
    }
    if best.step >= 0:
        out |= {"validation_loss": best.best, "validation_step": best.step}
    out |= {"steps": trainer.global_step, "device": name, "precision": str(trainer.precision)}
    out |= {"ranks": trainer.world_size, "cells_seen": int(throughput.sums["cells"])}
    return out | throughput.rates()


@contextmanager
def _softly(keeper: StateKeeper) -> Iterator[None]:
    """Let the first Ctrl-C wait for the step's end and a saved state; the second does not."""
    if threading.current_thread() is not threading.main_thread():  # only that one may say what a signal does
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if keeper.stopped:
            raise KeyboardInterrupt
        keeper.stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice from people: on worker counts, logging intervals, loggers, and loaders that resume.

    And leave Ctrl-C and torch's random numbers to the caller as they were: Lightning ends with the signal ignored.
    """
    log = logging.getLogger("lightning.pytorch")
    before, interrupt = log.level, signal.getsignal(signal.SIGINT)
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=gpus):
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            warnings.filterwarnings(
                "ignore", message="FSDP2-wrapped module .* view tensor"
            )  # nothing adds to it in place
            warnings.filterwarnings(
                "ignore", message=".*LeafSpec.*", category=FutureWarning
            )  # Lightning 2.6, torch 2.13
            yield
    finally:
        log.setLevel(before)
        if signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)
