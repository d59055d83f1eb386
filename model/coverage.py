"""Whether a calibration holds: `measured_coverage` puts what it promises beside what other donors got, plainly.

A promise rests on new donors being like those it was made of. Donors that had no part in it show whether that is so
here; datasets left out of it show how far it carries to a study that nobody has seen. Everything follows from the
books of a calibration (donor_counts.py), without a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .calibration import GRID
from .donor_counts import DonorCounts, donor_interval, judged, lowest_threshold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .annotation import Threshold
    from .calibration import Calibration


@dataclass(frozen=True)
class LabelCoverage:
    """What a label's threshold promised, and what came of it on donors that had no part in it."""

    risk: float
    """Share of the cells that may be told a wrong term."""
    threshold: Threshold
    """From which probability on a term was said."""
    donors: int
    """Donors it was tested on."""
    cells: int
    """Their cells with a class."""
    wrong: float | None
    """Share of a donor's cells that were told a wrong term, mean over donors; None without such donors."""
    interval: tuple[float, float]
    """Where 95% of that mean lie when donors are drawn anew."""
    told: float | None
    """Share of a donor's cells that were told any term, mean over donors."""
    new_datasets: Mapping[str, float]
    """Share wrong of the donors of a dataset, with a threshold made of all donors of the other datasets; those without
    such a threshold are left out."""
    plainly: tuple[str, ...]
    """What holds and what does not, in sentences."""

    @property
    def coverage(self) -> float | None:
        """Return the share of the cells that were told nothing wrong: their term, one above it, or nothing."""
        return None if self.wrong is None else 1.0 - self.wrong

    @property
    def holds(self) -> bool | None:
        """Return whether the donors leave room for the promise; None without donors that tell."""
        return None if self.wrong is None or self.donors < 2 else self.interval[0] <= self.risk


def measured_coverage(calibration: Calibration, risk: float) -> dict[str, LabelCoverage]:
    """Return by label what the thresholds of a risk promised, and what came of it.

    Parameters
    ----------
    calibration
        With donors that had no part in it; without them only the promise is there.
    risk
        Share of the cells that may be told a wrong term.

    Raises
    ------
    ModelInputError
        When the risk is not between 0 and 1.
    """
    return {label: _label(calibration, label, risk) for label in calibration.labels}


def _label(calibration: Calibration, label: str, risk: float) -> LabelCoverage:
    one, threshold = calibration.labels[label], calibration.threshold(label, risk)
    said = threshold.value in GRID
    wrong = told = None
    interval, tested = (0.0, 1.0), one.tested
    if tested is not None:
        place = GRID.index(threshold.value) if said else None
        shares = np.zeros(len(tested.donors)) if place is None else tested.shares()[:, place]
        wrong, interval = float(shares.mean()), donor_interval(shares)
        told = 0.0 if place is None else float(tested.shares("told")[:, place].mean())
    datasets = _new_datasets(one.calibrated.joined(tested), risk)
    found = LabelCoverage(
        risk, threshold, 0 if tested is None else len(tested.donors), 0 if tested is None else sum(tested.cells),
        wrong, interval, told, datasets, (),
    )  # fmt: skip
    words = (*_of_donors(found, said=said), *_of_datasets(found, one.calibrated, said=said))
    return replace(found, plainly=words)


def _new_datasets(counts: DonorCounts, risk: float) -> dict[str, float]:
    """Return the share wrong of each dataset's donors, with the threshold that all others give."""
    names, losses, found = np.array(counts.datasets), counts.shares(), {}
    for name in sorted(set(counts.datasets)):
        mine = names == name
        if mine.all():
            continue
        threshold = lowest_threshold(losses[~mine].mean(0), int((~mine).sum()), risk, GRID)
        if threshold is not None:
            found[name] = float(losses[mine, GRID.index(threshold)].mean())
    return found


def _of_donors(found: LabelCoverage, *, said: bool) -> tuple[str, ...]:
    if not said:
        return (found.threshold.promise,)
    if found.wrong is None:
        return ("promised, but not tested: there was no other donor",)
    many = f"{found.donors} donors that had no part in it" if found.donors > 1 else "one donor that had no part in it"
    low, high = found.interval
    seen = f"of {many}, {found.wrong:.3f} of the cells are told a wrong term (95%: {low:.3f} to {high:.3f}), "
    return (f"{seen}{found.risk:g} is promised: {judged(found.wrong, low, found.risk, found.donors)}",)


def _of_datasets(found: LabelCoverage, calibrated: DonorCounts, *, said: bool) -> tuple[str, ...]:
    if not said:
        return ()
    if len(set(calibrated.datasets)) == 1:
        return ("all donors are of one dataset: nothing shows that it holds for another study",)
    if not found.new_datasets:
        return ("too few donors remain without a dataset to see what happens to a study that has no donor in it",)
    worst = max(found.new_datasets, key=lambda name: (found.new_datasets[name], name))
    mean = float(np.mean(list(found.new_datasets.values())))
    seen = f"of studies that were left out of it, {mean:.3f} of the cells are told a wrong term on average, "
    seen += f"{found.new_datasets[worst]:.3f} in {worst}"
    if mean > found.risk:
        return (f"{seen}: it does not carry over to a study without a donor in it, so label some cells of it first",)
    return (seen,)
