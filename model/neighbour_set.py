"""The set encoder over neighbouring cells: what up to six similar cells say of the same genes.

Each neighbour's count and distance go through one small network; the results are averaged by learned attention over
the neighbours that are there (Deep Sets, Zaheer et al. 2017, arXiv:1703.06114). Their order does not matter, and the
result has the same scale for one neighbour as for six, where scPRINT-2 adds them up with distances as they are. Without
a neighbour nothing is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .ragged import Ragged


class NeighbourSet(nn.Module):
    """Features of what the neighbours say, [rows, width].

    Parameters
    ----------
    width
        Features of a gene token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(2, width), nn.LayerNorm(width), nn.GELU())
        self.heed = nn.Linear(width, 1)
        self.out = nn.Linear(width, width)

    def forward(self, counts: Tensor, rows: Ragged, distances: Tensor) -> Tensor:
        """Return the features.

        Parameters
        ----------
        counts
            [slots, rows].
        rows
            Borders of the cells.
        distances
            [cells, slots], in units of the dataset's typical distance; infinite where a slot is empty.
        """
        there = torch.isfinite(distances)
        dtype = self.out.weight.dtype
        near = torch.where(there, torch.exp(-distances), 0).to(dtype)  # 1 for a twin, near 0 far away
        of_gene = rows.spread(near).T
        inner = self.each(torch.stack([torch.log2(1 + counts.to(dtype)), of_gene], -1))
        present = rows.spread(there).T[..., None]
        # Softmax over the slots that are there; a cell without any gets shares of 0, not of NaN.
        heed = self.heed(inner).masked_fill(~present, -torch.inf)
        strongest = heed.amax(0, keepdim=True).clamp(min=torch.finfo(heed.dtype).min)
        shares = (heed - strongest).exp()
        shares = shares / shares.sum(0, keepdim=True).clamp(min=torch.finfo(heed.dtype).tiny)
        return self.out((shares * inner).sum(0)) * present.any(0)
