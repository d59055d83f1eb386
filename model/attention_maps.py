"""Attention as a gene network: what genes of some cells read of each other, added up over cells, head by head.

**A gene that reads is the target, a gene that is read is the regulator**: attention is where what becomes of the query
is taken from the key. So a map's entry [regulator, target] is the softmax weight of the regulator's key for the
target's query, and what a target pays all genes of its context adds up to one. Each cell's map is made for the asked
pairs alone and added to a sum over cells; memory is the sum's, never cells times genes times genes. Cells are counted
per pair, since contexts may show different genes. scPRINT-2 takes the attention of the mean cell instead, which is the
read-out `mean_cell_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .checkpoint import weights_digest
from .errors import ModelInputError
from .grn_query import ask
from .head_selection import HeadSelection
from .inference import read_cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from loaders import CellBatch, Cells

    from .attention import Watch
    from .checkpoint import TrainedModel
    from .grn_query import GrnQuery, ReadoutOptions
    from .inference import InferenceOptions
    from .ragged import Ragged

    Numbers = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

AT_ONCE = 2**24
"""Attention weights of a step, 64 MiB."""
EXACT_SUM = 2**24
"""Pairs up to which sums are in float64."""
MOST_MAPS = 2**28
"""Weights of all heads' maps together, 1 GiB."""


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """The mean attention of each head, for head selection and for looking at."""

    regulators: tuple[str, ...]
    """Feature ids of the rows."""
    targets: tuple[str, ...]
    """Feature ids of the columns."""
    values: Floats
    """Mean over the cells that showed both genes, [layers, heads, regulators, targets]; NaN where none did, and where a
    gene meets itself."""
    seen: npt.NDArray[np.int32]
    """Cells that showed both, [regulators, targets]."""
    model: str
    """Digest of the weights."""


def attention(query: GrnQuery) -> tuple[Floats, None]:
    """Return the mean over cells of exact attention; a Performer's is the softmax that it approximates."""
    prove_kind(query, ("exact", "performer"))
    return _mean_attention(query)


def criss_cross(query: GrnQuery) -> tuple[Floats, None]:
    """Return the mean over cells of what genes read of each other through the latents: the product of both maps."""
    prove_kind(query, ("criss-cross",))
    return _mean_attention(query)


def head_maps(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    options: ReadoutOptions | None = None,
) -> HeadMaps:
    """Return the mean attention of every layer and head, whatever `options.heads` and `options.layers` say.

    Parameters
    ----------
    model, cells, numbers, regulators, targets, options
        As of `score_edges`.

    Raises
    ------
    ModelInputError
        As `score_edges`, and when all maps together have more than 2^28 weights.
    """
    query = ask(model, cells, numbers, regulators, targets, options)
    sums, seen = _added_up(query, None)
    trunk = model.config.trunk
    values = _means(sums, seen).transpose(1, 2).reshape(trunk.layers, trunk.heads, len(regulators), len(targets))
    found = values.cpu().numpy().astype(np.float32)
    own = query.rows[:, None] == query.columns[None, :]
    found[:, :, own] = np.nan
    return HeadMaps(query.regulators, query.targets, found, seen.T.cpu().numpy().copy(), weights_digest(model))


def reading(query: GrnQuery) -> InferenceOptions:
    """Return how cells are read for a query: contexts of exactly its genes, or as in training."""
    options = query.options.inference
    return replace(options, genes=query.genes) if query.options.contexts == "chosen" else options


def head_weights(query: GrnQuery) -> Tensor | None:
    """Return what each head weighs, float64 [layers, heads]; None where the largest counts.

    Raises
    ------
    ModelInputError
        When a layer is not the network's, or heads were selected for another one.
    """
    trunk, options = query.trained.config.trunk, query.options
    if isinstance(options.heads, HeadSelection):
        weights = torch.tensor(options.heads.weights, dtype=torch.float64)
        if options.heads.model != weights_digest(query.trained) or weights.shape != (trunk.layers, trunk.heads):
            raise ModelInputError("heads", options.heads.digest, "heads that were selected for this model; select anew")
        return weights
    layers = layers_of(query)
    if options.heads == "max":
        return None
    weights = torch.zeros(trunk.layers, trunk.heads, dtype=torch.float64)
    weights[layers] = 1 / (len(layers) * trunk.heads)
    return weights


def _mean_attention(query: GrnQuery) -> tuple[Floats, None]:
    weights = head_weights(query)
    sums, seen = _added_up(query, weights)
    if query.options.over_cells == "sum":
        sums[:, seen == 0] = torch.nan
    else:
        sums = _means(sums, seen)
    if weights is None:
        heads = query.trained.config.trunk.heads
        chosen = [layer * heads + head for layer in layers_of(query) for head in range(heads)]
        sums = sums[chosen].amax(0, keepdim=True)
    return sums[0].T.float().cpu().numpy(), None


def _means(sums: Tensor, seen: Tensor) -> Tensor:
    """Return sums over counts, in place; 0 / 0 is the NaN of a pair that was never seen."""
    for part in sums:
        torch.div(part, seen, out=part)
    return sums


def _added_up(query: GrnQuery, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return attention added up over cells [maps, targets, regulators], and cells [targets, regulators].

    Maps are one, weighed over heads, or each head's.
    """
    trunk, pairs = query.trained.config.trunk, len(query.targets) * len(query.regulators)
    if weights is None and (size := trunk.layers * trunk.heads * pairs) > MOST_MAPS:
        remedy = f"at most {MOST_MAPS} weights in all heads' maps; take fewer genes, or the mean of the heads"
        raise ModelInputError("heads", f"{size} weights", remedy)
    added = _PairSum(query, weights)
    for _ in read_cells(query.trained, query.cells, query.numbers, reading(query), added):
        pass
    assert added.seen is not None
    assert added.sums is not None
    return added.sums, added.seen


@dataclass(frozen=True, eq=False)
class _Group:
    """Cells of a batch that have the same context, and where the asked genes are in it."""

    cells: list[int]
    """Their places in the batch."""
    size: int
    """Genes of the context."""
    readers: Tensor
    """Places of targets in the context."""
    columns: Tensor
    """The targets they are."""
    read: Tensor
    """Places of regulators in the context."""
    rows: Tensor
    """The regulators they are."""
    in_order: bool
    """Regulators stand in the order of the sum's columns."""

    def part(self, some: slice) -> _Group:
        """Return the group with some of its targets."""
        return replace(self, readers=self.readers[some], columns=self.columns[some])


class _PairSum:
    """Adds up what a network's blocks show of a query's pairs."""

    def __init__(self, query: GrnQuery, weights: Tensor | None) -> None:
        self.sums: Tensor | None = None
        self.seen: Tensor | None = None
        self._weights, self._trunk = weights, query.trained.config.trunk
        self._prior = query.trained.network.prior
        self._shape = len(query.targets), len(query.regulators)
        self._row, self._column = (places(query, genes) for genes in (query.regulators, query.targets))

    def __call__(self, batch: CellBatch, rows: Ragged) -> Watch:
        """Return what is shown this batch's blocks."""
        device = batch.genes.device
        if self.sums is None:
            maps = 1 if self._weights is not None else self._trunk.layers * self._trunk.heads
            precise = maps * self._shape[0] * self._shape[1] <= EXACT_SUM
            self.sums = torch.zeros(maps, *self._shape, device=device, dtype=torch.float64 if precise else None)
            self.seen = torch.zeros(self._shape, device=device, dtype=torch.int32)
            self._row, self._column = self._row.to(device), self._column.to(device)
        groups = list(self._grouped(batch.genes, rows))
        bias = None if self._prior is None else self._prior(batch.genes, rows).detach()
        for group in groups:
            _add(self.seen, group, len(group.cells))

        def watch(layer: int, query: Tensor, key: Tensor) -> None:
            if self._weights is not None and not bool(self._weights[layer].any()):
                return
            prior = bias if layer + 1 < self._trunk.layers else None  # as in the trunk
            for group in groups:
                if self._trunk.attention == "criss-cross":
                    self._add_product(layer, group, _Latents(rows, self._trunk.latents, query, key))
                else:
                    self._add_exact(layer, group, (query.split(rows.sizes), key.split(rows.sizes)), prior)

        return watch

    def _grouped(self, genes: Tensor, rows: Ragged) -> Iterator[_Group]:
        """Return a batch's cells by context; neighbours in the batch only, as lists make all contexts alike."""
        contexts = genes.split(rows.sizes)
        start = 0
        for end in range(1, len(contexts) + 1):
            if end < len(contexts) and torch.equal(contexts[end], contexts[start]):
                continue
            mine = contexts[start].long()
            column, row = self._column[mine], self._row[mine]
            readers, read = (column >= 0).nonzero()[:, 0], (row >= 0).nonzero()[:, 0]
            rows_read = row[read]
            in_order = bool((rows_read.diff() > 0).all())
            yield _Group(list(range(start, end)), len(mine), readers, column[readers], read, rows_read, in_order)
            start = end

    def _add_exact(
        self, layer: int, group: _Group, shown: tuple[Sequence[Tensor], Sequence[Tensor]], prior: Tensor | None
    ) -> None:
        """Add softmax(q k / sqrt(d)) of a group's cells."""
        heads, keys_of = self._trunk.heads, self._trunk.heads // self._trunk.kv_heads
        step = max(AT_ONCE // (heads * max(group.size, 1)), 1)
        together = max(step // max(len(group.readers), 1), 1)
        for first in range(0, len(group.cells), together):
            cells = group.cells[first : first + together]
            key = torch.stack([shown[1][cell] for cell in cells]).repeat_interleave(keys_of, 2)
            whole = torch.stack([shown[0][cell] for cell in cells])
            whole = whole * whole.shape[-1] ** -0.5
            for start in range(0, len(group.readers), step):
                part = group.part(slice(start, start + step))
                logits = torch.einsum("cthd,cnhd->chtn", whole[:, part.readers], key)
                if prior is not None:
                    logits = logits + prior[cells][:, part.readers, : group.size][:, None].to(logits.dtype)
                self._fold(layer, part, logits.softmax(-1))

    def _add_product(self, layer: int, group: _Group, shown: _Latents) -> None:
        """Add the products of both maps of a group's cells."""
        assert self.sums is not None
        per_cell = self._trunk.latents * self._trunk.heads * (len(group.readers) + len(group.read))
        together = max(4 * AT_ONCE // max(per_cell, 1), 1)
        for first in range(0, len(group.cells), together):
            to_latents, from_genes = shown.factors(group.cells[first : first + together], group)
            if self._weights is None:
                self._fold(layer, group, to_latents @ from_genes, all_genes=False)
                continue
            left = to_latents * self._weights[layer].to(to_latents)[:, None, None]
            left, right = left.permute(2, 0, 1, 3).flatten(1), from_genes.flatten(0, 2)
            step = max(4 * AT_ONCE // max(len(group.read), 1), 1)
            for start in range(0, len(left), step):
                part = group.part(slice(start, start + step))
                _add(self.sums[0], part, left[start : start + step] @ right)

    def _fold(self, layer: int, group: _Group, weights: Tensor, *, all_genes: bool = True) -> None:
        """Add attention weights [cells, heads, targets, genes of the context or its regulators] to the maps."""
        assert self.sums is not None
        if self._weights is None:
            blocks, first = weights.sum(0), layer * self._trunk.heads
        else:  # before regulators are picked out, as one pass over memory
            heads = self._weights[layer].to(weights).repeat(len(weights))
            blocks, first = (heads @ weights.flatten(0, 1).flatten(1)).view(1, *weights.shape[2:]), 0
        for place, block in enumerate(blocks):
            _add(self.sums[first + place], group, block[:, group.read] if all_genes else block)


@dataclass(frozen=True, eq=False)
class _Latents:
    """What a criss-cross block shows of a batch: genes of all cells, then latents of all cells."""

    rows: Ragged
    """Borders of the cells."""
    latents: int
    """Latents of a cell."""
    query: Tensor
    """[genes of all cells + latents of all cells, heads, d]."""
    key: Tensor
    """The same of keys."""

    def factors(self, cells: list[int], group: _Group) -> tuple[Tensor, Tensor]:
        """Return what targets read of latents and latents of regulators, [cells, heads, targets, M] and [.., M, rows].

        `effective_map` multiplies the same two.
        """
        total, scale = self.rows.total, self.query.shape[-1] ** -0.5

        def genes(shown: Tensor) -> Tensor:
            parts = shown[:total].split(self.rows.sizes)
            return torch.stack([parts[cell] for cell in cells])

        def latents(shown: Tensor) -> Tensor:
            return shown[total:].view(len(self.rows), self.latents, *shown.shape[1:])[cells]

        reading = torch.einsum("cthd,cmhd->chtm", genes(self.query)[:, group.readers], latents(self.key)) * scale
        read = torch.einsum("cmhd,cnhd->chmn", latents(self.query), genes(self.key)) * scale
        return reading.softmax(-1), read.softmax(-1)[..., group.read]


def _add(total: Tensor, group: _Group, block: Tensor | int) -> None:
    """Add what a group says of its pairs [targets, regulators] to a sum over all."""
    if len(group.rows) == total.shape[1] and isinstance(block, torch.Tensor) and group.in_order:
        total.index_add_(0, group.columns, block.to(total.dtype))
    else:
        total[group.columns[:, None], group.rows] += block


def places(query: GrnQuery, genes: Sequence[str]) -> Tensor:
    """Return the place of each token of the model among some genes, int64 [tokens], -1 for all others."""
    vocabulary = query.trained.vocabulary
    out = torch.full((vocabulary.n_genes,), -1, dtype=torch.int64)
    tokens = vocabulary.gene_tokens(query.organism, list(genes))
    out[torch.from_numpy(tokens.astype(np.int64))] = torch.arange(len(genes))
    return out


def layers_of(query: GrnQuery) -> list[int]:
    """Return the blocks that are asked for, in order.

    Raises
    ------
    ModelInputError
        When the network has not one of them.
    """
    count = query.trained.config.trunk.layers
    chosen = sorted(set(query.options.layers)) or list(range(count))
    if not 0 <= chosen[0] <= chosen[-1] < count:
        raise ModelInputError("layers", query.options.layers, f"some of 0 to {count - 1}, or none for all")
    return chosen


def prove_kind(query: GrnQuery, kinds: tuple[str, ...]) -> None:
    """Raise ModelInputError where the network has another kind of attention."""
    kind = query.trained.config.trunk.attention
    if kind not in kinds:
        remedy = "the read-out criss_cross" if kind == "criss-cross" else "attention or mean_cell_attention"
        raise ModelInputError("model", f"one of {kind} attention", f"{' or '.join(kinds)} attention; take {remedy}")
