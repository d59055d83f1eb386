"""Gene networks from what a trained model does when a gene changes: its slope, or its answer to a changed count.

Attention says where a network looks, not what comes of it. Here the regulator's count is moved and the target's
expected expression is watched, through all blocks. Expected expression is a share of the context, where one gene's rise
is everybody's fall; so it is read as a centred log-ratio: the logarithm less its mean over the context without the
regulator (Aitchison 1982), whose own fall would otherwise look like everybody's rise. The same number is differentiated
and measured. `token_similarity` needs no cell at all. Called by grn_scores.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .attention_maps import places, reading
from .denoising import counts_of
from .embedding import gene_embeddings
from .errors import ModelInputError
from .grn_baselines import split_sign
from .inference import read_cells
from .objective import make_view
from .ragged import make_ragged
from .views import View

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from .checkpoint import TrainedModel
    from .grn_query import GrnQuery
    from .inference import ReadCells

    Floats = npt.NDArray[np.float32]
    Signs = npt.NDArray[np.int8]


def token_similarity(query: GrnQuery) -> tuple[Floats, Signs]:
    """Return size and sign of the cosine of two genes' tokens, less the mean token of the organism; cells play no part.

    What is alike are the genes' proteins, ortholog groups and places: a network of relation, not of regulation.
    """
    made = gene_embeddings(query.trained, query.organism)
    place = {gene: row for row, gene in enumerate(made.ids)}
    vectors = made.values[[place[gene] for gene in query.genes]] - made.values.mean(0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return split_sign(vectors[query.rows] @ vectors[query.columns].T)


def gradient(query: GrnQuery) -> tuple[Floats, Signs]:
    """Return size and sign of the mean slope of a target's log-ratio in log(1 + count) of a regulator, over cells.

    One backward pass per gene and batch: minutes for hundreds of genes, hours for all.

    Raises
    ------
    ModelInputError
        When the network reads counts in bins, which have no slope.
    """
    if query.trained.config.expression.scale == "binned":
        raise ModelInputError("readout", "gradient", "perturbation: this network reads counts in bins, without slopes")
    added, genes = _Added(query), places(query, query.genes)
    regulating = torch.isin(torch.arange(len(query.genes)), torch.from_numpy(query.rows))
    for read in read_cells(query.trained, query.cells, query.numbers, reading(query)):
        view, (row, column) = make_view(read.batch, read.rows), added.places(read)
        gene = genes.to(row.device)[view.genes.long()]
        with torch.enable_grad():
            counts = view.counts.clone().requires_grad_(True)
            logs = expected_logs(query.trained, replace(view, counts=counts))
            (total,) = torch.autograd.grad(logs.sum(), counts, retain_graph=True)
            own = torch.zeros_like(total)
            for one in gene[gene >= 0].unique().tolist():
                mine = (gene == one).nonzero()[:, 0]
                (slope,) = torch.autograd.grad(logs[mine].sum(), counts, retain_graph=True)
                if regulating[one]:
                    own[mine] = slope[mine]
                if int(target := column[mine[0]]) >= 0:
                    some = _beside(view, mine, row)
                    added.add(row[some], target.expand(len(some)), (slope * (1 + view.counts))[some])
        others = (view.rows.offsets.diff() - 1).clamp(min=1)
        common = (total - own) / view.rows.spread(others) * (1 + view.counts)
        for target in column[column >= 0].unique().tolist():
            some = _beside(view, (column == target).nonzero()[:, 0], row)
            added.add(row[some], torch.full_like(some, target), -common[some], cells=0)
    return added.scores()


def perturbation(query: GrnQuery) -> tuple[Floats, Signs]:
    """Return size and sign of what a target's log-ratio loses, on average, when a regulator's count is set to 0.

    In the cells that express it; in others there is nothing to take away. With `perturbation="double"`, what it gains
    when the count is doubled. The cell's depth is held. One forward pass per regulator and batch.
    """
    added, zero = _Added(query), query.options.perturbation == "zero"
    for read in read_cells(query.trained, query.cells, query.numbers, reading(query)):
        view, (row, column) = make_view(read.batch, read.rows), added.places(read)
        with torch.no_grad():
            before = expected_logs(query.trained, view)
            for regulator in row[(row >= 0) & (view.counts > 0)].unique().tolist():
                changed = (row == regulator) & (view.counts > 0)
                counts = torch.where(changed, view.counts * (0 if zero else 2), view.counts)
                some, mine = _some_cells(replace(view, counts=counts), view.rows.owners[changed])
                rise = expected_logs(query.trained, some) - before[mine]
                others = (some.rows.offsets.diff() - 1).clamp(min=1)
                rise = rise - some.rows.spread(some.rows.sum(rise.masked_fill(changed[mine], 0)) / others)
                wanted = (targets := column[mine]) >= 0
                rows = torch.full_like(targets[wanted], regulator)
                added.add(rows, targets[wanted], (-rise if zero else rise)[wanted])
    return added.scores()


def expected_logs(model: TrainedModel, view: View) -> Tensor:
    """Return the logarithm of each gene's expected share of its context, float64 [rows]."""
    encoded = model.network.encode(view)
    values = model.network.express(encoded, view.rows, view.depth, torch.ones_like(view.depth))
    return counts_of(model.config, values).clamp(min=1e-30).log()


def _beside(view: View, rows: Tensor, regulator: Tensor) -> Tensor:
    """Return the rows of regulators in the cells that have some rows, int64."""
    there = torch.zeros(len(view.rows), dtype=torch.bool, device=rows.device)
    there[view.rows.owners[rows]] = True
    return ((regulator >= 0) & view.rows.spread(there)).nonzero()[:, 0]


def _some_cells(view: View, cells: Tensor) -> tuple[View, Tensor]:
    """Return the view of some cells, in rising order, and where its rows are in the whole, bool [rows]."""
    cells = cells.unique()
    mine = torch.isin(view.rows.owners, cells)
    rows = make_ragged([view.rows.sizes[cell] for cell in cells.tolist()], cells.device)
    around, far = view.neighbour_counts, view.neighbour_distances
    around = None if around is None else around[:, mine]
    far = None if far is None else far[cells]
    some = View(
        view.genes[mine], view.counts[mine], rows, view.depth[cells], neighbour_counts=around, neighbour_distances=far
    )
    return some, mine


class _Added:
    """Influences added up over cells by regulator and target, and how many cells each is of."""

    def __init__(self, query: GrnQuery) -> None:
        self._row, self._column = places(query, query.regulators), places(query, query.targets)
        self._shape = len(query.regulators), len(query.targets)
        self._sums = torch.zeros(self._shape[0] * self._shape[1], dtype=torch.float64)
        self._cells = torch.zeros(self._shape[0] * self._shape[1], dtype=torch.int32)

    def places(self, read: ReadCells) -> tuple[Tensor, Tensor]:
        """Return which regulator and which target each row of a batch is, -1 for none."""
        device, genes = read.batch.genes.device, read.batch.genes.long()
        return self._row.to(device)[genes], self._column.to(device)[genes]

    def add(self, rows: Tensor, columns: Tensor, values: Tensor, *, cells: int = 1) -> None:
        """Add values of pairs, each of one cell, or of a cell that was counted before."""
        at = (rows * self._shape[1] + columns).cpu()
        self._sums.index_add_(0, at, values.detach().double().cpu())
        self._cells.index_add_(0, at, torch.full_like(at, cells, dtype=torch.int32))

    def scores(self) -> tuple[Floats, Signs]:
        """Return size and sign of the mean; NaN for a pair of no cell."""
        return split_sign((self._sums / self._cells).float().view(self._shape).numpy())
