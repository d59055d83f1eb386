"""XPressor, the reading half: cell tokens that compress a cell, one per label and a base token, by reading its genes.

Learned tokens go through blocks of cross-attention (tokens read genes), self-attention (tokens read each other) and a
small network. compression.py squeezes what comes out; the trunk's own cross-attention (trunk.py) is the other half,
which decodes genes from the squeezed tokens alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import CrossAttention, ExactAttention
from .config import TrunkConfig
from .ragged import Ragged, make_ragged
from .trunk import feed_forward

if TYPE_CHECKING:
    from .config import CellConfig

BASE = "base"
"""Name of the first token, which belongs to no label."""


class CellBlock(nn.Module):
    """One block over cell tokens."""

    def __init__(self, config: CellConfig, gene_width: int) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.norm_genes, self.norm_cells, self.norm_last = (nn.LayerNorm(width) for _ in range(3))
        self.read_genes = CrossAttention(width, gene_width, heads)
        self.read_cells = ExactAttention(TrunkConfig(width=width, heads=heads, kv_heads=heads))
        self.last = feed_forward(width, 4.0)

    def forward(self, x: Tensor, genes: Tensor, seats: Ragged, rows: Ragged) -> Tensor:
        """Return the tokens after the block, [cells * tokens, width]."""
        x = x + self.read_genes(self.norm_genes(x), genes, seats, rows)
        x = x + self.read_cells(self.norm_cells(x), seats, None, None)[0]
        return x + self.last(self.norm_last(x))


class CellReader(nn.Module):
    """Reads genes into cell tokens: the base token, then one per label in the configuration's order.

    Parameters
    ----------
    config
        Its choices.
    gene_width
        Features of a gene token.
    """

    def __init__(self, config: CellConfig, gene_width: int) -> None:
        super().__init__()
        self.names = (BASE, *config.labels)
        self.start = nn.Parameter(torch.randn(len(self.names), config.width) * config.width**-0.5)
        self.blocks = nn.ModuleList(CellBlock(config, gene_width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, genes: Tensor, rows: Ragged) -> Tensor:
        """Return cell tokens, [cells, tokens, width], of gene tokens [rows, gene width]."""
        seats = make_ragged([len(self.names)] * len(rows), genes.device)
        x = self.start.repeat(len(rows), 1)
        for block in self.blocks:
            x = block(x, genes, seats, rows)
        return seats.pad(self.norm(x))
