"""Denoising: the counts a cell would be expected to have, at its own depth or any multiple, each with its variance.

Expressed genes of the context are read off the genes; genes of which the cell has no molecule are decoded from its cell
tokens, as imputation.py does with genes that were not measured. How much the latter have together, a softmax over some
genes cannot say: the cell's genes of one molecule do (Good 1953). All are shares of the cell's whole depth. What a cell
gets depends on it, on its dataset's genes and on the model: not on other cells, nor on which genes are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from .errors import ModelInputError
from .gene_panels import Panels, find_columns, hashed_order, named, split_genes
from .heads import ExpressionValues
from .inference import InferenceOptions, read_cells
from .ragged import make_ragged

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .config import ModelConfig
    from .inference import ReadCells
    from .ragged import Ragged

    Numbers = npt.NDArray[np.int64]

Result = TypeVar("Result", bound="Denoised")
PIECE = 512
"""Genes that are decoded together, at most."""
MOST = 2**28
"""Values of a result in one piece, 1 GiB; larger ones are taken block by block."""


@dataclass(frozen=True, eq=False)
class Denoised:
    """Counts that cells would be expected to have; NaN where a cell's dataset did not measure the gene."""

    numbers: npt.NDArray[np.int64]
    """Which cells, [cells]."""
    genes: tuple[str, ...]
    """Feature ids of the columns."""
    expected: npt.NDArray[np.float32]
    """Expected counts, [cells, genes]."""
    variance: npt.NDArray[np.float32] | None
    """Their variance under the model's distribution, [cells, genes]; None for a model that was trained without one."""
    depth: npt.NDArray[np.float64]
    """Counts asked for, [cells]: what `expected` adds up to over all measured genes."""

    @property
    def shares(self) -> npt.NDArray[np.float32]:
        """Return `expected` as shares of the cell's depth, [cells, genes]; 0 for a cell without counts."""
        return (self.expected / np.maximum(self.depth, np.finfo(np.float32).tiny)[:, None]).astype(np.float32)


def denoise_blocks(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    genes: Sequence[str] | None = None,
    depth: float = 1.0,
    told: Literal["genes", "cell"] = "genes",
    options: InferenceOptions | None = None,
) -> Generator[Denoised, None, None]:
    """Return denoised cells in order, block by block: memory is that of one batch, however many cells there are.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n], of one organism; None for all.
    genes
        Feature ids, each once, in any order; None for all that any of the cells' datasets measured.
    depth
        Counts asked for, in multiples of each cell's own. At 1 the molecules that were seen weigh most; a model that
        was trained to undo the loss of a share s of them has learnt up to 1 / (1 - s), 5 in the default recipe.
    told
        What expressed genes are told from: off themselves (`genes`), or from the cell tokens and their own counts
        (`cell`), which takes a model that was trained with a distribution.
    options
        What is shown of each cell; None for the defaults.

    Raises
    ------
    ModelInputError
        At once: when a gene is unknown, named twice or measured by none of the datasets, the depth is not above 0,
        the cells are of several organisms, or `read_cells` refuses them.

    Notes
    -----
    Where the context holds all measured genes, shares are as read off them. Otherwise a cell of N molecules, n1 of
    which are the only one of their gene, has (n1 + 1) / (N + 2) of its next molecules in genes of which it has none
    (Good and Turing's estimate, doi:10.1093/biomet/40.3-4.237, one pseudocount on each side); counts of reads have few
    ones, and give such genes little. These are decoded in fixed pieces of at most 512 genes, as they attend to each
    other: a hash of the ids of all that the dataset measured says which genes share a piece, whose genes without
    molecules have together what they have on average in training cells, beside those of other pieces. Expressed
    genes have the rest: those of the context what is read off them, those that the context has no room for the counts
    they have.

    With `cell` all measured genes are decoded, and what is decoded of an expressed gene is the gamma prior of its rate,
    which its own count updates (`posterior`); the context is then only what the cell tokens are read from.

    A gene's share may depend on `depth`, as deeper cells look different beyond their scale; totals are proportional.
    """
    options = options or InferenceOptions()
    if not (math.isfinite(depth) and depth > 0):
        raise ModelInputError("depth", depth, "a multiple above 0")
    if told not in ("genes", "cell") or (told == "cell" and model.config.losses.expression == "mse"):
        raise ModelInputError("told", told, "genes, or cell for a model that was trained with a distribution")
    batches = read_cells(model, cells, numbers, options)
    panels = Panels(model.vocabulary, cells, numbers)
    asked = panels.measured_ids() if genes is None else genes
    columns = find_columns(model.vocabulary, panels.organism, asked)
    here = {dataset: panels.measured(dataset) for dataset in panels.datasets}
    anywhere = np.logical_or.reduce(list(here.values()))
    if nowhere := [asked[column] for column in columns[~anywhere & (columns >= 0)]]:
        raise ModelInputError("genes", named(nowhere), "genes that these cells' datasets measured; impute others")
    order = hashed_order(model.vocabulary, panels.organism)
    pieces = {dataset: split_genes(order[mine[order]], PIECE) for dataset, mine in here.items()}
    plan = Plan(tuple(asked), columns, panels, depth, here, told)
    return (_denoised(model, read, plan, pieces) for read in batches)


def denoise(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    genes: Sequence[str] | None = None,
    depth: float = 1.0,
    told: Literal["genes", "cell"] = "genes",
    options: InferenceOptions | None = None,
) -> Denoised:
    """Return some cells denoised, in one piece; parameters, errors and notes are those of `denoise_blocks`.

    Raises
    ------
    ModelInputError
        Also when the result would have more than 2^28 values.
    """
    n = len(cells) if numbers is None else len(numbers)
    return in_one_piece(denoise_blocks(model, cells, numbers, genes=genes, depth=depth, told=told, options=options), n)


def in_one_piece(blocks: Generator[Result, None, None], n_cells: int) -> Result:
    """Return the blocks of so many cells as one."""
    first = next(blocks)
    if n_cells * len(first.genes) > MOST:
        blocks.close()
        most = f"at most {MOST // len(first.genes)} of {len(first.genes)} genes; take larger results block by block"
        raise ModelInputError("numbers", f"{n_cells} cells", most)
    parts = [first, *blocks]
    numbers, expected, depth = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("numbers", "expected", "depth")
    )
    variance = None if first.variance is None else np.concatenate([part.variance for part in parts])
    return type(first)(numbers, first.genes, expected, variance, depth)


def counts_of(config: ModelConfig, values: ExpressionValues) -> Tensor:
    """Return the counts that a model expects, float64 [rows]: other losses leave zero inflation untrained."""
    return (values.expected if config.losses.expression.startswith("zinb") else values.mean).double()


def variance_of(config: ModelConfig, expected: Tensor, theta: Tensor, zero_logit: Tensor) -> Tensor | None:
    """Return the variance of counts of these expectations, [rows]; None for a model without a distribution.

    Negative binomial: m + m^2 / theta. Zero-inflated with probability p, and expectation m = (1 - p) mu:
    m + m^2 (1 / theta + p) / (1 - p).
    """
    if config.losses.expression == "mse":
        return None
    over = 1 / theta.double()
    if config.losses.expression.startswith("zinb"):
        zero = zero_logit.double()
        over = (over + torch.sigmoid(zero)) / torch.sigmoid(-zero).clamp(min=1e-30)
    return expected + expected.square() * over


@dataclass(frozen=True, eq=False)
class Plan:
    """What is asked for."""

    genes: tuple[str, ...]
    """Feature ids."""
    columns: npt.NDArray[np.int64]
    """Place of each token among them, -1 for those that are not asked for."""
    panels: Panels
    """What was measured."""
    times: float
    """Depth, in multiples of the cells' own."""
    measured: dict[int, npt.NDArray[np.bool_]]
    """Which tokens each dataset measured."""
    told: str = "genes"
    """What expressed genes are told from."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What a batch's own counts and contexts say."""

    share: Tensor
    """Of the depth, as read off the genes, float64 [rows]; 0 for a gene without molecules of a partial context."""
    values: ExpressionValues
    """What it was made of."""
    counts: Tensor
    """Molecules of each token, float32 [cells, tokens]."""
    each: Tensor
    """Share of each molecule, as far as it is not read off the genes, float64 [cells]."""
    rest: Tensor
    """Share of each token that is measured and without molecules, by gene means, float64 [cells, tokens]; else 0."""
    whole: Tensor
    """Bool [cells]: the context holds all measured genes."""


def look(model: TrainedModel, read: ReadCells, plan: Plan) -> Shown:
    """Return what is read off the genes of a batch, scaled to the whole cells."""
    batch, rows = read.batch, read.rows
    counts = plan.panels.counts(read.numbers).to(batch.depth.device)
    total, expressed = counts.sum(1, dtype=torch.float64), (counts > 0).sum(1)
    there = torch.from_numpy(np.stack([plan.measured[one] for one in batch.dataset.tolist()])).to(counts.device)
    measured = there.sum(1)
    unseen = ((counts == 1).sum(1) + 1) / (total + 2) * (measured > expressed)
    unseen = torch.where(expressed == 0, 1.0, unseen)
    rest = there * (counts == 0) * gene_shares(model).to(counts.device)
    whole = rows.offsets.diff() == measured
    each = (1 - unseen) / total.clamp(min=1)
    values = model.network.express(read.encoded, rows, batch.depth * plan.times, torch.ones_like(batch.depth))
    share = counts_of(model.config, values) * ((batch.counts > 0) | rows.spread(whole))
    level = torch.where(whole, 1.0, rows.sum(batch.counts.double()) * each) / rows.sum(share).clamp(min=1e-300)
    rest = rest * (unseen / rest.sum(1).clamp(min=1e-300))[:, None]
    return Shown(share * rows.spread(level), values, counts, each, rest, whole)


def gene_shares(model: TrainedModel) -> Tensor:
    """Return how much of each gene a cell has that nothing is known of, of any scale, float64 [tokens]."""
    path = model.network.linear
    return torch.ones(len(model.table), dtype=torch.float64) if path is None else path.share.detach().double().exp()


def _denoised(
    model: TrainedModel, read: ReadCells, plan: Plan, pieces: dict[int, list[npt.NDArray[np.int64]]]
) -> Denoised:
    """Return one batch denoised."""
    batch, rows, device = read.batch, read.rows, read.batch.depth.device
    columns, datasets = torch.from_numpy(plan.columns).to(device), batch.dataset.tolist()
    asked = batch.depth.double() * plan.times
    out = Table(model.config, len(rows), len(plan.genes), device)
    with torch.no_grad():
        shown = look(model, read, plan)
        others = (columns >= 0).repeat(len(rows), 1)
        if plan.told == "genes":
            off = (batch.counts > 0) | rows.spread(shown.whole)
            others[rows.owners[off], batch.genes.long()[off]] = False
            others &= ~shown.whole[:, None]
            column = torch.where(off, columns[batch.genes.long()], -1)
            out.put(column >= 0, rows.owners, column, shown.share * rows.spread(asked), shown.values)
        for dataset in sorted(set(datasets)):
            mine = torch.tensor([at for at, one in enumerate(datasets) if one == dataset], device=device)
            for piece in pieces[dataset]:
                tokens = torch.from_numpy(piece).to(device)
                wanted = others[mine][:, tokens].flatten()
                if not bool(wanted.any()):
                    continue
                borders = make_ragged([len(piece)] * len(mine), device)
                values = model.network.generate(
                    read.encoded.compressed.restored[mine], tokens.int().repeat(len(mine)), borders,
                    batch.depth[mine] * plan.times, torch.ones_like(batch.depth[mine]),
                )  # fmt: skip
                own = shown.counts[mine][:, tokens].double().flatten()
                made = counts_of(model.config, values)
                with_own = own
                if plan.told == "cell":
                    with_own, values = posterior(own, made, values, borders)
                level = shown.rest[mine][:, tokens].sum(1) / borders.sum(made * (own == 0)).clamp(min=1e-300)
                share = torch.where(own > 0, with_own * borders.spread(shown.each[mine]), made * borders.spread(level))
                where = mine[borders.owners], columns[tokens].repeat(len(mine))
                out.put(wanted, *where, share * borders.spread(asked[mine]), values)
    return Denoised(read.numbers, plan.genes, *out.arrays(), asked.cpu().numpy())


def posterior(own: Tensor, made: Tensor, values: ExpressionValues, borders: Ragged) -> tuple[Tensor, ExpressionValues]:
    """Return the counts of expressed genes after what decoding says of them, and the values that go with these.

    Decoding is a gamma prior of a gene's rate, of mean mu and shape theta; a count of x makes that (x + theta) mu /
    (mu + theta), of shape x + theta. Expressed genes keep their molecules together, before and after.

    Parameters
    ----------
    own, made
        Counts, and what is decoded, of any scale in each cell, float64 [rows].
    values
        What it was made of.
    borders
        Borders of the cells.
    """
    there, total = own > 0, borders.sum(own)
    mean = made * there * borders.spread(total / borders.sum(made * there).clamp(min=1e-300))
    theta = values.theta.double()
    after = (own + theta) * mean / (mean + theta)
    after = after * borders.spread(total / borders.sum(after).clamp(min=1e-300))
    return after, ExpressionValues(values.mean, own + theta, torch.full_like(values.zero_logit, -torch.inf))


class Table:
    """Expected counts and variances of a batch by cell and asked gene, NaN where nothing was put."""

    def __init__(self, config: ModelConfig, n_cells: int, n_genes: int, device: torch.device) -> None:
        self._config = config
        self._expected = torch.full((n_cells, n_genes), torch.nan, device=device)
        self._variance = None if config.losses.expression == "mse" else self._expected.clone()

    def put(self, wanted: Tensor, cells: Tensor, columns: Tensor, expected: Tensor, values: ExpressionValues) -> None:
        """Take the rows that are wanted, bool [rows], to their cells and columns, int64 [rows]."""
        at = cells[wanted], columns[wanted]
        self._expected[at] = expected[wanted].float()
        if self._variance is not None:
            variance = variance_of(self._config, expected, values.theta, values.zero_logit)
            self._variance[at] = variance[wanted].float()

    def arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Return both."""
        return self._expected.cpu().numpy(), None if self._variance is None else self._variance.cpu().numpy()
