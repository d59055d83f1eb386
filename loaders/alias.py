"""Draws from a fixed distribution over groups in constant time: Vose's alias table.

Source: M. D. Vose (1991), doi:10.1109/32.92917. torch's own weighted sampler stops at 2^24 categories; this one is
bounded by memory only (12 bytes a group). sampler.py builds one per epoch weighting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import LoaderInputError


@dataclass(frozen=True, eq=False)
class AliasTable:
    """A distribution over 0..n-1, ready to be drawn from."""

    keep: npt.NDArray[np.float64]
    """Per slot, the probability of answering with the slot itself."""
    other: npt.NDArray[np.int64]
    """Per slot, what is answered otherwise."""

    def draw(self, units: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return one group per number in [0, 1): its integer part times n picks the slot, the rest decides."""
        scaled = units * len(self.keep)
        slot = scaled.astype(np.int64)
        return np.where(scaled - slot < self.keep[slot], slot, self.other[slot])

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the distribution the table stands for; what tests compare with the weights."""
        found = np.bincount(self.other, weights=1 - self.keep, minlength=len(self.keep))
        return (found + self.keep) / len(self.keep)


def make_alias_table(weights: npt.ArrayLike) -> AliasTable:
    """Return the table of a distribution.

    Parameters
    ----------
    weights
        Not negative, finite, at least one above 0; they need not sum to 1.

    Raises
    ------
    LoaderInputError
        When they are not.
    """
    given = np.asarray(weights, dtype=np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise LoaderInputError("weights", f"{given.size} values", "finite numbers, none negative, one above 0")
    scaled = (given * (len(given) / given.sum())).tolist()
    keep, other = [1.0] * len(scaled), list(range(len(scaled)))
    small = [i for i, share in enumerate(scaled) if share < 1]
    large = [i for i, share in enumerate(scaled) if share >= 1]
    while small and large:
        low, high = small.pop(), large.pop()
        keep[low], other[low] = scaled[low], high
        scaled[high] += scaled[low] - 1
        (small if scaled[high] < 1 else large).append(high)
    # What is left differs from 1 by rounding only; a group of weight 0 must still never be drawn.
    heaviest = int(given.argmax())
    for i in small:
        if given[i] == 0:
            keep[i], other[i] = 0.0, heaviest
    return AliasTable(np.array(keep), np.array(other, dtype=np.int64))
