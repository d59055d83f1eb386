"""Criss-cross attention: genes read M latents, latents read the genes, at O(n M) instead of O(n^2).

Latents start alike for all cells and travel through the blocks with them. Both sides read the state before the block
(scPRINT-2's order). What a gene reads of another goes through the latents, so the gene-gene map is the product of the
two, of rank M at most: `effective_map` gives it, which the reference does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import Heads, attend
from .ragged import Ragged, make_ragged

if TYPE_CHECKING:
    from .config import TrunkConfig


class CrissCross(nn.Module):
    """Genes and latents read each other once per block."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.latents = config.latents
        self.genes, self.read = Heads(width, heads, width // heads, 3), Heads(width, heads, width // heads, 3)
        self.norm = nn.LayerNorm(width)
        self.start = nn.Parameter(torch.randn(config.latents, width) * width**-0.5)
        self.out, self.out_latents = nn.Linear(width, width), nn.Linear(width, width)

    def forward(
        self, x: Tensor, rows: Ragged, state: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return what each gene read, the latents [cells * M, width] for the next block, and two maps' factors.

        The factors are the genes' and the latents' queries and keys side by side, as `effective_map` takes them.
        """
        assert bias is None, "the configuration refuses a prior with this kind"
        state = self.start.repeat(len(rows), 1) if state is None else state
        seats = make_ragged([self.latents] * len(rows), x.device)
        gene_query, gene_key, gene_value = self.genes(x)
        query, key, value = self.read(self.norm(state))
        out = self.out(attend(gene_query, key, value, rows, seats).flatten(1))
        read = self.out_latents(attend(query, gene_key, gene_value, seats, rows).flatten(1))
        return out, state + read, (torch.cat([gene_query, query]), torch.cat([gene_key, key]))


def effective_map(query: Tensor, key: Tensor, n_genes: int) -> Tensor:
    """Return how much each gene of one cell reads of each other through the latents, [heads, n, n]; rows add up to 1.

    Parameters
    ----------
    query, key
        What the block shows of one cell, genes first: [genes + M, heads, d].
    n_genes
        Genes of the cell.
    """
    scale = query.shape[-1] ** -0.5
    genes_q, latents_q = query.transpose(0, 1).split([n_genes, query.shape[0] - n_genes], 1)
    genes_k, latents_k = key.transpose(0, 1).split([n_genes, key.shape[0] - n_genes], 1)
    to_latents = (genes_q @ latents_k.transpose(1, 2) * scale).softmax(-1)
    return to_latents @ (latents_q @ genes_k.transpose(1, 2) * scale).softmax(-1)
