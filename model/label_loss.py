"""The label loss on the ontology graph: one softmax over the leaves, and every class the sum of its leaves.

A cell labelled `T cell` where `CD4 T cell` and `CD8 T cell` are classes too is one of the two, which one is unknown,
and is no `B cell`. So its loss is -log P(T cell), P(T cell) being the sum of its leaves' probabilities: ancestors are
positive and probabilities consistent up the graph by construction, descendants compete freely among themselves, and
everything else is negative. scPRINT-2's loss trains the descendants of a coarse label as positives (docs/model.md). The
classes are `ontology.LabelSpace`'s; a cell without a class, or of weight 0, teaches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .errors import ModelInputError

if TYPE_CHECKING:
    from ontology import LabelSpace


SMALLEST = 1e-30
"""Stands for 0 under a logarithm or a fraction; a normal number in float32."""


class LabelLoss(nn.Module):
    """Loss and probabilities of one label.

    Parameters
    ----------
    space
        Its classes.
    ancestors
        Weight of the mean of -log P(ancestor) over a class's ancestors in use: a near miss then costs less than a
        far one.
    """

    below: Tensor
    above: Tensor

    def __init__(self, space: LabelSpace, *, ancestors: float = 0.0) -> None:
        super().__init__()
        if ancestors < 0:
            raise ModelInputError("ancestors", ancestors, "0 or more")
        self.ancestors = ancestors
        # One more row, reached by the code -1: an unknown cell may be any leaf, which costs 0 and has no gradient.
        leaves = torch.ones(len(space) + 1, space.n_leaves, dtype=torch.bool)
        leaves[:-1] = torch.from_numpy(space.below)
        lines = torch.zeros(len(space) + 1, len(space))
        lines[:-1] = torch.from_numpy(space.above).float()
        lines /= lines.sum(1, keepdim=True).clamp(min=1)
        self.register_buffer("below", leaves, persistent=False)
        self.register_buffer("above", lines, persistent=False)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return P of every class, [cells, classes], from leaf logits [cells, leaves]."""
        return logits.float().softmax(-1) @ self.below[:-1].float().T

    def forward(self, logits: Tensor, codes: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of the cells that have a class, a scalar; 0 where none has.

        Parameters
        ----------
        logits
            Of the leaves, [cells, leaves].
        codes
            Class of each cell, -1 unknown, int64 [cells].
        weights
            Trust in each cell's label, 0 or more, such as less for labels given to whole studies.

        Raises
        ------
        ModelInputError
            When shapes do not fit.
        """
        expected = (len(codes), self.below.shape[1])
        if logits.shape != expected:
            raise ModelInputError("logits", tuple(logits.shape), f"{expected}, cells by leaves")
        shares = logits.float().log_softmax(-1)
        losses = -shares.masked_fill(~self.below[codes], -torch.inf).logsumexp(-1)
        if self.ancestors:
            certain = self.probabilities(logits).clamp(min=SMALLEST).log()
            losses = losses - self.ancestors * (self.above[codes] * certain).sum(-1)
        trust = (codes >= 0).float() if weights is None else weights * (codes >= 0)
        return (losses * trust).sum() / trust.sum().clamp(min=SMALLEST)
