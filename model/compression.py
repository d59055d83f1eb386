"""The bottleneck: each cell token is squeezed to a few numbers and restored from nothing else.

Tokens of 8 and more dimensions become Gaussian (a variational autoencoder, Kingma and Welling 2014, arXiv:1312.6114),
smaller ones are quantised (FSQ, Mentzer et al. 2023, arXiv:2309.15505), or all are quantised, or none is squeezed. The
code is what is exported, classified and decoded: the mean, or the quantised numbers. The base token is squeezed like
the others, so nothing goes round the bottleneck. Only training draws at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .config import COMPRESSED, OWN_COMPRESSED
from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import CellConfig

INNER = 128
"""Width between a token and its code."""
LEAST_GAUSSIAN = 8
"""Dimensions from which a token of `vae` is Gaussian."""
LOG_VARIANCE = (-10.0, 10.0)
"""Bounds of the Gaussians' log variance."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """Cell tokens after the bottleneck."""

    codes: tuple[Tensor, ...]
    """Per token, [cells, its dimensions]: what is exported and classified; deterministic."""
    restored: Tensor
    """Tokens made from the codes, or in training from draws around them, [cells, tokens, width]."""
    kl: Tensor
    """Divergence of the Gaussians from the standard normal, per cell, [cells]."""


class Gaussian(nn.Module):
    """Mean and variance out of a token; KL = -1/2 sum(1 + log s^2 - m^2 - s^2)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.squeeze = _layers(width, INNER)
        self.mean, self.log_variance = nn.Linear(INNER, size), nn.Linear(INNER, size)

    def forward(self, token: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the code, what the decoder gets, and the divergence per cell."""
        inner = self.squeeze(token)
        mean, log_variance = exactly(self.mean, inner), exactly(self.log_variance, inner).clamp(*LOG_VARIANCE)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp() if sample else mean
        return mean, drawn, kl


class Quantised(nn.Module):
    """A few levels per dimension, from -1 to 1; gradients pass through the rounding unchanged."""

    def __init__(self, width: int, size: int, levels: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(_layers(width, INNER), nn.Linear(INNER, size))
        self.levels = levels

    def forward(self, token: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the code twice, and no divergence."""
        code = quantise(exactly(self.squeeze[1], self.squeeze[0](token)), self.levels)
        return code, code, code.new_zeros(len(code))


def quantise(x: Tensor, levels: int) -> Tensor:
    """Return `x` squashed by tanh and rounded to `levels` values, evenly spaced from -1 to 1."""
    squashed = (x.tanh() + 1) / 2 * (levels - 1)
    rounded = squashed + (squashed.round() - squashed).detach()
    return rounded / (levels - 1) * 2 - 1


class Plain(nn.Module):
    """No squeezing."""

    def forward(self, token: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the token twice, and no divergence."""
        return token, token, token.new_zeros(len(token))


class Compressor(nn.Module):
    """Squeezes and restores cell tokens.

    Parameters
    ----------
    config
        Its choices.
    names
        The tokens in their order: `CellReader.names`.

    Raises
    ------
    ModelInputError
        When `fsq_levels` is below 2.
    """

    def __init__(self, config: CellConfig, names: Sequence[str]) -> None:
        super().__init__()
        if config.fsq_levels < 2:
            raise ModelInputError("fsq_levels", config.fsq_levels, "2 or more")
        kept = config.compression == "none"
        self.sizes = tuple(config.width if kept else COMPRESSED.get(name, OWN_COMPRESSED) for name in names)
        self.into = nn.ModuleList(_squeezer(config, size) for size in self.sizes)
        self.back = nn.ModuleList(
            nn.Identity() if kept else nn.Sequential(_layers(size, INNER), nn.Linear(INNER, config.width))
            for size in self.sizes
        )

    def forward(self, tokens: Tensor, *, sample: bool) -> Compressed:
        """Return codes, restored tokens and divergence of tokens [cells, tokens, width]; `sample` only in training."""
        found = [squeeze(tokens[:, i], sample) for i, squeeze in enumerate(self.into)]
        codes, drawn, kls = zip(*found, strict=True)
        return Compressed(codes, self.restore(drawn), torch.stack(kls).sum(0))

    def restore(self, codes: Sequence[Tensor]) -> Tensor:
        """Return tokens made from codes, such as swapped ones, [cells, tokens, width]."""
        return torch.stack([back(code) for back, code in zip(self.back, codes, strict=True)], 1)


def _squeezer(config: CellConfig, size: int) -> nn.Module:
    if config.compression == "none":
        return Plain()
    if config.compression == "vae" and size >= LEAST_GAUSSIAN:
        return Gaussian(config.width, size)
    return Quantised(config.width, size, config.fsq_levels)


def _layers(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.LayerNorm(inner), nn.GELU())


def exactly(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what a linear layer makes of x in its weights' own precision: codes and logits keep their digits.

    Under autocast the layer would round them to bfloat16, whatever is made of its result.
    """
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(layer.weight.dtype))
