"""The short way through the network: what a linear model makes of a cell, for the rest of the network to better.

`profile` adds up vectors of expressed genes by how far each gene's level is from the mean of the training cells; a
linear map of it is added to the cell tokens. `smoothed` is a cell's counts mixed with its neighbours' and the gene
means, `told` the gene means moved by what the cell tokens say; both are log shares that the expression head adds to.
Without these, a small network needs its whole budget to find what principal components and kNN smoothing have at once
(docs/decisions/0014). Genes of an ortholog group share a vector, so other organisms are read alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .token_table import BUCKETS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .ragged import Ragged
    from .token_table import TokenTable
    from .views import View

PER = 1e4
"""Counts a cell is scaled to."""
NEIGHBOURS, MEANS = 500.0, 100.0
"""Counts that neighbours and gene means weigh in `smoothed` before training."""


class LinearPath(nn.Module):
    """Linear maps of a cell's profile, and what is known of its genes without a network.

    Parameters
    ----------
    width
        Numbers of a profile.
    table
        What is known of each gene.
    n_tokens, cell_width
        Cell tokens, and features of each.
    """

    place: Tensor
    level: Tensor
    share: Tensor

    def __init__(self, width: int, table: TokenTable, n_tokens: int, cell_width: int) -> None:
        super().__init__()
        self.seats = n_tokens, cell_width
        self.vectors = nn.Embedding(len(table.groups) + BUCKETS, width)
        nn.init.normal_(self.vectors.weight, std=0.1)
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, n_tokens * cell_width)
        self.back = nn.Linear(n_tokens * cell_width, width)
        self.weights = nn.Parameter(torch.tensor([NEIGHBOURS, MEANS]).log())
        self.register_buffer("place", torch.from_numpy(vector_places(table)), persistent=False)
        self.register_buffer("level", torch.zeros(len(table)))
        self.register_buffer("share", torch.zeros(len(table)))

    def profile(self, view: View) -> Tensor:
        """Return what the expressed genes that are shown add up to, [cells, width]."""
        with torch.autocast(view.counts.device.type, enabled=False):
            genes, rows = view.genes.long(), view.rows
            level = torch.log1p(PER * view.counts / rows.spread(view.depth.clamp(min=1).to(view.counts.dtype)))
            beyond = level.to(self.level.dtype) - self.level[genes]
            # How many zeros a context has is no matter of the cell, but of its length and the cell's depth.
            shown = view.counts > 0 if view.hidden is None else (view.counts > 0) & ~view.hidden
            numbers = rows.sum(shown.to(beyond.dtype)).clamp(min=1).sqrt()
            return self.norm(rows.sum((beyond * shown)[:, None] * self.vectors(self.place[genes])) / numbers[:, None])

    def tokens(self, profile: Tensor) -> Tensor:
        """Return what is added to cell tokens, [cells, tokens, cell width]."""
        return self.into(profile).unflatten(1, self.seats)

    def smoothed(self, view: View) -> Tensor:
        """Return log shares of the context from the counts that are shown, the neighbours' and the means, [rows].

        Counts of the neighbours weigh as one count of the cell does until there are `NEIGHBOURS` of them, the gene
        means as much as `MEANS`; both are learnt. A gene that is hidden is told by these alone.
        """
        with torch.autocast(view.counts.device.type, enabled=False):
            rows, dtype = view.rows, self.share.dtype
            near_weight, mean_weight = self.weights.exp()
            out = mean_weight * rows.softmax(self.share[view.genes.long()])
            among = mean_weight.expand(len(rows))
            if view.neighbour_counts is not None and view.neighbour_distances is not None:
                near = view.neighbour_counts.to(dtype).sum(0)
                found = rows.sum(near)
                out = out + near_weight * near / rows.spread(found.clamp(min=1))
                among = among + near_weight * (found > 0)
            counts = view.counts.to(dtype)
            if view.hidden is None:
                return ((out + counts) / rows.spread(among + rows.sum(counts))).log()
            counts = counts.masked_fill(view.hidden, 0)
            seen = rows.spread(rows.sum(counts)).masked_fill(view.hidden, 0)
            return ((out + counts) / (rows.spread(among) + seen)).log()

    def told(self, cells: Tensor, genes: Tensor, rows: Ragged) -> Tensor:
        """Return log shares that cell tokens [cells, tokens, cell width] tell, but for a constant of each cell, [rows].

        Parameters
        ----------
        cells
            Restored tokens.
        genes
            Tokens of genes, int [rows].
        rows
            Borders of the cells.
        """
        genes = genes.long()
        moved = rows.spread(self.back(cells.flatten(1)))
        return self.share[genes] + (self.vectors(self.place[genes]) * moved).sum(1)

    def inherit(self, older: LinearPath, before: TokenTable, after: TokenTable) -> None:
        """Take over the numbers of a path of a shorter table or fewer tokens, to the bit.

        New genes have those of their groups, or else the mean over all genes. A group that is new begins as nothing;
        so does what a new cell token tells of genes.
        """
        size = len(older.into.weight)
        places = {name: place for place, name in enumerate(after.groups)}
        kept = torch.tensor([places[name] for name in before.groups], dtype=torch.int64)
        known = torch.zeros(len(after), dtype=torch.bool, device=self.level.device)
        known[: len(before)] = True
        self.norm.load_state_dict(older.norm.state_dict())
        with torch.no_grad():
            self.weights.copy_(older.weights)
            self.into.weight[:size], self.into.bias[:size] = older.into.weight, older.into.bias
            self.back.weight.zero_()
            self.back.weight[:, :size], self.back.bias[:] = older.back.weight, older.back.bias
            vectors = older.vectors.weight
            self.vectors.weight.zero_()
            self.vectors.weight[kept] = vectors[: len(kept)]
            self.vectors.weight[len(after.groups) :] = vectors[len(before.groups) :]
            for name in ("level", "share"):
                values = getattr(self, name)
                values[: len(before)] = getattr(older, name)
                values[:] = filled(values, known, self.place)


def vector_places(table: TokenTable) -> npt.NDArray[np.int64]:
    """Return the row of each gene's vector: its ortholog group's, or behind all of these, one its id hashes to."""
    own = table.buckets[:, 0].astype("int64") + len(table.groups)
    groups = table.group.astype("int64")
    return (groups >= 0) * groups + (groups < 0) * own


def filled(values: Tensor, known: Tensor, place: Tensor) -> Tensor:
    """Return values with those that are not known taken from genes of the same vector, else from all, [genes]."""
    if not bool(known.any()):
        return torch.zeros_like(values)
    size = int(place.max()) + 1
    total, number = (torch.zeros(size, dtype=torch.float64, device=values.device) for _ in range(2))
    total.index_add_(0, place[known], values[known].double())
    number.index_add_(0, place[known], torch.ones_like(values[known], dtype=torch.float64))
    mean = torch.where(number > 0, total / number.clamp(min=1), values[known].double().mean())
    return torch.where(known, values, mean[place].to(values.dtype))
