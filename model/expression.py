"""How a gene's count becomes features: on a log scale, as a share of the context, both, or binned within the cell.

A measured zero is a count of 0 and has its own features; a gene that was not measured is not in the context at all; a
gene whose count a task hides shows a learned vector instead, which is neither. Hidden counts are taken out before any
total or rank is formed, so that nothing of them shows through another gene. neighbour_set.py adds what neighbouring
cells say of the same genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .neighbour_set import NeighbourSet

if TYPE_CHECKING:
    from .config import ExpressionConfig
    from .ragged import Ragged

PER = 1e4
"""Molecules that a context's shares are scaled to."""


class ExpressionEncoder(nn.Module):
    """Features of counts, [rows, width], to be added to the tokens that say which gene it is.

    Parameters
    ----------
    config
        Scale, bins and neighbours.
    width
        Features of a gene token.
    """

    def __init__(self, config: ExpressionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        if config.scale == "binned":
            self.own: nn.Module = nn.Embedding(config.bins + 1, width)
        else:
            features = 2 if config.scale == "both" else 1
            self.own = nn.Sequential(
                nn.Linear(features, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width)
            )
        self.hidden = nn.Parameter(torch.randn(width) * width**-0.5)
        self.neighbours = NeighbourSet(width) if config.neighbours else None

    def forward(
        self,
        counts: Tensor,
        rows: Ragged,
        *,
        hidden: Tensor | None = None,
        neighbour_counts: Tensor | None = None,
        neighbour_distances: Tensor | None = None,
        around_hidden: bool = True,
    ) -> Tensor:
        """Return the features.

        Parameters
        ----------
        counts
            Of the cells' contexts, [rows], 0 or more.
        rows
            Borders of the cells.
        hidden
            Bool [rows]: the count is not shown. None shows all.
        neighbour_counts, neighbour_distances
            What the neighbours have of the same genes, [slots, rows], and how far they are, [cells, slots], infinite
            where there is none. None for no neighbours.
        around_hidden
            Neighbours are read where the count is hidden, too.
        """
        shown = counts if hidden is None else counts.masked_fill(hidden, 0)
        out = self.own(self._scaled(shown, rows))
        if hidden is not None:
            out = torch.where(hidden[:, None], self.hidden.to(out.dtype), out)
        if self.neighbours is None or neighbour_counts is None or neighbour_distances is None:
            return out
        around = self.neighbours(neighbour_counts, rows, neighbour_distances)
        return out + (around if around_hidden or hidden is None else around.masked_fill(hidden[:, None], 0))

    def gate(self, counts: Tensor, rows: Ragged, hidden: Tensor | None = None) -> Tensor | float:
        """Return what tokens are multiplied by, [rows, 1]: 1 + log(1 + 10^4 share), 1 where nothing is shown.

        Added features leave it to attention to find out that a gene counts for more where it is expressed more; this
        says so from the first step (docs/decisions/0013).
        """
        if not self.config.gated:
            return 1.0
        shown = counts if hidden is None else counts.masked_fill(hidden, 0)
        return 1 + _log_shares(shown.to(next(self.own.parameters()).dtype), rows)[:, None]

    def _scaled(self, counts: Tensor, rows: Ragged) -> Tensor:
        """Return what the first layer takes: numbers [rows, features], or bins [rows]."""
        if self.config.scale == "binned":
            return quantile_bins(counts, rows, self.config.bins)
        dtype = next(self.own.parameters()).dtype
        parts = []
        if self.config.scale in ("log", "both"):
            parts.append(torch.log2(1 + counts.to(dtype)))
        if self.config.scale in ("sum", "both"):
            parts.append(_log_shares(counts.to(dtype), rows))
        return torch.stack(parts, 1)


def _log_shares(counts: Tensor, rows: Ragged) -> Tensor:
    """Return log(1 + 10^4 share of the context), [rows]."""
    return torch.log1p(PER * counts / rows.spread(rows.sum(counts).clamp(min=1)))


def quantile_bins(counts: Tensor, rows: Ragged, bins: int) -> Tensor:
    """Return each count's bin among its cell's expressed genes, int64 [rows]: 0 for a zero, else 1 to `bins`.

    A count's bin is 1 + floor(bins * s), s being the share of the cell's expressed genes with a smaller count; equal
    counts share a bin.
    """
    expressed = counts > 0
    padded = rows.pad(counts.masked_fill(~expressed, torch.inf), torch.inf)
    smaller = rows.unpad(torch.searchsorted(padded.sort(1).values, padded))
    among = rows.spread(rows.sum(expressed.to(torch.int64))).clamp(min=1)
    return torch.where(expressed, 1 + smaller * bins // among, 0)
