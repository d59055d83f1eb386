"""Cells of a kind that a model has not seen: how unlike the known ones a cell is, and how rarely a known one would be.

The score is a Mahalanobis distance in the joint embedding, from cells the model learnt from (Lee et al. 2018,
arXiv:1807.03888, without the classes): a new kind of cell puts codes together that do not go together. Of energy of the
label heads, distance to the nearest known cells and this, it told foreign cells best where we tried (docs/annotate.md).
A score has no meaning of its own, so held-out donors say how often a known cell is as far: a conformal p-value in which
each donor counts alike (Lee, Barber and Willett 2023, arXiv:2306.06342). Made by calibration.py, used by annotation.py.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .donor_counts import DonorCounter, DonorCounts, donor_interval, judged, lowest_threshold

if TYPE_CHECKING:
    import numpy.typing as npt

    Owners = tuple[npt.NDArray, npt.NDArray]
    """Names of the donors and of the datasets of some cells."""

LEAST_KNOWN = 32
"""Known cells below which there is no telling what is far from them."""
RIDGE = 1e-4
"""Added to the variances, in units of each code's own: codes that never moved apart may do so a little."""
LEVELS = np.unique(np.concatenate([np.linspace(0, 0.9, 91), np.linspace(0.9, 1, 401)]))
"""Shares of the calibrating cells below the scores at which false alarms are counted; denser where they are rare."""
MOST_DIMENSIONS = 4_096
"""Of an embedding that a file may ask for."""


@dataclass(frozen=True)
class NoveltyCalibration:
    """How far from known cells a cell is, and how often held-out donors' cells are as far."""

    known: int
    """Cells the model learnt from that distances are measured from."""
    dimensions: int
    """Of the embedding."""
    space: str
    """Their middle, and the axes along which they have a spread of 1: little-endian float32 [1 + dimensions,
    dimensions], base64."""
    thresholds: tuple[float, ...]
    """Distances at which cells were counted, rising."""
    calibrated: DonorCounts
    """How many cells of each donor are at least so far."""
    tested: DonorCounts | None
    """The same of donors that had no part in it."""

    def scores(self, embedding: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return how far cells are from the known ones, [cells], in spreads, of their embedding [cells, dimensions]."""
        middle, axes = _space(self.space, self.dimensions)
        return np.linalg.norm((embedding.astype(np.float64) - middle) @ axes, axis=1)

    def p_values(self, scores: npt.NDArray[np.float64], unit: str = "donor") -> npt.NDArray[np.float32]:
        """Return the share of known cells that would be as far, [cells]; small for cells of a new kind.

        With n donors it is (1 + sum over donors of the share of their cells as far) / (n + 1), never below 1 / (n + 1).
        Of the cells of one more donor like these, at most a share `a` has a p-value of at most `a`, on average. `unit`
        is as of `Calibration.threshold`.
        """
        losses, n = self.calibrated.losses(unit)
        places = np.searchsorted(self.thresholds, scores, side="right") - 1
        # A score between two thresholds has the share of the lower one: never too small.
        p = np.where(places < 0, 1.0, (n * losses[np.maximum(places, 0)] + 1) / (n + 1))
        return p.astype(np.float32)

    def told(self, rate: float, unit: str = "donor") -> dict[str, Any]:
        """Return what a rate of false alarms promises and what came of it on donors that had no part in it.

        Parameters
        ----------
        rate
            Share of known cells that may be called new, 0 to 1.
        unit
            As of `Calibration.threshold`.
        """
        losses, n = self.calibrated.losses(unit)
        threshold = lowest_threshold(losses, n, rate, self.thresholds)
        facts: dict[str, Any] = {
            "rate": rate, "threshold": threshold, "known_cells": self.known, "tested_donors": 0, "false_alarms": None,
            "interval": [0.0, 1.0],
        }  # fmt: skip
        if threshold is None:
            need = math.ceil(1 / rate - 1)
            why = f"takes {need} {unit}s, there are {n}" if n < need else f"is kept by no distance, on {n} {unit}s"
            return {**facts, "plainly": [f"no cell is called new: a rate of {rate:g} {why}"]}
        promise = f"at most {rate:g} of known cells called new, for {'new donors' if unit == 'donor' else 'more cells'}"
        if self.tested is None:
            return {**facts, "plainly": [f"{promise}, by {n} {unit}s; not tested: there was no other donor"]}
        shares = self.tested.shares()[:, self.thresholds.index(threshold)]
        low, high = donor_interval(shares)
        facts |= {"tested_donors": len(shares), "false_alarms": float(shares.mean()), "interval": [low, high]}
        seen = f"of {len(shares)} other donors {shares.mean():.3f} are (95%: {low:.3f} to {high:.3f})"
        words = judged(float(shares.mean()), low, rate, len(shares))
        return {**facts, "plainly": [f"{promise}, by {n} {unit}s; {seen}: {words}"]}

    @classmethod
    def from_json(cls, said: Any) -> NoveltyCalibration:
        """Return what JSON says; ValueError, TypeError or LookupError where it contradicts itself."""
        thresholds = tuple(map(float, said["thresholds"]))
        steps = np.diff(thresholds)  # of infinite ones NaN
        if not thresholds or not (steps > 0).all() or not all(map(math.isfinite, thresholds)):
            raise ValueError("thresholds of novelty do not rise")
        counts = (
            None if said[name] is None else DonorCounts.from_json(said[name], len(thresholds))
            for name in ("calibrated", "tested")
        )  # fmt: skip
        made = cls(int(said["known"]), int(said["dimensions"]), str(said["space"]), thresholds, *counts)
        if (
            not 0 < made.dimensions <= MOST_DIMENSIONS
            or made.calibrated is None
            or set(said) != set(cls.__annotations__)
        ):
            raise ValueError("a space of novelty that is none")
        if not all(np.isfinite(part).all() for part in _space(made.space, made.dimensions)):
            raise ValueError("a space of novelty that is not finite")
        return made


def calibrate_novelty(
    known: npt.NDArray[np.float32],
    here: npt.NDArray[np.float32],
    owners: Owners,
    there: npt.NDArray[np.float32] | None = None,
    others: Owners | None = None,
) -> NoveltyCalibration | None:
    """Return how far from known cells is far; None where there are too few known cells.

    Parameters
    ----------
    known
        Embedding of cells the model learnt from, [cells, dimensions].
    here, owners
        Embedding of the cells that calibrate, and whose they are.
    there, others
        The same of donors that test; None for none.
    """
    if len(known) < LEAST_KNOWN:
        return None
    space, dimensions = make_space(known), known.shape[1]
    empty = DonorCounts((), (), (), (), ())
    bare = NoveltyCalibration(len(known), dimensions, space, (0.0,), empty, None)
    scores = bare.scores(here)
    beyond = np.nextafter(scores.max(), np.inf)  # where none of them is
    thresholds = np.unique([*np.quantile(scores, LEVELS, method="higher"), beyond])
    tested = None if there is None or others is None else _count(bare.scores(there), others, thresholds)
    counts = _count(scores, owners, thresholds)
    return NoveltyCalibration(len(known), dimensions, space, tuple(thresholds.tolist()), counts, tested)


def make_space(known: npt.NDArray[np.float32]) -> str:
    """Return the middle of known cells and the axes along which they have a spread of 1, as `space` holds them."""
    values = known.astype(np.float64)
    middle, spread = values.mean(0), values.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = (values - middle) / spread
    covariance = scaled.T @ scaled / max(len(known) - 1, 1) + RIDGE * np.eye(known.shape[1])
    # Any root of the inverse will do: a distance is the same along all of them.
    axes = np.linalg.inv(np.linalg.cholesky(covariance)).T / spread[:, None]
    return base64.b64encode(np.vstack([middle, axes]).astype("<f4").tobytes()).decode()


@lru_cache(maxsize=4)
def _space(text: str, dimensions: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
    rows = values.reshape(dimensions + 1, dimensions)
    return rows[0], rows[1:]


def _count(scores: npt.NDArray[np.float64], owners: Owners, thresholds: npt.NDArray[np.float64]) -> DonorCounts:
    counter = DonorCounter(*owners, len(thresholds))
    for start in range(0, len(scores), 1 << 14):
        some = slice(start, min(start + (1 << 14), len(scores)))
        far = scores[some, None] >= thresholds
        counter.add(some, far, far)
    return counter.counts()
