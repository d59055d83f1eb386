"""Every choice of the network and its pre-training as data: `ModelConfig`, presets by size, JSON there and back.

One dial (`preset("small")`) derives the rest. A checkpoint carries its configuration; nothing else decides what is
built. Each field is one row of the additive study (docs/model.md says what each does and where it comes from).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ontology import LABELS

from .errors import ModelInputError

Size = Literal["tiny", "small", "medium", "large"]
COMPRESSED = {
    "cell_type": 64, "tissue": 32, "disease": 32, "development_stage": 8, "assay": 12, "self_reported_ethnicity": 8,
    "sex": 2, "organism": 8, "cell_culture": 2, "base": 64,
}  # fmt: skip
"""Dimensions each cell token is compressed to; scPRINT-2's, and a base token that does not go round the bottleneck."""
OWN_COMPRESSED = 32
"""Dimensions of the token of a label that is none of the nine, which fine-tuning adds."""
LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""What such a label may be called: it names weights, columns and arrays."""


@dataclass(frozen=True)
class TokenConfig:
    """Who a gene is: what its token is made of."""

    source: Literal["protein", "learned"] = "protein"
    """Protein vectors through a learned projection, or one free vector per gene."""
    adapter: bool = True
    """A small network on the projected protein vector, learned with the rest."""
    orthologs: bool = True
    """One vector per ortholog group, shared by its genes of all organisms, added to the token."""
    position: bool = True
    """Where the gene lies on its genome, as a sinusoid."""


@dataclass(frozen=True)
class ExpressionConfig:
    """How counts enter."""

    scale: Literal["log", "sum", "both", "binned"] = "log"
    """log2(1 + count); log of the count's share of the context; both side by side; or quantile bins of the cell."""
    bins: int = 50
    """Bins of `binned`."""
    neighbours: int = 6
    """Most neighbouring cells the set encoder reads; 0 builds none."""
    gated: bool = False
    """The token that says which gene it is grows with the gene's share of the context; False only adds features."""
    linear: int = 0
    """Numbers of the profile that goes the short way, past the trunk (linear_path.py); 0 builds none."""


@dataclass(frozen=True)
class TrunkConfig:
    """The transformer over genes."""

    width: int = 256
    """Features of a gene token."""
    layers: int = 8
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int = 4
    """Heads of keys and values; fewer than `heads` is grouped-query attention."""
    attention: Literal["exact", "criss-cross", "performer"] = "exact"
    """Kind of attention among genes."""
    latents: int = 200
    """Learned latents of `criss-cross`, or random features of `performer` per head."""
    mlp_ratio: float = 4.0
    """Width of a block's inner layer over its own."""
    dropout: float = 0.0
    """Share of features dropped in training; never in attention weights."""
    stochastic_depth: float = 0.0
    """Share of cells that skip the last block in training, rising linearly from none at the first."""
    prior: bool = False
    """Add a prior gene network to the attention logits of all blocks but the last; `exact` only."""
    checkpointing: bool = False
    """Recompute a block's activations in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class CellConfig:
    """XPressor: cell tokens that read the genes, and are read back."""

    width: int = 256
    """Features of a cell token."""
    layers: int = 6
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    labels: tuple[str, ...] = LABELS
    """Labels with a token of their own, besides the base token."""
    compression: Literal["vae", "fsq", "none"] = "vae"
    """How tokens are squeezed: Gaussian (tokens of fewer than 8 dimensions: quantised), all quantised, or not."""
    fsq_levels: int = 5
    """Levels per dimension of a quantised token."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: one weight per term, 0 leaves it out."""

    expression: Literal["zinb", "nb", "mse", "zinb+mse"] = "zinb+mse"
    """Likelihood of counts, and whether the squared error of log shares is added."""
    mse: float = 0.5
    """Weight of the squared error in `zinb+mse`; generation has none."""
    denoise: float = 1.0
    """Weight of each denoising pass."""
    generate: float = 1.0
    """Weight of generation from cell tokens alone."""
    labels: float = 6.0
    """Weight of the label losses, added up."""
    study_labels: float = 1.0
    """Weight of a label that was given to a whole study, beside one that was given to its cells."""
    independence: float = 0.3
    """Weight of the dissimilarity of a cell's tokens."""
    contrastive: float = 0.2
    """Weight of the agreement of two views of a cell."""
    elastic: float = 0.2
    """Weight of elastic cell similarity."""
    adversarial: float = 0.0
    """Weight of the assay and organism classifiers the cell-type token must defeat."""
    kl: float = 2e-4
    """Weight of the Gaussian tokens' divergence from the prior, after its warm-up."""
    kl_warm_up: int = 2_000
    """Steps over which `kl` rises from 0."""


@dataclass(frozen=True)
class TaskConfig:
    """What a step does with a batch."""

    noise: tuple[float, ...] = (0.8,)
    """One denoising pass each: the largest share of molecules thinned away; 1 leaves neighbours only."""
    random_noise: bool = True
    """Draw each cell's share between 0 and the largest."""
    masks: tuple[Literal["uniform", "tf"], ...] = ()
    """One masking pass each; `tf` spares transcription factors."""
    masked: float = 0.3
    """Share of the context hidden by a masking pass."""
    generate: bool = True
    """Decode expression from cell tokens alone."""


@dataclass(frozen=True)
class ModelConfig:
    """The whole of it."""

    tokens: TokenConfig = field(default_factory=TokenConfig)
    """Who a gene is."""
    expression: ExpressionConfig = field(default_factory=ExpressionConfig)
    """How counts enter."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """The transformer over genes."""
    cell: CellConfig = field(default_factory=CellConfig)
    """Cell tokens and their bottleneck."""
    losses: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    tasks: TaskConfig = field(default_factory=TaskConfig)
    """What a step does."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        trunk, cell = self.trunk, self.cell
        sizes = {f"trunk.{name}": getattr(trunk, name) for name in ("width", "heads", "kv_heads", "latents")}
        sizes |= {f"cell.{name}": getattr(cell, name) for name in ("width", "layers", "heads")}
        for name, size in sizes.items():
            if size < 1:
                raise ModelInputError(name, size, "1 or more")
        rules = (
            ("trunk.width", trunk.width, trunk.width % trunk.heads == 0, f"a multiple of {trunk.heads} heads"),
            ("trunk.kv_heads", trunk.kv_heads, trunk.heads % trunk.kv_heads == 0, f"a divisor of {trunk.heads}"),
            ("cell.width", cell.width, cell.width % cell.heads == 0, f"a multiple of {cell.heads} heads"),
            ("trunk.layers", trunk.layers, trunk.layers >= 1, "1 or more"),
            ("trunk.prior", trunk.prior, not trunk.prior or trunk.attention == "exact", "exact attention with it"),
            ("trunk.dropout", trunk.dropout, 0 <= trunk.dropout < 1, "0 up to 1"),
            ("trunk.stochastic_depth", trunk.stochastic_depth, 0 <= trunk.stochastic_depth < 1, "0 up to 1"),
            ("expression.neighbours", self.expression.neighbours, self.expression.neighbours >= 0, "0 or more"),
            ("expression.linear", self.expression.linear, self.expression.linear >= 0, "0 or more"),
            ("cell.labels", cell.labels, len(set(cell.labels)) == len(cell.labels), "each label once"),
            ("cell.labels", cell.labels, all(map(_may_be_label, cell.labels)), "letters, digits and _; not base"),
            ("tasks.noise", self.tasks.noise, all(0 < x <= 1 for x in self.tasks.noise), "above 0, at most 1"),
            ("tasks.masked", self.tasks.masked, 0 < self.tasks.masked < 1, "between 0 and 1"),
        )
        weights = [(f"losses.{one.name}", getattr(self.losses, one.name)) for one in fields(self.losses)]
        numbers = [(name, value) for name, value in weights if not isinstance(value, str)]
        rules += tuple((name, value, 0 <= value < math.inf, "a number of 0 or more") for name, value in numbers)
        for name, found, sound, allowed in rules:
            if not sound:
                raise ModelInputError(name, found, allowed)

    def changed(self, **parts: dict[str, Any]) -> ModelConfig:
        """Return a copy with fields of its parts changed: `config.changed(trunk={"attention": "criss-cross"})`."""
        try:
            return replace(self, **{name: replace(getattr(self, name), **new) for name, new in parts.items()})
        except (TypeError, AttributeError) as error:
            raise ModelInputError("changed", parts, f"fields of the configuration ({error})") from error

    def to_json(self) -> str:
        """Return the configuration as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Return the configuration that `to_json` wrote.

        Raises
        ------
        ModelInputError
            When the text is no JSON, or names or types are not a configuration's.
        """
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelInputError("config", text[:40], f"JSON ({error})") from error
        return read_config(cls, said, "config")


def _may_be_label(name: str) -> bool:
    return name != "base" and LABEL_NAME.fullmatch(name) is not None


def preset(size: Size = "small") -> ModelConfig:
    """Return the configuration of a size: `small` has the reference's 16-20 million parameters.

    Raises
    ------
    ModelInputError
        When there is no such size.
    """
    base = ModelConfig().changed(expression={"gated": True, "linear": 128})
    if size == "tiny":
        return base.changed(
            trunk={"width": 64, "layers": 2, "heads": 4, "kv_heads": 2},
            cell={"width": 64, "layers": 2},
            expression={"linear": 64},
        )
    if size == "small":
        return base
    if size == "medium":
        return base.changed(trunk={"width": 512, "layers": 16, "heads": 8}, cell={"width": 256, "layers": 6})
    if size == "large":
        trunk = {"width": 1_280, "layers": 30, "heads": 20, "kv_heads": 5, "checkpointing": True}
        return base.changed(trunk=trunk, cell={"width": 512, "layers": 6, "heads": 8})
    raise ModelInputError("size", size, ", ".join(get_args(Size)))


def read_config(kind: Any, said: Any, where: str) -> Any:
    """Return JSON values as a dataclass of choices, refusing what it does not have.

    Raises
    ------
    ModelInputError
        When names or types are not the dataclass's.
    """
    if not isinstance(said, dict):
        raise ModelInputError(where, said, "an object")
    types = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(said) - known):
        raise ModelInputError(where, unknown[0], f"one of {', '.join(sorted(known))}")
    return kind(**{name: _value(types[name], value, f"{where}.{name}") for name, value in said.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return one JSON value as its field's type."""
    if is_dataclass(kind):
        return read_config(kind, value, where)
    if get_origin(kind) is UnionType:  # a number or none
        return None if value is None else _value(get_args(kind)[0], value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ModelInputError(where, value, "a list")
        return tuple(_value(get_args(kind)[0], one, where) for one in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ModelInputError(where, value, " or ".join(map(str, get_args(kind))))
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ModelInputError(where, value, f"of type {kind.__name__}")
    return value
