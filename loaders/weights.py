"""How often each group of cells is drawn: integers in, one weight per group out.

A group is a joint label, such as (T cell, lung, normal, ...). Its n cells get the weight `s*n / (n + s)`: proportional
for rare groups, level above s (scPRINT-2's sampler, docs/loaders.md). A group with a coarse or unknown label is not a
class of its own: its cells are drawn as often as those of the groups it may belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import LoaderInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Weighting:
    """How group sizes become weights."""

    scale: float = 500.0
    """s in s*n/(n+s), in cells: groups beyond it stop gaining. Smaller is more level."""
    alpha: float = 1.0
    """Exponent on the weights: 1 leaves them, 0 gives every group the same."""
    max_share: float = 1.0
    """Largest share of the draws any one group gets; what is cut goes to the others."""
    max_repeats: float = np.inf
    """Most draws per cell of a group and epoch, so that tiny groups are not learned by heart."""
    curriculum_epochs: int = 0
    """Epochs over which the exponent rises from `curriculum_start` to 1; 0 for none."""
    curriculum_start: float = 0.4
    """Exponent of the first epoch of a curriculum, above 0."""

    def __post_init__(self) -> None:
        """Refuse what no distribution follows from, and make equal numbers alike: a stream's fingerprint has them."""
        for name in ("scale", "alpha", "max_share", "max_repeats", "curriculum_start"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "curriculum_epochs", int(self.curriculum_epochs))
        rules = (
            ("scale", self.scale > 0, "above 0"),
            ("alpha", 0 <= self.alpha <= 1, "0 to 1"),
            ("max_share", 0 < self.max_share <= 1, "above 0, at most 1"),
            ("max_repeats", self.max_repeats > 0, "above 0"),
            ("curriculum_epochs", self.curriculum_epochs >= 0, "0 or more"),
            ("curriculum_start", 0 < self.curriculum_start <= 1, "above 0, at most 1"),
        )
        for name, sound, allowed in rules:
            if not sound:
                raise LoaderInputError(name, getattr(self, name), allowed)

    def exponent(self, epoch: int) -> float:
        """Return the curriculum's exponent in an epoch, from 0: a straight line up to 1."""
        if epoch >= self.curriculum_epochs:
            return 1.0
        return self.curriculum_start + (1 - self.curriculum_start) * epoch / self.curriculum_epochs


def group_weights(
    counts: npt.ArrayLike,
    weighting: Weighting,
    *,
    epoch: int = 0,
    draws: int | None = None,
    specific: npt.NDArray[np.bool_] | None = None,
    compatible: Sequence[Codes] | None = None,
    confidence: Floats | None = None,
) -> Floats:
    """Return the share of draws of each group; they sum to 1.

    Parameters
    ----------
    counts
        Cells per group, 0 for a group that must not be drawn.
    weighting
        The rule.
    epoch
        Epoch from 0, for the curriculum.
    draws
        Draws per epoch, for `max_repeats`; None leaves repeats free.
    specific
        Bool per group: all its labels are leaves. None means all are.
    compatible
        Per group that is not specific, in order, the specific groups it may belong to; see `compatible_groups`.
    confidence
        Factor per group in (0, 1]: labels given to whole studies count less than labels of cells.

    Raises
    ------
    LoaderInputError
        When no group has cells, or arrays differ in length.
    """
    sizes = np.asarray(counts, dtype=np.float64)
    if sizes.ndim != 1 or (sizes < 0).any() or not sizes.any():
        raise LoaderInputError("counts", f"{sizes.size} groups", "cells per group, one of them above 0")
    if confidence is not None and confidence.shape != sizes.shape:
        raise LoaderInputError("confidence", confidence.shape, f"one factor for each of {len(sizes)} groups")
    weights = weighting.scale * sizes / (sizes + weighting.scale)
    if confidence is not None:
        weights = weights * confidence
    weights = np.where(sizes > 0, weights ** (weighting.alpha * weighting.exponent(epoch)), 0.0)
    if specific is not None and not specific.all():
        trust = np.ones_like(sizes) if confidence is None else confidence
        weights = _soften(sizes, weights, specific, compatible or (), trust)
    return _cap(weights / weights.sum(), sizes, weighting, draws)


def _soften(
    sizes: Floats,
    weights: Floats,
    specific: npt.NDArray[np.bool_],
    compatible: Sequence[Codes],
    confidence: Floats,
) -> Floats:
    """Give each cell of a coarse group the mean rate of the cells it may be one of, times its own confidence.

    A cell that may be none of the specific ones gets the rate of all of them.
    """
    out = weights.copy()
    known = specific & (sizes > 0)
    overall = weights[known].sum() / sizes[known].sum() if known.any() else 0.0
    for group, members in zip(np.flatnonzero(~specific), compatible, strict=True):
        cells = sizes[members].sum()
        rate = weights[members].sum() / cells if cells else overall
        out[group] = sizes[group] * rate * confidence[group] if rate else weights[group]
    return out


def _cap(shares: Floats, sizes: Floats, weighting: Weighting, draws: int | None) -> Floats:
    """Cut what exceeds a group's cap and hand it to the groups below theirs, in proportion, until nothing exceeds."""
    caps = np.full(len(shares), weighting.max_share)
    if draws and np.isfinite(weighting.max_repeats):
        caps = np.minimum(caps, sizes * weighting.max_repeats / draws)
    caps[sizes == 0] = 0.0
    if caps.sum() <= 1:  # not enough room: every group at its cap, in proportion
        return caps / caps.sum()
    out, fixed = shares.copy(), np.zeros(len(shares), dtype=bool)
    while (over := (out > caps * (1 + 1e-12)) & ~fixed).any():
        fixed |= over
        out[fixed] = caps[fixed]
        free = shares * ~fixed
        out[~fixed] = (free / free.sum() * (1 - caps[fixed].sum()))[~fixed]
    return out


def compatible_groups(
    codes: Codes, specific: Sequence[npt.NDArray[np.bool_]], below: Sequence[npt.NDArray[np.bool_]]
) -> list[Codes]:
    """Return, for each group with a coarse or unknown label, the fully specific groups its cells may belong to.

    Parameters
    ----------
    codes
        int64 [groups, labels]: code of each label of each group.
    specific
        Per label, bool [codes]: the code is a leaf among those in use.
    below
        Per label, bool [codes, codes]: the second is the first or one of its descendants; a row of True for unknown.

    Returns
    -------
    list
        One array of group numbers per group that is not specific, in their order.
    """
    sharp = np.stack([leaf[codes[:, i]] for i, leaf in enumerate(specific)], axis=1)
    whole = sharp.all(axis=1)
    leaves = np.flatnonzero(whole)
    coarse = np.flatnonzero(~whole)
    patterns = sharp @ (1 << np.arange(sharp.shape[1]))
    found: dict[int, Codes] = {}
    # Groups that are sharp in the same labels share one lookup by those labels; the others are then compared.
    for pattern in np.unique(patterns[coarse]):
        members = coarse[patterns[coarse] == pattern]
        fixed = [i for i in range(sharp.shape[1]) if pattern >> i & 1]
        loose = [i for i in range(sharp.shape[1]) if not pattern >> i & 1]
        rows = np.unique(codes[np.concatenate([leaves, members])][:, fixed], axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(rows[: len(leaves)], kind="stable")
        ordered = rows[: len(leaves)][order]
        for group, row in zip(members, rows[len(leaves) :], strict=True):
            start, end = np.searchsorted(ordered, [row, row + 1])
            candidates = leaves[order[start:end]]
            for i in loose:
                candidates = candidates[below[i][codes[group, i], codes[candidates, i]]]
            found[int(group)] = candidates
    return [found[int(group)] for group in coarse]
