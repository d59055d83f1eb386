"""How a network is trained, as data: `Recipe` decides the weights, `Machine` only where and how fast they are made.

Two runs with equal recipe, network and cells have equal weights on one kind of machine, whatever `Machine` says of
workers, legs and logs. `recipe_for` has what suits each size; run.json in a run's folder has what was used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from loaders import CollateConfig, SamplerConfig, SamplingPlan

from .errors import ModelInputError
from .linear_path import LinearPath
from .tuning import Tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from .config import ModelConfig, Size


@dataclass(frozen=True)
class DataRecipe:
    """Which cells a run draws, and which of their genes a model is shown."""

    plan: SamplingPlan = field(
        default_factory=lambda: SamplingPlan(config=SamplerConfig(kind="balanced"), ontology_aware=False)
    )
    """Cells: levelled over joint labels, with replacement. A label that is unknown is a class like others: where most
    cells have none, they would come most of the time (docs/decisions/0014)."""
    collate: CollateConfig = field(
        default_factory=lambda: CollateConfig(
            from_all=0.2, shorter_probability=0.2, shortest=800, fewer_neighbours=True
        )
    )
    """Genes: four fifths random expressed ones, the others whichever the dataset measured; a fifth of the batches
    shorter, up to six neighbours."""


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, besides the network and the cells."""

    steps: int = 10_000
    """Steps of the optimiser."""
    batch_size: int = 64
    """Cells per batch and rank."""
    accumulate: int = 1
    """Batches per step."""
    learning_rate: float = 1e-3
    """The highest."""
    linear_rate: float = 10.0
    """Learning rate of the linear path over that of all else."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls after the warm-up; a function of the step alone, so all ranks agree."""
    warm_up: int = 500
    """Steps over which it rises from 0; at most a tenth of all."""
    final: float = 0.05
    """Share of the learning rate at the last step."""
    weight_decay: float = 0.01
    """AdamW's, on matrices; not on norms, biases and embeddings."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Of first weights, order, thinning, masking and codes."""
    validate_every: int = 500
    """Steps between validations on held-out cells; 0 for none."""
    validation_cells: int = 2_048
    """Held-out cells of a validation, drawn once, alike."""
    patience: int = 0
    """Validations without a better loss after which training ends; 0 goes on to the last step."""
    data: DataRecipe = field(default_factory=DataRecipe)
    """Which cells and genes."""
    tuning: Tuning = field(default_factory=Tuning)
    """Which weights are trained, and what for; pre-training trains all of them for all there is."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ModelInputError(name, getattr(self, name), "1 or more")
        for name in ("warm_up", "validate_every", "validation_cells", "patience"):
            if getattr(self, name) < 0:
                raise ModelInputError(name, getattr(self, name), "0 or more")
        for name in ("learning_rate", "linear_rate", "clip"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ModelInputError(name, getattr(self, name), "a number above 0")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ModelInputError("weight_decay", self.weight_decay, "0 or more")
        if self.schedule not in (allowed := ("cosine", "linear", "constant")):
            raise ModelInputError("schedule", self.schedule, ", ".join(allowed))
        if not 0 <= self.final <= 1:
            raise ModelInputError("final", self.final, "a share from 0 to 1")

    def rate_at(self, step: int) -> float:
        """Return the share of the learning rate at a step: up in a line, then down as the schedule says."""
        rise = min(self.warm_up, self.steps // 10)
        if step < rise:
            return (step + 1) / rise
        done = min(1.0, (step - rise) / max(1, self.steps - 1 - rise))
        fall = {"constant": 0.0, "linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2}[self.schedule]
        return 1 - (1 - self.final) * fall


@dataclass(frozen=True)
class Machine:
    """Where a run is made; none of it changes the weights but for `precision`, `devices`, `strategy` and `compile`."""

    device: str = "auto"
    """cpu, cuda, or whichever there is."""
    devices: int = 1
    """Ranks on this machine."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How ranks share the work: each with the whole network, or each with a part of every weight."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """bf16 on a GPU, float32 on a CPU."""
    compile: bool = False
    """torch.compile for the trunk."""
    workers: int = 0
    """Processes that make batches, per rank."""
    fill_on_device: bool = False
    """Choose genes on the GPU."""
    minutes: float = 0.0
    """Time after which this leg stops at the next step, its state saved; 0 for none."""
    save_every: int = 500
    """Steps between saved states; two are kept."""
    log_every: int = 10
    """Steps between rows of the log."""
    logger: Literal["csv", "tensorboard"] = "csv"
    """Where rows go; tensorboard has to be installed."""
    show: Callable[[dict[str, float]], None] | None = None
    """Called with each row: step, steps, loss, its terms, cells_per_s, data_wait, and more."""

    def __post_init__(self) -> None:
        """Refuse what no machine can do."""
        for name, least in (("devices", 1), ("save_every", 1), ("log_every", 1), ("workers", 0), ("minutes", 0)):
            if not getattr(self, name) >= least:
                raise ModelInputError(name, getattr(self, name), f"{least} or more")
        if self.strategy not in ("ddp", "fsdp") or (self.strategy == "fsdp" and self.devices == 1):
            raise ModelInputError("strategy", self.strategy, "ddp, or fsdp with 2 devices or more")


RATES: dict[str, tuple[float, int, float]] = {
    "tiny": (5e-4, 200, 0.01), "small": (5e-4, 500, 0.01), "medium": (2e-4, 2_000, 0.1), "large": (5e-5, 4_000, 0.1),
}  # fmt: skip
"""Learning rate, warm-up and weight decay by size; warm-up and decay are scPRINT-2's, the rates of tiny and small are
our own, from runs (benchmarks/pretrain.py)."""


def recipe_for(size: Size) -> Recipe:
    """Return the recipe that suits a size.

    Raises
    ------
    ModelInputError
        When there is no such size.
    """
    if size not in RATES:
        raise ModelInputError("size", size, ", ".join(RATES))
    rate, warm_up, decay = RATES[size]
    return Recipe(learning_rate=rate, warm_up=warm_up, weight_decay=decay)


def make_optimizer(modules: Iterable[nn.Module], recipe: Recipe, *, fused: bool = False) -> torch.optim.AdamW:
    """Return AdamW over the parameters of modules; only matrices of linear layers decay, and none of the linear path.

    Loshchilov and Hutter 2019. Embeddings do not decay: a row that is not drawn would shrink all the same. Nor do
    the tokens that cells and latents begin with, which are embeddings of one row each.
    """
    decayed, free, short, seen = [], [], [], set()
    for module in modules:
        paths = [one for one in module.modules() if isinstance(one, LinearPath)]
        linear = {id(parameter) for path in paths for parameter in path.parameters()}
        matrices = {id(one.weight) for one in module.modules() if isinstance(one, torch.nn.Linear)}
        for parameter in module.parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                kinds = (short, id(parameter) in linear), (decayed, id(parameter) in matrices), (free, True)
                next(kind for kind, mine in kinds if mine).append(parameter)
    fast = {"params": short, "weight_decay": 0.0, "lr": recipe.learning_rate * recipe.linear_rate}
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}, fast]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-8,
        fused=fused,
    )


def fitted(recipe: Recipe, config: ModelConfig) -> Recipe:
    """Return the recipe with no more neighbours than a network reads: others would only cost time."""
    collate = recipe.data.collate
    some = min(collate.neighbours, config.expression.neighbours)
    chosen = replace(collate, neighbours=some, fewer_neighbours=collate.fewer_neighbours and some > 0)
    return replace(recipe, data=replace(recipe.data, collate=chosen))
