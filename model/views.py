"""What a task shows of a batch: a `View` is the batch as measured, thinned, or with part of it hidden.

Thinning is binomial: each molecule is kept with probability 1 - share, independently, in the cell and in its
neighbours alike (scPRINT subtracts Poisson draws per count, which is no thinning, and leaves neighbours whole). Masking
hides genes, in the neighbours too. Draws come from a generator that is seeded by the step, so that a resumed run draws
what an uninterrupted one would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import ModelInputError

if TYPE_CHECKING:
    from .ragged import Ragged

SPARED = 0.05
"""Weight of a transcription factor among the genes that `tf` masking draws from; others weigh 1."""


@dataclass(frozen=True, eq=False)
class View:
    """What the network is shown."""

    genes: Tensor
    """Tokens, int [rows]."""
    counts: Tensor
    """[rows]."""
    rows: Ragged
    """Borders of the cells."""
    depth: Tensor
    """Counts of the cell as shown, all genes, [cells]."""
    hidden: Tensor | None = None
    """Bool [rows]: not shown. None hides nothing."""
    neighbour_counts: Tensor | None = None
    """[slots, rows]."""
    neighbour_distances: Tensor | None = None
    """[cells, slots], infinite where a slot is empty."""
    around_hidden: bool = True
    """Neighbours are shown where the cell's own count is not."""


def seeded(seed: int, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose draws depend on these numbers alone, such as (seed; epoch, step, rank)."""
    mixed = seed
    for number in numbers:  # a polynomial in an odd 61-bit constant, modulo 2^63
        mixed = (mixed * 0x1B873593CC9E2D51 + number + 1) % 2**63
    return torch.Generator(device).manual_seed(mixed)


def thin(view: View, share: Tensor, generator: torch.Generator) -> View:
    """Return a view of the same cells at lower depth.

    Parameters
    ----------
    view
        Whole counts.
    share
        Of molecules lost per cell, 0 to 1, [cells]; neighbours of a cell lose the same share.
    generator
        Of the draws, on the view's device.

    Raises
    ------
    ModelInputError
        When a share is outside 0 to 1.
    """
    # On a GPU looking at the values would wait for it, in every step.
    if share.device.type == "cpu" and not bool(((share >= 0) & (share <= 1)).all()):
        raise ModelInputError("share", [float(share.min()), float(share.max())], "0 to 1")
    kept = view.rows.spread(1 - share).to(view.counts.dtype)
    counts = torch.binomial(view.counts, kept, generator=generator)
    around = view.neighbour_counts
    if around is not None:
        around = torch.binomial(around, kept.expand_as(around).contiguous(), generator=generator)
    # Genes outside the context lose their molecules as well: in expectation, which is all that depth says of them.
    inside = view.rows.sum(view.counts)
    depth = view.rows.sum(counts) + (view.depth - inside).clamp(min=0) * (1 - share)
    return View(view.genes, counts, view.rows, depth, view.hidden, around, view.neighbour_distances)


def random_shares(most: float, n_cells: int, generator: torch.Generator, *, random: bool = True) -> Tensor:
    """Return the share each cell loses: uniform from 0 to `most`, or `most` for all."""
    if not random:
        return torch.full((n_cells,), most, device=generator.device)
    return torch.rand(n_cells, generator=generator, device=generator.device) * most


def only_neighbours(view: View) -> View:
    """Return a view that shows nothing of the cells themselves: they are to be told from their neighbours."""
    everything = torch.ones_like(view.counts, dtype=torch.bool)
    return View(
        view.genes, view.counts, view.rows, view.depth, everything, view.neighbour_counts, view.neighbour_distances
    )


def mask(view: View, share: float, generator: torch.Generator, regulators: Tensor | None = None) -> View:
    """Return a view with genes hidden, a fixed share of each context, in the neighbours as in the cell.

    Parameters
    ----------
    view
        What is shown otherwise.
    share
        Of the context that is hidden, rounded down.
    generator
        Of the draws.
    regulators
        Bool per token of the vocabulary: transcription factors, which are mostly spared so that they can explain the
        others. None draws all genes alike.
    """
    weights = torch.ones_like(view.counts)
    if regulators is not None:
        weights = torch.where(regulators[view.genes.long()], SPARED, 1.0)
    # The smallest of -log(u) / w are a draw without replacement by weight (Efraimidis and Spirakis 2006).
    uniform = torch.rand(view.counts.shape, generator=generator, device=view.counts.device, dtype=torch.float64)
    keys = view.rows.pad(-uniform.clamp(min=1e-300).log() / weights, torch.inf)
    ranks = view.rows.unpad(keys.argsort(1).argsort(1))
    hidden = ranks < view.rows.spread((view.rows.offsets.diff() * share).long())
    around = view.neighbour_counts
    # Where a gene is hidden nothing is said of it: a neighbour's count of 0 would be a measured zero.
    return View(
        view.genes, view.counts, view.rows, view.depth, hidden,
        None if around is None else around.masked_fill(hidden, 0), view.neighbour_distances, around_hidden=False,
    )  # fmt: skip
