"""Counterfactuals: the expression a cell would have with another disease, sex or organism, as a model has it.

A cell token of the cell is replaced by the mean one of other cells, or mixed with it, and expression is decoded from
the tokens; the factual reconstruction is decoded from the cell's own tokens in the same way, so that what the decoder
gets wrong of both cancels in their difference. Swapping is done on the codes, behind the bottleneck, where nothing of
the cell goes round it. counterfactual_report.py says how far such changes are those that are observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .denoising import PIECE, counts_of
from .embedding import embed_blocks
from .errors import ModelInputError
from .gene_panels import Panels, find_columns, hashed_order, named, split_genes
from .inference import InferenceOptions, read_cells
from .ragged import make_ragged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .inference import ReadCells

    Numbers = npt.NDArray[np.int64]
    Codes = dict[int, tuple[Tensor, float]]


@dataclass(frozen=True, eq=False)
class Swap:
    """What one cell token becomes."""

    token: str
    """`base` or a label."""
    code: npt.NDArray[np.float32]
    """Code that takes its place, [its dimensions]; `mean_codes` makes those of a class."""
    weight: float = 1.0
    """0 keeps the cell's own code, 1 replaces it, between them both are mixed."""
    before: npt.NDArray[np.float32] | None = None
    """Code that takes its place, with the same weight, in the factual reconstruction: None for the cell's own, or the
    mean of its class, so that what replacing a code by any mean does is on both sides."""


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """Expression decoded from cell tokens, as they are and as they are swapped, on the scale of the cells' counts."""

    numbers: Numbers
    """Which cells, int64 [cells]."""
    genes: tuple[str, ...]
    """Feature ids of the columns of `factual`."""
    genes_after: tuple[str, ...]
    """Those of `expected`: the same, or their orthologs."""
    factual: npt.NDArray[np.float32]
    """Counts decoded from the cells' own tokens, or what they were swapped for before, [cells, genes]."""
    expected: npt.NDArray[np.float32]
    """Counts decoded from the swapped tokens, [cells, genes]."""
    depth: npt.NDArray[np.float64]
    """Molecules of all genes of each cell, [cells]."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.numbers)


def mean_codes(
    model: TrainedModel, cells: Cells, numbers: Numbers | None = None, *, options: InferenceOptions | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the mean code of each token over cells: what a class looks like to the model.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n]; None for all.
    options
        What is shown of each; None for the defaults.

    Raises
    ------
    ModelInputError
        As `read_cells`.

    Notes
    -----
    Tokens of few dimensions are quantised; their mean lies between the levels that the decoder has seen.
    """
    total, count = np.float64(0), 0
    for block in embed_blocks(model, cells, numbers, options=options):
        total, count = total + block.values.sum(0, dtype=np.float64), count + len(block)
    mean = (total / count).astype(np.float32)
    return {token: mean[columns] for token, columns in block.columns.items()}


def counterfactual_blocks(
    model: TrainedModel,
    cells: Cells,
    swaps: Sequence[Swap],
    numbers: Numbers | None = None,
    *,
    genes: Sequence[str] | None = None,
    orthologs: tuple[str, Sequence[str]] | None = None,
    options: InferenceOptions | None = None,
) -> Iterator[Counterfactual]:
    """Return cells with tokens swapped, in order, block by block: memory is that of one batch.

    Parameters
    ----------
    model
        The model; one that was trained to generate (`tasks.generate`).
    cells
        A pack, a store or an AnnData.
    swaps
        Tokens that are swapped, each once. None of them gives the factual reconstruction twice.
    numbers
        Which cells, int64 [n], of one organism; None for all.
    genes
        Feature ids, each once, in any order, that all of the cells' datasets measured; None for all of these.
    orthologs
        Where the organism is swapped: the other one, and the gene of it that is decoded in place of each of `genes`.
    options
        What is shown of each cell; None for the defaults.

    Raises
    ------
    ModelInputError
        At once: when there is no such token, a code does not fit it, a weight is not from 0 to 1, a gene is unknown,
        named twice or was not measured, the model cannot generate, or `read_cells` refuses the cells.

    Notes
    -----
    Genes are decoded in pieces of at most 512, dealt out by a hash of their ids, as those that are decoded together
    attend to each other: what a gene gets depends on which others are asked for. A piece has as many molecules as the
    cell has of its genes, factual and counterfactual, one added; within a piece the network says how they share them.
    """
    options = options or InferenceOptions()
    if not model.config.tasks.generate:
        raise ModelInputError("model", "trained without generation", "one that was: tasks.generate")
    batches = read_cells(model, cells, numbers, options)
    codes = _checked(model, swaps)
    panels = Panels(model.vocabulary, cells, numbers)
    everywhere = np.logical_and.reduce([panels.measured(dataset) for dataset in panels.datasets])
    if genes is None:
        known = panels.ids[model.vocabulary.gene_tokens(panels.organism, panels.ids.tolist()) >= 0]
        kept = everywhere[model.vocabulary.gene_tokens(panels.organism, known.tolist())]
        genes = known[kept].tolist()
    columns = find_columns(model.vocabulary, panels.organism, genes)
    if lacking := [genes[column] for column in columns[~everywhere & (columns >= 0)]]:
        raise ModelInputError("genes", named(lacking), "genes that all of the cells' datasets measured")
    order = hashed_order(model.vocabulary, panels.organism)
    pieces = split_genes(order[columns[order] >= 0], PIECE)
    own = model.vocabulary.gene_tokens(panels.organism, list(genes))
    after = own if orthologs is None else _tokens_of(model, orthologs, len(genes))
    names = tuple(genes), tuple(genes if orthologs is None else orthologs[1])
    plan = [(columns[piece], piece, after[columns[piece]].astype(np.int64)) for piece in pieces]
    return (_decoded(model, read, (panels, plan), codes, names) for read in batches)


def _checked(model: TrainedModel, swaps: Sequence[Swap]) -> tuple[Codes, Codes]:
    """Return code and weight by the place of their token, of the factual and of the counterfactual side."""
    names, sizes = model.network.reader.names, model.network.compressor.sizes
    out: tuple[Codes, Codes] = {}, {}
    for swap in swaps:
        if swap.token not in names:
            raise ModelInputError("token", swap.token, f"one of {', '.join(names)}")
        if (place := names.index(swap.token)) in out[1]:
            raise ModelInputError("token", swap.token, "each token once")
        if not 0 <= swap.weight <= 1:
            raise ModelInputError("weight", swap.weight, "0 to 1")
        for side, given in zip(out, (swap.before, swap.code), strict=True):
            if given is None:
                continue
            code = np.asarray(given, dtype=np.float32)
            if code.shape != (sizes[place],) or not np.isfinite(code).all():
                raise ModelInputError("code", f"shape {code.shape}", f"{sizes[place]} finite numbers for {swap.token}")
            side[place] = torch.from_numpy(code.copy()), float(swap.weight)
    return out


def _tokens_of(model: TrainedModel, orthologs: tuple[str, Sequence[str]], n_genes: int) -> npt.NDArray[np.int32]:
    """Return the tokens of genes of another organism, one for each gene."""
    organism, genes = orthologs
    if organism not in model.vocabulary.organisms:
        raise ModelInputError("orthologs", organism, f"one of {', '.join(model.vocabulary.organisms)}")
    tokens = find_columns(model.vocabulary, organism, genes)  # each known, and named once
    if len(genes) != n_genes:
        raise ModelInputError("orthologs", f"{len(genes)} genes", f"{n_genes}, one for each of genes")
    out = np.empty(n_genes, dtype=np.int32)
    out[tokens[tokens >= 0]] = np.flatnonzero(tokens >= 0)
    return out


def _decoded(
    model: TrainedModel,
    read: ReadCells,
    asked: tuple[Panels, list[tuple[Numbers, Numbers, Numbers]]],
    codes: tuple[Codes, Codes],
    names: tuple[tuple[str, ...], tuple[str, ...]],
) -> Counterfactual:
    """Return one batch, decoded as it is and as it is swapped."""
    (panels, plan), network, device = asked, model.network, read.batch.depth.device
    given = read.encoded.compressed.codes
    sides = [list(given), list(given)]
    for side, swaps in zip(sides, codes, strict=True):
        for place, (code, weight) in swaps.items():
            side[place] = given[place] * (1 - weight) + code.to(given[place]) * weight
    counts = panels.counts(read.numbers).double()
    total = counts[:, np.concatenate([own for _, own, _ in plan])].sum(1)
    out = np.zeros((2, len(read.rows), len(names[0])), dtype=np.float32)
    with torch.no_grad():
        restored = [network.compressor.restore(side) for side in sides]
        for columns, own, after in plan:
            molecules = (counts[:, own].sum(1) + 1) / (total + len(plan)) * total
            for side, piece in enumerate((own, after)):
                n, tokens = len(read.rows), torch.from_numpy(piece).to(device)
                values = network.generate(
                    restored[side], tokens.int().repeat(n), make_ragged([len(tokens)] * n, device),
                    read.batch.depth, torch.ones_like(read.batch.depth),
                )  # fmt: skip
                made = counts_of(model.config, values).reshape(n, -1)
                level = molecules.to(device)[:, None] / made.sum(1, keepdim=True).clamp(min=1e-300)
                out[side][:, columns] = (made * level).float().cpu().numpy()
    return Counterfactual(read.numbers, *names, *out, read.batch.depth.double().cpu().numpy())
