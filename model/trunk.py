"""The trunk: pre-norm blocks over gene tokens, which also read cell tokens when expression is decoded from them.

Each block: genes read cell tokens (only where those are given: XPressor's decoding, xpressor.py), genes read genes
(attention.py), and a small network per gene. The sum of it all is kept in float32 under autocast. Features may be
dropped and whole blocks skipped in training; in evaluation the trunk is a function of its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import CrossAttention, Watch, make_self_attention
from .ragged import Ragged, make_ragged

if TYPE_CHECKING:
    from .config import TrunkConfig


def feed_forward(width: int, ratio: float) -> nn.Sequential:
    """Return the small network of a block: out to `ratio` times the width and back."""
    inner = int(width * ratio)
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class Block(nn.Module):
    """One block of the trunk."""

    def __init__(self, config: TrunkConfig, cell_width: int, skipped: float) -> None:
        super().__init__()
        width = config.width
        self.norm_cells, self.norm_genes, self.norm_last = (nn.LayerNorm(width) for _ in range(3))
        self.norm_read = nn.LayerNorm(cell_width)
        self.read_cells = CrossAttention(width, cell_width, config.heads)
        self.read_genes = make_self_attention(config)
        self.last = feed_forward(width, config.mlp_ratio)
        self.dropout, self.skipped = nn.Dropout(config.dropout), skipped

    def forward(
        self, x: Tensor, rows: Ragged, cells: Tensor | None, state: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Return the genes and the attention's state after the block, and what a watch is shown."""
        kept = self._kept(x, rows)
        if cells is not None:
            seats = make_ragged([cells.shape[1]] * len(rows), x.device)
            x = x + kept * self.dropout(
                self.read_cells(self.norm_cells(x), self.norm_read(cells.flatten(0, 1)), rows, seats)
            )
        read, state, shown = self.read_genes(self.norm_genes(x), rows, state, bias)
        x = x + kept * self.dropout(read)
        return x + kept * self.dropout(self.last(self.norm_last(x))), state, shown

    def _kept(self, x: Tensor, rows: Ragged) -> Tensor | float:
        """Return 0 for cells that skip the block, and for the others what makes up for them in the mean, [rows, 1]."""
        if not (self.training and self.skipped):
            return 1.0
        kept = (torch.rand(len(rows), 1, device=x.device) >= self.skipped).to(x.dtype)
        return rows.spread(kept / (1 - self.skipped))


class Trunk(nn.Module):
    """The transformer over genes.

    Parameters
    ----------
    config
        Its choices.
    cell_width
        Features of a cell token.
    """

    def __init__(self, config: TrunkConfig, cell_width: int) -> None:
        super().__init__()
        self.config = config
        steps = max(config.layers - 1, 1)
        skips = [config.stochastic_depth * layer / steps for layer in range(config.layers)]
        self.blocks = nn.ModuleList(Block(config, cell_width, skipped) for skipped in skips)
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        x: Tensor,
        rows: Ragged,
        *,
        cells: Tensor | None = None,
        bias: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Return gene tokens after all blocks, [rows, width].

        Parameters
        ----------
        x
            Gene tokens, [rows, width].
        rows
            Borders of the cells.
        cells
            Cell tokens to read in every block, [cells, tokens, cell width]; None while encoding.
        bias
            Of the attention logits of all blocks but the last, [cells, longest, longest].
        watch
            Is shown each block's queries and keys.
        """
        state = None
        for layer, block in enumerate(self.blocks):
            prior = bias if layer + 1 < len(self.blocks) else None
            if self.config.checkpointing and self.training:
                x, state, shown = checkpoint(block, x, rows, cells, state, prior, use_reentrant=False)
            else:
                x, state, shown = block(x, rows, cells, state, prior)
            if watch is not None:
                watch(layer, *shown)
        return self.norm(x)
