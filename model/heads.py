"""What is read off tokens: expression off gene tokens, classes off the codes of cell tokens.

The mean of a gene is its share of the context, a softmax, times a total that the caller asks for; so counts keep their
scale, and any depth can be asked. Depth enters once more as a feature, because shallow cells look different beyond
their scale. likelihoods.py and label_loss.py judge what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from .compression import exactly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .ragged import Ragged

LOG_THETA = (-9.0, 9.0)
"""Bounds of the log inverse dispersion: from far beyond any overdispersion to as good as Poisson."""


@dataclass(frozen=True, eq=False)
class ExpressionValues:
    """Predicted expression of each gene of a context, float32 [rows]."""

    mean: Tensor
    """Counts expected, without zero inflation; they add up to the total asked for in each cell."""
    theta: Tensor
    """Inverse dispersion, above 0."""
    zero_logit: Tensor
    """Logit of zero inflation."""

    @property
    def expected(self) -> Tensor:
        """Return the counts expected, zero inflation multiplied in."""
        return self.mean * torch.sigmoid(-self.zero_logit)


class ExpressionHead(nn.Module):
    """Reads expression off gene tokens.

    Parameters
    ----------
    width
        Features of a gene token.
    corrects
        It is told log shares, and begins with saying little else and next to no zero inflation.
    """

    def __init__(self, width: int, *, corrects: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width + 1, width), nn.LayerNorm(width), nn.GELU(),
            nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(),
            nn.Linear(width, 3),
        )  # fmt: skip
        if corrects:
            last = cast("nn.Linear", self.layers[-1])
            with torch.no_grad():
                last.weight.mul_(0.01)
                last.bias.copy_(torch.tensor([0.0, 1.0, -4.0]))

    def forward(
        self, x: Tensor, rows: Ragged, depth: Tensor, total: Tensor, told: Tensor | None = None
    ) -> ExpressionValues:
        """Return the expression.

        Parameters
        ----------
        x
            Gene tokens, [rows, width].
        rows
            Borders of the cells.
        depth
            All counts of the cell that is predicted, [cells]; enters as log2(1 + depth).
        total
            Counts of the context that is predicted, [cells].
        told
            Log shares that are added to, but for a constant of each cell, [rows]; None for none.
        """
        asked = rows.spread(torch.log2(1 + depth.to(x.dtype)))[:, None]
        share, theta, zero = exactly(self.layers[-1], self.layers[:-1](torch.cat([x, asked], 1))).T
        share = share if told is None else share + told
        mean = rows.softmax(share) * rows.spread(total.to(share.dtype))
        # A mean of exactly 0 has no likelihood for a count above it.
        return ExpressionValues(mean.clamp(min=1e-12), theta.clamp(*LOG_THETA).exp(), zero)


class LabelHeads(nn.Module):
    """Reads leaf logits of each label off its token's code; a label of fewer than two leaves has nothing to tell apart.

    Parameters
    ----------
    names, sizes
        Tokens in their order, and the dimensions of their codes.
    leaves
        Leaves of each label.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int], leaves: Mapping[str, int]) -> None:
        super().__init__()
        self.places = {name: place for place, name in enumerate(names) if leaves.get(name, 0) > 1}
        inner = 256  # scPRINT-2's
        self.read = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(sizes[place], inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, leaves[name])
                )
                for name, place in self.places.items()
            }
        )

    def forward(self, codes: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return leaf logits [cells, leaves] by label."""
        return {name: exactly(head[-1], head[:-1](codes[self.places[name]])) for name, head in self.read.items()}

    def inherit(self, older: LabelHeads, mixes: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take over the heads of a network of fewer leaves; one it had none of begins with every leaf alike.

        Parameters
        ----------
        older
            Whose weights are copied.
        mixes
            By label of `older`, how each leaf here follows from the leaves there: shares [leaves, leaves there] and
            what is added [leaves], so that new logits = shares @ old logits + added. A share of 1 copies to the bit.
        """
        with torch.no_grad():
            for name, head in self.read.items():
                last = cast("nn.Linear", head[-1])
                if name not in older.read:
                    last.weight.zero_()
                    last.bias.zero_()
                    continue
                former = older.read[name]
                for layer, before in zip(list(head)[:-1], list(former)[:-1], strict=True):
                    layer.load_state_dict(before.state_dict())
                shares, added = (part.to(last.weight) for part in mixes[name])
                weight, bias = (part.to(last.weight) for part in (former[-1].weight, former[-1].bias))
                last.weight.copy_(shares @ weight)
                last.bias.copy_(shares @ bias + added)
                here, there = (shares == 1).nonzero(as_tuple=True)
                last.weight[here] = weight[there]
                last.bias[here] = bias[there] + added[here]
