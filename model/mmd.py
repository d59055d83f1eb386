"""Maximum mean discrepancy: how far apart two clouds of points are, as a loss that gradients flow through.

`mmd2` compares two samples; `mmd_between` compares the batches of a set of cells with each other, within each kind of
cell, so that a batch of other composition is not pulled towards the rest. Estimates are unbiased: two samples of one
distribution have 0 on average, whatever their sizes, and so little to gain from being torn together. objective.py adds
it to the losses of a fine-tuning that is to integrate batches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .errors import ModelInputError

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the kernels, in mean squared distances of all points: near and far differences both count."""


def mmd2(first: Tensor, second: Tensor, scales: tuple[float, ...] = SCALES) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples, a scalar; below 0 where they are closer than chance.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over pairs of different points (Gretton et al. 2012, Journal
    of Machine Learning Research 13:723-773, Lemma 6, doi:10.5555/2188385.2188410). The kernel is the mean of
    exp(-|x - y|^2 / (s m)) over `scales` s (Li et al. 2015, arXiv:1502.02761), m being the mean squared distance of all
    different points of both. Gradients flow through m too, so shrinking an embedding gains nothing.

    Parameters
    ----------
    first, second
        [points, d]; two points each at least.
    scales
        Above 0.

    Raises
    ------
    ModelInputError
        When a sample has one point or none, widths differ, or a scale is not above 0.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ModelInputError("samples", shapes, "[points, d] of one d, two points each at least")
    groups = torch.arange(2, device=first.device).repeat_interleave(
        torch.tensor([len(first), len(second)], device=first.device)
    )
    return _pairwise(_kernel(torch.cat([first, second]), scales), groups, 2)[0][0, 1]


def mmd_between(x: Tensor, batches: Tensor, kinds: Tensor, scales: tuple[float, ...] = SCALES) -> Tensor:
    """Return the mean MMD^2 of pairs of batches, each pair within one kind of cell, a scalar; 0 where there is none.

    Cells without a kind are left out, unless no cell has one: then all are taken to be of one kind. A pair of m and n
    cells weighs m n / (m + n), the inverse of how its estimate spreads.

    Parameters
    ----------
    x
        Cells as points, [cells, d].
    batches
        Code of each cell's batch, int64 [cells]; -1 for a cell that takes no part.
    kinds
        Code of each cell's kind, int64 [cells]; -1 unknown.
    scales
        As of `mmd2`.

    Raises
    ------
    ModelInputError
        When codes are not one a cell, or a scale is not above 0.
    """
    if batches.shape != kinds.shape or batches.shape != x.shape[:1]:
        raise ModelInputError("batches, kinds", (tuple(batches.shape), tuple(kinds.shape)), f"({len(x)},) both")
    if not bool((kinds >= 0).any()):
        kinds = torch.zeros_like(kinds)
    taken = (kinds >= 0) & (batches >= 0)
    x, batches, kinds = x[taken], batches[taken], kinds[taken]
    if len(x) < 4:
        return x.sum() * 0.0
    whole, groups = torch.unique(torch.stack([kinds, batches], 1), dim=0, return_inverse=True)
    found, sizes = _pairwise(_kernel(x, scales), groups, len(whole))
    enough = sizes >= 2
    pairs = (whole[:, None, 0] == whole[None, :, 0]) & enough[:, None] & enough[None]
    pairs = pairs.triu(1)
    weights = pairs * (sizes[:, None] * sizes[None]) / (sizes[:, None] + sizes[None])
    return (found.masked_fill(~pairs, 0.0) * weights).sum() / weights.sum().clamp(min=1.0)


def _kernel(x: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Return the kernel of all pairs of points [n, n], 0 of a point with itself."""
    if not scales or min(scales) <= 0:
        raise ModelInputError("scales", scales, "numbers above 0")
    x = x if x.dtype == torch.float64 else x.float()
    # Differences, not |x|^2 + |y|^2 - 2xy: that loses the small distances, which the narrow kernels look at.
    apart = (x[:, None] - x[None]).square().sum(-1)
    mean = (apart.sum() / (len(x) * (len(x) - 1))).clamp(min=1e-12)
    kernel = torch.stack([torch.exp(-apart / (scale * mean)) for scale in scales]).mean(0)
    return kernel * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))


def _pairwise(kernel: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the MMD^2 of every two groups of points [groups, groups], and the groups' sizes.

    Where a group has one point its numbers mean nothing.
    """
    member = functional.one_hot(groups, count).to(kernel.dtype)
    sizes = member.sum(0)
    with torch.autocast(kernel.device.type, enabled=False):  # small differences of large sums
        sums = member.T @ kernel @ member
    own = sums.diagonal() / (sizes * (sizes - 1)).clamp(min=1.0)
    return own[:, None] + own[None] - 2 * sums / (sizes[:, None] * sizes[None]), sizes
