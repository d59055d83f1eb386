"""What a fine-tuning changes of a trained network, and what it asks for besides its losses: `Tuning`, part of a recipe.

`cells` is XPEFT (scPRINT-2): what reads genes into cell tokens, squeezes and classifies them, and lets genes read them
back is trained; gene tokens, the trunk and the expression head stay, and with them everything that is read off the
genes, to the bit. `all` trains every weight, as pre-training does. fitting.py freezes, objective.py takes the losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import ModelInputError

if TYPE_CHECKING:
    from torch import nn

    from .network import Network

CELL_PARTS = ("reader", "compressor", "labels")
"""Modules of the network that make cell tokens and what is told of them."""
OF_PROFILE = ("norm", "into", "back")
"""Modules of the linear path behind its vectors of genes."""
READING_BACK = ("read_cells", "norm_cells", "norm_read")
"""Modules of a block of the trunk by which genes read cell tokens; encoding does not pass through them."""


@dataclass(frozen=True)
class Tuning:
    """What is trained, and for what; the default is all of pre-training."""

    parts: Literal["all", "cells"] = "all"
    """Every weight, or those of cell tokens alone; with these nothing is denoised, as it would teach nothing."""
    labels: tuple[str, ...] = ()
    """Labels whose losses are taken; none for all."""
    mmd: float = 0.0
    """Weight of the discrepancy between batches (mmd.py); 0 leaves it out."""
    between: str = "dataset"
    """Column of the cells that says which batch they are of."""
    within: str = "cell_type"
    """Label whose classes are compared between batches, each with itself; its token's code is what is integrated."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.parts not in (allowed := ("all", "cells")):
            raise ModelInputError("parts", self.parts, ", ".join(allowed))
        if not (self.mmd >= 0 and math.isfinite(self.mmd)):
            raise ModelInputError("mmd", self.mmd, "0 or more")


def tuned_modules(network: Network, parts: str) -> list[nn.Module]:
    """Return the modules that a fine-tuning of `parts` changes."""
    if parts == "all":
        return [network]
    blocks = [getattr(block, name) for block in network.trunk.blocks for name in READING_BACK]
    short = [] if network.linear is None else [getattr(network.linear, name) for name in OF_PROFILE]
    return [*(getattr(network, name) for name in CELL_PARTS), *blocks, *short]


def freeze(network: Network, parts: str) -> None:
    """Take gradients of the weights that are tuned, and of no others."""
    network.requires_grad_(False)
    for module in tuned_modules(network, parts):
        module.requires_grad_(True)


def count_weights(network: Network, parts: str) -> dict[str, int]:
    """Return how many weights of each part of the network are tuned, by name; and of all as `tuned` and `all`.

    A weight that several modules share is counted once.
    """
    mine = {id(weights) for module in tuned_modules(network, parts) for weights in module.parameters()}
    counts: dict[str, int] = {}
    for name, weights in network.named_parameters():
        part = name.split(".", 1)[0]
        counts[part] = counts.get(part, 0) + (weights.numel() if id(weights) in mine else 0)
    whole = sum(weights.numel() for weights in network.parameters())
    return {**counts, "tuned": sum(counts.values()), "all": whole}
