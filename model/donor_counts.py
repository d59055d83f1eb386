"""What goes wrong how often, donor by donor and threshold by threshold: the books that every calibration keeps.

Cells of a donor are alike and new cells come of new donors, so shares are each donor's and intervals draw donors anew.
`lowest_threshold` turns shares into a threshold under which the next donor's stays below a risk, by conformal risk
control (Angelopoulos et al. 2022, arXiv:2208.02814). calibration.py counts wrong terms, novelty.py false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Shares = npt.NDArray[np.float64]

DRAWS = 2_000
"""Times that donors are drawn anew."""
OUTSIDE = 0.05
"""Share of the draws that an interval leaves out, half of it on either side."""


@dataclass(frozen=True)
class DonorCounts:
    """Cells of each donor, and how many of them go wrong at each threshold of a grid."""

    donors: tuple[str, ...]
    """Their names."""
    datasets: tuple[str, ...]
    """The dataset each is of."""
    cells: tuple[int, ...]
    """Cells of each, at least one."""
    wrong: tuple[tuple[int, ...], ...]
    """How many of them go wrong, by donor, at each threshold."""
    told: tuple[tuple[int, ...], ...]
    """How many of them are told anything, by donor, at each threshold."""

    def shares(self, kind: str = "wrong") -> Shares:
        """Return the share of each donor's cells that go wrong, or are `told` anything, [donors, thresholds]."""
        counts = np.array(getattr(self, kind), dtype=np.float64).reshape(len(self.cells), -1)
        return counts / np.array(self.cells, dtype=np.float64)[:, None]

    def losses(self, unit: str = "donor") -> tuple[Shares, int]:
        """Return the mean share that goes wrong at each threshold, and over how many donors, or cells, it is."""
        if unit == "donor":
            return self.shares().mean(0), len(self.cells)
        return np.array(self.wrong, dtype=np.float64).sum(0) / sum(self.cells), sum(self.cells)

    def joined(self, other: DonorCounts | None) -> DonorCounts:
        """Return both together."""
        if other is None:
            return self
        return DonorCounts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @classmethod
    def from_json(cls, said: Any, thresholds: int) -> DonorCounts:
        """Return what JSON says; ValueError, TypeError or LookupError where it contradicts itself."""
        made = cls(
            tuple(map(str, said["donors"])), tuple(map(str, said["datasets"])), tuple(map(int, said["cells"])),
            *(tuple(tuple(map(int, row)) for row in said[name]) for name in ("wrong", "told")),
        )  # fmt: skip
        sizes = {len(getattr(made, name)) for name in cls.__dataclass_fields__}
        if len(sizes) > 1 or set(said) != set(cls.__dataclass_fields__):
            raise ValueError("donors, cells and counts do not fit each other")
        for cells, wrong, told in zip(made.cells, made.wrong, made.told, strict=True):
            if cells < 1 or len(wrong) != thresholds or len(told) != thresholds:
                raise ValueError("donors, cells and counts do not fit each other")
            if not all(0 <= a <= b <= cells for a, b in zip(wrong, told, strict=True)):
                raise ValueError("more goes wrong than there is")
        return made


class DonorCounter:
    """Counts cells by donor and threshold as they come.

    Parameters
    ----------
    donors, datasets
        Of each cell, names [cells].
    thresholds
        How many there are.
    """

    def __init__(self, donors: npt.NDArray, datasets: npt.NDArray, thresholds: int) -> None:
        names, first, self._places = np.unique(donors.astype(str), return_index=True, return_inverse=True)
        self._names = tuple(names.tolist())
        self._datasets = tuple(str(one) for one in datasets[first])
        self._cells = np.bincount(self._places, minlength=len(names))
        self._wrong, self._told = (np.zeros((len(names), thresholds), dtype=np.int64) for _ in range(2))

    def add(self, some: slice, wrong: npt.NDArray[np.bool_], told: npt.NDArray[np.bool_]) -> None:
        """Count cells that go wrong, and that are told anything, bool [some cells, thresholds]."""
        np.add.at(self._wrong, self._places[some], wrong)
        np.add.at(self._told, self._places[some], told)

    def counts(self) -> DonorCounts:
        """Return what was counted."""
        rows = (tuple(tuple(row) for row in table.tolist()) for table in (self._wrong, self._told))
        return DonorCounts(self._names, self._datasets, tuple(self._cells.tolist()), *rows)


def lowest_threshold(losses: Shares, units: int, risk: float, grid: Sequence[float]) -> float | None:
    """Return the lowest threshold whose loss is under control, or None.

    A loss at threshold t counts as the largest at t or above, so that it never rises. Then the lowest t with
    (n * loss + 1) / (n + 1) <= risk has an expected loss of at most `risk` for one more unit that is exchangeable
    with the n that were measured, each of a loss from 0 to 1.

    Parameters
    ----------
    losses
        Mean over the units at each threshold.
    units
        How many there are.
    risk
        Allowed loss.
    grid
        The thresholds, rising.
    """
    highest = np.maximum.accumulate(losses[::-1])[::-1]
    fit = np.flatnonzero((units * highest + 1) / (units + 1) <= risk)
    return float(grid[fit[0]]) if len(fit) else None


def donor_interval(shares: Shares, seed: int = 0) -> tuple[float, float]:
    """Return where the mean over donors may lie: 95% of the means when donors are drawn anew.

    A single donor says nothing, (0, 1). Donors that are all alike would give no width at all however few they are:
    their interval is that of Clopper and Pearson (1934, doi:10.1093/biomet/26.4.404) for as many yes-or-no answers.

    Parameters
    ----------
    shares
        Each donor's, 0 to 1, [donors].
    seed
        Of the draws.
    """
    n = len(shares)
    if n < 2:
        return 0.0, 1.0
    if np.ptp(shares) == 0:
        from scipy.stats import beta  # noqa: PLC0415

        hits = float(shares.sum())
        low = float(beta.ppf(OUTSIDE / 2, hits, n - hits + 1)) if hits > 0 else 0.0
        return low, float(beta.ppf(1 - OUTSIDE / 2, hits + 1, n - hits)) if hits < n else 1.0
    drawn = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    low, high = np.percentile(shares[drawn].mean(1), (100 * OUTSIDE / 2, 100 * (1 - OUTSIDE / 2)))
    return float(low), float(high)


def judged(mean: float, low: float, promised: float, donors: int) -> str:
    """Return in words whether a promise holds on donors that had no part in it, of their mean and its lowest bound."""
    if donors < 2:
        return "too few to tell whether that holds"
    if low > promised:
        return "it does not hold here: these donors are not like those it was made of, so rely on what they show"
    if mean > promised:
        return f"more than promised, which {donors} donors are too few to rule out or in"
    return "as promised"
