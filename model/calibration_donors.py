"""Donors that a model has not seen, in two parts: one to calibrate it by, one to see whether the calibration holds.

New cells come of new donors, and cells of a donor are alike, so both parts are made of whole donors, drawn alike.
Whoever gave one cell that the model learnt from is no new donor, and is left out with all cells. calibration.py and
coverage.py take what comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loaders import SPLITS

from .errors import ModelInputError
from .ledger import ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]

HELD_OUT = ("validation", "test")
"""Splits whose donors a model was not trained on."""
MOST = 16_384
"""Cells of each part that are read, unless told otherwise."""
KNOWN = 2_048
"""Cells the model learnt from that stand for all of them, at most."""
BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class HeldOutDonors:
    """Cells of donors that a model was not trained on."""

    calibrating: Numbers
    """Cells to calibrate by, rising."""
    testing: Numbers
    """Cells of other donors, rising; none where there is one donor, or none was asked for."""
    known: Numbers
    """Cells that the model learnt from, evenly of its datasets, rising; none where the input has none of them."""
    source: str
    """Whose cells were asked for: names of splits, or `all`."""
    seen_donors: int
    """Donors that were left out, as the model was trained on cells of theirs."""
    seen_cells: int
    """Their cells."""


def held_out_donors(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    splits: Sequence[str] | None = HELD_OUT,
    testing: float = 0.5,
    most: int = MOST,
    seed: int = 0,
) -> HeldOutDonors:
    """Return the donors that a model has not seen, in two parts.

    Parameters
    ----------
    model
        The model; its ledger says what it was trained on.
    cells
        A pack, a store or an AnnData with donors. Cells without counts, and of organisms that the model does not know,
        are left out.
    numbers
        Which cells may be taken, int64 [n]; None for all.
    splits
        Whose cells; None for all cells.
    testing
        Share of the donors that test, rounded down, at least one of two or more; 0 for none.
    most
        Cells of either part at most. Of donors with more than their share some are drawn, so that many donors have a
        say rather than a few large ones.
    seed
        Of both draws.

    Raises
    ------
    ModelInputError
        When there is no such split, a number is not allowed, or no donor is left: the model was trained on all.
    """
    if wrong := [one for one in splits or () if one not in SPLITS]:
        raise ModelInputError("split", wrong[0], f"one of {', '.join(SPLITS)}")
    if not 0 <= testing < 1 or most < 1:
        raise ModelInputError("testing, most", (testing, most), "a share of the donors below 1, and 1 cell or more")
    source = "all" if splits is None else ", ".join(splits)
    usable = _usable(model, cells) if numbers is None else np.intersect1d(_usable(model, cells), numbers)
    roles = np.empty(len(usable), dtype=np.int64)
    for start in range(0, len(usable), BLOCK):
        hashes = (cells.codes(f"{name}_high", usable[start : start + BLOCK]) for name in ("count_hash", "cell_id"))
        roles[start : start + BLOCK] = model.ledger.roles_of(*hashes)
    asked = np.ones(len(usable), dtype=bool)
    if splits is not None:
        asked = np.isin(cells.codes("split", usable), [SPLITS.index(one) for one in splits])
    if not asked.any():
        raise ModelInputError("split", f"{source}, 0 cells", "cells with counts of the model's organisms")
    donors = cells.codes("donor", usable).astype(np.int64)
    seen = np.isin(donors, donors[roles > 0])  # role 0: the weights were chosen by them, not learnt
    if seen[asked].all():
        allowed = "cells of donors that the model was not trained on"
        raise ModelInputError("split", f"{source}, all of whose donors the model was trained on", allowed)
    names = np.array(cells.about["vocabulary"]["donor"], dtype=object)
    fresh = sorted(np.unique(donors[asked & ~seen]).tolist(), key=lambda code: names[code])
    rng = np.random.default_rng(seed)
    order = np.array(fresh)[rng.permutation(len(fresh))]
    tested = max(int(testing * len(fresh)), 1) if testing and len(fresh) > 1 else 0
    mine = usable[asked], donors[asked]
    parts = [_draw_evenly(*mine, some, most, rng) for some in (order[tested:], order[:tested])]
    learnt = usable[roles == ROLES.index("trained")]
    datasets = cells.codes("dataset", learnt).astype(np.int64)
    known = _draw_evenly(learnt, datasets, np.unique(datasets), KNOWN, rng)
    lost = asked & seen
    return HeldOutDonors(*parts, known, source, len(np.unique(donors[lost])), int(lost.sum()))


def _usable(model: TrainedModel, cells: Cells) -> Numbers:
    """Return the cells that the model can read."""
    names = [one["organism"] for one in cells.about["organisms"]]
    known = [code for code, name in enumerate(names) if name in model.vocabulary.organisms]
    return np.flatnonzero(np.isin(cells.column("organism"), known) & (cells.column("depth") > 0)).astype(np.int64)


def _draw_evenly(chosen: Numbers, groups: Numbers, wanted: Numbers, most: int, rng: np.random.Generator) -> Numbers:
    """Return at most so many cells of some groups, as evenly as these have them, in rising order."""
    members = [chosen[groups == one] for one in wanted]
    rising = np.sort([len(one) for one in members]).astype(np.int64)
    cap = int(rising.max(initial=0))
    if rising.sum() > most:  # the largest number of cells per group that keeps within the bound
        left = most - np.concatenate([[0], np.cumsum(rising)[:-1]])
        shares = left // np.arange(len(rising), 0, -1)
        cap = max(int(shares[np.argmax(rising > shares)]), 1)
    drawn = [rng.permutation(one)[:cap] for one in members]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *drawn]))[:most]
