"""The opponent: a classifier that guesses what a token should not know, and a token trained to defeat it.

Gradient reversal (Ganin et al. 2016, arXiv:1505.07818): forward the identity, backward the gradient times -strength.
One loss trains both sides; it is left out of validation, where there is nothing to defeat.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Reverse(torch.autograd.Function):
    """The identity, with its gradient turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """Return `x`; gradients come back multiplied by -strength."""
    return _Reverse.apply(x, strength)


class Adversary(nn.Module):
    """Guesses classes from a token that is trained against it.

    Parameters
    ----------
    width
        Features of the token.
    n_classes
        Classes to guess, such as assays or organisms.
    strength
        How hard the token is pushed.
    """

    def __init__(self, width: int, n_classes: int, *, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength
        self.guess = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, n_classes))

    def forward(self, token: Tensor, codes: Tensor) -> Tensor:
        """Return the cross-entropy of the guesses over cells that have a class, a scalar; 0 where none has.

        Parameters
        ----------
        token
            [cells, width].
        codes
            Class of each cell, -1 unknown, int64 [cells].
        """
        logits = self.guess(reverse_gradient(token, self.strength)).float()
        known = (codes >= 0).sum().clamp(min=1)
        return functional.cross_entropy(logits, codes, ignore_index=-1, reduction="sum") / known
