"""A prior gene network as a bias of attention: an edge from gene i to gene j adds its weight, times a learned strength.

Such as a network of protein interactions, which a young model need not find out for itself. Edges are kept sparsely; a
cell's [genes, genes] bias is made of those among its own context. scPRINT fades its prior in by a fixed schedule; here
the strength starts at 1 and is learned, so that data may turn it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .errors import ModelInputError

if TYPE_CHECKING:
    from .ragged import Ragged


class PriorBias(nn.Module):
    """The bias a prior network gives.

    Parameters
    ----------
    edges
        Gene tokens, int64 [2, edges]: who reads, and who is read.
    weights
        [edges], added to the logits.
    n_genes
        Genes of the vocabulary.

    Raises
    ------
    ModelInputError
        When an edge is not between genes of the vocabulary, or shapes do not fit.
    """

    edges: Tensor
    weights: Tensor

    def __init__(self, edges: Tensor, weights: Tensor, n_genes: int) -> None:
        super().__init__()
        if edges.ndim != 2 or edges.shape != (2, len(weights)):
            raise ModelInputError("edges", tuple(edges.shape), f"(2, {len(weights)}), as the weights")
        if edges.numel() and not (edges.min() >= 0 and edges.max() < n_genes):
            raise ModelInputError("edges", (int(edges.min()), int(edges.max())), f"genes 0 to {n_genes - 1}")
        self.n_genes = n_genes
        self.strength = nn.Parameter(torch.ones(1))
        self.register_buffer("edges", edges.long(), persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, genes: Tensor, rows: Ragged) -> Tensor:
        """Return the bias, [cells, longest, longest], for the genes of the batch, int64 [rows]."""
        out = self.weights.new_zeros(len(rows), rows.longest, rows.longest)
        for cell, mine in enumerate(genes.split(rows.sizes)):
            seat = torch.full((self.n_genes,), -1, device=genes.device)
            seat[mine.long()] = torch.arange(len(mine), device=genes.device)
            reader, read = seat[self.edges]
            inside = (reader >= 0) & (read >= 0)
            out[cell, reader[inside], read[inside]] = self.weights[inside]
        return self.strength * out
