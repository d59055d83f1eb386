"""Imputation: the counts a cell would be expected to have of genes that its dataset did not measure.

For panels such as Xenium's, and for genes that an older annotation lacks. Such genes are decoded from the cell tokens
together with the genes the cell expresses most, which give them their scale; denoising.py decodes measured genes.
Only the cell, its dataset's genes and the model decide what a gene gets: not which others are asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from .denoising import Denoised, Plan, Table, counts_of, in_one_piece, look
from .errors import ModelInputError
from .gene_panels import Panels, find_columns, hashed_order, split_genes
from .inference import InferenceOptions, read_cells
from .ragged import make_ragged
from .token_table import BIOTYPES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .inference import ReadCells

    Numbers = npt.NDArray[np.int64]

PIECE, ANCHORS = 64, 128
"""Genes that are decoded together, and the cell's most expressed ones that go with them and give them their scale: few,
so that few genes cost little."""


class Imputed(Denoised):
    """Counts that cells would be expected to have of genes not measured in them; NaN where a gene was measured.

    They are on the scale of the measured genes: of `depth` molecules of these, there would be so many of the gene.
    """


def impute_blocks(
    model: TrainedModel,
    cells: Cells,
    genes: Sequence[str],
    numbers: Numbers | None = None,
    *,
    depth: float = 1.0,
    options: InferenceOptions | None = None,
) -> Generator[Imputed, None, None]:
    """Return cells with genes imputed, in order, block by block: memory is that of one batch.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData.
    genes
        Feature ids, each once, in any order. Measured ones are not touched: they are NaN in cells of the datasets that
        measured them.
    numbers
        Which cells, int64 [n], of one organism; None for all.
    depth
        Counts asked for of the measured genes, in multiples of each cell's own.
    options
        What is shown of each cell; None for the defaults.

    Raises
    ------
    ModelInputError
        At once: when a gene is unknown or named twice, all are measured in all cells, the depth is not above 0, the
        cells are of several organisms, or `read_cells` refuses them.

    Notes
    -----
    Protein-coding genes of the organism, and all others, are dealt out to fixed pieces by a hash of their ids. A piece,
    less what was measured, is decoded together with the 128 genes of the context that the cell expresses most, and
    scaled such that these have what denoising gives them. A gene that no dataset of the training measured is told from
    its token alone: its protein, place and biotype.
    """
    options = options or InferenceOptions()
    if not (math.isfinite(depth) and depth > 0):
        raise ModelInputError("depth", depth, "a multiple above 0")
    batches = read_cells(model, cells, numbers, options)
    panels = Panels(model.vocabulary, cells, numbers)
    columns = find_columns(model.vocabulary, panels.organism, genes)
    measured = {dataset: panels.measured(dataset) for dataset in panels.datasets}
    if all(mine[columns >= 0].all() for mine in measured.values()):
        raise ModelInputError("genes", f"{len(genes)} measured ones", "one that a dataset lacks; denoise the others")
    order = hashed_order(model.vocabulary, panels.organism)
    coding = model.table.biotype[order] == BIOTYPES.index("protein_coding")
    pieces = [*split_genes(order[coding], PIECE), *split_genes(order[~coding], PIECE)]
    pieces = [piece for piece in pieces if (columns[piece] >= 0).any()]
    plan = Plan(tuple(genes), columns, panels, depth, measured)
    return (_imputed(model, read, plan, pieces, measured) for read in batches)


def impute(
    model: TrainedModel,
    cells: Cells,
    genes: Sequence[str],
    numbers: Numbers | None = None,
    *,
    depth: float = 1.0,
    options: InferenceOptions | None = None,
) -> Imputed:
    """Return some cells with genes imputed, in one piece; parameters, errors and notes are those of `impute_blocks`.

    Raises
    ------
    ModelInputError
        Also when the result would have more than 2^28 values.
    """
    n = len(cells) if numbers is None else len(numbers)
    return in_one_piece(impute_blocks(model, cells, genes, numbers, depth=depth, options=options), n)


def _imputed(
    model: TrainedModel,
    read: ReadCells,
    plan: Plan,
    pieces: list[npt.NDArray[np.int64]],
    measured: dict[int, npt.NDArray[np.bool_]],
) -> Imputed:
    """Return one batch with genes imputed."""
    batch, rows, device = read.batch, read.rows, read.batch.depth.device
    columns, datasets = torch.from_numpy(plan.columns).to(device), batch.dataset.tolist()
    asked = batch.depth.double() * plan.times
    out = Table(model.config, len(rows), len(plan.genes), device)
    with torch.no_grad():
        share = look(model, read, plan).share
        anchors = rows.unpad(rows.pad(-batch.counts, torch.inf).argsort(dim=1, stable=True).argsort(1)) < ANCHORS
        level = asked * rows.sum(share * anchors)
        for dataset in sorted(set(datasets)):
            mine = torch.tensor([at for at, one in enumerate(datasets) if one == dataset], device=device)
            shown = anchors & torch.isin(rows.owners, mine)
            sizes = [min(rows.sizes[at], ANCHORS) for at in mine.tolist()]
            for piece in pieces:
                new = torch.from_numpy(piece[~measured[dataset][piece]]).to(device)
                column = columns[new]
                if not bool((column >= 0).any()):
                    continue
                borders = make_ragged([size + len(new) for size in sizes], device)
                added = borders.slots >= borders.spread(torch.tensor(sizes, device=device))
                tokens = batch.genes.new_empty(borders.total)
                tokens[~added], tokens[added] = batch.genes[shown], new.to(tokens.dtype).repeat(len(mine))
                values = model.network.generate(
                    read.encoded.compressed.restored[mine], tokens, borders, batch.depth[mine] * plan.times,
                    torch.ones_like(batch.depth[mine]),
                )  # fmt: skip
                made = counts_of(model.config, values)
                scale = level[mine] / borders.sum(made * ~added).clamp(min=1e-300)
                where = torch.full_like(borders.owners, -1)
                where[added] = column.repeat(len(mine))
                out.put(where >= 0, mine[borders.owners], where, made * borders.spread(scale), values)
    return Imputed(read.numbers, plan.genes, *out.arrays(), asked.cpu().numpy())
