"""The network: gene tokens with expression through the trunk, read into cell tokens, and decoded again.

`encode` reads a cell: genes, cell tokens, codes. From there expression comes two ways: off the genes themselves
(denoising, masking) or from cell tokens alone (`generate`: tokens without any count go through the same trunk, which
reads the restored cell tokens). scPRINT-2's flow, without a path round the bottleneck. training.py makes losses of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .compression import Compressed, Compressor
from .errors import ModelInputError
from .expression import ExpressionEncoder
from .gene_tokens import GeneTokens
from .heads import ExpressionHead, ExpressionValues, LabelHeads
from .linear_path import LinearPath
from .trunk import Trunk
from .xpressor import CellReader

if TYPE_CHECKING:
    from loaders import Vocabulary

    from .attention import Watch
    from .config import ModelConfig
    from .prior_bias import PriorBias
    from .ragged import Ragged
    from .token_table import TokenTable
    from .views import View


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the network made of a view."""

    genes: Tensor
    """Gene tokens after the trunk, [rows, width]."""
    cells: Tensor
    """Cell tokens before the bottleneck, [cells, tokens, cell width]."""
    compressed: Compressed
    """Codes, restored tokens and divergence."""
    smoothed: Tensor | None = None
    """Log shares of the counts smoothed without the network, [rows]; None without a linear path."""

    @property
    def embedding(self) -> Tensor:
        """Return the codes of all tokens side by side, [cells, dimensions]: what is exported."""
        return torch.cat(self.compressed.codes, 1)


class Network(nn.Module):
    """The whole network.

    Parameters
    ----------
    config
        Its choices.
    vocabulary
        Genes and classes.
    table
        What is known of the genes; one row per token of the vocabulary.
    prior
        Prior gene network, where the configuration asks for one.

    Raises
    ------
    ModelInputError
        When the configuration asks for a prior gene network and none is given.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, table: TokenTable, prior: PriorBias | None = None
    ) -> None:
        super().__init__()
        width = config.trunk.width
        if config.trunk.prior and prior is None:
            raise ModelInputError("prior", None, "a prior gene network, which trunk.prior asks for")
        self.config, self.prior = config, prior if config.trunk.prior else None
        self.tokens = GeneTokens(config.tokens, table, width)
        self.expression = ExpressionEncoder(config.expression, width)
        self.trunk = Trunk(config.trunk, config.cell.width)
        self.reader = CellReader(config.cell, width)
        self.compressor = Compressor(config.cell, self.reader.names)
        self.head = ExpressionHead(width, corrects=config.expression.linear > 0)
        leaves = {name: space.n_leaves for name, space in vocabulary.labels.items()}
        self.labels = LabelHeads(self.reader.names, self.compressor.sizes, leaves)
        size, seats = config.expression.linear, (len(self.reader.names), config.cell.width)
        self.linear = LinearPath(size, table, *seats) if size else None

    def encode(self, view: View, *, sample: bool = False, watch: Watch | None = None) -> Encoded:
        """Return what the network makes of a view; `sample` draws codes at random, in training only."""
        gate = self.expression.gate(view.counts, view.rows, view.hidden)
        x = gate * self.tokens(view.genes) + self.expression(
            view.counts, view.rows, hidden=view.hidden,
            neighbour_counts=view.neighbour_counts, neighbour_distances=view.neighbour_distances,
            around_hidden=view.around_hidden,
        )  # fmt: skip
        genes = self.trunk(x, view.rows, bias=self._bias(view.genes, view.rows), watch=watch)
        cells, smoothed = self.reader(genes, view.rows), None
        if self.linear is not None:
            cells, smoothed = cells + self.linear.tokens(self.linear.profile(view)), self.linear.smoothed(view)
        return Encoded(genes, cells, self.compressor(cells, sample=sample), smoothed)

    def express(self, encoded: Encoded, rows: Ragged, depth: Tensor, total: Tensor) -> ExpressionValues:
        """Return expression read off the genes themselves, at the depth and context total asked for, [cells]."""
        return self.head(encoded.genes, rows, depth, total, encoded.smoothed)

    def generate(
        self, cells: Tensor, genes: Tensor, rows: Ragged, depth: Tensor, total: Tensor, each: Tensor | None = None
    ) -> ExpressionValues:
        """Return expression decoded from restored cell tokens [cells, tokens, cell width] alone, for any genes.

        `each` is how many of a cell's genes each of these stands for, [rows]: means times these add up to the total.
        """
        bias = self._bias(genes, rows)
        made = self.trunk(self.tokens(genes), rows, cells=cells, bias=bias)
        told = None if self.linear is None else self.linear.told(cells, genes, rows)
        if each is None:
            return self.head(made, rows, depth, total, told)
        values = self.head(made, rows, depth, total, each.log() if told is None else told + each.log())
        return replace(values, mean=(values.mean / each).clamp(min=1e-12))

    def classify(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return leaf logits [cells, leaves] by label."""
        return self.labels(encoded.compressed.codes)

    def _bias(self, genes: Tensor, rows: Ragged) -> Tensor | None:
        return None if self.prior is None else self.prior(genes, rows)
