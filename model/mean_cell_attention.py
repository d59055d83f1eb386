"""The attention of the mean cell: queries and keys are averaged per gene before they meet, as scPRINT-2 does.

Cheap, since one map is made whatever the number of cells, and not the mean attention of the cells (attention_maps.py):
a softmax of means is no mean of softmaxes, and two genes that no cell expresses together may attend to each other. It
is here so that the two can be compared on the same cells. The read-out `mean_cell_attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .attention_maps import AT_ONCE, head_weights, layers_of, places, prove_kind, reading
from .inference import read_cells
from .ragged import Ragged

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from loaders import CellBatch

    from .attention import Watch
    from .grn_query import GrnQuery

    Floats = npt.NDArray[np.float32]


def mean_cell_attention(query: GrnQuery) -> tuple[Floats, None]:
    """Return attention between the mean query and the mean key of each gene (scPRINT-2's default read-out).

    Genes are normalised over all that were asked about and seen. A cell in which two genes are together need not exist.
    """
    prove_kind(query, ("exact", "performer"))
    weights, mean = head_weights(query), _MeanCell(query)
    for _ in read_cells(query.trained, query.cells, query.numbers, reading(query), mean):
        pass
    found = torch.full((len(query.targets), len(query.regulators)), -torch.inf if weights is None else 0.0)
    found = found.to(mean.counts.device)
    seen = mean.counts > 0
    columns = torch.from_numpy(query.columns).to(found.device)
    prior, last = _prior(query, found.device), query.trained.config.trunk.layers - 1
    for layer in layers_of(query) if weights is None else weights.any(1).nonzero()[:, 0].tolist():
        queries, keys = (part[layer] / mean.counts.clamp(min=1)[:, None, None] for part in (mean.queries, mean.keys))
        step = max(AT_ONCE // (queries.shape[1] * len(seen)), 1)
        for start in range(0, len(columns), step):
            logits = torch.einsum("thd,nhd->htn", queries[columns[start : start + step]], keys)
            logits = logits * queries.shape[-1] ** -0.5
            if prior is not None and layer < last:  # as in the trunk
                logits = logits + prior[columns[start : start + step]].to(logits.dtype)
            logits = logits.masked_fill(~seen, -torch.inf)
            block = logits.softmax(-1)[:, :, : len(query.regulators)]
            part = found[start : start + step]
            if weights is None:
                torch.maximum(part, block.amax(0), out=part)
            else:
                part += torch.einsum("h,htr->tr", weights[layer].to(block), block)
    found[~seen[columns]] = torch.nan
    found[:, ~seen[: len(query.regulators)]] = torch.nan
    return found.T.cpu().numpy(), None


def _prior(query: GrnQuery, device: torch.device) -> Tensor | None:
    """Return what a prior network adds between the query's genes, [genes, genes]; None where the model has none."""
    if (bias := query.trained.network.prior) is None:
        return None
    # Batches are through: the network is back where it was before.
    tokens = torch.from_numpy(query.trained.vocabulary.gene_tokens(query.organism, list(query.genes)))
    tokens = tokens.to(bias.weights.device)
    rows = Ragged(torch.tensor([0, len(tokens)], device=tokens.device), (len(tokens),))
    return bias(tokens, rows)[0].detach().to(device)


class _MeanCell:
    """Adds up the queries and keys of each gene."""

    def __init__(self, query: GrnQuery) -> None:
        self._trunk = query.trained.config.trunk
        self._place, self._genes = places(query, query.genes), len(query.genes)
        self.queries, self.keys, self.counts = (torch.zeros(0) for _ in range(3))

    def __call__(self, batch: CellBatch, rows: Ragged) -> Watch:
        """Return what is shown this batch's blocks."""
        place = self._place.to(batch.genes.device)[batch.genes.long()]
        mine = place >= 0
        if not len(self.counts):
            shape = self._trunk.layers, self._genes, self._trunk.heads, self._trunk.width // self._trunk.heads
            self.queries, self.keys = (torch.zeros(shape, device=place.device) for _ in range(2))
            self.counts = torch.zeros(self._genes, device=place.device)
        self.counts.index_add_(0, place[mine], torch.ones_like(place[mine], dtype=self.counts.dtype))

        def watch(layer: int, query: Tensor, key: Tensor) -> None:
            key = key.repeat_interleave(self._trunk.heads // self._trunk.kv_heads, 1)
            self.queries[layer].index_add_(0, place[mine], query[mine].float())
            self.keys[layer].index_add_(0, place[mine], key[mine].float())

        return watch
